"""What a target remembers of each example, as a weight of the model."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_smkd.model import labels as labels_module
from keras_smkd.model import replicas


def remembers(target: Any) -> bool:
    """Return whether a label correction remembers examples."""
    return hasattr(target, "remember")


def index_of_batch(y: Any) -> Any:
    """Return the examples' places in the data set, `(batch,)` int32.

    Raises:
        TypeError: if they are not integers.
        ValueError: if `y` has none, or they have another shape.
    """
    index = y.get("index") if isinstance(y, dict) else None
    if index is None:
        raise ValueError(
            "`y` must be {'label': ..., 'index': ...} for a target that "
            "remembers examples: the index is each example's place in the "
            "data set. Received: labels without an index."
        )
    index = ops.convert_to_tensor(index)
    dtype = keras.backend.standardize_dtype(index.dtype)
    if not dtype.startswith(("int", "uint")):
        raise TypeError(
            "`y['index']` must hold integers. "
            f"Received: index of dtype {dtype}."
        )
    if len(index.shape) == 2 and index.shape[1] == 1:
        index = ops.squeeze(index, axis=1)
    if len(index.shape) != 1:
        raise ValueError(
            "`y['index']` must have shape (batch,). "
            f"Received: index of shape {tuple(index.shape)}."
        )
    # Bytes would be taken for a mask on torch.
    return ops.cast(index, "int32")


def check_index_values(y: Any, num_examples: int) -> None:
    """Raise if labels in memory have no index that fits the data set.

    What is not an array in memory (a data set, a generator) passes: its
    places are looked at batch by batch, by the model.

    Raises:
        TypeError: if the index does not hold integers.
        ValueError: if there is no index, it has another length than the
            labels, or a place outside [0, num_examples).
    """
    label = labels_module.label_of(y)
    if not isinstance(label, (list, np.ndarray)) and not ops.is_tensor(label):
        return
    index = np.asarray(ops.convert_to_numpy(index_of_batch(y)))
    if len(index) != len(label):
        raise ValueError(
            "`y['index']` must be as long as `y['label']`. "
            f"Received: {len(index)} places for {len(label)} labels."
        )
    if index.size and (index.min() < 0 or index.max() >= num_examples):
        raise ValueError(
            f"`y['index']` must be in [0, {num_examples}), the examples that "
            "the target remembers. "
            f"Received: places from {index.min()} to {index.max()}."
        )


class ExampleMemory:
    """What a target remembers of each example, as a weight of the model.

    The weight is `(num_examples, peers, ...)`, zeros in the beginning, saved
    with the model's own.

    Args:
        model: The model, whose weight it becomes.
        target: Label correction with `num_examples`, `dtype`,
            `memory_shape(num_classes)` and `remember(memory, predictions)`.
        num_peers: Number of peers.
        num_classes: Number of classes, `None` if it is not known yet.

    Raises:
        ValueError: if the number of classes is not known.
    """

    def __init__(
        self,
        model: keras.Model,
        target: Any,
        num_peers: int,
        num_classes: int | None,
    ) -> None:
        if num_classes is None:
            raise ValueError(
                "`peers` must tell their number of classes when they are "
                "built, for a target that remembers examples. Received: peers "
                "without an output shape. Build each as a functional or "
                "sequential model."
            )
        self._target = target
        self._weight = model.add_weight(
            name="memory",
            shape=(
                target.num_examples,
                num_peers,
                *target.memory_shape(num_classes),
            ),
            dtype=target.dtype,
            initializer="zeros",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
        )

    def visit(self, index: Any, probs: Any) -> Any:
        """Return what is remembered of the examples, and remember the visit.

        Args:
            index: `(batch,)` integers.
            probs: `(batch, peers, classes)`, the predictions of this visit.

        Returns:
            `(batch, peers, ...)` from before the visit; NaN for a place that
            the data set does not have.
        """
        inside = ops.logical_and(index >= 0, index < self._target.num_examples)
        index = ops.where(inside, index, 0)
        rows = _read(self._weight, index)
        renewed = ops.stack(
            [
                self._target.remember(rows[:, i], probs[:, i])
                for i in range(rows.shape[1])
            ],
            axis=1,
        )
        inside = ops.reshape(inside, (-1,) + (1,) * (len(rows.shape) - 1))
        # What is not finite would spoil every later visit of this peer.
        kept = ops.logical_and(inside, ops.isfinite(renewed))
        kept = ops.all(
            kept, axis=tuple(range(2, len(rows.shape))), keepdims=True
        )
        renewed = ops.where(kept, ops.cast(renewed, rows.dtype), rows)
        _write(self._weight, replicas.gather(index), replicas.gather(renewed))
        return ops.where(inside, rows, math.nan)

    def blank(self, probs: Any) -> Any:
        """Return what is remembered of examples that were never visited."""
        shape = (ops.shape(probs)[0], *self._weight.shape[1:])
        return ops.zeros(shape, dtype=self._weight.dtype)


# `keras.ops` copies the whole weight to change a few rows of it, which costs
# more than the rest of the step. JAX does it in place when it compiles.


def _read(variable: Any, index: Any) -> Any:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Not from a tensor of the variable: to change it would copy it then.
        return tf.gather(variable.value, index)
    return ops.take(ops.convert_to_tensor(variable), index, axis=0)


def _write(variable: Any, index: Any, rows: Any) -> None:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        variable.value.scatter_update(tf.IndexedSlices(rows, index))
    elif backend == "torch":
        variable.value.data[index] = rows
    else:
        values = ops.convert_to_tensor(variable)
        index = ops.expand_dims(index, axis=1)
        variable.assign(ops.scatter_update(values, index, rows))
