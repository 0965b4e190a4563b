"""A model's files: whole or not at all, with the place in the training."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_smkd import _checks

# Of the files written here. A change of what is in them makes it one more;
# files from before there was a format are of format 0.
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


class ResumableModel(keras.Model):
    """A Keras model whose training a file can bring back.

    Beside the weights, the files hold the state of its randomness and its
    place in the training by `fit`, and the number of their format. They are
    written beside their place and then moved there, so that what has their
    name is whole, whenever the process is killed.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Unknown before the first `fit`, and from files of format 0.
        self.place: Place | None = None
        self._was_loaded = False

    @property
    def epoch(self) -> int:
        """Whole epochs that `fit` has done, for `initial_epoch`.

        A loaded model goes on only from there, unless `set_epoch` says
        otherwise.
        """
        return 0 if self.place is None else self.place.epoch

    def set_epoch(self, epoch: int) -> None:
        """Say that so many whole epochs are done, whatever a file says.

        Not a setter: TensorFlow drops the setting of a value that is there.
        """
        epoch = _checks.integer("epoch", epoch, minimum=0)
        seed = 0 if self.place is None else self.place.torch_seed
        self.place = Place(epoch, data_epoch=epoch, torch_seed=seed)

    def take_loaded(self) -> bool:
        """Return whether weights were loaded since this was last asked."""
        was_loaded, self._was_loaded = self._was_loaded, False
        return was_loaded

    def save(
        self,
        filepath: Any,
        overwrite: bool = True,
        zipped: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Save as `keras.Model.save` does, a `.keras` file whole or not."""
        is_one_file = zipped is not False and str(filepath).endswith(".keras")
        with whole_file(filepath, overwrite, is_one_file) as path:
            super().save(path, overwrite=overwrite, zipped=zipped, **kwargs)

    def save_weights(
        self,
        filepath: Any,
        overwrite: bool = True,
        max_shard_size: float | None = None,
    ) -> None:
        """Save as `keras.Model.save_weights` does, one file whole or not."""
        with whole_file(filepath, overwrite, max_shard_size is None) as path:
            super().save_weights(path, overwrite, max_shard_size)

    def save_own_variables(self, store: Any) -> None:
        """Save the model's own weights, its randomness and its place.

        Keras leaves the seeds of dropout and of random layers out, without
        which a resumed training goes another way.
        """
        super().save_own_variables(store)
        for i, state in enumerate(self._seed_states()):
            store[f"seed_{i}"] = ops.convert_to_numpy(state)
        store["format"] = np.array(FORMAT, "int32")
        if self.place is not None:
            store["place"] = np.array(dataclasses.astuple(self.place), "int32")

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` saved.

        Raises:
            ValueError: if a later version saved it, in a format of its own.
        """
        saved = {name: store[name] for name in store.keys()}
        check_format(int(np.asarray(saved.pop("format", 0))))
        place = saved.pop("place", None)
        seeds = {name for name in saved if name.startswith("seed_")}
        super().load_own_variables(
            {name: saved[name] for name in saved.keys() - seeds}
        )
        states = self._seed_states()
        # Peers with other random layers are other peers; their weights fit.
        if len(seeds) == len(states):
            for i, state in enumerate(states):
                state.assign(saved[f"seed_{i}"])
        self.place = None
        if place is not None:
            epoch, is_inside, *rest = np.asarray(place).tolist()
            self.place = Place(epoch, bool(is_inside), *rest)
        self._was_loaded = True

    def _seed_states(self) -> list[Any]:
        known = {id(v) for v in (*self.weights, *self.metrics_variables)}
        return [v for v in self.variables if id(v) not in known]


def check_format(number: Any, version: str = "a later version") -> None:
    """Raise if a file is of a format that this version does not know.

    Raises:
        ValueError: if it is of a later one.
    """
    if number > FORMAT:
        raise ValueError(
            f"The file must be of format {FORMAT} or earlier, those that this "
            f"version of keras_smkd reads. Received: format {number}, written "
            f"by keras_smkd {version}. Install that version to read it."
        )


def format_config() -> dict[str, Any]:
    """Return what a model's configuration says of the file that it is in."""
    # Not above: the package imports this module before it has a version.
    from keras_smkd import __version__

    return {"format": FORMAT, "version": __version__}


def without_format(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without `format_config`, once it is checked.

    Raises:
        ValueError: if it is of a later format.
    """
    config = dict(config)
    number, version = config.pop("format", 0), config.pop("version", "?")
    check_format(number, version)
    return config


@contextlib.contextmanager
def whole_file(
    filepath: Any, overwrite: bool, is_one_file: bool
) -> Iterator[Any]:
    """Give the path to write a file to, and move the file when it is whole.

    It is written in a folder beside its place, named after it and ending in
    `.partial`; what a killed process left there goes when it is next written.

    Args:
        filepath: Where it shall be in the end.
        overwrite: Whether a file that is there may go without asking.
        is_one_file: Whether that is what will be written.
    """
    if not is_one_file or not _can_be_moved_to(filepath, overwrite):
        yield filepath
        return
    place = os.path.realpath(filepath)
    folder = f"{place}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    try:
        partial = os.path.join(folder, os.path.basename(filepath))
        yield partial
        # Or the name could reach the disk before the content, on power loss.
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _can_be_moved_to(filepath: Any, overwrite: bool) -> bool:
    """Return whether a path is a local file's; Keras sees to all others."""
    if not isinstance(filepath, (str, os.PathLike)):
        return False
    folder = os.path.dirname(os.path.realpath(filepath))
    return os.path.isdir(folder) and (overwrite or not os.path.exists(filepath))
