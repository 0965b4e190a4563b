"""The cross entropy with a penalty on the predictions."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd.losses import base


def confidence_penalty(
    labels: Any, log_probs: Any, beta: float, threshold: float | None = None
) -> Any:
    """Return the cross entropy of each example, with a penalty on confidence.

    `CE - beta * H(p)`, or `CE + beta * max(0, threshold - H(p))`

    Args:
        labels: `(batch, classes)`, rows sum to 1.
        log_probs: `(batch, classes)`, log-probabilities.
        beta: Weight of the penalty.
        threshold: If given, the entropy in nats from which on nothing is
            penalised.

    Returns:
        `(batch,)`.
    """
    penalty = -functional.entropy(log_probs)
    if threshold is not None:
        penalty = ops.relu(threshold + penalty)
    return functional.soft_cross_entropy(labels, log_probs) + beta * penalty


def prior_cross_entropy(log_probs: Any, prior: Any = None) -> Any:
    """Return the cross entropy of a prior with the batch's mean prediction.

    `-sum_k prior_k log mean_i p_ik`

    Args:
        log_probs: `(batch, classes)`, log-probabilities.
        prior: `(classes,)`, sums to 1; `None` is uniform.

    Returns:
        Scalar, at least the entropy of the prior.
    """
    count = ops.cast(ops.shape(log_probs)[0], log_probs.dtype)
    log_mean = ops.logsumexp(log_probs, axis=0) - ops.log(count)
    if prior is None:
        # Not `mean`, which rounds float64 to float32 on torch.
        return -ops.sum(log_mean) / log_probs.shape[-1]
    prior = ops.convert_to_tensor(prior, dtype=log_probs.dtype)
    return -ops.sum(prior * log_mean)


@keras.saving.register_keras_serializable(package="keras_smkd")
class ConfidencePenalty(base.ClassificationLoss):
    """The cross entropy, less a share of the prediction's entropy.

    `-log p_y - beta * H(p)`, or `-log p_y + beta * max(0, threshold - H(p))`
    with a threshold. The gradient flows through all of the entropy.

    Args:
        beta: Weight of the penalty, >= 0. 0 gives the cross entropy.
        threshold: Entropy in nats, >= 0, from which on nothing is penalised;
            `None` for no such bar.
        from_logits: Whether predictions are logits.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Labels are integers or distributions; for soft labels the loss is the
    expectation over the label.

    Example:

    >>> loss = ConfidencePenalty(beta=0.5)
    >>> loss([0], [[0.5, 0.5]])
    0.3465736

    Reference:
        Pereyra et al., 2017, "Regularizing Neural Networks by Penalizing
        Confident Output Distributions". https://arxiv.org/abs/1701.06548
    """

    def __init__(
        self,
        beta: float = 0.1,
        threshold: float | None = None,
        from_logits: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, reduction, name, dtype)
        self.beta = _checks.number("beta", beta, minimum=0.0)
        self.threshold = (
            None
            if threshold is None
            else _checks.number("threshold", threshold, minimum=0.0)
        )

    def values(self, labels: Any, log_probs: Any) -> Any:
        return confidence_penalty(labels, log_probs, self.beta, self.threshold)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "beta": self.beta,
            "threshold": self.threshold,
        }


@keras.saving.register_keras_serializable(package="keras_smkd")
class JointOptimization(base.ClassificationLoss):
    """The cross entropy, with penalties against trivial solutions.

    `-sum_k s_k log p_k + beta * H(p) + alpha * L_p` with
    `L_p = -sum_k prior_k log mean_i p_ik`. The label `s` and the entropy
    belong to the example, `L_p` to the batch: each example carries it whole,
    so that the mean is the loss of the batch, and it needs batches that are
    large beside the number of classes. The paper has divergences where the
    authors' code and this have cross entropies; the difference is constant.

    The method also replaces the labels by averages of past predictions. That
    is not done here: give it the labels of the moment.

    Args:
        alpha: Weight of `L_p`, >= 0. The defaults are the authors' for
            CIFAR-10 with symmetric noise of 0.7; for asymmetric noise of 0.4
            they have `alpha=0.8`, `beta=0.4`.
        beta: Weight of the entropy, >= 0.
        prior: Shares of the clean classes, >= 0, sum 1. `None` is uniform.
        from_logits: Whether predictions are logits.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Labels are integers or distributions, as they are in the formula.

    Example:

    >>> loss = JointOptimization(alpha=1.0, beta=0.5)
    >>> loss([[0.7, 0.3]], [[0.5, 0.5]])
    1.7328679

    Reference:
        Tanaka et al., 2018, "Joint Optimization Framework for Learning with
        Noisy Labels". https://arxiv.org/abs/1803.11364
    """

    def __init__(
        self,
        alpha: float = 1.2,
        beta: float = 0.8,
        prior: Sequence[float] | None = None,
        from_logits: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, reduction, name, dtype)
        self.alpha = _checks.number("alpha", alpha, minimum=0.0)
        self.beta = _checks.number("beta", beta, minimum=0.0)
        self.prior = None if prior is None else _checked_prior(prior)

    def values(self, labels: Any, log_probs: Any) -> Any:
        if self.prior is not None:
            base.check_classes("prior", len(self.prior), log_probs)
        # Entropy weighs in with the opposite sign of a confidence penalty.
        own = confidence_penalty(labels, log_probs, -self.beta)
        return own + self.alpha * prior_cross_entropy(log_probs, self.prior)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "beta": self.beta,
            "prior": self.prior,
        }


def _checked_prior(prior: Any) -> list[float]:
    try:
        values = np.array(prior, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`prior` must be a list of numbers. Received: prior={prior!r}."
        ) from error
    if (
        values.ndim != 1
        or not np.all(values >= 0)
        or not abs(values.sum() - 1.0) <= 1e-6
    ):
        raise ValueError(
            "`prior` must be a list of numbers >= 0 that sum to 1. "
            f"Received: prior={prior!r}."
        )
    return values.tolist()
