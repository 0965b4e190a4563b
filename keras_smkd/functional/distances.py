"""How far a prediction is from a label, or from knowledge."""

from typing import Any

from keras import ops

from keras_smkd import _checks
from keras_smkd.functional.probabilities import at_least_float32
from keras_smkd.functional.uncertainties import entropy


def soft_cross_entropy(targets: Any, log_probs: Any) -> Any:
    """Return the cross entropy of each prediction with a soft target.

    `l(q, p) = -sum_k q_k log p_k`

    Args:
        targets: `(..., classes)`, rows sum to 1.
        log_probs: `(..., classes)`, log-probabilities; `-inf` is allowed and
            counts as `0 log 0 = 0` where the target is 0.

    Returns:
        `(...)`, at least the entropy of the target; infinite where the target
        has what the prediction excludes.

    Example:

    >>> soft_cross_entropy([[0.5, 0.5]], log_probabilities([[0.0, 0.0]]))
    [0.6931472]
    """
    log_probs = at_least_float32(log_probs)
    targets = ops.cast(targets, log_probs.dtype)
    absent = ops.logical_and(targets == 0, ops.isinf(log_probs))
    return -ops.sum(targets * ops.where(absent, 0.0, log_probs), axis=-1)


def label_cross_entropy(labels: Any, log_probs: Any) -> Any:
    """Return each learner's cross entropy with the labels.

    `l(y, p_i) = -log p_i[y]`, or `-sum_k y_k log p_ik` of distributions.

    Args:
        labels: `(batch,)` class ids inside the classes, or distributions:
            `(batch, classes)`, or `(batch, learners, classes)` where each
            learner has its own.
        log_probs: `(batch, learners, classes)`, log-probabilities.

    Returns:
        `(batch, learners)`.

    Example:

    >>> label_cross_entropy([1], ops.log([[[0.5, 0.5], [0.25, 0.75]]]))
    [[0.6931472, 0.2876821]]
    """
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) == 1:
        places = ops.reshape(labels, (-1, 1, 1))
        chosen = ops.take_along_axis(log_probs, places, axis=-1)
        return -ops.squeeze(chosen, axis=-1)
    if len(labels.shape) == 2:
        labels = ops.expand_dims(labels, axis=1)
    return soft_cross_entropy(labels, log_probs)


def kl_divergence(log_probs: Any, other_log_probs: Any) -> Any:
    """Return the Kullback-Leibler divergence of each pair, in nats.

    `KL(p || q) = sum_k p_k (log p_k - log q_k)`, 0 if and only if `p = q`.

    Args:
        log_probs: `(..., classes)`, `log p`: the target, the knowledge.
            `-inf` is allowed and adds 0.
        other_log_probs: `(..., classes)`, `log q`: the learner.

    Returns:
        `(...)`, non-negative up to rounding; infinite where `p` has what `q`
        excludes.

    Example:

    >>> p, q = ops.log([[0.5, 0.5]]), ops.log([[0.25, 0.75]])
    >>> kl_divergence(p, q)
    [0.143841]
    """
    log_probs = at_least_float32(log_probs)
    other_log_probs = at_least_float32(other_log_probs)
    probs = ops.exp(log_probs)
    # As in `_p_log_p`: the factor is masked, for 0 * -inf is NaN.
    ratio = ops.where(probs == 0, 0.0, log_probs - other_log_probs)
    return ops.sum(probs * ratio, axis=-1)


def mutual_distillation(
    log_probs: Any, selected: Any, knowledge: Any = None, nats: Any = None
) -> Any:
    """Return each peer's divergence from the other peers' selected knowledge.

    `D_i = 1/(N-1) * sum_{j != i} s_j * KL(q_j || p_i)`

    The knowledge `q_j` carries no gradient, so each `D_i` trains peer `i`
    alone. Since `KL(q || p) = -H(q) - sum_k q_k log p_k`, the sum over
    `j != i` needs only the sums of all `s_j q_j` and `s_j H(q_j)`, minus the
    peer's own part: the cost grows with `N`, not with `N^2`.

    Args:
        log_probs: `(batch, peers, classes)`, `log p`, two peers or more.
        selected: `(batch, peers)`, 1 where the peer's prediction is passed on
            as knowledge, 0 where it is not. What is not selected adds exactly
            zero, to the value and to the gradient, even if it is not finite.
        knowledge: `(batch, peers, classes)`, `log q`, or `None` for `log p`.
        nats: `(batch, peers)`, `H(q)`, where it is known already.

    Returns:
        `(batch, peers)`, in nats. Not divided by the number selected: where
        little is selected, little is taught.

    Raises:
        ValueError: if the shapes do not fit or there are fewer than two peers.

    Example:

    >>> log_probs = ops.log([[[0.5, 0.5], [0.25, 0.75]]])
    >>> mutual_distillation(log_probs, [[1.0, 0.0]])
    [[0.0, 0.143841]]

    Reference:
        Zhang et al., 2018, "Deep Mutual Learning": the case of everything
        selected. https://arxiv.org/abs/1706.00384
    """
    log_probs = at_least_float32(log_probs)
    shape = tuple(log_probs.shape)
    # A boolean tensor cannot be compared with 0 on TensorFlow.
    selected = ops.cast(selected, log_probs.dtype)
    if (
        len(shape) != 3
        or shape[1] in (None, 1)
        or _checks.shapes_differ(shape[:2], selected.shape)
    ):
        raise ValueError(
            "`log_probs` must have shape (batch, peers, classes) with two "
            "peers or more, and `selected` shape (batch, peers). Received: "
            f"log_probs.shape={shape}, selected.shape={tuple(selected.shape)}."
        )
    if knowledge is not None and _checks.shapes_differ(shape, knowledge.shape):
        raise ValueError(
            "`knowledge` must have the shape of `log_probs`. Received: "
            f"knowledge.shape={tuple(knowledge.shape)}, "
            f"log_probs.shape={shape}."
        )
    knowledge = ops.stop_gradient(
        log_probs if knowledge is None else at_least_float32(knowledge)
    )
    passed = selected > 0
    nats = entropy(knowledge) if nats is None else ops.stop_gradient(nats)
    # `where`, not a product: 0 times NaN is NaN.
    own = ops.where(passed, -nats, 0.0)
    own_p = ops.where(ops.expand_dims(passed, axis=-1), ops.exp(knowledge), 0.0)
    others = ops.sum(own, axis=1, keepdims=True) - own
    others_p = ops.sum(own_p, axis=1, keepdims=True) - own_p
    # A learner whose own prediction is not finite must not turn "nothing to
    # learn" into NaN, and log p = -inf meets q = 0 as 0, not as NaN.
    learned = ops.where(others_p > 0, others_p * log_probs, 0.0)
    return (others - ops.sum(learned, axis=-1)) / (shape[1] - 1)


def routed_divergence(
    log_probs: Any, knowledge: Any, routes: Any, selected: Any = None
) -> Any:
    """Return each learner's divergence from the knowledge on its routes.

    `D_i = sum_k r_ik * s_k * KL(q_k || p_i)`

    As `sum_k r_ik s_k KL(q_k || p_i) = -sum_k r_ik s_k H(q_k)
    - (sum_k r_ik s_k q_k) . log p_i`, each learner takes one sum over the
    classes, and learners with the same routes share their mixture.

    Args:
        log_probs: `(batch, learners, classes)`, `log p`.
        knowledge: `(batch, sources, classes)`, `log q`; no gradient flows
            through it.
        routes: `(learners, sources)` NumPy array, `r >= 0`. A source of weight
            0 is left out of the learner's sum, whatever it says.
        selected: `(batch, sources)`, 1 or 0; `None` for 1 throughout. What is
            not selected adds exactly zero, even if it is not finite.

    Returns:
        `(batch, learners)`, in nats.

    Example:

    >>> log_probs = ops.log([[[0.25, 0.75]]])
    >>> knowledge = ops.log([[[0.5, 0.5]]])
    >>> routed_divergence(log_probs, knowledge, np.ones((1, 1)))
    [[0.143841]]
    """
    log_probs = at_least_float32(log_probs)
    knowledge = ops.stop_gradient(at_least_float32(knowledge))
    own, own_p = -entropy(knowledge), ops.exp(knowledge)
    if selected is not None:
        passed = ops.cast(selected, log_probs.dtype) > 0
        # `where`, not a product: 0 times NaN is NaN.
        own = ops.where(passed, own, 0.0)
        own_p = ops.where(ops.expand_dims(passed, axis=-1), own_p, 0.0)
    mixtures: dict[bytes, tuple[Any, Any]] = {}
    columns = []
    for i, row in enumerate(routes):
        key = row.tobytes()
        if key not in mixtures:
            mixtures[key] = (mixed(own, row), mixed(own_p, row))
        constant, mixture = mixtures[key]
        if constant is None:
            columns.append(ops.zeros_like(log_probs[:, i, 0]))
            continue
        learned = ops.where(mixture > 0, mixture * log_probs[:, i], 0.0)
        if selected is None:
            # Knowledge that is not finite is heard, where nothing selects.
            learned = ops.where(ops.isnan(mixture), mixture, learned)
        columns.append(constant - ops.sum(learned, axis=-1))
    return ops.stack(columns, axis=1)


def mixed(values: Any, weights: Any) -> Any:
    """Return `sum_k w_k v_k` over the second axis, without those of weight 0.

    Args:
        values: `(batch, sources, ...)`.
        weights: `(sources,)` NumPy array.

    Returns:
        `(batch, ...)`, or `None` if every weight is 0.
    """
    total = None
    for k, weight in enumerate(weights):
        if weight == 0:
            continue
        value = values[:, k]
        if weight != 1:
            value = float(weight) * value
        total = value if total is None else total + value
    return total


def routed(values: Any, routes: Any) -> Any:
    """Return `sum_k r_ik v_k` for each learner, 0 where all its routes are 0.

    Args:
        values: `(batch, sources, ...)`.
        routes: `(learners, sources)` NumPy array.

    Returns:
        `(batch, learners, ...)`.
    """
    sums = [mixed(values, row) for row in routes]
    nothing = ops.zeros_like(values[:, 0])
    return ops.stack([nothing if v is None else v for v in sums], axis=1)


def kl_of_close_logits(
    logits: Any, other_logits: Any, temperature: float
) -> Any:
    """Return `KL(p^T || q^T)` where a high temperature makes both alike.

    `-H(p) - p . log q` is then the difference of two nearly equal numbers.
    With `d = log p - log q`, here it is `sum_k p_k (exp(-d_k) - 1 + d_k)`,
    which is the same since both distributions sum to 1, and whose terms are
    all >= 0.

    Args:
        logits: `(..., classes)`, of the target, the knowledge; no gradient
            flows through them.
        other_logits: `(..., classes)`, of the learner.
        temperature: `T > 0`.

    Returns:
        `(...)`, in nats, with small relative error, and so its gradient.
    """
    logits = ops.stop_gradient(at_least_float32(logits)) / temperature
    other_logits = at_least_float32(other_logits) / temperature
    probs = ops.softmax(logits, axis=-1)
    difference = logits - other_logits
    # Far ones are not this form's, whose exponentials would leave the range.
    is_near = ops.max(ops.abs(difference), axis=-1) < 10.0
    near = ops.where(ops.expand_dims(is_near, axis=-1), difference, 0.0)
    shift = ops.log1p(
        ops.sum(
            ops.softmax(other_logits, axis=-1) * ops.expm1(near),
            axis=-1,
            keepdims=True,
        )
    )
    gap = near - shift
    small = ops.abs(gap) < 0.1
    series_at = ops.where(small, gap, 0.0)
    series = (
        0.5
        + series_at
        * (-1.0 / 6.0 + series_at * (1.0 / 24.0 - series_at / 120.0))
    ) * ops.square(series_at)
    large_at = ops.where(small, 0.0, gap)
    terms = ops.where(small, series, ops.expm1(-large_at) + large_at)
    close = ops.sum(probs * terms, axis=-1)
    far = kl_divergence(
        ops.log_softmax(logits, axis=-1), ops.log_softmax(other_logits, axis=-1)
    )
    return ops.where(is_near, close, far)
