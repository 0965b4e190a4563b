"""Selection by how unsure each prediction is."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd._config import Configured
from keras_smkd.batch import Batch


@keras.saving.register_keras_serializable(package="keras_smkd")
class ConfidentKnowledge(Configured):
    """Pass on the predictions whose uncertainty lies below a threshold.

    `s = 1 if uncertainty(q) < threshold else 0`, strict, with the uncertainty
    of `functional.uncertainty` in [0, 1]. Threshold 0 passes nothing on
    (independent models); any threshold above 1 passes on everything (deep
    mutual learning). A prediction that is not finite is never passed on.

    Args:
        measure: `"entropy"` (normalised by `log(classes)`), `"probability"`
            (1 minus the largest), `"margin"` (1 minus the difference of the
            two largest), or a function from `(..., classes)`
            log-probabilities to `(...)` in [0, 1]. Of knowledge that comes
            with several passes, such as `knowledge.DropoutPasses`, also
            `"predictive_entropy"`, `"mutual_information"` (both normalised by
            `log(classes)`) and `"variation_ratio"`.
        threshold: Number >= 0, used as long as no
            `keras_smkd.callbacks.ThresholdSchedule` is given to `fit`; or a
            schedule, `progress -> number`, which takes the place of one.

    Example:

    >>> knowledge = ops.log([[[0.99, 0.01], [0.5, 0.5]]])
    >>> ConfidentKnowledge("entropy", 0.5)(Batch(knowledge=knowledge))
    [[1.0, 0.0]]

    Reference:
        Li et al., 2023, "SMKD: Selective Mutual Knowledge Distillation",
        IJCNN.
        https://doi.org/10.1109/IJCNN54540.2023.10191991
    """

    def __init__(
        self,
        measure: str | Callable[[Any], Any] = "entropy",
        threshold: float | Callable[[Any], Any] = 0.5,
    ) -> None:
        functional.measure_of(measure)
        self.measure = measure
        self.threshold = _checks.number_or_schedule(
            "threshold", threshold, minimum=0.0
        )

    @property
    def needs_progress(self) -> bool:
        """Whether the threshold is a schedule that follows the progress."""
        return callable(self.threshold) and getattr(
            self.threshold, "needs_progress", True
        )

    def __call__(self, batch: Batch) -> Any:
        """Return 1 where knowledge is passed on, 0 where it is not.

        Args:
            batch: With `knowledge`, or `samples` for a measure of several
                passes; its `threshold`, if it has one, is in force in place
                of the one given at construction.

        Returns:
            `(batch, sources)`, 0 or 1, no gradient.

        Raises:
            ValueError: if the measure is of several passes, and the knowledge
                comes without.
        """
        unsure = uncertainty_of(batch, self)
        threshold = ops.cast(threshold_of(batch, self), unsure.dtype)
        return ops.cast(unsure < threshold, unsure.dtype)

    def selects_all(
        self, threshold: float, num_classes: int | None = None
    ) -> bool:
        """Return whether a threshold passes on all that is finite.

        Args:
            threshold: Number >= 0.
            num_classes: Number of classes, `None` if it is not known yet.
        """
        largest = 1.0
        doubts_one = self.measure in ("probability", "variation_ratio")
        if doubts_one and num_classes is not None:
            largest = 1.0 - 1.0 / num_classes
        return threshold > largest


def uncertainty_of(batch: Batch, selection: Any) -> Any:
    """Return `(batch, sources)`: how unsure knowledge is, no gradient.

    Args:
        batch: With what the selection's measure looks at: `knowledge`, or
            the `samples` of several passes.
        selection: With a `measure`.

    Raises:
        ValueError: if the batch is without.
    """
    sampled = functional.looks_at_samples(selection.measure)
    field = "samples" if sampled else "knowledge"
    log_probs = functional.at_least_float32(batch.needed(field, selection))
    nats = None
    if selection.measure == "entropy":
        nats = batch.knowledge_entropy
    return functional.uncertainty(
        ops.stop_gradient(log_probs), selection.measure, nats
    )


def threshold_of(batch: Batch, selection: Any) -> Any:
    """Return the threshold in force: the batch's, or the selection's own."""
    if batch.threshold is not None:
        return batch.threshold
    if callable(selection.threshold):
        return selection.threshold(batch.needed("progress", selection))
    return selection.threshold
