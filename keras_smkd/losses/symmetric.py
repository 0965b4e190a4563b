"""The reverse cross entropy, and its sum with the cross entropy."""

import math
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd.losses import base

LOG_ZERO = math.log(1e-4)


def reverse_cross_entropy(
    labels: Any, log_probs: Any, log_zero: float = LOG_ZERO
) -> Any:
    """Return `-sum_k p_k max(log labels_k, log_zero)` of each example.

    Args:
        labels: `(batch, classes)`, rows sum to 1.
        log_probs: `(batch, classes)`, log-probabilities.
        log_zero: What stands for `log 0`, <= 0.

    Returns:
        `(batch,)`, in [0, -log_zero].
    """
    absent = labels == 0
    log_labels = ops.log(ops.where(absent, 1.0, labels))
    # Not `maximum`, which loses NaN on some backends.
    low = ops.logical_or(absent, log_labels < log_zero)
    log_labels = ops.where(low, log_zero, log_labels)
    return -ops.sum(ops.exp(log_probs) * log_labels, axis=-1)


@keras.saving.register_keras_serializable(package="keras_smkd")
class ReverseCrossEntropy(base.ClassificationLoss):
    """The cross entropy with label and prediction in each other's place.

    `-sum_k p_k log q_k`, where `q` is the label and `log_zero` (`A`) stands
    for `log 0`; for one class as the label that is `-log_zero * (1 - p_y)`.

    Args:
        log_zero: <= 0. The default is that of the authors' code, `log 1e-4`;
            the paper speaks of -4.
        from_logits: Whether predictions are logits.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Labels are integers or distributions; for soft labels the formula is taken
    as it stands, with no `log q_k` below `log_zero`.

    Example:

    >>> loss = ReverseCrossEntropy(log_zero=-4.0)
    >>> loss([1], [[0.75, 0.25]])
    3.0

    Reference:
        Wang et al., 2019, "Symmetric Cross Entropy for Robust Learning with
        Noisy Labels". https://arxiv.org/abs/1908.06112
    """

    def __init__(
        self,
        log_zero: float = LOG_ZERO,
        from_logits: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, reduction, name, dtype)
        self.log_zero = _checks.number("log_zero", log_zero, maximum=0.0)

    def values(self, labels: Any, log_probs: Any) -> Any:
        return reverse_cross_entropy(labels, log_probs, self.log_zero)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "log_zero": self.log_zero}


@keras.saving.register_keras_serializable(package="keras_smkd")
class SymmetricCrossEntropy(base.ClassificationLoss):
    """Cross entropy plus reverse cross entropy.

    `alpha * (-log p_y) + beta * ReverseCrossEntropy`. Neither part is clipped.

    Args:
        alpha: Weight of the cross entropy, >= 0. The defaults are the paper's
            for CIFAR-10; it has `alpha=6`, `beta=0.1` for CIFAR-100.
        beta: Weight of the reverse cross entropy, >= 0.
        log_zero: What stands for `log 0` in the reverse part, <= 0.
        from_logits: Whether predictions are logits.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Labels are integers or distributions; for the meaning of soft ones see
    `ReverseCrossEntropy`.

    Example:

    >>> loss = SymmetricCrossEntropy(alpha=1.0, beta=0.5, log_zero=-4.0)
    >>> loss([1], [[0.5, 0.5]])
    1.6931472

    Reference:
        Wang et al., 2019, "Symmetric Cross Entropy for Robust Learning with
        Noisy Labels". https://arxiv.org/abs/1908.06112
    """

    def __init__(
        self,
        alpha: float = 0.1,
        beta: float = 1.0,
        log_zero: float = LOG_ZERO,
        from_logits: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, reduction, name, dtype)
        self.alpha = _checks.number("alpha", alpha, minimum=0.0)
        self.beta = _checks.number("beta", beta, minimum=0.0)
        self.log_zero = _checks.number("log_zero", log_zero, maximum=0.0)

    def values(self, labels: Any, log_probs: Any) -> Any:
        forward = functional.soft_cross_entropy(labels, log_probs)
        reverse = reverse_cross_entropy(labels, log_probs, self.log_zero)
        return self.alpha * forward + self.beta * reverse

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "beta": self.beta,
            "log_zero": self.log_zero,
        }
