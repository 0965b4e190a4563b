"""What a part remembers of each example, in a weight of its own."""

import math
from typing import Any

from keras import ops

from keras_smkd import _checks
from keras_smkd import backends
from keras_smkd import functional
from keras_smkd._config import StatefulPart
from keras_smkd.batch import Batch
from keras_smkd.batch import check_without_head

DTYPES = ("float32", "float16")


class ExampleMemory(StatefulPart):
    """Base of the parts that remember what was predicted for each example.

    The weight is `(num_examples, peers, ...)`, zeros in the beginning. An
    example is found by its index in the data set, which the batch brings; in
    evaluation nothing is remembered. A subclass says the shape of what it
    remembers of one example and peer, `row_shape`, and what it remembers next,
    `remember`.

    Args:
        num_examples: Number of examples in the data set, above every index.
        dtype: `"float32"`, or `"float16"` for half the memory and three
            digits.
    """

    needs_index = True

    def __init__(self, num_examples: int, dtype: str) -> None:
        super().__init__(dtype=_checks.one_of("dtype", dtype, DTYPES))
        self.num_examples = _checks.integer(
            "num_examples", num_examples, minimum=1
        )

    def row_shape(self, num_classes: int) -> tuple[int, ...]:
        """Return the shape of what is remembered of one example."""
        raise TypeError(_unwritten("row_shape", self))

    def remember(self, memory: Any, predictions: Any) -> Any:
        """Return what is to be remembered after a visit.

        Args:
            memory: `(batch, ...)`, of these examples, of one peer.
            predictions: `(batch, classes)`, probabilities.

        Returns:
            `(batch, ...)`, no gradient.
        """
        raise TypeError(_unwritten("remember", self))

    def prepare(self, peers: Any, num_classes: int) -> None:
        """Make the weight, zeros."""
        self.memory = self.add_state(
            "memory",
            (self.num_examples, len(peers), *self.row_shape(num_classes)),
            self.dtype,
        )

    def visit(self, batch: Batch) -> Any:
        """Return what is remembered of a batch's examples, then remember it.

        Args:
            batch: With `index` and `log_probs`.

        Returns:
            `(batch, peers, ...)` from before the visit; zeros in evaluation,
            and NaN for a place that the data set does not have.

        Raises:
            ValueError: if there is a learner that is no peer.
        """
        log_probs = batch.needed("log_probs", self)
        check_without_head(self, log_probs.shape[1], self.memory.shape[1])
        if not batch.training:
            shape = (ops.shape(log_probs)[0], *self.memory.shape[1:])
            return ops.zeros(shape, dtype=self.memory.dtype)
        index = batch.needed("index", self)
        inside = ops.logical_and(index >= 0, index < self.num_examples)
        index = ops.where(inside, index, 0)
        rows = backends.read_rows(self.memory, index)
        probs = ops.stop_gradient(ops.exp(log_probs))
        renewed = ops.stack(
            [
                self.remember(rows[:, i], probs[:, i])
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
        backends.write_rows(
            self.memory, backends.gather(index), backends.gather(renewed)
        )
        return ops.where(inside, rows, math.nan)


def _unwritten(method: str, part: ExampleMemory) -> str:
    return (
        f"`{method}` must be written by the subclass of `ExampleMemory`. "
        f"Received: {type(part).__name__} without it."
    )


def mean_distribution(total: Any) -> tuple[Any, Any]:
    """Return a weighted sum of distributions as their mean, and 1 if any.

    The weights' sum need not be known: each distribution sums to 1. It is
    what corrects the bias of an average that began at zero.

    Args:
        total: `(..., classes)`.

    Returns:
        `(..., classes)`, and `(...)` of 0 and 1. Rows of zeros stay.
    """
    total = functional.at_least_float32(total)
    weight = ops.sum(total, axis=-1)
    seen = weight > 0
    weight = ops.expand_dims(ops.where(seen, weight, 1.0), axis=-1)
    return total / weight, ops.cast(seen, total.dtype)


def moving_average(memory: Any, predictions: Any, momentum: float) -> Any:
    """Return `momentum * memory + (1 - momentum) * predictions`.

    Args:
        memory: `(batch, classes)`.
        predictions: `(batch, classes)`; no gradient flows through them.
        momentum: In [0, 1).

    Returns:
        `(batch, classes)`, float32 at least.
    """
    memory = functional.at_least_float32(memory)
    predictions = ops.cast(
        ops.stop_gradient(ops.convert_to_tensor(predictions)), memory.dtype
    )
    return momentum * memory + (1.0 - momentum) * predictions
