"""The forward pass of peers: what is looked at, and what is given out."""

import contextlib
import contextvars
import threading
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_smkd import functional
from keras_smkd._config import parts_of
from keras_smkd.features import names_for_peers
from keras_smkd.features import recorder
from keras_smkd.features.recording import tap_key

_OUTPUT: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "output", default=None
)


class Asked:
    """What `predict` is to give: to one thread at a time, and to no other.

    `functions` has the compiled function of each output.
    """

    def __init__(self) -> None:
        self.functions: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._output = "ensemble"

    @contextlib.contextmanager
    def asking(self, output: str) -> Iterator[None]:
        """Ask for an output, when no other thread does."""
        with self._lock:
            token, before = _OUTPUT.set(output), self._output
            self._output = output
            try:
                yield
            finally:
                self._output = before
                _OUTPUT.reset(token)

    def output(self, is_replicated: bool) -> str:
        """Return the output that is asked for.

        Args:
            is_replicated: Whether replicas run in threads of their own, which
                know nothing of the one that asked.
        """
        default = self._output if is_replicated else "ensemble"
        return _OUTPUT.get() or default


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


def outputs_of(y_pred: dict[str, Any], names: Sequence[str]) -> list[Any]:
    """Return each learner's own outputs, float32 or float64.

    Args:
        y_pred: What the model gives for a batch.
        names: Of the learners; of averages only the peers' are there.
    """
    return [
        functional.at_least_float32(y_pred[name])
        for name in names
        if name in y_pred
    ]


def readout(
    output: str, probs: Any, names: Sequence[str], num_peers: int
) -> Any:
    """Return what `predict` was asked for.

    Args:
        output: That.
        probs: `(batch, learners, classes)`, probabilities.
        names: Of the learners, the peers first.
        num_peers: How many of them are peers.

    Returns:
        `(batch, classes)`, or a dictionary of these.
    """
    if output in ("ensemble", "averaged"):
        return ops.mean(probs[:, :num_peers], axis=1)
    each = {name: probs[:, i] for i, name in enumerate(names)}
    return each if output == "all" else each[output]


Tap = str | tuple[str, ...]


def recorded_outputs(
    runs: Sequence[Any], taps: Sequence[Tap], inputs: Any, training: Any
) -> tuple[list[Any], dict[Tap, tuple[Any, ...]]]:
    """Return what peers put out, and their features where there are taps.

    Args:
        runs: The peers, or recorders of them if there are taps.
        taps: What is looked at in them.
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


def recorders(peers: Sequence[Any], taps: Sequence[Tap]) -> list[Any]:
    """Return what calls each peer and gives its features, too.

    Args:
        peers: The peers, built.
        taps: What is looked at: a layer's name, or one name for each peer.

    Returns:
        One callable for each peer; none if there are no taps.
    """
    if not taps:
        return []
    names = [
        names_for_peers([tap] if isinstance(tap, str) else tap, len(peers))
        for tap in taps
    ]
    return [
        recorder(peer, [own[i] for own in names])
        for i, peer in enumerate(peers)
    ]


def tap_of(part: Any) -> Tap | None:
    """Return what a part looks at in the peers, `None` if at nothing."""
    taps = tuple(getattr(part, "taps", ()))
    return tap_key(taps) if taps else None


def features_of(
    part: Any, features: dict[Tap, tuple[Any, ...]]
) -> tuple[Any, ...]:
    """Return what a part looks at, one tensor for each peer."""
    tap = tap_of(part)
    return () if tap is None else features[tap]


def taps_of(parts: Iterable[Any]) -> tuple[Tap, ...]:
    """Return what parts (and what they hold) look at, each once."""
    found = [tap_of(own) for part in parts for own in parts_of(part)]
    return tuple(dict.fromkeys(tap for tap in found if tap is not None))


def values_of(schedule: Any) -> list[float]:
    """Return a schedule's values at five places of the training.

    Args:
        schedule: `progress -> value`, or a number.
    """
    if not callable(schedule):
        return [float(schedule)]
    return [
        float(ops.convert_to_numpy(schedule(progress)))
        for progress in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
