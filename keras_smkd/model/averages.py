"""The peers' weights averaged over the steps, which an optimizer keeps."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd.model.ensemble import PeerEnsemble


def check_keeps_averages(optimizer: Any) -> None:
    """Raise unless an optimizer (of all peers) averages the weights.

    Args:
        optimizer: As `compiling.optimizer_for_peers` returns it, or a list of
            the peers' own.
    """
    parts = optimizer if isinstance(optimizer, (list, tuple)) else [optimizer]
    for part in map(keras.optimizers.get, parts):
        part = getattr(part, "inner_optimizer", part)
        if not part.use_ema:
            raise ValueError(
                "`optimizer` must be made with `use_ema=True`, because the "
                "knowledge is that of the averaged weights "
                "(`averaged_knowledge=True`). "
                f"Received: {type(part).__name__} without it."
            )


def averages_of(optimizer: Any, values: Sequence[Any] | None) -> dict[int, Any]:
    """Return `{id of a weight: its average}`, as tensors.

    Args:
        optimizer: The compiled one, built, with `use_ema`.
        values: Of the optimizer's variables, on JAX inside a step; `None` for
            those that they have.
    """
    current = {
        id(variable): value
        for variable, value in zip(
            optimizer.variables,
            optimizer.variables if values is None else values,
            strict=True,
        )
    }
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    found = {}
    for part in getattr(inner, "optimizers", None) or [inner]:
        # Where `keras.callbacks.SwapEMAWeights` takes them from.
        averages = part._model_variables_moving_average
        for variable, average in zip(
            part._trainable_variables, averages, strict=True
        ):
            if average is not None:
                found[id(variable)] = ops.convert_to_tensor(
                    current[id(average)]
                )
    return found


def averaged_outputs(
    peer: keras.Model, averages: dict[int, Any], inputs: Any
) -> Any:
    """Return what a peer puts out in inference, with its averaged weights.

    Args:
        peer: The peer; its weights stay as they are.
        averages: From `averages_of`. A weight without one counts as it is.
        inputs: As for the peer.

    Returns:
        `(batch, classes)`, no gradient.
    """
    trainable = [
        averages.get(id(variable), variable.value)
        for variable in peer.trainable_variables
    ]
    other = [variable.value for variable in peer.non_trainable_variables]
    outputs, _ = peer.stateless_call(trainable, other, inputs, training=False)
    return ops.stop_gradient(outputs)


def part_from_weights(optimizer: Any) -> None:
    """Give the averages, on JAX, arrays of their own.

    `fit` ends with the averages in the weights, and both are then the same
    array, which the next `fit` could not give away twice.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    for part in getattr(inner, "optimizers", None) or [inner]:
        for average in part._model_variables_moving_average:
            if average is not None:
                average.assign(ops.copy(average.value))


class AveragingEnsemble(PeerEnsemble):
    """Peers whose averaged weights, too, can be asked what they predict."""

    averaged_knowledge = False
    # The optimizer's state while JAX traces a step.
    _optimizer_values: Any = None

    def averaged_outputs(self, x: Any) -> dict[str, Any]:
        """Return what the peers put out with their averaged weights."""
        found = averages_of(self.optimizer, self._optimizer_values)
        return {
            name: averaged_outputs(peer, found, x)
            for name, peer in zip(self.peer_names, self.peers, strict=True)
        }

    def _get_jax_state(self, **kwargs: Any) -> Any:
        if self.averaged_knowledge and kwargs.get("optimizer_variables"):
            part_from_weights(self.optimizer)
        return super()._get_jax_state(**kwargs)

    def compute_loss_and_updates(
        self, *args: Any, optimizer_variables: Any = None, **kwargs: Any
    ) -> Any:
        """Run Keras's own, for JAX, with the optimizer's state at hand."""
        self._optimizer_values = optimizer_variables
        try:
            return super().compute_loss_and_updates(
                *args, optimizer_variables=optimizer_variables, **kwargs
            )
        finally:
            self._optimizer_values = None
