"""What a model's parts make of examples outside of training, for monitors."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_smkd._config import parts_of
from keras_smkd.batch import Batch
from keras_smkd.model import forward
from keras_smkd.model import labels as labels_module
from keras_smkd.model import objective

# The parts that say what is known, and what becomes of labels.
_ASKED = ("knowledge", "selection", "target", "gate")


@dataclasses.dataclass(frozen=True)
class View:
    """What the parts make of examples; `None` where there is no such part.

    Args:
        known: `(examples, sources)`, the likeliest class of the knowledge.
        passed: `(examples, sources)`, whether it is passed on.
        targets: `(examples, learners)`, the likeliest class of the target.
        weights: `(examples, learners)`, how much the label counts.
    """

    known: npt.NDArray[Any] | None = None
    passed: npt.NDArray[Any] | None = None
    targets: npt.NDArray[Any] | None = None
    weights: npt.NDArray[Any] | None = None


def asked_parts(model: Any) -> list[Any]:
    """Return the parts that a view asks, and what they hold."""
    parts = model.parts()
    return [own for name in _ASKED for own in parts_of(parts.get(name))]


def check_view(model: Any, num_examples: int) -> None:
    """Raise if a view of so many examples cannot be had.

    Args:
        model: A `PeerLearning`.
        num_examples: How many there will be, in the order of their indices.

    Raises:
        ValueError: if a part looks at inner layers of the peers, of which a
            prediction says nothing, or remembers fewer examples.
    """
    for part in asked_parts(model):
        if forward.tap_of(part) is not None:
            raise ValueError(
                "The knowledge, selection, target and gate must not look at "
                "inner layers, since a pass over predictions does not have "
                f"them. Received: {part!r} with taps={part.taps!r}."
            )
        remembered = getattr(part, "num_examples", num_examples)
        if remembered < num_examples:
            raise ValueError(
                "`x` must not have more examples than the model's parts "
                f"remember. Received: {num_examples} examples for {part!r}."
            )


def view(
    model: Any,
    x: Any,
    labels: npt.NDArray[Any],
    probs: npt.NDArray[Any],
    batch_size: int,
) -> View:
    """Return what the parts would make of examples in a training step.

    They are asked as in training, so that memories speak and labels are
    corrected, and with the peers' predictions in inference mode. What that
    changes in the parts (memories, running averages, seeds) is put back.

    Args:
        model: A compiled `PeerLearning`.
        x: The inputs: arrays, or anything else where no part asks for them.
        labels: `(examples,)` class ids or `(examples, classes)`. Each one's
            place is its index.
        probs: `(examples, learners, classes)`, what was predicted.
        batch_size: How many examples the parts see at once.

    Raises:
        ValueError: if a part asks for inputs that are not in arrays, or gives
            another shape than it must.
    """
    if not asked_parts(model):
        return View()
    size = len(labels)
    inputs = x if _are_arrays(x, size) else None
    found: dict[str, list[Any]] = {}
    with _unchanged(model):
        for start in range(0, size, batch_size):
            rows = slice(start, start + batch_size)
            own = _rows_of(inputs, rows)
            index = np.arange(size, dtype="int32")[rows]
            seen = _view_batch(model, own, labels[rows], index, probs[rows])
            for name, value in seen.items():
                found.setdefault(name, []).append(ops.convert_to_numpy(value))
    return View(**{name: np.concatenate(own) for name, own in found.items()})


def _view_batch(
    model: Any, x: Any, labels: Any, index: Any, probs: Any
) -> dict[str, Any]:
    # A probability may have rounded to 0. Logarithms are logits, too.
    smallest = np.finfo(np.float32).tiny
    logits = ops.convert_to_tensor(
        np.log(np.maximum(probs, smallest)).astype("float32")
    )
    given = ops.convert_to_tensor(labels)
    given = labels_module.labels_of_batch(given, model.num_classes)
    batch = Batch(
        x=x,
        logits=logits,
        progress=model.clock.progress(),
        training=True,
        threshold=ops.convert_to_tensor(model.clock.threshold),
        from_logits=model.from_logits,
    )
    places = {"label": given, "index": ops.convert_to_tensor(index)}
    batch = objective.with_labels(batch, places, given, model.needs_index)
    seen = {}
    if model.knowledge is not None:
        batch = objective.with_knowledge(
            batch, model.knowledge, model.selection
        )
        seen["known"] = ops.argmax(batch.knowledge, axis=-1)
        passed = batch.selected
        seen["passed"] = (
            ops.ones_like(seen["known"]) if passed is None else passed
        )
    if model.supervised_weight == 0:
        return seen
    loss = model._loss_values
    given = _as_taken(given, loss, model.num_classes)
    targets, batch = objective.corrected(batch, given, model.target)
    if model.target is not None:
        seen["targets"] = ops.argmax(targets, axis=-1)
    if model.gate is not None:
        log_probs = batch.log_probs
        outputs = log_probs if model.from_logits else ops.exp(log_probs)
        seen["weights"] = objective.label_weights(
            batch,
            lambda: objective.losses_of_labels(
                batch, targets, ops.unstack(outputs, axis=1), loss
            ),
            model.gate,
        )
    return seen


def _as_taken(labels: Any, loss: Any, num_classes: int) -> Any:
    """Return labels in the form that a loss takes."""
    if len(labels.shape) == 2 and loss.is_sparse:
        return ops.cast(ops.argmax(labels, axis=-1), "int32")
    if len(labels.shape) == 1 and loss.takes_distributions:
        return labels_module.one_hot(labels, num_classes, "float32")
    return labels


def _are_arrays(x: Any, size: int) -> bool:
    leaves = keras.tree.flatten(x)
    # A data set has a length, too, but no shape.
    return all(
        hasattr(leaf, "shape") and len(leaf.shape) and len(leaf) == size
        for leaf in leaves
    )


def _rows_of(inputs: Any, rows: slice) -> Any:
    """Return some rows of arrays as the peers take them."""

    def part(leaf: Any) -> Any:
        values = np.asarray(leaf[rows])
        if values.dtype.kind == "f":
            values = values.astype(keras.config.floatx())
        return ops.convert_to_tensor(values)

    return None if inputs is None else keras.tree.map_structure(part, inputs)


@contextlib.contextmanager
def _unchanged(model: Any) -> Iterator[None]:
    """Put back what asking the parts changes in them, and all seeds."""
    variables = {
        id(variable): variable
        for part in asked_parts(model)
        if isinstance(part, keras.Layer)
        for variable in part.variables
    }
    variables.update((id(seed), seed) for seed in model._seed_states())
    # Copies: on torch, an array shares the memory of its tensor.
    before = [
        (variable, np.array(ops.convert_to_numpy(variable)))
        for variable in variables.values()
    ]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)
