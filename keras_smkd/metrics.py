"""Metrics of peers: what they select, agree on, memorise, and how sure.

The classes take predictions of shape `(batch, peers, classes)` or
`(batch, classes)` as said with each; they are `keras.metrics.Metric`s and can
be fed batch by batch. Those for one set of predictions fit `compile`.
"""

from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd._labels import class_ids
from keras_smkd.batch import Batch
from keras_smkd.selection import ConfidentKnowledge


@keras.saving.register_keras_serializable(package="keras_smkd")
class SelectionRate(keras.metrics.Mean):
    """Share of predictions that a selection passes on as knowledge.

    Args:
        selection: Part of `keras_smkd.selection`, by default
            `ConfidentKnowledge()`.
        threshold: Number >= 0; by default the selection's own.
        name, dtype: As for `keras.metrics.Metric`.

    Example:

    >>> metric = SelectionRate(threshold=0.5)
    >>> metric.update_state(None, [[0.99, 0.01], [0.5, 0.5]])
    >>> metric.result()
    0.5
    """

    def __init__(
        self,
        selection: Any = None,
        threshold: float | None = None,
        name: str = "selection_rate",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.selection = selection or ConfidentKnowledge()
        if threshold is None:
            threshold = getattr(self.selection, "threshold", None)
        self.threshold = _checks.number("threshold", threshold, minimum=0.0)

    def update_state(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> None:
        """Count the selected among `y_pred`, probabilities.

        They are `(batch, classes)` or `(batch, peers, classes)`.

        `y_true` is not looked at. `sample_weight` has the shape of `y_pred`
        without the classes, or is `None`.
        """
        log_probs = functional.log_probabilities(y_pred, from_logits=False)
        has_sources = len(log_probs.shape) == 3
        if not has_sources:
            log_probs = ops.expand_dims(log_probs, axis=1)
        selected = self.selection(
            Batch(knowledge=log_probs, threshold=self.threshold)
        )
        if not has_sources:
            selected = selected[:, 0]
        super().update_state(selected, sample_weight)

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dtype": self.dtype,
            "selection": keras.saving.serialize_keras_object(self.selection),
            "threshold": self.threshold,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SelectionRate":
        selection = keras.saving.deserialize_keras_object(config["selection"])
        return cls(**{**config, "selection": selection})


@keras.saving.register_keras_serializable(package="keras_smkd")
class PeerAgreement(keras.metrics.Mean):
    """Share of pairs of peers that predict the same class.

    `agreement = mean of [argmax p_i = argmax p_j]` over examples and pairs

    Args:
        name, dtype: As for `keras.metrics.Metric`.

    Example:

    >>> metric = PeerAgreement()
    >>> metric.update_state(None, [[[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]])
    >>> metric.result()
    0.33333334
    """

    def __init__(self, name: str = "peer_agreement", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> None:
        """Count agreeing pairs in `y_pred`, `(batch, peers, classes)`.

        `y_true` is not looked at; `sample_weight` is `(batch,)` or `None`.
        """
        y_pred = ops.convert_to_tensor(y_pred)
        if len(y_pred.shape) != 3 or y_pred.shape[1] < 2:
            raise ValueError(
                "`y_pred` must have shape (batch, peers, classes) with two "
                f"peers or more. Received: shape={tuple(y_pred.shape)}."
            )
        _, num_peers, num_classes = y_pred.shape
        votes = ops.sum(
            ops.one_hot(ops.argmax(y_pred, axis=-1), num_classes), axis=1
        )
        # A class with v votes has v (v - 1) / 2 agreeing pairs.
        agreeing = ops.sum(votes * (votes - 1.0), axis=-1)
        super().update_state(
            agreeing / (num_peers * (num_peers - 1)), sample_weight
        )


@keras.saving.register_keras_serializable(package="keras_smkd")
class ExpectedCalibrationError(keras.metrics.Metric):
    """Expected calibration error of the predicted class, in [0, 1].

    `ECE = sum_b |sum_{n in b} ([correct_n] - confidence_n)| / examples`, over
    bins of equal width of the largest probability.

    Args:
        num_bins: Number of bins, `b` from `(k/num_bins, (k+1)/num_bins]`.
        name, dtype: As for `keras.metrics.Metric`.

    Example:

    >>> metric = ExpectedCalibrationError(num_bins=2)
    >>> metric.update_state([0, 1], [[0.8, 0.2], [0.8, 0.2]])
    >>> metric.result()
    0.3

    Reference:
        Guo et al., 2017, "On Calibration of Modern Neural Networks".
        https://arxiv.org/abs/1706.04599
    """

    def __init__(
        self,
        num_bins: int = 15,
        name: str = "expected_calibration_error",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.num_bins = _checks.integer("num_bins", num_bins, minimum=1)
        self.gaps = self.add_variable(
            shape=(num_bins,), initializer="zeros", name="gaps"
        )
        self.total = self.add_variable(
            shape=(), initializer="zeros", name="total"
        )

    def update_state(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> None:
        """Add a batch.

        Args:
            y_true: Integers `(batch,)`, or one-hot or soft
                `(batch, classes)`, of which the largest counts.
            y_pred: `(batch, classes)`, probabilities.
            sample_weight: `(batch,)` or `None`.
        """
        y_true = ops.convert_to_tensor(y_true)
        y_pred = ops.cast(y_pred, self.dtype)
        if len(y_true.shape) == 2 and y_true.shape[1] != 1:
            y_true = ops.argmax(y_true, axis=-1)
        y_true = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        confidence = ops.max(y_pred, axis=-1)
        predicted = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        gap = ops.cast(predicted == y_true, self.dtype) - confidence
        weight = ops.ones_like(gap)
        if sample_weight is not None:
            weight = ops.cast(ops.reshape(sample_weight, (-1,)), self.dtype)
        position = ops.ceil(confidence * self.num_bins) - 1
        bins = ops.one_hot(
            ops.cast(ops.clip(position, 0, self.num_bins - 1), "int32"),
            self.num_bins,
            dtype=self.dtype,
        )
        self.gaps.assign_add(
            ops.sum(bins * ops.expand_dims(gap * weight, -1), axis=0)
        )
        self.total.assign_add(ops.sum(weight))

    def result(self) -> Any:
        return ops.divide_no_nan(
            ops.sum(ops.abs(self.gaps)), ops.convert_to_tensor(self.total)
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_bins": self.num_bins}


def memorization_rate(
    noisy_labels: Any, clean_labels: Any, predictions: Any
) -> Any:
    """Return the share of wrong labels that the predictions reproduce.

    `rate = #(noisy != clean and predicted = noisy) / #(noisy != clean)`

    0 means that no wrong label was learnt; 0 also where none is wrong.

    Args:
        noisy_labels: `(examples,)`, integers, as trained on.
        clean_labels: `(examples,)`, integers, the truth.
        predictions: `(examples, classes)`, probabilities or logits.

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: if the numbers of examples differ.

    Example:

    >>> predictions = [[0.2, 0.8], [1.0, 0.0], [0.9, 0.1]]
    >>> memorization_rate([1, 0, 1], [0, 0, 0], predictions)
    0.5
    """
    noisy, clean = (
        ops.convert_to_tensor(
            class_ids(name, ops.convert_to_numpy(labels)).astype("int32")
        )
        for name, labels in (
            ("noisy_labels", noisy_labels),
            ("clean_labels", clean_labels),
        )
    )
    predictions = ops.convert_to_tensor(predictions)
    if not len(noisy) == len(clean) == len(predictions):
        raise ValueError(
            "`noisy_labels`, `clean_labels` and `predictions` must have one "
            f"entry per example. Received: {len(noisy)}, {len(clean)} and "
            f"{len(predictions)} entries."
        )
    predicted = ops.cast(ops.argmax(predictions, axis=-1), "int32")
    wrong = noisy != clean
    learnt = ops.logical_and(wrong, predicted == noisy)
    return ops.divide_no_nan(
        ops.sum(ops.cast(learnt, "float32")),
        ops.sum(ops.cast(wrong, "float32")),
    )
