"""Whether a set of models can be peers, and what each is called."""

import re
import warnings
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras

# Models in their order, or by their names.
Peers = Sequence[keras.Model] | Mapping[str, keras.Model]

# What outputs, logs and exports call something else; by `class_name` Keras
# tells an object from a dictionary.
_TAKEN = frozenset(
    (
        "all",
        "averaged",
        "best_peer",
        "class_name",
        "distillation_loss",
        "ensemble",
        "feature_loss",
        "features",
        "head",
        "log_probs",
        "loss",
        "peers",
        "selection_rate",
        "supervised_loss",
        "threshold",
        "val",
    )
)


def names_of(peers: Peers) -> tuple[str, ...]:
    """Return the peers' names, those of a list by their positions.

    Raises:
        TypeError: if a name is no string.
        ValueError: if it is not one of letters, digits, `_` and `-`, or is
            that of something else in outputs, logs or exports.
    """
    if not isinstance(peers, Mapping):
        return tuple(f"peer_{i}" for i in range(len(peers)))
    seen: set[str] = set()
    for i, name in enumerate(peers):
        _check_name(name, i)
        # Some file systems have one folder for both.
        if name.lower() in seen:
            raise ValueError(
                "`peers` must have names that differ by more than their case. "
                f"Received: the names {list(peers)}."
            )
        seen.add(name.lower())
    return tuple(peers)


def _check_name(name: Any, position: int) -> None:
    if not isinstance(name, str):
        raise TypeError(
            "`peers` must have strings as names. Received: the name "
            f"{name!r} of type {type(name).__name__}."
        )
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_-]*", name):
        raise ValueError(
            "`peers` must have names of letters, digits, '_' and '-' that "
            f"begin with a letter. Received: the name {name!r}."
        )
    small = name.lower()
    if small in _TAKEN or small.startswith("val_"):
        raise ValueError(
            "`peers` must have names that outputs, logs and exports have for "
            f"nothing else. Received: the name {name!r}. Not free are those "
            f"that begin with 'val_', and {', '.join(sorted(_TAKEN))}."
        )
    if re.fullmatch("peer_[0-9]+", small) and name != f"peer_{position}":
        raise ValueError(
            "`peers` must have names that say no other position. Received: "
            f"the name {name!r} at position {position}, where 'peer_{position}'"
            " would be right."
        )


def models_of(peers: Peers) -> list[keras.Model]:
    """Return the peers themselves, in their order."""
    return [*(peers.values() if isinstance(peers, Mapping) else peers)]


def as_given(names: Sequence[str], peers: Sequence[keras.Model]) -> Peers:
    """Return peers as a list, or by their names if these are not a list's."""
    if tuple(names) == names_of(peers):
        return list(peers)
    return dict(zip(names, peers, strict=True))


def _arguments(peers: Peers) -> Iterator[tuple[str, Any]]:
    """Yield each peer after what messages call it, such as `peers[0]`."""
    named = peers.items() if isinstance(peers, Mapping) else enumerate(peers)
    for key, peer in named:
        yield f"peers[{key!r}]", peer


def check_peers(peers: Any, minimum: int) -> None:
    """Raise unless `peers` are different models that fit.

    Args:
        peers: List of models, or a dictionary of them by their names.
        minimum: How many there must be.

    Raises:
        TypeError: if `peers` is neither, a peer is not a `keras.Model`, or a
            name no string.
        ValueError: if there are too few, one appears twice, the input shapes
            or numbers of classes that are known differ, or a name is one that
            a peer cannot have.
    """
    kinds = "`peers` must be a list of `keras.Model`s, or a dict by their names"
    if not isinstance(peers, (list, tuple, Mapping)):
        raise TypeError(
            f"{kinds}. Received: peers={peers!r} of type "
            f"{type(peers).__name__}."
        )
    names_of(peers)
    for argument, peer in _arguments(peers):
        if not isinstance(peer, keras.Model):
            raise TypeError(
                f"{kinds}. Received: {argument}={peer!r} of type "
                f"{type(peer).__name__}."
            )
    if len(peers) < minimum:
        count = {1: "one model", 2: "two models"}[minimum]
        raise ValueError(
            f"`peers` must hold {count} or more. "
            f"Received: {len(peers)} of them."
        )
    shapes = [
        (argument, peer, _shape(peer, "input_shape"))
        for argument, peer in _arguments(peers)
    ]
    if len({id(peer) for _, peer, _ in shapes}) != len(peers):
        raise ValueError(
            "`peers` must be different models, each with weights of its own. "
            "Received: the same object more than once. Build a second one."
        )
    first, _, expected = shapes[0]
    for argument, _, shape in shapes:
        if not _compatible(expected, shape):
            raise ValueError(
                "`peers` must take the same inputs. Received: input_shape="
                f"{expected} for {first}, {shape} for {argument}."
            )
    known_num_classes(peers)


def check_unshared(peers: Peers) -> None:
    """Raise if built peers share weights.

    A shared layer would be trained by one of their optimizers alone, be saved
    with one peer and not be found by the other.

    Raises:
        ValueError: if two of them do.
    """
    owner: dict[int, str] = {}
    for argument, peer in _arguments(peers):
        for variable in peer.weights:
            first = owner.setdefault(id(variable), argument)
            if first != argument:
                raise ValueError(
                    "`peers` must share no weights. Received: "
                    f"{variable.path!r} in {first} and {argument}. "
                    "Build each peer from layers of its own; "
                    "`keras.models.clone_model` and `set_weights` copy one."
                )


def warn_of_softmax(peers: Peers) -> None:
    """Warn of peers that end in a softmax and are said to put out logits.

    They would learn, slowly: a softmax of a softmax is nearly uniform.
    """
    for argument, peer in _arguments(peers):
        if _ends_in_softmax(peer):
            warnings.warn(
                f"{argument} ends in a softmax, but `from_logits` is True. "
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


def known_num_classes(peers: Peers) -> int | None:
    """Return the peers' number of classes, `None` if none is known yet."""
    shapes = {
        argument: shape
        for argument, peer in _arguments(peers)
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
