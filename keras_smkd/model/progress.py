"""How far the training is, and the threshold that follows it."""

import functools
import inspect
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd.model import compiling
from keras_smkd.model import resuming
from keras_smkd.model.saving import ResumableModel

# What Keras makes up the state of a step of, in this order.
_JAX_STATE = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)
FIT_SIGNATURE = inspect.signature(keras.Model.fit)


class ProgressModel(ResumableModel):
    """A Keras model that knows how far its training is.

    It holds three scalars as weights, so that they live in the compiled step
    and are saved: the optimizer steps taken, the steps in the whole training,
    and the selection threshold, which a schedule may write at every step.

    Args:
        total_steps: Optimizer steps in the whole training, or `None` to take
            it from `fit`.
        threshold: The threshold to begin with.
        **kwargs: As for `keras.Model`.
    """

    # A label correction `(labels, predictions, progress)`, if there is one.
    target: Any = None
    # What weakens labels by selected knowledge, if there is something.
    gate: Any = None
    # Number, or a schedule of it.
    distillation_weight: Any = 1.0

    def __init__(
        self, total_steps: int | None, threshold: float, **kwargs: Any
    ) -> None:
        if total_steps is not None:
            _checks.integer("total_steps", total_steps, minimum=1)
        super().__init__(**kwargs)
        self.given_total_steps = total_steps
        self.step_counter = self._add_scalar("step", "int32", 0)
        # 0 stands for unknown.
        self.total_steps_variable = self._add_scalar(
            "total_steps", "int32", total_steps or 0
        )
        self.threshold_variable = self._add_scalar(
            "threshold", "float32", threshold
        )
        self._schedule: Any = None
        self._traced_schedule: Any = None

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

    @property
    def step(self) -> int:
        """Optimizer steps taken in the current training."""
        return int(ops.convert_to_numpy(self.step_counter))

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps in the whole training, `None` if unknown."""
        return int(ops.convert_to_numpy(self.total_steps_variable)) or None

    @total_steps.setter
    def total_steps(self, value: int) -> None:
        value = _checks.integer("total_steps", value, minimum=1)
        self.given_total_steps = value
        self.total_steps_variable.assign(value)

    @property
    def threshold(self) -> float:
        """The threshold in force; a schedule given to `fit` overwrites it."""
        return float(ops.convert_to_numpy(self.threshold_variable))

    @threshold.setter
    def threshold(self, value: float) -> None:
        value = _checks.number("threshold", value, minimum=0.0)
        check_selects(self.gate, value)
        self.threshold_variable.assign(value)

    def progress(self) -> Any:
        """Return the share of training done, a float32 scalar in [0, 1]."""
        total = ops.maximum(ops.convert_to_tensor(self.total_steps_variable), 1)
        step = ops.minimum(ops.convert_to_tensor(self.step_counter), total)
        return ops.cast(step, "float32") / ops.cast(total, "float32")

    def update_threshold(self, progress: Any) -> None:
        """Write the schedule's threshold, if there is a schedule."""
        if self._schedule is not None:
            threshold = self._schedule.value(progress)
            self.threshold_variable.assign(ops.cast(threshold, "float32"))

    def set_threshold_schedule(self, schedule: Any) -> None:
        """Let a schedule write the threshold, for the rest of this `fit`.

        It becomes part of the compiled step: no retracing while it stays, no
        exchange with the host. `ThresholdSchedule` callbacks call this.

        Args:
            schedule: Object with `value(progress)` and `needs_progress`.

        Raises:
            ValueError: if there is a schedule already; if there is a gate and
                the threshold is above 1 throughout.
        """
        if self._schedule is not None:
            raise ValueError(
                "`fit` must be given one threshold schedule at the most. "
                f"Received: {schedule!r} besides {self._schedule!r}."
            )
        check_selects(
            self.gate,
            *(
                float(ops.convert_to_numpy(schedule.value(progress)))
                for progress in (0.0, 0.25, 0.5, 0.75, 1.0)
            ),
        )
        self._schedule = schedule

    def settle_step(self) -> None:
        """Have the compiled step contain the schedule in force.

        Another schedule needs another step; the same one keeps the step that
        there is.

        Raises:
            ValueError: if a part follows the progress of training and the
                total steps are unknown.
        """
        self._require_total_steps()
        if self._schedule is not self._traced_schedule:
            self._traced_schedule = self._schedule
            self.make_train_function(force=True)

    def set_steps_of_fit(self, total_steps: int | None) -> None:
        """Take the total steps from `fit`, unless they were given before."""
        self.total_steps_variable.assign(
            self.given_total_steps or total_steps or 0
        )

    def _require_total_steps(self) -> None:
        parts = [self._schedule, self.target]
        if callable(self.distillation_weight):
            parts.append(self.distillation_weight)
        needed = any(
            getattr(part, "needs_progress", True)
            for part in parts
            if part is not None
        )
        if needed and self.total_steps is None:
            raise ValueError(
                "`total_steps` must be known, because the target, the weight "
                "or the threshold schedule follows the progress of training. "
                "Received: total_steps=None and data of unknown length. Give "
                "`steps_per_epoch` to `fit`, or `total_steps` to the model."
            )

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, **kwargs: Any
    ) -> Iterator[tuple[str, Any]]:
        """Yield every variable's parameter, under a name of its own.

        For torch. Keras names parameters by their variables' paths, and peers
        with layers of the same name have the same paths: all but one would be
        left out, and their gradients never cleared.
        """
        for i, variable in enumerate(self.variables):
            yield f"{prefix}{i}/{variable.path}", variable.value

    def _get_jax_state(self, **kwargs: Any) -> Any:
        """Return the weights for a step on JAX, and remember them.

        Keras takes them out of the model before the first step, and puts them
        back from `_jax_state`, which it sets after that step: an error in the
        first step, such as that of a wrong label, would lose them.
        """
        state = super()._get_jax_state(**kwargs)
        names = [name for name in _JAX_STATE if kwargs.get(name)]
        self._jax_state = dict(zip(names, state, strict=True))
        return state

    @functools.wraps(keras.Model.fit)
    def fit(self, *args: Any, **kwargs: Any) -> Any:
        given = FIT_SIGNATURE.bind(self, *args, **kwargs).arguments
        given.pop("self")
        given_callbacks = given.pop("callbacks", None)
        try:
            with resuming.counted_callbacks(
                self,
                given_callbacks,
                given.get("initial_epoch", 0),
                given.get("x"),
            ) as callbacks:
                return super().fit(callbacks=callbacks, **given)
        finally:
            self._schedule = None


def check_selects(gate: Any, *thresholds: float) -> None:
    """Refuse a gate where everything is selected throughout.

    Peers that trust each other in everything, against the labels, talk each
    other into anything.

    Args:
        gate: The gate, or `None`.
        *thresholds: The threshold, at different times.

    Raises:
        ValueError: if there is a gate and every threshold is above 1.
    """
    if gate is not None and min(thresholds) > 1.0:
        raise ValueError(
            "`gate` must be None where the threshold is above 1 throughout: "
            "everything is selected, and labels would be dropped for any "
            "knowledge. Give `gate=None` for deep mutual learning, or a "
            f"smaller threshold. Received: gate={gate!r} and "
            f"threshold={min(thresholds)}."
        )


def counted_step(
    model: Any, step: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    """Run a training step and advance the model's step counter with it.

    The counter follows the optimizer's own, so that accumulated batches count
    once and an update that loss scaling skips does not count.

    Args:
        model: With `optimizer` and `step_counter`.
        step: Keras's `train_step`, bound to the model.
        arguments: What Keras passes to it: `(data,)`, on JAX `(state, data)`.

    Returns:
        What `step` returns.
    """
    if keras.backend.backend() == "jax":
        return _counted_stateless_step(model, step, *arguments)
    # The sum is a new tensor; the counter itself moves with the step.
    before = compiling.steps_taken(model.optimizer) + 0
    logs = step(*arguments)
    taken = compiling.steps_taken(model.optimizer) - before
    model.step_counter.assign_add(ops.cast(taken, "int32"))
    return logs


def _counted_stateless_step(
    model: Any, step: Callable[..., Any], state: Any, data: Any
) -> Any:
    before = _steps_in(model.optimizer, state[2])
    logs, state = step(state, data)
    trainable, non_trainable, optimizer, metrics = state
    taken = ops.cast(_steps_in(model.optimizer, optimizer) - before, "int32")
    non_trainable = [
        value + taken if variable is model.step_counter else value
        for variable, value in zip(
            model.non_trainable_variables, non_trainable, strict=True
        )
    ]
    return logs, (trainable, non_trainable, optimizer, metrics)


def _steps_in(optimizer: Any, values: Any) -> Any:
    mapping = list(zip(optimizer.variables, values, strict=True))
    with keras.StatelessScope(state_mapping=mapping):
        return compiling.steps_taken(optimizer)
