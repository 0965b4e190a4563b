"""A model's files: whole or not at all, with the place in the training."""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import h5py
import keras
import numpy as np
from keras import ops

from keras_smkd._config import parts_of
from keras_smkd._files import written_whole

# Of the files written here. A change of what is in them makes it one more.
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in a training by `fit` a model stands.

    Args:
        epoch: Whole epochs that are done.
        is_inside: Whether the next epoch has begun.
        data_epoch: The epoch that the data hands out next, or now.
        torch_seed: What each epoch's state of torch's generator follows from.
    """

    epoch: int
    is_inside: bool = False
    data_epoch: int = 0
    torch_seed: int = 0


def write_state(store: Any, seeds: Sequence[Any], model: Any) -> None:
    """Put into a file what Keras leaves out.

    Without the seeds of dropout and of random layers, a resumed training goes
    another way.

    Args:
        store: Where to, by name.
        seeds: Variables of the seeds.
        model: The model, with its parts and its place in a training.
    """
    for i, state in enumerate(seeds):
        store[f"seed_{i}"] = ops.convert_to_numpy(state)
    store["format"] = np.array(FORMAT, "int32")
    parts = json.dumps(parts_with_weights(model)).encode()
    store["parts"] = np.frombuffer(parts, "uint8")
    if model.place is not None:
        store["place"] = np.array(dataclasses.astuple(model.place), "int32")


def parts_with_weights(model: Any) -> dict[str, Any]:
    """Return how many peers a model has, and which parts with weights."""
    held = {
        name: [
            type(own).__name__
            for own in parts_of(part)
            if isinstance(own, keras.Layer)
        ]
        for name, part in {**model.parts(), "head": model.head}.items()
    }
    kinds = {name: kinds for name, kinds in held.items() if kinds}
    return {"peers": len(model.peers), **kinds}


def check_parts(filepath: Any, model: Any) -> None:
    """Raise, before it is loaded, if a file is of a model with other parts.

    Args:
        filepath: A file of weights; Keras sees to all that is none.
        model: The model to load it into.

    Raises:
        ValueError: if the numbers of peers or the parts with weights differ.
    """
    if not str(filepath).endswith(".weights.h5"):
        return
    try:
        with h5py.File(filepath, "r") as file:
            saved = json.loads(bytes(np.asarray(file["vars"]["parts"])))
    except (OSError, KeyError, ValueError):
        return
    own = parts_with_weights(model)
    if saved != own:
        raise ValueError(
            "`filepath` must be a file of the weights of a model with the "
            f"same peers and parts. Received: {str(filepath)!r} of a model "
            f"with {saved}, for one with {own}."
        )


def read_state(
    store: Any, seeds: Sequence[Any]
) -> tuple[dict[str, Any], Place | None]:
    """Set the seeds from a file; return the rest of it, and the place.

    Args:
        store: From where, by name.
        seeds: Variables of the seeds. If there are others than those saved,
            the peers are others, and their weights may fit all the same.

    Raises:
        ValueError: if the file is of another format.
    """
    saved = {name: store[name] for name in store.keys()}
    check_format(saved.pop("format", None))
    place = saved.pop("place", None)
    saved.pop("parts", None)
    names = {name for name in saved if name.startswith("seed_")}
    if len(names) == len(seeds):
        for i, state in enumerate(seeds):
            state.assign(saved[f"seed_{i}"])
    rest = {name: saved[name] for name in saved.keys() - names}
    if place is None:
        return rest, None
    epoch, is_inside, *others = np.asarray(place).tolist()
    return rest, Place(epoch, bool(is_inside), *others)


def check_format(number: Any, version: str = "another version") -> None:
    """Raise if a file is not of the format that this version knows.

    Args:
        number: The format, `None` if the file does not say.
        version: Of the package that wrote the file.

    Raises:
        ValueError: if it is of another one.
    """
    if number is None or int(np.asarray(number)) != FORMAT:
        raise ValueError(
            f"The file must be of format {FORMAT}, which this version of "
            f"keras_smkd reads. Received: format {number}, written by "
            f"keras_smkd {version}. Install that version to read it."
        )


def format_config() -> dict[str, Any]:
    """Return what a model's configuration says of the file that it is in."""
    # Not above: the package imports this module before it has a version.
    from keras_smkd import __version__

    return {"format": FORMAT, "version": __version__}


def without_format(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without `format_config`, once it is checked.

    Raises:
        ValueError: if it is of another format.
    """
    config = dict(config)
    number = config.pop("format", None)
    version = config.pop("version", "?")
    check_format(number, version)
    return config


@contextlib.contextmanager
def whole_file(
    filepath: Any, overwrite: bool, is_one_file: bool, space: int = 0
) -> Iterator[Any]:
    """Give the path to write a file to, and move the file when it is whole.

    Args:
        filepath: Where it shall be in the end.
        overwrite: Whether a file that is there may go without asking.
        is_one_file: Whether that is what will be written.
        space: Bytes that there must be room for.
    """
    if not is_one_file or not _can_be_moved_to(filepath, overwrite):
        yield filepath
        return
    with written_whole(filepath, "filepath", space) as partial:
        yield partial


def space_of(model: Any) -> int:
    """Return about how many bytes an HDF5 file of a model's weights takes."""
    optimizer = model.optimizer.variables if model.compiled else []
    variables = [*model.variables, *optimizer]
    values = (
        math.prod(v.shape) * (8 if str(v.dtype).endswith("64") else 4)
        for v in variables
    )
    # Besides, its groups: one for each layer, about 2 kB.
    return sum(values) + 4096 * (1 + len(variables))


def _can_be_moved_to(filepath: Any, overwrite: bool) -> bool:
    """Return whether a path is a local file's; Keras sees to all others."""
    if not isinstance(filepath, (str, os.PathLike)):
        return False
    folder = os.path.dirname(os.path.realpath(filepath))
    return os.path.isdir(folder) and (overwrite or not os.path.exists(filepath))
