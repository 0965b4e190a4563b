"""Bounded losses: there is a limit to what a wrong label can do.

With `p_y` the probability of the label, everything is computed from `log p_y`,
so that nothing is clipped and no gradient is lost where `p_y` rounds to 0.
"""

import math
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd.losses import base


def generalized_cross_entropy(labels: Any, log_probs: Any, q: float) -> Any:
    """Return `sum_k labels_k (1 - p_k^q) / q` of each example.

    Args:
        labels: `(batch, classes)`, rows sum to 1.
        log_probs: `(batch, classes)`, log-probabilities.
        q: In (0, 1].

    Returns:
        `(batch,)`, in [0, 1/q].
    """
    return base.expectation(labels, -ops.expm1(q * log_probs) / q)


def truncated_generalized_cross_entropy(
    labels: Any, log_probs: Any, q: float, k: float, kept: Any = None
) -> Any:
    """Return the generalised cross entropy, constant where it is not kept.

    `sum_k labels_k (v_k L_q(p_k) + (1 - v_k) L_q(k))`, where
    `L_q(p) = (1 - p^q) / q`

    Args:
        labels: `(batch, classes)`, rows sum to 1.
        log_probs: `(batch, classes)`, log-probabilities.
        q: In (0, 1].
        k: Threshold on the probability, in (0, 1].
        kept: `v`, 0 or 1, of a shape that broadcasts to `(batch, classes)`:
            the outcome of an earlier pass. By default 1 where `p > k` now.

    Returns:
        `(batch,)`; by default in [0, L_q(k)].
    """
    if kept is None:
        kept = log_probs > math.log(k)
    kept = ops.cast(kept, "bool")
    values = -ops.expm1(q * log_probs) / q
    # A Python number would make float64 into float32 on torch.
    constant = ops.full_like(values, -math.expm1(q * math.log(k)) / q)
    return base.expectation(labels, ops.where(kept, values, constant))


def absolute_probability_error(labels: Any, log_probs: Any) -> Any:
    """Return `sum_k labels_k (1 - p_k)` of each example.

    Args:
        labels: `(batch, classes)`, rows sum to 1.
        log_probs: `(batch, classes)`, log-probabilities.

    Returns:
        `(batch,)`, in [0, 1].
    """
    return generalized_cross_entropy(labels, log_probs, 1.0)


@keras.saving.register_keras_serializable(package="keras_smkd")
class GeneralizedCrossEntropy(base.ClassificationLoss):
    """Between cross entropy and mean absolute error.

    `(1 - p_y^q) / q`. It tends to the cross entropy as `q` tends to 0, and is
    `1 - p_y` for `q = 1`. Computed as `-expm1(q log p_y) / q`, without the
    clipping of other implementations.

    Args:
        q: In (0, 1]; larger is more robust and slower to learn.
        from_logits: Whether predictions are logits.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Labels are integers or distributions; for soft labels the loss is the
    expectation over the label.

    Example:

    >>> loss = GeneralizedCrossEntropy(q=0.5)
    >>> loss([1], [[0.75, 0.25]])
    1.0

    Reference:
        Zhang and Sabuncu, 2018, "Generalized Cross Entropy Loss for Training
        Deep Neural Networks with Noisy Labels".
        https://arxiv.org/abs/1805.07836
    """

    def __init__(
        self,
        q: float = 0.7,
        from_logits: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, reduction, name, dtype)
        self.q = _checks.number("q", q, above=0.0, maximum=1.0)

    def values(self, labels: Any, log_probs: Any) -> Any:
        return generalized_cross_entropy(labels, log_probs, self.q)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "q": self.q}


@keras.saving.register_keras_serializable(package="keras_smkd")
class TruncatedGeneralizedCrossEntropy(base.ClassificationLoss):
    """The generalised cross entropy, without what is not believed.

    `L_q(p_y) = (1 - p_y^q) / q` where `p_y > k`, else the constant `L_q(k)`,
    which has no gradient. Which examples are kept is decided in each batch
    from the predictions themselves. The paper decides it for the whole
    training set every few epochs instead, and starts with everything kept:
    here, too, a network should first be trained with another loss, for before
    it has learned anything nearly all is dropped.

    Args:
        q: In (0, 1].
        k: Threshold on the label's probability, in (0, 1]. Near 0 keeps all,
            1 drops all.
        from_logits: Whether predictions are logits.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Labels are integers or distributions; for soft labels the loss is the
    expectation over the label.

    Example:

    >>> loss = TruncatedGeneralizedCrossEntropy(q=1.0, reduction=None)
    >>> loss([0, 1], [[0.75, 0.25], [0.75, 0.25]])
    [0.25, 0.5]

    Reference:
        Zhang and Sabuncu, 2018, "Generalized Cross Entropy Loss for Training
        Deep Neural Networks with Noisy Labels", section 3.3.
        https://arxiv.org/abs/1805.07836
    """

    def __init__(
        self,
        q: float = 0.7,
        k: float = 0.5,
        from_logits: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, reduction, name, dtype)
        self.q = _checks.number("q", q, above=0.0, maximum=1.0)
        self.k = _checks.number("k", k, above=0.0, maximum=1.0)

    def values(self, labels: Any, log_probs: Any) -> Any:
        return truncated_generalized_cross_entropy(
            labels, log_probs, self.q, self.k
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "q": self.q, "k": self.k}


@keras.saving.register_keras_serializable(package="keras_smkd")
class MeanAbsoluteProbabilityError(base.ClassificationLoss):
    """Half the absolute difference between a label and a prediction.

    `1 - p_y`. This is the loss that the literature on noisy labels calls the
    mean absolute error; it is half the sum over the classes, and
    `classes / 2` times `keras.losses.MeanAbsoluteError`.

    Args:
        from_logits: Whether predictions are logits.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Labels are integers or distributions; for soft labels the loss is the
    expectation over the label, not the distance of the two distributions.

    Example:

    >>> loss = MeanAbsoluteProbabilityError()
    >>> loss([1], [[0.75, 0.25]])
    0.75

    Reference:
        Ghosh et al., 2017, "Robust Loss Functions under Label Noise for Deep
        Neural Networks". https://arxiv.org/abs/1712.09482
    """

    def values(self, labels: Any, log_probs: Any) -> Any:
        return absolute_probability_error(labels, log_probs)
