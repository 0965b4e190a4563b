"""The ceiling of selection: knowledge that is right by the clean labels."""

from typing import Any

import numpy as np
from keras import ops

from keras_smkd import Batch


class OracleSelection:
    """Selects the knowledge whose most probable class is the clean label.

    No method can do it without the clean labels: it is the most that
    selection alone can give. Where a batch does not say its examples' places,
    as in evaluation, nothing is known to be right.

    Args:
        clean_labels: `(examples,)` integers, by the labels' index.
    """

    needs_index = True
    needs_progress = False

    def __init__(self, clean_labels: Any) -> None:
        self.clean_labels = np.asarray(clean_labels, "int32")

    def __call__(self, batch: Batch) -> Any:
        """Return `(batch, sources)`, 1 where the knowledge is right."""
        if batch.index is None:
            return ops.zeros_like(batch.knowledge[..., 0])
        clean = ops.take(
            ops.convert_to_tensor(self.clean_labels), batch.index, axis=0
        )
        predicted = ops.cast(ops.argmax(batch.knowledge, axis=-1), "int32")
        right = predicted == ops.expand_dims(clean, axis=1)
        return ops.cast(right, batch.knowledge.dtype)
