"""The tensor maths of selective mutual distillation, on `keras.ops`.

Everything works on log-probabilities, which stay exact where a probability
rounds to 0 or 1. The class axis is the last one; the leading axes are free.
"""

from typing import Any

import keras
from keras import ops

from keras_smkd import _checks

MEASURES = ("entropy", "probability", "margin")


def log_probabilities(
    outputs: Any, from_logits: bool = True, temperature: float = 1.0
) -> Any:
    """Return the log-probabilities of a classifier's outputs.

    `log p^T = log_softmax(z / T)`, where `z` are the logits, or the logarithm
    of the probabilities if `from_logits` is `False`.

    Args:
        outputs: `(..., classes)`, logits or probabilities. Half precision is
            raised to float32 first.
        from_logits: Whether `outputs` are logits. Probabilities below
            `keras.config.epsilon()` are raised to it, since their logits
            cannot be recovered.
        temperature: `T > 0`. Above 1 flattens the distribution.

    Returns:
        `(..., classes)`, float32 or float64; the exponentials sum to 1.

    Example:

    >>> log_probabilities([[0.0, 0.0]])
    [[-0.6931472, -0.6931472]]
    """
    _checks.number("temperature", temperature, above=0.0)
    outputs = at_least_float32(outputs)
    if not from_logits:
        # A Python number would make float64 into float32 on torch.
        smallest = ops.full_like(outputs, keras.config.epsilon())
        outputs = ops.log(ops.maximum(outputs, smallest))
    if temperature != 1.0:
        outputs = outputs / temperature
    return ops.log_softmax(outputs, axis=-1)


def entropy(log_probs: Any) -> Any:
    """Return the Shannon entropy of each distribution, in nats.

    `H(p) = -sum_k p_k log p_k`, in [0, log(classes)].

    Args:
        log_probs: `(..., classes)`, log-probabilities; `-inf` is allowed and
            counts as `0 log 0 = 0`.

    Returns:
        `(...)`, same dtype.

    Example:

    >>> entropy(log_probabilities([[0.0, 0.0]]))
    [0.6931472]
    """
    log_probs = at_least_float32(log_probs)
    return -ops.sum(_p_log_p(log_probs), axis=-1)


def uncertainty(log_probs: Any, measure: str = "entropy") -> Any:
    """Return how unsure each prediction is, in [0, 1]: small is confident.

    | measure | formula | range |
    |---|---|---|
    | `"entropy"` | `H(p) / log(classes)` | [0, 1] |
    | `"probability"` | `1 - max_k p_k` | [0, 1 - 1/classes] |
    | `"margin"` | `1 - (p_first - p_second)` | [0, 1] |

    All three are 0 for a one-hot prediction and largest for a uniform one, so
    one comparison with a threshold serves them all.

    Args:
        log_probs: `(..., classes)`, log-probabilities, two classes or more.
        measure: `"entropy"`, `"probability"` or `"margin"`.

    Returns:
        `(...)`, in [0, 1]; NaN where the prediction is not finite.

    Raises:
        ValueError: if `measure` is unknown or there are fewer than two classes.

    Example:

    >>> uncertainty(ops.log([[0.5, 0.25, 0.25]]), "margin")
    [0.75]
    """
    _checks.one_of("measure", measure, MEASURES)
    log_probs = at_least_float32(log_probs)
    num_classes = log_probs.shape[-1]
    if num_classes is None or num_classes < 2:
        raise ValueError(
            "`log_probs` must have two classes or more on its last axis. "
            f"Received: shape={tuple(log_probs.shape)}."
        )
    if measure == "entropy":
        value = entropy(log_probs) / ops.log(
            ops.cast(num_classes, log_probs.dtype)
        )
    elif measure == "probability":
        value = 1.0 - ops.exp(ops.max(log_probs, axis=-1))
    else:
        top = ops.exp(ops.top_k(log_probs, k=2)[0])
        value = 1.0 - (top[..., 0] - top[..., 1])
    # Rounding can leave [0, 1] by a few units in the last place, and then
    # threshold 0 would select, or a threshold just above 1 would not.
    value = ops.clip(value, 0.0, 1.0)
    # Said outright: whether NaN survives max, top_k and clip depends on the
    # backend, and +inf would come out as the most confident of all.
    total = ops.sum(ops.exp(log_probs), axis=-1)
    finite = ops.logical_and(ops.isfinite(total), total > 0)
    return ops.where(finite, value, float("nan"))


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
    log_probs: Any, selected: Any, knowledge: Any = None
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
    # `where`, not a product: 0 times NaN is NaN.
    own = ops.where(passed, -entropy(knowledge), 0.0)
    own_p = ops.where(ops.expand_dims(passed, axis=-1), ops.exp(knowledge), 0.0)
    others = ops.sum(own, axis=1, keepdims=True) - own
    others_p = ops.sum(own_p, axis=1, keepdims=True) - own_p
    # A learner whose own prediction is not finite must not turn "nothing to
    # learn" into NaN, and log p = -inf meets q = 0 as 0, not as NaN.
    learned = ops.where(others_p > 0, others_p * log_probs, 0.0)
    return (others - ops.sum(learned, axis=-1)) / (shape[1] - 1)


def at_least_float32(values: Any) -> Any:
    """Return `values` as a tensor of float32, or of float64 if it is that.

    Args:
        values: Tensor, array or nested list of numbers.
    """
    values = ops.convert_to_tensor(values)
    if keras.backend.standardize_dtype(values.dtype) == "float64":
        return values
    return ops.cast(values, "float32")


def _p_log_p(log_probs: Any) -> Any:
    # 0 * -inf is NaN where the limit is 0. Masking the factor and not the
    # product keeps NaN out of the gradient too.
    probs = ops.exp(log_probs)
    return probs * ops.where(probs == 0, 0.0, log_probs)
