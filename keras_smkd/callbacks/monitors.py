"""Monitors: what the peers make of labels, and of the truth if it is known."""

import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd import metrics
from keras_smkd._labels import labels_of
from keras_smkd.model import PeerLearning
from keras_smkd.model import viewing


class NoiseMonitor(keras.callbacks.Callback):
    """Adds to the logs what the peers make of labels that may be wrong.

    After every epoch the peers predict the training examples, without
    training, and these join the epoch's logs, as far as there is something to
    say:

    | name | value |
    |---|---|
    | `estimated_noise_rate` | share of the labels that are not the class that |
    | | the ensemble predicts |
    | `unanimity` | share of the examples of which all peers predict the same |
    | | class; with two peers or more |
    | `dropped_labels` | share of the labels, over the learners, that the gate |
    | | gives the weight 0; with a gate |
    | `corrected_labels` | share of the labels, over the learners, whose |
    | | target has another largest class; with a target |
    | `val_calibration_error` | expected calibration error of the ensemble on |
    | | the validation labels, wrong ones included; with `validation_data` |
    | `selection_precision` | share of the knowledge passed on that is right: |
    | | its most probable class is the clean label; NaN if none is passed on; |
    | | with clean labels and knowledge |
    | `memorization` | share of the wrong labels that the ensemble predicts; |
    | | with clean labels |

    Knowledge, selection, target and gate are those of the model, of every
    kind, and are asked as a training step would ask them: a teacher and
    averaged peers see the inputs, memories say what they remember of each
    example, and the gate sees losses. Nothing of it stays: memories and seeds
    are put back. The predictions are in inference mode, and a part that
    compares the examples of a batch (a small-loss gate, a linear ensemble)
    sees batches of this size in this order.

    Place it before callbacks that read the logs, such as
    `keras.callbacks.CSVLogger`.

    Args:
        x: The training inputs, as `predict` takes them, in the order of their
            indices: that of the arrays which `fit` is given. Arrays, where
            the knowledge needs inputs (teachers, averaged peers, passes with
            dropout).
        noisy_labels: `(examples,)` or `(examples, 1)` class ids, or
            `(examples, classes)` distributions, of which the largest counts;
            as trained on.
        clean_labels: The truth, in one of these forms, or `None`.
        batch_size: Batch size of the predictions.
        validation_data: `(x, labels)`, which may be wrong, or `None`.

    Raises:
        TypeError: if labels are not numbers, or `batch_size` no integer; when
            training begins, if the model is no `PeerLearning`.
        ValueError: if labels are of no form that is known, there are more of
            one kind than of the other, or `validation_data` is no pair; when
            training begins, if labels are not the model's classes, or its
            parts look at inner layers or remember fewer examples.

    Example:

    ```python
    monitor = keras_smkd.callbacks.NoiseMonitor(x, noisy_labels)
    model.fit(x, noisy_labels, epochs=10, callbacks=[monitor])
    ```

    Reference:
        Guo et al., 2017, "On Calibration of Modern Neural Networks".
        https://arxiv.org/abs/1706.04599
    """

    def __init__(
        self,
        x: Any,
        noisy_labels: Any,
        clean_labels: Any = None,
        batch_size: int = 256,
        validation_data: Any = None,
    ) -> None:
        super().__init__()
        self.x = x
        self.noisy_labels = labels_of("noisy_labels", noisy_labels)
        self.clean_labels = clean_labels
        if clean_labels is not None:
            self.clean_labels = labels_of("clean_labels", clean_labels)
            if len(self.noisy_labels) != len(self.clean_labels):
                raise ValueError(
                    "`noisy_labels` and `clean_labels` must have the same "
                    f"number of examples. Received: {len(self.noisy_labels)} "
                    f"and {len(self.clean_labels)}."
                )
        self.batch_size = _checks.integer("batch_size", batch_size, minimum=1)
        self.validation_data = validation_data
        if validation_data is not None:
            if (
                not isinstance(validation_data, (tuple, list))
                or len(validation_data) != 2
            ):
                raise ValueError(
                    "`validation_data` must be (x, labels) or None. "
                    f"Received: {type(validation_data).__name__}."
                )
            x_valid, labels = validation_data
            labels = labels_of("validation_data[1]", labels)
            self.validation_data = (x_valid, labels)

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that labels and model fit.

        Raises:
            TypeError: if the model is no `PeerLearning`.
            ValueError: if labels are not its classes, or its parts look at
                inner layers or remember fewer examples.
        """
        model = self.model
        if not isinstance(model, PeerLearning):
            raise TypeError(
                "`NoiseMonitor` must be used with a `keras_smkd.PeerLearning`. "
                f"Received: model={model!r} of type {type(model).__name__}."
            )
        valid = None if not self.validation_data else self.validation_data[1]
        for name, labels in (
            ("noisy_labels", self.noisy_labels),
            ("clean_labels", self.clean_labels),
            ("validation_data[1]", valid),
        ):
            if labels is not None:
                labels_of(name, labels, model.num_classes)
        viewing.check_view(model, len(self.noisy_labels))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add to the logs.

        Raises:
            ValueError: if `x` gives another number of examples than there are
                labels, or a part needs inputs and `x` is no array.
        """
        if logs is None:
            return
        model = self.model
        predictions = model.predict(
            self.x, batch_size=self.batch_size, verbose=0, output="all"
        )
        probs = np.stack([predictions[n] for n in model.learner_names], axis=1)
        if len(probs) != len(self.noisy_labels):
            raise ValueError(
                "`noisy_labels` must be one for each example that `x` gives. "
                f"Received: {len(self.noisy_labels)} labels for {len(probs)} "
                "examples."
            )
        peers = probs[:, : model.num_peers]
        ensemble = peers.mean(axis=1)
        noisy = _ids(self.noisy_labels)
        logs["estimated_noise_rate"] = _share(ensemble.argmax(-1) != noisy)
        if model.num_peers > 1:
            voted = peers.argmax(axis=-1)
            logs["unanimity"] = _share((voted == voted[:, :1]).all(axis=1))
        found = viewing.view(
            model, self.x, self.noisy_labels, probs, self.batch_size
        )
        if found.weights is not None:
            logs["dropped_labels"] = _share(found.weights == 0)
        if found.targets is not None:
            logs["corrected_labels"] = _share(found.targets != noisy[:, None])
        if self.validation_data is not None:
            logs["val_calibration_error"] = self._calibration_error()
        if self.clean_labels is not None:
            clean = _ids(self.clean_labels)
            self._compare(logs, found, noisy, clean, ensemble)

    def _compare(
        self, logs: Any, found: Any, noisy: Any, clean: Any, ensemble: Any
    ) -> None:
        if found.known is not None:
            right = found.known == clean[:, None]
            count = found.passed.sum()
            share = (found.passed * right).sum() / count if count else math.nan
            logs["selection_precision"] = float(share)
        logs["memorization"] = float(
            metrics.memorization_rate(noisy, clean, ensemble)
        )

    def _calibration_error(self) -> float:
        x, labels = self.validation_data
        probs = self.model.predict(
            x, batch_size=self.batch_size, verbose=0, output="ensemble"
        )
        if len(probs) != len(labels):
            raise ValueError(
                "`validation_data[1]` must be one label for each example. "
                f"Received: {len(labels)} labels for {len(probs)} examples."
            )
        error = metrics.ExpectedCalibrationError()
        error.update_state(_ids(labels).astype("int32"), probs)
        return float(error.result())


def _ids(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return labels.argmax(axis=-1) if labels.ndim == 2 else labels


def _share(values: npt.NDArray[Any]) -> float:
    return float(np.mean(values))
