"""Exports of what is no peer: a head, and the peers' averages."""

import json

import keras
import numpy as np
import pytest
from naive import numpy_of
from peers import mlp

import keras_smkd
from keras_smkd import knowledge
from keras_smkd import methods
from keras_smkd.export import process
from keras_smkd.export import writers


def convolutional():
    return keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            keras.layers.Conv2D(3, 2, name="maps"),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ]
    )


@pytest.fixture
def images(rng):
    return rng.normal(size=(16, 4, 4, 2)).astype("float32")


def fitted(model, x, rng):
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, rng.integers(0, 4, len(x)), epochs=2, verbose=0)
    return model


@pytest.fixture
def written(monkeypatch):
    """Stand-ins for the writers: `{artefact: model}` of what was asked for."""
    found = {}

    def write(model, format, folder, class_names):
        folder.mkdir()
        (folder / "stand-in").write_text(format)
        found[folder.name] = model

    def write_elsewhere(models, format, folder, class_names, backend):
        for name, model in models.items():
            write(model, format, folder / name, class_names)

    monkeypatch.setattr(writers, "write", write)
    monkeypatch.setattr(process, "write_elsewhere", write_elsewhere)
    return found


def served(model, x):
    return numpy_of(model(x, training=False)["probabilities"])


def test_a_head_is_exported_beside_the_peers(images, rng, tmp_path, written):
    pytest.importorskip("torch", reason="torch writes it")
    model = fitted(
        methods.ffl([convolutional() for _ in "ab"], "maps"), images, rng
    )
    keras_smkd.export(model, tmp_path / "all", format="torch")
    assert written.keys() == {"peer_0", "peer_1", "head", "ensemble"}
    expected = model.predict(images, verbose=0, output="all")
    for name in ("peer_0", "peer_1", "head"):
        np.testing.assert_allclose(
            served(written[name], images), expected[name], atol=1e-6
        )
    card = json.loads((tmp_path / "all" / "model_card.json").read_text())
    assert card["artefacts"][2]["name"] == "head"
    assert card["artefacts"][2]["peers"] == ["peer_0", "peer_1"]


def test_averages_are_exported_as_their_ensemble(rng, tmp_path, written):
    pytest.importorskip("torch", reason="torch writes it")
    x = rng.normal(size=(16, 6)).astype("float32")
    model = keras_smkd.SelectiveMutualDistillation(
        [mlp(), mlp(width=5)], knowledge=knowledge.AveragedPeers(0.9)
    )
    fitted(model, x, rng)
    before = model.get_weights()
    keras_smkd.export(model, tmp_path / "a", what="averaged", format="torch")
    assert written.keys() == {"averaged"}
    expected = model.predict(x, verbose=0, output="averaged")
    np.testing.assert_allclose(
        served(written["averaged"], x), expected, atol=1e-6
    )
    plain = model.predict(x, verbose=0)
    assert np.abs(plain - expected).max() > 1e-4
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="written by TensorFlow"
)
def test_saved_models_of_heads_and_averages_run(images, rng, tmp_path):
    tf = pytest.importorskip("tensorflow")
    model = fitted(
        methods.pcl([convolutional() for _ in "ab"], "maps"), images, rng
    )
    for what in ("head", "averaged"):
        keras_smkd.export(model, tmp_path / what, what=what)
        loaded = tf.saved_model.load(str(tmp_path / what / what))
        found = loaded.signatures["serving_default"](inputs=images)
        np.testing.assert_allclose(
            found["probabilities"],
            model.predict(images, verbose=0, output=what),
            atol=1e-6,
        )


def test_what_a_model_has_not_is_refused(tmp_path, rng):
    model = methods.dml([mlp(), mlp()])
    with pytest.raises(ValueError, match="must be or hold a `AveragedPeers`"):
        keras_smkd.export(model, tmp_path / "a", what="averaged")
    with pytest.raises(ValueError, match="`what` must be one of"):
        keras_smkd.export(model, tmp_path / "a", what="head")
    with pytest.raises(ValueError, match="must be or hold a `AveragedPeers`"):
        model.predict(np.zeros((2, 6)), verbose=0, output="averaged")
    with pytest.raises(ValueError, match="`output` must be one of"):
        model.predict(np.zeros((2, 6)), verbose=0, output="head")
    with pytest.raises(
        ValueError, match=r"`keras_smkd\.export\(model, path\)`"
    ):
        model.export(tmp_path / "a")
    assert not list(tmp_path.iterdir())
