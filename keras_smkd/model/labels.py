"""The labels of a batch: their forms, and what is wrong with them."""

import math
from typing import Any

import numpy as np
from keras import ops

KEYS = ("label", "index")


def label_of(y: Any) -> Any:
    """Return the labels in `y`, which may be `{"label": ..., "index": ...}`.

    Raises:
        ValueError: if `y` is a dictionary with other keys.
    """
    if not isinstance(y, dict):
        return y
    if "label" not in y or not set(y) <= set(KEYS):
        raise ValueError(
            "`y` must have the keys 'label' and, optionally, 'index'. "
            f"Received: keys {sorted(map(str, y))}."
        )
    return y["label"]


def labels_of_batch(y: Any, num_classes: int) -> Any:
    """Return the labels of a batch as `(batch,)` or `(batch, classes)`.

    Raises:
        ValueError: if their shape is neither, nor `(batch, 1)`.
    """
    labels = label_of(y)
    shape = tuple(getattr(labels, "shape", ()))
    if len(shape) == 2 and shape[1] == 1:
        return ops.squeeze(labels, axis=1)
    _check_shape(shape, num_classes)
    return ops.convert_to_tensor(labels)


def nan_outside_classes(values: Any, labels: Any, num_classes: int) -> Any:
    """Return `values`, NaN where an integer label is not one of the classes.

    The backends disagree on such a label, and some train on it silently; NaN
    is the same, and loud, on all of them.
    """
    if len(labels.shape) != 1:
        return values
    inside = ops.logical_and(labels >= 0, labels < num_classes)
    return ops.where(inside, values, math.nan)


def check_label_values(y: Any, num_classes: int | None) -> None:
    """Raise if `y` is an array with labels that cannot be right.

    What is not an array in memory (a data set, a generator) passes: its
    labels are looked at batch by batch, by `nan_outside_classes`.

    Raises:
        ValueError: if the shape does not fit, an integer label is not in
            [0, classes), or the rows of soft labels are not distributions.
    """
    labels = label_of(y)
    if labels is None or num_classes is None:
        return
    if not isinstance(labels, (list, np.ndarray)) and not ops.is_tensor(labels):
        return
    values = np.asarray(ops.convert_to_numpy(labels))
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    _check_shape(values.shape, num_classes)
    if values.size == 0:
        return
    if values.ndim == 1:
        low, high = values.min(), values.max()
        if not (low >= 0 and high < num_classes) or np.any(values % 1 != 0):
            raise ValueError(
                f"Labels must be integers in [0, {num_classes}), the classes "
                f"of the peers. Received: labels from {low} to {high}."
            )
        return
    sums = values.sum(axis=1, dtype="float64")
    if not np.all(values >= 0) or not np.allclose(sums, 1.0, atol=1e-2):
        raise ValueError(
            "Labels of shape (batch, classes) must be distributions: entries "
            ">= 0, rows that sum to 1. Received: smallest entry "
            f"{values.min()}, row sums from {sums.min():g} to {sums.max():g}."
        )


def with_class_weight(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return arguments for Keras in which labels in a dictionary are weighed.

    Keras turns class weights into sample weights itself, but not for labels
    inside a dictionary.

    Args:
        arguments: Of `fit` or `train_on_batch`, by name.

    Raises:
        ValueError: if class and sample weights are both given.
    """
    y, class_weight = arguments.get("y"), arguments.get("class_weight")
    if not isinstance(y, dict) or class_weight is None:
        return arguments
    if arguments.get("sample_weight") is not None:
        raise ValueError(
            "`class_weight` and `sample_weight` must not both be given. "
            f"Received: class_weight={class_weight} besides `sample_weight`."
        )
    labels = np.asarray(ops.convert_to_numpy(label_of(y)))
    if labels.ndim == 2:
        labels = labels.argmax(axis=1) if labels.shape[1] > 1 else labels[:, 0]
    weight = [class_weight.get(int(label), 1.0) for label in labels]
    return {
        **arguments,
        "class_weight": None,
        "sample_weight": np.array(weight, "float32"),
    }


def one_hot(labels: Any, num_classes: int, dtype: Any) -> Any:
    """Return integer labels as one-hot rows; other labels as they are."""
    if len(labels.shape) != 1:
        return ops.cast(labels, dtype)
    return ops.one_hot(ops.cast(labels, "int32"), num_classes, dtype=dtype)


def _check_shape(shape: Any, num_classes: int) -> None:
    if len(shape) == 1:
        return
    if len(shape) == 2 and shape[1] in (None, num_classes):
        return
    raise ValueError(
        f"Labels must have shape (batch,) or (batch, {num_classes}). "
        f"Received: labels of shape {tuple(shape)}."
    )
