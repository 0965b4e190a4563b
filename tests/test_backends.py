"""The backends that are installed give the same numbers.

Each runs in a process of its own, from one file with the initial weights and
the batches, since the same seed gives other weights on another backend.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

BACKENDS = [
    name
    for name in ("tensorflow", "jax", "torch")
    if importlib.util.find_spec(name)
]
# The continuous integration has time left there, beside the other two.
RUNS_UNDER = "torch" if "torch" in BACKENDS else BACKENDS[0]
STEPS = 50
CLASSES = 4

pytestmark = [
    pytest.mark.skipif(len(BACKENDS) < 2, reason="needs two backends"),
    pytest.mark.skipif(
        os.environ["KERAS_BACKEND"] != RUNS_UNDER,
        reason=f"runs all backends, once: under {RUNS_UNDER}",
    ),
]

TRAIN = '''
import contextlib
import sys

with contextlib.suppress(ImportError):
    import torch
import keras
import numpy as np
from peers import functional_net
from peers import mlp

import keras_smkd

keras.config.disable_traceback_filtering()
data = dict(np.load(sys.argv[1]))
peers = [mlp(16), mlp(8), functional_net()]
for i, peer in enumerate(peers):
    peer.set_weights(
        [data[f"peer_{i}_{k}"] for k in range(len(peer.get_weights()))]
    )
model = keras_smkd.SelectiveMutualDistillation(
    peers,
    target=keras_smkd.targets.ProSelfLC(),
    selection=keras_smkd.selection.ConfidentKnowledge("entropy"),
    temperature=2.0,
    distillation_weight=2.0,
)
model.compile(
    keras.optimizers.SGD(0.05, momentum=0.9),
    "sparse_categorical_crossentropy",
    metrics=["accuracy"],
)
steps = []


class Record(keras.callbacks.Callback):
    """Keeps the logs of each step by itself, not the mean of the epoch."""

    def on_train_batch_end(self, batch, logs=None):
        steps.append({name: float(value) for name, value in logs.items()})
        self.model.reset_metrics()


x, y = data["x"], data["y"]
model.fit(
    x,
    y,
    batch_size=len(x) // 50,
    epochs=1,
    shuffle=False,
    verbose=0,
    callbacks=[keras_smkd.callbacks.ProgressiveThreshold(0.6, 2.0), Record()],
)
np.savez(
    sys.argv[2],
    **{name: [logs[name] for logs in steps] for name in steps[0]},
)
'''


# What moves between the backends: a model in training, with all that there is
# to save. Each backend saves one, and loads and trains on those of the others.
MOVE = """
import contextlib
import pathlib
import sys

with contextlib.suppress(ImportError):
    import torch
import keras
import numpy as np
from peers import functional_net
from peers import mlp

import keras_smkd

command, folder = sys.argv[1], pathlib.Path(sys.argv[2])
here = keras.backend.backend()
rng = np.random.default_rng(5)
x = rng.normal(size=(24, 6)).astype("float32")
labels = {"label": np.arange(24) % 4, "index": np.arange(24)}


def fresh():
    return keras_smkd.SelectiveMutualDistillation(
        [mlp(dropout=0.3), functional_net()],
        target=keras_smkd.targets.TemporalEnsembling(24),
    )


def fit(model, first, last):
    model.fit(
        x,
        labels,
        batch_size=8,
        initial_epoch=first,
        epochs=last,
        verbose=0,
        callbacks=[keras_smkd.callbacks.ProgressiveThreshold()],
    )


if command == "save":
    model = fresh()
    model.compile(
        [keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.1, momentum=0.9)],
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    fit(model, 0, 2)
    model.save(folder / f"{here}.keras")
    model.save_weights(folder / f"{here}.weights.h5")
    np.save(folder / f"{here}.npy", model.predict(x, verbose=0))
for there in sys.argv[3:]:
    expected = np.load(folder / f"{there}.npy")
    model = keras.saving.load_model(folder / f"{there}.keras")
    alone = fresh()
    alone.load_weights(folder / f"{there}.weights.h5")
    for loaded in (model, alone):
        difference = loaded.predict(x, verbose=0) - expected
        assert np.abs(difference).max() <= 1e-6
        assert (loaded.step, loaded.total_steps) == (6, 6)
        assert loaded.threshold == model.threshold
    steps = [optimizer.iterations for optimizer in model.optimizer.optimizers]
    assert [int(keras.ops.convert_to_numpy(step)) for step in steps] == [6, 6]
    fit(model, 2, 3)
    assert model.step == 9
    print(there, "to", here)
"""


def run(script, backend, *arguments):
    """Run a script under a backend; return what it prints."""
    tests = pathlib.Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": os.pathsep.join([str(tests), *sys.path]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{backend}: {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """From backend to its logs over 50 steps."""
    from peers import functional_net
    from peers import mlp

    folder = tmp_path_factory.mktemp("backends")
    rng = np.random.default_rng(3)
    x = rng.normal(size=(STEPS * 32, 6)).astype("float32")
    labels = (2.0 * x @ rng.normal(size=(6, CLASSES))).argmax(axis=1)
    data = {"x": 2.0 * x, "y": labels}
    for i, peer in enumerate([mlp(16), mlp(8), functional_net()]):
        for k, weight in enumerate(peer.get_weights()):
            data[f"peer_{i}_{k}"] = weight
    np.savez(folder / "start.npz", **data)
    results = {}
    for backend in BACKENDS:
        run(TRAIN, backend, folder / "start.npz", folder / f"{backend}.npz")
        results[backend] = dict(np.load(folder / f"{backend}.npz"))
    return results


@pytest.mark.parametrize(
    "name",
    ["loss", "supervised_loss", "distillation_loss", "threshold"],
)
def test_losses_agree_at_every_step(runs, name):
    first = runs[BACKENDS[0]][name]
    assert len(first) == STEPS
    for backend in BACKENDS[1:]:
        np.testing.assert_allclose(
            runs[backend][name], first, rtol=1e-5, err_msg=backend
        )


@pytest.mark.parametrize("name", ["selection_rate", "accuracy"])
def test_selections_agree_at_every_step(runs, name):
    first = runs[BACKENDS[0]][name]
    for backend in BACKENDS[1:]:
        np.testing.assert_allclose(
            runs[backend][name], first, atol=1e-6, err_msg=backend
        )


def test_runs_exercise_a_moving_threshold_and_learn(runs):
    for logs in runs.values():
        assert len(set(logs["selection_rate"])) > 20
        assert np.all(np.diff(logs["threshold"]) < 0)
        assert logs["accuracy"][-5:].mean() > logs["accuracy"][:5].mean() + 0.2


def test_files_move_between_all_backends(tmp_path):
    for backend in BACKENDS:
        run(MOVE, backend, "save", tmp_path)
    for backend in BACKENDS:
        others = [other for other in BACKENDS if other != backend]
        lines = run(MOVE, backend, "load", tmp_path, *others)
        for other in others:
            assert f"{other} to {backend}" in lines.splitlines()
