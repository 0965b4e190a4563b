"""Label corrections that remember what was predicted for each example.

What is remembered of an example are averages or lists of its predictions,
zeros while it was not seen. `SelectiveMutualDistillation` keeps that as a
weight, `(num_examples, peers, ...)`, finds an example's by its index in
`{"label": ..., "index": ...}`, and writes what `remember` returns in the same
compiled step. In evaluation nothing is remembered, and the labels stay as
they are.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd import schedules
from keras_smkd.targets.blending import corrected_targets

DTYPES = ("float32", "float16")


@keras.saving.register_keras_serializable(package="keras_smkd")
class TemporalEnsembling:
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
    >>> target([[1.0, 0.0]], [[0.9, 0.1]], progress=0.5, memory=memory)
    [[0.75, 0.25]]

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
        self.num_examples = _checks.integer(
            "num_examples", num_examples, minimum=1
        )
        self.momentum = _checks.number("momentum", momentum, minimum=0.0)
        if self.momentum >= 1.0:
            raise ValueError(
                "`momentum` must be in [0, 1). "
                f"Received: momentum={momentum!r}."
            )
        if trust is None:
            trust = schedules.RampUp(end=0.5, length=0.25)
        elif not callable(trust):
            trust = _checks.number("trust", trust, minimum=0.0, maximum=1.0)
        self.trust = trust
        self.dtype = _checks.one_of("dtype", dtype, DTYPES)

    @property
    def needs_progress(self) -> bool:
        """Whether the target depends on the progress of training."""
        return callable(self.trust)

    def memory_shape(self, num_classes: int) -> tuple[int, ...]:
        """Return the shape of what is remembered of one example."""
        return (num_classes,)

    def __call__(
        self, labels: Any, predictions: Any, progress: Any, memory: Any
    ) -> Any:
        """Return the corrected targets.

        Args:
            labels: `(batch, classes)`, one-hot or soft.
            predictions: Not used: they count from the next visit on.
            progress: Scalar in [0, 1].
            memory: `(batch, classes)`, of these examples; zeros before the
                first visit.

        Returns:
            `(batch, classes)`, rows sum to 1.
        """
        trust = self.trust(progress) if callable(self.trust) else self.trust
        average, seen = _mean_distribution(memory)
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
        memory = functional.at_least_float32(memory)
        return self.momentum * memory + (1.0 - self.momentum) * _knowledge(
            predictions, memory
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "num_examples": self.num_examples,
            "momentum": self.momentum,
            "trust": keras.saving.serialize_keras_object(self.trust),
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TemporalEnsembling":
        trust = keras.saving.deserialize_keras_object(config["trust"])
        return cls(**{**config, "trust": trust})


@keras.saving.register_keras_serializable(package="keras_smkd")
class JointOptimizationLabels:
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
    >>> target([[1.0, 0.0]], [[0.9, 0.1]], progress=0.5, memory=memory)
    [[0.4, 0.6]]

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
        self.num_examples = _checks.integer(
            "num_examples", num_examples, minimum=1
        )
        self.start = _checks.number("start", start, minimum=0.0, maximum=1.0)
        self.window = _checks.integer("window", window, minimum=1)
        self.dtype = _checks.one_of("dtype", dtype, DTYPES)

    def memory_shape(self, num_classes: int) -> tuple[int, ...]:
        """Return the shape of what is remembered of one example."""
        return (self.window, num_classes)

    def __call__(
        self, labels: Any, predictions: Any, progress: Any, memory: Any
    ) -> Any:
        """Return the corrected targets.

        Args:
            labels: `(batch, classes)`, one-hot or soft.
            predictions: Not used: they count from the next visit on.
            progress: Scalar in [0, 1].
            memory: `(batch, window, classes)`, of these examples, the last
                visit last; zeros before the first.

        Returns:
            `(batch, classes)`, rows sum to 1.
        """
        memory = functional.at_least_float32(memory)
        average, seen = _mean_distribution(ops.sum(memory, axis=-2))
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
        newest = ops.expand_dims(_knowledge(predictions, memory), axis=-2)
        return ops.concatenate([memory[:, 1:], newest], axis=-2)

    def get_config(self) -> dict[str, Any]:
        return {
            "num_examples": self.num_examples,
            "start": self.start,
            "window": self.window,
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "JointOptimizationLabels":
        return cls(**config)


def _mean_distribution(total: Any) -> tuple[Any, Any]:
    """Return a weighted sum of distributions as their mean, and 1 if any.

    The weights' sum need not be known: each distribution sums to 1. It is
    what corrects the bias of an average that began at zero.

    Args:
        total: `(batch, classes)`.

    Returns:
        `(batch, classes)`, and `(batch,)` of 0 and 1. Rows of zeros stay.
    """
    total = functional.at_least_float32(total)
    weight = ops.sum(total, axis=-1)
    seen = weight > 0
    weight = ops.expand_dims(ops.where(seen, weight, 1.0), axis=-1)
    return total / weight, ops.cast(seen, total.dtype)


def _knowledge(predictions: Any, memory: Any) -> Any:
    predictions = ops.convert_to_tensor(predictions)
    return ops.cast(ops.stop_gradient(predictions), memory.dtype)
