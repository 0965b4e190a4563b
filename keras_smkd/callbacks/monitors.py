"""Monitors: what is known to the researcher, and not to the training."""

import math
from typing import Any

import keras
import numpy as np

from keras_smkd import functional
from keras_smkd import metrics
from keras_smkd._labels import class_ids
from keras_smkd.batch import Batch


class NoiseMonitor(keras.callbacks.Callback):
    """Adds to the logs what can be known only with the clean labels.

    After every epoch the peers predict the training examples, without
    training, and these join the epoch's logs:

    | name | value |
    |---|---|
    | `selection_precision` | share of the selected knowledge that is right: |
    | | the most probable class is the clean label; NaN if none is selected |
    | `memorization` | share of the wrong labels that the ensemble predicts |

    For experiments with known noise. Place it before callbacks that read the
    logs, such as `keras.callbacks.CSVLogger`.

    Args:
        x: The training inputs, as `predict` takes them.
        noisy_labels: `(examples,)`, integers, as trained on.
        clean_labels: `(examples,)`, integers, the truth.
        batch_size: Batch size of the predictions.

    Example:

    ```python
    monitor = keras_smkd.callbacks.NoiseMonitor(x, noisy_labels, clean_labels)
    model.fit(x, noisy_labels, epochs=10, callbacks=[monitor])
    ```
    """

    def __init__(
        self,
        x: Any,
        noisy_labels: Any,
        clean_labels: Any,
        batch_size: int = 256,
    ) -> None:
        super().__init__()
        self.x = x
        self.noisy_labels = class_ids("noisy_labels", noisy_labels)
        self.clean_labels = class_ids("clean_labels", clean_labels)
        self.batch_size = batch_size
        if self.noisy_labels.shape != self.clean_labels.shape:
            raise ValueError(
                "`noisy_labels` and `clean_labels` must have the same shape. "
                f"Received: {self.noisy_labels.shape} and "
                f"{self.clean_labels.shape}."
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is None:
            return
        model = self.model
        probs = model.predict(
            self.x, batch_size=self.batch_size, verbose=0, output="all"
        )
        probs = np.stack([probs[name] for name in model.peer_names], axis=1)
        selected = np.zeros(probs.shape[:2])
        if model.selection is not None:
            log_probs = functional.log_probabilities(probs, from_logits=False)
            selected = keras.ops.convert_to_numpy(
                model.selection(
                    Batch(knowledge=log_probs, threshold=model.threshold)
                )
            )
        right = probs.argmax(axis=-1) == self.clean_labels[:, None]
        count = selected.sum()
        logs["selection_precision"] = (
            float((selected * right).sum() / count) if count else math.nan
        )
        logs["memorization"] = float(
            metrics.memorization_rate(
                self.noisy_labels, self.clean_labels, probs.mean(axis=1)
            )
        )
