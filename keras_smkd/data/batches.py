"""What a pipeline hands out: its settings, checked, and batches in NumPy."""

import dataclasses
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd.data import files
from keras_smkd.data import inputs
from keras_smkd.data import order
from keras_smkd.data import rand_augment
from keras_smkd.data import recipes
from keras_smkd.data.examples import Examples


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Holds the data and settings that all pipelines share, checked."""

    images: npt.NDArray[Any] | files.FileReader
    dtype: np.dtype[Any]
    image_shape: tuple[int, ...]
    labels: npt.NDArray[Any]
    index: npt.NDArray[np.int32] | None
    num_classes: int | None
    batch_size: int
    shuffle: bool
    seed: int | None
    augmentation: recipes.Augmentation
    statistics: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None
    shard: tuple[int, int]
    drop_remainder: bool
    initial_epoch: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def order_is_known(self) -> bool:
        """Whether batches say which examples they have, or do not shuffle."""
        return self.index is not None or not self.shuffle

    @property
    def num_batches(self) -> int:
        return order.num_batches(
            len(self), self.batch_size, self.drop_remainder, self.shard
        )

    def positions(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the places of an epoch's examples, those of its batches."""
        positions = order.epoch_positions(
            len(self),
            shuffle=self.shuffle,
            seed=self.seed,
            epoch=epoch,
            shard=self.shard,
        )
        return positions[: self.num_batches * self.batch_size]

    def draw(self, epoch: int, batch: int, count: int) -> recipes.Draws:
        """Return what chance decides for a batch of `count` images."""
        if not self.augmentation.is_random:
            return {}
        generator = order.batch_generator(
            self.seed, epoch, batch, self.shard[0]
        )
        return recipes.draw(
            self.augmentation, generator, count, self.image_shape
        )

    def batch(self, positions: Any, draws: recipes.Draws) -> Any:
        """Return the batch of the examples at `positions`, in NumPy."""
        x = self.images[positions]
        if self.augmentation.moves:
            x = recipes.move(x, draws, self.augmentation.padding)
        if self.augmentation.num_ops:
            x = rand_augment.apply(
                x, draws["op"], draws["sign"], self.augmentation.magnitude
            )
        x = x.astype(np.float32)
        if self.dtype == np.uint8:
            x /= np.float32(255.0)
        if self.statistics:
            x = (x - self.statistics[0]) / self.statistics[1]
        y = self.labels[positions]
        if self.augmentation.mixes:
            if y.ndim == 1 and self.num_classes is not None:
                y = np.eye(self.num_classes, dtype=np.float32)[y]
            x, y = recipes.mix(x, y, draws)
        if self.index is not None:
            return x, {"label": y, "index": self.index[positions]}
        return x, y


def make_plan(
    images: npt.ArrayLike | Examples,
    labels: npt.ArrayLike | None,
    *,
    batch_size: int,
    index: npt.ArrayLike | None,
    with_index: bool,
    num_classes: int | None,
    shuffle: bool,
    seed: int | None,
    augment: str | recipes.Augmentation | None,
    mean: npt.ArrayLike | None,
    std: npt.ArrayLike | None,
    cache: str | os.PathLike[str],
    shard: tuple[int, int] | None,
    drop_remainder: bool,
    initial_epoch: int,
) -> Plan:
    """Return the plan of these arguments; `make_pipeline` says what they are.

    Files are opened last, when all else is right.
    """
    shape = None
    if isinstance(images, Examples):
        shape = images.image_shape
        if labels is None:
            labels = images.training_labels
        if num_classes is None:
            num_classes = images.num_classes
        if with_index and index is None:
            index = images.index
        images = images.images
    elif labels is None:
        raise TypeError(
            "`labels` must be given unless `images` are Examples. "
            "Received: labels=None."
        )
    x = inputs.check_images(images)
    y = inputs.check_labels(labels, len(x), num_classes)
    if x.dtype.kind == "U" and shape is None:
        raise TypeError(
            "`images` must be uint8 or floating point, or Examples of files. "
            f"Received: images of dtype {x.dtype}."
        )
    if y.ndim == 2:
        num_classes = y.shape[1]
    shape = tuple(x.shape[1:] if shape is None else shape)
    dtype = np.dtype(np.uint8) if x.dtype.kind == "U" else x.dtype
    size = len(x)
    batch_size = _checks.integer("batch_size", batch_size, minimum=1)
    mine = order.check_shard(shard, size)
    if drop_remainder and batch_size > size // mine[1]:
        raise ValueError(
            f"`batch_size` must be <= {size // mine[1]}, the number of "
            "examples, to drop the remainder. "
            f"Received: batch_size={batch_size}."
        )
    if with_index and index is None:
        index = np.arange(size)
    recipe = recipes.get_augmentation(augment)
    inputs.check_augmentation(
        augment, recipe, shape, dtype, index is not None, num_classes
    )
    seed = order.check_seed(seed, needed=bool(shuffle) or recipe.is_random)
    initial_epoch = _checks.integer("initial_epoch", initial_epoch, minimum=0)
    if index is not None:
        index = inputs.check_index(index, size)
    statistics = inputs.check_statistics(mean, std, shape[-1])
    pixels = x if x.dtype.kind != "U" else files.open_files(x, shape, cache)
    return Plan(
        images=pixels,
        dtype=dtype,
        image_shape=shape,
        labels=y,
        index=index,
        num_classes=num_classes,
        batch_size=batch_size,
        shuffle=bool(shuffle),
        seed=seed,
        augmentation=recipe,
        statistics=statistics,
        shard=mine,
        drop_remainder=drop_remainder,
        initial_epoch=initial_epoch,
    )
