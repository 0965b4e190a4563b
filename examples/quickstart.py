"""Handwritten digits with 40 % wrong labels: who learns them by heart?

Two small peers are trained five times from the same initial weights, on the
same noisy labels and for the same number of epochs:

    independent       threshold 0: no knowledge passes between the peers
    all knowledge     threshold above 1: deep mutual learning
    SMKD-P            progressive threshold, confident knowledge first
    SMKD-P, gated     the same, and labels that selected knowledge contradicts
                      are dropped: `SelectiveMutualDistillation` by default
    posterior labels  labels weighed against what the other peer has come to
                      believe: `methods.posterior_smkd`

It prints one table and saves one figure. The data are scikit-learn's 1,797
real 8x8 digits, so nothing is downloaded. Under 90 seconds on two CPU cores:

    KERAS_BACKEND=tensorflow python examples/quickstart.py
"""

import contextlib
import os
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
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
from sklearn import datasets
from sklearn import model_selection

import keras_smkd
from keras_smkd import callbacks
from keras_smkd import methods
from keras_smkd import noise

matplotlib.use("Agg")
from matplotlib import pyplot as plt

NOISE_RATE = 0.4
NUM_CLASSES = 10
BATCH_SIZE = 64


def selective(threshold, **settings):
    """Return what makes a method of the paper's kind, and its callbacks."""
    return lambda peers, size: (
        keras_smkd.SelectiveMutualDistillation(peers, **settings),
        [threshold()],
    )


METHODS = {
    "independent": selective(lambda: callbacks.StaticThreshold(0.0), gate=None),
    "all knowledge": selective(
        lambda: callbacks.StaticThreshold(2.0), gate=None
    ),
    "SMKD-P": selective(callbacks.ProgressiveThreshold, gate=None),
    "SMKD-P, gated": selective(callbacks.ProgressiveThreshold),
    "posterior labels": lambda peers, size: (
        methods.posterior_smkd(peers, size),
        [],
    ),
}

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 30, "Epochs of each method.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the split, noise and weights.")
flags.DEFINE_string("figure", "quickstart.png", "Where to save the figure.")


def load_digits(seed):
    """Return `(x, y)` for training and for testing; `x` in [0, 1]."""
    x, y = datasets.load_digits(return_X_y=True)
    x = (x / 16.0).astype("float32").reshape(-1, 8, 8, 1)
    x_train, x_test, y_train, y_test = model_selection.train_test_split(
        x, y, test_size=500, random_state=seed, stratify=y
    )
    return (x_train, y_train), (x_test, y_test)


def dense_peer():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(NUM_CLASSES),
        ]
    )


def conv_peer():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(NUM_CLASSES),
        ]
    )


def train(method, train_data, clean_labels, test_data):
    """Train two peers by one method; return the history and the seconds."""
    x, noisy_labels = train_data
    keras.utils.set_random_seed(FLAGS.seed)
    model, own_callbacks = METHODS[method]([dense_peer(), conv_peer()], len(x))
    model.compile(
        keras.optimizers.Adam(),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    start = time.perf_counter()
    history = model.fit(
        x,
        noisy_labels,
        batch_size=BATCH_SIZE,
        epochs=FLAGS.epochs,
        validation_data=test_data,
        verbose=0,
        callbacks=[
            *own_callbacks,
            callbacks.NoiseMonitor(x, noisy_labels, clean_labels),
        ],
    ).history
    return history, time.perf_counter() - start


def table_row(method, history, seconds):
    """Return one line: last (and best) test accuracies, and what was learnt."""
    names = ("val_peer_0_accuracy", "val_peer_1_accuracy", "val_accuracy")
    accuracies = [
        f"{100 * history[name][-1]:5.1f} ({100 * max(history[name]):4.1f})"
        for name in names
    ]
    rates = history.get("selection_rate")
    selected = (
        "-"
        if rates is None
        else "/".join(f"{100 * rates[k]:.0f}" for k in (0, len(rates) // 2, -1))
    )
    memorized = f"{100 * history['memorization'][-1]:.1f}"
    return (
        f"{method:<17}{accuracies[0]:>14}{accuracies[1]:>14}"
        f"{accuracies[2]:>14}{memorized:>11}{selected:>13}{seconds:>9.1f}"
    )


def save_figure(histories, path):
    """Draw the course of the training, one line per method."""
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
        for method, history in histories.items():
            if name in history:
                epochs = np.arange(1, len(history[name]) + 1)
                axis.plot(epochs, history[name], label=method)
        axis.set(title=title, xlabel="epoch")
    axes[0].legend()
    figure.savefig(path, dpi=120)


def main(_):
    logging.set_verbosity(logging.WARNING)
    (x, clean_labels), test_data = load_digits(FLAGS.seed)
    noisy_labels = noise.corrupt_labels(
        clean_labels,
        noise.symmetric_excluding_true(NOISE_RATE, NUM_CLASSES),
        seed=FLAGS.seed,
    )
    rate = noise.realized_noise_rate(clean_labels, noisy_labels)
    print(
        f"{keras.backend.backend()}: {len(x)} digits to train on, "
        f"{100 * rate:.1f} % of their labels wrong, {len(test_data[0])} to "
        f"test on, {FLAGS.epochs} epochs, seed {FLAGS.seed}."
    )
    print(
        "Test accuracy in %, last epoch (best epoch, chosen on the test set); "
        "wrong labels memorised by\nthe ensemble in %; knowledge selected in "
        "the first, middle and last epoch in %.\n"
    )
    print(
        f"{'method':<17}{'dense peer':>14}{'conv peer':>14}{'ensemble':>14}"
        f"{'memorised':>11}{'selected':>13}{'seconds':>9}"
    )
    histories = {}
    for method in METHODS:
        history, seconds = train(
            method, (x, noisy_labels), clean_labels, test_data
        )
        histories[method] = history
        print(table_row(method, history, seconds), flush=True)
    save_figure(histories, FLAGS.figure)
    print(f"\nThe course of the training is drawn in {FLAGS.figure}.")


if __name__ == "__main__":
    app.run(main)
