"""The peers that a user's function builds, and what trains them, checked."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy.typing as npt

from keras_smkd.model import PeerLearning


def built(
    build_peer: Callable[..., Any] | None,
    num_peers: int,
    x: npt.NDArray[Any],
    num_classes: int,
) -> list[keras.Model]:
    """Return the peers, built for their inputs.

    Args:
        build_peer: `(input_shape, num_classes) -> keras.Model`, or `None` for
            a small network for tables.
        num_peers: How many there shall be.
        x: `(examples, ...)`, one example or more.
        num_classes: Number of classes.

    Raises:
        TypeError: if what it returns is no `keras.Model`.
        ValueError: if it does not take the inputs, or puts out anything else
            than `(batch, num_classes)`; if there must be one.
    """
    input_shape = x.shape[1:]
    if build_peer is None and len(input_shape) != 1:
        raise ValueError(
            "`build_peer` must be given for examples of more than one "
            f"dimension. Received: build_peer=None, X of shape {x.shape}. "
            "Give a function `(input_shape, num_classes) -> keras.Model`."
        )
    build = build_peer or small_network
    peers = [build(input_shape, num_classes) for _ in range(num_peers)]
    for peer in peers:
        _check(peer, x[:1], num_classes)
    return peers


def learning(
    method: Callable[..., Any],
    peers: Sequence[keras.Model],
    num_examples: int,
) -> PeerLearning:
    """Return the model that a method makes of the peers.

    Args:
        method: `(peers, num_examples) -> keras_smkd.PeerLearning`.
        peers: Of `built`.
        num_examples: How many examples they are trained on.

    Raises:
        TypeError: if it returns anything else.
        ValueError: if the model is compiled, or its peers are others.
    """
    model = method(peers, num_examples)
    rule = (
        "`method` must return a `keras_smkd.PeerLearning` of the peers that it "
        "was given, not compiled."
    )
    if not isinstance(model, PeerLearning):
        raise TypeError(
            f"{rule} Received: {model!r} of type {type(model).__name__}."
        )
    own = [id(peer) for peer in model.peers]
    if model.compiled or own != [id(peer) for peer in peers]:
        found = "that is compiled" if model.compiled else "of other peers"
        raise ValueError(f"{rule} Received: a model {found}.")
    return model


def small_network(
    input_shape: tuple[int, ...], num_classes: int
) -> keras.Model:
    """Return a network for tables, with two hidden layers of 64."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(num_classes),
        ]
    )


def _check(peer: Any, example: npt.NDArray[Any], num_classes: int) -> None:
    if not isinstance(peer, keras.Model):
        raise TypeError(
            "`build_peer` must return a `keras.Model`. "
            f"Received: {peer!r} of type {type(peer).__name__}."
        )
    shape = (None, *example.shape[1:])
    rule = (
        "`build_peer` must return a model of inputs of shape "
        f"{shape} and one output of shape {(None, num_classes)}, as it was "
        "told."
    )
    try:
        output = peer(example)
    except Exception as error:
        raise ValueError(
            f"{rule} Received: a model that cannot be called with them: {error}"
        ) from error
    found = tuple(getattr(output, "shape", ()))
    if found != (1, num_classes):
        raise ValueError(
            f"{rule} Received: output of shape {(None, *found[1:])}."
            if found
            else f"{rule} Received: output of type {type(output).__name__}."
        )
