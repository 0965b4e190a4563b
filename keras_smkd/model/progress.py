"""How far the training is: counting optimizer steps, in and around `fit`."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_smkd.model import compiling


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


def progress_of(step: Any, total_steps: Any) -> Any:
    """Return the share of training done, in [0, 1]; 0 if the total is 0.

    Args:
        step: Integer scalar, optimizer steps taken.
        total_steps: Integer scalar, steps in the whole training.

    Returns:
        float32 scalar.
    """
    total = ops.maximum(ops.convert_to_tensor(total_steps), 1)
    step = ops.minimum(ops.convert_to_tensor(step), total)
    return ops.cast(step, "float32") / ops.cast(total, "float32")


class FitProgress(keras.callbacks.Callback):
    """Sets a model's step and total steps for one `fit`.

    It must be the first of the callbacks, so that what the others restore
    stays.

    Args:
        initial_epoch: As given to `fit`.
    """

    def __init__(self, initial_epoch: int) -> None:
        super().__init__()
        self.initial_epoch = initial_epoch

    def on_train_begin(self, logs: Any = None) -> None:
        """Start counting; the restored counter of a resumed run stays."""
        model = self.model
        done = self._steps_in(self.initial_epoch)
        if self.initial_epoch == 0:
            model.step_counter.assign(0)
        elif done is not None and model.step == 0:
            model.step_counter.assign(done)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Not earlier: a restored backup brings the total of its own run.
        total = self._steps_in((self.params or {}).get("epochs", 0))
        self.model.set_steps_of_fit(total)

    def _steps_in(self, epochs: int) -> int | None:
        """Return the optimizer steps in so many epochs, `None` if unknown."""
        batches = (self.params or {}).get("steps")
        if batches is None:
            return None
        optimizer = compiling.innermost(self.model.optimizer)
        return epochs * batches // (optimizer.gradient_accumulation_steps or 1)


def callbacks_with_progress(
    callbacks: Any, model: keras.Model, initial_epoch: int
) -> Any:
    """Return the callbacks for `fit`, with a `FitProgress` before the rest."""
    progress = FitProgress(initial_epoch)
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        return [progress, *keras.tree.flatten(callbacks or [])]
    progress.set_model(model)
    progress.set_params(callbacks.params)
    callbacks.callbacks.insert(0, progress)
    return callbacks
