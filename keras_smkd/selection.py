"""Selection: which knowledge is passed on, and what it does to the labels.

A selection is a callable `(log_probs, threshold) -> selected`: from
`(..., classes)` log-probabilities to `(...)` of 1 (passed on) and 0.

A gate is a callable `(labels, log_probs, selected) -> weights` of the label's
own term, for each example and learner. The model's default is `LabelGate()`.
"""

from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional


@keras.saving.register_keras_serializable(package="keras_smkd")
class ConfidentKnowledge:
    """Pass on the predictions whose uncertainty lies below a threshold.

    `s = 1 if uncertainty(p) < threshold else 0`, strict, with the uncertainty
    of `functional.uncertainty` in [0, 1]. Threshold 0 passes nothing on
    (independent models); any threshold above 1 passes on everything (deep
    mutual learning). A prediction that is not finite is never passed on.

    Args:
        measure: `"entropy"` (normalised by `log(classes)`), `"probability"`
            (1 minus the largest) or `"margin"` (1 minus the difference of
            the two largest).
        threshold: Number >= 0, used as long as no
            `keras_smkd.callbacks.ThresholdSchedule` is given to `fit`.

    Example:

    >>> log_probs = ops.log([[0.99, 0.01], [0.5, 0.5]])
    >>> ConfidentKnowledge("entropy", threshold=0.5)(log_probs)
    [1.0, 0.0]

    Reference:
        Li et al., 2023, "SMKD: Selective Mutual Knowledge Distillation",
        IJCNN.
        https://doi.org/10.1109/IJCNN54540.2023.10191991
    """

    def __init__(
        self, measure: str = "entropy", threshold: float = 0.5
    ) -> None:
        self.measure = _checks.one_of("measure", measure, functional.MEASURES)
        self.threshold = _checks.number("threshold", threshold, minimum=0.0)

    def __call__(self, log_probs: Any, threshold: Any = None) -> Any:
        """Return 1 where the prediction is passed on, 0 where it is not.

        Args:
            log_probs: `(..., classes)`, log-probabilities at temperature 1.
            threshold: Scalar in place of the one given at construction.

        Returns:
            `(...)`, 0 or 1, dtype of the log-probabilities, no gradient.
        """
        if threshold is None:
            threshold = self.threshold
        log_probs = ops.stop_gradient(functional.at_least_float32(log_probs))
        uncertainty = functional.uncertainty(log_probs, self.measure)
        return ops.cast(
            uncertainty < ops.cast(threshold, uncertainty.dtype),
            uncertainty.dtype,
        )

    def get_config(self) -> dict[str, Any]:
        return {"measure": self.measure, "threshold": self.threshold}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ConfidentKnowledge":
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_smkd")
class MostConfidentShare:
    """Pass on the most confident share of each batch.

    `s = 1 if rank(uncertainty) / size < threshold else 0`, strict. The rank,
    from 0, is the number of predictions in the same group that are less
    uncertain; a group is what one peer takes for the same class, or with
    `per_class=False` all of its predictions in the batch. A share of each
    class keeps classes alive that are learned later than others.

    Threshold 0 passes nothing on, and 1 or more everything. A prediction that
    is not finite is never passed on, and does not count.

    Args:
        measure: `"entropy"`, `"probability"` or `"margin"`, as for
            `ConfidentKnowledge`.
        threshold: The share, >= 0, used as long as no
            `keras_smkd.callbacks.ThresholdSchedule` is given to `fit`.
        per_class: Whether ranks are taken within each predicted class.

    Example:

    >>> log_probs = ops.log([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    >>> MostConfidentShare(threshold=0.5)(log_probs)
    [1.0, 0.0, 1.0]
    """

    def __init__(
        self,
        measure: str = "entropy",
        threshold: float = 0.5,
        per_class: bool = True,
    ) -> None:
        self.measure = _checks.one_of("measure", measure, functional.MEASURES)
        self.threshold = _checks.number("threshold", threshold, minimum=0.0)
        self.per_class = _checks.boolean("per_class", per_class)

    def __call__(self, log_probs: Any, threshold: Any = None) -> Any:
        """Return 1 where the prediction is passed on, 0 where it is not.

        Args:
            log_probs: `(batch, ..., classes)`, log-probabilities at
                temperature 1.
            threshold: Scalar in place of the one given at construction.

        Returns:
            `(batch, ...)`, 0 or 1, dtype of the log-probabilities, no
            gradient.
        """
        if threshold is None:
            threshold = self.threshold
        log_probs = ops.stop_gradient(functional.at_least_float32(log_probs))
        uncertainty = functional.uncertainty(log_probs, self.measure)
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

    def get_config(self) -> dict[str, Any]:
        return {
            "measure": self.measure,
            "threshold": self.threshold,
            "per_class": self.per_class,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MostConfidentShare":
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_smkd")
class LabelGate:
    """Weaken labels that selected knowledge contradicts.

    For learner `i` on one example, with `k_i = sum_{j != i} s_j p_j`:

        g_i = weight  if any knowledge is selected
                      and argmax k_i != argmax label
        g_i = 1       otherwise

    `g_i` multiplies the label's own term `l(target_i, p_i)`. Without it a
    wrong label goes on teaching beside the knowledge that contradicts it. A
    gate trusts the selection: with everything selected it lets the peers talk
    each other into anything.

    Args:
        weight: In [0, 1], of a contradicted label; 0 drops it.
        agreement: Whether the learner's own prediction must also be the class
            of the knowledge, so that no label is dropped against the
            learner's own opinion.

    Example:

    >>> log_probs = ops.log([[[0.9, 0.1], [0.8, 0.2]]])
    >>> LabelGate()([[0.0, 1.0]], log_probs, [[1.0, 0.0]])
    [[1.0, 0.0]]
    """

    def __init__(self, weight: float = 0.0, agreement: bool = False) -> None:
        self.weight = _checks.number("weight", weight, minimum=0.0, maximum=1.0)
        self.agreement = _checks.boolean("agreement", agreement)

    def __call__(self, labels: Any, log_probs: Any, selected: Any) -> Any:
        """Return the weight of each example's label for each learner.

        Args:
            labels: `(batch, classes)`, one-hot or soft; the largest counts.
            log_probs: `(batch, peers, classes)`, log-probabilities at
                temperature 1.
            selected: `(batch, peers)`, 1 where a prediction is passed on.

        Returns:
            `(batch, peers)`, `weight` or 1, dtype of the log-probabilities,
            no gradient.
        """
        log_probs = ops.stop_gradient(functional.at_least_float32(log_probs))
        passed = ops.cast(selected, log_probs.dtype) > 0
        passed_p = ops.where(
            ops.expand_dims(passed, axis=-1), ops.exp(log_probs), 0.0
        )
        knowledge = ops.sum(passed_p, axis=1, keepdims=True) - passed_p
        opinion = ops.argmax(knowledge, axis=-1)
        given = ops.expand_dims(ops.argmax(labels, axis=-1), axis=1)
        count = ops.cast(passed, "int32")
        others = ops.sum(count, axis=1, keepdims=True) - count
        contradicted = ops.logical_and(others > 0, opinion != given)
        if self.agreement:
            contradicted = ops.logical_and(
                contradicted, opinion == ops.argmax(log_probs, axis=-1)
            )
        return 1.0 - (1.0 - self.weight) * ops.cast(
            contradicted, log_probs.dtype
        )

    def get_config(self) -> dict[str, Any]:
        return {"weight": self.weight, "agreement": self.agreement}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LabelGate":
        return cls(**config)


def _pairs_equal(log_probs: Any) -> Any:
    """Return `(batch, batch, ...)`: whether both have the same top class."""
    top = ops.argmax(log_probs, axis=-1)
    return ops.expand_dims(top, axis=1) == ops.expand_dims(top, axis=0)
