"""The batches of a whole training, whose order follows from a seed."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt


class Batches(keras.utils.PyDataset):
    """Hands out the batches of all epochs, one after the other.

    Batch `k` is that of step `k % steps` of epoch `k // steps`, whoever asks
    for it and when: Keras looks ahead before the first epoch, and differently
    on every backend, so a data set that counts epochs itself may miscount.

    Args:
        x: `(examples, ...)` inputs.
        ids: `(examples,)` class ids.
        weights: `(examples,)`, or `None`.
        batch_size: Examples in a batch.
        epochs: Passes over the examples, each in an order of its own.
        seed: Integer >= 0, from which the orders follow.
        with_index: Whether labels come with each example's place.

    Example:

    >>> batches = Batches(
    ...     np.zeros((5, 2)), np.arange(5), None, batch_size=4, epochs=2, seed=0
    ... )
    >>> (batches.steps, [len(labels) for _, labels in batches])
    (2, [4, 1, 4, 1])
    """

    def __init__(
        self,
        x: npt.NDArray[Any],
        ids: npt.NDArray[Any],
        weights: npt.NDArray[Any] | None,
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        with_index: bool = False,
    ) -> None:
        super().__init__(workers=1)
        self.x = x
        self.ids = ids
        self.weights = weights
        self.batch_size = batch_size
        self.epochs = epochs
        self.seed = seed
        self.with_index = with_index
        self.steps = -(-len(x) // batch_size)
        self._order = (-1, np.arange(0))

    def __len__(self) -> int:
        return self.epochs * self.steps

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(
                f"`index` must be in [0, {len(self)}). Received: index={index}."
            )
        epoch, step = divmod(index, self.steps)
        start = step * self.batch_size
        places = self._order_of(epoch)[start : start + self.batch_size]
        labels: Any = self.ids[places]
        if self.with_index:
            labels = {"label": labels, "index": places.astype("int32")}
        if self.weights is None:
            return self.x[places], labels
        return self.x[places], labels, self.weights[places]

    def _order_of(self, epoch: int) -> npt.NDArray[Any]:
        # In one piece: a thread of TensorFlow reads it, too.
        known, order = self._order
        if known != epoch:
            generator = np.random.default_rng([self.seed, epoch])
            order = generator.permutation(len(self.x))
            self._order = (epoch, order)
        return order
