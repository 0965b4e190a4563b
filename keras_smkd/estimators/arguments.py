"""Checks of the arrays that estimators are given."""

import numpy as np
import numpy.typing as npt

_ROUNDING = 1e-3


def vector(
    name: str, values: npt.ArrayLike, *, minimum: float | None = None
) -> npt.NDArray[np.float64]:
    """Return `(examples,)` finite numbers as float64, or raise.

    Args:
        name: The argument's name, for the message.
        values: What the caller gave.
        minimum: If given, the smallest allowed value.
    """
    array = _numbers(name, values)
    if array.ndim != 1 or not array.size:
        raise ValueError(
            f"`{name}` must be 1-D with at least one value. "
            f"Received: {name} of shape {array.shape}."
        )
    allowed = np.isfinite(array)
    if minimum is not None:
        allowed &= array >= minimum
    wrong = np.flatnonzero(~allowed)
    if wrong.size:
        bound = "" if minimum is None else f" >= {minimum:g}"
        raise ValueError(
            f"`{name}` must be finite numbers{bound}. "
            f"Received: {name}[{wrong[0]}]={array[wrong[0]]}."
        )
    return array


def distributions(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return `(examples, classes)` probabilities as float64, or raise.

    Rows may miss a sum of 1 by 1e-3, which is the rounding of a softmax in
    half precision, and are returned as they are.

    Args:
        name: The argument's name, for the message.
        values: What the caller gave.
    """
    array = _numbers(name, values)
    if array.ndim != 2 or not array.shape[0] or array.shape[1] < 2:
        raise ValueError(
            f"`{name}` must have shape (examples, classes), with at least 1 "
            "example and 2 classes. "
            f"Received: {name} of shape {array.shape}."
        )
    # The comparisons are false for NaN, which must not pass.
    outside = np.argwhere(~((array >= 0.0) & (array <= 1.0 + _ROUNDING)))
    if outside.size:
        row, column = outside[0].tolist()
        raise ValueError(
            f"`{name}` must be in [0, 1]. Received: "
            f"{name}[{row}, {column}]={array[row, column]}. "
            "Give probabilities, not logits."
        )
    sums = array.sum(axis=1)
    unequal = np.flatnonzero(np.abs(sums - 1.0) > _ROUNDING)
    if unequal.size:
        raise ValueError(
            f"`{name}` must have rows that sum to 1. Received: row "
            f"{unequal[0]} of {name} sums to {sums[unequal[0]]:.7g}."
        )
    return array


def _numbers(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        array = np.asarray(values)
        # NumPy would read numbers out of strings and dates.
        if array.dtype.kind in "bcOSUMm":
            raise TypeError(f"dtype {array.dtype}")
        return np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be an array of real numbers. "
            f"Received: {name} of type {type(values).__name__} ({error})."
        ) from error
