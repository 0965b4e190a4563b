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
        labels: `(batch, classes)`, rows sum to 1. Given, possibly wrong.
        predictions: `(batch, classes)`, probabilities.
        trust: `(batch,)` or scalar in [0, 1]. 0 keeps the labels.
        target_gradient: Whether the gradient flows through the predictions in
            the target. It never flows through `trust`.

    Returns:
        `(batch, classes)`, rows sum to 1, dtype of `predictions`.

    Raises:
        ValueError: if the two shapes are known and differ.

    Example:

    >>> corrected_targets([[1.0, 0.0]], [[0.5, 0.5]], 0.5)
    [[0.75, 0.25]]

    Reference:
        Wang et al., 2021, "ProSelfLC".
        https://arxiv.org/abs/2005.03788
    """
    predictions = functional.at_least_float32(predictions)
    labels = ops.cast(labels, predictions.dtype)
    if _checks.shapes_differ(labels.shape, predictions.shape):
        raise ValueError(
            "`labels` and `predictions` must have the same shape "
            f"(batch, classes). Received: labels.shape={tuple(labels.shape)}, "
            f"predictions.shape={tuple(predictions.shape)}."
        )
    trust = ops.stop_gradient(ops.cast(trust, predictions.dtype))
    if len(trust.shape) == 1:
        trust = ops.expand_dims(trust, axis=-1)
    if not target_gradient:
        predictions = ops.stop_gradient(predictions)
    return (1.0 - trust) * labels + trust * predictions
