"""How well wrong labels are found: the report against other ways to find them.

    KERAS_BACKEND=jax python benchmarks/suspects/run.py --dataset digits \
        --out benchmarks/suspects/results/digits.jsonl
    python benchmarks/suspects/run.py --dataset digits --table \
        --out benchmarks/suspects/results/digits.jsonl

One line of JSON for each data set, noise, seed and finder; what is in the file
already is not run again. `--table` prints means over the seeds and runs none.

All see the same training examples and their noisy labels, and nothing else:

| finder | what ranks the labels |
|---|---|
| `posterior` | `report.suspicious_labels` of two peers by |
| | `methods.posterior_smkd`, all defaults |
| `smkd` | the same of two peers by `SelectiveMutualDistillation` with |
| | `ProgressiveThreshold()`, by the rule `"disagreement"` |
| `small_loss` | the cross entropy of one network, in its last epoch |
| `aum` | the area under the margin of that network: label's logit minus the |
| | largest other, mean over the epochs |
| `cleanlab` | the same network, cross-validated in five folds |
| `cleanlab_knn` | ten nearest neighbours, cross-validated in five folds |
| `cleanlab_svc` | a support vector classifier, cross-validated in five folds |

Those of cleanlab are ranked by its normalised margin and selected by
`find_label_issues`; the first two are selected where another class is more
probable than the label. The others name no threshold, and select nothing.
"""

import collections
import contextlib
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

if os.environ["KERAS_BACKEND"] == "torch":
    # Before TensorFlow: the other order can crash.
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401

# Its data, noise and networks.
sys.path.append(str(pathlib.Path(__file__).parents[1] / "robustness"))

import data
import keras
import networks
import numpy as np
import pools
from absl import app
from absl import flags
from absl import logging
from sklearn import calibration
from sklearn import metrics
from sklearn import model_selection
from sklearn import neighbors
from sklearn import svm

import keras_smkd
from keras_smkd import report

FINDERS = (
    "posterior",
    "smkd",
    "small_loss",
    "aum",
    "cleanlab",
    "cleanlab_knn",
    "cleanlab_svc",
)
FOLDS = 5
DEFAULTS = {
    "digits": {"net": "mlp_256", "epochs": 100, "batch_size": 64},
    "fashion": {"net": "mlp_256", "epochs": 20, "batch_size": 128},
    "cifar10": {"net": "patch_32", "epochs": 20, "batch_size": 64},
}
COLUMNS = (
    "average_precision",
    "precision",
    "recall",
    "suggestion_accuracy",
    "noise_rate",
    "seconds",
)

FLAGS = flags.FLAGS
flags.DEFINE_enum("dataset", "digits", list(DEFAULTS), "Data set.")
flags.DEFINE_list(
    "noises",
    ["symmetric:0.4", "asymmetric:0.4", "pair:0.4", "instance:0.4"],
    "Kinds of noise and their rates; human:worst for cifar10.",
)
flags.DEFINE_list("finders", list(FINDERS), "Which of them to run.")
flags.DEFINE_integer("seeds", 3, "Runs of each.", lower_bound=1)
flags.DEFINE_integer(
    "examples", 0, "Examples of the data set, 0 for all.", lower_bound=0
)
flags.DEFINE_string("out", None, "JSON lines.", required=True)
flags.DEFINE_bool("table", False, "Print the means, and run nothing.")
flags.DEFINE_string("fashion_dir", None, "Folder of Fashion-MNIST's files.")
flags.DEFINE_string("data_dir", None, "TFDS's folder, for cifar10.")
flags.DEFINE_string("human_labels", None, "CIFAR-10N's file.")


def main(argv):
    del argv
    path = pathlib.Path(FLAGS.out)
    lines = path.read_text().splitlines() if path.exists() else []
    done = [json.loads(line) for line in lines]
    if FLAGS.table:
        print_table(done)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {key_of(line) for line in done}
    for noise in FLAGS.noises:
        for seed in range(FLAGS.seeds):
            wanted = {"dataset": FLAGS.dataset, "noise": noise, "seed": seed}
            left = [
                finder
                for finder in FLAGS.finders
                if key_of(wanted | {"finder": finder}) not in known
            ]
            for line in run(wanted, left) if left else ():
                logging.info("%s", line)
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")


def key_of(line):
    return tuple(line[name] for name in ("dataset", "noise", "seed", "finder"))


def run(wanted, finders):
    settings = DEFAULTS[wanted["dataset"]]
    places = pools.Places(
        data_dir=FLAGS.data_dir,
        fashion_dir=FLAGS.fashion_dir,
        human_labels=FLAGS.human_labels,
    )
    # All there are but one, which is the least that it can test on.
    pool = pools.load_pool(wanted["dataset"], FLAGS.examples, 1, places)
    noisy = data.make_labels(
        wanted["dataset"], pool, wanted["noise"], wanted["seed"], places
    )
    x = pool.images.astype("float32") / pool.largest
    labels = noisy.noisy_labels
    is_wrong = labels != noisy.clean_labels
    for finder in finders:
        keras.utils.set_random_seed(wanted["seed"])
        start = time.perf_counter()
        found = find(finder, x, labels, settings, wanted["seed"])
        seconds = time.perf_counter() - start
        yield {
            **wanted,
            "finder": finder,
            **settings,
            "examples": len(x),
            "realised_noise_rate": float(is_wrong.mean()),
            "seconds": seconds,
            "backend": keras.backend.backend(),
            **measured(found, is_wrong, noisy.clean_labels),
        }


def measured(found, is_wrong, clean_labels):
    """Return how well labels were found.

    Args:
        found: Arrays: `score`, the larger the more suspicious; `selected` and
            `suggestion`, or neither.
        is_wrong: `(examples,)` booleans.
        clean_labels: `(examples,)`.
    """
    line = {
        "average_precision": metrics.average_precision_score(
            is_wrong, found["score"]
        )
    }
    if "selected" in found:
        chosen = found["selected"]
        right = found["suggestion"] == clean_labels
        line |= {
            "precision": float(is_wrong[chosen].mean()),
            "recall": float(chosen[is_wrong].mean()),
            "suggestion_accuracy": float(right[is_wrong].mean()),
            "noise_rate": float(chosen.mean()),
        }
    return line


def find(finder, x, labels, settings, seed):
    if finder in ("smkd", "posterior"):
        return by_report(finder, x, labels, settings)
    if finder in ("small_loss", "aum"):
        return by_one_network(finder, x, labels, settings)
    if finder == "cleanlab":
        probs = cross_validated(x, labels, settings, seed)
    else:
        flat = x.reshape(len(x), -1)
        estimator = (
            neighbors.KNeighborsClassifier(10)
            if finder == "cleanlab_knn"
            else calibration.CalibratedClassifierCV(svm.SVC(), ensemble=False)
        )
        probs = model_selection.cross_val_predict(
            estimator, flat, labels, cv=FOLDS, method="predict_proba"
        )
    return by_cleanlab(labels, probs)


def network(x, settings):
    return networks.make_network(settings["net"], x.shape[1:], 10)


def by_report(finder, x, labels, settings):
    peers = [network(x, settings), network(x, settings)]
    if finder == "smkd":
        model = keras_smkd.SelectiveMutualDistillation(peers)
        callbacks = [keras_smkd.callbacks.ProgressiveThreshold()]
    else:
        model = keras_smkd.methods.posterior_smkd(peers, len(x))
        callbacks = []
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(
        x,
        labels,
        batch_size=settings["batch_size"],
        epochs=settings["epochs"],
        verbose=0,
        callbacks=callbacks,
    )
    rule = "disagreement" if finder == "smkd" else "posterior"
    table = report.suspicious_labels(model, x, labels, rule=rule)
    in_order = table[np.argsort(table.index)]
    return {
        name: getattr(in_order, name)
        for name in ("score", "selected", "suggestion")
    }


class Margins(keras.callbacks.Callback):
    """Adds up, over the epochs, each label's logit minus the largest other."""

    def __init__(self, x, labels):
        super().__init__()
        self.x, self.labels = x, labels
        self.total = 0.0

    def on_epoch_end(self, epoch, logs=None):
        logits = self.model.predict(self.x, batch_size=1024, verbose=0)
        rows = np.arange(len(logits))
        own = logits[rows, self.labels].copy()
        logits[rows, self.labels] = -np.inf
        self.total = self.total + own - logits.max(axis=1)


def trained(x, labels, settings, callbacks=()):
    model = network(x, settings)
    model.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(
        x,
        labels,
        batch_size=settings["batch_size"],
        epochs=settings["epochs"],
        verbose=0,
        callbacks=list(callbacks),
    )
    return model


def log_softmax(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def by_one_network(finder, x, labels, settings):
    margins = Margins(x, labels)
    model = trained(x, labels, settings, [margins] if finder == "aum" else [])
    if finder == "aum":
        return {"score": -margins.total}
    log_probs = log_softmax(model.predict(x, batch_size=1024, verbose=0))
    return {"score": -log_probs[np.arange(len(x)), labels]}


def cross_validated(x, labels, settings, seed):
    probs = np.zeros((len(x), 10))
    folds = model_selection.StratifiedKFold(
        FOLDS, shuffle=True, random_state=seed
    )
    for train, held in folds.split(x, labels):
        model = trained(x[train], labels[train], settings)
        logits = model.predict(x[held], batch_size=1024, verbose=0)
        probs[held] = np.exp(log_softmax(logits))
    return probs


def by_cleanlab(labels, probs):
    from cleanlab import filter as cleanlab_filter
    from cleanlab import rank

    quality = rank.get_label_quality_scores(
        labels, probs, method="normalized_margin"
    )
    return {
        "score": -quality,
        "selected": cleanlab_filter.find_label_issues(labels, probs, n_jobs=1),
        "suggestion": probs.argmax(axis=1),
    }


def print_table(lines):
    groups = collections.defaultdict(list)
    for line in lines:
        groups[line["dataset"], line["noise"], line["finder"]].append(line)
    print("| noise | finder |", " | ".join(COLUMNS).replace("_", " "), "|")
    print("|---|---|" + "---|" * len(COLUMNS))
    for (_, noise, finder), runs in groups.items():
        cells = []
        for name in COLUMNS:
            values = [run[name] for run in runs if name in run]
            digits = 1 if name == "seconds" else 3
            cells.append(f"{np.mean(values):.{digits}f}" if values else "")
        print(f"| {noise} | {finder} |", " | ".join(cells), "|")


if __name__ == "__main__":
    app.run(main)
