"""Classifiers of scikit-learn on the same examples and labels, untuned.

    python benchmarks/robustness/classical.py --out runs --dataset digits \
        --seeds 21,22,23

A support vector machine (`svc`) and ten nearest neighbours (`knn`), as they
are, and on what cleanlab leaves of the training examples (`svc_pruned`,
`knn_pruned`: `CleanLearning`, five folds). Flags are those of `run.py`, of
which the network and its training are not used. The lines are as its lines,
with one epoch.
"""

import pathlib
import time
import warnings

import data
import numpy as np
import pools
import records
import run
from absl import app
from absl import flags
from cleanlab.classification import CleanLearning
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

FLAGS = flags.FLAGS
# What the examples and labels of a run depend on.
SETTINGS = (
    "dataset",
    "imbalance",
    "fresh_test",
    "examples",
    "test_examples",
    "batch_size",
)


def support_vectors():
    return SVC(random_state=0)


def neighbours():
    return KNeighborsClassifier(10)


def pruned(classifier):
    return CleanLearning(classifier, seed=0, cv_n_folds=5)


CLASSIFIERS = {
    "svc": support_vectors,
    # The cross-validation asks for probabilities.
    "svc_pruned": lambda: pruned(SVC(probability=True, random_state=0)),
    "knn": neighbours,
    "knn_pruned": lambda: pruned(neighbours()),
}


def execute(config, places):
    """Fit a classifier as a configuration says; return the record."""
    split = data.load(config, places)
    inputs = split.inputs.reshape(len(split.inputs), -1)
    train, _, test = split.sizes
    classifier = CLASSIFIERS[config["method"]]()
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        classifier.fit(inputs[:train], split.noisy_labels)
    found = np.asarray(classifier.predict(inputs[-test:]))
    accuracy = float(np.mean(found == split.test_labels))
    return {
        "config": config,
        "noise": split.recipe,
        "noise_rate": float(np.mean(split.noisy_labels != split.clean_labels)),
        "sizes": list(split.sizes),
        "epochs": {
            "epoch": [1],
            "test_peer": [accuracy],
            "test_ensemble": [accuracy],
        },
        "seconds": round(time.perf_counter() - start, 3),
    }


def main(_):
    places = pools.Places(FLAGS.data_dir, FLAGS.human_labels, FLAGS.fashion_dir)
    common = run.common_config()
    common = {name: common[name] for name in SETTINGS if name in common}
    configs = [
        {
            **common,
            "noise": noise,
            "method": method,
            "knobs": {},
            "seed": int(seed),
        }
        for noise in FLAGS.noises or run.NOISES
        for method in CLASSIFIERS
        for seed in FLAGS.seeds
    ]
    folder = pathlib.Path(FLAGS.out)
    done = records.read(records.files(folder))
    for config in records.left_to_run(configs, done, 0, 1):
        record = execute(config, places)
        records.append(folder / "runs.jsonl", record)
        print(run.describe(record), flush=True)


if __name__ == "__main__":
    app.run(main)
