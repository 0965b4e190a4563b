"""Saving and loading what was trained."""

import os

import h5py
import keras
import numpy as np
import pytest
from peers import functional_net
from peers import linear
from peers import mlp

import keras_smkd
from keras_smkd.callbacks import ProgressiveThreshold


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
        gate=keras_smkd.gates.LabelGate(0.5),
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


def save(model, path, **kwargs):
    kind = "save" if path.suffix == ".keras" else "save_weights"
    getattr(model, kind)(path, **kwargs)


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, name):
    model = keras_smkd.SelectiveMutualDistillation([linear(), linear()])
    place = tmp_path / "elsewhere" / name
    place.parent.mkdir()
    path = tmp_path / name
    path.symlink_to(place)
    save(model, path)
    whole = place.read_bytes()
    # What a killed process left is no file of that name, and goes.
    partial = place.with_name(f"{name}.partial")
    partial.mkdir()
    (partial / name).write_bytes(whole[:100])
    with monkeypatch.context() as broken:
        broken.setattr(h5py.Group, "create_group", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save(model, path)
    assert place.read_bytes() == whole
    (partial / name).mkdir(parents=True)
    model.clock.step.assign(5)
    save(model, path)
    assert path.is_symlink()
    assert os.listdir(place.parent) == [name]
    model.clock.step.assign(0)
    model.load_weights(path)
    assert model.step == 5
    monkeypatch.setattr("builtins.input", lambda _: "n")
    model.clock.step.assign(0)
    save(model, path, overwrite=False)
    model.load_weights(path)
    assert model.step == 5


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path, monkeypatch, name
):
    model = keras_smkd.SelectiveMutualDistillation([linear(), linear()])
    path = tmp_path / name
    save(model, path)
    earlier = path.stat().st_ino
    sync, synced = os.fsync, []

    def watched(descriptor):
        sync(descriptor)
        synced.append((os.fstat(descriptor).st_ino, path.stat().st_ino))

    monkeypatch.setattr(os, "fsync", watched)
    with path.open("rb") as reader:
        whole = path.read_bytes()
        model.clock.step.assign(5)
        save(model, path)
        # Who reads the earlier file reads it to its end.
        assert reader.read() == whole
    assert path.read_bytes() != whole
    assert synced == [(path.stat().st_ino, earlier)]


def test_what_is_no_local_file_is_left_to_keras(tmp_path, monkeypatch):
    model = keras_smkd.SelectiveMutualDistillation([linear(), linear()])
    model.save(tmp_path / "folder", zipped=False)
    assert (tmp_path / "folder" / "config.json").exists()
    model.save_weights(tmp_path / "shards.weights.json", max_shard_size=1)
    assert (tmp_path / "shards.weights.json").exists()
    with pytest.raises(OSError, match="nowhere"):
        model.save(tmp_path / "nowhere" / "model.keras")
    seen = []
    monkeypatch.setattr(
        keras.Model, "save", lambda self, path, **_: seen.append(path)
    )
    for path in ("gs://bucket/model.keras", tmp_path):
        model.save(path)
    assert seen == ["gs://bucket/model.keras", tmp_path]


@pytest.mark.parametrize("number", [0, 2, None])
def test_files_of_another_format_are_refused(tmp_path, number):
    model = keras_smkd.SelectiveMutualDistillation([linear(), linear()])
    config = model.get_config()
    assert config["format"] == 1
    assert config["version"] == keras_smkd.__version__
    refused = (
        rf"of format 1, which .*Received: format {number}, written by "
        "keras_smkd "
    )
    other = {**config, "format": number, "peers": "of its own"}
    other["version"] = "9.8.7"
    with pytest.raises(ValueError, match=refused + r"9\.8\.7\. Install"):
        keras_smkd.SelectiveMutualDistillation.from_config(other)
    del other["format"], other["version"]
    with pytest.raises(ValueError, match=r"format None, .*_smkd \?\. Install"):
        keras_smkd.SelectiveMutualDistillation.from_config(other)
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    before = model.get_weights()
    with h5py.File(path, "a") as file:
        del file["vars/format"]
        if number is not None:
            file["vars/format"] = number
    with pytest.raises(ValueError, match=refused + "another version"):
        model.load_weights(path)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


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


def plain_model(**kwargs):
    return keras_smkd.PeerLearning([linear(), linear()], **kwargs)


def remembering_model():
    target = keras_smkd.targets.TemporalEnsembling(8)
    return plain_model(target=target)


@pytest.mark.parametrize(
    ("saved", "other", "message"),
    [
        (remembering_model, plain_model, "'target': .'TemporalEnsembling'."),
        (plain_model, remembering_model, "'target': .'TemporalEnsembling'."),
        (
            lambda: plain_model(knowledge="averaged_peers"),
            plain_model,
            "'knowledge': .'AveragedPeers'.",
        ),
        (
            lambda: keras_smkd.PeerLearning([linear()]),
            plain_model,
            "'peers': 1.*'peers': 2",
        ),
    ],
)
def test_weights_of_other_parts_are_refused_before_they_are_loaded(
    saved, other, message, tmp_path
):
    path = tmp_path / "model.weights.h5"
    saved().save_weights(path)
    model = other()
    before = [w.copy() for w in model.get_weights()]
    with pytest.raises(ValueError, match=message):
        model.load_weights(path)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
