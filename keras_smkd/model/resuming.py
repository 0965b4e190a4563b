"""What `fit` does around its epochs: counting, and going on after a stop."""

import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

from keras_smkd.model import backends
from keras_smkd.model.files import Place


class FitProgress(keras.callbacks.Callback):
    """Sets where a model stands in the training, for one `fit`.

    It must be the first of the callbacks, so that what the others restore
    stays, and what they save at an epoch's end says so. `restored` must be
    called when the others have begun.

    Args:
        initial_epoch: As given to `fit`.
        data: What `fit` trains on. If it has `set_epoch`, it is told which
            epoch comes.
        backup_dirs: Folders of the `BackupAndRestore` callbacks.
    """

    # It touches the model between epochs only. Keras ends batches in threads
    # then, of which it waits for an epoch's at the epoch's end.
    async_safe = True

    def __init__(
        self, initial_epoch: int, data: Any, backup_dirs: list[str]
    ) -> None:
        super().__init__()
        self.initial_epoch = initial_epoch
        self.backup_dirs = backup_dirs
        self._set_data_epoch, self._data_epoch = _epoch_of(data)
        # How far the data is ahead of `fit`, and what torch's generator
        # follows from, once they are settled.
        self._lead: int | None = None
        self._torch_seed: int | None = None
        # The steps before this `fit`, and the batches of its whole epochs and
        # of the present one.
        self._base: Any = None
        self._done = 0
        self._batches = 0
        self._lock = threading.Lock()

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin where `initial_epoch` says."""
        model = self.model
        was_loaded, place = model.take_loaded(), model.place
        if place is not None and 0 < self.initial_epoch == place.epoch:
            if was_loaded:
                _check_whole(place)
            self._go_on_from(place)
        if self.initial_epoch == 0:
            model.clock.step.assign(0)
        for folder in self.backup_dirs:
            _remove_torn_metadata(folder)

    def restored(self) -> None:
        """Have `fit` begin where the weights stand that a callback restored.

        The weights know it best: `BackupAndRestore` writes the epoch down
        after them, and deletes both one after the other, so a process that is
        killed in between leaves an epoch of other weights, or of none.
        """
        model = self.model
        if not model.take_loaded():
            # Nor is what Keras keeps from an earlier `fit` to be begun with.
            model._initial_epoch = None
        elif model.place is not None:
            _check_whole(model.place)
            self._go_on_from(model.place)
            model._initial_epoch = model.place.epoch

    def _go_on_from(self, place: Place) -> None:
        self._lead = place.data_epoch - place.epoch
        self._torch_seed = place.torch_seed

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Not earlier: a restored backup brings the total of its own run, and
        # a schedule comes when training begins.
        model = self.model
        total = self._steps_in((self.params or {}).get("epochs", 0))
        model.clock.total_steps.assign(model.given_total_steps or total or 0)
        # Counted from the epochs, since a step of another batch size, of best
        # weights or of an iterator at its end is not a step of this training.
        if self._base is None:
            self._base = model.step
        self._batches = 0
        self._set_step(epoch)
        model.settle_step()
        if self._lead is None:
            known = self._data_epoch
            self._lead = 0 if known is None else known - epoch
        if self._torch_seed is None:
            self._torch_seed = backends.new_torch_seed()
        self._stand_at(Place(epoch, is_inside=True))
        backends.seed_torch(self._torch_seed, epoch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        with self._lock:  # In any order.
            self._batches = max(self._batches, batch + 1)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # A callback that stopped the training did so inside the epoch.
        if not self.model.stop_training:
            self._done += self._batches
            self._set_step(epoch + 1)
            self._stand_at(Place(epoch + 1))

    def _set_step(self, epoch: int) -> None:
        steps = self._steps_in(epoch)
        if steps is None:
            # TensorFlow counts one more where an iterator ends unforeseen.
            steps = self._base + self._updates(self._done)
        self.model.clock.step.assign(steps)

    def _stand_at(self, place: Place) -> None:
        data_epoch = place.epoch + (self._lead or 0)
        self._set_data_epoch(data_epoch)
        self.model.place = dataclasses.replace(
            place, data_epoch=data_epoch, torch_seed=self._torch_seed or 0
        )

    def _steps_in(self, epochs: int) -> int | None:
        """Return the optimizer steps in so many epochs, `None` if unknown."""
        batches = (self.params or {}).get("steps")
        return None if batches is None else self._updates(epochs * batches)

    def _updates(self, batches: int) -> int:
        optimizer = backends.innermost(self.model.optimizer)
        return batches // (optimizer.gradient_accumulation_steps or 1)


@contextlib.contextmanager
def counted_callbacks(
    model: keras.Model, callbacks: Any, initial_epoch: int, data: Any
) -> Iterator[Any]:
    """Give the callbacks for `fit`, with a `FitProgress` around the rest."""
    is_list = isinstance(callbacks, keras.callbacks.CallbackList)
    given = (
        callbacks.callbacks if is_list else keras.tree.flatten(callbacks or [])
    )
    progress = FitProgress(
        initial_epoch,
        data,
        [
            os.fspath(callback.backup_dir)
            for callback in given
            if isinstance(callback, keras.callbacks.BackupAndRestore)
        ],
    )
    last = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: progress.restored()
    )
    if not is_list:
        yield [progress, *given, last]
        return
    for callback in (progress, last):
        callback.set_model(model)
        callback.set_params(callbacks.params)
    callbacks.callbacks[:] = [progress, *given, last]
    try:
        yield callbacks
    finally:
        for callback in (progress, last):
            callbacks.callbacks.remove(callback)


def _check_whole(place: Place) -> None:
    """Raise if `fit` cannot go on from where weights were saved."""
    if place.is_inside:
        raise ValueError(
            "`fit` must go on from the end of an epoch. Received: weights "
            f"that were saved inside an epoch, after {place.epoch} whole "
            "ones; the batches that they have seen of it would come again. "
            "Load weights that were saved at an epoch's end "
            "(`save_freq='epoch'`), or, to have the batches come again, load "
            f"these before `fit` and call `model.set_epoch({place.epoch})`."
        )


def _epoch_of(data: Any) -> tuple[Callable[[int], Any], int | None]:
    """Return what tells the data its epoch, and the epoch if it has one."""
    for part in (data, getattr(data, "dataset", None)):  # In torch's loaders.
        set_epoch: Any = getattr(part, "set_epoch", None)
        if callable(set_epoch):
            epoch = getattr(part, "epoch", None)
            return set_epoch, None if epoch is None else int(epoch)
    return lambda epoch: None, None


def _remove_torn_metadata(folder: str) -> None:
    """Remove the note of a backup's epoch if it was not written to its end."""
    path = os.path.join(folder, "training_metadata.json")
    try:
        with open(path) as file:
            json.load(file)
    except FileNotFoundError:
        pass
    except ValueError:
        os.remove(path)
