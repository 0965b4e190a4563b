"""Whether a set of models can be peers."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras


def check_peers(peers: Any, minimum: int) -> None:
    """Raise unless `peers` are different models that fit.

    Args:
        peers: List of models.
        minimum: How many there must be.

    Raises:
        TypeError: if `peers` is not a list or a peer is not a `keras.Model`.
        ValueError: if there are too few, one appears twice, or the
            input shapes or numbers of classes that are known differ.
    """
    if not isinstance(peers, (list, tuple)):
        raise TypeError(
            "`peers` must be a list of `keras.Model`s. "
            f"Received: peers={peers!r} of type {type(peers).__name__}."
        )
    for i, peer in enumerate(peers):
        if not isinstance(peer, keras.Model):
            raise TypeError(
                "`peers` must be a list of `keras.Model`s. "
                f"Received: peers[{i}]={peer!r} of type {type(peer).__name__}."
            )
    if len(peers) < minimum:
        count = {1: "one model", 2: "two models"}[minimum]
        raise ValueError(
            f"`peers` must hold {count} or more. "
            f"Received: {len(peers)} in the list."
        )
    if len({id(peer) for peer in peers}) != len(peers):
        raise ValueError(
            "`peers` must be different models, each with weights of its own. "
            "Received: the same object more than once. Build a second one."
        )
    inputs = [_shape(peer, "input_shape") for peer in peers]
    for i, shape in enumerate(inputs):
        if not _compatible(inputs[0], shape):
            raise ValueError(
                "`peers` must take the same inputs. Received: input_shape="
                f"{inputs[0]} for peers[0], {shape} for peers[{i}]."
            )
    known_num_classes(peers)


def check_unshared(peers: Sequence[keras.Model]) -> None:
    """Raise if built peers share weights.

    A shared layer would be trained by one of their optimizers alone, be saved
    with one peer and not be found by the other.

    Raises:
        ValueError: if two of them do.
    """
    owner: dict[int, int] = {}
    for i, peer in enumerate(peers):
        for variable in peer.weights:
            first = owner.setdefault(id(variable), i)
            if first != i:
                raise ValueError(
                    "`peers` must share no weights. Received: "
                    f"{variable.path!r} in peers[{first}] and peers[{i}]. "
                    "Build each peer from layers of its own; "
                    "`keras.models.clone_model` and `set_weights` copy one."
                )


def warn_of_softmax(peers: Sequence[keras.Model]) -> None:
    """Warn of peers that end in a softmax and are said to put out logits.

    They would learn, slowly: a softmax of a softmax is nearly uniform.
    """
    for i, peer in enumerate(peers):
        if _ends_in_softmax(peer):
            warnings.warn(
                f"peers[{i}] ends in a softmax, but `from_logits` is True. "
                "Give `from_logits=False`, or end the peer without.",
                stacklevel=2,
            )


def _ends_in_softmax(layer: Any) -> bool:
    if isinstance(layer, keras.Sequential):
        return bool(layer.layers) and _ends_in_softmax(layer.layers[-1])
    if isinstance(layer, keras.Model):
        names = getattr(layer, "output_names", None)
        known = {own.name: own for own in layer.layers}
        if not names or names[0] not in known:
            return False  # Subclassed: it cannot be told.
        return _ends_in_softmax(known[names[0]])
    return isinstance(layer, keras.layers.Softmax) or (
        getattr(layer, "activation", None) is keras.activations.softmax
    )


def known_num_classes(peers: Sequence[keras.Model]) -> int | None:
    """Return the peers' number of classes, `None` if none is known yet."""
    shapes = {
        f"peers[{i}]": shape
        for i, peer in enumerate(peers)
        if (shape := _shape(peer, "output_shape")) is not None
    }
    return common_num_classes(shapes) if shapes else None


def common_num_classes(shapes: dict[str, Any]) -> int:
    """Return the number of classes that the output shapes have in common.

    Args:
        shapes: From a peer's name to its output's shape.

    Raises:
        ValueError: unless each is `(batch, classes)` with the same number of
            classes, two or more.
    """
    num_classes = 0
    for name, shape in shapes.items():
        if (
            not isinstance(shape, tuple)
            or len(shape) != 2
            or not isinstance(shape[1], int)
            or shape[1] < 2
        ):
            raise ValueError(
                "`peers` must each have one output of shape (batch, classes) "
                f"with two classes or more. Received: {shape} from {name}."
            )
        num_classes = num_classes or shape[1]
        if shape[1] != num_classes:
            raise ValueError(
                "`peers` must have the same number of classes. "
                f"Received: output shapes {shapes}."
            )
    return num_classes


def num_classes_of(outputs: dict[str, Any]) -> int:
    """Return the number of classes that outputs have in common.

    Args:
        outputs: From a learner's name to what it put out.

    Raises:
        ValueError: as `common_num_classes`.
    """
    return common_num_classes(
        {
            name: tuple(getattr(output, "shape", ()))
            for name, output in outputs.items()
        }
    )


def _shape(peer: keras.Model, attribute: str) -> Any:
    """Return a built peer's shape, `None` where Keras does not know it."""
    try:
        return getattr(peer, attribute)
    except (AttributeError, ValueError):
        return None


def _compatible(first: Any, second: Any) -> bool:
    """Return whether two shapes (or structures of them) can be one input."""
    if first is None or second is None:
        return True
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(
            _compatible(first[key], second[key]) for key in first
        )
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(
            _compatible(a, b) for a, b in zip(first, second, strict=True)
        )
    return first == second
