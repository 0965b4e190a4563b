"""The gate by which learners choose examples of small loss for each other."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd._config import Configured
from keras_smkd.batch import Batch


@keras.saving.register_keras_serializable(package="keras_smkd")
class SmallLoss(Configured):
    """Let each learner train on what has a small loss under another one.

    Learner `i` trains on the `k` examples of smallest loss under learner
    `i - 1`, the first one on those of the last; of two, on those of the
    other. With `n` labels in the batch and the forget rate `f`:

        k = floor((1 - f) * n), or n if that is 0
        g = n / k  on the chosen examples, 0 elsewhere

    so that the mean of `g * l` over the labels is the mean of `l` over the
    chosen. (The authors' code divides that mean by `k` once more.) Rate 0
    trains on everything.

    With `disagreement`, Co-teaching+, from progress `start` on only examples
    of which the learners do not all predict the same class are candidates,
    and `n` in `k` is their number; where there are none, every label counts.
    The authors' softmax of a softmax is left out.

    Examples without a label are not chosen and do not count, nor are those
    whose loss is not finite as long as there are others. Of equal losses the
    earlier is the smaller. Under several replicas each ranks what it sees,
    as it does in the last, smaller batch.

    Args:
        rate: Forget rate, a number in [0, 1) or a schedule of it, such as
            `schedules.ForgetRate(0.4)`.
        disagreement: Whether to choose among disagreements only.
        start: Progress from which they count, in [0, 1].

    Example:

    >>> losses = ops.convert_to_tensor([[1.0, 2.0], [3.0, 1.0]])
    >>> SmallLoss(0.5)(Batch(losses=losses))
    [[0.0, 2.0], [2.0, 0.0]]

    Reference:
        Han et al., 2018, "Co-teaching", algorithm 1.
        https://arxiv.org/abs/1804.06872
        Yu et al., 2019, "How does Disagreement Help Generalization against
        Label Corruption?", algorithm 1. https://arxiv.org/abs/1901.04215
    """

    def __init__(
        self,
        rate: float | Callable[[Any], Any],
        disagreement: bool = False,
        start: float = 0.0,
    ) -> None:
        self.rate = _checks.fraction_or_schedule(
            "rate", rate, advice="Give a fraction, not a percentage."
        )
        self.disagreement = _checks.boolean("disagreement", disagreement)
        self.start = _checks.number("start", start, minimum=0.0, maximum=1.0)
        if self.start > 0.0 and not disagreement:
            raise ValueError(
                "`start` must be 0 unless disagreements are to count from "
                f"there on. Received: start={start} and disagreement=False."
            )

    @property
    def needs_progress(self) -> bool:
        """Whether the rate or the start of disagreement follows it."""
        rate_does = callable(self.rate) and getattr(
            self.rate, "needs_progress", True
        )
        return rate_does or self.start > 0.0

    def __call__(self, batch: Batch) -> Any:
        """Return the weight of each example's label for each learner.

        Args:
            batch: With `losses`; with `log_probs` for disagreements.

        Returns:
            `(batch, learners)`, 0 or `n / k`, no gradient.

        Raises:
            ValueError: if there is one learner only.
        """
        losses = ops.stop_gradient(
            functional.at_least_float32(batch.needed("losses", self))
        )
        if losses.shape[1] < 2:
            raise ValueError(
                "`gate` SmallLoss needs two learners or more, which must "
                f"choose for each other. Received: {losses.shape[1]} learner."
            )
        has_label = ops.ones_like(losses[:, 0]) > 0
        if batch.labelled is not None:
            has_label = ops.convert_to_tensor(batch.labelled) > 0
        candidates = has_label
        if self.disagreement:
            differ = disagreements(batch.needed("log_probs", self))
            if self.start > 0.0:
                progress = batch.needed("progress", self)
                early = progress < ops.cast(self.start, progress.dtype)
                differ = ops.logical_or(differ, early)
            candidates = ops.logical_and(has_label, differ)
        rate = self.rate
        if callable(rate):
            rate = rate(batch.needed("progress", self))
        chosen = smallest(losses, candidates, has_label, rate)
        # Each learner is taught by the one before it.
        chosen = ops.cast(ops.roll(chosen, 1, axis=1), losses.dtype)
        number = ops.sum(ops.cast(has_label, losses.dtype))
        count = ops.sum(chosen, axis=0)
        return chosen * number / ops.where(count > 0, count, 1.0)


def disagreements(log_probs: Any) -> Any:
    """Return whether not all learners predict the same class.

    Args:
        log_probs: `(batch, learners, classes)`.

    Returns:
        `(batch,)`, boolean.
    """
    predicted = ops.argmax(log_probs, axis=-1)
    return ops.any(predicted != predicted[:, :1], axis=1)


def smallest(losses: Any, candidates: Any, others: Any, rate: Any) -> Any:
    """Return the candidates of smallest loss, a share of `1 - rate` of them.

    The rank of a loss is the number of losses before it: no sort, in which
    the backends order equal losses differently.

    Args:
        losses: `(batch, learners)`, float32 or float64.
        candidates: `(batch,)`, boolean.
        others: `(batch,)`, boolean, the candidates where there are none.
        rate: Scalar in [0, 1), the share left out.

    Returns:
        `(batch, learners)`, boolean; all candidates where the share is less
        than one example.
    """
    dtype = losses.dtype
    count = ops.sum(ops.cast(candidates, dtype))
    # Of 0.8 * 10, which may be a little less than 8.
    number = ops.floor((1.0 - ops.cast(rate, dtype)) * count + 1e-4)
    candidates = ops.expand_dims(
        ops.where(count > 0, candidates, others), axis=1
    )
    finite = ops.logical_and(candidates, ops.isfinite(losses))
    usable = ops.where(
        ops.any(finite, axis=0, keepdims=True), finite, candidates
    )
    losses = ops.where(finite, losses, ops.full_like(losses, float("inf")))
    position = ops.cumsum(ops.ones_like(losses), axis=0)
    # Pairs of examples: the first axis ranks, the second is counted.
    first, second = ops.expand_dims(losses, 1), ops.expand_dims(losses, 0)
    earlier = ops.expand_dims(position, 0) < ops.expand_dims(position, 1)
    before = ops.logical_or(
        second < first, ops.logical_and(second == first, earlier)
    )
    before = ops.logical_and(before, ops.expand_dims(usable, axis=0))
    rank = ops.sum(ops.cast(before, dtype), axis=1)
    is_small = ops.logical_or(rank < number, number < 1.0)
    return ops.logical_and(usable, is_small)
