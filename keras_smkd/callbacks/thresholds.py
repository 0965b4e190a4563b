"""Schedules of the selection threshold, for `fit`."""

import math
from collections.abc import Callable
from typing import Any

import keras

from keras_smkd import _checks
from keras_smkd import schedules


class ThresholdSchedule(keras.callbacks.Callback):
    """The selection threshold as a function of progress.

    Give an instance to `fit(callbacks=[...])` of a `keras_smkd.PeerLearning`
    with a selection. The schedule becomes part of the compiled training step
    and takes effect at every optimizer step: step `k` of `n` uses
    `value(k / n)`, `k` counted from 0. It lasts for that `fit`; afterwards the
    model keeps the last threshold.

    Args:
        schedule: `progress -> threshold`, such as those of
            `keras_smkd.schedules`. Or `None` for a subclass that writes
            `value`. It is called with Python floats when training begins, to
            check it, and with a scalar tensor when the step is compiled, so it
            must use arithmetic and `keras.ops` only.

    Raises:
        TypeError: if `schedule` is not callable.

    Example:

    ```python
    loosening = keras_smkd.callbacks.ThresholdSchedule(
        keras_smkd.schedules.Linear(0.0, 0.5)
    )
    model.fit(x, y, epochs=10, callbacks=[loosening])
    ```
    """

    def __init__(self, schedule: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        if schedule is not None and not callable(schedule):
            raise TypeError(
                "`schedule` must be a callable from progress to a threshold. "
                f"Received: schedule={schedule!r}."
            )
        self.schedule = schedule

    @property
    def needs_progress(self) -> bool:
        """Whether the threshold depends on the progress of training."""
        return getattr(self.schedule, "needs_progress", True)

    def value(self, progress: Any) -> Any:
        """Return the threshold at `progress` in [0, 1]: a number >= 0."""
        if self.schedule is None:
            raise TypeError(
                "`schedule` must be given, or `value` be written by a subclass "
                "of `ThresholdSchedule`. "
                f"Received: {type(self).__name__} without either."
            )
        return self.schedule(progress)

    def __call__(self, progress: Any) -> Any:
        """Return the threshold at `progress`, as `value` does."""
        return self.value(progress)

    def on_train_begin(self, logs: Any = None) -> None:
        """Check the schedule and hand it to the model.

        Raises:
            TypeError: if the model has no threshold.
            ValueError: if it gives a negative or non-finite threshold, or
                nothing is selected by one.
        """
        model = self.model
        if not hasattr(model, "set_threshold_schedule"):
            raise TypeError(
                "A threshold schedule needs a `keras_smkd.PeerLearning`: that "
                "must be the model. "
                f"Received: model={model!r} of type {type(model).__name__}."
            )
        for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
            threshold = float(keras.ops.convert_to_numpy(self.value(progress)))
            if not math.isfinite(threshold) or threshold < 0:
                raise ValueError(
                    "A threshold schedule must give finite thresholds >= 0. "
                    f"Received: value({progress})={threshold} from "
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

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = _checks.number("threshold", threshold, minimum=0.0)
        super().__init__(schedules.Constant(self.threshold))


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
        schedule = schedules.Sigmoid(scale, sharpness, midpoint)
        super().__init__(schedule)
        self.scale = schedule.scale
        self.sharpness = schedule.sharpness
        self.midpoint = schedule.midpoint
