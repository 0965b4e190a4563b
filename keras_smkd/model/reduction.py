"""The mean over a batch, as Keras's losses take it."""

import functools
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks


class _BatchMean(keras.losses.Loss):
    """Keras's own reduction, of values that are losses already.

    It divides by the batch and, on TensorFlow, by the number of replicas.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return y_pred


@functools.cache
def _reducer(dtype: str) -> _BatchMean:
    return _BatchMean(name="batch_mean", dtype=dtype)


def example_weights(sample_weight: Any, num_examples: int | None) -> Any:
    """Return the examples' weights, `(batch,)`, or `None` for none.

    Args:
        sample_weight: `(batch,)` or `(batch, 1)`, or `None`.
        num_examples: The size of the batch, `None` if it is not known.

    Raises:
        ValueError: if it is of another shape.
    """
    if sample_weight is None:
        return None
    if getattr(sample_weight.shape, "rank", 1) is None:
        # TensorFlow, once it has seen both forms.
        return ops.reshape(sample_weight, (-1,))
    shape = tuple(sample_weight.shape)
    fits = shape[1:] in ((), (1,)) and len(shape) > 0
    if not fits or _checks.shapes_differ(shape[:1], (num_examples,)):
        raise ValueError(
            "`sample_weight` must have shape (batch,) or (batch, 1), one "
            f"weight for each example. Received: shape={shape} for a batch of "
            f"{num_examples}."
        )
    return ops.reshape(sample_weight, (-1,))


def batch_mean(values: Any, sample_weight: Any = None) -> Any:
    """Return `sum(sample_weight * values) / batch`, as Keras's losses do.

    Args:
        values: `(batch,)`.
        sample_weight: `(batch,)`, or `None` for ones.

    Returns:
        Scalar, dtype of `values`.
    """
    reducer = _reducer(keras.backend.standardize_dtype(values.dtype))
    return reducer(values, values, sample_weight)
