"""How unsure a prediction is."""

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_smkd import _checks
from keras_smkd.functional.probabilities import at_least_float32


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


def _p_log_p(log_probs: Any) -> Any:
    # 0 * -inf is NaN where the limit is 0. Masking the factor and not the
    # product keeps NaN out of the gradient too.
    probs = ops.exp(log_probs)
    return probs * ops.where(probs == 0, 0.0, log_probs)


def _entropy_share(log_probs: Any) -> Any:
    num_classes = ops.cast(log_probs.shape[-1], log_probs.dtype)
    return entropy(log_probs) / ops.log(num_classes)


def _doubt_of_first(log_probs: Any) -> Any:
    return 1.0 - ops.exp(ops.max(log_probs, axis=-1))


def _lack_of_margin(log_probs: Any) -> Any:
    top = ops.exp(ops.top_k(log_probs, k=2)[0])
    return 1.0 - (top[..., 0] - top[..., 1])


MEASURES: dict[str, Callable[[Any], Any]] = {
    "entropy": _entropy_share,
    "probability": _doubt_of_first,
    "margin": _lack_of_margin,
}


def measure_of(measure: Any) -> Callable[[Any], Any]:
    """Return the function of a measure of uncertainty.

    Args:
        measure: A key of `MEASURES`, or a function from `(..., classes)`
            log-probabilities to `(...)` in [0, 1].

    Raises:
        ValueError: if it is neither.
    """
    if callable(measure):
        return measure
    return MEASURES[_checks.one_of("measure", measure, MEASURES)]


def uncertainty(
    log_probs: Any, measure: str | Callable[[Any], Any] = "entropy"
) -> Any:
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
        measure: `"entropy"`, `"probability"`, `"margin"`, or a function from
            log-probabilities to `(...)`; what it gives outside [0, 1] is cut
            off there.

    Returns:
        `(...)`, in [0, 1]; NaN where the prediction is not finite.

    Raises:
        ValueError: if `measure` is unknown or there are fewer than two classes.

    Example:

    >>> uncertainty(ops.log([[0.5, 0.25, 0.25]]), "margin")
    [0.75]
    """
    function = measure_of(measure)
    log_probs = at_least_float32(log_probs)
    num_classes = log_probs.shape[-1]
    if num_classes is None or num_classes < 2:
        raise ValueError(
            "`log_probs` must have two classes or more on its last axis. "
            f"Received: shape={tuple(log_probs.shape)}."
        )
    # Rounding can leave [0, 1] by a few units in the last place, and then
    # threshold 0 would select, or a threshold just above 1 would not.
    value = ops.clip(function(log_probs), 0.0, 1.0)
    # Said outright: whether NaN survives max, top_k and clip depends on the
    # backend, and +inf would come out as the most confident of all.
    total = ops.sum(ops.exp(log_probs), axis=-1)
    finite = ops.logical_and(ops.isfinite(total), total > 0)
    return ops.where(finite, value, float("nan"))
