"""The formula's terms, from a batch and the parts.

In the order in which they come: what is known and selected, what the label
is corrected to, how much it counts.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_smkd import functional
from keras_smkd.batch import Batch
from keras_smkd.batch import Knowledge
from keras_smkd.batch import checked_routes
from keras_smkd.batch import checked_shape
from keras_smkd.batch import to_all
from keras_smkd.model import labels as labels_module


def with_knowledge(batch: Batch, knowledge: Any, selection: Any) -> Batch:
    """Return a batch with what is known, its routes and what is selected.

    Args:
        batch: With the learners' predictions.
        knowledge: Part of knowledge.
        selection: Part of selection, or `None` for all of it.

    Raises:
        TypeError: if the knowledge is no `Knowledge`.
        ValueError: if a part gives another shape than it must.
    """
    given = knowledge(batch)
    if not isinstance(given, Knowledge):
        raise TypeError(
            "`knowledge` must give a `keras_smkd.batch.Knowledge`. "
            f"Received: {type(given).__name__} from {knowledge!r}."
        )
    log_probs = given.log_probs
    if log_probs is None:
        log_probs = functional.log_probabilities(given.logits)
    batch_size, num_learners, num_classes = batch.logits.shape
    checked_shape(
        knowledge, "knowledge", log_probs, (batch_size, None, num_classes)
    )
    num_sources = log_probs.shape[1]
    routes = given.routes
    if routes is None:
        routes = to_all(num_learners, num_sources)
    batch = batch.filled(
        knowledge=ops.stop_gradient(log_probs),
        knowledge_logits=ops.stop_gradient(
            log_probs if given.logits is None else given.logits
        ),
        is_own_knowledge=given.logits is batch.logits,
        samples=given.samples,
        knowledge_features=given.features,
        routes=checked_routes(routes, num_learners, num_sources),
    )
    selected = given.available
    shape = log_probs.shape[:2]
    if selected is not None:
        checked_shape(knowledge, "knowledge.available", selected, shape)
    if selection is not None:
        chosen = checked_shape(selection, "selection", selection(batch), shape)
        selected = (
            chosen
            if selected is None
            else chosen * ops.cast(selected, chosen.dtype)
        )
    return batch.filled(selected=selected)


def targets_of(batch: Batch, labels: Any, target: Any) -> list[Any]:
    """Return what the loss of each learner is to compare with.

    Args:
        batch: With labels.
        labels: `(batch,)` integers or `(batch, classes)`, as given.
        target: Label correction, or `None`. In training only.
    """
    if target is None:
        return [labels] * batch.num_learners
    if not batch.training:
        return [batch.labels] * batch.num_learners
    corrected = checked_shape(
        target, "target", target(batch), tuple(batch.logits.shape)
    )
    return [corrected[:, i] for i in range(batch.num_learners)]


def supervised_values(
    batch: Batch,
    labels: Any,
    outputs: Sequence[Any],
    loss: Callable[[Any, Any], Any],
    target: Any,
    gate: Any,
) -> Any:
    """Return the learners' supervised losses, summed over the learners.

    `sum_i g_i * l(target_i, outputs_i)`

    Args:
        batch: With what is known, if anything is.
        labels: `(batch,)` integers or `(batch, classes)`, as given.
        outputs: Each learner's own outputs, `(batch, classes)`.
        loss: `(labels, outputs) -> (batch,)`.
        target: Label correction, or `None`.
        gate: How much each label counts, in training, or `None`.

    Returns:
        `(batch,)`; NaN where an integer label is not one of the classes, 0
        where an example has no label.
    """
    values = [
        loss(own, learner)
        for own, learner in zip(
            targets_of(batch, labels, target), outputs, strict=True
        )
    ]
    weights = None
    if gate is not None and batch.training:
        batch = batch.filled(
            losses=lambda: ops.stop_gradient(ops.stack(values, axis=1))
        )
        weights = ops.stop_gradient(
            checked_shape(gate, "gate", gate(batch), batch.logits.shape[:2])
        )
    total = 0.0
    for i, value in enumerate(values):
        if weights is not None:
            value = value * ops.cast(weights[:, i], value.dtype)
        total = total + value
    num_classes = batch.logits.shape[-1]
    total = labels_module.nan_outside_classes(total, labels, num_classes)
    if batch.labelled is not None:
        total = ops.where(batch.labelled > 0, total, 0.0)
    return total
