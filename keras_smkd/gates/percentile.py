"""The running percentile of the loss, which a curriculum measures by."""

from typing import Any

from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd._config import StatefulPart
from keras_smkd.batch import Batch
from keras_smkd.batch import check_without_head

_ADVICE = "Give a fraction, not a percentage."


class RunningPercentile(StatefulPart):
    """Base of the gates that weigh by the loss above its running percentile.

    `m <- decay * m + (1 - decay) * percentile of the losses` in each training
    batch, for each learner, from the first batch's percentile on. (The
    authors begin at 0.) Under several replicas each goes by what it sees.

    Args:
        percentile: Of the losses in a batch, in [0, 1].
        decay: Share of the past in the average, in [0, 1).
    """

    def __init__(self, percentile: float, decay: float) -> None:
        super().__init__()
        self.percentile = _checks.number(
            "percentile", percentile, minimum=0.0, maximum=1.0, advice=_ADVICE
        )
        self.decay = _checks.fraction("decay", decay)

    def prepare(self, peers: Any, num_classes: int) -> None:
        """Make the weights: one average for each peer, and whether it began."""
        shape = (len(peers),)
        self.average = self.add_state("average", shape, "float32")
        self.begun = self.add_state("begun", shape, "float32")

    def differences(self, batch: Batch) -> tuple[Any, Any]:
        """Return the losses, and how far they are above the average.

        The average has this batch in it; in training it is remembered.

        Args:
            batch: With `losses`.

        Returns:
            Twice `(batch, learners)`, no gradient.

        Raises:
            ValueError: if there is a learner that is no peer.
        """
        losses = ops.stop_gradient(
            functional.at_least_float32(batch.needed("losses", self))
        )
        num_peers = self.average.shape[0]
        check_without_head(self, losses.shape[1], num_peers)
        counted = ops.ones_like(losses[:, 0]) > 0
        if batch.labelled is not None:
            counted = ops.convert_to_tensor(batch.labelled) > 0
        now, there_is_one = loss_percentile(losses, counted, self.percentile)
        old = ops.cast(self.average, losses.dtype)
        begun = ops.convert_to_tensor(self.begun) > 0
        mixed = self.decay * old + (1.0 - self.decay) * now
        average = ops.where(begun, mixed, now)
        average = ops.where(there_is_one, average, old)
        if batch.training:
            begun = ops.logical_or(begun, there_is_one)
            self.average.assign(ops.cast(average, "float32"))
            self.begun.assign(ops.cast(begun, "float32"))
        return losses, losses - average


def loss_percentile(losses: Any, counted: Any, share: float) -> tuple[Any, Any]:
    """Return a percentile of each learner's losses, between two of them.

    Args:
        losses: `(batch, learners)`. What is not finite does not count.
        counted: `(batch,)`, boolean.
        share: The percentile as a share, in [0, 1].

    Returns:
        `(learners,)`, 0 where no loss counts, and `(learners,)`, boolean,
        whether one does.

    Example:

    >>> losses = ops.convert_to_tensor([[4.0], [1.0], [2.0]])
    >>> loss_percentile(losses, [True, True, True], 0.75)[0]
    [3.0]
    """
    finite = ops.logical_and(
        ops.expand_dims(counted, axis=1), ops.isfinite(losses)
    )
    # The places of what does not count are the last ones.
    ordered = ops.sort(
        ops.where(finite, losses, ops.full_like(losses, float("inf"))), axis=0
    )
    count = ops.sum(ops.cast(finite, losses.dtype), axis=0, keepdims=True)
    last = ops.relu(count - 1.0)
    place = share * last
    low = ops.floor(place)

    def at(index: Any) -> Any:
        return ops.take_along_axis(ordered, ops.cast(index, "int32"), axis=0)

    below, above = at(low), at(ops.minimum(low + 1.0, last))
    value = below + (place - low) * (above - below)
    value = ops.where(count > 0, value, ops.zeros_like(value))
    return value[0], count[0] > 0


def epoch_percent(progress: Any) -> Any:
    """Return the whole percents of training done, 0 to 99.

    Args:
        progress: Tensor in [0, 1].
    """
    # A step's progress may be a little less than the percent that it begins.
    return ops.minimum(ops.floor(100.0 * progress + 1e-4), 99.0)
