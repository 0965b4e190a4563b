"""What `summary` shows: the peers by their names, the parts by theirs."""

import functools
from typing import Any

import keras


class _Shown:
    """An object with some attributes in place of its own."""

    def __init__(self, shown: Any, attributes: dict[str, Any]) -> None:
        vars(self).update(attributes, _shown=shown)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_shown"], name)


def _shown(shown: Any, **attributes: Any) -> Any:
    """Return an object as it is to be shown.

    Args:
        shown: Layer, model or part, which has all other attributes.
        **attributes: Those that are shown in place of its own.
    """
    # Keras writes down what the class is called.
    return type(type(shown).__name__, (_Shown,), {})(shown, attributes)


@functools.wraps(keras.Model.summary)
def summary(model: Any, *args: Any, **kwargs: Any) -> None:
    """Print a summary: as `keras.Model.summary`, of learners and parts.

    The clock of the training is left out, and its three numbers are not among
    the parameters.
    """
    of_clock = {id(weight) for weight in model.clock.weights}
    own = [w for w in model.non_trainable_weights if id(w) not in of_clock]
    shown = _shown(model, layers=_rows(model), non_trainable_weights=own)
    keras.Model.summary(shown, *args, **kwargs)


def _rows(model: Any) -> list[Any]:
    peers = zip(model.peer_names, model.peers, strict=True)
    rows = [_shown(peer, name=name) for name, peer in peers]
    shapes = _output_shapes(model)
    parts = {"head": model.head, **model.parts()}
    if "knowledge" not in parts:
        del parts["divergence"]  # Nobody asks it.
    if model.transition_slack.weights:
        parts["transition_slack"] = model.transition_slack
    for name, part in parts.items():
        if part is not None:
            rows.append(_part(name, part, shapes.get(name)))
    return rows


def _part(name: str, part: Any, shape: tuple[int | None, ...] | None) -> Any:
    attributes: dict[str, Any] = {"name": name, "_inbound_nodes": []}
    # Keras looks for the shape where it finds that one was built with.
    attributes["_build_shapes_dict"] = None if shape is None else {"": shape}
    attributes["output_shape"] = shape
    if not isinstance(part, keras.Layer):
        # A part may have attributes of these names that mean something else.
        attributes.update(
            built=True, weights=[], layers=[], count_params=lambda: 0
        )
    return _shown(part, **attributes)


def _output_shapes(model: Any) -> dict[str, tuple[int | None, ...]]:
    """Return what each part gives; the number of sources is not known."""
    learners, classes = len(model.learner_names), model.num_classes
    return {
        "head": (None, classes),
        "knowledge": (None, None, classes),
        "selection": (None, None),
        "divergence": (None, learners),
        "target": (None, learners, classes),
        "gate": (None, learners),
        "feature_loss": (None,),
        "distillation_weight": (),
    }
