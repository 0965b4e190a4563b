"""What `fit` and `evaluate` print, unless a user prints something else."""

from collections.abc import Collection
from typing import Any

import keras

# Of Keras's twenty marks, so that there is room for the values.
_BAR_WIDTH = 10


class ProgressLine(keras.callbacks.ProgbarLogger):
    """Prints as Keras does, but not all of the logs.

    Args:
        left_out: Names of logs, of which `val_...` is left out, too.
    """

    # As Keras's own is, which it adds after it has asked.
    async_safe = True

    def __init__(self, left_out: Collection[str]) -> None:
        super().__init__()
        self.left_out = {
            f"{prefix}{name}" for name in left_out for prefix in ("", "val_")
        }

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self.progbar.width = _BAR_WIDTH

    def on_test_begin(self, logs: Any = None) -> None:
        super().on_test_begin(logs)
        self.progbar.width = _BAR_WIDTH

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_end(batch, self._shown(logs))

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        super().on_test_batch_end(batch, self._shown(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, self._shown(logs))

    def on_test_end(self, logs: Any = None) -> None:
        super().on_test_end(self._shown(logs))

    def _shown(self, logs: Any) -> dict[str, Any]:
        """Return some of the logs, in a dictionary of their own."""
        return {
            name: value
            for name, value in (logs or {}).items()
            if name not in self.left_out
        }


def add_line(model: Any, given: dict[str, Any]) -> None:
    """Add a `ProgressLine` to the callbacks where Keras would add its own.

    Args:
        model: A `PeerLearning`.
        given: Arguments of `fit` or `evaluate`, in place.
    """
    callbacks = given.setdefault("callbacks", None)
    is_silent = given.get("verbose", "auto") == 0
    # A list of Keras's own says itself who prints.
    is_list = isinstance(callbacks, keras.callbacks.CallbackList)
    if is_silent or is_list or model._logs is None:
        return
    own = keras.tree.flatten(callbacks or [])
    if not any(isinstance(one, keras.callbacks.ProgbarLogger) for one in own):
        given["callbacks"] = [*own, ProgressLine(model._logs.details)]
