"""Several gates, one after the other."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd._config import StatefulPart
from keras_smkd.batch import Batch


@keras.saving.register_keras_serializable(package="keras_smkd")
class Product(StatefulPart):
    """Multiply the weights of several gates: `g = g_1 * g_2 * ...`.

    Args:
        gates: List of gates, two or more.

    Example:

    >>> both = Product(
    ...     [lambda batch: 0.5 * batch.losses, lambda batch: batch.losses]
    ... )
    >>> both(Batch(losses=ops.ones((1, 2))))
    [[0.5, 0.5]]
    """

    def __init__(self, gates: Sequence[Any]) -> None:
        super().__init__()
        if not isinstance(gates, (list, tuple)) or len(gates) < 2:
            raise ValueError(
                "`gates` must be a list of two gates or more. "
                f"Received: gates={gates!r}."
            )
        for i, gate in enumerate(gates):
            if not callable(gate) or isinstance(gate, type):
                raise TypeError(
                    "`gates` must be callables of the batch. "
                    f"Received: gates[{i}]={gate!r}."
                )
        self.gates = list(gates)

    @property
    def needs_index(self) -> bool:
        """Whether one of the gates does."""
        return any(getattr(gate, "needs_index", False) for gate in self.gates)

    @property
    def needs_progress(self) -> bool:
        """Whether one of the gates does."""
        return any(getattr(gate, "needs_progress", True) for gate in self.gates)

    def prepare(self, peers: Any, num_classes: int) -> None:
        """Prepare every gate."""
        for gate in self.gates:
            if hasattr(gate, "prepare"):
                gate.prepare(peers, num_classes)

    def after_step(self, taken: Any, step: Any) -> None:
        """Let every gate that wants to move do so."""
        for gate in self.gates:
            if hasattr(gate, "after_step"):
                gate.after_step(taken, step)

    def check_thresholds(
        self,
        selection: Any,
        thresholds: Sequence[float],
        num_classes: int | None = None,
    ) -> None:
        """Raise if one of the gates cannot work with the thresholds.

        Args:
            selection: The model's selection, `None` for all knowledge.
            thresholds: The threshold, at different times.
            num_classes: Number of classes, `None` if it is not known yet.
        """
        for gate in self.gates:
            if hasattr(gate, "check_thresholds"):
                gate.check_thresholds(selection, thresholds, num_classes)

    def __call__(self, batch: Batch) -> Any:
        """Return `(batch, learners)`, the product of the gates' weights."""
        result = self.gates[0](batch)
        for gate in self.gates[1:]:
            result = result * ops.cast(gate(batch), result.dtype)
        return result
