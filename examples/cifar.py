"""CIFAR-10 or CIFAR-100 with wrong labels: two residual networks as peers.

One run trains two peers by one method, on labels that a transition matrix, the
images themselves or people (CIFAR-N) made wrong. It logs every epoch, can be
interrupted and resumed, draws one figure, prints one table and exports the
peers on request:

    KERAS_BACKEND=jax python examples/cifar.py --data_dir ~/datasets \
        --train_size 2000 --epochs 2

That takes one to two minutes on two CPU cores, most of it for the 10,000 test
images, and ends at 20 to 30 % accuracy: it shows that all works, no more. The
preset `small`, 0.1 million weights, is for CPUs, where an epoch of all 50,000
images takes minutes. For results, take a GPU:

    python examples/cifar.py --peers resnet18 --epochs 100 --batch_size 128 \
        --learning_rate 0.1 --noise human --human_labels CIFAR-10_human.npz

A run's folder holds log.csv, run.png, settings.json, noisy_labels.npz and
model.keras, as it was after the last whole epoch. `--resume --run_dir FOLDER`
goes on from there. `noise.NoisyLabels.load` reads the labels of the whole
training set, with the recipe that makes them again.
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

import keras
import matplotlib
import numpy as np
from absl import app
from absl import flags
from absl import logging

import keras_smkd
from keras_smkd import callbacks
from keras_smkd import data
from keras_smkd import noise

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Filters and strides of the stacks, kind of block, enlargement of the images.
# The backbones of keras-cv begin with two strides of 2, meant for photographs:
# enlarged four times, 32 x 32 images keep their size there, as they do in a
# 3 x 3 stem of stride 1.
PEERS = {
    "small": ([16, 32], [1, 2], "block", 1),
    "resnet18": ([64, 128, 256, 512], [1, 2, 2, 2], "basic_block", 4),
}
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
METHODS = {
    "independent": lambda: callbacks.StaticThreshold(0.0),
    "all": lambda: callbacks.StaticThreshold(2.0),
    "smkd_s": lambda: callbacks.StaticThreshold(FLAGS.threshold),
    "smkd_p": lambda: callbacks.ProgressiveThreshold(
        FLAGS.threshold, FLAGS.sharpness
    ),
}
TARGETS = {"none": lambda: None, "proselflc": keras_smkd.targets.ProSelfLC}

FLAGS = flags.FLAGS
# Where things are; a resumed run may change these.
PLACES = {"data_dir", "download", "human_labels", "run_dir", "resume"}
PLACES |= {"export_dir"}
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
flags.DEFINE_enum("peers", "small", list(PEERS), "Preset of the two peers.")
flags.DEFINE_enum("method", "smkd_p", list(METHODS), "Knowledge to select.")
flags.DEFINE_float("threshold", 0.5, "Threshold, or its scale (smkd_p).", 0.0)
flags.DEFINE_float("sharpness", -8.0, "How fast the threshold moves (smkd_p).")
flags.DEFINE_bool("gate", True, "Drop contradicted labels (smkd_s, smkd_p).")
flags.DEFINE_float("distillation_weight", 1.0, "Weight of knowledge.", 0.0)
flags.DEFINE_enum("target", "none", list(TARGETS), "Label correction.")
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
        examples.images[keep],
        labels.noisy_labels[keep],
        labels.clean_labels[keep],
        (test.images[held], test.labels[held]),
    )


def write_whole(path, write):
    """Have a file written whole or not at all, as a resumed run reads it."""
    partial = path.with_name(f"partial{path.suffix}")
    write(partial)
    os.replace(partial, path)


def make_peer(backbone, blocks, num_classes):
    filters, strides, block_type, enlargement = PEERS[FLAGS.peers]
    network = backbone(
        stackwise_filters=filters,
        stackwise_blocks=[blocks] * len(filters),
        stackwise_strides=strides,
        block_type=block_type,
        include_rescaling=False,
        input_shape=(32 * enlargement, 32 * enlargement, 3),
    )
    for layer in network.layers:
        # The default averages over hundreds of steps, long for short runs.
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.UpSampling2D(enlargement),
            # Layers of Keras only, so that the saved file needs no keras-cv.
            keras.Model(network.input, network.output),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(num_classes),
        ]
    )


def make_gate():
    """Return what drops labels that selected knowledge contradicts."""
    if FLAGS.gate and FLAGS.method in ("smkd_s", "smkd_p"):
        return keras_smkd.gates.LabelGate()
    return None


def make_model(num_classes, total_steps):
    # Not above: it imports TensorFlow, which takes seconds.
    import keras_cv

    keras.utils.set_random_seed(FLAGS.seed)
    first_blocks = 1 if FLAGS.peers == "small" else 2
    model = keras_smkd.SelectiveMutualDistillation(
        [
            make_peer(
                keras_cv.models.ResNetBackbone, first_blocks, num_classes
            ),
            make_peer(keras_cv.models.ResNetV2Backbone, 2, num_classes),
        ],
        target=TARGETS[FLAGS.target](),
        gate=make_gate(),
        distillation_weight=FLAGS.distillation_weight,
    )
    schedule = keras.optimizers.schedules.CosineDecay(
        FLAGS.learning_rate, total_steps
    )
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


class Stopwatch(keras.callbacks.Callback):
    """Adds to the logs the seconds of each epoch, tests included."""

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["seconds"] = time.perf_counter() - self.start


class SaveEpoch(keras.callbacks.Callback):
    """Saves the model after each epoch, and says so when it is saved."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        self.model.save(self.path)
        print(
            f"epoch {epoch + 1}/{FLAGS.epochs}: loss {logs['loss']:.3f}, "
            f"ensemble test accuracy {100 * logs['val_accuracy']:.1f} %, "
            f"{logs['seconds']:.1f} s",
            flush=True,
        )


def train(folder, images, noisy_labels, clean_labels, test_data):
    """Train from where the folder's run stands to the last epoch."""
    saved, log = folder / "model.keras", folder / "log.csv"
    steps = -(-len(images) // FLAGS.batch_size)
    if saved.exists():
        # With its optimizer, and its step in the schedules.
        model = keras.saving.load_model(saved)
    else:
        num_classes = int(FLAGS.dataset.removeprefix("cifar"))
        model = make_model(num_classes, FLAGS.epochs * steps)
    done = model.epoch
    if log.exists():
        # An interruption may fall between a line's writing and the saving.
        lines = log.read_text().splitlines(keepends=True)
        kept = "".join(lines[: done + 1 if done else 0])
        write_whole(log, lambda path: path.write_text(kept))
    model.fit(
        data.make_pipeline(
            images,
            noisy_labels,
            batch_size=FLAGS.batch_size,
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
            METHODS[FLAGS.method](),
            callbacks.NoiseMonitor(
                data.make_pipeline(images, noisy_labels, batch_size=256),
                noisy_labels,
                clean_labels,
            ),
            Stopwatch(),
            keras.callbacks.CSVLogger(log, append=True),
            SaveEpoch(saved),
        ],
    )
    return model


def read_log(path):
    """Return the epochs of all sittings: `{name: [value, ...]}`."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def print_table(log):
    print(
        "\nTest accuracy in %, last epoch (best epoch, chosen on the test "
        "set); wrong labels memorised by\nthe ensemble in %; knowledge "
        "selected in the first, middle and last epoch in %.\n"
    )
    names = ("val_peer_0_accuracy", "val_peer_1_accuracy", "val_accuracy")
    accuracies = [
        f"{100 * log[name][-1]:5.1f} ({100 * max(log[name]):4.1f})"
        for name in names
    ]
    rates = log["selection_rate"]
    selected = "/".join(
        f"{100 * rates[k]:.0f}" for k in (0, len(rates) // 2, -1)
    )
    memorized = f"{100 * log['memorization'][-1]:.1f}"
    print(
        f"{'method':<14}{'peer 0':>14}{'peer 1':>14}{'ensemble':>14}"
        f"{'memorised':>11}{'selected':>13}{'seconds':>9}\n"
        f"{FLAGS.method:<14}{accuracies[0]:>14}{accuracies[1]:>14}"
        f"{accuracies[2]:>14}{memorized:>11}{selected:>13}"
        f"{sum(log['seconds']):>9.1f}"
    )


def save_figure(log, path):
    panels = {
        "val_accuracy": "ensemble test accuracy",
        "memorization": "wrong labels memorised",
        "threshold": "threshold",
        "selection_rate": "knowledge selected",
        "selection_precision": "selected knowledge that is right",
    }
    figure, axes = plt.subplots(
        1, len(panels), figsize=(16, 3.2), layout="constrained"
    )
    for axis, (name, title) in zip(axes, panels.items(), strict=True):
        axis.plot(np.arange(1, len(log[name]) + 1), log[name], marker=".")
        axis.set(title=title, xlabel="epoch")
    figure.savefig(path, dpi=120)


def main(_):
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
    save_figure(log, folder / "run.png")
    print(f"\nThe course of the training is drawn in {folder / 'run.png'}.")
    if FLAGS.export_dir:
        keras_smkd.export(model, FLAGS.export_dir)
        print(f"The peers and the ensemble are exported to {FLAGS.export_dir}.")


if __name__ == "__main__":
    app.run(main)
