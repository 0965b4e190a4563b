"""Texts with 30 % wrong labels: averaged and convolved words as peers.

Nothing in keras_smkd is made for images. Here the inputs are texts on one of
six topics, which the script writes: every topic has frequent words of its own,
but three words of four are drawn alike for all. (Naive Bayes, given clean
labels, is right for 93 to 95 %.) Each topic is mistaken for the next one. Two
networks of different kinds, one averaging word vectors and one convolving them
and keeping the maximum, are trained from the same initial weights, on the same
noisy labels and for the same number of epochs:

    independent      threshold 0: no knowledge passes between the peers
    all knowledge    threshold above 1: deep mutual learning
    SMKD-P           progressive threshold, confident knowledge first

The ensemble's test accuracy, mean over seeds 0 to 2, which made 29.0 to 31.2 %
of the labels wrong, and share of the wrong labels that it learnt, in %:

    backend     method         last (best)   spread  memorised
    tensorflow  independent    72.4 (87.3)     0.9       92.3
                all knowledge  83.2 (89.8)     0.9       47.2
                SMKD-P         81.3 (87.4)     1.0       54.7
    jax         independent    72.5 (87.9)     2.6       92.0
                all knowledge  83.5 (90.5)     1.0       47.6
                SMKD-P         80.1 (87.9)     2.1       57.0
    torch       independent    73.4 (87.9)     1.7       92.0
                all knowledge  83.5 (90.8)     0.3       45.2
                SMKD-P         80.2 (88.0)     1.6       56.1

So SMKD-P gained 7 to 9 points over independent peers in the last epoch, and
deep mutual learning 10 to 11. Stopping in time would have gained more than
either. One to two minutes of CPU time, 3 to 6 on two shared cores of a busy
machine; --quick took 20 to 60 seconds there:

    KERAS_BACKEND=tensorflow python examples/text.py
"""

import collections
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

import keras_smkd
from keras_smkd import callbacks
from keras_smkd import noise

NUM_CLASSES = 6
TRAIN_SIZE, TEST_SIZE = 2000, 900
# What is written: different words, words of a text, share of topical ones.
NUM_WORDS, SHORTEST, LONGEST, TOPICAL = 1000, 20, 40, 0.25
# What is read: so many of the commonest words, numbered from 2.
VOCABULARY_SIZE, PADDING, UNKNOWN = 600, 0, 1
# Each topic is mistaken for the next one.
NOISE, NOISE_RATE = "pair_flip", 0.3
BATCH_SIZE = 64
LEARNING_RATE = 0.005
DISTILLATION_WEIGHT = 4.0
METHODS = {
    "independent": lambda: callbacks.StaticThreshold(0.0),
    "all knowledge": lambda: callbacks.StaticThreshold(2.0),
    "SMKD-P": lambda: callbacks.ProgressiveThreshold(0.5, sharpness=-8.0),
}
# Of the first and the second peer, and of the ensemble.
ACCURACIES = ("val_peer_0_accuracy", "val_peer_1_accuracy", "val_accuracy")

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 20, "Epochs of each training.", lower_bound=1)
flags.DEFINE_integer("seeds", 3, "Number of seeds: 0, 1, ...", lower_bound=1)
flags.DEFINE_bool("quick", False, "One seed and 2 epochs, to see it run.")


def write_texts(seed):
    """Return texts and their topics, as many of each."""
    generator = np.random.default_rng(seed)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = np.array([a + b for a in syllables for b in syllables])
    words = generator.permutation(words)[:NUM_WORDS]
    # Few words are frequent, as in any language; each topic has its own few.
    frequencies = 1.0 / np.arange(1, NUM_WORDS + 1)
    frequencies /= frequencies.sum()
    topics = [generator.permutation(words) for _ in range(NUM_CLASSES)]
    labels = np.arange(TRAIN_SIZE + TEST_SIZE) % NUM_CLASSES
    texts = []
    for label in labels:
        size = generator.integers(SHORTEST, LONGEST, endpoint=True)
        places = generator.choice(NUM_WORDS, size, p=frequencies)
        topical = generator.random(size) < TOPICAL
        drawn = np.where(topical, topics[label][places], words[places])
        texts.append(" ".join(drawn))
    return texts, labels


def load_texts(seed):
    """Return `(x, y)` for training and for testing; `x` word numbers."""
    texts, labels = write_texts(seed)
    counts = collections.Counter(" ".join(texts[:TRAIN_SIZE]).split())
    common = counts.most_common(VOCABULARY_SIZE - 2)
    numbers = {word: i for i, (word, _) in enumerate(common, 2)}
    x = np.full((len(texts), LONGEST), PADDING, "int32")
    for row, text in zip(x, texts, strict=True):
        found = [numbers.get(word, UNKNOWN) for word in text.split()]
        row[: len(found)] = found
    return (
        (x[:TRAIN_SIZE], labels[:TRAIN_SIZE]),
        (x[TRAIN_SIZE:], labels[TRAIN_SIZE:]),
    )


def peer(*layers):
    return keras.Sequential(
        [
            keras.Input((LONGEST,), dtype="int32"),
            *layers,
            keras.layers.Dense(NUM_CLASSES),
        ]
    )


def make_peers():
    """Return a peer that averages words and one that convolves them."""
    return [
        peer(
            # The mask leaves the padding out of the average.
            keras.layers.Embedding(VOCABULARY_SIZE, 32, mask_zero=True),
            keras.layers.GlobalAveragePooling1D(),
        ),
        peer(
            keras.layers.Embedding(VOCABULARY_SIZE, 16),
            keras.layers.Conv1D(32, 3, activation="relu"),
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dropout(0.5),
        ),
    ]


def train(method, x, labels, test_data, epochs, seed):
    """Train two peers by one method; return the numbers of the report."""
    keras.utils.set_random_seed(seed)
    model = keras_smkd.SelectiveMutualDistillation(
        make_peers(), gate=None, distillation_weight=DISTILLATION_WEIGHT
    )
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    start = time.perf_counter()
    history = model.fit(
        x,
        labels.noisy_labels,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        validation_data=test_data,
        verbose=0,
        callbacks=[METHODS[method]()],
    ).history
    return {
        "seconds": time.perf_counter() - start,
        "last": [history[name][-1] for name in ACCURACIES],
        "best": [max(history[name]) for name in ACCURACIES],
        "memorised": keras_smkd.metrics.memorization_rate(
            labels.noisy_labels,
            labels.clean_labels,
            model.predict(x, verbose=0),
        ),
    }


def table_row(method, results):
    """Return one line: means over the seeds, and the ensemble's spread."""
    mean = {
        name: np.mean([result[name] for result in results], axis=0)
        for name in results[0]
    }
    accuracies = "".join(
        f"{f'{100 * last:.1f} ({100 * best:.1f})':>14}"
        for last, best in zip(mean["last"], mean["best"], strict=True)
    )
    spread = np.std([result["last"][-1] for result in results])
    return (
        f"{method:<14}{accuracies}{100 * spread:8.1f}"
        f"{100 * mean['memorised']:11.1f}{mean['seconds']:9.1f}"
    )


def main(_):
    logging.set_verbosity(logging.WARNING)
    seeds, epochs = (1, 2) if FLAGS.quick else (FLAGS.seeds, FLAGS.epochs)
    print(
        f"{keras.backend.backend()}: texts on {NUM_CLASSES} topics, "
        f"{TEST_SIZE} to test on, {epochs} epochs, {seeds} seed(s)."
    )
    results = {method: [] for method in METHODS}
    for seed in range(seeds):
        (x, clean_labels), test_data = load_texts(seed)
        labels = noise.make_noisy(
            clean_labels, NOISE, NOISE_RATE, num_classes=NUM_CLASSES, seed=seed
        )
        print(labels, flush=True)
        for method in METHODS:
            results[method].append(
                train(method, x, labels, test_data, epochs, seed)
            )
    print(
        "\nTest accuracy in %, last epoch (best epoch, chosen on the test "
        "set), mean over the seeds;\nstandard deviation of the ensemble's "
        "last; wrong labels memorised by it in %; seconds.\n\n"
        f"{'method':<14}{'average peer':>14}{'conv peer':>14}{'ensemble':>14}"
        f"{'spread':>8}{'memorised':>11}{'seconds':>9}"
    )
    for method in METHODS:
        print(table_row(method, results[method]))


if __name__ == "__main__":
    app.run(main)
