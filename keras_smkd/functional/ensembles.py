"""Ensembles of the peers' logits, as one teacher for all of them.

Half precision is raised to float32. No gradient flows through an ensemble.
Where a peer's logits of an example are not all finite, the ensemble is that
of the other peers; it is not finite only where none is.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from keras_smkd import _checks
from keras_smkd.functional.distances import soft_cross_entropy
from keras_smkd.functional.probabilities import at_least_float32
from keras_smkd.functional.probabilities import log_probabilities

# Of the log barrier, in nats: small beside any cross entropy that matters
# after 20 halvings, large enough for logits of a hundred before.
_FIRST_BARRIER = 0.1
# Relative to the diagonal, a hundred roundings of float32: without one, the
# system of two equal peers is singular.
_RIDGE = 1e-5
# No weight loses more than this share of itself in a step. Few examples with
# large logits make kinks, over which a full step would jump for ever.
_LARGEST_LOSS = 0.9
_STEP_SIZES = 2.0 ** -np.arange(5)


def naive_ensemble(logits: Any, labels: Any) -> Any:
    """Return, per example, the logits of the peer that is closest to the label.

    `t = z_i` with the `i` of the smallest cross entropy `l(y, softmax(z_i))`;
    of several such, the first.

    Args:
        logits: `(batch, peers, classes)`.
        labels: `(batch, classes)`, rows sum to 1.

    Returns:
        `(batch, classes)`, no gradient.

    Raises:
        ValueError: if the shapes do not fit.

    Example:

    >>> naive_ensemble([[[1.0, 0.0], [3.0, 0.0]]], [[1.0, 0.0]])
    [[3.0, 0.0]]

    Reference:
        Guo et al., 2020, "Online Knowledge Distillation via Collaborative
        Learning", CVPR, KDCL-Naive.
    """
    logits, labels = _constants(logits, labels)
    losses = soft_cross_entropy(
        ops.expand_dims(labels, axis=1), log_probabilities(logits)
    )
    best = ops.argmin(ops.where(_is_finite(logits), losses, np.inf), axis=1)
    places = ops.arange(logits.shape[1], dtype=best.dtype)
    is_best = ops.expand_dims(best, axis=1) == places
    # `where`, not a product: 0 times NaN is NaN.
    chosen = ops.where(ops.expand_dims(is_best, axis=-1), logits, 0.0)
    return ops.sum(chosen, axis=1)


def min_logit_ensemble(logits: Any, labels: Any) -> Any:
    """Return, per example and class, the smallest logit above the label's.

    `t_k = min_i (z_ik - sum_c y_c z_ic)`: with a label of one class, each
    peer's logits count from the label's, so that the label's entry is 0 and
    no class is likelier than any peer has it, relative to the label. With a
    soft label they count from the logits' mean under it.

    Args:
        logits: `(batch, peers, classes)`.
        labels: `(batch, classes)`, rows sum to 1.

    Returns:
        `(batch, classes)`, no gradient.

    Raises:
        ValueError: if the shapes do not fit.

    Example:

    >>> min_logit_ensemble(
    ...     [[[1.0, 0.0, 3.0], [0.0, 2.0, 1.0]]], [[1.0, 0.0, 0.0]]
    ... )
    [[0.0, -1.0, 1.0]]

    Reference:
        Guo et al., 2020, "Online Knowledge Distillation via Collaborative
        Learning", CVPR, KDCL-MinLogit.
    """
    logits, labels = _constants(logits, labels)
    is_finite = _is_finite(logits)
    candidates = ops.where(
        ops.expand_dims(is_finite, axis=-1),
        _relative_to_label(logits, labels),
        np.inf,
    )
    is_known = ops.any(is_finite, axis=1, keepdims=True)
    return ops.where(is_known, ops.min(candidates, axis=1), np.nan)


def linear_weights(
    logits: Any, labels: Any, weights: Any = None, steps: int = 20
) -> Any:
    """Return the weights of the peers whose mean logits fit the labels best.

    `a = argmin sum_n u_n l(y_n, softmax(sum_i a_i z_ni)) / sum_n u_n`, subject
    to `a_i >= 0` and `sum_i a_i = 1`. The problem is convex. It is solved by
    Newton's method with a logarithmic barrier, which each step halves, from
    `a_i = 1 / peers`: within 1e-5 nats of the minimum after the default 20
    steps, in float32, for up to 8 peers and logits of a standard deviation of
    up to 20. Where several minima are equal, as with equal peers, or nothing
    counts, the weights are the most even ones, about. None is exactly 0.

    A step costs about as much as `peers` softmaxes over the batch for each
    peer.

    Args:
        logits: `(batch, peers, classes)`.
        labels: `(batch, classes)`, rows sum to 1.
        weights: `(batch,)`, `u >= 0`, how much each example counts; `None`
            for all alike.
        steps: Number of Newton steps, 0 or more.

    Returns:
        `(peers,)`, positive, sums to 1, no gradient.

    Raises:
        ValueError: if the shapes do not fit.

    Example:

    >>> logits = [[[2.0, 0.0], [-1.0, 0.0]], [[-1.0, 0.0], [2.0, 0.0]]]
    >>> linear_weights(logits, [[1.0, 0.0], [1.0, 0.0]])
    [0.5, 0.5]

    Reference:
        Guo et al., 2020, "Online Knowledge Distillation via Collaborative
        Learning", CVPR, KDCL-Linear. The method of solution is ours.
    """
    logits, labels = _constants(logits, labels)
    shares, counts = _shares(logits, weights)
    relative = ops.where(
        ops.reshape(counts, (-1, 1, 1)),
        _relative_to_label(_completed(logits), labels),
        0.0,
    )
    num_peers = logits.shape[1]
    sizes = ops.convert_to_tensor(_STEP_SIZES, dtype=logits.dtype)

    def improve(_: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        mixture, barrier = state
        mean = ops.sum(relative * mixture[:, None], axis=1)
        deviations = relative - mean[:, None]
        change = _newton_step(mixture, barrier, mean, deviations, shares)
        # Largest step that keeps every weight positive, then shorter ones.
        longest = _LARGEST_LOSS / ops.maximum(ops.max(-change), _LARGEST_LOSS)
        tried = longest * sizes
        direction = ops.sum((mixture * change)[:, None] * deviations, axis=1)
        losses = ops.logsumexp(
            mean[:, None] + tried[:, None] * direction[:, None], axis=-1
        )
        objective = ops.sum(shares[:, None] * losses, axis=0) - (
            barrier * ops.sum(ops.log1p(tried[:, None] * change), axis=1)
        )
        chosen = ops.take(tried, ops.argmin(objective))
        mixture = mixture * (1.0 + chosen * change)
        return mixture / ops.sum(mixture), 0.5 * barrier

    start = ops.full((num_peers,), 1.0 / num_peers, dtype=logits.dtype)
    barrier = ops.full((), _FIRST_BARRIER, dtype=logits.dtype)
    mixture, _ = ops.fori_loop(0, steps, improve, (start, barrier))
    return mixture


def _newton_step(
    mixture: Any, barrier: Any, mean: Any, deviations: Any, shares: Any
) -> Any:
    """Return the relative change `e` of the weights, `sum_i a_i e_i = 0`.

    It minimises the second order of the objective at `a_i (1 + e_i)`. Relative
    to the weights the barrier is the identity, so that weights near 0 do no
    harm, and deviations from the mixture keep their digits where peers agree.
    Sums of products instead of `matmul`, which rounds to 10 bits on some
    devices.
    """
    probs = ops.softmax(mean, axis=-1)[:, None]
    expected = ops.sum(probs * deviations, axis=-1)
    slope = mixture * ops.sum(shares[:, None] * expected, axis=0) - barrier
    centred = deviations - expected[..., None]
    weighted = centred * probs * shares[:, None, None]
    curvature = ops.stack(
        [
            ops.sum(weighted[:, i : i + 1] * centred, axis=(0, 2))
            for i in range(deviations.shape[1])
        ]
    )
    identity = ops.eye(deviations.shape[1], dtype=mixture.dtype)
    system = mixture[:, None] * curvature * mixture + barrier * identity
    scale = ops.rsqrt(ops.diagonal(system))
    system = system * scale[:, None] * scale + _RIDGE * identity
    sides = ops.stack([-slope * scale, mixture * scale], axis=1)
    solved = scale[:, None] * ops.solve(system, sides)
    free, along = solved[:, 0], solved[:, 1]
    return free - ops.sum(mixture * free) / ops.sum(mixture * along) * along


def weighted_logits(logits: Any, weights: Any) -> Any:
    """Return the weighted sum of the peers' logits.

    `t = sum_i w_i z_i`

    Args:
        logits: `(batch, peers, classes)`.
        weights: `(peers,)`, sums to 1; negative ones are allowed.

    Returns:
        `(batch, classes)`, no gradient.

    Raises:
        ValueError: if the shapes do not fit.

    Example:

    >>> weighted_logits([[[1.0, 0.0], [3.0, 0.0]]], [0.5, 0.5])
    [[2.0, 0.0]]
    """
    logits = ops.stop_gradient(at_least_float32(logits))
    weights = ops.cast(ops.convert_to_tensor(weights), logits.dtype)
    if len(logits.shape) != 3 or _checks.shapes_differ(
        weights.shape, logits.shape[1:2]
    ):
        raise ValueError(
            "`logits` must have shape (batch, peers, classes), and `weights` "
            f"shape (peers,). Received: logits.shape={tuple(logits.shape)}, "
            f"weights.shape={tuple(weights.shape)}."
        )
    return ops.sum(
        _completed(logits) * ops.stop_gradient(weights)[:, None], axis=1
    )


def error_correlation(
    probabilities: Any, labels: Any
) -> npt.NDArray[np.float64]:
    """Return the matrix of the peers' error correlations, in NumPy.

    `C_ij = 1/N * sum_n sum_c (p_nic - y_nc) (p_njc - y_nc)`, not centred: a
    bias is an error, too.

    Args:
        probabilities: `(peers, examples, classes)`, what each peer predicts of
            data that it was not trained on.
        labels: `(examples, classes)`, distributions.

    Returns:
        `(peers, peers)`, float64, symmetric, positive semidefinite.

    Raises:
        ValueError: if the shapes do not fit, there is no example, or a number
            is not finite.

    Example:

    >>> error_correlation([[[0.5, 0.5]], [[1.0, 0.0]]], [[1.0, 0.0]]).tolist()
    [[0.5, 0.0], [0.0, 0.0]]

    Reference:
        Guo et al., 2020, "Online Knowledge Distillation via Collaborative
        Learning", CVPR, KDCL-General.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.float64)
    if (
        probabilities.ndim != 3
        or probabilities.shape[1:] != labels.shape
        or not probabilities.size
    ):
        raise ValueError(
            "`probabilities` must have shape (peers, examples, classes), none "
            "of them 0, and `labels` shape (examples, classes). Received: "
            f"probabilities.shape={probabilities.shape}, "
            f"labels.shape={labels.shape}."
        )
    for i, peer in enumerate(probabilities):
        if not np.isfinite(peer).all():
            raise ValueError(
                "`probabilities` must be finite. Received: NaN or infinity "
                f"from peer {i}."
            )
    if not np.isfinite(labels).all():
        raise ValueError(
            "`labels` must be finite. Received: NaN or infinity among them."
        )
    errors = (probabilities - labels).reshape(len(probabilities), -1)
    return errors @ errors.T / labels.shape[0]


def general_weights(
    correlation: Any, ridge: float = 1e-6
) -> npt.NDArray[np.float64]:
    """Return the weights of least squared error of an ensemble, in NumPy.

    `w = C'^-1 1 / (1^T C'^-1 1)`, `C' = C + ridge * mean(diag C) * identity`:
    the minimum of `w^T C' w` over all weights that sum to 1. They may be
    negative. The paper has no ridge. With one, peers that err alike share
    their weight, where `C` is singular or nearly so, and no weight is larger
    than about `ridge^(-1/2)`. A perfect peer (`C_ii = 0`) gets all the weight;
    if all are perfect, they share it.

    Args:
        correlation: `(peers, peers)`, `C`, symmetric and positive
            semidefinite, as `error_correlation` gives it.
        ridge: Number >= 0. 0 is the paper's formula.

    Returns:
        `(peers,)`, float64, sums to 1.

    Raises:
        ValueError: if `correlation` is no finite, symmetric and positive
            semidefinite matrix; if it is singular and `ridge` is 0; or if
            `ridge` is negative or not finite.
        TypeError: if `ridge` is no number.

    Example:

    >>> general_weights([[1.0, 0.0], [0.0, 3.0]], ridge=0.0).round(3).tolist()
    [0.75, 0.25]

    Reference:
        Guo et al., 2020, "Online Knowledge Distillation via Collaborative
        Learning", CVPR, KDCL-General.
    """
    ridge = _checks.number("ridge", ridge, minimum=0.0)
    matrix = np.asarray(correlation, dtype=np.float64)
    if (
        matrix.ndim != 2
        or matrix.shape[0] != matrix.shape[1]
        or not len(matrix)
    ):
        raise ValueError(
            "`correlation` must have shape (peers, peers). Received: "
            f"correlation.shape={matrix.shape}."
        )
    if not np.isfinite(matrix).all():
        raise ValueError(
            "`correlation` must be finite. "
            f"Received: correlation={matrix.tolist()}."
        )
    size = float(np.trace(matrix)) / len(matrix)
    rounding = 1e-9 * abs(size)
    least = float(np.linalg.eigvalsh((matrix + matrix.T) / 2.0)[0])
    if np.abs(matrix - matrix.T).max() > rounding or least < -rounding:
        raise ValueError(
            "`correlation` must be symmetric and positive semidefinite. "
            f"Received: correlation={matrix.tolist()}."
        )
    if size == 0.0:
        return np.full(len(matrix), 1.0 / len(matrix))
    if ridge == 0.0 and least <= 1e-14 * size:
        raise ValueError(
            "`ridge` must be above 0 where `correlation` is singular. "
            f"Received: ridge={ridge}, correlation={matrix.tolist()}."
        )
    weights = np.linalg.solve(
        matrix / size + ridge * np.eye(len(matrix)), np.ones(len(matrix))
    )
    return weights / weights.sum()


def _constants(logits: Any, labels: Any) -> tuple[Any, Any]:
    logits = ops.stop_gradient(at_least_float32(logits))
    labels = ops.cast(ops.convert_to_tensor(labels), logits.dtype)
    shape = tuple(logits.shape)
    if len(shape) != 3 or _checks.shapes_differ(
        (shape[0], shape[2]), labels.shape
    ):
        raise ValueError(
            "`logits` must have shape (batch, peers, classes), and `labels` "
            f"shape (batch, classes). Received: logits.shape={shape}, "
            f"labels.shape={tuple(labels.shape)}."
        )
    return logits, ops.stop_gradient(labels)


def _is_finite(logits: Any) -> Any:
    return ops.all(ops.isfinite(logits), axis=-1)


def _completed(logits: Any) -> Any:
    """Return the logits, where they are not finite the other peers' mean.

    Whatever weight a peer has then falls to the others. NaN where no peer's
    are finite.
    """
    is_finite = ops.expand_dims(_is_finite(logits), axis=-1)
    known = ops.where(is_finite, logits, 0.0)
    count = ops.sum(ops.cast(is_finite, logits.dtype), axis=1, keepdims=True)
    others = ops.sum(known, axis=1, keepdims=True) / count
    return ops.where(is_finite, logits, others)


def _relative_to_label(logits: Any, labels: Any) -> Any:
    at_label = ops.sum(
        logits * ops.expand_dims(labels, axis=1), axis=-1, keepdims=True
    )
    return logits - at_label


def _shares(logits: Any, weights: Any) -> tuple[Any, Any]:
    """Return how much each example counts, in sum 1 or 0, and whether."""
    counts = ops.any(_is_finite(logits), axis=1)
    if weights is None:
        weights = ops.ones_like(logits[:, 0, 0])
    else:
        weights = ops.cast(ops.convert_to_tensor(weights), logits.dtype)
        if _checks.shapes_differ(logits.shape[:1], weights.shape):
            raise ValueError(
                "`weights` must have shape (batch,). Received: "
                f"weights.shape={tuple(weights.shape)}, "
                f"logits.shape={tuple(logits.shape)}."
            )
        counts = ops.logical_and(counts, weights > 0)
    weights = ops.where(counts, weights, 0.0)
    total = ops.sum(weights)
    return weights / ops.where(total > 0, total, 1.0), counts
