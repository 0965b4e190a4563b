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
STEPS = 50
CLASSES = 4

pytestmark = [
    pytest.mark.skipif(len(BACKENDS) < 2, reason="needs two backends"),
    pytest.mark.skipif(
        os.environ["KERAS_BACKEND"] != BACKENDS[0],
        reason=f"runs all backends, once: under {BACKENDS[0]}",
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
    tests = pathlib.Path(__file__).parent
    results = {}
    for backend in BACKENDS:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                TRAIN,
                str(folder / "start.npz"),
                str(folder / f"{backend}.npz"),
            ],
            env={
                **os.environ,
                "KERAS_BACKEND": backend,
                "PYTHONPATH": os.pathsep.join([str(tests), *sys.path]),
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{backend}: {done.stderr[-2000:]}"
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
