"""The labels of a batch: their forms, and what is wrong with them."""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_smkd import _checks
from keras_smkd._config import parts_of
from keras_smkd._labels import labels_of
from keras_smkd.model import backends

KEYS = ("label", "index", "labelled")


def label_of(y: Any) -> Any:
    """Return the labels in `y`, which may be a dictionary with the key "label".

    Raises:
        ValueError: if `y` is a dictionary with other keys.
    """
    if not isinstance(y, dict):
        return y
    if "label" not in y or not set(y) <= set(KEYS):
        raise ValueError(
            "`y` must have the keys 'label' and, optionally, 'index' and "
            "'labelled'. "
            f"Received: keys {sorted(map(str, y))}."
        )
    return y["label"]


def labels_of_batch(y: Any, num_classes: int) -> Any:
    """Return the labels of a batch as `(batch,)` or `(batch, classes)`.

    `None` where there are none.

    Raises:
        TypeError: if they are not numbers.
        ValueError: if their shape is neither, nor `(batch, 1)`.
    """
    labels = label_of(y)
    if labels is None:
        return None
    labels = ops.convert_to_tensor(labels)
    dtype = keras.backend.standardize_dtype(labels.dtype)
    if not dtype.startswith(("int", "uint", "bool", "float", "bfloat")):
        raise TypeError(
            "Labels must be class ids or distributions. Received: labels of "
            f"dtype {dtype}. Encode names as class ids."
        )
    shape = tuple(labels.shape)
    if len(shape) == 2 and shape[1] == 1:
        labels = ops.squeeze(labels, axis=1)
    _check_shape(tuple(labels.shape), num_classes)
    # In a narrow type, comparing with the number of classes wraps around.
    return labels if "float" in dtype else ops.cast(labels, "int32")


def nan_outside_classes(values: Any, labels: Any, num_classes: int) -> Any:
    """Return `values`, NaN where a label is not the id of a class.

    The backends disagree on such a label, and some train on it silently; NaN
    is the same, and loud, on all of them.
    """
    if len(labels.shape) != 1:
        return values
    same = ops.cast(inside_classes(labels, num_classes), labels.dtype) == labels
    return ops.where(same, values, math.nan)


def inside_classes(labels: Any, num_classes: int) -> Any:
    """Return class ids that no loss stumbles over, others as they are.

    Args:
        labels: `(batch,)` class ids, or `(batch, classes)`.
        num_classes: Number of classes.

    Returns:
        `(batch,)` int32, one outside the classes (a fraction, too) changed
        into the nearest that is inside; or the distributions.
    """
    if len(labels.shape) != 1:
        return labels
    return ops.clip(ops.cast(labels, "int32"), 0, num_classes - 1)


def checked_labels(y: Any, num_classes: int | None) -> Any:
    """Return labels in memory in the form that the model works with.

    What is not an array in memory (a data set, a generator) is returned as it
    is: its labels are looked at batch by batch, by `labels_of_batch` and
    `nan_outside_classes`.

    Args:
        y: Labels in any form that `keras_smkd._labels.labels_of` knows, or a
            dictionary with them. Where `labelled` is 0 they may be anything.
        num_classes: Number of classes, `None` if it is not known yet.

    Returns:
        The same, class ids as `(examples,)` int32.

    Raises:
        TypeError: if labels are not numbers.
        ValueError: if they are no class ids and no distributions.
    """
    labels = label_of(y)
    if not is_in_memory(labels):
        return y
    if ops.is_tensor(labels):
        labels = ops.convert_to_numpy(labels)
    labelled = y.get("labelled") if isinstance(y, dict) else None
    if labelled is None:
        values = labels_of("y", labels, num_classes)
    else:
        values = np.asarray(labels)
        has = np.asarray(ops.convert_to_numpy(labelled)).ravel() > 0
        if has.shape != values.shape[:1]:
            raise ValueError(
                "`y['labelled']` must be as long as `y['label']`. "
                f"Received: {len(has)} and {len(values)} entries."
            )
        if has.any():
            labels_of("y", values[has], num_classes)
    if values.dtype.kind in "iub":
        values = values.astype("int32")
    return {**y, "label": values} if isinstance(y, dict) else values


def checked_validation(data: Any, num_classes: int | None) -> Any:
    """Return `validation_data` of `fit` with its labels as `checked_labels`.

    Args:
        data: `(x, y)` or `(x, y, sample_weight)`; all else stays as it is.
        num_classes: Number of classes, `None` if it is not known yet.
    """
    if not isinstance(data, (list, tuple)) or len(data) < 2:
        return data
    x, y, *rest = data
    return (x, checked_labels(y, num_classes), *rest)


def labelled_of_batch(y: Any) -> Any:
    """Return which examples have a label, `(batch,)`, `None` for all.

    Raises:
        ValueError: if the shape is another.
    """
    labelled = y.get("labelled") if isinstance(y, dict) else None
    if labelled is None:
        return None
    labelled = ops.convert_to_tensor(labelled)
    if len(labelled.shape) == 2 and labelled.shape[1] == 1:
        labelled = ops.squeeze(labelled, axis=1)
    if len(labelled.shape) != 1:
        raise ValueError(
            "`y['labelled']` must have shape (batch,): 1 where an example has "
            "a label, 0 where it has none. "
            f"Received: shape {tuple(labelled.shape)}."
        )
    return ops.cast(labelled, "float32")


def index_of_batch(y: Any) -> Any:
    """Return the examples' places in the data set, `(batch,)` int32.

    `None` where `y` does not say them.

    Raises:
        TypeError: if they are not integers.
        ValueError: if they have another shape.
    """
    index = y.get("index") if isinstance(y, dict) else None
    if index is None:
        return None
    index = ops.convert_to_tensor(index)
    dtype = keras.backend.standardize_dtype(index.dtype)
    if not dtype.startswith(("int", "uint")):
        raise TypeError(
            "`y['index']` must hold integers. "
            f"Received: index of dtype {dtype}."
        )
    if len(index.shape) == 2 and index.shape[1] == 1:
        index = ops.squeeze(index, axis=1)
    if len(index.shape) != 1:
        raise ValueError(
            "`y['index']` must have shape (batch,). "
            f"Received: index of shape {tuple(index.shape)}."
        )
    # Bytes would be taken for a mask on torch.
    return ops.cast(index, "int32")


def is_in_memory(labels: Any) -> bool:
    """Return whether labels are an array, and not a stream or nothing."""
    return isinstance(labels, list) or hasattr(labels, "__array__")


def with_index(y: Any) -> Any:
    """Return labels in memory with each example's place, if it is not there.

    Other labels are returned as they are: a stream must bring its own.

    Raises:
        ValueError: if this process has a part of the data only, whose places
            in the whole nobody knows.
    """
    labels = label_of(y)
    if not is_in_memory(labels):
        return y
    if isinstance(y, dict) and "index" in y:
        return y
    if backends.has_part_of_data():
        raise ValueError(
            "`y` must be {'label': ..., 'index': ...} in several processes, "
            "for a part that remembers examples: the index is each example's "
            "place in the data of all of them. Received: labels without an "
            "index."
        )
    own = y if isinstance(y, dict) else {"label": y}
    return {**own, "index": np.arange(len(labels), dtype="int32")}


def check_index_values(y: Any, parts: Iterable[Any]) -> None:
    """Raise if labels in memory have an index that does not fit the data set.

    What is not an array in memory (a data set, a generator) passes: its
    places are looked at batch by batch, by the part that remembers.

    Args:
        y: Labels, as given to `fit`.
        parts: Of the model. Those that remember, inside others too, say how
            many examples there are: their `num_examples`.

    Raises:
        TypeError: if the index does not hold integers.
        ValueError: if it has another length than the labels, or a place
            outside [0, num_examples).
    """
    label = label_of(y)
    if not is_in_memory(label) or not isinstance(y, dict) or "index" not in y:
        return
    for part in (own for held in parts for own in parts_of(held)):
        if hasattr(part, "num_examples"):
            _check_index(y, len(label), part.num_examples)


def _check_index(y: Any, num_labels: int, num_examples: int) -> None:
    index = np.asarray(ops.convert_to_numpy(index_of_batch(y)))
    if len(index) != num_labels:
        raise ValueError(
            "`y['index']` must be as long as `y['label']`. "
            f"Received: {len(index)} places for {num_labels} labels."
        )
    if index.size and (index.min() < 0 or index.max() >= num_examples):
        raise ValueError(
            f"`y['index']` must be in [0, {num_examples}), the examples that "
            "are remembered. "
            f"Received: places from {index.min()} to {index.max()}."
        )


def checked_class_weight(
    class_weight: Any, sample_weight: Any, num_classes: int | None
) -> dict[int, float] | None:
    """Return class weights as plain numbers.

    Args:
        class_weight: From class ids to weights >= 0; a class that is not there
            has weight 1. Or `None`.
        sample_weight: As given beside them.
        num_classes: Number of classes, `None` if it is not known yet.

    Raises:
        TypeError: if they are no dictionary of numbers.
        ValueError: if class and sample weights are both given, a class is
            none of the peers', or a weight is negative.
    """
    if class_weight is None:
        return None
    if sample_weight is not None:
        raise ValueError(
            "`class_weight` and `sample_weight` must not both be given. "
            f"Received: class_weight={class_weight} besides `sample_weight`."
        )
    if not isinstance(class_weight, dict):
        raise TypeError(
            "`class_weight` must be a dictionary from class ids to weights. "
            f"Received: class_weight={class_weight!r}."
        )
    result = {}
    for key, value in class_weight.items():
        is_id = isinstance(key, (int, np.integer)) and not isinstance(key, bool)
        if not is_id or key < 0 or (num_classes and key >= num_classes):
            raise ValueError(
                "`class_weight` must have class ids in "
                f"[0, {num_classes or 'classes'}) as keys. "
                f"Received: key {key!r}."
            )
        result[int(key)] = _checks.number(
            f"class_weight[{key}]", value, minimum=0.0
        )
    return result


def weighed(data: Any, class_weight: dict[int, float], num_classes: int) -> Any:
    """Return a batch of data with class weights as its sample weights.

    Args:
        data: `(x, y)`, as Keras gives it to a training step.
        class_weight: From class ids to weights.
        num_classes: Number of classes.

    Returns:
        `(x, y, sample_weight)`; an example without a label has weight 1.

    Raises:
        ValueError: if there are sample weights already.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    checked_class_weight(class_weight, sample_weight, num_classes)
    labels = labels_of_batch(y, num_classes)
    if labels is None:
        raise ValueError(
            "`class_weight` must be given with labels. Received: no labels."
        )
    if len(labels.shape) == 2:
        labels = ops.argmax(labels, axis=-1)
    # A label that is no class makes the loss NaN by itself.
    labels = ops.clip(ops.cast(labels, "int32"), 0, num_classes - 1)
    table = np.ones(num_classes, "float32")
    for key, value in class_weight.items():
        table[key] = value
    weights = ops.take(ops.convert_to_tensor(table), labels)
    labelled = labelled_of_batch(y)
    if labelled is not None:
        weights = ops.where(labelled > 0, weights, 1.0)
    return x, y, weights


def one_hot(labels: Any, num_classes: int, dtype: Any) -> Any:
    """Return integer labels as one-hot rows; other labels as they are."""
    if len(labels.shape) != 1:
        return ops.cast(labels, dtype)
    labels = inside_classes(labels, num_classes)
    return ops.one_hot(labels, num_classes, dtype=dtype)


def _check_shape(shape: Any, num_classes: int) -> None:
    if len(shape) == 1:
        return
    if len(shape) == 2 and shape[1] in (None, num_classes):
        return
    raise ValueError(
        f"Labels must have shape (batch,) or (batch, {num_classes}). "
        f"Received: labels of shape {tuple(shape)}."
    )
