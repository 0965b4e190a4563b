"""Several gates, one after the other."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd._config import Holder
from keras_smkd._config import checked_parts
from keras_smkd.batch import Batch


@keras.saving.register_keras_serializable(package="keras_smkd")
class Product(Holder):
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
        self.gates = checked_parts("gates", gates)

    def held(self) -> list[Any]:
        """Return the gates."""
        return list(self.gates)

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
