"""The loss that is blind to label noise: mutual information by determinant."""

import math
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd.losses import base


def determinant_mutual_information(
    labels: Any, log_probs: Any, offset: float
) -> Any:
    """Return `-log(|det U| + offset)`, `U[c, k] = sum_i labels_ic p_ik`.

    Args:
        labels: `(batch, classes)`, one-hot.
        log_probs: `(batch, classes)`, log-probabilities.
        offset: >= 0.

    Returns:
        Scalar. `-log(offset)`, without a gradient, where `U` is singular.
    """
    probs = ops.expand_dims(ops.exp(log_probs), axis=1)
    # Not `matmul`, which some accelerators do in a lower precision.
    joint = ops.sum(ops.expand_dims(labels, axis=2) * probs, axis=0)
    # The gradient needs the inverse, which TensorFlow refuses with an error
    # and the others fill with NaN. NaN itself may pass for singular.
    finite = ops.isfinite(ops.sum(joint))
    regular = ops.slogdet(ops.stop_gradient(joint))[0] != 0
    regular = ops.logical_and(finite, regular)
    identity = ops.eye(joint.shape[0], dtype=joint.dtype)
    log_det = ops.slogdet(ops.where(regular, joint, identity))[1]
    degenerate = ops.where(finite, -math.inf, math.nan)
    log_det = ops.where(regular, log_det, degenerate)
    if offset == 0:
        return -log_det
    # The determinant itself can leave the range of float32.
    constant = ops.convert_to_tensor(math.log(offset), dtype=log_det.dtype)
    # Not `logaddexp`, which makes float64 into float32 on torch.
    return -ops.logsumexp(ops.stack([log_det, constant]), axis=0)


@keras.saving.register_keras_serializable(package="keras_smkd")
class DeterminantMutualInformation(base.ClassificationLoss):
    """The determinant mutual information of labels and predictions.

    `-log(|det U| + offset)` with `U[c, k] = sum_{i: y_i = c} p_ik`, the joint
    counts of label and prediction in the batch. Noise that does not depend on
    the input multiplies the determinant by a constant, and so adds a constant
    to the loss.

    It is a loss of the batch and not of an example: `call` gives every
    example the value of the whole batch, so that the mean is that value, and
    sample weights do not choose among the examples. The determinant is 0, and
    nothing is learned, unless every class is among the labels of the batch;
    that takes `batch >= classes` at the least, and in practice many times
    that. A network should first be trained with another loss.

    Args:
        offset: >= 0. The default is that of the authors' code, which does not
            divide `U` by the size of the batch. With 0 the loss is the
            paper's up to a constant, and infinite for a singular `U`.
        from_logits: Whether predictions are logits.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Labels are integers, `(batch,)` or `(batch, 1)`. Distributions are
    refused: the loss is not linear in the label, and means nothing for soft
    ones.

    Raises:
        ValueError: in `call`, if the labels are distributions.

    Example:

    >>> loss = DeterminantMutualInformation(offset=0.5)
    >>> loss([0, 1], [[0.75, 0.25], [0.25, 0.75]])
    0.0

    Reference:
        Xu et al., 2019, "L_DMI: A Novel Information-theoretic Loss Function
        for Training Deep Nets Robust to Label Noise".
        https://arxiv.org/abs/1909.03388
    """

    def __init__(
        self,
        offset: float = 0.001,
        from_logits: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, reduction, name, dtype)
        self.offset = _checks.number("offset", offset, minimum=0.0)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of the batch, once for each example: `(batch,)`.

        Args:
            y_true: `(batch,)` or `(batch, 1)` integers.
            y_pred: `(batch, classes)`, logits or probabilities.
        """
        y_true = ops.convert_to_tensor(y_true)
        shape = tuple(y_true.shape)
        if len(shape) == 2 and shape[1] != 1:
            raise ValueError(
                "`y_true` must be integers of shape (batch,) or (batch, 1) "
                f"for `{type(self).__name__}`. Received: y_true of shape "
                f"{shape}."
            )
        return super().call(y_true, y_pred)

    def values(self, labels: Any, log_probs: Any) -> Any:
        value = determinant_mutual_information(labels, log_probs, self.offset)
        return ops.broadcast_to(value, ops.shape(log_probs)[:1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "offset": self.offset}
