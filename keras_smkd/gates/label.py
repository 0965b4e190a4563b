"""The gate that believes selected knowledge rather than the label."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd._config import Configured
from keras_smkd.batch import Batch
from keras_smkd.batch import is_to_others


@keras.saving.register_keras_serializable(package="keras_smkd")
class LabelGate(Configured):
    """Weaken labels that selected knowledge contradicts.

    For learner `i` on one example, with `k_i = sum_k r_ik s_k q_k`, what the
    selected knowledge on its routes says together:

        g_i = weight  if any of it is selected
                      and argmax k_i != argmax label
        g_i = 1       otherwise

    `g_i` multiplies the label's own term `l(target_i, p_i)`. Without it a
    wrong label goes on teaching beside the knowledge that contradicts it. A
    gate trusts the selection: with everything selected it lets the peers talk
    each other into anything, so that it refuses a threshold that selects
    everything throughout.

    Args:
        weight: In [0, 1], of a contradicted label; 0 drops it.
        agreement: Whether the learner's own prediction must also be the class
            of the knowledge, so that no label is dropped against the
            learner's own opinion.

    Example:

    >>> batch = Batch(
    ...     labels=[[0.0, 1.0]],
    ...     knowledge=ops.log([[[0.9, 0.1], [0.8, 0.2]]]),
    ...     routes=np.array([[0.0, 1.0], [1.0, 0.0]]),
    ...     selected=[[1.0, 0.0]],
    ... )
    >>> LabelGate()(batch)
    [[1.0, 0.0]]
    """

    def __init__(self, weight: float = 0.0, agreement: bool = False) -> None:
        self.weight = _checks.number("weight", weight, minimum=0.0, maximum=1.0)
        self.agreement = _checks.boolean("agreement", agreement)

    def __call__(self, batch: Batch) -> Any:
        """Return the weight of each example's label for each learner.

        Args:
            batch: With `labels`, of which the largest counts, `knowledge`,
                `routes` and `selected`.

        Returns:
            `(batch, learners)`, `weight` or 1, no gradient.
        """
        knowledge = ops.stop_gradient(
            functional.at_least_float32(batch.needed("knowledge", self))
        )
        passed = ops.ones_like(knowledge[..., 0]) > 0
        if batch.selected is not None:
            passed = ops.cast(batch.selected, knowledge.dtype) > 0
        said, any_said = _said(knowledge, passed, batch.needed("routes", self))
        opinion = ops.argmax(said, axis=-1)
        labels = ops.argmax(batch.needed("labels", self), axis=-1)
        contradicted = ops.logical_and(
            any_said, opinion != ops.expand_dims(labels, axis=1)
        )
        if self.agreement:
            own = ops.argmax(batch.needed("log_probs", self), axis=-1)
            contradicted = ops.logical_and(contradicted, opinion == own)
        return 1.0 - (1.0 - self.weight) * ops.cast(
            contradicted, knowledge.dtype
        )

    def check_thresholds(
        self,
        selection: Any,
        thresholds: Sequence[float],
        num_classes: int | None = None,
    ) -> None:
        """Raise if everything is selected throughout.

        Peers that trust each other in everything, against the labels, talk
        each other into anything.

        Args:
            selection: The model's selection, `None` for all knowledge.
            thresholds: The threshold, at different times.
            num_classes: Number of classes, `None` if it is not known yet.

        Raises:
            ValueError: if it is so.
        """
        if selection is None:
            everything, received = True, "selection=None"
        else:
            selects_all = getattr(selection, "selects_all", None)
            everything = selects_all is not None and all(
                selects_all(threshold, num_classes) for threshold in thresholds
            )
            received = f"threshold={min(thresholds)} for {selection!r}"
        if everything:
            raise ValueError(
                "`gate` must be None where all knowledge is selected "
                "throughout: labels would be dropped for any of it. Give "
                "`gate=None` for deep mutual learning, or a smaller "
                f"threshold. Received: gate={self!r} and {received}."
            )


def _said(knowledge: Any, passed: Any, routes: Any) -> tuple[Any, Any]:
    """Return what each learner is told, and whether it is told anything.

    Args:
        knowledge: `(batch, sources, classes)`, log-probabilities.
        passed: `(batch, sources)`, boolean.
        routes: `(learners, sources)` NumPy array.

    Returns:
        `(batch, learners, classes)`, the sums `k_i`, and `(batch, learners)`,
        boolean.
    """
    passed_p = ops.where(
        ops.expand_dims(passed, axis=-1), ops.exp(knowledge), 0.0
    )
    count = ops.cast(passed, "int32")
    if is_to_others(routes):
        # The cost grows with the number of peers, not with that of pairs.
        said = ops.sum(passed_p, axis=1, keepdims=True) - passed_p
        return said, ops.sum(count, axis=1, keepdims=True) - count > 0
    said = functional.routed(passed_p, routes)
    return said, functional.routed(count, routes > 0) > 0
