"""Data sets of TensorFlow Datasets: in memory, or as files to be decoded."""

import difflib
import os
import pathlib
import re
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from keras_smkd.data import files
from keras_smkd.data import reading
from keras_smkd.data.examples import Examples
from keras_smkd.data.optional import import_optional


def load_tfds(
    name: str,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    *,
    image_size: tuple[int, int] | None = None,
    extract_to: str | os.PathLike[str] | None = None,
    label_key: str | None = None,
    memory_limit: int = 8 * 2**30,
) -> Examples:
    """Load a split of a TensorFlow Datasets image data set.

    Where the data set has an `id` feature that ends in a number, as CIFAR-10
    has (`train_16399`), the number is the example's index and the examples
    are sorted by it: TFDS stores CIFAR-10 shuffled, while files of human
    labels come in the canonical order. Elsewhere (no `id`, or ids whose
    numbers repeat), the index is the position at which the split reads the
    example.

    Images of one shape are read as they are. Others, such as those of
    `food101` or `imagenet2012`, need `image_size`, and are resized as they
    are read, into memory. Where they are too many for that, `extract_to`
    writes them to a folder as they are stored, a file each, for pipelines to
    decode; a second call finds them there.

    Args:
        name: A TFDS name, with `/config` or `:version` if need be.
        split: A TFDS split, such as `"test"` or `"train[:10%]"`.
        data_dir: Folder of prepared data sets. None is TFDS's own default:
            `TFDS_DATA_DIR`, else a folder in the user's home.
        download: Whether to download and prepare what is absent.
        image_size: `(height, width)` to which images are resized
            (bilinearly), after they are cut in the middle to the same
            proportions. None: images keep the one shape that they have.
        extract_to: Folder for the files of this name and split. None: all
            images are decoded into memory.
        label_key: Name of the feature that is the label, such as
            `"coarse_label"` of `cifar100`. None: the data set's own choice.
        memory_limit: Bytes that the decoded images may take.

    Returns:
        `Examples`: with all images decoded, or with the paths of files.

    Raises:
        ImportError: if TensorFlow, TensorFlow Datasets or (to resize) Pillow
            is not installed.
        FileNotFoundError: if the data set is not prepared in `data_dir` and
            `download` is False.
        TypeError: if `name` or `split` is not a string.
        ValueError: if TFDS does not know the name or the split, the data set
            has no images, no class labels, or images that need `image_size`
            or more than `memory_limit`, if images to resize or extract have
            other than 8 or 16 bits, if a label is no class, or if a stored
            image is corrupt.

    Example:

    ```python
    train = keras_smkd.data.load_tfds("cifar10", data_dir="~/datasets")
    train.images.shape  # (50000, 32, 32, 3)
    train.labels[:5]  # [6, 9, 9, 4, 1]
    train.index[:5]  # [0, 1, 2, 3, 4]
    train.num_classes  # 10
    food = keras_smkd.data.load_tfds(
        "food101", image_size=(224, 224), extract_to="~/food101/train"
    )
    ```

    Reference:
        https://www.tensorflow.org/datasets
    """
    for argument, value in (("name", name), ("split", split)):
        if not isinstance(value, str):
            raise TypeError(
                f"`{argument}` must be a string. "
                f"Received: {argument}={value!r}."
            )
    builder = _builder(name, data_dir)
    if download:
        builder.download_and_prepare()
    elif not builder.is_prepared():
        raise FileNotFoundError(
            f"No prepared data set {name!r} in {builder.data_path}: pass as "
            "`data_dir` the folder that holds it, or pass download=True."
        )
    keys = _find_keys(name, builder.info, label_key)
    try:
        size = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"`split` must name a split of {name!r} or a part of one: "
            f"{', '.join(map(repr, builder.info.splits))}. "
            f"Received: split={split!r}."
        ) from error
    features = builder.info.features
    shape = features[keys[0]].shape
    dtype = np.dtype(features[keys[0]].np_dtype)
    is_decoded_here = image_size is not None or extract_to is not None
    if is_decoded_here and dtype not in (np.uint8, np.uint16):
        raise ValueError(
            "`name` must be a data set with images of 8 or 16 bits, to resize "
            f"or extract them. Received: name={name!r}, with images of dtype "
            f"{dtype}."
        )
    if image_size is not None:
        # As decoding gives them.
        dtype = np.dtype(np.uint8)
        channels = shape[-1] if shape[-1] in (1, 3, 4) else 3
        shape = files.check_image_shape(image_size, channels)
    elif len(shape) != 3 or None in shape:
        raise ValueError(
            "`image_size` must be given for a data set whose images have no "
            f"one shape. Received: image_size=None, name={name!r}, with images "
            f"of shape {shape}."
        )
    if extract_to is not None:
        folder = pathlib.Path(extract_to).expanduser()
        images, labels, ids = reading.extract(
            builder, split, size, keys, folder
        )
    else:
        needed = size * int(np.prod(shape)) * dtype.itemsize
        if needed > memory_limit:
            raise ValueError(
                f"`memory_limit` must be >= {needed}, the bytes that the "
                f"images take. Received: memory_limit={memory_limit}. Give "
                "`extract_to`, a smaller `image_size`, or a part as `split`."
            )
        images = np.empty((size, *shape), dtype)
        if image_size is None:
            labels, ids = reading.read(builder, split, keys, images)
        else:
            labels, ids = reading.read_resized(builder, split, keys, images)
    index = _canonical_index(ids)
    if index is None:
        logging.info("No canonical index in the ids: using the position.")
        index = np.arange(size)
    else:
        order = np.argsort(index)
        images, labels, index = images[order], labels[order], index[order]
    label = features[keys[1]]
    return Examples(
        images, labels, index, label.num_classes, tuple(label.names), shape
    )


def _builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    tfds = import_optional("tensorflow_datasets", "load_tfds")
    root = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        return tfds.builder(name, data_dir=root)
    except tfds.core.DatasetNotFoundError:
        near = difflib.get_close_matches(
            re.split("[/:]", name)[0], tfds.list_builders(), n=3
        )
        hint = (
            f"Did you mean {' or '.join(map(repr, near))}?"
            if near
            else ("tfds.list_builders() lists the names.")
        )
        # TFDS's own message lists every data set there is, line by line.
        raise ValueError(
            "`name` must be a data set known to TensorFlow Datasets. "
            f"Received: name={name!r}. {hint}"
        ) from None


def _find_keys(
    name: str, info: Any, label_key: str | None
) -> tuple[str, str, bool]:
    """Return the names of image and label, and whether there are ids."""
    features = info.features
    supervised = info.supervised_keys
    if not supervised or not all(isinstance(key, str) for key in supervised):
        supervised = ("image", "label")
    image, label = supervised[0], label_key or supervised[1]
    missing = [key for key in (image, label) if key not in features]
    if missing:
        raise ValueError(
            f"`name` must be a data set with features {image!r} and "
            f"{label!r}. Received: name={name!r}, with features "
            f"{', '.join(map(repr, features))}."
        )
    if type(features[image]).__name__ != "Image":
        raise ValueError(
            "`name` must be a data set of images. Received: name="
            f"{name!r}, with {image} {features[image]!r}."
        )
    if not isinstance(getattr(features[label], "num_classes", None), int):
        raise ValueError(
            "`name` must be a data set with one class label per example. "
            f"Received: name={name!r}, with label {features[label]!r}."
        )
    return image, label, "id" in features


def _canonical_index(ids: list[Any]) -> npt.NDArray[np.int64] | None:
    """Return the number at the end of each id, or None if they do not serve.

    They do not where an id has none, or where two are alike: `train_0` and
    `test_0`, in a split of both.
    """
    numbers = []
    for identifier in ids:
        text = identifier.decode() if isinstance(identifier, bytes) else ""
        digits = re.search(r"(\d+)$", text)
        if digits is None:
            return None
        numbers.append(int(digits[1]))
    if not numbers or len(set(numbers)) < len(numbers):
        return None
    return np.array(numbers, np.int64)
