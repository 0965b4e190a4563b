"""What was predicted for each example until now, this visit included."""

from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd.batch import Batch
from keras_smkd.batch import Knowledge
from keras_smkd.batch import routes_by_name
from keras_smkd.divergences import LOWEST_PROBABILITY
from keras_smkd.memory import ExampleMemory
from keras_smkd.memory import moving_average


@keras.saving.register_keras_serializable(package="keras_smkd")
class EarlyPredictions(ExampleMemory):
    """The targets of early-learning regularisation.

    `q = t`, with `t <- momentum * t + (1 - momentum) * p` at each visit, from
    zeros on and this visit's prediction included. As in the authors' code,
    `p` is first clipped to [1e-4, 1 - 1e-4] and divided by its sum. In
    evaluation there is nothing to say.

    Made for `keras_smkd.divergences.EarlyLearning`. It is no distribution: the
    average is not corrected for its beginning, and sums to
    `1 - momentum^k` at the visit `k`, so that what is said to the learner
    grows with the visits. `PastPredictions` is the average that is corrected
    and comes from before the visit.

    The model remembers `num_examples * peers * classes` numbers: 50,000
    examples of 10 classes with two peers take 4 MB as float32. It needs each
    example's index: `fit` supplies it for arrays, the pipelines of
    `keras_smkd.data` bring it.

    Args:
        num_examples: Number of examples in the data set, above every index.
        momentum: Share of the past in the average, in [0, 1).
        routes: `"itself"`, `"others"`, or an array `(learners, peers)`.
        dtype: `"float32"`, or `"float16"` for half the memory and three
            digits.

    Reference:
        Liu et al., 2020, "Early-Learning Regularization Prevents Memorization
        of Noisy Labels". https://arxiv.org/abs/2007.00151
    """

    def __init__(
        self,
        num_examples: int,
        momentum: float = 0.7,
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
        """Return the average after this visit.

        Args:
            memory: `(..., classes)`, `t` of these examples.
            predictions: `(..., classes)`, probabilities.

        Returns:
            `(..., classes)`, no gradient.
        """
        clipped = ops.clip(
            predictions, LOWEST_PROBABILITY, 1.0 - LOWEST_PROBABILITY
        )
        total = ops.sum(clipped, axis=-1, keepdims=True)
        return moving_average(memory, clipped / total, self.momentum)

    def __call__(self, batch: Batch) -> Knowledge:
        """Return the averages with this visit, and remember it.

        Args:
            batch: With `log_probs`, and in training `index`.
        """
        before = self.visit(batch)
        average = self.remember(before, ops.exp(batch.log_probs))
        said = ops.ones_like(average[..., 0])
        return Knowledge(
            log_probs=ops.log(average),
            routes=routes_by_name(
                self.routes, batch.num_learners, average.shape[1]
            ),
            available=said if batch.training else 0.0 * said,
        )
