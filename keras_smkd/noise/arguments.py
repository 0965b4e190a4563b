"""Checks of the arguments that the functions of this room share."""

from typing import Any

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd._labels import class_ids

# The name that the estimators know.
check_labels = class_ids


def check_noise_rate(noise_rate: float) -> float:
    """Return the rate, or raise if it is not a number in [0, 1]."""
    return _checks.number(
        "noise_rate",
        noise_rate,
        minimum=0.0,
        maximum=1.0,
        advice="Give a fraction, not a percentage.",
    )


def check_num_classes(num_classes: int) -> int:
    """Return the number of classes, or raise if it is not an integer >= 2."""
    return _checks.integer("num_classes", num_classes, minimum=2)


def check_seed(seed: int) -> int:
    """Return the seed, or raise if it is not an integer >= 0."""
    return _checks.integer("seed", seed, minimum=0)


def check_label_pair(
    clean_labels: npt.ArrayLike,
    noisy_labels: npt.ArrayLike,
    num_classes: int | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return both as class ids, or raise if they are none of one length."""
    clean = class_ids("clean_labels", clean_labels, num_classes)
    noisy = class_ids("noisy_labels", noisy_labels, num_classes)
    if clean.size != noisy.size:
        raise ValueError(
            "`noisy_labels` must be as long as `clean_labels`. Received: "
            f"{noisy.size} noisy_labels, {clean.size} clean_labels."
        )
    return clean, noisy


def dtype_for(labels: npt.ArrayLike, num_classes: int) -> np.dtype[Any]:
    """Return the dtype of labels if it is of integers that hold all classes.

    It is int64 otherwise.
    """
    dtype = np.asarray(labels).dtype
    holds = dtype.kind in "iu" and np.iinfo(dtype).max >= num_classes - 1
    return dtype if holds else np.dtype(np.int64)


def check_inputs(
    name: str, inputs: npt.ArrayLike, labels: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Return inputs as an array, or raise if they are not numbers.

    Args:
        name: The argument's name, for the message.
        inputs: What the caller gave.
        labels: If given, there must be one label for each input.

    Raises:
        TypeError: if they are not integers or floating point.
        ValueError: if they are not `(examples, ...)` with something in it, or
            not as many as the labels.
    """
    array = np.asarray(inputs)
    if array.ndim < 2 or not array.size:
        raise ValueError(
            f"`{name}` must be (examples, ...) with at least one example. "
            f"Received: {name} of shape {array.shape}."
        )
    if array.dtype.kind not in "iuf":
        raise TypeError(
            f"`{name}` must be integers or floating point. "
            f"Received: {name} of dtype {array.dtype}."
        )
    if labels is not None and len(array) != labels.size:
        raise ValueError(
            f"`labels` must be as long as `{name}`. "
            f"Received: {labels.size} labels, {len(array)} {name}."
        )
    return array
