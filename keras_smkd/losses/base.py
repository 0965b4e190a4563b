"""What the losses share: the forms of labels, and transition matrices."""

import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional


class ClassificationLoss(keras.losses.Loss):
    """Base of the losses that compare a label with a classifier's output.

    A new loss is one function of distributions and log-probabilities, and a
    class that gives its constants to it in `values`.

    Args:
        from_logits: Whether predictions are logits. Probabilities below
            `keras.config.epsilon()` are raised to it.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`. The values are float32 at least.
    """

    def __init__(
        self,
        from_logits: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.from_logits = bool(from_logits)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each example.

        Args:
            y_true: `(batch,)` or `(batch, 1)` integers, or `(batch, classes)`
                distributions.
            y_pred: `(batch, classes)`, logits or probabilities.

        Returns:
            `(batch,)`; NaN where an integer label is not one of the classes.

        Raises:
            ValueError: if the two shapes do not fit.
        """
        log_probs = functional.log_probabilities(y_pred, self.from_logits)
        return self.values(distributions(y_true, log_probs), log_probs)

    def values(self, labels: Any, log_probs: Any) -> Any:
        """Return `(batch,)` from two arrays of shape `(batch, classes)`."""
        raise TypeError(
            "`values` must be written by the subclass of "
            f"`ClassificationLoss`. Received: {type(self).__name__} without it."
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "from_logits": self.from_logits,
            "dtype": self.dtype,
        }


def distributions(labels: Any, log_probs: Any) -> Any:
    """Return labels of any form as one distribution per example.

    Args:
        labels: `(batch,)` or `(batch, 1)` integers, or `(batch, classes)`.
        log_probs: `(batch, classes)`, for the shape and dtype.

    Returns:
        `(batch, classes)`; a row of NaN for an integer that is no class. The
        backends disagree on such a label, and some train on it silently.

    Raises:
        ValueError: if the two shapes do not fit.
    """
    labels = ops.convert_to_tensor(labels)
    shape, wanted = tuple(labels.shape), tuple(log_probs.shape)
    if len(wanted) != 2 or wanted[1] in (None, 1):
        raise ValueError(
            "`y_pred` must have shape (batch, classes) with two classes or "
            f"more. Received: y_pred of shape {wanted}."
        )
    if len(shape) == 2 and shape[1] == 1:
        labels, shape = ops.squeeze(labels, axis=1), shape[:1]
    if _checks.shapes_differ(shape, wanted[: len(shape)]) or not shape:
        raise ValueError(
            "`y_true` must have shape (batch,), (batch, 1) or "
            f"(batch, {wanted[1]}). Received: y_true of shape {shape}, y_pred "
            f"of shape {wanted}."
        )
    if len(shape) == 2:
        return ops.cast(labels, log_probs.dtype)
    # As floats, for the class ids may not fit in the labels' own type.
    labels = ops.expand_dims(ops.cast(labels, "float32"), axis=1)
    matches = labels == ops.arange(wanted[1], dtype="float32")
    return ops.where(
        ops.any(matches, axis=1, keepdims=True),
        ops.cast(matches, log_probs.dtype),
        math.nan,
    )


def expectation(labels: Any, values: Any) -> Any:
    """Return `sum_k q_k v_k`, with `0 * inf = 0`.

    Args:
        labels: `(batch, classes)`, the distribution `q`.
        values: `(batch, classes)`, the value `v` of each class.

    Returns:
        `(batch,)`. What has probability 0 adds exactly zero, to the value and
        to the gradient.
    """
    return ops.sum(labels * ops.where(labels == 0, 0.0, values), axis=-1)


def stochastic_matrix(transition_matrix: Any) -> npt.NDArray[np.float64]:
    """Return a transition matrix as float64, or raise if it is not one.

    Args:
        transition_matrix: `(classes, classes)`,
            `T[i, j] = P(noisy=j | clean=i)`: entries >= 0, rows sum to 1 up
            to 1e-6.

    Raises:
        TypeError: if the entries are not numbers.
        ValueError: if it is not square, not finite, has an entry below 0 or a
            row that does not sum to 1.
    """
    try:
        matrix = np.array(transition_matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "`transition_matrix` must be a square array of numbers. "
            f"Received: transition_matrix={transition_matrix!r}."
        ) from error
    if (
        matrix.ndim != 2
        or matrix.shape[0] != matrix.shape[1]
        or (matrix.shape[0] < 2)
    ):
        raise ValueError(
            "`transition_matrix` must be square, for two classes or more. "
            f"Received: transition_matrix of shape {matrix.shape}."
        )
    sums = matrix.sum(axis=1)
    # `not all(x >= 0)`, so that NaN fails too.
    if not np.all(matrix >= 0) or not np.allclose(sums, 1.0, rtol=0, atol=1e-6):
        raise ValueError(
            "`transition_matrix` must have entries >= 0 and rows that sum to "
            f"1. Received: smallest entry {matrix.min():g}, row sums from "
            f"{sums.min():g} to {sums.max():g}. Rows are the clean classes."
        )
    return matrix


def check_classes(name: str, num_classes: int, log_probs: Any) -> None:
    """Raise if an argument is for another number of classes."""
    if _checks.shapes_differ((num_classes,), log_probs.shape[-1:]):
        raise ValueError(
            f"`{name}` must be for the {log_probs.shape[-1]} classes of the "
            f"predictions. Received: {name} for {num_classes} classes."
        )
