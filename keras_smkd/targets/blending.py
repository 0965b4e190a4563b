"""The blend that most label corrections are."""

from typing import Any

from keras import ops

from keras_smkd import _checks
from keras_smkd import functional


def corrected_targets(
    labels: Any, predictions: Any, trust: Any, target_gradient: bool = False
) -> Any:
    """Blend labels with predictions, example by example.

    `targets = (1 - trust) * labels + trust * predictions`

    Args:
        labels: `(batch, classes)`, rows sum to 1. Given, possibly wrong. They
            serve every learner of predictions that have learners.
        predictions: `(batch, classes)` or `(batch, learners, classes)`,
            probabilities.
        trust: Without the classes' axis, or a scalar, in [0, 1]. 0 keeps the
            labels.
        target_gradient: Whether the gradient flows through the predictions in
            the target. It never flows through `trust`.

    Returns:
        The shape and dtype of `predictions`; rows sum to 1.

    Raises:
        ValueError: if the two shapes are known and do not fit.

    Example:

    >>> corrected_targets([[1.0, 0.0]], [[0.5, 0.5]], 0.5)
    [[0.75, 0.25]]

    Reference:
        Wang et al., 2021, "ProSelfLC".
        https://arxiv.org/abs/2005.03788
    """
    predictions = functional.at_least_float32(predictions)
    labels = ops.cast(labels, predictions.dtype)
    wanted = tuple(predictions.shape)
    if len(wanted) == 3:
        wanted = (wanted[0], wanted[2])
    if _checks.shapes_differ(labels.shape, wanted):
        raise ValueError(
            "`labels` must have shape (batch, classes), those of "
            f"`predictions`. Received: labels.shape={tuple(labels.shape)}, "
            f"predictions.shape={tuple(predictions.shape)}."
        )
    if len(predictions.shape) == 3:
        labels = ops.expand_dims(labels, axis=1)
    trust = ops.stop_gradient(ops.cast(trust, predictions.dtype))
    if len(trust.shape) == len(predictions.shape) - 1:
        trust = ops.expand_dims(trust, axis=-1)
    if not target_gradient:
        predictions = ops.stop_gradient(predictions)
    return (1.0 - trust) * labels + trust * predictions


def likeliest(predictions: Any) -> Any:
    """Return the likeliest class of each prediction, one-hot.

    Of equal largest values the first counts. It carries no gradient.

    Args:
        predictions: `(..., classes)`, probabilities or their logarithms.

    Returns:
        The shape and dtype of `predictions`.
    """
    return ops.one_hot(
        ops.argmax(predictions, axis=-1),
        predictions.shape[-1],
        dtype=predictions.dtype,
    )
