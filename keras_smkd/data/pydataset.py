"""Batches in NumPy for `fit`, without TensorFlow."""

import os
from typing import Any

import keras
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd.data.batches import make_plan
from keras_smkd.data.examples import Examples
from keras_smkd.data.recipes import Augmentation


class PipelineSequence(keras.utils.PyDataset):
    """Hands out the batches of `make_pipeline` without TensorFlow.

    The same arguments give the same examples, labels and draws in the same
    batches (pixels to float32 rounding).

    An epoch counts once its last batch is handed out, as it does there, and
    the next one begins when Keras calls `on_epoch_end`. Keras calls it once
    more before the first epoch, and `on_epoch_begin` twice on some backends,
    so neither alone tells the epoch. Data of one or two batches may be an
    epoch off, as Keras looks that far ahead; `epoch` can be set. There is one
    worker: with several, Keras 3.15 gives some batches of the first epoch
    twice on JAX and torch.

    Args:
        images: `(examples, ...)`, or `Examples`. See `make_pipeline`, as for
            all that follow.
        labels: `(examples,)` class ids, or `(examples, classes)` one-hot or
            soft; None is for Examples.
        batch_size: Examples per batch, at least 1.
        index: `(examples,)` integers, each example's place in the data set.
        with_index: Whether batches carry an index without one being given.
        num_classes: If given, labels are checked to fit it.
        shuffle: Whether each epoch has a new order. Needs `seed`.
        seed: Integer >= 0.
        augment: An `Augmentation` or the name of one.
        mean: Number, or one per channel, to subtract.
        std: Number > 0, or one per channel, to divide by.
        cache: Where files are kept once decoded.
        shard: `(index, count)` of a host among several.
        drop_remainder: Whether to drop a last batch that is not full.
        initial_epoch: Epoch of the first pass. Give what `fit` is given.

    Raises:
        TypeError: as `make_pipeline` does.
        ValueError: as `make_pipeline` does.

    Example:

    >>> images = np.zeros((5, 8, 8, 3), dtype="uint8")
    >>> batches = PipelineSequence(
    ...     images, [0, 1, 2, 1, 0], batch_size=2, shuffle=True, seed=0
    ... )
    >>> [len(labels) for _, labels in batches]
    [2, 2, 1]
    """

    def __init__(
        self,
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
        drop_remainder: bool = False,
        initial_epoch: int = 0,
    ) -> None:
        # With more workers, Keras keeps what they had ready when it looked
        # at the first batch, and begins with that and the whole epoch again.
        super().__init__(workers=1)
        self._plan = make_plan(
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
        self.epoch = initial_epoch

    @property
    def epoch(self) -> int:
        """The epoch that batches are of, from 0."""
        return self._epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch = _checks.integer("epoch", value, minimum=0)
        self._positions = self._plan.positions(self._epoch)
        self._is_done = False

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch it is, as `fit` does at every epoch's begin."""
        self.epoch = epoch

    @property
    def shard(self) -> tuple[int, int]:
        """Which part of how many parts of the data it is."""
        return self._plan.shard

    @property
    def order_is_known(self) -> bool:
        """Whether batches say which examples they have, or do not shuffle."""
        return self._plan.order_is_known

    @property
    def num_batches(self) -> int:
        return self._plan.num_batches

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Any:
        index = _checks.integer("index", index, minimum=0)
        if index >= self.num_batches:
            raise IndexError(
                f"`index` must be < {self.num_batches}. "
                f"Received: index={index}."
            )
        start = index * self._plan.batch_size
        positions = self._positions[start : start + self._plan.batch_size]
        draws = self._plan.draw(self._epoch, index, len(positions))
        batch = self._plan.batch(positions, draws)
        if index == self.num_batches - 1:
            self._is_done = True
        return batch

    def on_epoch_end(self) -> None:
        if self._is_done:
            self.epoch = self._epoch + 1
