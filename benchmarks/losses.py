"""What every loss and every target does with 40 % wrong labels, losers too.

    KERAS_BACKEND=torch python benchmarks/losses.py [--json losses.json]

scikit-learn's digits, 1,297 to train on and 500 to test on, symmetric noise of
rate 0.4; a dense layer of 256 units and Adam, for as many epochs as it takes
the cross entropy to memorise much of the noise. Every part has its default
settings; those that need a transition matrix are given the true one. Losses
train one plain Keras model, targets two peers that pass nothing on (their mean
is shown), and the last rows both together with passing on confident knowledge.

Three losses need a network that has learned something: they are shown from
scratch, and after the first quarter of the epochs with the cross entropy.
"""

import contextlib
import json
import os
import pathlib
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
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
from keras_smkd import callbacks
from keras_smkd import losses
from keras_smkd import metrics
from keras_smkd import noise
from keras_smkd import targets

NUM_CLASSES = 10
NOISE_RATE = 0.4
BATCH_SIZE = 64
LEARNING_RATE = 0.002
MATRIX = noise.symmetric_excluding_true(NOISE_RATE, NUM_CLASSES)

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 60, "Epochs of each run.", lower_bound=4)
flags.DEFINE_integer("seeds", 2, "Runs of each part.", lower_bound=1)
flags.DEFINE_string("only", "", "Only rows with this in their name.")
flags.DEFINE_string("json", "", "Where to write the table as JSON.")

LOSSES = {
    "cross entropy": lambda: keras.losses.SparseCategoricalCrossentropy(
        from_logits=True
    ),
    "GeneralizedCrossEntropy": losses.GeneralizedCrossEntropy,
    "TruncatedGeneralizedCrossEntropy": (
        losses.TruncatedGeneralizedCrossEntropy
    ),
    "MeanAbsoluteProbabilityError": losses.MeanAbsoluteProbabilityError,
    "SymmetricCrossEntropy": losses.SymmetricCrossEntropy,
    "ReverseCrossEntropy": losses.ReverseCrossEntropy,
    "NormalizedCrossEntropy": losses.NormalizedCrossEntropy,
    "NormalizedFocal": losses.NormalizedFocal,
    "ActivePassive: NCE + RCE": lambda **kwargs: losses.ActivePassive(
        losses.NormalizedCrossEntropy(**kwargs),
        losses.ReverseCrossEntropy(**kwargs),
        **kwargs,
    ),
    "ActivePassive: NCE + MAE": lambda **kwargs: losses.ActivePassive(
        losses.NormalizedCrossEntropy(**kwargs),
        losses.MeanAbsoluteProbabilityError(**kwargs),
        **kwargs,
    ),
    "ForwardCorrection": lambda **kwargs: losses.ForwardCorrection(
        MATRIX, **kwargs
    ),
    "BackwardCorrection": lambda **kwargs: losses.BackwardCorrection(
        MATRIX, **kwargs
    ),
    "ImportanceReweighting": lambda **kwargs: losses.ImportanceReweighting(
        MATRIX, **kwargs
    ),
    "TransitionRevision": lambda **kwargs: losses.TransitionRevision(
        MATRIX, **kwargs
    ),
    "ConfidencePenalty": losses.ConfidencePenalty,
    "ConfidencePenalty, threshold 1": lambda **kwargs: losses.ConfidencePenalty(
        threshold=1.0, **kwargs
    ),
    "JointOptimization": losses.JointOptimization,
    "DeterminantMutualInformation": losses.DeterminantMutualInformation,
}
AFTER_CROSS_ENTROPY = (
    "TransitionRevision",
    "TruncatedGeneralizedCrossEntropy",
    "DeterminantMutualInformation",
)


def target_rows(num_examples):
    """Return `{name: (target, loss, threshold callback)}`."""

    def alone():
        return callbacks.StaticThreshold(0.0)

    def passing():
        return callbacks.ProgressiveThreshold(0.5, sharpness=-8.0)

    cross_entropy = LOSSES["cross entropy"]
    gce = losses.GeneralizedCrossEntropy(from_logits=True)
    rows = {
        "LabelSmoothing": targets.LabelSmoothing(),
        "LabelSmoothing(0.5)": targets.LabelSmoothing(0.5),
        "SoftBootstrapping": targets.SoftBootstrapping(),
        "HardBootstrapping": targets.HardBootstrapping(),
        "ProSelfLC": targets.ProSelfLC(),
        "VirtualTeacher": targets.VirtualTeacher(),
        "TemporalEnsembling": targets.TemporalEnsembling(num_examples),
        "JointOptimizationLabels": targets.JointOptimizationLabels(
            num_examples
        ),
    }
    return {
        **{
            name: (target, cross_entropy(), alone)
            for name, target in rows.items()
        },
        "JointOptimizationLabels + its loss": (
            targets.JointOptimizationLabels(num_examples),
            losses.JointOptimization(from_logits=True),
            alone,
        ),
        "SMKD-P": (None, cross_entropy(), passing),
        "SMKD-P + GeneralizedCrossEntropy": (None, gce, passing),
        "SMKD-P + ProSelfLC": (targets.ProSelfLC(), cross_entropy(), passing),
        "SMKD-P + TemporalEnsembling": (
            targets.TemporalEnsembling(num_examples),
            cross_entropy(),
            passing,
        ),
    }


def network():
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(256, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(NUM_CLASSES)(hidden))


def load(seed):
    x, y = datasets.load_digits(return_X_y=True)
    x = (x / 16.0).astype("float32")
    x, x_test, y, y_test = model_selection.train_test_split(
        x, y, test_size=500, random_state=seed, stratify=y
    )
    return x, y, noise.corrupt_labels(y, MATRIX, seed=seed), (x_test, y_test)


def compile_with(model, loss):
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE), loss, metrics=["accuracy"]
    )
    if hasattr(loss, "attach"):
        loss.attach(model)


def with_loss(name, seed, warmup=0):
    """Return `(accuracies by epoch, share of wrong labels memorised)`."""
    x, clean, noisy, test = load(seed)
    keras.utils.set_random_seed(seed)
    model = network()
    accuracies = []
    for loss, epochs in (
        (LOSSES["cross entropy"](), warmup),
        (None, FLAGS.epochs - warmup),
    ):
        if not epochs:
            continue
        if loss is None:
            made = LOSSES[name]
            is_ours = name != "cross entropy"
            loss = made(from_logits=True) if is_ours else made()
        compile_with(model, loss)
        accuracies += fit(model, x, noisy, test, epochs)["val_accuracy"]
    probs = model.predict(x, verbose=0)
    return accuracies, float(metrics.memorization_rate(noisy, clean, probs))


def with_target(row, seed):
    """The same for two peers with a target, and perhaps with knowledge."""
    x, clean, noisy, test = load(seed)
    target, loss, threshold = row
    keras.utils.set_random_seed(seed)
    model = keras_smkd.SelectiveMutualDistillation(
        [network(), network()],
        target=target,
        gate=None,
        distillation_weight=4.0,
    )
    compile_with(model, loss)
    labels = {"label": noisy, "index": np.arange(len(noisy))}
    history = fit(model, x, labels, test, FLAGS.epochs, [threshold()])
    peers = [history[f"val_{name}_accuracy"] for name in model.peer_names]
    probs = model.predict(x, verbose=0, output="all")
    memorized = [
        float(metrics.memorization_rate(noisy, clean, probs[name]))
        for name in model.peer_names
    ]
    return np.mean(peers, axis=0).tolist(), float(np.mean(memorized))


def fit(model, x, labels, test, epochs, calls=()):
    return model.fit(
        x,
        labels,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        validation_data=test,
        verbose=0,
        callbacks=list(calls),
    ).history


def main(_):
    logging.set_verbosity(logging.WARNING)
    x, clean, noisy, _ = load(0)
    rows = {name: lambda s, n=name: with_loss(n, s) for name in LOSSES}
    for name in AFTER_CROSS_ENTROPY:
        rows[f"{name}, after cross entropy"] = lambda s, n=name: with_loss(
            n, s, warmup=FLAGS.epochs // 4
        )
    for name in target_rows(len(x)):
        rows[name] = lambda s, n=name: with_target(target_rows(len(x))[n], s)
    print(
        f"{keras.backend.backend()}: {len(x)} digits, "
        f"{100 * noise.realized_noise_rate(clean, noisy):.1f} % of their "
        f"labels wrong (seed 0), {FLAGS.epochs} epochs, {FLAGS.seeds} seeds.\n"
        "Test accuracy in % at the last epoch (each seed) and at the best "
        "(chosen on the test set);\nwrong labels memorised in %.\n"
    )
    print(f"{'part':<54}{'last':>6}  {'each':<16}{'best':>6}{'memorised':>11}")
    table = []
    for name, run in rows.items():
        if FLAGS.only not in name:
            continue
        start = time.perf_counter()
        runs = [run(seed) for seed in range(FLAGS.seeds)]
        last = [100 * accuracies[-1] for accuracies, _ in runs]
        row = {
            "part": name,
            "last": last,
            "best": [100 * max(accuracies) for accuracies, _ in runs],
            "memorized": [100 * memorized for _, memorized in runs],
            "seconds": time.perf_counter() - start,
        }
        table.append(row)
        print(
            f"{name:<54}{np.mean(last):>6.1f}  "
            f"{' '.join(f'{value:.1f}' for value in last):<16}"
            f"{np.mean(row['best']):>6.1f}{np.mean(row['memorized']):>11.1f}",
            flush=True,
        )
    if FLAGS.json:
        settings = {
            "backend": keras.backend.backend(),
            "keras": keras.__version__,
            "epochs": FLAGS.epochs,
            "seeds": FLAGS.seeds,
        }
        text = json.dumps({**settings, "rows": table}, indent=1)
        pathlib.Path(FLAGS.json).write_text(text + "\n")


if __name__ == "__main__":
    app.run(main)
