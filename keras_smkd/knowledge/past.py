"""What was predicted for each example at its earlier visits."""

from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd.batch import Batch
from keras_smkd.batch import Knowledge
from keras_smkd.batch import routes_by_name
from keras_smkd.functional.largest import keep_largest
from keras_smkd.functional.largest import spread_largest
from keras_smkd.memory import ExampleMemory
from keras_smkd.memory import mean_distribution
from keras_smkd.memory import moving_average

# Up to which every integer is a number of the type.
LARGEST_EXACT = {"float16": 2048}


@keras.saving.register_keras_serializable(package="keras_smkd")
class PastPredictions(ExampleMemory):
    """The average of each peer's past predictions for the example.

    `q = Z / (1 - momentum^k)` after `k` visits, with
    `Z <- momentum * Z + (1 - momentum) * p` at each. Before the first visit,
    and in evaluation, it has nothing to say.

    The model remembers `num_examples * peers * classes` numbers: 50,000
    examples of 10 classes with two peers take 4 MB as float32. Of many
    classes, the `top` largest of `Z` can be kept and the others by their sum,
    which they share evenly when it is read: `2 * top + 1` numbers for an
    example and peer. 1.28 million examples of 1,000 classes then take 44 MB a
    peer (`top=8`, float16) instead of 5.1 GB. It needs each example's index:
    `fit` supplies it for arrays, the pipelines of `keras_smkd.data` bring it.

    Args:
        num_examples: Number of examples in the data set, above every index.
        momentum: Share of the past in the average, in [0, 1).
        routes: `"itself"` (Temporal Ensembling), `"others"`, or an array
            `(learners, peers)`.
        dtype: `"float32"`, or `"float16"` for half the memory and three
            digits.
        top: How many classes of an example are kept, at least 1 and fewer than
            there are; `None` for all. As float16, of at most 2,048 classes.

    Reference:
        Laine and Aila, 2017, "Temporal Ensembling for Semi-Supervised
        Learning", algorithm 2. https://arxiv.org/abs/1610.02242
    """

    def __init__(
        self,
        num_examples: int,
        momentum: float = 0.6,
        routes: Any = "itself",
        dtype: str = "float32",
        top: int | None = None,
    ) -> None:
        super().__init__(num_examples, dtype)
        self.momentum = _checks.fraction("momentum", momentum)
        self.routes = routes
        if top is not None:
            top = _checks.integer("top", top, minimum=1)
        self.top = top

    def prepare(self, peers: Any, num_classes: int) -> None:
        """Make the weight, zeros.

        Raises:
            ValueError: if `top` does not fit the number of classes.
        """
        if self.top is not None and self.top >= num_classes:
            raise ValueError(
                "`top` must be below the number of classes, or None to keep "
                f"all. Received: top={self.top} for {num_classes} classes."
            )
        largest = LARGEST_EXACT.get(self.dtype, num_classes)
        if self.top is not None and num_classes > largest:
            raise ValueError(
                f"`top` must be None for more than {largest} classes, whose "
                f"numbers {self.dtype} does not hold. Received: top={self.top} "
                f'for {num_classes} classes. Use `dtype="float32"`.'
            )
        super().prepare(peers, num_classes)

    def row_shape(self, num_classes: int) -> tuple[int, ...]:
        """Return the shape of what is remembered of one example."""
        return (num_classes if self.top is None else 2 * self.top + 1,)

    def remember(self, memory: Any, predictions: Any) -> Any:
        """Return the average after this visit, times what is seen of it.

        Args:
            memory: `(batch, classes)`, `Z` of these examples, or what is kept
                of it, `(batch, 2 * top + 1)`.
            predictions: `(batch, classes)`, probabilities.

        Returns:
            As `memory`, no gradient.
        """
        average = moving_average(
            self._whole(memory, predictions.shape[-1]),
            predictions,
            self.momentum,
        )
        if self.top is None:
            return average
        return keep_largest(average, self.top)

    def _whole(self, memory: Any, num_classes: int) -> Any:
        if self.top is None:
            return memory
        return spread_largest(memory, num_classes)

    def __call__(self, batch: Batch) -> Knowledge:
        """Return the averages from before this visit, and remember it.

        Args:
            batch: With `log_probs`, and in training `index`.
        """
        remembered = self.visit(batch)
        num_classes = batch.log_probs.shape[-1]
        average, seen = mean_distribution(self._whole(remembered, num_classes))
        # NaN for a place that is not in the data set stays NaN, and heard.
        said = ops.logical_or(seen > 0, ops.isnan(average[..., 0]))
        average = ops.where(
            ops.expand_dims(said, axis=-1), average, 1.0 / average.shape[-1]
        )
        num_learners, num_sources = batch.num_learners, average.shape[1]
        return Knowledge(
            log_probs=ops.log(average),
            routes=routes_by_name(self.routes, num_learners, num_sources),
            available=ops.cast(said, average.dtype),
        )
