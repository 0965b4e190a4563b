"""Checks of images, labels and the like that all pipelines share."""

from typing import Any

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd._labels import labels_of
from keras_smkd.data.recipes import Augmentation


def check_images(images: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return images in the dtype that pipelines read them from.

    They may be strings, the paths of files.
    """
    images = np.asarray(images)
    are_files = images.dtype.kind == "U" and images.ndim == 1
    if not (are_files or images.ndim > 1) or not len(images):
        raise ValueError(
            "`images` must be (examples, ...) with at least one example. "
            f"Received: images of shape {images.shape}."
        )
    if images.dtype.kind == "f":
        images = images.astype(np.float32, copy=False)
    elif images.dtype != np.uint8 and not are_files:
        raise TypeError(
            "`images` must be uint8 or floating point. Received: images of "
            f"dtype {images.dtype}. Scale them to [0, 1] as floats."
        )
    return images


def check_labels(
    labels: npt.ArrayLike, num_images: int, num_classes: int | None
) -> npt.NDArray[Any]:
    """Return labels as int32, or as float32 if they are one-hot or soft."""
    if num_classes is not None:
        num_classes = _checks.integer("num_classes", num_classes, minimum=2)
    array = labels_of("labels", labels, num_classes)
    if len(array) != num_images:
        raise ValueError(
            "`labels` must be as long as `images`. "
            f"Received: {len(array)} labels, {num_images} images."
        )
    return array.astype(np.int32 if array.ndim == 1 else np.float32)


def check_index(index: npt.ArrayLike, size: int) -> npt.NDArray[np.int32]:
    """Return the index as int32, or raise if it is none for `size` examples."""
    array = np.asarray(index)
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"`index` must be integers. Received: index of dtype {array.dtype}."
        )
    if array.shape != (size,):
        raise ValueError(
            f"`index` must have one integer for each of {size} examples. "
            f"Received: index of shape {array.shape}."
        )
    if array.min() < 0 or array.max() > np.iinfo(np.int32).max:
        raise ValueError(
            "`index` must be in [0, 2**31). "
            f"Received: index from {array.min()} to {array.max()}."
        )
    return array.astype(np.int32)


def check_statistics(
    mean: npt.ArrayLike | None, std: npt.ArrayLike | None, channels: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
    """Return mean and std as float32, None if both are None, or raise."""
    if mean is None and std is None:
        return None
    found = []
    for name, value in (("mean", mean), ("std", std)):
        array = np.asarray(np.nan if value is None else value, np.float64)
        if array.shape not in ((), (channels,)) or not np.isfinite(array).all():
            raise ValueError(
                "`mean` and `std` must be numbers, or one for each of "
                f"{channels} channels, or both None. "
                f"Received: {name}={value!r}."
            )
        if name == "std" and (array <= 0).any():
            raise ValueError(f"`std` must be > 0. Received: std={value!r}.")
        found.append(array.astype(np.float32))
    return found[0], found[1]


def check_augmentation(
    augment: Any,
    augmentation: Augmentation,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    has_index: bool,
    num_classes: int | None,
) -> None:
    """Raise if images or labels do not fit what is to be done with them."""
    if (augmentation.moves or augmentation.num_ops or augmentation.cutmix) and (
        len(shape) != 3
    ):
        raise ValueError(
            "`images` must be (examples, height, width, channels) for "
            f"augment={augment!r}. Received: images of shape "
            f"{('examples', *shape)}."
        )
    if augmentation.num_ops and (dtype != np.uint8 or shape[2] not in (1, 3)):
        raise ValueError(
            "`images` must be uint8 of 1 or 3 channels for "
            f"augment={augment!r}. Received: images of dtype {dtype}, "
            f"shape {('examples', *shape)}."
        )
    if augmentation.mixes and has_index:
        raise ValueError(
            "`index` must not be given to mix examples: a mixed one has no "
            f"place of its own. Received: augment={augment!r} with an index."
        )
    if augmentation.mixes and num_classes is None:
        raise ValueError(
            "`num_classes` must be given to mix integer labels. "
            f"Received: num_classes=None, augment={augment!r}."
        )
