"""Label corrections that remember what was predicted for each example.

What is remembered of an example are averages or lists of its predictions,
zeros while it was not seen, in a weight `(num_examples, peers, ...)`. In
evaluation nothing is remembered, and the labels stay as they are.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd import schedules
from keras_smkd.batch import Batch
from keras_smkd.memory import ExampleMemory
from keras_smkd.memory import mean_distribution
from keras_smkd.memory import moving_average
from keras_smkd.targets.blending import corrected_targets


@keras.saving.register_keras_serializable(package="keras_smkd")
class TemporalEnsembling(ExampleMemory):
    """The label blended with the average of the example's past predictions.

    `targets = (1 - trust) * labels + trust * average`, where the average is
    `Z / (1 - momentum^k)` after `k` visits, with
    `Z <- momentum * Z + (1 - momentum) * predictions` at each. An example that
    was not visited yet keeps its label.

    The paper compares the average with the prediction by a squared error of
    its own, beside the cross entropy with the label; here both are one target,
    for any loss.

    The model remembers `num_examples * peers * classes` numbers: 50,000
    examples of 10 classes with two peers take 4 MB as float32.

    Args:
        num_examples: Number of examples in the data set, above every index.
        momentum: Share of the past in the average, in [0, 1).
        trust: Share of the average in the target, a number in [0, 1] or a
            schedule. By default it rises from nearly 0 to 1/2 over the first
            quarter of training: the first predictions are worth little.
        dtype: `"float32"`, or `"float16"` for half the memory and three
            digits.

    Example:

    >>> target = TemporalEnsembling(num_examples=1, momentum=0.5, trust=0.5)
    >>> memory = target.remember([[0.0, 0.0]], [[0.5, 0.5]])
    >>> target.corrected([[1.0, 0.0]], memory[:, None], progress=0.5)
    [[[0.75, 0.25]]]

    Reference:
        Laine and Aila, 2017, "Temporal Ensembling for Semi-Supervised
        Learning", algorithm 2. https://arxiv.org/abs/1610.02242
    """

    def __init__(
        self,
        num_examples: int,
        momentum: float = 0.6,
        trust: float | Callable[[Any], Any] | None = None,
        dtype: str = "float32",
    ) -> None:
        super().__init__(num_examples, dtype)
        self.momentum = _checks.fraction("momentum", momentum)
        if trust is None:
            trust = schedules.RampUp(end=0.5, length=0.25)
        elif not callable(trust):
            trust = _checks.number("trust", trust, minimum=0.0, maximum=1.0)
        self.trust = trust

    @property
    def needs_progress(self) -> bool:
        """Whether the target depends on the progress of training."""
        return callable(self.trust)

    def row_shape(self, num_classes: int) -> tuple[int, ...]:
        """Return the shape of what is remembered of one example."""
        return (num_classes,)

    def __call__(self, batch: Batch) -> Any:
        """Return the corrected targets, and remember the predictions.

        Args:
            batch: With `labels`, `log_probs`, `progress`, and in training
                `index`. The predictions count from the next visit on.

        Returns:
            `(batch, learners, classes)`, rows sum to 1.
        """
        return self.corrected(
            batch.needed("labels", self),
            self.visit(batch),
            batch.needed("progress", self),
        )

    def corrected(self, labels: Any, memory: Any, progress: Any) -> Any:
        """Return the corrected targets, from what is remembered.

        Args:
            labels: `(batch, classes)`, one-hot or soft.
            memory: `(batch, learners, classes)`, of these examples; zeros
                before the first visit.
            progress: Scalar in [0, 1].

        Returns:
            `(batch, learners, classes)`, rows sum to 1.
        """
        trust = self.trust(progress) if callable(self.trust) else self.trust
        average, seen = mean_distribution(memory)
        trust = ops.cast(trust, average.dtype) * seen
        return corrected_targets(labels, average, trust)

    def remember(self, memory: Any, predictions: Any) -> Any:
        """Return what is to be remembered after this visit.

        Args:
            memory: `(batch, classes)`, of these examples.
            predictions: `(batch, classes)`, probabilities.

        Returns:
            `(batch, classes)`, no gradient.
        """
        return moving_average(memory, predictions, self.momentum)


@keras.saving.register_keras_serializable(package="keras_smkd")
class JointOptimizationLabels(ExampleMemory):
    """The label replaced by the mean of the example's last predictions.

    `targets = labels` while `progress < start`, then
    `targets = 1/m * sum of the example's last m predictions`, `m` at most
    `window`. The other half of the method is
    `keras_smkd.losses.JointOptimization`, the loss to compile with it.

    The model remembers `num_examples * peers * window * classes` numbers:
    50,000 examples of 10 classes with two peers take 40 MB as float32.

    Args:
        num_examples: Number of examples in the data set, above every index.
        start: Progress from which on labels are replaced, in [0, 1]. The
            authors do so from epoch 70 of 200.
        window: Number of past predictions in the mean, at least 1: epochs, if
            every example is seen once in each.
        dtype: `"float32"`, or `"float16"` for half the memory and three
            digits.

    Example:

    >>> target = JointOptimizationLabels(num_examples=1, start=0.5, window=2)
    >>> memory = [[[0.0, 0.0], [0.0, 0.0]]]
    >>> memory = target.remember(memory, [[0.6, 0.4]])
    >>> memory = target.remember(memory, [[0.2, 0.8]])
    >>> target.corrected([[1.0, 0.0]], memory[:, None], progress=0.5)
    [[[0.4, 0.6]]]

    Reference:
        Tanaka et al., 2018, "Joint Optimization Framework for Learning with
        Noisy Labels". https://arxiv.org/abs/1803.11364
    """

    needs_progress = True

    def __init__(
        self,
        num_examples: int,
        start: float = 0.35,
        window: int = 10,
        dtype: str = "float32",
    ) -> None:
        super().__init__(num_examples, dtype)
        self.start = _checks.number("start", start, minimum=0.0, maximum=1.0)
        self.window = _checks.integer("window", window, minimum=1)

    def row_shape(self, num_classes: int) -> tuple[int, ...]:
        """Return the shape of what is remembered of one example."""
        return (self.window, num_classes)

    def __call__(self, batch: Batch) -> Any:
        """Return the corrected targets, and remember the predictions.

        Args:
            batch: With `labels`, `log_probs`, `progress`, and in training
                `index`. The predictions count from the next visit on.

        Returns:
            `(batch, learners, classes)`, rows sum to 1.
        """
        return self.corrected(
            batch.needed("labels", self),
            self.visit(batch),
            batch.needed("progress", self),
        )

    def corrected(self, labels: Any, memory: Any, progress: Any) -> Any:
        """Return the corrected targets, from what is remembered.

        Args:
            labels: `(batch, classes)`, one-hot or soft.
            memory: `(batch, learners, window, classes)`, of these examples,
                the last visit last; zeros before the first.
            progress: Scalar in [0, 1].

        Returns:
            `(batch, learners, classes)`, rows sum to 1.
        """
        memory = functional.at_least_float32(memory)
        average, seen = mean_distribution(ops.sum(memory, axis=-2))
        # In float32, so that the step at `start` itself counts.
        started = ops.cast(progress, "float32") >= ops.cast(
            self.start, "float32"
        )
        trust = ops.cast(started, average.dtype) * seen
        return corrected_targets(labels, average, trust)

    def remember(self, memory: Any, predictions: Any) -> Any:
        """Return what is to be remembered after this visit.

        Args:
            memory: `(batch, window, classes)`, of these examples.
            predictions: `(batch, classes)`, probabilities.

        Returns:
            `(batch, window, classes)`, no gradient.
        """
        memory = functional.at_least_float32(memory)
        newest = moving_average(memory[:, 0], predictions, 0.0)
        newest = ops.expand_dims(newest, axis=-2)
        return ops.concatenate([memory[:, 1:], newest], axis=-2)
