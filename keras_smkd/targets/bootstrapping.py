"""Label correction by a fixed share of the peer's own prediction."""

from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd._config import Configured
from keras_smkd.batch import Batch
from keras_smkd.targets.blending import corrected_targets
from keras_smkd.targets.blending import likeliest


@keras.saving.register_keras_serializable(package="keras_smkd")
class SoftBootstrapping(Configured):
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
    >>> log_probs = ops.log([[[0.5, 0.5]]])
    >>> target(Batch(labels=[[1.0, 0.0]], log_probs=log_probs))
    [[[0.875, 0.125]]]

    Reference:
        Reed et al., 2015, "Training Deep Neural Networks on Noisy Labels with
        Bootstrapping". https://arxiv.org/abs/1412.6596
    """

    def __init__(
        self, beta: float = 0.95, target_gradient: bool = True
    ) -> None:
        self.beta = _checks.number("beta", beta, minimum=0.0, maximum=1.0)
        self.target_gradient = bool(target_gradient)

    def __call__(self, batch: Batch) -> Any:
        """Return the corrected targets.

        Args:
            batch: With `labels` and `log_probs`.

        Returns:
            `(batch, learners, classes)`, rows sum to 1.
        """
        return corrected_targets(
            batch.needed("labels", self),
            ops.exp(batch.needed("log_probs", self)),
            1.0 - self.beta,
            self.target_gradient,
        )


@keras.saving.register_keras_serializable(package="keras_smkd")
class HardBootstrapping(Configured):
    """A fixed share of the predicted class in every target.

    `targets = beta * labels + (1 - beta) * one_hot(argmax_k p_k)`

    The predicted class carries no gradient. Of equal largest probabilities the
    first counts.

    Args:
        beta: Share of the label, in [0, 1]. 1 keeps the labels.

    Example:

    >>> target = HardBootstrapping(beta=0.75)
    >>> log_probs = ops.log([[[0.25, 0.75]]])
    >>> target(Batch(labels=[[1.0, 0.0]], log_probs=log_probs))
    [[[0.75, 0.25]]]

    Reference:
        Reed et al., 2015, "Training Deep Neural Networks on Noisy Labels with
        Bootstrapping". https://arxiv.org/abs/1412.6596
    """

    def __init__(self, beta: float = 0.8) -> None:
        self.beta = _checks.number("beta", beta, minimum=0.0, maximum=1.0)

    def __call__(self, batch: Batch) -> Any:
        """Return the corrected targets.

        Args:
            batch: With `labels` and `log_probs`.

        Returns:
            `(batch, learners, classes)`, rows sum to 1.
        """
        return corrected_targets(
            batch.needed("labels", self),
            likeliest(ops.exp(batch.needed("log_probs", self))),
            1.0 - self.beta,
        )
