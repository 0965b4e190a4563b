"""Trainings that were killed, and what their files let go on."""

import json
import os
import pathlib
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
from peers import linear

import keras_smkd
from keras_smkd import data as smkd_data
from keras_smkd.callbacks import ProgressiveThreshold

ROOT = pathlib.Path(__file__).resolve().parents[1]
BACKEND = keras.backend.backend()
EPOCHS = 4
STEPS = 3  # per epoch, of 8 examples
FIT = {"batch_size": 8, "epochs": EPOCHS, "shuffle": False, "verbose": 0}


def test_a_run_killed_ten_times_ends_like_one_left_alone():
    pytest.importorskip("tensorflow", reason="makes a tf.data pipeline")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--kills=5"],
        env={**os.environ, "KERAS_BACKEND": BACKEND, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    rows = {
        row[1]: [int(n) for n in row[2:4]] for row in rows if row[0] == BACKEND
    }
    assert rows.keys() == {"backup", "checkpoint"}
    for kills, in_writing in rows.values():
        assert kills == 5
        assert in_writing >= 1
    assert "All ends are equal, bit for bit" in done.stdout


class Stop(Exception):
    """Ends a training as a kill would, if nothing is left to do."""


class StopAt(keras.callbacks.Callback):
    """Stops at the begin of an epoch, or after a batch of it."""

    def __init__(self, epoch, batch=None):
        super().__init__()
        self.place = (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if (epoch, None) == self.place:
            raise Stop

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.place:
            raise Stop


class Epochs(keras.callbacks.Callback):
    """Keeps the epochs that were run, and the steps with which they ended."""

    def __init__(self):
        super().__init__()
        self.steps = {}

    def on_epoch_end(self, epoch, logs=None):
        self.steps[epoch] = self.model.step


class Training:
    """One model, and a new start with it as often as one likes."""

    def __init__(self, peers, folder, *arguments, total_steps=None):
        self.model = keras_smkd.SelectiveMutualDistillation(
            peers, total_steps=total_steps
        )
        self.model.compile(
            keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy"
        )
        self.arguments = arguments
        self.schedule = ProgressiveThreshold()
        self.start = folder / "start.weights.h5"
        self.model.save_weights(self.start)

    def begin(self, *callbacks, weights=None, **kwargs):
        """Train from the start, or from weights; return the epochs' steps."""
        self.model.load_weights(weights or self.start)
        epochs = Epochs()
        self.model.fit(
            *self.arguments,
            callbacks=[self.schedule, *callbacks, epochs],
            **{**FIT, **kwargs},
        )
        return epochs.steps

    def stop(self, *callbacks, **kwargs):
        with pytest.raises(Stop):
            self.begin(*callbacks, **kwargs)

    def state(self):
        model = self.model
        variables = [*model.weights, *model.optimizer.variables]
        return [keras.ops.convert_to_numpy(v).copy() for v in variables]


def assert_equal(state, other):
    for ours, theirs in zip(state, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    rng = np.random.default_rng(20230618)
    return Training(
        [linear(), linear()],
        tmp_path_factory.mktemp("training"),
        rng.normal(size=(8 * STEPS, 6)).astype("float32"),
        rng.integers(0, 4, size=8 * STEPS),
    )


def backup_in(folder, **kwargs):
    return keras.callbacks.BackupAndRestore(folder / "backup", **kwargs)


def test_a_backup_is_right_wherever_a_kill_fell(training, tmp_path):
    weights = tmp_path / "backup" / "latest.weights.h5"
    metadata = tmp_path / "backup" / "training_metadata.json"
    steps = training.begin()
    assert steps == {0: 3, 1: 6, 2: 9, 3: 12}
    whole = training.state()

    def write(text):
        return lambda: metadata.write_text(text)

    kills = {
        "after both": lambda: None,
        "before the epoch": write('{"epoch": 1, "batch": 0}'),
        "before the first epoch": metadata.unlink,
        "in the epoch": write('{"epo'),
        "as the epoch was opened": write(""),
    }
    for name, make in kills.items():
        training.stop(backup_in(tmp_path), StopAt(2))
        assert json.loads(metadata.read_text())["epoch"] == 2
        make()
        assert training.begin(backup_in(tmp_path)) == {2: 9, 3: 12}, name
        assert_equal(training.state(), whole)
        assert not metadata.parent.exists()
    # While the backup was deleted, in either order.
    training.begin(backup_in(tmp_path, delete_checkpoint=False))
    metadata.unlink()
    assert training.begin(backup_in(tmp_path, delete_checkpoint=False)) == {}
    assert_equal(training.state(), whole)
    weights.unlink()
    metadata.write_text('{"epoch": 4, "batch": 0}')
    assert training.begin(backup_in(tmp_path)) == steps
    assert_equal(training.state(), whole)


def test_what_a_backup_restored_is_forgotten_by_the_next_fit(
    training, tmp_path
):
    training.stop(backup_in(tmp_path), StopAt(2))
    assert list(training.begin(backup_in(tmp_path))) == [2, 3]
    assert list(training.begin()) == [0, 1, 2, 3]


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_backup_from_inside_an_epoch_is_refused(training, tmp_path, epoch):
    freq = STEPS * epoch + 2
    training.stop(backup_in(tmp_path, save_freq=freq), StopAt(epoch, 1))
    with pytest.raises(ValueError, match=inside(epoch)):
        training.begin(backup_in(tmp_path))
    assert training.model.epoch == epoch


def inside(epoch):
    return (
        f"must go on from the end of an epoch.*after {epoch} whole ones.*"
        f"save_freq='epoch'.*`model.set_epoch.{epoch}.`"
    )


def test_weights_from_inside_an_epoch_do_not_go_on(training, tmp_path):
    backup = backup_in(tmp_path, save_freq=STEPS * 2 + 2)
    training.stop(backup, StopAt(2, 1))
    saved = tmp_path / "backup" / "latest.weights.h5"
    with pytest.raises(ValueError, match=inside(2)):
        training.begin(weights=saved, initial_epoch=2)
    assert training.model.epoch == 2
    # Unless the batches are to come again.
    training.model.load_weights(saved)
    training.model.set_epoch(2)
    training.model.fit(*training.arguments, initial_epoch=2, **FIT)
    assert training.model.epoch == EPOCHS
    assert training.model.step == EPOCHS * STEPS
    # Trainings of their own may begin with them.
    assert training.begin(weights=saved) == {0: 3, 1: 6, 2: 9, 3: 12}
    assert training.begin(weights=saved, initial_epoch=3) == {3: 12}


def test_weights_from_inside_the_first_epoch_may_begin_anew(training, tmp_path):
    training.stop(backup_in(tmp_path, save_freq=2), StopAt(0, 1))
    saved = tmp_path / "backup" / "latest.weights.h5"
    training.model.load_weights(saved)
    assert (training.model.epoch, training.model.step) == (0, 2)
    assert training.begin(weights=saved) == {0: 3, 1: 6, 2: 9, 3: 12}


class Thresholds(keras.callbacks.Callback):
    """Keeps the threshold after every batch."""

    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(self.model.threshold)


@pytest.mark.parametrize("first", [0, 1, 2, 3])
@pytest.mark.parametrize("says", [False, True])
def test_loaded_weights_begin_at_the_epoch_that_is_given(
    training, tmp_path, first, says
):
    path = tmp_path / "model.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(path)
    training.begin(checkpoint, epochs=3)
    model = keras.saving.load_model(path)
    assert (model.epoch, model.step) == (3, 3 * STEPS)
    if says:
        model.set_epoch(first)
        assert model.epoch == first
    epochs, thresholds = Epochs(), Thresholds()
    model.fit(
        *training.arguments,
        initial_epoch=first,
        callbacks=[training.schedule, epochs, thresholds],
        **FIT,
    )
    # Whatever the weights have seen, the schedule goes by the epochs.
    assert epochs.steps == {e: (e + 1) * STEPS for e in range(first, EPOCHS)}
    total = EPOCHS * STEPS
    np.testing.assert_allclose(
        thresholds.values,
        [
            training.schedule.value(step / total)
            for step in range(first * STEPS, total)
        ],
        rtol=1e-6,
    )
    assert (model.epoch, model.step) == (EPOCHS, total)


def test_an_epoch_is_a_number_of_epochs(training):
    for value, error in ((-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="`epoch` must be an integer"):
            training.model.set_epoch(value)


def test_an_epoch_that_is_set_is_that_of_the_data(rng):
    x = rng.normal(size=(16, 6)).astype("float32")
    y = rng.integers(0, 4, 16)
    batches = smkd_data.PipelineSequence(
        x, y, batch_size=8, shuffle=True, seed=1
    )
    model = keras_smkd.SelectiveMutualDistillation([linear(), linear()])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.set_epoch(2)
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: seen.append(batches.epoch)
    )
    fit = {"initial_epoch": 2, "epochs": 4, "verbose": 0}
    model.fit(batches, callbacks=[look], **fit)
    assert seen == [2, 3]


def test_a_training_stopped_by_a_batch_stands_inside_its_epoch(
    training, tmp_path
):
    seen = []

    def stop(batch, logs):
        seen.append(batch)
        training.model.stop_training = len(seen) == STEPS + 2

    path = tmp_path / "inside.weights.h5"
    training.begin(keras.callbacks.LambdaCallback(on_train_batch_end=stop))
    training.model.save_weights(path)
    with pytest.raises(ValueError, match="after 1 whole ones"):
        training.begin(weights=path, initial_epoch=1)


def test_files_without_a_place_go_on_as_they_are_told(training, tmp_path):
    training.begin()
    whole = training.state()
    training.stop(backup_in(tmp_path), StopAt(2))
    saved = tmp_path / "backup" / "latest.weights.h5"
    with h5py.File(saved, "a") as file:
        del file["vars/place"]
    assert list(training.begin(weights=saved, initial_epoch=2)) == [2, 3]
    assert_equal(training.state(), whole)
    assert list(training.begin(backup_in(tmp_path))) == [2, 3]
    assert_equal(training.state(), whole)


def pipeline(kind, initial_epoch=0):
    """Data of one batch an epoch, which Keras looks at before it trains."""
    generator = np.random.default_rng(3)
    images = generator.normal(size=(8, 6, 6, 1)).astype("float32")
    settings = {
        "shuffle": True,
        "seed": 0,
        "augment": "flip_crop",
        "initial_epoch": initial_epoch,
    }
    labels = np.arange(8) % 4
    if kind == "DataLoader":
        import torch

        dataset, sampler = smkd_data.make_torch_dataset(
            images, labels, **settings
        )
        return torch.utils.data.DataLoader(dataset, 8, sampler=sampler)
    if kind == "tf.data":
        pytest.importorskip("tensorflow", reason="makes a tf.data pipeline")
        make = smkd_data.make_pipeline
    else:
        make = smkd_data.PipelineSequence
    return make(images, labels, batch_size=8, **settings)


@pytest.fixture(scope="module")
def training_with_dropout(tmp_path_factory):
    peers = [
        keras.Sequential(
            [
                keras.Input((6, 6, 1)),
                keras.layers.Flatten(),
                # Without a seed, torch draws from its own generator.
                keras.layers.Dropout(0.3, seed=seed),
                keras.layers.Dense(4),
            ]
        )
        for seed in (None, 3)
    ]
    folder = tmp_path_factory.mktemp("dropout")
    return Training(peers, folder, total_steps=EPOCHS)


@pytest.mark.parametrize(
    "kind",
    [
        "tf.data",
        "PipelineSequence",
        pytest.param(
            "DataLoader",
            marks=pytest.mark.skipif(
                BACKEND != "torch", reason="runs once, with the tests of torch"
            ),
        ),
    ],
)
def test_order_augmentation_and_dropout_go_on(
    training_with_dropout, tmp_path, kind
):
    training = training_with_dropout

    def begin(*callbacks, initial_epoch=0, first=0, stops=False, **kwargs):
        run = training.stop if stops else training.begin
        data = pipeline(kind, first)
        return run(
            *callbacks,
            x=data,
            initial_epoch=initial_epoch,
            batch_size=None,
            **kwargs,
        )

    # The pipeline is two epochs ahead of `fit`.
    keras.utils.set_random_seed(1)
    begin(first=2)
    whole = training.state()
    keras.utils.set_random_seed(1)
    begin(backup_in(tmp_path), StopAt(2), first=2, stops=True)
    saved = tmp_path / "saved.weights.h5"
    saved.write_bytes((tmp_path / "backup" / "latest.weights.h5").read_bytes())
    keras.utils.set_random_seed(2)
    assert list(begin(backup_in(tmp_path))) == [2, 3]
    assert_equal(training.state(), whole)
    assert list(begin(weights=saved, initial_epoch=2)) == [2, 3]
    assert_equal(training.state(), whole)
    # So does a second `fit`, from where the first one ended.
    keras.utils.set_random_seed(1)
    training.model.load_weights(training.start)
    data = pipeline(kind, 2)
    for first in (0, 2):
        training.model.fit(
            data,
            initial_epoch=first,
            epochs=first + 2,
            shuffle=False,
            verbose=0,
            callbacks=[training.schedule],
        )
    assert_equal(training.state(), whole)
