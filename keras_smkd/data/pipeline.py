"""Pipelines of `tf.data`, from examples to batches with noisy labels."""

import os
from typing import Any

import numpy.typing as npt

from keras_smkd.data import tf_batches
from keras_smkd.data.batches import make_plan
from keras_smkd.data.examples import Examples
from keras_smkd.data.optional import import_optional
from keras_smkd.data.recipes import Augmentation


def make_pipeline(
    images: npt.ArrayLike | Examples,
    labels: npt.ArrayLike | None = None,
    *,
    batch_size: int,
    index: npt.ArrayLike | None = None,
    with_index: bool = False,
    num_classes: int | None = None,
    shuffle: bool = False,
    seed: int | None = None,
    augment: str | Augmentation | None = None,
    mean: npt.ArrayLike | None = None,
    std: npt.ArrayLike | None = None,
    cache: str | os.PathLike[str] = "auto",
    shard: tuple[int, int] | None = None,
    deterministic: bool = True,
    drop_remainder: bool = False,
    prefetch: bool = True,
    initial_epoch: int = 0,
) -> Any:
    """Return a `tf.data.Dataset` of batches for `fit` on any backend.

    A batch is `(images, labels)`, or `(images, {"label": ..., "index": ...})`
    with an index. Its length is known, so `fit` knows the steps per epoch.
    Pass `shuffle=False` to `fit`: it warns that it cannot shuffle a dataset,
    although this one shuffles itself.

    Order and augmentation follow from `seed`, the epoch and the batch alone,
    not from any global seed; `PipelineSequence` has the same. One pass over
    the dataset is one epoch, and the next pass has another order. A pass left
    before its last batch does not count: `fit` looks at a batch or two before
    it starts on JAX and torch, and would else train on other epochs there
    than on TensorFlow.

    Images go through: decoding (of files), augmentation, scaling to [0, 1]
    (of uint8), `mean` and `std`, MixUp or CutMix.

    Args:
        images: `(examples, ...)`, or `Examples`, whose images may be files.
            uint8 becomes float32 in [0, 1]; floats become float32 and keep
            their values.
        labels: `(examples,)` class ids, or `(examples, classes)` one-hot or
            soft, rows sum to 1. Class ids are integers or booleans of any
            width, or floats that are whole numbers, also as `(examples, 1)`.
            As training shall see them: noisy, if noise is wanted. None is for
            Examples: their noisy labels, or the clean ones if they have no
            noise.
        batch_size: Examples per batch, at least 1.
        index: `(examples,)` integers, each example's place in the data set,
            for models that remember examples.
        with_index: Whether batches carry an index without one being given:
            the canonical index of Examples, or else the position. A part of a
            data set keeps the index of the whole: it is the whole's number of
            examples that a model needs.
        num_classes: If given, labels are checked to fit it. Mixing integer
            labels needs it; Examples know it.
        shuffle: Whether each epoch has a new order. Needs `seed`.
        seed: Integer >= 0.
        augment: An `Augmentation`, or the name of one in `RECIPES`: `"none"`
            or None; `"flip_crop"`: pad by 4 pixels of 0, crop to the old size
            at a random place, mirror left-right with probability 1/2, each
            image by itself; `"randaugment"`, `"mixup"`, `"cutmix"`: that, and
            then two operations of magnitude 0.3, Beta(0.2, 0.2), or
            Beta(1, 1). Mixed labels are soft. Needs `seed`.
        mean: Number, or one per channel, to subtract from images in [0, 1].
        std: Number > 0, or one per channel, to divide by after that.
        cache: Where files are kept once decoded: `"memory"`, now; the path of
            an `.npy` file, made now unless it is there, whole and of the same
            files; `"none"`, nowhere, and each epoch decodes them anew;
            `"auto"`: memory if they take at most 2 GiB, else none. A path
            makes its note beside it, a `.json`; files there that are no cache
            are an error. Arrays are in memory anyhow.
        shard: `(index, count)` of a host among several. Its epoch is every
            `count`-th example of the order that all hosts share, so that they
            see every example once among them. The batch size is each host's.
            Numbers of batches may differ by one: `drop_remainder` makes them
            equal.
        deterministic: Whether batches come in their order. False lets those
            that are ready first overtake others.
        drop_remainder: Whether to drop a last batch that is not full.
        prefetch: Whether to prepare batches ahead, on several threads.
        initial_epoch: Epoch of the first pass. Give what `fit` is given, so
            that resumed training goes on with the same orders.

    Returns:
        `tf.data.Dataset`; images float32, labels int32 (float32 if soft),
        index int32.

    Raises:
        ImportError: if TensorFlow, or (for files) Pillow is not installed.
        TypeError: if `images`, `labels`, `index`, `seed` or a number is of
            the wrong kind.
        ValueError: if there are no examples, lengths differ, labels are
            neither class ids nor distributions, or do not fit `num_classes`,
            the recipe is unknown or the images do not fit it, examples with
            an index are to be mixed, `seed` is missing, a number is out of
            range, or a file is no image. Without a cache, such a file ends
            the pass that meets it, in TensorFlow's `InvalidArgumentError`,
            which names it.

    Example:

    >>> images = np.zeros((5, 8, 8, 3), dtype="uint8")
    >>> dataset = make_pipeline(
    ...     images, [0, 1, 2, 1, 0], batch_size=2, shuffle=True, seed=0
    ... )
    >>> len(dataset)
    3
    >>> [len(labels) for _, labels in dataset]
    [2, 2, 1]

    Reference:
        See `Augmentation` for the papers of the recipes.
    """
    plan = make_plan(
        images,
        labels,
        batch_size=batch_size,
        index=index,
        with_index=with_index,
        num_classes=num_classes,
        shuffle=shuffle,
        seed=seed,
        augment=augment,
        mean=mean,
        std=std,
        cache=cache,
        shard=shard,
        drop_remainder=drop_remainder,
        initial_epoch=initial_epoch,
    )
    tf = import_optional("tensorflow", "make_pipeline")
    # The pipeline runs on the CPU; tensors made on a GPU would be copied back.
    with tf.device("CPU:0"):
        batch_at = tf_batches.batch_maker(tf, plan)
        options = {
            "num_parallel_calls": tf.data.AUTOTUNE if prefetch else None,
            "deterministic": deterministic if prefetch else None,
        }
        if plan.shuffle or plan.augmentation.is_random:
            dataset = tf_batches.random_epochs(tf, plan, batch_at, options)
        else:
            dataset = tf.data.Dataset.from_tensor_slices(plan.positions(0))
            dataset = dataset.batch(plan.batch_size)
            dataset = dataset.map(
                lambda positions: batch_at(positions, {}), **options
            )
            if prefetch:
                dataset = dataset.prefetch(tf.data.AUTOTUNE)
    # So that `fit` can tell where it must not be divided once more.
    dataset.shard = plan.shard
    # And a report where it could not tell whose predictions it gets.
    dataset.order_is_known = plan.order_is_known
    return dataset
