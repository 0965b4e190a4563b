"""Losses that know the transition matrix of the label noise.

`T[i, j] = P(noisy=j | clean=i)`, so that a classifier of clean classes with
probabilities `p` sees the noisy class `j` with probability
`(p T)_j = sum_i p_i T[i, j]`. Nothing is clipped. Each takes memory for
`(batch, classes, classes)` numbers.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_smkd.losses import base


def noisy_log_probabilities(log_probs: Any, transition_matrix: Any) -> Any:
    """Return `log (p T)_j`, the log-probabilities of the noisy classes.

    Args:
        log_probs: `(batch, classes)`, log-probabilities of clean classes.
        transition_matrix: `(classes, classes)` NumPy array, rows sum to 1.

    Returns:
        `(batch, classes)`; `-inf`, without a gradient, for a noisy class that
        no clean class turns into.
    """
    possible = transition_matrix > 0
    log_matrix = np.log(np.where(possible, transition_matrix, 1.0))
    log_matrix = ops.convert_to_tensor(log_matrix, dtype=log_probs.dtype)
    # What is impossible is put in by `where`, which also stops the NaN that a
    # column of `-inf` alone has as its gradient.
    joint = ops.where(
        ops.convert_to_tensor(possible),
        ops.expand_dims(log_probs, axis=2) + log_matrix,
        float("-inf"),
    )
    return ops.logsumexp(joint, axis=1)


def forward_correction(
    labels: Any, log_probs: Any, transition_matrix: Any
) -> Any:
    """Return `-sum_j labels_j log (p T)_j` of each example.

    Args:
        labels: `(batch, classes)`, noisy labels, rows sum to 1.
        log_probs: `(batch, classes)`, log-probabilities of clean classes.
        transition_matrix: `(classes, classes)` NumPy array, rows sum to 1.

    Returns:
        `(batch,)`, >= 0; infinite for a label that the matrix excludes.
    """
    noisy = noisy_log_probabilities(log_probs, transition_matrix)
    return -base.expectation(labels, noisy)


def backward_correction(labels: Any, log_probs: Any, inverse: Any) -> Any:
    """Return `-sum_j labels_j sum_k inverse[j, k] log p_k` of each example.

    Args:
        labels: `(batch, classes)`, noisy labels, rows sum to 1.
        log_probs: `(batch, classes)`, log-probabilities of clean classes.
        inverse: `(classes, classes)` NumPy array, the inverse of `T`.

    Returns:
        `(batch,)`, of any sign.
    """
    inverse = ops.convert_to_tensor(inverse, dtype=log_probs.dtype)
    # Not `matmul`, which some accelerators do in a lower precision.
    weights = ops.sum(ops.expand_dims(labels, axis=2) * inverse, axis=1)
    return -ops.sum(weights * log_probs, axis=-1)


def importance_weights(log_probs: Any, transition_matrix: Any) -> Any:
    """Return `p_j / (p T)_j`, the weight of each example if its label is `j`.

    Args:
        log_probs: `(batch, classes)`, log-probabilities of clean classes.
        transition_matrix: `(classes, classes)` NumPy array, rows sum to 1,
            the diagonal positive.

    Returns:
        `(batch, classes)`, in [0, 1 / T[j, j]].
    """
    noisy = noisy_log_probabilities(log_probs, transition_matrix)
    return ops.exp(log_probs - noisy)


def importance_reweighting(
    labels: Any, log_probs: Any, transition_matrix: Any
) -> Any:
    """Return `-sum_j labels_j w_j log p_j`, `w_j = p_j / (p T)_j` held fixed.

    Args:
        labels: `(batch, classes)`, noisy labels, rows sum to 1.
        log_probs: `(batch, classes)`, log-probabilities of clean classes.
        transition_matrix: `(classes, classes)` NumPy array, rows sum to 1,
            the diagonal positive.

    Returns:
        `(batch,)`, >= 0.
    """
    weights = importance_weights(log_probs, transition_matrix)
    weights = ops.stop_gradient(weights)
    return -base.expectation(labels, weights * log_probs)


class _MatrixLoss(base.ClassificationLoss):
    """Base of the losses with a transition matrix."""

    def __init__(
        self,
        transition_matrix: Any,
        from_logits: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, reduction, name, dtype)
        self._matrix = base.stochastic_matrix(transition_matrix)
        self.transition_matrix = self._matrix.tolist()

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_pred = ops.convert_to_tensor(y_pred)
        classes = len(self.transition_matrix)
        base.check_classes("transition_matrix", classes, y_pred)
        return super().call(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "transition_matrix": self.transition_matrix,
        }


@keras.saving.register_keras_serializable(package="keras_smkd")
class ForwardCorrection(_MatrixLoss):
    """The cross entropy of the noisy label with the noisy prediction.

    `-log (p T)_y`. The identity gives the cross entropy.

    Args:
        transition_matrix: `(classes, classes)`, nested list or array,
            `T[i, j] = P(noisy=j | clean=i)`, rows sum to 1. See
            `keras_smkd.noise`.
        from_logits: Whether predictions are logits.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Labels are integers or distributions; for soft labels the loss is the
    expectation over the noisy label. A label that no class turns into, by the
    matrix, has an infinite loss.

    Example:

    >>> loss = ForwardCorrection([[0.5, 0.5], [0.0, 1.0]])
    >>> loss([0], [[1.0, 0.0]])
    0.6931472

    Reference:
        Patrini et al., 2017, "Making Deep Neural Networks Robust to Label
        Noise: a Loss Correction Approach", theorem 2.
        https://arxiv.org/abs/1609.03683
    """

    def values(self, labels: Any, log_probs: Any) -> Any:
        return forward_correction(labels, log_probs, self._matrix)


@keras.saving.register_keras_serializable(package="keras_smkd")
class BackwardCorrection(_MatrixLoss):
    """The combination of cross entropies that is right on average.

    `-sum_k T^-1[y, k] log p_k`. Its mean over the noisy label is the cross
    entropy with the clean one; for a single example it may be negative, and
    has no lower bound. The identity gives the cross entropy.

    Args:
        transition_matrix: `(classes, classes)`, nested list or array,
            `T[i, j] = P(noisy=j | clean=i)`, rows sum to 1, invertible. See
            `keras_smkd.noise`.
        from_logits: Whether predictions are logits.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Labels are integers or distributions; for soft labels the loss is the
    expectation over the noisy label.

    Raises:
        ValueError: if the matrix has no inverse, or has entries above 1e6 in
            it.

    Example:

    >>> loss = BackwardCorrection([[0.5, 0.5], [0.0, 1.0]])
    >>> loss([0], [[0.5, 0.5]])
    0.6931472

    Reference:
        Patrini et al., 2017, "Making Deep Neural Networks Robust to Label
        Noise: a Loss Correction Approach", theorem 1.
        https://arxiv.org/abs/1609.03683
    """

    def __init__(
        self,
        transition_matrix: Any,
        from_logits: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(transition_matrix, from_logits, reduction, name, dtype)
        self._inverse = _inverse(self._matrix)

    def values(self, labels: Any, log_probs: Any) -> Any:
        return backward_correction(labels, log_probs, self._inverse)


@keras.saving.register_keras_serializable(package="keras_smkd")
class ImportanceReweighting(_MatrixLoss):
    """The cross entropy, weighted by how likely the noisy label is clean.

    `-w log p_y` with `w = p_y / (p T)_y`, which carries no gradient. The
    identity gives the cross entropy.

    Args:
        transition_matrix: `(classes, classes)`, nested list or array,
            `T[i, j] = P(noisy=j | clean=i)`, rows sum to 1, the diagonal
            positive. See `keras_smkd.noise`.
        from_logits: Whether predictions are logits.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Labels are integers or distributions; for soft labels the loss is the
    expectation over the noisy label.

    Raises:
        ValueError: if an entry of the diagonal is 0, for the weights then
            have no bound.

    Example:

    >>> loss = ImportanceReweighting([[0.5, 0.5], [0.0, 1.0]])
    >>> loss([1], [[0.5, 0.5]])
    0.4620981

    Reference:
        Xia et al., 2019, "Are Anchor Points Really Indispensable in
        Label-Noise Learning?", before the revision of the matrix.
        https://arxiv.org/abs/1906.00189
    """

    def __init__(
        self,
        transition_matrix: Any,
        from_logits: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(transition_matrix, from_logits, reduction, name, dtype)
        diagonal = self._matrix.diagonal()
        if not np.all(diagonal > 0):
            raise ValueError(
                "`transition_matrix` must have a positive diagonal. "
                f"Received: transition_matrix with {diagonal.min():g} on it."
            )

    def values(self, labels: Any, log_probs: Any) -> Any:
        return importance_reweighting(labels, log_probs, self._matrix)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    try:
        inverse = np.linalg.inv(matrix)
    except np.linalg.LinAlgError:
        inverse = np.full_like(matrix, np.inf)
    # Rounding gives a singular matrix an inverse, of huge entries.
    if not np.max(np.abs(inverse)) <= 1e6:
        raise ValueError(
            "`transition_matrix` must be invertible. Received: "
            f"transition_matrix={matrix.tolist()}. Use `ForwardCorrection`, "
            "which needs no inverse."
        )
    return inverse
