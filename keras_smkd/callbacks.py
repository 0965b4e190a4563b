"""Callbacks: what acts on the model around its steps."""

import math
from typing import Any

import keras
import numpy as np

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd import metrics
from keras_smkd import schedules


class ThresholdSchedule(keras.callbacks.Callback):
    """Base class: the selection threshold as a function of progress.

    Give an instance to `fit(callbacks=[...])` of a
    `keras_smkd.SelectiveMutualDistillation`. The schedule becomes part of the
    compiled training step and takes effect at every optimizer step: step `k`
    of `n` uses `value(k / n)`, `k` counted from 0. It lasts for that `fit`;
    afterwards the model keeps the last threshold.

    To make one, subclass and write `value`. It is called with Python floats
    when training begins, to check it, and with a scalar tensor when the step
    is compiled, so it must use arithmetic and `keras.ops` only.

    Example:

    ```python
    class LinearThreshold(keras_smkd.callbacks.ThresholdSchedule):
        def value(self, progress):
            return 1.0 - 0.9 * progress

    model.fit(x, y, epochs=10, callbacks=[LinearThreshold()])
    ```
    """

    needs_progress = True

    def value(self, progress: Any) -> Any:
        """Return the threshold at `progress` in [0, 1]: a number >= 0."""
        raise TypeError(
            "`value` must be written by the subclass of `ThresholdSchedule`. "
            f"Received: {type(self).__name__} without it."
        )

    def on_train_begin(self, logs: Any = None) -> None:
        """Check the schedule and hand it to the model.

        Raises:
            TypeError: if the model has no threshold.
            ValueError: if `value` gives a negative or non-finite threshold.
        """
        model = self.model
        if not hasattr(model, "set_threshold_schedule"):
            raise TypeError(
                "A threshold schedule needs a "
                "`keras_smkd.SelectiveMutualDistillation`. Received: "
                f"model={model!r} of type {type(model).__name__}."
            )
        for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
            threshold = float(keras.ops.convert_to_numpy(self.value(progress)))
            if not math.isfinite(threshold) or threshold < 0:
                raise ValueError(
                    "`value` must give a finite threshold >= 0. Received: "
                    f"value({progress})={threshold} from "
                    f"{type(self).__name__}."
                )
        model.set_threshold_schedule(self)


class StaticThreshold(ThresholdSchedule):
    """The same threshold throughout: SMKD-S.

    Args:
        threshold: Number >= 0. 0 selects no knowledge, above 1 all of it,
            for models with `gate=None`.

    Example:

    >>> StaticThreshold(0.5).value(0.9)
    0.5

    Reference:
        Li et al., 2023, "SMKD: Selective Mutual Knowledge Distillation",
        IJCNN.
        https://doi.org/10.1109/IJCNN54540.2023.10191991
    """

    needs_progress = False

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = _checks.number("threshold", threshold, minimum=0.0)

    def value(self, progress: Any) -> Any:
        return schedules.Constant(self.threshold)(progress)


class ProgressiveThreshold(ThresholdSchedule):
    """A threshold that moves with the progress of training: SMKD-P.

    `threshold(t) = 2 * scale * sigmoid(sharpness * (midpoint - t))`

    A negative sharpness loosens the threshold: confident knowledge first, more
    of it later. A positive one tightens it as the peers grow confident.

    Args:
        scale: Threshold at the midpoint, >= 0.
        sharpness: How fast it moves; 0 is static.
        midpoint: Progress at which it is `scale`, in [0, 1].

    Example:

    >>> schedule = ProgressiveThreshold(scale=0.5, sharpness=-8.0)
    >>> [round(schedule.value(t), 3) for t in (0.0, 0.5, 1.0)]
    [0.018, 0.5, 0.982]

    Reference:
        Li et al., 2023, "SMKD: Selective Mutual Knowledge Distillation",
        IJCNN.
        https://doi.org/10.1109/IJCNN54540.2023.10191991
    """

    def __init__(
        self,
        scale: float = 0.5,
        sharpness: float = -8.0,
        midpoint: float = 0.5,
    ) -> None:
        super().__init__()
        self._schedule = schedules.Sigmoid(scale, sharpness, midpoint)
        self.scale = self._schedule.scale
        self.sharpness = self._schedule.sharpness
        self.midpoint = self._schedule.midpoint

    def value(self, progress: Any) -> Any:
        return self._schedule(progress)


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
        self.noisy_labels = np.asarray(noisy_labels)
        self.clean_labels = np.asarray(clean_labels)
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
        log_probs = functional.log_probabilities(probs, from_logits=False)
        selected = keras.ops.convert_to_numpy(
            model.selection(log_probs, model.threshold)
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
