"""Pipelines of `tf.data`, from arrays to batches with noisy labels."""

import dataclasses
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd import noise
from keras_smkd.data.sets import Examples
from keras_smkd.data.sets import import_optional
from keras_smkd.data.sets import load_tfds

_AUGMENT = ("flip_crop",)
_CROP_PADDING = 4


@dataclasses.dataclass(frozen=True, eq=False)
class NoisyPipeline:
    """Holds a pipeline with noisy labels, and what its noise did.

    Args:
        dataset: `tf.data.Dataset` of batches with the noisy labels.
        clean_labels: `(examples,)` integers, the labels before injection.
        noisy_labels: `(examples,)` integers, the labels in `dataset`, in the
            same order.
        noise_rate: Share of noisy labels that differ from the clean ones.
    """

    dataset: Any
    clean_labels: npt.NDArray[Any]
    noisy_labels: npt.NDArray[Any]
    noise_rate: float


def make_pipeline(
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    batch_size: int,
    index: npt.ArrayLike | None = None,
    num_classes: int | None = None,
    shuffle: bool = False,
    seed: int | None = None,
    augment: str | None = None,
    drop_remainder: bool = False,
    prefetch: bool = True,
    initial_epoch: int = 0,
) -> Any:
    """Return a `tf.data.Dataset` of batches for `fit` on any backend.

    A batch is `(images, labels)`, or `(images, {"label": ..., "index": ...})`
    with `index`. Its length is known, so `fit` knows the steps per epoch.
    Pass `shuffle=False` to `fit`: it warns that it cannot shuffle a dataset,
    although this one shuffles itself.

    Order and augmentation follow from `seed`, the epoch and the batch alone,
    not from any global seed. One pass over the dataset is one epoch, and the
    next pass has another order. A pass left before its last batch does not
    count: `fit` looks at a batch or two before it starts on JAX and torch,
    and would else train on other epochs there than on TensorFlow.

    Args:
        images: `(examples, ...)`. uint8 becomes float32 in [0, 1]; floats
            become float32 and keep their values.
        labels: `(examples,)` integers, or `(examples, classes)` one-hot or
            soft. As training shall see them: noisy, if noise is wanted.
        batch_size: Examples per batch, at least 1.
        index: `(examples,)` integers, each example's place in the data set,
            for models that remember examples.
        num_classes: If given, labels are checked to fit it.
        shuffle: Whether each epoch has a new order. Needs `seed`.
        seed: Integer >= 0.
        augment: None, or `"flip_crop"`: pad by 4 pixels of 0, crop to the
            old size at a random place, mirror left-right with probability
            1/2, each image by itself. Needs `seed`.
        drop_remainder: Whether to drop a last batch that is not full.
        prefetch: Whether to prepare batches ahead, on several threads.
        initial_epoch: Epoch of the first pass. Give what `fit` is given, so
            that resumed training goes on with the same orders.

    Returns:
        `tf.data.Dataset`; images float32, labels int32 (float32 if soft),
        index int32.

    Raises:
        ImportError: if TensorFlow is not installed.
        TypeError: if `images`, `labels`, `index`, `seed` or a number is of
            the wrong kind.
        ValueError: if there are no examples, lengths differ, labels do not
            fit `num_classes`, the recipe is unknown or the images are not
            4-D for it, `seed` is missing, or a number is out of range.

    Example:

    >>> images = np.zeros((5, 8, 8, 3), dtype="uint8")
    >>> dataset = make_pipeline(
    ...     images, [0, 1, 2, 1, 0], batch_size=2, shuffle=True, seed=0
    ... )
    >>> len(dataset)
    3
    >>> [len(labels) for _, labels in dataset]
    [2, 2, 1]
    """
    images, labels = _check_examples(images, labels, num_classes)
    size = len(images)
    batch_size = _checks.integer("batch_size", batch_size, minimum=1)
    if drop_remainder and batch_size > size:
        raise ValueError(
            f"`batch_size` must be <= {size}, the number of examples, to drop "
            f"the remainder. Received: batch_size={batch_size}."
        )
    if augment is not None:
        _checks.one_of("augment", augment, _AUGMENT)
        if images.ndim != 4:
            raise ValueError(
                "`images` must be (examples, height, width, channels) for "
                f"augment={augment!r}. "
                f"Received: images of shape {images.shape}."
            )
    if seed is not None:
        seed = _checks.integer("seed", seed, minimum=0)
    elif shuffle or augment:
        raise ValueError(
            "`seed` must be an integer to shuffle or augment. "
            "Received: seed=None."
        )
    initial_epoch = _checks.integer("initial_epoch", initial_epoch, minimum=0)
    if index is not None:
        index = _check_index(index, size)
    tf = import_optional("tensorflow", "make_pipeline")
    parallel = tf.data.AUTOTUNE if prefetch else None

    # The pipeline runs on the CPU; tensors made on a GPU would be copied back.
    with tf.device("CPU:0"):
        arrays = (
            tf.constant(images),
            {"label": tf.constant(labels)},
        )
        if index is not None:
            arrays[1]["index"] = tf.constant(index)

        def batch_at(positions: Any, key: Any = None) -> Any:
            x = tf.gather(arrays[0], positions)
            if augment == "flip_crop":
                x = _flip_crop(tf, x, key)
            if x.dtype == tf.uint8:
                x = tf.cast(x, tf.float32) / 255.0
            y = {k: tf.gather(v, positions) for k, v in arrays[1].items()}
            return x, (y if "index" in y else y["label"])

        if not (shuffle or augment):
            dataset = tf.data.Dataset.range(size)
            dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
            dataset = dataset.map(batch_at, num_parallel_calls=parallel)
            return dataset.prefetch(tf.data.AUTOTUNE) if prefetch else dataset
        return _random_epochs(
            tf,
            batch_at,
            size=size,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_remainder=drop_remainder,
            prefetch=prefetch,
            initial_epoch=initial_epoch,
        )


def noisy_pipeline(
    source: str | Examples | tuple[npt.ArrayLike, npt.ArrayLike],
    transition_matrix: npt.ArrayLike,
    *,
    noise_seed: int,
    batch_size: int,
    exact: bool = False,
    with_index: bool = False,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    shuffle: bool = False,
    seed: int | None = None,
    augment: str | None = None,
    drop_remainder: bool = False,
    prefetch: bool = True,
    initial_epoch: int = 0,
) -> NoisyPipeline:
    """Return a pipeline whose labels are made noisy, once, and the labels.

    `load_tfds`, `noise.corrupt_labels` and `make_pipeline` in one call.

    Args:
        source: A TFDS name, `Examples`, or a pair `(images, labels)`.
        transition_matrix: `(classes, classes)`, rows sum to 1.
        noise_seed: Integer >= 0 for the noise. Apart from `seed`, so that
            runs with other seeds share the same wrong labels.
        batch_size: See `make_pipeline`.
        exact: See `noise.corrupt_labels`.
        with_index: Whether batches carry each example's index, its position
            in `clean_labels` and `noisy_labels`.
        split: See `load_tfds`; for a name only, like the next two.
        data_dir: See `load_tfds`.
        download: See `load_tfds`.
        shuffle: See `make_pipeline`, as for all that follow.
        seed: Integer >= 0 for order and augmentation.
        augment: None or `"flip_crop"`.
        drop_remainder: Whether to drop a last batch that is not full.
        prefetch: Whether to prepare batches ahead.
        initial_epoch: Epoch of the first pass.

    Returns:
        `NoisyPipeline`: `dataset`, `clean_labels`, `noisy_labels` and the
        realised `noise_rate`.

    Raises:
        TypeError: if `source` is none of the three.
        ValueError: if the matrix is not a transition matrix, or has another
            number of classes than the data set.
        Exception: whatever the three functions raise.

    Example:

    >>> images = np.zeros((8, 4, 4, 1), dtype="float32")
    >>> train = noisy_pipeline(
    ...     (images, [0, 0, 0, 0, 1, 1, 1, 1]),
    ...     noise.symmetric_excluding_true(0.25, num_classes=2),
    ...     noise_seed=0,
    ...     batch_size=4,
    ...     exact=True,
    ... )
    >>> train.noise_rate, len(train.dataset)
    (0.25, 2)
    """
    if isinstance(source, str):
        source = load_tfds(source, split, data_dir, download)
    if isinstance(source, Examples):
        noise.check_transition_matrix(transition_matrix, source.num_classes)
        images, labels = source.images, source.labels
    elif isinstance(source, tuple | list) and len(source) == 2:
        images, labels = map(np.asarray, source)
    else:
        raise TypeError(
            "`source` must be a data set's name, Examples or a pair "
            f"(images, labels). Received: source of type {type(source)}."
        )
    noisy_labels = noise.corrupt_labels(
        labels, transition_matrix, noise_seed, exact
    )
    dataset = make_pipeline(
        images,
        noisy_labels,
        batch_size=batch_size,
        index=np.arange(len(labels)) if with_index else None,
        shuffle=shuffle,
        seed=seed,
        augment=augment,
        drop_remainder=drop_remainder,
        prefetch=prefetch,
        initial_epoch=initial_epoch,
    )
    return NoisyPipeline(
        dataset,
        labels,
        noisy_labels,
        noise.realized_noise_rate(labels, noisy_labels),
    )


def _check_examples(
    images: npt.ArrayLike, labels: npt.ArrayLike, num_classes: int | None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return images and labels in the dtypes that the pipeline hands on."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim < 2 or not len(images):
        raise ValueError(
            "`images` must be (examples, ...) with at least one example. "
            f"Received: images of shape {images.shape}."
        )
    if images.dtype.kind == "f":
        images = images.astype(np.float32, copy=False)
    elif images.dtype != np.uint8:
        raise TypeError(
            "`images` must be uint8 or floating point. Received: images of "
            f"dtype {images.dtype}. Scale them to [0, 1] as floats."
        )
    integers = labels.dtype.kind in "iu"
    if not (labels.ndim == 1 and integers) and not (
        labels.ndim == 2 and (integers or labels.dtype.kind == "f")
    ):
        raise TypeError(
            "`labels` must be (examples,) integers or (examples, classes) "
            f"numbers. Received: labels of shape {labels.shape}, dtype "
            f"{labels.dtype}."
        )
    if len(labels) != len(images):
        raise ValueError(
            "`labels` must be as long as `images`. "
            f"Received: {len(labels)} labels, {len(images)} images."
        )
    if num_classes is not None:
        _check_classes(labels, num_classes)
    return images, labels.astype(np.int32 if labels.ndim == 1 else np.float32)


def _check_classes(labels: npt.NDArray[Any], num_classes: int) -> None:
    num_classes = _checks.integer("num_classes", num_classes, minimum=2)
    if labels.ndim == 2 and labels.shape[1] != num_classes:
        raise ValueError(
            f"`labels` must have {num_classes} columns, one per class. "
            f"Received: labels of shape {labels.shape}."
        )
    low, high = labels.min(), labels.max()
    if labels.ndim == 1 and (low < 0 or high >= num_classes):
        raise ValueError(
            f"`labels` must be in [0, {num_classes}). "
            f"Received: labels from {low} to {high}."
        )


def _check_index(index: npt.ArrayLike, size: int) -> npt.NDArray[np.int32]:
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


def _flip_crop(tf: Any, images: Any, key: Any) -> Any:
    """Return each image padded, cropped at random and mirrored or not."""
    height, width = images.shape[1:3]
    count = tf.shape(images)[:1]
    keys = tf.random.experimental.stateless_split(key, 3)
    top, left = (
        tf.random.stateless_uniform(
            count, key, 0, 2 * _CROP_PADDING + 1, tf.int32
        )[:, None]
        for key in (keys[0], keys[1])
    )
    mirror = tf.random.stateless_uniform(count, keys[2], 0, 2, tf.int32)
    rows = top + tf.range(height)
    columns = left + tf.range(width)
    columns = tf.where(mirror[:, None] == 1, columns[:, ::-1], columns)
    pad = [_CROP_PADDING, _CROP_PADDING]
    padded = tf.pad(images, [[0, 0], pad, pad, [0, 0]])
    cropped = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(cropped, columns, axis=2, batch_dims=1)


def _random_epochs(
    tf: Any,
    batch_at: Any,
    *,
    size: int,
    batch_size: int,
    shuffle: bool,
    seed: int | None,
    drop_remainder: bool,
    prefetch: bool,
    initial_epoch: int,
) -> Any:
    """Return the dataset that orders and augments each epoch anew.

    `Dataset.shuffle` would serve but for two things: its order also depends
    on TensorFlow's global seed, and every iterator ever begun moves it on.
    """
    steps = size // batch_size if drop_remainder else -(-size // batch_size)
    root = np.random.SeedSequence(seed).generate_state(2).astype(np.int64)
    next_epoch = tf.Variable(initial_epoch, dtype=tf.int64, trainable=False)
    fold_in = tf.random.experimental.stateless_fold_in

    def batches_of(epoch: Any) -> Any:
        key = fold_in(tf.constant(root), epoch)
        positions = tf.range(size, dtype=tf.int64)
        if shuffle:
            positions = tf.random.experimental.stateless_shuffle(
                positions, fold_in(key, steps)
            )
        batches = tf.data.Dataset.from_tensor_slices(positions).batch(
            batch_size, drop_remainder=drop_remainder
        )
        return batches.enumerate().map(
            lambda step, positions: (epoch, step, positions, fold_in(key, step))
        )

    def prepare(epoch: Any, step: Any, positions: Any, key: Any) -> Any:
        return epoch, step, batch_at(positions, key)

    def hand_out(epoch: Any, step: Any, batch: Any) -> Any:
        done = epoch + tf.cast(tf.equal(step, steps - 1), tf.int64)
        next_epoch.assign(tf.maximum(next_epoch, done))
        return batch

    dataset = tf.data.Dataset.from_tensors(0)
    dataset = dataset.map(lambda _: next_epoch.read_value())
    dataset = dataset.flat_map(batches_of)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    dataset = dataset.map(
        prepare, num_parallel_calls=tf.data.AUTOTUNE if prefetch else None
    )
    if prefetch:
        dataset = dataset.prefetch(tf.data.AUTOTUNE)
    # After the prefetching, so that it counts batches taken, not prepared.
    return dataset.map(hand_out)
