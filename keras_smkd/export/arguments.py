"""What the arguments of an export may be, and what they choose."""

import json
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from keras_smkd import _checks

# Of these the first that was measured says which peer is best.
ACCURACIES = (
    "accuracy",
    "acc",
    "sparse_categorical_accuracy",
    "categorical_accuracy",
)


def chosen_artefacts(
    what: str,
    peer_names: Sequence[str],
    metrics: dict[str, float] | None,
    has_head: bool = False,
) -> dict[str, list[int]]:
    """Return, from each artefact's name, the positions of its peers.

    Args:
        what: `"all"`, `"peers"`, `"ensemble"`, `"averaged"`, `"best_peer"`,
            `"head"` if there is one, or the name of one peer.
        peer_names: The peers' names, such as `peer_0`, `peer_1`, ...
        metrics: What `evaluate` measured; for `"best_peer"` only.
        has_head: Whether the model has a head, for which all peers are
            needed.

    Raises:
        ValueError: if `what` is something else, or the best peer is asked for
            and cannot be told.
    """
    peers = {name: [position] for position, name in enumerate(peer_names)}
    every = list(range(len(peer_names)))
    head = {"head": every} if has_head else {}
    choices = {
        "all": {**peers, **head, "ensemble": every},
        "peers": peers,
        "ensemble": {"ensemble": every},
        "averaged": {"averaged": every},
        **({"head": head} if has_head else {}),
        **{name: {name: position} for name, position in peers.items()},
    }
    _checks.one_of("what", what, [*choices, "best_peer"])
    if what == "best_peer":
        return {what: [best_peer(peer_names, metrics)]}
    return choices[what]


def best_peer(
    peer_names: Sequence[str], metrics: dict[str, float] | None
) -> int:
    """Return the position of the most accurate peer, the first if several.

    Raises:
        ValueError: if `metrics` do not hold an accuracy of every peer.
    """
    asked = (
        "`metrics` must hold the accuracy of every peer for what='best_peer', "
        "as `model.evaluate(..., return_dict=True)` gives it for a model "
        "compiled with metrics=['accuracy']."
    )
    if metrics is None:
        raise ValueError(f"{asked} Received: metrics=None.")
    for accuracy in ACCURACIES:
        keys = [f"{name}_{accuracy}" for name in peer_names]
        missing = [key for key in keys if key not in metrics]
        if not missing:
            values = [metrics[key] for key in keys]
            return values.index(max(values))
        if len(missing) < len(keys):
            raise ValueError(
                f"{asked} Received: metrics without {', '.join(missing)}."
            )
    raise ValueError(
        f"{asked} Received: metrics with the names {sorted(metrics)}. "
        f"To choose by something else, name the peer: what={peer_names[0]!r}."
    )


def checked_metrics(metrics: Any) -> dict[str, float] | None:
    """Return the metrics as plain floats.

    Raises:
        TypeError: if they are no mapping from strings to numbers.
        ValueError: if one is NaN or infinite, which JSON does not know.
    """
    if metrics is None:
        return None
    if not isinstance(metrics, Mapping) or not all(
        isinstance(name, str) for name in metrics
    ):
        raise TypeError(
            "`metrics` must be a dict from names to numbers, as "
            "`model.evaluate(..., return_dict=True)` returns it. "
            f"Received: metrics={metrics!r}."
        )
    return {
        str(name): _checks.number(f"metrics[{name!r}]", value)
        for name, value in metrics.items()
    }


def checked_noise(noise: Any) -> dict[str, Any] | None:
    """Return a copy of the noise's settings, as JSON gives it back.

    Raises:
        TypeError: if it is no dict, or holds what JSON does not know.
    """
    if noise is None:
        return None
    if not isinstance(noise, dict):
        raise TypeError(
            "`noise` must be a dict, such as the `recipe` of `NoisyLabels`. "
            f"Received: noise={noise!r} of type {type(noise).__name__}."
        )
    try:
        copy: dict[str, Any] = json.loads(json.dumps(noise, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(
            "`noise` must hold only finite numbers, strings, booleans, None, "
            f"lists and dicts. Received: noise={noise!r}."
        ) from error
    return copy


def checked_class_names(class_names: Any, num_classes: int) -> list[str] | None:
    """Return the class names as a list of plain strings.

    Raises:
        TypeError: if they are no sequence of strings.
        ValueError: if they are not one for each class, all different, each
            one line of text.
    """
    if class_names is None:
        return None
    names = [] if isinstance(class_names, str) else list(class_names)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(
            "`class_names` must be a list of strings. "
            f"Received: class_names={class_names!r}."
        )
    names = [str(name) for name in names]
    if len(names) != num_classes or len(set(names)) != len(names):
        raise ValueError(
            f"`class_names` must be {num_classes} different names, one for "
            f"each class. Received: {len(names)} names, "
            f"{len(set(names))} of them different: class_names={names}."
        )
    for name in names:
        if name.splitlines() != [name] or not _is_unicode(name):
            raise ValueError(
                "`class_names` must each be one line of text, which UTF-8 can "
                f"hold. Received: {name!r}."
            )
    return names


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
