"""A peer's prediction and what its inner layers put out, in one pass."""

from collections.abc import Sequence
from typing import Any

import keras


def recorder(peer: keras.Model, taps: Sequence[str]) -> keras.Model:
    """Return a model that calls a peer once and gives its features, too.

    `recorder(peer, taps)(x, training) = (peer(x, training), [features])`

    It is made of the peer's own layers, each called where the peer calls it
    and as often: weights are shared, batch normalisation moves its statistics
    once, and a dropout mask is the same for the prediction and the features.
    A model inside of the peer is one layer of it, by its own name.

    Do not keep the result as an attribute of a Keras model or layer, or the
    peer's weights are saved twice: keep it in a closure. A layer that is added
    to the peer later is not in it.

    Args:
        peer: A functional model, or a `keras.Sequential` that is built.
        taps: Names of layers of the peer; may be empty. Each has one output
            and is called once.

    Returns:
        A model whose call `(inputs, training=None)` returns the peer's output
        and a list of tensors in the order of `taps`.

    Raises:
        TypeError: if `taps` is not a list of strings, or the peer is no
            `keras.Model`.
        ValueError: if the peer has no layer of a name, calls it more than
            once or gets several tensors from it; or if the peer is not built
            or has a `call` of its own, so that its layers are not known.

    Example:

    >>> peer = keras.Sequential(
    ...     [
    ...         keras.Input((2,)),
    ...         keras.layers.Rescaling(2.0, name="double"),
    ...         keras.layers.Rescaling(1.0, offset=1.0),
    ...     ]
    ... )
    >>> output, (features,) = recorder(peer, ["double"])(np.ones((1, 2)))
    >>> output
    [[3.0, 3.0]]
    >>> features
    [[2.0, 2.0]]
    """
    names = checked_names("taps", taps)
    graph = graph_of(peer)
    outputs: dict[str, list[Any]] = {}

    def recording(layer: Any, *args: Any, **kwargs: Any) -> Any:
        output = layer(*args, **kwargs)
        outputs.setdefault(layer.name, []).append(output)
        return output

    # A plain `keras.Model(inputs, [output, layer.output])` runs the layer
    # twice for many a Sequential: `layer.output` is of its first call, the
    # peer's output of a later one.
    again = keras.models.clone_model(
        graph,
        input_tensors=graph.input,
        clone_function=lambda layer: layer,
        call_function=recording,
    )
    features = [_only_output(peer, name, outputs) for name in names]
    # The peer's name, since its layers' paths while they run begin with it.
    return keras.Model(again.input, (again.output, features), name=peer.name)


def names_for_peers(taps: Any, num_peers: int) -> tuple[str, ...]:
    """Return the name of the layer to tap in each peer.

    Args:
        taps: A name, or a list of one name for all peers or one for each.
        num_peers: Number of peers.

    Returns:
        As many names as there are peers.

    Raises:
        TypeError: if a name is not a string.
        ValueError: if there are several names, and not one for each peer.

    Example:

    >>> names_for_peers("maps", 2)
    ('maps', 'maps')
    """
    names = checked_names("taps", [taps] if isinstance(taps, str) else taps)
    if len(names) == 1:
        return names * num_peers
    if len(names) != num_peers:
        raise ValueError(
            "`taps` must be one name for all peers or one for each. "
            f"Received: {len(names)} names, {list(names)}, for {num_peers} "
            "peers."
        )
    return names


def shapes_of(
    peers: Sequence[keras.Model], taps: Sequence[str]
) -> list[tuple[int | None, ...]]:
    """Return the shape of what a layer puts out, for each peer.

    Args:
        peers: Models, built.
        taps: One name for all of them, or one for each.

    Raises:
        ValueError: as `recorder` does.
    """
    names = names_for_peers(taps, len(peers))
    return [
        tuple(recorder(peer, [name]).output[1][0].shape)
        for peer, name in zip(peers, names, strict=True)
    ]


def tap_key(taps: Sequence[str]) -> str | tuple[str, ...]:
    """Return the key of a batch's `features` for the taps of a part."""
    return taps[0] if len(taps) == 1 else tuple(taps)


def checked_names(argument: str, value: Any) -> tuple[str, ...]:
    """Return names as a tuple, or raise if they are not a list of strings.

    Args:
        argument: The argument's name, for the message.
        value: What was given for it.

    Raises:
        TypeError: if it is not a list or tuple of strings.
    """
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(name, str) for name in value
    ):
        raise TypeError(
            f"`{argument}` must be a list of names of layers. "
            f"Received: {argument}={value!r}."
        )
    return tuple(value)


def graph_of(peer: Any, argument: str = "taps") -> keras.Model:
    """Return a functional model of a peer's own layers, not compiled.

    Args:
        peer: A functional model, or a `keras.Sequential` that is built.
        argument: What needs to know the layers, for the messages.

    Raises:
        TypeError: if it is no `keras.Model`.
        ValueError: if it is not built, or has a `call` of its own.
    """
    if not isinstance(peer, keras.Model):
        raise TypeError(
            "`peer` must be a `keras.Model`. "
            f"Received: peer={peer!r} of type {type(peer).__name__}."
        )
    is_sequential = isinstance(peer, keras.Sequential)
    try:
        inputs = peer.inputs[0] if is_sequential else peer.input
        output = peer.outputs if is_sequential else peer.output
    except (AttributeError, ValueError) as error:
        if is_sequential:
            raise ValueError(
                f"`{argument}` must be of a model that is built. Received: the "
                f"Sequential {peer.name!r}, whose layers have not been called "
                "yet. Begin it with `keras.Input(shape)`."
            ) from error
        raise _has_own_call(peer, argument) from error
    if isinstance(output, (list, tuple)) and len(output) == 1:
        output = output[0]
    graph = keras.Model(inputs, output, name=peer.name)
    known = keras.Sequential if is_sequential else type(graph)
    if type(peer).call is not known.call:
        raise _has_own_call(peer, argument)
    return graph


def _has_own_call(peer: keras.Model, argument: str) -> ValueError:
    return ValueError(
        f"`{argument}` must be of a model whose layers are known. Received: "
        f"{peer.name!r}, a {type(peer).__name__} with a `call` of its own. "
        "Build it as a functional model, `keras.Model(inputs, outputs)`."
    )


def _only_output(
    peer: keras.Model, name: str, outputs: dict[str, list[Any]]
) -> Any:
    """Return what a layer put out, or raise unless that is one tensor."""
    found = outputs.get(name, [])
    if not found:
        raise ValueError(
            "`taps` must name layers of the peer. Received: "
            f"{name!r}; the layers of {peer.name!r} are "
            f"{', '.join(map(repr, outputs))}."
        )
    if len(found) > 1:
        raise ValueError(
            "`taps` must name layers that are called once. Received: "
            f"{name!r}, which {peer.name!r} calls {len(found)} times. Tap a "
            "layer that comes after it, such as an `Identity`."
        )
    if not isinstance(found[0], keras.KerasTensor):
        raise ValueError(
            "`taps` must name layers that put out one tensor. Received: "
            f"{name!r} of {peer.name!r}, which puts out {found[0]!r}."
        )
    return found[0]
