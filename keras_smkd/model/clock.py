"""How far the training is, and the threshold that follows it."""

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks


class Clock(keras.layers.Layer):
    """Three scalars that move with the training, as weights of a model.

    So they live in the compiled step and are saved: the optimizer steps
    taken, the steps in the whole training (0 if unknown), and the selection
    threshold.

    Args:
        total_steps: Optimizer steps in the whole training, or `None`.
        threshold: The threshold to begin with, or a schedule of it.
    """

    def __init__(self, total_steps: int | None, threshold: Any) -> None:
        if total_steps is not None:
            _checks.integer("total_steps", total_steps, minimum=1)
        super().__init__(name="clock")
        self.step = self._add_scalar("step", "int32", 0)
        self.total_steps = self._add_scalar(
            "total_steps", "int32", total_steps or 0
        )
        begin = float(threshold(0.0)) if callable(threshold) else threshold
        self.threshold = self._add_scalar("threshold", "float32", begin)
        # What writes the threshold: the selection's own, or that of a `fit`.
        self.schedule = threshold if callable(threshold) else None
        self._traced: Any = (None, None)
        self.built = True

    def _add_scalar(self, name: str, dtype: str, value: Any) -> Any:
        return self.add_weight(
            name=name,
            shape=(),
            dtype=dtype,
            initializer=keras.initializers.Constant(value),
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
        )

    def check_total_steps(self, parts: Iterable[Any]) -> None:
        """Raise if a part follows the progress and the total is unknown.

        Args:
            parts: Parts or `None`s. One that does not say whether it follows
                the progress may do so.

        Raises:
            ValueError: if it is so.
        """
        needed = any(
            getattr(part, "needs_progress", True)
            for part in parts
            if part is not None
        )
        if needed and int(ops.convert_to_numpy(self.total_steps)) == 0:
            raise ValueError(
                "`total_steps` must be known, because a part, the weight or "
                "the threshold schedule follows the progress of training. "
                "Received: total_steps=None and data of unknown length. Give "
                "`steps_per_epoch` to `fit`, or `total_steps` to the model."
            )

    def progress(self) -> Any:
        """Return the share of training done, a float32 scalar in [0, 1]."""
        total = ops.maximum(ops.convert_to_tensor(self.total_steps), 1)
        step = ops.minimum(ops.convert_to_tensor(self.step), total)
        return ops.cast(step, "float32") / ops.cast(total, "float32")

    def set_schedule(self, schedule: Any) -> None:
        """Let a schedule write the threshold.

        Args:
            schedule: `progress -> threshold`.

        Raises:
            ValueError: if there is one already.
        """
        if self.schedule is not None:
            raise ValueError(
                "`fit` must be given one threshold schedule at the most. "
                f"Received: {schedule!r} besides {self.schedule!r}."
            )
        self.schedule = schedule

    def follow(self, progress: Any) -> None:
        """Write the schedule's threshold, if there is a schedule.

        Args:
            progress: Scalar in [0, 1].
        """
        if self.schedule is not None:
            threshold = self.schedule(progress)
            self.threshold.assign(ops.cast(threshold, "float32"))

    def is_settled(self, class_weight: Any) -> bool:
        """Return whether a step has what is in force now, and note it.

        Another schedule, or other class weights, need another compiled step;
        the same ones keep the step that there is.

        Args:
            class_weight: From class ids to weights, or `None`.
        """
        schedule, weight = self._traced
        self._traced = (self.schedule, class_weight)
        return schedule is self.schedule and weight == class_weight

    def advance(self, taken: Any) -> Any:
        """Count steps, and return how many there are now.

        Args:
            taken: Scalar, the optimizer steps that were taken.
        """
        self.step.assign_add(ops.cast(taken, "int32"))
        return ops.convert_to_tensor(self.step)
