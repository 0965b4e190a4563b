"""Selection of the most confident share, of a batch or of each class."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd._config import Configured
from keras_smkd.batch import Batch
from keras_smkd.selection.confident import threshold_of
from keras_smkd.selection.confident import uncertainty_of


@keras.saving.register_keras_serializable(package="keras_smkd")
class MostConfidentShare(Configured):
    """Pass on the most confident share of each batch.

    `s = 1 if rank(uncertainty) / size < threshold else 0`, strict. The rank,
    from 0, is the number of predictions in the same group that are less
    uncertain; a group is what one peer takes for the same class, or with
    `per_class=False` all of its predictions in the batch. A share of each
    class keeps classes alive that are learned later than others.

    Threshold 0 passes nothing on, and 1 or more everything. A prediction that
    is not finite is never passed on, and does not count.

    Args:
        measure: As for `ConfidentKnowledge`, such as `"entropy"`.
        threshold: The share, >= 0, used as long as no
            `keras_smkd.callbacks.ThresholdSchedule` is given to `fit`; or a
            schedule, `progress -> share`, which takes the place of one.
        per_class: Whether ranks are taken within each predicted class.

    Example:

    >>> knowledge = ops.log([[[0.9, 0.1]], [[0.8, 0.2]], [[0.3, 0.7]]])
    >>> MostConfidentShare(threshold=0.5)(Batch(knowledge=knowledge))
    [[1.0], [0.0], [1.0]]
    """

    def __init__(
        self,
        measure: str | Callable[[Any], Any] = "entropy",
        threshold: float | Callable[[Any], Any] = 0.5,
        per_class: bool = True,
    ) -> None:
        functional.measure_of(measure)
        self.measure = measure
        self.threshold = _checks.number_or_schedule(
            "threshold", threshold, minimum=0.0
        )
        self.per_class = _checks.boolean("per_class", per_class)

    @property
    def needs_progress(self) -> bool:
        """Whether the threshold is a schedule that follows the progress."""
        return callable(self.threshold) and getattr(
            self.threshold, "needs_progress", True
        )

    def __call__(self, batch: Batch) -> Any:
        """Return 1 where knowledge is passed on, 0 where it is not.

        Args:
            batch: With `knowledge`; its `threshold`, if it has one, is in
                force in place of the one given at construction.

        Returns:
            `(batch, sources)`, 0 or 1, no gradient. Shares are of the
            examples that a replica sees.
        """
        log_probs = ops.stop_gradient(
            functional.at_least_float32(batch.needed("knowledge", self))
        )
        threshold = threshold_of(batch, self)
        uncertainty = uncertainty_of(batch, self)
        dtype = uncertainty.dtype
        finite = ops.logical_not(ops.isnan(uncertainty))
        # Pairs of examples: the first axis ranks, the second is counted.
        group = ops.expand_dims(finite, axis=0)
        if self.per_class:
            group = ops.logical_and(group, _pairs_equal(log_probs))
        first = ops.expand_dims(uncertainty, axis=1)
        second = ops.expand_dims(uncertainty, axis=0)
        below = ops.logical_and(group, second < first)
        rank = ops.sum(ops.cast(below, dtype), axis=1)
        size = ops.sum(ops.cast(group, dtype), axis=1)
        passed = ops.logical_and(
            finite, rank < ops.cast(threshold, dtype) * size
        )
        return ops.cast(passed, dtype)

    def selects_all(
        self, threshold: float, num_classes: int | None = None
    ) -> bool:
        """Return whether a threshold passes on all that is finite.

        Args:
            threshold: Number >= 0.
            num_classes: Not used.
        """
        return threshold >= 1.0


def _pairs_equal(log_probs: Any) -> Any:
    """Return `(batch, batch, ...)`: whether both have the same top class."""
    top = ops.argmax(log_probs, axis=-1)
    return ops.expand_dims(top, axis=1) == ops.expand_dims(top, axis=0)
