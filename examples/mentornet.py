"""MentorNet: a small network that learns to tell wrong labels by their losses.

scikit-learn's digits, 40 % of the labels wrong. A part of 300 examples has
clean labels, which are used to make an exercise book: labels are made wrong
there, too, a plain network is trained on them, and what its losses looked like
at each epoch, and whether the label was right, is what the mentor learns from.
Then a network is trained on the other 900 examples, whose labels nobody has
checked, in three ways:

    cross entropy   every label counts
    predefined      labels count by a rule of their loss (MentorNet PD)
    mentor          labels count by what the mentor says of their loss

Test accuracy and share of the wrong labels that the network learnt, in %, mean
over seeds 0 to 2:

    backend     method         last (best)   spread  memorised
    tensorflow  cross entropy  76.1 (91.2)      2.4       49.1
                predefined     93.0 (94.5)      1.1        7.2
                mentor         91.6 (93.8)      0.7       10.4
    jax         cross entropy  77.8 (93.2)      1.9       43.7
                predefined     91.3 (95.0)      1.6       11.5
                mentor         91.5 (94.9)      1.5       11.3
    torch       cross entropy  78.1 (93.0)      1.4       41.2
                predefined     91.9 (95.7)      1.3       11.4
                mentor         91.2 (95.3)      0.5       11.4

So the mentor was as good as the rule, and not better: it spares one the choice
of a rule, at the price of clean labels. With a learning rate of 0.001, at which
the network alone learnt no more than a tenth of the wrong labels by heart, the
mentor gained 4.5 points in the last epoch on TensorFlow, and lost 1.7 on torch.
One to two minutes on two CPU cores; --quick takes about 15 seconds:

    KERAS_BACKEND=torch python examples/mentornet.py
"""

import contextlib
import os
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On a busy machine more threads make torch slower, not faster.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before TensorFlow: the other order can crash.
with contextlib.suppress(ImportError):
    import torch  # noqa: F401

import keras
import numpy as np
from absl import app
from absl import flags
from absl import logging
from sklearn import datasets
from sklearn import model_selection

import keras_smkd
from keras_smkd import gates
from keras_smkd import noise

NUM_CLASSES = 10
CLEAN_SIZE, TEST_SIZE = 300, 597
NOISE, NOISE_RATE = "symmetric_excluding_true", 0.4
BATCH_SIZE = 32
LEARNING_RATE = 0.003
# Of the loss; the share of the labels that are right.
PERCENTILE, DECAY = 0.6, 0.5
METHODS = ("cross entropy", "predefined", "mentor")

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 60, "Epochs of each training.", lower_bound=1)
flags.DEFINE_integer("seeds", 3, "Number of seeds: 0, 1, ...", lower_bound=1)
flags.DEFINE_bool("quick", False, "One seed and 4 epochs, to see it run.")


def load_digits(seed):
    """Return `(x, y)` of the small clean part, the large part, the test."""
    x, y = datasets.load_digits(return_X_y=True)
    x = (x / 16.0).astype("float32")
    x, x_test, y, y_test = model_selection.train_test_split(
        x, y, test_size=TEST_SIZE, random_state=seed, stratify=y
    )
    x, x_clean, y, y_clean = model_selection.train_test_split(
        x, y, test_size=CLEAN_SIZE, random_state=seed, stratify=y
    )
    return (x_clean, y_clean), (x, y), (x_test, y_test)


def make_noisy(clean_labels, seed):
    return noise.make_noisy(
        clean_labels, NOISE, NOISE_RATE, num_classes=NUM_CLASSES, seed=seed
    )


def make_peer():
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(NUM_CLASSES),
        ]
    )


def compiled(gate):
    """Return a model of one peer."""
    model = keras_smkd.PeerLearning([make_peer()], gate=gate)
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


class ExerciseBook(keras.callbacks.Callback):
    """Writes down, at each epoch, what a mentor would see of the losses."""

    def __init__(self, x, labels, epochs):
        super().__init__()
        self.x, self.labels, self.epochs = x, labels, epochs
        self.average = None
        self.pages = []

    def on_epoch_begin(self, epoch, logs=None):
        probs = self.model.predict(self.x, verbose=0)
        losses = -np.log(probs[np.arange(len(probs)), self.labels] + 1e-7)
        now = np.quantile(losses, PERCENTILE)
        if self.average is None:
            self.average = now
        self.average = DECAY * self.average + (1 - DECAY) * now
        features = gates.curriculum_features(
            losses, losses - self.average, np.float32(epoch / self.epochs)
        )
        self.pages.append(keras.ops.convert_to_numpy(features))


def train_mentor(x, clean_labels, epochs, seed):
    """Return a mentor, trained on an ordinary training of a small part."""
    labels = make_noisy(clean_labels, seed + 1000)
    book = ExerciseBook(x, labels.noisy_labels, epochs)
    compiled(gate=None).fit(
        x,
        labels.noisy_labels,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=0,
        callbacks=[book],
    )
    is_right = (labels.noisy_labels == clean_labels).astype("float32")
    mentor = gates.mentor_network()
    mentor.compile(
        keras.optimizers.Adam(0.01),
        "binary_crossentropy",
        metrics=["accuracy"],
    )
    log = mentor.fit(
        np.concatenate(book.pages),
        np.tile(is_right, len(book.pages))[:, None],
        batch_size=256,
        epochs=10,
        verbose=0,
    )
    print(
        f"seed {seed}: the mentor is right about "
        f"{100 * log.history['accuracy'][-1]:.1f} % of its exercises.",
        flush=True,
    )
    return mentor


def make_gate(method, mentor):
    return {
        "cross entropy": None,
        "predefined": gates.Curriculum("predefined", PERCENTILE, DECAY),
        "mentor": gates.LearnedCurriculum(mentor, PERCENTILE, DECAY),
    }[method]


def train(method, mentor, x, labels, test_data, epochs):
    """Train one network by a method; return the numbers of the report."""
    model = compiled(make_gate(method, mentor))
    start = time.perf_counter()
    accuracies = model.fit(
        x,
        labels.noisy_labels,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        validation_data=test_data,
        verbose=0,
    ).history["val_accuracy"]
    memorised = keras_smkd.metrics.memorization_rate(
        labels.noisy_labels,
        labels.clean_labels,
        model.predict(x, verbose=0),
    )
    seconds = time.perf_counter() - start
    return accuracies[-1], max(accuracies), memorised, seconds


def main(_):
    logging.set_verbosity(logging.WARNING)
    seeds, epochs = (1, 4) if FLAGS.quick else (FLAGS.seeds, FLAGS.epochs)
    print(
        f"{keras.backend.backend()}: scikit-learn's digits, {CLEAN_SIZE} clean "
        f"labels, {epochs} epochs, {seeds} seed(s)."
    )
    results = {method: [] for method in METHODS}
    for seed in range(seeds):
        (x_clean, y_clean), (x, y), test_data = load_digits(seed)
        labels = make_noisy(y, seed)
        keras.utils.set_random_seed(seed)
        mentor = train_mentor(x_clean, y_clean, epochs, seed)
        for method in METHODS:
            keras.utils.set_random_seed(seed)
            results[method].append(
                train(method, mentor, x, labels, test_data, epochs)
            )
    print(
        "\nTest accuracy in %, last epoch (best epoch, chosen on the test "
        "set), mean over the seeds;\nstandard deviation of the last; share of "
        "the wrong labels learnt, in %.\n"
    )
    print(f"{'method':<14}{'last (best)':>14}{'spread':>8}{'memorised':>11}")
    for method, values in results.items():
        last, best, memorised, seconds = np.mean(values, axis=0)
        spread = np.std([value[0] for value in values])
        print(
            f"{method:<14}{f'{100 * last:.1f} ({100 * best:.1f})':>14}"
            f"{100 * spread:8.1f}{100 * memorised:11.1f}{seconds:8.1f} s"
        )


if __name__ == "__main__":
    app.run(main)
