"""Distributions over many classes, kept by their largest entries."""

from typing import Any

from keras import ops

from keras_smkd.functional.probabilities import at_least_float32


def keep_largest(values: Any, top: int) -> Any:
    """Return the largest entries of each row, and the sum of the others.

    Args:
        values: `(..., classes)`, numbers >= 0.
        top: How many entries are kept, in [1, classes).

    Returns:
        `(..., 2 * top + 1)`, float32 at least: the largest entries, from the
        largest on; the classes they are of, in the same order; and the sum of
        all others.

    Example:

    >>> keep_largest([[0.1, 0.6, 0.05, 0.25]], 2)
    [[0.6, 0.25, 1.0, 3.0, 0.15]]
    """
    values = at_least_float32(values)
    largest, classes = ops.top_k(values, top)
    classes = ops.cast(classes, values.dtype)
    is_kept = ops.any(_is_class(classes, values.shape[-1]), axis=-2)
    rest = ops.sum(ops.where(is_kept, 0.0, values), axis=-1, keepdims=True)
    return ops.concatenate([largest, classes, rest], axis=-1)


def spread_largest(kept: Any, num_classes: int) -> Any:
    """Return rows of all classes: the others share their sum evenly.

    Args:
        kept: `(..., 2 * top + 1)`, from `keep_largest`; zeros give zeros, and
            a row of NaN one of NaN.
        num_classes: Number of classes, above `top`.

    Returns:
        `(..., classes)`, float32 at least, of the same sums.

    Example:

    >>> spread_largest([[0.6, 0.25, 1.0, 3.0, 0.15]], 4)
    [[0.075, 0.6, 0.075, 0.25]]
    """
    kept = at_least_float32(kept)
    top = (kept.shape[-1] - 1) // 2
    largest, classes = kept[..., :top], kept[..., top : 2 * top]
    is_class = _is_class(classes, num_classes)
    named = ops.where(is_class, ops.expand_dims(largest, axis=-1), 0.0)
    return ops.where(
        ops.any(is_class, axis=-2),
        ops.sum(named, axis=-2),
        kept[..., 2 * top :] / (num_classes - top),
    )


def _is_class(classes: Any, num_classes: int) -> Any:
    """Return `(..., top, classes)`, whether an entry is of a class."""
    # Compared as floats, so that NaN is of none.
    every = ops.arange(num_classes, dtype=classes.dtype)
    return ops.equal(ops.expand_dims(classes, axis=-1), every)
