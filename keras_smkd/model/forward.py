"""The forward pass of peers: what is looked at, and what is given out."""

import contextvars
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

from keras import ops

# What `predict` is to give, in the thread that called it.
OUTPUT: contextvars.ContextVar[str] = contextvars.ContextVar(
    "output", default="ensemble"
)


def prepare(
    parts: dict[str, Any], peers: Sequence[Any], num_classes: int | None
) -> None:
    """Let each part make its weights, now that the peers are built.

    Args:
        parts: From their arguments' names.
        peers: The peers, built.
        num_classes: Number of classes, `None` if the peers do not tell it.

    Raises:
        ValueError: if a part wants to know the classes, and they are unknown.
    """
    for name, part in parts.items():
        if not hasattr(part, "prepare"):
            continue
        if num_classes is None:
            raise ValueError(
                "`peers` must tell their number of classes when they are "
                f"built, for `{name}`={part!r}. Received: peers without an "
                "output shape. Build each as a functional or sequential model."
            )
        part.prepare(peers, num_classes)


def readout(probs: Any, names: Sequence[str], num_peers: int) -> Any:
    """Return what `predict` was asked for.

    Args:
        probs: `(batch, learners, classes)`, probabilities.
        names: Of the learners, the peers first.
        num_peers: How many of them are peers.

    Returns:
        `(batch, classes)`, or a dictionary of these.
    """
    output = OUTPUT.get()
    if output in ("ensemble", "averaged"):
        return ops.mean(probs[:, :num_peers], axis=1)
    each = {name: probs[:, i] for i, name in enumerate(names)}
    return each if output == "all" else each[output]


def recorded_outputs(
    runs: Sequence[Any], taps: Sequence[str], inputs: Any, training: Any
) -> tuple[list[Any], dict[str, tuple[Any, ...]]]:
    """Return what peers put out, and their features where there are taps.

    Args:
        runs: The peers, or recorders of them if there are taps.
        taps: Names of their layers.
        inputs: As for the peers.
        training: As for the peers.

    Returns:
        One output for each peer; from each tap to one tensor for each peer.
    """
    outputs = [run(inputs, training=training) for run in runs]
    if not taps:
        return outputs, {}
    features = zip(*(found for _, found in outputs), strict=True)
    return (
        [output for output, _ in outputs],
        dict(zip(taps, features, strict=True)),
    )


def taps_of(parts: Iterable[Any]) -> tuple[str, ...]:
    """Return the names of the layers that parts look at, each once."""
    found = [tap for part in parts for tap in getattr(part, "taps", ())]
    return tuple(dict.fromkeys(found))


def remembering(part: Any) -> list[Any]:
    """Return the parts with a memory in a part: itself, or its sources."""
    return [
        own
        for own in (part, *getattr(part, "sources", ()))
        if hasattr(own, "num_examples")
    ]
