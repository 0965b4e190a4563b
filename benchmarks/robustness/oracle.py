"""The ceiling of selection: knowledge that is right by the clean labels."""

from typing import Any

import numpy as np
from keras import ops

import keras_smkd


class OracleSelection(keras_smkd.SelectiveMutualDistillation):
    """Selects the knowledge whose most probable class is the clean label.

    No method can do it without the clean labels: it is the most that
    selection alone can give.

    Args:
        clean_labels: `(examples,)` integers, by the labels' index.
        *args, **kwargs: As for `SelectiveMutualDistillation`.
    """

    def __init__(self, *args: Any, clean_labels: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clean_labels = np.asarray(clean_labels, "int32")

    def selected_knowledge(self, y: Any, log_probs: Any, threshold: Any) -> Any:
        """Return `(batch, peers)`, 1 where the knowledge is right."""
        clean = ops.take(
            ops.convert_to_tensor(self.clean_labels), y["index"], axis=0
        )
        predicted = ops.cast(ops.argmax(log_probs, axis=-1), "int32")
        right = predicted == ops.expand_dims(clean, axis=1)
        return ops.cast(right, log_probs.dtype)
