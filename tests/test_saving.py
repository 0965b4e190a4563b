"""Saving, loading and exporting what was trained."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from peers import functional_net
from peers import linear
from peers import mlp

import keras_smkd
from keras_smkd.callbacks import ProgressiveThreshold

BACKEND = keras.backend.backend()


@pytest.fixture
def data(rng):
    x = rng.normal(size=(24, 6)).astype("float32")
    return x, rng.integers(0, 4, size=24)


@pytest.fixture
def trained(data):
    model = keras_smkd.SelectiveMutualDistillation(
        [mlp(), functional_net()],
        target=keras_smkd.targets.ProSelfLC(sharpness=4.0),
        selection=keras_smkd.selection.ConfidentKnowledge("margin", 0.7),
        gate=keras_smkd.selection.LabelGate(0.5),
        temperature=2.0,
        distillation_weight=3.0,
        supervised_weight=0.5,
    )
    model.compile(
        [keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.1)],
        "sparse_categorical_crossentropy",
        metrics=["accuracy", keras.metrics.SparseCategoricalCrossentropy()],
    )
    model.fit(*data, epochs=2, verbose=0, callbacks=[ProgressiveThreshold()])
    return model


def test_keras_file_brings_everything_back(trained, data, tmp_path):
    path = tmp_path / "model.keras"
    trained.save(path)
    loaded = keras.saving.load_model(path)
    config, expected = loaded.get_config(), trained.get_config()
    for name in config.keys() - {"peers"}:
        assert config[name] == expected[name], name
    kinds = [type(peer).__name__ for peer in loaded.peers]
    assert kinds == ["Sequential", "Functional"]
    assert loaded.threshold == trained.threshold
    assert (loaded.step, loaded.total_steps) == (2, 2)
    x, y = data
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), trained.predict(x, verbose=0)
    )
    assert loaded.evaluate(x, y, verbose=0) == trained.evaluate(x, y, verbose=0)
    before = loaded.train_on_batch(x, y)
    assert before == trained.train_on_batch(x, y)
    for ours, theirs in zip(
        loaded.get_weights(), trained.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    kinds = [type(item).__name__ for item in loaded.optimizer.optimizers]
    assert kinds == ["Adam", "SGD"]


def test_weights_alone_bring_predictions_back(trained, data, tmp_path):
    path = tmp_path / "model.weights.h5"
    trained.save_weights(path)
    fresh = keras_smkd.SelectiveMutualDistillation([mlp(), functional_net()])
    fresh.load_weights(path)
    x, _ = data
    np.testing.assert_array_equal(
        fresh.predict(x, verbose=0), trained.predict(x, verbose=0)
    )
    assert fresh.step == 2


def test_model_without_compile_is_saved_too(data, tmp_path):
    model = keras_smkd.SelectiveMutualDistillation([linear(), linear()])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not loaded.compiled
    x, _ = data
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )


SERVE = """
import sys

import numpy as np

for name in ("keras", "tf_keras", "keras_smkd", "jax"):
    sys.modules[name] = None  # Importing it raises.

import tensorflow as tf

data = np.load(sys.argv[1])
for name in data["names"]:
    served = tf.saved_model.load(f"{sys.argv[2]}/{name}")
    signature = served.signatures["serving_default"]
    for size in (1, 5, len(data["x"])):
        x = tf.constant(data["x"][:size])
        probs = signature(inputs=x)["probabilities"].numpy()
        assert np.abs(probs - data[str(name)][:size]).max() < 1e-5, name
        again = served.serve(x)["probabilities"].numpy()
        assert np.array_equal(again, probs)
try:
    import keras
except ImportError:
    print("served", len(data["names"]))
"""


def test_exports_serve_where_keras_cannot_be_imported(trained, data, tmp_path):
    pytest.importorskip("tensorflow")
    folder = tmp_path / "deep" / "serving"
    keras_smkd.export(trained, folder)
    names = ["peer_0", "peer_1", "ensemble"]
    assert sorted(os.listdir(folder)) == sorted(names)
    assert os.listdir(folder.parent) == ["serving"]
    x, _ = data
    expected = trained.predict(x, verbose=0, output="all")
    expected["ensemble"] = trained.predict(x, verbose=0)
    np.savez(tmp_path / "expected.npz", x=x, names=names, **expected)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            SERVE,
            str(tmp_path / "expected.npz"),
            str(folder),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "served 3"


def test_exports_of_several_named_inputs(rng, tmp_path):
    tf = pytest.importorskip("tensorflow")

    def two_inputs():
        left = keras.Input((3,), name="left")
        right = keras.Input((2,), name="right")
        both = keras.layers.concatenate([left, right])
        outputs = keras.layers.Dense(4)(both)
        return keras.Model({"left": left, "right": right}, outputs)

    model = keras_smkd.SelectiveMutualDistillation([two_inputs(), two_inputs()])
    x = {
        "left": rng.normal(size=(5, 3)).astype("float32"),
        "right": rng.normal(size=(5, 2)).astype("float32"),
    }
    keras_smkd.export(model, tmp_path / "serving")
    served = tf.saved_model.load(tmp_path / "serving" / "ensemble")
    probs = served.signatures["serving_default"](
        **{name: tf.constant(value) for name, value in x.items()}
    )["probabilities"]
    np.testing.assert_allclose(
        probs.numpy(), model.predict(x, verbose=0), atol=1e-6
    )


def test_export_replaces_nothing_unless_asked(tmp_path):
    pytest.importorskip("tensorflow")
    model = keras_smkd.SelectiveMutualDistillation([linear(), linear()])
    path = tmp_path / "serving"
    path.mkdir()
    (path / "precious").write_text("kept")
    with pytest.raises(FileExistsError, match="`path` must not exist yet"):
        keras_smkd.export(model, path)
    assert (path / "precious").read_text() == "kept"
    keras_smkd.export(model, path, overwrite=True)
    assert sorted(os.listdir(path)) == ["ensemble", "peer_0", "peer_1"]


def test_export_refuses_what_it_cannot_write(tmp_path):
    with pytest.raises(TypeError, match="`model` must be a `keras_smkd"):
        keras_smkd.export(linear(), tmp_path / "serving")

    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    model = keras_smkd.SelectiveMutualDistillation([Subclassed(), Subclassed()])
    with pytest.raises(ValueError, match="a peer that knows its input shape"):
        keras_smkd.export(model, tmp_path / "serving")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(BACKEND != "torch", reason="only torch needs a subprocess")
def test_export_from_torch_says_why_it_failed(tmp_path):
    class OnlyHere(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    def peer():
        inputs = keras.Input((6,))
        return keras.Model(inputs, keras.layers.Dense(4)(OnlyHere()(inputs)))

    model = keras_smkd.SelectiveMutualDistillation([peer(), peer()])
    with pytest.raises(RuntimeError, match=r"(?s)export under TensorFlow fail"):
        keras_smkd.export(model, tmp_path / "serving")
    assert os.listdir(tmp_path) == []


def test_export_without_tensorflow_says_what_to_install(tmp_path):
    # The search path without TensorFlow, in a process of its own.
    code = f"""
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: (
    None if name == "tensorflow" else found(name, *rest)
)
import keras, keras_smkd
peers = [
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    for _ in range(2)
]
model = keras_smkd.SelectiveMutualDistillation(peers)
try:
    keras_smkd.export(model, {str(tmp_path / "serving")!r})
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert 'pip install "keras-smkd[tensorflow]"' in done.stdout, done.stderr
    assert list(pathlib.Path(tmp_path).iterdir()) == []


def test_loading_runs_no_code_from_a_file(tmp_path):
    bad = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Lambda(lambda x: x),
            keras.layers.Dense(4),
        ]
    )
    model = keras_smkd.SelectiveMutualDistillation([linear(), bad])
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"[Ll]ambda.*unsafe"):
        keras.saving.load_model(tmp_path / "model.keras")
