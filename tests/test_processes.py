"""Several processes give what one gives."""

import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from peers import linear

import keras_smkd
from keras_smkd import data
from keras_smkd.model import backends

ROOT = pathlib.Path(__file__).resolve().parents[1]
BACKEND = keras.backend.backend()


def test_two_processes_end_like_one():
    script = ROOT / "benchmarks" / "processes.py"
    done = subprocess.run(
        [sys.executable, str(script), "--ways=arrays"],
        env={**os.environ, "KERAS_BACKEND": BACKEND, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    (names,) = [line[1:] for line in lines if line[0] == "way"]
    (values,) = [line[2:] for line in lines if line[0] == BACKEND]
    report = dict(zip(names, values, strict=True))
    # It is a run in which there was something to get wrong.
    assert 0.05 < float(report.pop("selected")) < 0.95
    assert float(report.pop("remembered")) == 1.0
    if BACKEND == "jax":  # Keras cannot predict there.
        assert report.pop("predicted") == "-"
    assert len(report) == 6 + (BACKEND != "jax")
    assert float(report["clock"]) == 0.0
    for name, difference in report.items():
        assert float(difference) <= 1e-6, name


def remembering_model():
    model = keras_smkd.PeerLearning(
        [linear()], target=keras_smkd.targets.TemporalEnsembling(8)
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def test_a_process_with_a_part_of_the_data_must_say_its_places(
    rng, monkeypatch
):
    monkeypatch.setattr(backends, "has_part_of_data", lambda: True)
    model = remembering_model()
    before = model.get_weights()
    x, y = rng.normal(size=(4, 6)).astype("float32"), np.array([0, 1, 2, 3])
    with pytest.raises(ValueError, match="in several processes"):
        model.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match="in several processes"):
        model.fit(x, {"label": y}, verbose=0)
    for value, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, other)
    places = np.array([1, 3, 5, 7])
    model.fit(x, {"label": y, "index": places}, verbose=0)
    memory = keras.ops.convert_to_numpy(model.target.memory)
    assert np.flatnonzero(memory.any(axis=(1, 2))).tolist() == [1, 3, 5, 7]
    # Without a memory nobody asks for places.
    forgetful = keras_smkd.PeerLearning([linear()])
    forgetful.compile("sgd", "sparse_categorical_crossentropy")
    forgetful.fit(x, y, verbose=0)
    assert forgetful.step == 1


@pytest.mark.parametrize("count", [1, 2])
def test_a_process_knows_whether_its_data_are_a_part(count, monkeypatch):
    assert not backends.has_part_of_data()
    if BACKEND == "jax":
        monkeypatch.setattr(
            keras.distribution,
            "distribution",
            lambda: types.SimpleNamespace(num_processes=count),
        )
    if BACKEND == "torch":
        from torch import distributed

        monkeypatch.setattr(distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(distributed, "get_world_size", lambda: count)
    # TensorFlow's strategies are given the whole in every process.
    expected = count > 1 and BACKEND != "tensorflow"
    assert backends.has_part_of_data() is expected


def test_a_distribution_is_in_force_again_after_saving(tmp_path):
    set_distribution = keras.distribution.set_distribution
    distribution = types.SimpleNamespace()
    model = remembering_model()
    model.fit(np.zeros((2, 6)), np.array([0, 1]), verbose=0)
    try:
        set_distribution(distribution)
        with pytest.raises(OSError):
            model.save_weights(tmp_path / "none" / "a.weights.h5")
        assert keras.distribution.distribution() is distribution
        model.save(tmp_path / "a.keras")
        assert keras.distribution.distribution() is distribution
    finally:
        set_distribution(None)


def test_data_are_not_divided_twice_among_workers(rng, monkeypatch):
    pytest.importorskip("tensorflow", reason="makes a tf.data pipeline")
    monkeypatch.setattr(backends, "_has_workers", lambda model: True)
    x, y = rng.normal(size=(8, 6)).astype("float32"), np.arange(8) % 4
    model = keras_smkd.PeerLearning([linear()])
    model.compile("sgd", "sparse_categorical_crossentropy")
    for make in (data.make_pipeline, data.PipelineSequence):
        for shuffle in (False, True):
            given = {"batch_size": 4, "shuffle": shuffle, "seed": 0}
            whole = make(x, y, **given)
            assert whole.shard == (0, 1)
            backends.check_undivided(model, whole)
            part = make(x, y, shard=(1, 2), **given)
            assert part.shard == (1, 2)
            with pytest.raises(ValueError, match=r"shard=\(1, 2\)"):
                model.fit(part, shuffle=False, verbose=0)
    # Another dataset has a method of that name.
    backends.check_undivided(model, make_dataset(x, y))
    backends.check_undivided(model, x)
    assert model.step == 0


def make_dataset(x, y):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(4)


def test_one_process_may_be_given_one_of_several_parts(rng):
    x, y = rng.normal(size=(8, 6)).astype("float32"), np.arange(8) % 4
    model = keras_smkd.PeerLearning([linear()])
    model.compile("sgd", "sparse_categorical_crossentropy")
    part = data.PipelineSequence(x, y, batch_size=2, shard=(1, 2))
    model.fit(part, shuffle=False, verbose=0)
    assert model.step == 2
