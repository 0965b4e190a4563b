"""The trainings that `kills.py` kills, and what they end with."""

import csv
import os
import sys
import zipfile

import h5py
import keras
import numpy as np

import keras_smkd
from keras_smkd import callbacks
from keras_smkd import data

EPOCHS, EXAMPLES, BATCH = 8, 24, 8
BATCHES = EXAMPLES // BATCH
CIFAR = ["--train_size=512", "--test_size=64", "--epochs=4"]


def make_network(seed):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            # Without a seed, torch draws from its own generator.
            keras.layers.Dropout(0.3, seed=seed),
            keras.layers.Dense(4),
        ]
    )


def make_model():
    keras.utils.set_random_seed(0)
    teacher = make_network(5)
    peers = [make_network(seed) for seed in (None, 3)]
    model = keras_smkd.SelectiveMutualDistillation(
        peers,
        target=keras_smkd.targets.TemporalEnsembling(EXAMPLES),
        knowledge=keras_smkd.knowledge.Several(
            [
                keras_smkd.knowledge.AveragedPeers(0.9),
                keras_smkd.knowledge.Teacher(teacher),
            ]
        ),
    )
    steps = EPOCHS * EXAMPLES // BATCH
    decay = keras.optimizers.schedules.CosineDecay(0.1, steps)
    model.compile(
        [keras.optimizers.Adam(0.01), keras.optimizers.SGD(decay, 0.9)],
        "sparse_categorical_crossentropy",
    )
    return model


def make_data(make, initial_epoch=0):
    generator = np.random.default_rng(0)
    return make(
        generator.integers(0, 256, (EXAMPLES, 8, 8, 1), dtype=np.uint8),
        generator.integers(0, 4, EXAMPLES),
        batch_size=BATCH,
        shuffle=True,
        seed=0,
        augment="flip_crop",
        with_index=True,
        initial_epoch=initial_epoch,
    )


def run(way, folder, data_dir, writer, permits):
    """Do what one start of a run does, and write a line at each point.

    After each line it waits for a permit, so that it cannot end before it is
    killed, however late that comes.
    """

    def tell(*words, **_):
        os.write(writer, f"{' '.join(map(str, words))}\n".encode())
        os.read(permits, 1)

    tell("begun")
    if way == "cifar":
        run_cifar(folder, data_dir, tell)
    else:
        train(way, folder, tell)


def train(way, folder, tell):
    """Train from where the folder's run stands, and save how it ends."""
    saved = folder / "model.keras"
    model = (
        keras.saving.load_model(saved)
        if way == "checkpoint" and saved.exists()
        else make_model()
    )
    if way == "backup":
        batches = make_data(data.make_pipeline)
        checkpoint = keras.callbacks.BackupAndRestore(folder / "backup")
    else:
        batches = make_data(data.PipelineSequence, model.epoch)
        checkpoint = keras.callbacks.ModelCheckpoint(saved)
    model.fit(
        batches,
        epochs=EPOCHS,
        initial_epoch=model.epoch,
        shuffle=False,
        verbose=0,
        callbacks=[
            callbacks.ProgressiveThreshold(sharpness=-8.0),
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: tell("step"),
                on_epoch_end=lambda epoch, logs: tell("writing"),
            ),
            checkpoint,
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: tell("written"),
            ),
        ],
    )
    model.save_weights(folder / "end.weights.h5")


def run_cifar(folder, data_dir, tell):
    """Run the example as its command would; what it prints is told."""
    import cifar

    cifar.print = tell
    arguments = ["cifar.py", f"--data_dir={data_dir}", f"--run_dir={folder}"]
    if (folder / "settings.json").exists():
        arguments.append("--resume")
    sys.argv = [*arguments, *CIFAR]
    try:
        cifar.app.run(cifar.main)
    except SystemExit as end:  # As absl ends every program.
        if end.code:
            raise


def end_of(folder):
    """Return all that the run in a folder ended with: `{name: array}`."""
    if (folder / "model.keras").exists() and (folder / "log.csv").exists():
        with open(folder / "log.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        log = [str({**row, "seconds": None}) for row in rows]
        with zipfile.ZipFile(folder / "model.keras") as archive:
            return {
                "log": np.array(log),
                **arrays_in(archive.open("model.weights.h5")),
            }
    return arrays_in(folder / "end.weights.h5")


def arrays_in(file):
    found = {}
    with h5py.File(file) as h5:
        h5.visititems(
            lambda name, item: (
                found.update({name: item[()]})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return found


def differences(folder, other_folder):
    """Return the names of what two runs did not end with alike, to the bit."""
    end, other = end_of(folder), end_of(other_folder)
    return [
        name
        for name in sorted({*end, *other})
        if name not in end
        or name not in other
        or not np.array_equal(end[name], other[name])
    ]
