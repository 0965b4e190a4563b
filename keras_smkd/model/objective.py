"""The two terms of the objective, one value per example, and their mean."""

import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd import functional
from keras_smkd.model import labels as labels_module


def supervised_values(
    loss: Callable[[Any, Any], Any],
    labels: Any,
    outputs: Sequence[Any],
    log_probs: Any,
    correct: Callable[[int, Any, Any], Any] | None,
    weights: Any = None,
) -> Any:
    """Return the peers' supervised losses, summed over the peers.

    `sum_i g_i * l(target_i, outputs_i)`

    Args:
        loss: `(labels, outputs) -> (batch,)`.
        labels: `(batch,)` integers or `(batch, classes)`.
        outputs: Each peer's own outputs, `(batch, classes)`.
        log_probs: `(batch, peers, classes)`, for the label correction.
        correct: Label correction `(peer, labels, predictions) -> targets`,
            or `None`.
        weights: `(batch, peers)`, `g_i`, or `None` for ones.

    Returns:
        `(batch,)`; NaN where an integer label is not one of the classes.
    """
    num_classes = log_probs.shape[-1]
    if correct is not None:
        given = labels_module.one_hot(labels, num_classes, log_probs.dtype)
        probs = ops.exp(log_probs)
    total = 0.0
    for i, peer_outputs in enumerate(outputs):
        targets = labels if correct is None else correct(i, given, probs[:, i])
        values = loss(targets, peer_outputs)
        if weights is not None:
            values = values * ops.cast(weights[:, i], values.dtype)
        total = total + values
    return labels_module.nan_outside_classes(total, labels, num_classes)


def distillation_values(
    log_probs: Any, selected: Any, knowledge: Any, temperature: float
) -> Any:
    """Return the divergences from selected knowledge, summed over the peers.

    `T^2 * sum_i 1/(N-1) * sum_{j != i} s_j * KL(q_j^T || p_i^T)`

    Args:
        log_probs: `(batch, peers, classes)`, at temperature `T`.
        selected: `(batch, peers)`, 0 or 1.
        knowledge: `(batch, peers, classes)`, `log q^T`, or `None` for
            `log_probs`.
        temperature: `T`.

    Returns:
        `(batch,)`.
    """
    divergences = functional.mutual_distillation(log_probs, selected, knowledge)
    return temperature**2 * ops.sum(divergences, axis=1)


class _BatchMean(keras.losses.Loss):
    """Keras's own reduction, of values that are losses already.

    It divides by the batch and, on TensorFlow, by the number of replicas.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return y_pred


@functools.cache
def _reducer(dtype: str) -> _BatchMean:
    return _BatchMean(name="batch_mean", dtype=dtype)


def batch_mean(values: Any, sample_weight: Any = None) -> Any:
    """Return `sum(sample_weight * values) / batch`, as Keras's losses do.

    Args:
        values: `(batch,)`.
        sample_weight: `(batch,)` or `(batch, 1)`, or `None` for ones.

    Returns:
        Scalar, dtype of `values`.
    """
    reducer = _reducer(keras.backend.standardize_dtype(values.dtype))
    return reducer(values, values, sample_weight)
