"""CIFAR-10 or CIFAR-100 with wrong labels: residual networks by any method.

One run trains by one method of `keras_smkd.methods`, at its defaults, on labels
that a transition matrix, the images themselves or people (CIFAR-N) made wrong.
It logs every epoch, can be interrupted and resumed, draws one figure, prints
one table and exports the networks on request:

    KERAS_BACKEND=jax python examples/cifar.py --data_dir ~/datasets \
        --train_size 2000 --epochs 2

That takes one to two minutes on two CPU cores, most of it for the 10,000 test
images, and ends at 20 to 30 % accuracy: it shows that all works, no more. The
preset `small`, 0.1 million weights, is for CPUs, where an epoch of all 50,000
images takes minutes. For results, take a GPU:

    python examples/cifar.py --peers resnet18 --epochs 100 --batch_size 128 \
        --learning_rate 0.1 --noise human --human_labels CIFAR-10_human.npz \
        --policy mixed_bfloat16

`--method` names another method than `posterior_smkd`, and `--list_methods` says
what there is. A method of peers gets two networks, another one the first of
them. Where a teacher is needed, the second one is trained before, on the same
labels; where the noise rate is, it is the true share of wrong labels, which
nobody knows outside of an experiment. `--weights A,B` begins with what
`save_weights` of two such backbones wrote.

A run's folder holds log.csv, run.png, settings.json, noisy_labels.npz and
model.keras, as it was after the last whole epoch, and a teacher's
teacher_log.csv and teacher_model.keras. `--resume --run_dir FOLDER` goes on
from there. `noise.NoisyLabels.load` reads the labels of the whole training set,
with the recipe that makes them again.
"""

import contextlib
import csv
import itertools
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On a busy machine more threads make torch slower, not faster.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before TensorFlow: the other order can crash.
with contextlib.suppress(ImportError):
    import torch  # noqa: F401

import cifar_models
import keras
import numpy as np
from absl import app
from absl import flags
from absl import logging

import keras_smkd
from keras_smkd import callbacks
from keras_smkd import data
from keras_smkd import noise
from keras_smkd import report

# Kinds of `noise.make_noisy`; resembling classes are the data set's affair.
KINDS = {
    "symmetric": "symmetric_excluding_true",
    "symmetric_including_true": "symmetric_including_true",
    "pair": "pair_flip",
    "asymmetric": "asymmetric_{dataset}",
    "asymmetric_blocks": "asymmetric_cifar100_blocks",
}
NOISES = ["none", *KINDS, "instance", "human"]
HUMAN_SETS = [
    "aggre_label",
    "random_label1",
    "random_label2",
    "random_label3",
    "worse_label",
    "noisy_label",  # The only one of CIFAR-100.
]

FLAGS = flags.FLAGS
# Where things are; a resumed run may change these.
PLACES = {"data_dir", "download", "human_labels", "run_dir", "resume"}
PLACES |= {"export_dir", "list_methods"}
flags.DEFINE_bool("list_methods", False, "Print all methods, and do no more.")
flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data sets.")
flags.DEFINE_bool("download", False, "Download the data set if it is absent.")
flags.DEFINE_string("human_labels", "", "CIFAR-N's labels, an .npz file.")
flags.DEFINE_string("run_dir", None, "Folder of the run; by default a new one.")
flags.DEFINE_bool("resume", False, "Go on with the run in --run_dir.")
flags.DEFINE_string("export_dir", None, "Folder to make, for SavedModels.")
# What is trained.
flags.DEFINE_enum("dataset", "cifar10", ["cifar10", "cifar100"], "Data set.")
flags.DEFINE_integer("train_size", 0, "Training examples; 0: all.", 0)
flags.DEFINE_integer("test_size", 0, "Test examples; 0: all.", 0)
flags.DEFINE_enum("noise", "symmetric", NOISES, "Label noise.")
flags.DEFINE_float("noise_rate", 0.4, "Argument of the noise.", 0.0, 1.0)
flags.DEFINE_integer("noise_seed", 0, "Seed of the noise.", 0)
flags.DEFINE_enum("human_set", "worse_label", HUMAN_SETS, "Which human labels.")
flags.DEFINE_enum(
    "peers", "small", list(cifar_models.PEERS), "Preset of the networks."
)
flags.DEFINE_list(
    "weights", [], "Two files of weights for the backbones to begin with."
)
flags.DEFINE_enum(
    "policy",
    "float32",
    ["float32", "mixed_bfloat16", "mixed_float16"],
    "What layers compute in.",
)
flags.DEFINE_enum(
    "method",
    "posterior_smkd",
    [*cifar_models.OFFERED, *cifar_models.BASELINES],
    "Method of training, at its defaults; --list_methods says what each is.",
)
flags.DEFINE_enum("augment", "flip_crop", ["flip_crop", "none"], "Augmentation")
flags.DEFINE_integer("epochs", 30, "Epochs of the whole training.", 1)
flags.DEFINE_integer("batch_size", 64, "Examples per step.", 1)
flags.DEFINE_float("learning_rate", 0.05, "Where the cosine begins.", 0.0)
flags.DEFINE_integer("seed", 0, "Seed of subset, order and weights.", 0)


def run_folder():
    """Return the folder that is asked for, or a new one in `runs`."""
    if FLAGS.run_dir:
        return pathlib.Path(FLAGS.run_dir)
    if FLAGS.resume:
        sys.exit("--resume needs the folder of the run: give --run_dir.")
    name = f"{FLAGS.dataset}-{FLAGS.method}-{keras.backend.backend()}"
    folders = (pathlib.Path("runs", f"{name}-{n}") for n in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())


def check_run(folder, settings):
    """End the program, in a sentence, if the run could not end well."""
    if FLAGS.export_dir and os.path.exists(FLAGS.export_dir):
        sys.exit(f"{FLAGS.export_dir} exists: give another --export_dir.")
    if len(FLAGS.weights) not in (0, 2):
        sys.exit("--weights needs two files, one for each kind of network.")
    if FLAGS.noise == "human" and not FLAGS.human_labels:
        sys.exit("--noise human needs a file of labels: give --human_labels.")
    if FLAGS.noise == "asymmetric_blocks" and FLAGS.dataset != "cifar100":
        sys.exit("--noise asymmetric_blocks needs --dataset cifar100.")
    if not FLAGS.resume:
        if folder.is_dir() and any(folder.iterdir()):
            sys.exit(
                f"{folder} is not empty: give --resume to go on with its run, "
                "or another --run_dir."
            )
        return
    if not (folder / "settings.json").exists():
        sys.exit(f"There is no run to resume in {folder}.")
    begun = json.loads((folder / "settings.json").read_text())
    differing = [
        f"{name} ({begun.get(name)} there, {settings.get(name)} here)"
        for name in sorted({*begun, *settings})
        if begun.get(name) != settings.get(name)
    ]
    if differing:
        sys.exit(f"The run in {folder} differs in {', '.join(differing)}.")


def choose(labels, size):
    """Return the places of `size` random examples, as many of each class."""
    if size > len(labels):
        raise ValueError(f"There are {len(labels)} examples, not {size}.")
    size, classes = size or len(labels), np.unique(labels)
    order = np.random.default_rng(FLAGS.seed).permutation(len(labels))
    counts = np.full(len(classes), size // len(classes))
    counts[: size % len(classes)] += 1
    chosen = [
        order[labels[order] == label][:count]
        for label, count in zip(classes, counts, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def make_labels(examples):
    """Return `noise.NoisyLabels` of all examples, as the flags have it."""
    clean, num_classes = examples.labels, examples.num_classes
    if FLAGS.noise == "none":
        return noise.NoisyLabels(clean, clean, num_classes, {"kind": "none"})
    if FLAGS.noise == "human":
        clean, noisy = (
            # By the canonical index: files of labels come in that order.
            data.load_human_labels(FLAGS.human_labels, name)[examples.index]
            for name in ("clean_label", FLAGS.human_set)
        )
        recipe = {"kind": FLAGS.human_set}
        return noise.NoisyLabels(clean, noisy, num_classes, recipe)
    settings = {"num_classes": num_classes, "seed": FLAGS.noise_seed}
    if FLAGS.noise == "instance":
        return noise.make_noisy_by_instance(
            clean, examples.images, FLAGS.noise_rate, **settings
        )
    kind = KINDS[FLAGS.noise].format(dataset=FLAGS.dataset)
    return noise.make_noisy(clean, kind, FLAGS.noise_rate, **settings)


def prepare_data(saved):
    """Return noisy labels, and what `train` trains and tests on."""
    place = (FLAGS.data_dir, FLAGS.download)
    examples = data.load_tfds(FLAGS.dataset, "train", *place)
    test = data.load_tfds(FLAGS.dataset, "test", *place)
    # All labels become noisy, so that a subset has the labels of the whole.
    labels = (
        noise.NoisyLabels.load(saved)
        if saved.exists()
        else make_labels(examples)
    )
    if not np.array_equal(labels.clean_labels, examples.labels):
        source = saved if saved.exists() else FLAGS.human_labels
        raise ValueError(f"{source} has labels of another data set.")
    keep = choose(examples.labels, FLAGS.train_size)
    held = choose(test.labels, FLAGS.test_size)
    rate = np.mean(labels.is_noisy[keep])
    print(labels)
    print(
        f"{keras.backend.backend()}: {len(keep)} images of {FLAGS.dataset} to "
        f"train on, {100 * rate:.1f} % of their labels wrong, {len(held)} to "
        f"test on, {FLAGS.epochs} epochs, seed {FLAGS.seed}.",
        flush=True,
    )
    return labels, (
        examples.images[keep] / np.float32(255),
        labels.noisy_labels[keep],
        labels.clean_labels[keep],
        (test.images[held], test.labels[held]),
    )


def write_whole(path, write):
    """Have a file written whole or not at all, as a resumed run reads it."""
    partial = path.with_name(f"partial{path.suffix}")
    write(partial)
    os.replace(partial, path)


class Stopwatch(keras.callbacks.Callback):
    """Adds to the logs the seconds of each epoch, tests included."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["seconds"] = time.perf_counter() - self.start


class SaveEpoch(keras.callbacks.Callback):
    """Saves the model after each epoch, and says so when it is saved."""

    def __init__(self, path, what):
        super().__init__()
        self.path = path
        self.what = what

    def on_epoch_end(self, epoch, logs=None):
        self.model.save(self.path)
        print(
            f"{self.what} {epoch + 1}/{FLAGS.epochs}: loss {logs['loss']:.3f}, "
            f"ensemble test accuracy {100 * logs['val_accuracy']:.1f} %, "
            f"{logs['seconds']:.1f} s",
            flush=True,
        )


def fit(folder, whose, make_model, setting, clean_labels, test_data, own=()):
    """Train the model of a file, or a new one, to the last epoch."""
    saved, log = folder / f"{whose}model.keras", folder / f"{whose}log.csv"
    # With its optimizer, and its step in the schedules.
    model = keras.saving.load_model(saved) if saved.exists() else make_model()
    done = model.epoch
    if log.exists():
        # An interruption may fall between a line's writing and the saving.
        lines = log.read_text().splitlines(keepends=True)
        kept = "".join(lines[: done + 1 if done else 0])
        write_whole(log, lambda path: path.write_text(kept))
    model.fit(
        data.make_pipeline(
            setting.images,
            setting.labels,
            batch_size=FLAGS.batch_size,
            with_index=model.needs_index,
            shuffle=True,
            seed=FLAGS.seed,
            augment=FLAGS.augment if FLAGS.augment != "none" else None,
            # The order of the batches goes on, too.
            initial_epoch=done,
        ),
        validation_data=data.make_pipeline(*test_data, batch_size=256),
        initial_epoch=done,
        epochs=FLAGS.epochs,
        shuffle=False,
        verbose=0,
        callbacks=[
            *own,
            callbacks.NoiseMonitor(
                setting.images, setting.labels, clean_labels
            ),
            Stopwatch(),
            keras.callbacks.CSVLogger(log, append=True),
            SaveEpoch(saved, f"{whose}epoch".replace("_", " ")),
        ],
    )
    return model


def train(folder, images, noisy_labels, clean_labels, test_data):
    """Train from where the folder's run stands to the last epoch."""
    given = (clean_labels, test_data)

    def teach(make_model):
        return fit(folder, "teacher_", make_model, setting, *given)

    setting = cifar_models.Setting(
        peers=FLAGS.peers,
        num_classes=int(FLAGS.dataset.removeprefix("cifar")),
        images=images,
        labels=noisy_labels,
        noise_rate=float(np.mean(noisy_labels != clean_labels)),
        epochs=FLAGS.epochs,
        steps=FLAGS.epochs * -(-len(images) // FLAGS.batch_size),
        learning_rate=FLAGS.learning_rate,
        seed=FLAGS.seed,
        teach=teach,
        weights=FLAGS.weights,
    )
    return fit(
        folder,
        "",
        lambda: cifar_models.make_model(FLAGS.method, setting),
        setting,
        *given,
        cifar_models.make_callbacks(FLAGS.method, setting),
    )


def read_log(path):
    """Return the logs of all sittings: `{name: [value, ...]}`."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    names = rows[0].keys() - {"epoch"}
    return {n: [float(row[n]) for row in rows] for n in sorted(names)}


def print_table(log):
    """Print the ends of the learners, and what the log knows besides."""
    print(
        "\nTest accuracy in %, last epoch (best epoch, chosen on the test "
        "set); wrong labels memorised by\nthe ensemble in %; knowledge "
        "selected, if any is, in the first, middle and last epoch\nin %.\n"
    )
    cells = {}
    for name in log:
        if name.startswith("val_") and name.endswith("accuracy"):
            whose = name.removeprefix("val_").removesuffix("accuracy")
            title = whose.replace("_", " ").strip() or "ensemble"
            last, best = 100 * log[name][-1], 100 * max(log[name])
            cells[title] = f"{last:5.1f} ({best:4.1f})"
    cells["memorised"] = f"{100 * log['memorization'][-1]:.1f}"
    if "selection_rate" in log:
        rates = log["selection_rate"]
        cells["selected"] = "/".join(
            f"{100 * rates[k]:.0f}" for k in (0, len(rates) // 2, -1)
        )
    cells["seconds"] = f"{sum(log['seconds']):.1f}"
    print(f"{'method':<20}" + "".join(f"{title:>14}" for title in cells))
    print(
        f"{FLAGS.method:<20}"
        + "".join(f"{cell:>14}" for cell in cells.values())
    )


def main(_):
    if FLAGS.list_methods:
        print(cifar_models.listing())
        return
    # TFDS warns of its own insides.
    logging.set_verbosity(logging.ERROR)
    if keras.backend.backend() != "tensorflow":
        import tensorflow as tf

        # It only reads the data, and would take the GPU's memory.
        tf.config.set_visible_devices([], "GPU")
    settings = {
        flag.name: flag.value
        for flag in FLAGS.get_key_flags_for_module(sys.argv[0])
        if flag.name not in PLACES
    }
    settings["backend"] = keras.backend.backend()
    keras.config.set_dtype_policy(FLAGS.policy)
    folder = run_folder()
    check_run(folder, settings)
    try:
        labels, prepared = prepare_data(folder / "noisy_labels.npz")
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings, indent=2)
    write_whole(folder / "settings.json", lambda path: path.write_text(text))
    write_whole(folder / "noisy_labels.npz", labels.save)
    print(f"The run's files are in {folder}.", flush=True)
    try:
        model = train(folder, *prepared)
    except KeyboardInterrupt:
        sys.exit(f"Interrupted: go on with --resume --run_dir {folder}")
    log = read_log(folder / "log.csv")
    print_table(log)
    report.plot_history(log).savefig(folder / "run.png", dpi=120)
    print(f"\nThe course of the training is drawn in {folder / 'run.png'}.")
    if FLAGS.export_dir:
        keras_smkd.export(model, FLAGS.export_dir)
        print(f"The peers and the ensemble are exported to {FLAGS.export_dir}.")


if __name__ == "__main__":
    app.run(main)
