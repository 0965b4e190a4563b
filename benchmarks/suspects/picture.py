"""Draws README's picture: the most suspicious labels of the digits.

    KERAS_BACKEND=jax python benchmarks/suspects/picture.py docs/suspects.png

All 1,797 digits, in half of the classes 40 % of the labels flipped to a class
that looks alike; two peers of one dense layer, 100 epochs, all else as
`methods.posterior_smkd` has it.
"""

import contextlib
import os
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if os.environ["KERAS_BACKEND"] == "torch":
    # Before TensorFlow: the other order can crash.
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401

import keras
import numpy as np
from sklearn import datasets

import keras_smkd
from keras_smkd import noise
from keras_smkd import report

FLIPS = {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}


def make_peer():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def main(path):
    keras.utils.set_random_seed(0)
    x, clean_labels = datasets.load_digits(return_X_y=True)
    images = (x.reshape(-1, 8, 8, 1) / 16.0).astype("float32")
    matrix = np.eye(10)
    for clean, wrong in FLIPS.items():
        matrix[clean, [clean, wrong]] = 0.6, 0.4
    noisy = noise.make_noisy_by_matrix(clean_labels, matrix, seed=0)
    model = keras_smkd.methods.posterior_smkd(
        [make_peer(), make_peer()], len(images)
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(
        images,
        noisy.noisy_labels,
        batch_size=64,
        epochs=100,
        verbose=0,
    )
    suspects = report.suspicious_labels(model, images, noisy.noisy_labels)
    report.plot_suspects(suspects, rows=2, columns=10).savefig(path, dpi=80)
    is_wrong = noisy.noisy_labels != clean_labels
    print(suspects)
    print(f"wrong: {is_wrong.sum()} of {len(is_wrong)}")
    print(
        f"of the suspects: {is_wrong[suspects.index][suspects.selected].sum()}"
    )


if __name__ == "__main__":
    main(sys.argv[1])
