"""The clean examples of the data sets, in memory."""

import dataclasses
import functools
import gzip
import pathlib
from typing import Any

import keras
import numpy as np
from sklearn import datasets as sklearn_datasets

import keras_smkd


@dataclasses.dataclass(frozen=True)
class Places:
    """Where data sets are; no part of a run's configuration.

    Args:
        data_dir: Folder of data sets prepared by TensorFlow Datasets.
        human_labels: CIFAR-10N's labels, an `.npz` file.
        fashion_dir: Folder of Fashion-MNIST's idx files.
        cifar_dir: Folder of CIFAR-10's binary files; by default TensorFlow
            Datasets reads it.
    """

    data_dir: str | None = None
    human_labels: str | None = None
    fashion_dir: str | None = None
    cifar_dir: str | None = None


@dataclasses.dataclass(frozen=True)
class Pool:
    """Holds clean examples: those to train on or validate with, and the test.

    Args:
        images: `(examples, ...)`, raw numbers.
        labels: `(examples,)`, clean.
        index: `(examples,)`, each example's place in the whole data set.
        test_images: `(test examples, ...)`, raw numbers.
        test_labels: `(test examples,)`, clean.
        largest: The number that becomes 1 where images are scaled.
        num_classes: Number of classes.
    """

    images: Any
    labels: Any
    index: Any
    test_images: Any
    test_labels: Any
    largest: float
    num_classes: int = 10


@functools.lru_cache(maxsize=2)
def load_pool(
    dataset: str,
    examples: int,
    test_examples: int,
    places: Places,
    seed: int | None = None,
) -> Pool:
    """Return a data set's clean examples.

    Args:
        dataset: `"digits"`, `"fashion"`, `"cifar10"`, `"pairs20"` or
            `"pairs100"`.
        examples: How many to use besides those of a test set that comes by
            itself; 0 for all.
        test_examples: How many to test on; 0 for all of a test set that comes
            by itself.
        places: Where the files are.
        seed: Draws which examples and which for the test, of all there are;
            `None` takes the first ones, and the same test always.
    """
    if dataset not in _LOADERS:
        raise ValueError(
            f"`dataset` must be one of {', '.join(_LOADERS)}. Received: "
            f"dataset={dataset!r}."
        )
    everything = _LOADERS[dataset](places)
    if everything.test_images is None:
        return _with_test_from(everything, examples, test_examples, seed)
    images, labels, index = _some(
        everything.images, everything.labels, everything.index, examples, seed
    )
    test_images, test_labels, _ = _some(
        everything.test_images,
        everything.test_labels,
        np.arange(len(everything.test_labels)),
        test_examples,
        None if seed is None else [seed, 1],
    )
    return dataclasses.replace(
        everything,
        images=images,
        labels=labels,
        index=index,
        test_images=test_images,
        test_labels=test_labels,
    )


def _some(images: Any, labels: Any, index: Any, count: int, seed: Any) -> Any:
    """Return so many examples, the first or drawn; 0 for all."""
    if count > len(images):
        raise ValueError(
            f"`examples` must be <= {len(images)}, for there are no more. "
            f"Received: examples={count}."
        )
    if not count:
        return images, labels, index
    chosen = np.arange(count)
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(images))
        chosen = np.sort(order[:count])
    return images[chosen], labels[chosen], index[chosen]


def _with_test_from(
    everything: Pool, examples: int, test_examples: int, seed: int | None
) -> Pool:
    """Return a pool whose test examples are taken from the images."""
    images, labels, index = _some(
        everything.images, everything.labels, everything.index, examples, seed
    )
    if not 0 < test_examples < len(images):
        raise ValueError(
            f"`test_examples` must be in [1, {len(images)}), for there is no "
            f"test set besides. Received: test_examples={test_examples}."
        )
    order = np.random.default_rng(0 if seed is None else [seed, 1]).permutation(
        len(images)
    )
    test, rest = order[:test_examples], np.sort(order[test_examples:])
    return dataclasses.replace(
        everything,
        images=images[rest],
        labels=labels[rest],
        index=index[rest],
        test_images=images[test],
        test_labels=labels[test],
    )


def _digits(places: Places) -> Pool:
    images, labels = sklearn_datasets.load_digits(return_X_y=True)
    return Pool(images, labels, np.arange(len(images)), None, None, 16.0)


def _pairs(places: Places, num_classes: int) -> Pool:
    """Return images of two digits side by side, for more classes than ten.

    Drawn once and for all, those of the test from other digits. A class is
    both digits (100), or the first and whether the second is above four (20).
    """
    digits = _digits(places)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits.labels))
    parts = []
    for own, count in ((order[:1300], 12_000), (order[1300:], 3000)):
        first, second = rng.choice(own, (2, count))
        images = np.concatenate(
            [digits.images[first], digits.images[second]], axis=1
        )
        labels = 10 * digits.labels[first] + digits.labels[second]
        parts += [images, labels // (100 // num_classes)]
    images, labels, test_images, test_labels = parts
    return Pool(
        images,
        labels,
        np.arange(len(labels)),
        test_images,
        test_labels,
        16.0,
        num_classes,
    )


@functools.lru_cache(maxsize=1)
def _fashion(places: Places) -> Pool:
    if places.fashion_dir is None:
        (images, labels), test = keras.datasets.fashion_mnist.load_data()
    else:
        folder = pathlib.Path(places.fashion_dir).expanduser()
        images = read_idx(folder, "train-images-idx3-ubyte")
        labels = read_idx(folder, "train-labels-idx1-ubyte")
        if images is None or labels is None:
            raise FileNotFoundError(
                "`fashion_dir` must be a folder with train-images-idx3-ubyte "
                "and train-labels-idx1-ubyte, perhaps .gz. Received: "
                f"fashion_dir={places.fashion_dir!r}."
            )
        test = (
            read_idx(folder, "t10k-images-idx3-ubyte"),
            read_idx(folder, "t10k-labels-idx1-ubyte"),
        )
    if test[0] is None or test[1] is None:
        test = None, None
    # Of files that were cut, there may be labels without images.
    return Pool(
        images.reshape(len(images), -1),
        labels[: len(images)],
        np.arange(len(images)),
        None if test[0] is None else test[0].reshape(len(test[0]), -1),
        test[1],
        255.0,
    )


def read_idx(folder: pathlib.Path, name: str) -> Any:
    """Return the array of an idx file, plain or `.gz`; None if it is absent.

    An empty file counts as absent.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file() and path.stat().st_size:
            content = path.read_bytes()
            break
    else:
        return None
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    # Two zeros, 8 for unsigned bytes, the number of dimensions; the sizes.
    dimensions = content[3] if content[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start], ">u4").astype(int)
    if not dimensions or len(content) != start + shape.prod():
        raise ValueError(
            f"`path` must be an idx file of bytes, whole. Received: "
            f"path={str(path)!r}, {len(content)} bytes."
        )
    return np.frombuffer(content, "uint8", offset=start).reshape(shape)


def read_cifar10(paths: list[pathlib.Path]) -> tuple[Any, Any]:
    """Return images and labels of files of CIFAR-10's binary version.

    Each example is a byte of its label, then the rows of its red pixels, of
    the green ones and of the blue ones.
    """
    parts = []
    for path in paths:
        content = np.fromfile(path, "uint8")
        if not content.size or content.size % 3073:
            raise ValueError(
                "`path` must be a file of CIFAR-10's binary version, of 3073 "
                f"bytes an example. Received: path={str(path)!r}, "
                f"{content.size} bytes."
            )
        parts.append(content.reshape(-1, 3073))
    examples = np.concatenate(parts)
    images = examples[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), examples[:, 0]


@functools.lru_cache(maxsize=1)
def _cifar10(places: Places) -> Pool:
    if places.cifar_dir is not None:
        folder = pathlib.Path(places.cifar_dir).expanduser()
        batches = [folder / f"data_batch_{i}.bin" for i in range(1, 6)]
        images, labels = read_cifar10(batches)
        test = read_cifar10([folder / "test_batch.bin"])
        return Pool(images, labels, np.arange(len(labels)), *test, 255.0)
    # TFDS keeps CIFAR-10 shuffled: its first examples are a random part.
    train, test = (
        keras_smkd.data.load_tfds("cifar10", name, places.data_dir)
        for name in ("train", "test")
    )
    return Pool(
        train.images,
        train.labels,
        train.index,
        test.images,
        test.labels,
        255.0,
    )


_LOADERS = {
    "digits": _digits,
    "fashion": _fashion,
    "cifar10": _cifar10,
    "pairs20": lambda places: _pairs(places, 20),
    "pairs100": lambda places: _pairs(places, 100),
}
