"""A classifier's outputs as log-probabilities, which stay exact.

They do where a probability rounds to 0 or 1. The class axis is the last one;
the leading axes are free.
"""

from typing import Any

import keras
from keras import ops

from keras_smkd import _checks


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
    outputs = logits(outputs, from_logits)
    if temperature != 1.0:
        outputs = outputs / temperature
    return ops.log_softmax(outputs, axis=-1)


def logits(outputs: Any, from_logits: bool = True) -> Any:
    """Return a classifier's outputs as logits.

    Args:
        outputs: `(..., classes)`, logits or probabilities. Half precision is
            raised to float32.
        from_logits: Whether `outputs` are logits. Probabilities below
            `keras.config.epsilon()` are raised to it, and their logarithms
            returned.

    Returns:
        `(..., classes)`, float32 or float64.
    """
    outputs = at_least_float32(outputs)
    if from_logits:
        return outputs
    # A Python number would make float64 into float32 on torch.
    smallest = ops.full_like(outputs, keras.config.epsilon())
    return ops.log(ops.maximum(outputs, smallest))


def at_least_float32(values: Any) -> Any:
    """Return `values` as a tensor of float32, or of float64 if it is that.

    Args:
        values: Tensor, array or nested list of numbers.
    """
    values = ops.convert_to_tensor(values)
    if keras.backend.standardize_dtype(values.dtype) == "float64":
        return values
    return ops.cast(values, "float32")
