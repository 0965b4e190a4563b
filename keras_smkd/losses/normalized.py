"""Losses normalised over the classes, and their sum with a passive loss."""

from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd.losses import base


def normalized_cross_entropy(labels: Any, log_probs: Any) -> Any:
    """Return `sum_k labels_k log p_k / sum_k log p_k` of each example.

    Args:
        labels: `(batch, classes)`, rows sum to 1.
        log_probs: `(batch, classes)`, log-probabilities, two classes or more.

    Returns:
        `(batch,)`, in [0, 1].
    """
    total = ops.sum(log_probs, axis=-1)
    return base.expectation(labels, log_probs) / total


def normalized_focal(
    labels: Any, log_probs: Any, gamma: float, factor_gradient: bool = False
) -> Any:
    """Return `sum_k labels_k f_k / sum_k f_k`, `f_k = (1-p_k)^gamma log p_k`.

    Args:
        labels: `(batch, classes)`, rows sum to 1.
        log_probs: `(batch, classes)`, log-probabilities, two classes or more.
        gamma: >= 0. 0 gives the normalised cross entropy.
        factor_gradient: Whether the gradient also flows through
            `(1 - p_k)^gamma`.

    Returns:
        `(batch,)`, in [0, 1].
    """
    rest = -ops.expm1(log_probs)
    # A power below 1 has an infinite slope at 0, where `f` and its slope in
    # the logits are both 0.
    certain = rest <= 0
    factor = ops.power(ops.where(certain, 1.0, rest), gamma)
    factor = ops.where(certain, 0.0, factor)
    if not factor_gradient:
        factor = ops.stop_gradient(factor)
    focal = factor * log_probs
    return base.expectation(labels, focal) / ops.sum(focal, axis=-1)


@keras.saving.register_keras_serializable(package="keras_smkd")
class NormalizedCrossEntropy(base.ClassificationLoss):
    """The cross entropy as a share of that of all classes.

    `log p_y / sum_k log p_k`, in [0, 1]. Robust, and slow to learn by itself:
    see `ActivePassive`.

    Args:
        from_logits: Whether predictions are logits.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Labels are integers or distributions; for soft labels the loss is the
    expectation over the label.

    Example:

    >>> loss = NormalizedCrossEntropy()
    >>> loss([0], [[0.5, 0.5]])
    0.5

    Reference:
        Ma et al., 2020, "Normalized Loss Functions for Deep Learning with
        Noisy Labels". https://arxiv.org/abs/2006.13554
    """

    def values(self, labels: Any, log_probs: Any) -> Any:
        return normalized_cross_entropy(labels, log_probs)


@keras.saving.register_keras_serializable(package="keras_smkd")
class NormalizedFocal(base.ClassificationLoss):
    """The focal loss as a share of that of all classes.

    `f_y / sum_k f_k` with `f_k = -(1 - p_k)^gamma log p_k`, in [0, 1].

    Args:
        gamma: >= 0. 0 gives `NormalizedCrossEntropy`.
        factor_gradient: Whether the gradient also flows through
            `(1 - p_k)^gamma`. The authors' code holds it constant.
        from_logits: Whether predictions are logits.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Labels are integers or distributions; for soft labels the loss is the
    expectation over the label.

    Example:

    >>> loss = NormalizedFocal(gamma=2.0)
    >>> loss([0], [[0.5, 0.5]])
    0.5

    Reference:
        Ma et al., 2020, "Normalized Loss Functions for Deep Learning with
        Noisy Labels". https://arxiv.org/abs/2006.13554
    """

    def __init__(
        self,
        gamma: float = 0.5,
        factor_gradient: bool = False,
        from_logits: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, reduction, name, dtype)
        self.gamma = _checks.number("gamma", gamma, minimum=0.0)
        self.factor_gradient = bool(factor_gradient)

    def values(self, labels: Any, log_probs: Any) -> Any:
        return normalized_focal(
            labels, log_probs, self.gamma, self.factor_gradient
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "gamma": self.gamma,
            "factor_gradient": self.factor_gradient,
        }


@keras.saving.register_keras_serializable(package="keras_smkd")
class ActivePassive(keras.losses.Loss):
    """The weighted sum of two losses.

    `alpha * active + beta * passive`. Meant for an active loss, which only
    raises the label's probability (`NormalizedCrossEntropy`,
    `NormalizedFocal`), and a passive one, which also lowers the others'
    (`MeanAbsoluteProbabilityError`, `ReverseCrossEntropy`).

    Args:
        active: A `keras.losses.Loss`.
        passive: The same.
        alpha: Weight of `active`, >= 0. The paper has `alpha=1`, `beta=1` for
            CIFAR-10, and `alpha=10` with `beta=0.1` (reverse cross entropy)
            or `beta=1` (absolute error) for CIFAR-100.
        beta: Weight of `passive`, >= 0.
        from_logits: Whether predictions are logits; must agree with both
            losses. A loss without `from_logits` takes probabilities.
        reduction: As in `keras.losses.Loss`; those of the two losses are not
            used.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Labels are what both losses take.

    Raises:
        TypeError: if `active` or `passive` is not a `keras.losses.Loss`.
        ValueError: if `from_logits` is not that of both losses.

    Example:

    >>> loss = ActivePassive(
    ...     NormalizedCrossEntropy(), NormalizedFocal(), alpha=1.0, beta=0.5
    ... )
    >>> loss([0], [[0.5, 0.5]])
    0.75

    Reference:
        Ma et al., 2020, "Normalized Loss Functions for Deep Learning with
        Noisy Labels". https://arxiv.org/abs/2006.13554
    """

    def __init__(
        self,
        active: keras.losses.Loss,
        passive: keras.losses.Loss,
        alpha: float = 1.0,
        beta: float = 1.0,
        from_logits: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.from_logits = bool(from_logits)
        self.active = _checked_part("active", active, self.from_logits)
        self.passive = _checked_part("passive", passive, self.from_logits)
        self.alpha = _checks.number("alpha", alpha, minimum=0.0)
        self.beta = _checks.number("beta", beta, minimum=0.0)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each example, `(batch,)`.

        Args:
            y_true: Labels, as both losses take them.
            y_pred: `(batch, classes)`, logits or probabilities.
        """
        active = self.active.call(y_true, y_pred)
        passive = self.passive.call(y_true, y_pred)
        return self.alpha * active + self.beta * passive

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "active": serialize(self.active),
            "passive": serialize(self.passive),
            "alpha": self.alpha,
            "beta": self.beta,
            "from_logits": self.from_logits,
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ActivePassive":
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("active", "passive")
        }
        return cls(**{**config, **parts})


def _checked_part(name: str, part: Any, from_logits: bool) -> keras.losses.Loss:
    if not isinstance(part, keras.losses.Loss):
        raise TypeError(
            f"`{name}` must be a `keras.losses.Loss`. "
            f"Received: {name}={part!r} of type {type(part).__name__}."
        )
    takes_logits = bool(part.get_config().get("from_logits", False))
    if takes_logits != from_logits:
        raise ValueError(
            "`from_logits` must be that of both losses. Received: "
            f"from_logits={from_logits}, and from_logits={takes_logits} for "
            f"`{name}`."
        )
    return part
