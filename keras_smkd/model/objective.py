"""The formula's terms, from a batch and the parts.

In the order in which they come: what is known and selected, what the label
is corrected to, how much it counts.
"""

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd import functional
from keras_smkd.batch import Batch
from keras_smkd.batch import Correction
from keras_smkd.batch import Knowledge
from keras_smkd.batch import checked_routes
from keras_smkd.batch import checked_shape
from keras_smkd.batch import to_all
from keras_smkd.features.fusion import FeatureHead
from keras_smkd.model import labels as labels_module


def check_head(head: Any, from_logits: bool) -> None:
    """Raise unless a head is a layer that says what it looks at.

    Args:
        head: As given, or `None`.
        from_logits: Whether the peers put out logits.

    Raises:
        TypeError: if it is no Keras layer (nor `None`).
        ValueError: if it has no `taps`, or puts out logits beside peers that
            put out probabilities.
    """
    if head is None:
        return
    if not isinstance(head, keras.Layer):
        raise TypeError(
            f"`head` must be a Keras layer or None. Received: head={head!r}."
        )
    if not getattr(head, "taps", ()):
        raise ValueError(
            "`head` must have `taps`, the names of the peers' layers whose "
            "outputs it takes, such as `features.FeatureFusion('maps')`. "
            f"Received: head={head!r}."
        )
    if isinstance(head, FeatureHead) and not from_logits:
        raise ValueError(
            "`from_logits` must be True with a head that puts out logits. "
            f"Received: from_logits={from_logits} and a "
            f"{type(head).__name__}. Leave out the peers' softmax."
        )


def check_teaching(
    knowledge: Any, selection: Any, feature_loss: Any, supervised_weight: float
) -> None:
    """Raise `ValueError` if nothing teaches, or nothing can be selected."""
    if knowledge is None and selection is not None:
        raise ValueError(
            "`selection` must be None without knowledge to select from. "
            f"Received: selection={selection!r} and knowledge=None. Give "
            "`knowledge='peers'`."
        )
    if knowledge is None and feature_loss is None and not supervised_weight:
        raise ValueError(
            "`supervised_weight` must be positive where neither knowledge nor "
            "a feature loss teaches. Received: "
            f"supervised_weight={supervised_weight}."
        )


def with_labels(batch: Batch, y: Any, labels: Any, needs_index: bool) -> Batch:
    """Return a batch with its labels, as parts see them.

    Args:
        batch: With the learners' predictions.
        y: The labels, as the data give them.
        labels: `(batch,)` integers or `(batch, classes)`, or `None`.
        needs_index: Whether a part remembers examples.

    Raises:
        ValueError: if it does, and training data do not say their places.
    """
    index = None
    if batch.training and needs_index:
        index = labels_module.index_of_batch(y)
        if index is None:
            raise ValueError(
                "`y` must be {'label': ..., 'index': ...} for a part that "
                "remembers examples: the index is each example's place in the "
                "data set, which `fit` knows for arrays only. Received: "
                "labels without an index."
            )
    given = None
    if labels is not None:
        # Made when a part first asks for them.
        given = functools.partial(
            labels_module.one_hot,
            labels,
            batch.logits.shape[-1],
            batch.logits.dtype,
        )
    return batch.filled(
        labels=given,
        labelled=labels_module.labelled_of_batch(y),
        index=index,
    )


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
    batch = _knowing(batch, given, knowledge)
    if selection is None:
        return batch
    shape = batch.knowledge.shape[:2]
    chosen = checked_shape(selection, "selection", selection(batch), shape)
    selected = batch.selected
    if selected is not None:
        chosen = chosen * ops.cast(selected, chosen.dtype)
    return batch.filled(selected=chosen)


def _knowing(batch: Batch, given: Knowledge, part: Any) -> Batch:
    """Return a batch with what a part knows, and where it is available."""
    log_probs = given.log_probs
    if log_probs is None:
        log_probs = functional.log_probabilities(given.logits)
    # A memory may be of another precision than the peers.
    dtype = batch.logits.dtype
    logits = log_probs if given.logits is None else given.logits
    is_own = given.logits is batch.logits
    log_probs, logits = ops.cast(log_probs, dtype), ops.cast(logits, dtype)
    batch_size, num_learners, num_classes = batch.logits.shape
    checked_shape(part, "knowledge", log_probs, (batch_size, None, num_classes))
    num_sources = log_probs.shape[1]
    routes = given.routes
    if routes is None:
        routes = to_all(num_learners, num_sources)
    if given.available is not None:
        checked_shape(
            part, "knowledge.available", given.available, log_probs.shape[:2]
        )
    log_probs = ops.stop_gradient(log_probs)
    return batch.filled(
        knowledge=log_probs,
        # Selection and divergence look at it.
        knowledge_entropy=functools.partial(functional.entropy, log_probs),
        knowledge_logits=ops.stop_gradient(logits),
        is_own_knowledge=is_own,
        samples=given.samples,
        knowledge_features=given.features,
        routes=checked_routes(routes, num_learners, num_sources),
        selected=given.available,
    )


def term(name: str, part: Any, batch: Batch, shape: Any) -> Any:
    """Return what a part adds to the objective, in the precision of that.

    Args:
        name: The part's argument, for the message.
        part: Callable of the batch.
        batch: As complete as it is by then.
        shape: That the part must give.

    Raises:
        ValueError: if it gives another one.
    """
    value = checked_shape(part, name, part(batch), shape)
    return ops.cast(value, batch.logits.dtype)


def distillation_values(batch: Batch, divergence: Any) -> Any:
    """Return the sum of the learners' divergences, with its factor, `(batch,)`.

    Args:
        batch: With knowledge.
        divergence: The part that compares.
    """
    values = term("divergence", divergence, batch, batch.logits.shape[:2])
    factor = getattr(divergence, "factor", 1.0)
    return factor * ops.sum(values, axis=1)


def weight_of(weight: Any, batch: Batch) -> Any:
    """Return a weight, a number or a schedule of it, as it is now."""
    if not callable(weight):
        return weight
    return ops.cast(weight(batch.progress), batch.logits.dtype)


def feature_values(batch: Batch, feature_loss: Any) -> Any:
    """Return what the feature loss gives, `(batch,)`."""
    return term("feature_loss", feature_loss, batch, batch.logits.shape[:1])


def corrected(batch: Batch, labels: Any, target: Any) -> tuple[Any, Batch]:
    """Return what the learners' losses are to compare with, and the batch then.

    A target that gives a `Correction` also says what is known from here on.

    Args:
        batch: With labels.
        labels: `(batch,)` integers or `(batch, classes)`, as given.
        target: Label correction, or `None`. In training only.

    Returns:
        `(batch,)` or `(batch, classes)` for all learners alike, or
        `(batch, learners, classes)`. And the batch.
    """
    if target is None:
        num_classes = batch.logits.shape[-1]
        return labels_module.inside_classes(labels, num_classes), batch
    if not batch.training:
        return batch.labels, batch
    given = target(batch)
    if isinstance(given, Correction):
        batch = _knowing(batch, given.knowledge, target)
        given = given.labels
    shape = tuple(batch.logits.shape)
    return checked_shape(target, "target", given, shape), batch


def losses_of_labels(
    batch: Batch, targets: Any, outputs: Sequence[Any], loss: Any
) -> Any:
    """Return the compiled loss of each learner, `(batch, learners)`.

    Args:
        batch: With the learners' predictions.
        targets: As `corrected` gives them.
        outputs: Each learner's own outputs, `(batch, classes)`.
        loss: A `compiling.PerExampleLoss`.
    """
    if loss.is_cross_entropy:
        return functional.label_cross_entropy(targets, batch.log_probs)
    differ = len(targets.shape) == 3
    values = [
        loss(targets[:, i] if differ else targets, learner)
        for i, learner in enumerate(outputs)
    ]
    return ops.stack(values, axis=1)


def label_weights(batch: Batch, losses: Any, gate: Any) -> Any:
    """Return how much each label counts for each learner.

    Args:
        batch: With labels, and what is known.
        losses: `() -> (batch, learners)`, the learners' losses; called if
            the gate asks for them.
        gate: Part.

    Returns:
        `(batch, learners)`, no gradient.
    """
    batch = batch.filled(losses=lambda: ops.stop_gradient(losses()))
    return ops.stop_gradient(
        checked_shape(gate, "gate", gate(batch), batch.logits.shape[:2])
    )


def supervised_values(
    batch: Batch,
    labels: Any,
    outputs: Sequence[Any],
    loss: Any,
    target: Any,
    gate: Any,
) -> tuple[Any, Batch]:
    """Return the learners' supervised losses, summed, and the batch then.

    `sum_i g_i * l(target_i, outputs_i)`

    Args:
        batch: With what is known, if anything is.
        labels: `(batch,)` integers or `(batch, classes)`, as given.
        outputs: Each learner's own outputs, `(batch, classes)`.
        loss: A `compiling.PerExampleLoss`, `None` where labels have no weight.
        target: Label correction, or `None`.
        gate: How much each label counts, in training, or `None`.

    Returns:
        `(batch,)`; NaN where an integer label is not one of the classes, 0
        where an example has no label. And the batch, with the knowledge that
        the target leaves.

    Raises:
        ValueError: if labels have a weight, and there are none or of a form
            that the loss does not take.
    """
    num_classes = batch.logits.shape[-1]
    if loss is None:
        # Of the predictions all the same: layers that nothing teaches would
        # have a gradient of 0 on some backends, and none on others.
        return 0.0 * ops.sum(batch.logits, axis=(1, 2)), batch
    if labels is None:
        raise ValueError(
            "`y` must be given, because labels have a weight. Received: "
            "y=None. For data without labels give `supervised_weight=0`."
        )
    loss.check_labels(labels, num_classes)
    targets, batch = corrected(batch, labels, target)
    values = losses = losses_of_labels(batch, targets, outputs, loss)
    if gate is not None and batch.training:
        weights = label_weights(batch, lambda: losses, gate)
        values = losses * ops.cast(weights, losses.dtype)
    total = ops.sum(values, axis=1)
    total = labels_module.nan_outside_classes(total, labels, num_classes)
    if batch.labelled is not None:
        total = ops.where(batch.labelled > 0, total, 0.0)
    return total, batch
