"""What was predicted for each example at its earlier visits."""

from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd.batch import Batch
from keras_smkd.batch import Knowledge
from keras_smkd.batch import routes_by_name
from keras_smkd.memory import ExampleMemory
from keras_smkd.memory import mean_distribution
from keras_smkd.memory import moving_average


@keras.saving.register_keras_serializable(package="keras_smkd")
class PastPredictions(ExampleMemory):
    """The average of each peer's past predictions for the example.

    `q = Z / (1 - momentum^k)` after `k` visits, with
    `Z <- momentum * Z + (1 - momentum) * p` at each. Before the first visit,
    and in evaluation, it has nothing to say.

    The model remembers `num_examples * peers * classes` numbers: 50,000
    examples of 10 classes with two peers take 4 MB as float32. It needs each
    example's index: `fit` supplies it for arrays, the pipelines of
    `keras_smkd.data` bring it.

    Args:
        num_examples: Number of examples in the data set, above every index.
        momentum: Share of the past in the average, in [0, 1).
        routes: `"itself"` (Temporal Ensembling), `"others"`, or an array
            `(learners, peers)`.
        dtype: `"float32"`, or `"float16"` for half the memory and three
            digits.

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
    ) -> None:
        super().__init__(num_examples, dtype)
        self.momentum = _checks.fraction("momentum", momentum)
        self.routes = routes

    def row_shape(self, num_classes: int) -> tuple[int, ...]:
        """Return the shape of what is remembered of one example."""
        return (num_classes,)

    def remember(self, memory: Any, predictions: Any) -> Any:
        """Return the average after this visit, times what is seen of it.

        Args:
            memory: `(batch, classes)`, `Z` of these examples.
            predictions: `(batch, classes)`, probabilities.

        Returns:
            `(batch, classes)`, no gradient.
        """
        return moving_average(memory, predictions, self.momentum)

    def __call__(self, batch: Batch) -> Knowledge:
        """Return the averages from before this visit, and remember it.

        Args:
            batch: With `log_probs`, and in training `index`.
        """
        average, seen = mean_distribution(self.visit(batch))
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
