"""Labels in every form that users have, as class ids or distributions."""

import math
import numbers
from typing import Any

import numpy as np
import numpy.typing as npt

# Class ids travel on as int32.
_MOST_CLASSES = 2**31
_ENCODE = (
    " Encode names as class ids, for example by "
    "`names, ids = np.unique(labels, return_inverse=True)`."
)


def class_ids(
    name: str, labels: npt.ArrayLike, num_classes: int | None = None
) -> npt.NDArray[np.int64]:
    """Return labels as class ids, or raise if they are none.

    `labels_of` without distributions.

    Args:
        name: The argument's name, for the message.
        labels: `(examples,)` or `(examples, 1)` whole numbers.
        num_classes: If given, ids must be below it.

    Returns:
        `(examples,)` int64; the array itself if it is that.

    Raises:
        TypeError: if labels are not numbers.
        ValueError: if there are none, or their shape, a fraction, a NaN or
            their range makes them no class ids.

    Example:

    >>> class_ids("labels", np.array([[0], [2]], "uint8"), 3).tolist()
    [0, 2]
    """
    return labels_of(name, labels, num_classes, allow_distributions=False)


def hard_labels(
    name: str, labels: npt.ArrayLike, num_classes: int | None = None
) -> npt.NDArray[np.int64]:
    """Return labels as class ids, those of one-hot rows, too.

    Args:
        name: The argument's name, for the message.
        labels: As `labels_of` takes them, no distribution between classes.
        num_classes: If given, ids must be below it, and rows have as many
            columns.

    Returns:
        `(examples,)` int64.

    Raises:
        TypeError: if labels are not numbers.
        ValueError: if they are not class ids, nor one-hot rows.

    Example:

    >>> hard_labels("labels", [[0.0, 1.0], [1.0, 0.0]]).tolist()
    [1, 0]
    """
    values = labels_of(name, labels, num_classes)
    if values.ndim == 1:
        return values
    soft = np.flatnonzero(values.max(axis=1) < values.sum(axis=1))
    if soft.size:
        raise ValueError(
            f"`{name}` must name one class for each example. Received: "
            f"{name}[{soft[0]}]={values[soft[0]].tolist()}."
        )
    return values.argmax(axis=1)


def labels_of(
    name: str,
    labels: npt.ArrayLike,
    num_classes: int | None = None,
    allow_distributions: bool = True,
) -> npt.NDArray[Any]:
    """Return labels as class ids or distributions, or raise.

    Integers and booleans of any width (a boolean counts as 0 or 1), and
    floats that are whole numbers, are class ids in one column. What has two
    columns or more is a distribution over the classes in each row.

    Args:
        name: The argument's name, for the message.
        labels: `(examples,)` or `(examples, 1)` whole numbers, or
            `(examples, classes)` numbers >= 0, rows sum to 1 (up to 0.01);
            whatever `np.asarray` makes an array of.
        num_classes: If given, ids must be below it, and distributions have
            as many columns. None: ids must be below 2**31.
        allow_distributions: Whether labels may be distributions.

    Returns:
        `(examples,)` int64, or `(examples, classes)` of the floating dtype
        that was given (float32 for integers). The array itself if it is that.

    Raises:
        TypeError: if labels are not numbers.
        ValueError: if there are none, or they are neither.

    Example:

    >>> labels_of("labels", [0.0, 2.0, 1.0]).tolist()
    [0, 2, 1]
    >>> labels_of("labels", [[0.5, 0.5], [1.0, 0.0]]).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    rule = _rule(name, num_classes, allow_distributions)
    values = _numbers(rule, name, labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    is_distribution = values.ndim == 2
    if (
        not values.size
        or values.ndim not in (1, 2)
        or (is_distribution and not allow_distributions)
        or (is_distribution and num_classes not in (None, values.shape[1]))
    ):
        raise ValueError(f"{rule} Received: {name} of shape {values.shape}.")
    if is_distribution:
        return _distributions(rule, name, values)
    return _ids(rule, name, values, num_classes or _MOST_CLASSES)


def _rule(name: str, num_classes: int | None, allow_distributions: bool) -> str:
    limit = "2**31" if num_classes is None else num_classes
    columns = "classes" if num_classes is None else num_classes
    distributions = (
        f", or distributions, of shape (examples, {columns}), whose rows sum "
        "to 1"
    )
    return (
        f"`{name}` must be class ids, whole numbers in [0, {limit}), of shape "
        "(examples,) or (examples, 1)"
        f"{distributions if allow_distributions else ''}."
    )


def _numbers(rule: str, name: str, labels: Any) -> npt.NDArray[Any]:
    """Return an array of booleans, integers or floats."""
    try:
        values = np.asarray(labels)
    except ValueError as error:
        raise ValueError(
            f"{rule} Received: {name} that are no array: {error}."
        ) from error
    if values.dtype.kind == "O":
        # Columns of tables hold Python's numbers, if one is missing or was.
        objects = values.ravel().tolist()
        for k, value in enumerate(objects):
            if not isinstance(value, numbers.Real | np.bool_):
                raise TypeError(
                    f"{rule} Received: {name}[{k}]={value!r} of type "
                    f"{type(value).__name__}.{_ENCODE}"
                )
        try:
            plain = np.array(objects)
            if plain.dtype.kind == "O":
                plain = plain.astype(np.float64)
        except OverflowError as error:
            raise ValueError(
                f"{rule} Received: {name} with a number too large for a float."
            ) from error
        return plain.reshape(values.shape)
    if values.dtype.kind not in "biuf":
        raise TypeError(
            f"{rule} Received: {name} of dtype {values.dtype}.{_ENCODE}"
        )
    return values


def _ids(
    rule: str, name: str, values: npt.NDArray[Any], limit: int
) -> npt.NDArray[np.int64]:
    if values.dtype.kind == "f":
        # NaN differs from itself.
        broken = np.flatnonzero(values != np.floor(values))
        if broken.size:
            k = broken[0]
            raise ValueError(f"{rule} Received: {name}[{k}]={values[k]}.")
    low, high = (_integer(edge) for edge in (values.min(), values.max()))
    if low < 0 or high >= limit:
        from_one = low == 1 and high == limit
        raise ValueError(
            f"{rule} Received: {name} from {low} to {high}."
            f"{' Class ids begin with 0: subtract 1.' if from_one else ''}"
        )
    # Compared above as Python's numbers: a narrow dtype cannot hold the limit.
    return values.astype(np.int64, copy=False)


def _integer(value: Any) -> float:
    return float(value) if math.isinf(value) else int(value)


def _distributions(
    rule: str, name: str, values: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    if values.dtype.kind != "f":
        values = values.astype(np.float32)
    # The comparison is false for NaN, which must not pass.
    broken = np.argwhere(~(values >= 0))
    if broken.size:
        row, column = broken[0].tolist()
        raise ValueError(
            f"{rule} Received: {name}[{row}, {column}]={values[row, column]}."
        )
    # In half precision a sum of thousands of classes stops growing.
    sums = values.sum(axis=1, dtype=np.float64)
    unequal = np.flatnonzero(~(np.abs(sums - 1.0) <= 1e-2))
    if unequal.size:
        row = unequal[0]
        raise ValueError(
            f"{rule} Received: row {row} of {name} sums to {sums[row]:g}."
        )
    return values
