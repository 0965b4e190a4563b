"""The mean over a batch, as Keras's losses take it."""

import functools
from typing import Any

import keras


class _BatchMean(keras.losses.Loss):
    """Keras's own reduction, of values that are losses already.

    It divides by the batch and, on TensorFlow, by the number of replicas.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return y_pred


@functools.cache
def _reducer(dtype: str) -> _BatchMean:
    return _BatchMean(name="batch_mean", dtype=dtype)


def batch_mean(values: Any, sample_weight: Any = None) -> Any:
    """Return `sum(sample_weight * values) / batch`, as Keras's losses do.

    Args:
        values: `(batch,)`.
        sample_weight: `(batch,)` or `(batch, 1)`, or `None` for ones.

    Returns:
        Scalar, dtype of `values`.
    """
    reducer = _reducer(keras.backend.standardize_dtype(values.dtype))
    return reducer(values, values, sample_weight)
