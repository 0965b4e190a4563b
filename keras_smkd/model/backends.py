"""Every branch on the backend of this room, and what Keras gets wrong.

Each says why the backends need to be told apart.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_smkd import _checks

# What Keras makes up the state of a step of on JAX, in this order.
_JAX_STATE = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)


def check_steps_per_execution(steps: Any) -> None:
    """Raise unless the backend can run so many steps in one call.

    Keras on torch takes one step a call.
    """
    _checks.integer("steps_per_execution", steps, minimum=1)
    if steps > 1 and keras.backend.backend() == "torch":
        raise ValueError(
            "`steps_per_execution` must be 1 on the torch backend. Received: "
            f"steps_per_execution={steps}. Use TensorFlow or JAX to run "
            "several steps in one call."
        )


def run_step(
    model: Any,
    step: Callable[..., Any],
    arguments: tuple[Any, ...],
    weighed: Callable[[Any], Any],
    after: Callable[[Any], None],
) -> Any:
    """Run Keras's training step, and what moves with it.

    JAX's step takes and returns the state; on the others the state is in the
    variables, which a step changes in place.

    Args:
        model: With an `optimizer`.
        step: Keras's `train_step`, bound to the model.
        arguments: What Keras passes to it: `(data,)`, on JAX `(state, data)`.
        weighed: From the data of a step to what it is to be run on.
        after: Called with the optimizer steps taken, 0 where accumulation or
            loss scaling skipped it. What it assigns is kept.

    Returns:
        What `step` returns.
    """
    if keras.backend.backend() == "jax":
        state, data = arguments
        return _run_stateless_step(model, step, state, weighed(data), after)
    # The sum is a new tensor; the counter itself moves with the step.
    before = steps_taken(model.optimizer) + 0
    logs = reducible(model, step(weighed(*arguments)))
    taken = steps_taken(model.optimizer) - before
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():  # Averages of weights take no gradient.
            after(taken)
    else:
        after(taken)
    return logs


def reducible(model: Any, logs: Any) -> Any:
    """Return a step's logs in a form of which Keras takes the workers' mean.

    With several workers of TensorFlow, Keras 3.15 reduces each value along
    its first axis, which a scalar has not: every `fit` would fail.
    """
    if not _has_workers(model):
        return logs
    return {name: ops.reshape(value, (1,)) for name, value in logs.items()}


def build_symbolically(
    model: Any,
    build: Callable[..., None],
    iterator: Any = None,
    data_batch: Any = None,
) -> None:
    """Run Keras's symbolic build, which comes before the first step.

    With several workers of TensorFlow, Keras 3.15 would first take the mean
    of their batches, all arrays at once, which fails for every model. The
    build looks at shapes only: this worker's part of the batch serves.

    Args:
        model: To be built.
        build: Keras's `_maybe_symbolic_build`, bound to the model.
        iterator: Keras's iterator of an epoch, or `None`.
        data_batch: A batch of data, or `None`.
    """
    if iterator is not None and _has_workers(model):
        results = model.distribute_strategy.experimental_local_results
        _, _, batches = next(iter(iterator))
        data_batch = keras.tree.map_structure(
            lambda part: results(part)[0], next(batches)
        )
        iterator = None
    build(iterator=iterator, data_batch=data_batch)


def check_undivided(model: Any, data: Any) -> None:
    """Raise if data are divided that TensorFlow will divide once more.

    Its workers would see a part of their part, and the rest nobody.

    Args:
        model: To be trained.
        data: What `fit` is given; a pipeline says its `shard`.
    """
    shard = getattr(data, "shard", None)
    # Of datasets that are no pipeline's, it is a method.
    if not isinstance(shard, tuple) or shard[1] == 1 or not _has_workers(model):
        return
    raise ValueError(
        "`x` must be all data in every process: TensorFlow's strategy divides "
        f"them itself. Received: a pipeline with shard={shard}. Make it "
        "without a shard, with the batch size of all processes together."
    )


def has_part_of_data() -> bool:
    """Return whether this process is one of several with data of its own.

    They are parts of a whole on torch, and on JAX. TensorFlow's strategies
    divide the whole among the processes themselves.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        distribution = keras.distribution.distribution()
        return distribution is not None and distribution.num_processes > 1
    if backend == "torch":
        from torch import distributed

        return (
            distributed.is_available()
            and distributed.is_initialized()
            and distributed.get_world_size() > 1
        )
    return False


def is_replicated(model: Any) -> bool:
    """Return whether a model has replicas, on TensorFlow.

    Its strategy traces their steps in threads of their own.
    """
    return (
        keras.backend.backend() == "tensorflow"
        and model.distribute_strategy.num_replicas_in_sync > 1
    )


def _has_workers(model: Any) -> bool:
    """Return whether the model is one of several workers of TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    strategy = model.distribute_strategy
    return (
        isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        and strategy.extended._in_multi_worker_mode()
    )


def _run_stateless_step(
    model: Any,
    step: Callable[..., Any],
    state: Any,
    data: Any,
    after: Callable[[Any], None],
) -> Any:
    before = _steps_in(model.optimizer, state[2])
    logs, (trainable, non_trainable, optimizer, metrics) = step(state, data)
    taken = _steps_in(model.optimizer, optimizer) - before
    others = model.non_trainable_variables
    mapping = [
        *zip(model.trainable_variables, trainable, strict=True),
        *zip(others, non_trainable, strict=True),
    ]
    with keras.StatelessScope(state_mapping=mapping) as scope:
        after(taken)
    non_trainable = [scope.get_current_value(variable) for variable in others]
    return logs, (trainable, non_trainable, optimizer, metrics)


def _steps_in(optimizer: Any, values: Any) -> Any:
    mapping = list(zip(optimizer.variables, values, strict=True))
    with keras.StatelessScope(state_mapping=mapping):
        return steps_taken(optimizer)


def steps_taken(optimizer: Any) -> Any:
    """Return how many updates the optimizer has made, as a tensor.

    Accumulated batches count once, and an update that loss scaling skipped
    does not count.
    """
    return ops.convert_to_tensor(innermost(optimizer).iterations)


def innermost(optimizer: Any) -> Any:
    """Return the optimizer inside of all that is around it.

    That is loss scaling, routing and gradient rules.
    """
    while True:
        # The counter of routing counts accumulated batches one by one. Before
        # it is built it has no inner optimizers, and no steps either.
        if getattr(optimizer, "optimizers", None):
            optimizer = optimizer.optimizers[0]
        elif getattr(optimizer, "inner_optimizer", None) is not None:
            optimizer = optimizer.inner_optimizer
        else:
            return optimizer


def build_optimizer(model: Any) -> None:
    """Make the optimizer's variables, for what is trainable now.

    TensorFlow wants that in the scope of the strategy that made the model's.
    """
    if keras.backend.backend() == "tensorflow":
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
    else:
        model.optimizer.build(model.trainable_variables)


def map_outputs(result: Any, function: Callable[[Any], Any]) -> Any:
    """Return a step's result with its outputs changed.

    On JAX Keras's `predict_step` gives the state beside them.
    """
    if keras.backend.backend() == "jax":
        outputs, state = result
        return function(outputs), state
    return function(result)


@contextlib.contextmanager
def saving_alone() -> Iterator[None]:
    """Let one process of several save a model by itself, on JAX.

    To know what not to save, Keras makes an optimizer, and under a
    distribution all processes must make its variables at once.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def remember_state(model: Any, state: Any, asked: dict[str, Any]) -> None:
    """Have JAX put weights back that an error in the first step would lose.

    Keras takes them out of the model before that step, and puts them back from
    `_jax_state`, which it sets after it.

    Args:
        model: The model.
        state: What Keras's `_get_jax_state` returned.
        asked: The arguments that it was called with.
    """
    names = [name for name in _JAX_STATE if asked.get(name)]
    model._jax_state = dict(zip(names, state, strict=True))


def put_weights_back(model: Any) -> None:
    """Put the weights back that an error has left outside a model, on JAX."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def named_parameters(variables: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield every variable's parameter, for torch, under a name of its own.

    Keras names parameters by their variables' paths, and peers with layers of
    the same name have the same paths: all but one would be left out, and their
    gradients never cleared.
    """
    for i, variable in enumerate(variables):
        yield f"{prefix}{i}/{variable.path}", variable.value


def new_torch_seed() -> int:
    """Return a number that follows from the state of torch's generator.

    The others draw from seeds that are weights of the model.
    """
    if keras.backend.backend() != "torch":
        return 0
    import torch

    return int(torch.randint(2**31 - 1, ()))


def seed_torch(seed: int, epoch: int) -> None:
    """Set torch's generator to the state with which an epoch begins.

    A dropout without a seed draws from it, on torch, and arrays are shuffled
    by it. No file has its state, so each epoch's follows from the epoch.
    """
    if keras.backend.backend() == "torch":
        import torch

        mixed = np.random.SeedSequence([seed, epoch]).generate_state(1)
        torch.manual_seed(int(mixed[0]))
