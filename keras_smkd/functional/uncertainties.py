"""How unsure a prediction is, of one pass or of several."""

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


def mean_of_samples(samples: Any) -> Any:
    """Return the logarithm of the mean probability over passes.

    `log((1 / passes) * sum_s p_s)`

    Args:
        samples: `(passes, ..., classes)`, log-probabilities.

    Returns:
        `(..., classes)`, log-probabilities.

    Example:

    >>> ops.exp(mean_of_samples(ops.log([[1.0, 0.0], [0.5, 0.5]])))
    [0.75, 0.25]
    """
    samples = at_least_float32(samples)
    count = ops.cast(samples.shape[0], samples.dtype)
    return ops.logsumexp(samples, axis=0) - ops.log(count)


def predictive_entropy(samples: Any) -> Any:
    """Return the entropy of the mean prediction of several passes, in nats.

    `H(mean_s p_s)`, in [0, log(classes)]: doubt of both kinds, of the labels
    and of the model.

    Args:
        samples: `(passes, ..., classes)`, log-probabilities.

    Returns:
        `(...)`.

    Example:

    >>> predictive_entropy(ops.log([[[1.0, 0.0]], [[0.0, 1.0]]]))
    [0.6931472]

    Reference:
        Gal, 2016, "Uncertainty in Deep Learning", section 3.3.1. Gal and
        Ghahramani, 2016. https://arxiv.org/abs/1506.02142
    """
    return entropy(mean_of_samples(samples))


def mutual_information(samples: Any) -> Any:
    """Return how much passes disagree (BALD), in nats.

    `H(mean_s p_s) - mean_s H(p_s)`, in [0, log(classes)]: doubt of the model
    alone. 0 where all passes say the same, however unsure.

    Args:
        samples: `(passes, ..., classes)`, log-probabilities.

    Returns:
        `(...)`.

    Example:

    >>> mutual_information(ops.log([[[1.0, 0.0]], [[0.0, 1.0]]]))
    [0.6931472]

    Reference:
        Houlsby et al., 2011, "Bayesian Active Learning for Classification and
        Preference Learning". https://arxiv.org/abs/1112.5745
    """
    samples = at_least_float32(samples)
    # Not `mean`, which on torch makes float64 into float32.
    expected = ops.sum(entropy(samples), axis=0) / samples.shape[0]
    return ops.maximum(predictive_entropy(samples) - expected, 0.0)


def variation_ratio(samples: Any) -> Any:
    """Return the share of passes that miss the class most of them predict.

    `1 - f / passes` for the most frequent top class, predicted `f` times; in
    [0, 1 - 1/classes].

    Args:
        samples: `(passes, ..., classes)`, log-probabilities.

    Returns:
        `(...)`.

    Example:

    >>> variation_ratio(ops.log([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]))
    0.3333333

    Reference:
        Gal, 2016, "Uncertainty in Deep Learning", section 3.3.1. Gal and
        Ghahramani, 2016. https://arxiv.org/abs/1506.02142
    """
    samples = at_least_float32(samples)
    top = ops.expand_dims(ops.argmax(samples, axis=-1), axis=-1)
    classes = ops.arange(samples.shape[-1], dtype=top.dtype)
    counts = ops.sum(ops.cast(ops.equal(top, classes), samples.dtype), axis=0)
    return 1.0 - ops.max(counts, axis=-1) / samples.shape[0]


def _share(nats: Any, log_probs: Any) -> Any:
    return nats / ops.log(ops.cast(log_probs.shape[-1], log_probs.dtype))


def _entropy_share(log_probs: Any) -> Any:
    return _share(entropy(log_probs), log_probs)


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

# Of `(passes, ..., classes)`; in [0, 1] like the others.
SAMPLE_MEASURES: dict[str, Callable[[Any], Any]] = {
    "predictive_entropy": lambda samples: _share(
        predictive_entropy(samples), samples
    ),
    "mutual_information": lambda samples: _share(
        mutual_information(samples), samples
    ),
    "variation_ratio": variation_ratio,
}


def looks_at_samples(measure: Any) -> bool:
    """Return whether a measure is one of several passes, by its name.

    Args:
        measure: A name or a function, as for `measure_of`.

    Returns:
        `True` or `False`.

    Example:

    >>> looks_at_samples("mutual_information"), looks_at_samples("entropy")
    (True, False)
    """
    return isinstance(measure, str) and measure in SAMPLE_MEASURES


def measure_of(measure: Any) -> Callable[[Any], Any]:
    """Return the function of a measure of uncertainty.

    Args:
        measure: A key of `MEASURES` or `SAMPLE_MEASURES`, or a function from
            `(..., classes)` log-probabilities to `(...)` in [0, 1].

    Raises:
        ValueError: if it is neither.
    """
    if callable(measure):
        return measure
    known = {**MEASURES, **SAMPLE_MEASURES}
    return known[_checks.one_of("measure", measure, known)]


def uncertainty(
    log_probs: Any,
    measure: str | Callable[[Any], Any] = "entropy",
    nats: Any = None,
) -> Any:
    """Return how unsure each prediction is, in [0, 1]: small is confident.

    | measure | formula | range |
    |---|---|---|
    | `"entropy"` | `H(p) / log(classes)` | [0, 1] |
    | `"probability"` | `1 - max_k p_k` | [0, 1 - 1/classes] |
    | `"margin"` | `1 - (p_first - p_second)` | [0, 1] |

    All three are 0 for a one-hot prediction and largest for a uniform one, so
    one comparison with a threshold serves them all. Three more are of several
    passes, `(passes, ..., classes)`:

    | measure | formula | range |
    |---|---|---|
    | `"predictive_entropy"` | `predictive_entropy / log(classes)` | [0, 1] |
    | `"mutual_information"` | `mutual_information / log(classes)` | [0, 1] |
    | `"variation_ratio"` | `variation_ratio` | [0, 1 - 1/classes] |

    Args:
        log_probs: `(..., classes)`, log-probabilities, two classes or more.
        measure: One of these names, or a function from log-probabilities to
            `(...)`; what it gives outside [0, 1] is cut off there.
        nats: `(...)`, the entropy of each prediction where it is known
            already, for the measure `"entropy"`.

    Returns:
        `(...)`, in [0, 1]; NaN where the prediction is not finite.

    Raises:
        ValueError: if `measure` is unknown, there are fewer than two classes,
            or `nats` are given for another measure.

    Example:

    >>> uncertainty(ops.log([[0.5, 0.25, 0.25]]), "margin")
    [0.75]
    """
    function = measure_of(measure)
    if nats is not None and measure != "entropy":
        raise ValueError(
            "`nats` must be None but for the measure 'entropy'. "
            f"Received: measure={measure!r}."
        )
    log_probs = at_least_float32(log_probs)
    num_classes = log_probs.shape[-1]
    if num_classes is None or num_classes < 2:
        raise ValueError(
            "`log_probs` must have two classes or more on its last axis. "
            f"Received: shape={tuple(log_probs.shape)}."
        )
    # Rounding can leave [0, 1] by a few units in the last place, and then
    # threshold 0 would select, or a threshold just above 1 would not.
    value = function(log_probs) if nats is None else _share(nats, log_probs)
    value = ops.clip(value, 0.0, 1.0)
    # Said outright: whether NaN survives max, top_k and clip depends on the
    # backend, and +inf would come out as the most confident of all.
    total = ops.sum(ops.exp(log_probs), axis=-1)
    finite = ops.logical_and(ops.isfinite(total), total > 0)
    if looks_at_samples(measure):
        finite = ops.all(finite, axis=0)
    return ops.where(finite, value, float("nan"))
