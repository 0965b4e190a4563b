"""Whether plain SMKD is the same, bit for bit, before and after a change.

    git worktree add PATH REVISION
    KERAS_BACKEND=jax python benchmarks/same_bits.py --before PATH

Eight settings of plain SMKD are trained by both checkouts, each in a process of
its own, from the same weights and the same batches: with the gate and without,
with static and progressive thresholds, temperature, probabilities, another
selection, an optimizer for each peer, sample weights and regularisers. Compared
are all logs, of validation too, all weights, what `evaluate` gives and what
`predict` gives. An array that only one side has differs, and so do two of
another dtype, or of which any bit is another.

Printed are how many arrays were compared and which of them differ, by how much
at most. Exits with 1 if any does. That holds for the backend in force and for
CPUs: run it once for each backend.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Sums in the same order, however busy the machine is.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras
import numpy as np
from absl import app
from absl import flags
from absl import logging
from keras import layers

import keras_smkd
from keras_smkd import callbacks
from keras_smkd import selection

NUM_EXAMPLES, NUM_FEATURES, NUM_CLASSES = 96, 6, 4
BATCH_SIZE, EPOCHS = 16, 4
HERE = pathlib.Path(__file__).resolve().parents[1]

FLAGS = flags.FLAGS
flags.DEFINE_string("before", "", "Checkout of the earlier revision.")
flags.DEFINE_string("after", str(HERE), "Checkout of the later one.")
flags.DEFINE_string(
    "write", "", "Only train, and write the arrays to this file: for itself."
)


def label_gate(*args, **kwargs):
    """Make the gate of labels, in whichever room the revision has it."""
    room = getattr(keras_smkd, "gates", selection)
    return room.LabelGate(*args, **kwargs)


def settings():
    """Return `{name: (arguments of the model, others of `train`)}`."""
    return {
        "default": ({}, {}),
        "progressive, no gate": (
            {"gate": None},
            {"threshold": callbacks.ProgressiveThreshold(0.5, 8.0)},
        ),
        "three peers, progressive": (
            {},
            {"num_peers": 3, "threshold": callbacks.ProgressiveThreshold()},
        ),
        "temperature 3, weight 2": (
            {"temperature": 3.0, "gate": None, "distillation_weight": 2.0},
            {},
        ),
        "probabilities": ({"from_logits": False}, {"activation": "softmax"}),
        "most confident share": (
            {
                "selection": selection.MostConfidentShare(threshold=0.6),
                "gate": label_gate(0.5, agreement=True),
            },
            {"threshold": callbacks.StaticThreshold(0.7)},
        ),
        "all knowledge, two optimizers": (
            {"gate": None},
            {
                "threshold": callbacks.StaticThreshold(1.5),
                "optimizer": [
                    keras.optimizers.Adam(0.01),
                    keras.optimizers.SGD(0.1, momentum=0.9),
                ],
            },
        ),
        "margin, weighted, regularised": (
            {"selection": selection.ConfidentKnowledge("margin", 0.8)},
            {"is_weighted": True, "regularizer": "l2"},
        ),
    }


def network(seed, activation, regularizer):
    """Return a peer whose weights depend on the seed alone."""
    model = keras.Sequential(
        [
            keras.Input((NUM_FEATURES,)),
            layers.Dense(
                8 + seed, activation="relu", kernel_regularizer=regularizer
            ),
            layers.BatchNormalization(),
            layers.Dense(NUM_CLASSES, activation=activation),
        ]
    )
    generator = np.random.default_rng(seed)
    model.set_weights(
        [
            np.ones(variable.shape, "float32")
            if "variance" in variable.path
            else 0.4 * generator.normal(size=variable.shape).astype("float32")
            for variable in model.weights
        ]
    )
    return model


def train(
    arguments,
    num_peers=2,
    threshold=None,
    activation=None,
    optimizer=None,
    is_weighted=False,
    regularizer=None,
):
    """Yield `(name, array)` of all that one setting comes to."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(NUM_EXAMPLES, NUM_FEATURES)).astype("float32")
    y = generator.integers(0, NUM_CLASSES, NUM_EXAMPLES)
    keras.utils.set_random_seed(3)
    peers = [network(i, activation, regularizer) for i in range(num_peers)]
    model = keras_smkd.SelectiveMutualDistillation(peers, **arguments)
    model.compile(
        optimizer or keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        **{"weighted_metrics" if is_weighted else "metrics": ["accuracy"]},
    )
    weights = np.linspace(0, 2, NUM_EXAMPLES, dtype="float32")
    history = model.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[threshold] if threshold else [],
        validation_data=(x[:32], y[:32]),
        sample_weight=weights if is_weighted else None,
    ).history
    for name, values in history.items():
        yield f"log {name}", np.array(values)
    for peer, name in zip(peers, model.peer_names, strict=True):
        for i, array in enumerate(peer.get_weights()):
            yield f"{name} weight {i}", array
    results = model.evaluate(x, y, verbose=0, return_dict=True)
    for name, value in results.items():
        yield f"evaluate {name}", np.array(value)
    yield "predict", model.predict(x, verbose=0)
    for name, array in model.predict(x, verbose=0, output="all").items():
        yield f"predict {name}", array


def write(path):
    """Train all settings, and write what they come to."""
    check_package()
    arrays = {
        f"{name}: {key}": array
        for name, (arguments, others) in settings().items()
        for key, array in train(arguments, **others)
    }
    np.savez(path, **arrays)


def check_package():
    """Raise if the package is not that of the checkout that was asked for."""
    package = pathlib.Path(keras_smkd.__file__).resolve().parents[1]
    if package != pathlib.Path(os.environ["PYTHONPATH"]):
        raise ImportError(
            f"the package must be that of {os.environ['PYTHONPATH']}. "
            f"Received: that of {package}."
        )


def arrays_of(checkout):
    """Return `{name: array}` as a checkout trains, in a process of its own."""
    checkout = pathlib.Path(checkout).resolve()
    if not (checkout / "keras_smkd" / "__init__.py").is_file():
        raise app.UsageError(
            f"a checkout must have the package. Received: {checkout}"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "arrays.npz"
        subprocess.run(
            [sys.executable, __file__, f"--write={path}"],
            env={**os.environ, "PYTHONPATH": str(checkout)},
            check=True,
        )
        with np.load(path) as arrays:
            return dict(arrays)


def difference(before, after):
    """Return in words how two arrays differ, `None` if they do not."""
    if before is None or after is None:
        return f"only {'after' if before is None else 'before'} the change"
    if (before.shape, before.dtype) != (after.shape, after.dtype):
        return (
            f"{before.shape} {before.dtype} before, "
            f"{after.shape} {after.dtype} after"
        )
    if before.tobytes() == after.tobytes():
        return None
    return f"by {np.max(np.abs(before - after)):.1e} at most"


def main(_):
    logging.set_verbosity(logging.WARNING)
    if FLAGS.write:
        return write(FLAGS.write)
    if not FLAGS.before:
        raise app.UsageError("give --before, a checkout.")
    before, after = arrays_of(FLAGS.before), arrays_of(FLAGS.after)
    names = list({**before, **after})
    differences = {
        name: difference(before.get(name), after.get(name)) for name in names
    }
    differ = {name: how for name, how in differences.items() if how}
    for name, how in differ.items():
        print(f"{name}: {how}")
    print(
        f"{keras.backend.backend()}: {len(settings())} settings, "
        f"{len(names)} arrays compared, {len(differ)} differ"
    )
    return 1 if differ else 0


if __name__ == "__main__":
    app.run(main)
