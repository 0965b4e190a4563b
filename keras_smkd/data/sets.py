"""Data sets in memory, and human labels that align with them."""

import dataclasses
import difflib
import importlib
import os
import pathlib
import re
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from keras_smkd import _checks

_READ_BATCH = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Holds the examples of a data set in memory, in canonical order.

    Args:
        images: `(examples, height, width, channels)`, dtype as stored (uint8
            for nearly all data sets).
        labels: `(examples,)` int32, as the data set gives them.
        index: `(examples,)` int64, each example's canonical index in its
            data set; `human_labels[index]` aligns a file of labels.
        num_classes: Number of classes that the data set has.
    """

    images: npt.NDArray[Any]
    labels: npt.NDArray[np.int32]
    index: npt.NDArray[np.int64]
    num_classes: int


def load_tfds(
    name: str,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> Examples:
    """Load a split of a TensorFlow Datasets image data set into memory.

    Where the data set has an `id` feature that ends in a number, as CIFAR-10
    has (`train_16399`), the number is the example's index and the examples
    are sorted by it: TFDS stores CIFAR-10 shuffled, while files of human
    labels come in the canonical order. Elsewhere (no `id`, or ids whose
    numbers repeat), the index is the position at which the split reads the
    example.

    Args:
        name: A TFDS name, with `/config` or `:version` if need be.
        split: A TFDS split, such as `"test"` or `"train[:10%]"`.
        data_dir: Folder of prepared data sets. None is TFDS's own default:
            `TFDS_DATA_DIR`, else a folder in the user's home.
        download: Whether to download and prepare what is absent.

    Returns:
        `Examples`, with all images decoded.

    Raises:
        ImportError: if TensorFlow or TensorFlow Datasets is not installed.
        FileNotFoundError: if the data set is not prepared in `data_dir` and
            `download` is False.
        TypeError: if `name` or `split` is not a string.
        ValueError: if TFDS does not know the name or the split, or if the
            data set has no images of one shape or no class labels.

    Example:

    ```python
    train = keras_smkd.data.load_tfds("cifar10", data_dir="~/datasets")
    train.images.shape  # (50000, 32, 32, 3)
    train.labels[:5]  # [6, 9, 9, 4, 1]
    train.index[:5]  # [0, 1, 2, 3, 4]
    train.num_classes  # 10
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
    tfds = import_optional("tensorflow_datasets", "load_tfds")
    root = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        builder = tfds.builder(name, data_dir=root)
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
    if download:
        builder.download_and_prepare()
    elif not builder.is_prepared():
        raise FileNotFoundError(
            f"No prepared data set {name!r} in {builder.data_path}: pass as "
            "`data_dir` the folder that holds it, or pass download=True."
        )
    _check_features(name, builder.info.features)
    try:
        size = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"`split` must name a split of {name!r} or a part of one: "
            f"{', '.join(map(repr, builder.info.splits))}. "
            f"Received: split={split!r}."
        ) from error
    return _read(tfds, builder, split, size)


def load_human_labels(
    path: str | os.PathLike[str], name: str
) -> npt.NDArray[np.int32]:
    """Load one set of human labels from an `.npz` file.

    The files of CIFAR-N, saved as `.npz`, hold `clean_label`, `aggre_label`,
    `random_label1` to `random_label3` and `worse_label` for CIFAR-10, in the
    canonical order that `load_tfds` restores.

    Args:
        path: The `.npz` file. Nothing in it is unpickled.
        name: Key of the labels in the file.

    Returns:
        `(examples,)` int32.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if the array holds anything but integers.
        ValueError: if the file is no `.npz`, has no such key, or the array
            is not 1-D.

    Example:

    ```python
    train = keras_smkd.data.load_tfds("cifar10")
    worse = keras_smkd.data.load_human_labels(PATH, "worse_label")
    keras_smkd.noise.realized_noise_rate(
        train.labels, worse[train.index]
    )  # 0.40208
    ```

    Reference:
        Wei et al., 2022, "Learning with Noisy Labels Revisited: A Study
        Using Real-World Human Annotations". https://arxiv.org/abs/2110.12088
    """
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(
            f"`path` must be an existing .npz file. Received: path={path!r}."
        )
    if not zipfile.is_zipfile(file):
        raise ValueError(
            f"`path` must be a file in .npz format. Received: path={path!r}."
        )
    with np.load(file, allow_pickle=False) as archive:
        _checks.one_of("name", name, archive.files)
        labels = archive[name]
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"`{name}` in the file must be integers. "
            f"Received: {name} of dtype {labels.dtype}."
        )
    if labels.ndim != 1:
        raise ValueError(
            f"`{name}` in the file must be 1-D. "
            f"Received: {name} of shape {labels.shape}."
        )
    return labels.astype(np.int32)


def import_optional(module: str, user: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"`{user}` needs {module}, which could not be imported. Install "
            'with: pip install "keras-smkd[data]"'
        ) from error


def _check_features(name: str, features: Any) -> None:
    missing = [key for key in ("image", "label") if key not in features]
    if missing:
        raise ValueError(
            "`name` must be a data set with features 'image' and 'label'. "
            f"Received: name={name!r}, with features "
            f"{', '.join(map(repr, features))}."
        )
    shape = features["image"].shape
    if len(shape) != 3 or None in shape:
        raise ValueError(
            "`name` must be a data set whose images have one shape. Received: "
            f"name={name!r}, with images of shape {shape}. Resize them, and "
            "make the pipeline from arrays."
        )
    if not isinstance(getattr(features["label"], "num_classes", None), int):
        raise ValueError(
            "`name` must be a data set with one class label per example. "
            f"Received: name={name!r}, with label {features['label']!r}."
        )


def _read(tfds: Any, builder: Any, split: str, size: int) -> Examples:
    features = builder.info.features
    keys = [key for key in ("image", "label", "id") if key in features]
    batches = builder.as_dataset(
        split=split,
        shuffle_files=False,
        # Whole batches cross into Python: one by one is ten times slower.
        batch_size=_READ_BATCH,
        decoders=tfds.decode.PartialDecoding(dict.fromkeys(keys, True)),
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    images = np.empty(
        (size, *features["image"].shape), features["image"].np_dtype
    )
    labels = np.empty(size, np.int32)
    ids: list[Any] = []
    start = 0
    for batch in batches.as_numpy_iterator():
        stop = start + len(batch["label"])
        images[start:stop] = batch["image"]
        labels[start:stop] = batch["label"]
        ids.extend(batch.get("id", ()))
        start = stop
    index = _canonical_index(ids)
    if index is None:
        logging.info("No canonical index in the ids: using the position.")
        index = np.arange(size)
    else:
        order = np.argsort(index)
        images, labels, index = images[order], labels[order], index[order]
    return Examples(images, labels, index, features["label"].num_classes)


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
