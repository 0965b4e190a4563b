"""Label correction by a fixed share of the peer's own prediction."""

from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd.targets.blending import corrected_targets


@keras.saving.register_keras_serializable(package="keras_smkd")
class SoftBootstrapping:
    """A fixed share of the prediction in every target.

    `targets = beta * labels + (1 - beta) * predictions`

    Args:
        beta: Share of the label, in [0, 1]. 1 keeps the labels.
        target_gradient: Whether the gradient also flows through the
            prediction inside the target. It does by default: with the cross
            entropy the target then adds `(1 - beta) * H(p)`, which rewards
            sure predictions.

    Example:

    >>> target = SoftBootstrapping(beta=0.75)
    >>> target([[1.0, 0.0]], [[0.5, 0.5]])
    [[0.875, 0.125]]

    Reference:
        Reed et al., 2015, "Training Deep Neural Networks on Noisy Labels with
        Bootstrapping". https://arxiv.org/abs/1412.6596
    """

    needs_progress = False

    def __init__(
        self, beta: float = 0.95, target_gradient: bool = True
    ) -> None:
        self.beta = _checks.number("beta", beta, minimum=0.0, maximum=1.0)
        self.target_gradient = bool(target_gradient)

    def __call__(
        self, labels: Any, predictions: Any, progress: Any = None
    ) -> Any:
        """Return the corrected targets.

        Args:
            labels: `(batch, classes)`, one-hot or soft.
            predictions: `(batch, classes)`, probabilities.
            progress: Not used.

        Returns:
            `(batch, classes)`, rows sum to 1.
        """
        return corrected_targets(
            labels, predictions, 1.0 - self.beta, self.target_gradient
        )

    def get_config(self) -> dict[str, Any]:
        return {"beta": self.beta, "target_gradient": self.target_gradient}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SoftBootstrapping":
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_smkd")
class HardBootstrapping:
    """A fixed share of the predicted class in every target.

    `targets = beta * labels + (1 - beta) * one_hot(argmax_k p_k)`

    The predicted class carries no gradient.

    Args:
        beta: Share of the label, in [0, 1]. 1 keeps the labels.

    Example:

    >>> target = HardBootstrapping(beta=0.75)
    >>> target([[1.0, 0.0]], [[0.25, 0.75]])
    [[0.75, 0.25]]

    Reference:
        Reed et al., 2015, "Training Deep Neural Networks on Noisy Labels with
        Bootstrapping". https://arxiv.org/abs/1412.6596
    """

    needs_progress = False

    def __init__(self, beta: float = 0.8) -> None:
        self.beta = _checks.number("beta", beta, minimum=0.0, maximum=1.0)

    def __call__(
        self, labels: Any, predictions: Any, progress: Any = None
    ) -> Any:
        """Return the corrected targets.

        Args:
            labels: `(batch, classes)`, one-hot or soft.
            predictions: `(batch, classes)`, probabilities. Of equal largest
                ones the first counts.
            progress: Not used.

        Returns:
            `(batch, classes)`, rows sum to 1.
        """
        predictions = functional.at_least_float32(predictions)
        predicted = ops.one_hot(
            ops.argmax(predictions, axis=-1),
            predictions.shape[-1],
            dtype=predictions.dtype,
        )
        return corrected_targets(labels, predicted, 1.0 - self.beta)

    def get_config(self) -> dict[str, Any]:
        return {"beta": self.beta}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "HardBootstrapping":
        return cls(**config)
