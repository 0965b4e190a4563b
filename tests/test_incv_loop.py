"""Iterative cross-validation: its rounds, its state, what it finds."""

import math

import keras
import numpy as np
import pytest
from naive import naive_log_softmax
from peers import linear
from thrift import with_torch

from keras_smkd import estimators
from keras_smkd import methods

SIZE = 120
FIND = methods.iterative_cross_validation


@pytest.fixture
def data(rng):
    """Three clusters in six dimensions, a quarter of the labels wrong."""
    clean = np.arange(SIZE) % 3
    x = rng.normal(size=(SIZE, 6)) * 0.5
    x[np.arange(SIZE), clean] += 2.0
    wrong = rng.permutation(SIZE)[: SIZE // 4]
    noisy = clean.copy()
    noisy[wrong] = (clean[wrong] + rng.integers(1, 3, wrong.size)) % 3
    return x.astype("float32"), noisy, clean


def make():
    return linear(6, 3)


def train(model, x, y):
    model.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=8, batch_size=32, verbose=0)


def fixed():
    """A peer whose predictions are known: logits are the first inputs."""
    peer = make()
    peer.set_weights([np.eye(6, 3, dtype="float32")])
    return peer


def no_training(model, x, y):
    pass


def assert_equal(ours, theirs):
    np.testing.assert_array_equal(ours.kept, theirs.kept)
    np.testing.assert_array_equal(ours.removed, theirs.removed)
    np.testing.assert_equal(ours.noise_rate, theirs.noise_rate)
    assert ours.rounds == theirs.rounds


def test_the_clean_examples_are_found(data):
    x, noisy, clean = data
    found = FIND(make, x, noisy, train, iterations=2, verbose=0)
    is_right = noisy == clean
    assert is_right[found.kept].mean() > 0.94
    assert found.kept.size > 0.9 * is_right.sum()
    assert (~is_right[found.removed]).mean() > 0.8
    assert found.noise_rate == pytest.approx(0.25, abs=0.12)
    assert found.rounds == 2
    assert not np.intersect1d(found.kept, found.removed).size
    assert found.kept.dtype == found.removed.dtype == np.int64


@pytest.mark.parametrize("noise", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("noise_rate", [None, 0.4])
def test_a_round_is_a_naive_loop(data, noise, noise_rate):
    x, noisy, _ = data
    halves = []

    def watch(model, x_taught, y_taught):
        halves.append((x_taught, y_taught))

    found = FIND(
        fixed,
        x,
        noisy,
        watch,
        1,
        noise,
        noise_rate,
        verbose=0,
    )
    log_probs = naive_log_softmax(x[:, :3])
    kept, marked, rate = [], [], noise_rate
    assert len(halves) == 2
    for x_taught, y_taught in halves:
        taught = [
            int(np.flatnonzero((x == row).all(axis=1))[0]) for row in x_taught
        ]
        assert len(set(taught)) == SIZE // 2
        np.testing.assert_array_equal(y_taught, noisy[taught])
        held_out = sorted(set(range(SIZE)) - set(taught))
        selected = [n for n in held_out if log_probs[n].argmax() == noisy[n]]
        if rate is None:
            agreement = len(selected) / len(held_out)
            rate = 0.001
            while (1 - rate) ** 2 + rate**2 / 2 > agreement:
                rate += 0.001
        count = int(min(2, rate / (1 - rate)) * len(selected))
        worst = sorted(held_out, key=lambda n: log_probs[n, noisy[n]])
        kept += selected
        marked += worst[:count] if noise == "symmetric" else []
    assert set(halves[0][0].ravel()).isdisjoint(halves[1][0].ravel())
    assert found.kept.tolist() == sorted(kept)
    assert found.removed.tolist() == sorted(set(marked) - set(kept))
    assert found.noise_rate == pytest.approx(rate, abs=1e-9)
    assert (found.removed.size > 0) == (noise == "symmetric")


def test_each_half_is_judged_by_the_network_of_the_other(data):
    x, noisy, _ = data
    x = np.concatenate([x, np.ones((SIZE, 1), "float32")], axis=1)
    taught = []

    def always_its_own_number(model, x_taught, y_taught):
        kernel = np.zeros((7, 3), "float32")
        kernel[-1, len(taught)] = 5.0
        model.peers[0].set_weights([kernel])
        taught.append({row.tobytes() for row in x_taught})

    found = FIND(
        lambda: linear(7, 3),
        x,
        noisy,
        always_its_own_number,
        1,
        "asymmetric",
        0.4,
        verbose=0,
    )
    judges = [int(row.tobytes() in taught[0]) for row in x]
    expected = np.flatnonzero(noisy == judges)
    np.testing.assert_array_equal(found.kept, expected)


def test_what_is_kept_teaches_and_what_is_removed_does_not(data):
    x, noisy, _ = data
    taught = []

    def watch(model, x_taught, y_taught):
        taught.append(
            {int(np.flatnonzero((x == row).all(axis=1))[0]) for row in x_taught}
        )

    first = FIND(fixed, x, noisy, watch, 1, verbose=0)
    del taught[:]
    FIND(fixed, x, noisy, watch, 2, verbose=0)
    for half in taught[2:]:
        assert half >= set(first.kept.tolist())
        assert half.isdisjoint(first.removed.tolist())
    rest = set(range(SIZE)) - set(first.kept) - set(first.removed)
    assert (taught[2] | taught[3]) - set(first.kept) == rest
    assert taught[2] & taught[3] == set(first.kept)


def test_each_network_begins_with_the_same_weights(data):
    x, noisy, _ = data
    weights, draws = [], []

    def watch(model, x, y):
        weights.append(model.peers[0].get_weights()[0])
        draws.append(np.random.rand())  # noqa: NPY002

    FIND(make, x, noisy, watch, 2, noise_rate=0.0, verbose=0)
    assert len(weights) == 4
    for other in weights[1:]:
        np.testing.assert_array_equal(other, weights[0])
    assert len(set(draws)) == 4


def test_none_removed_is_none_and_not_all(data):
    x, noisy, _ = data
    found = FIND(fixed, x, noisy, no_training, 3, noise_rate=0.0, verbose=0)
    assert found.removed.size == 0
    assert found.kept.size > SIZE // 2
    # A rate that is not 0, and still less than one example.
    found = FIND(fixed, x, noisy, no_training, 1, noise_rate=0.01, verbose=0)
    assert int(estimators.discard_ratio(0.01) * SIZE / 2) == 0
    assert found.removed.size == 0


def test_the_same_seed_finds_the_same(data):
    x, noisy, _ = data
    found = [
        FIND(make, x, noisy, train, 1, seed=seed, verbose=0)
        for seed in (5, 5, 6)
    ]
    assert_equal(found[0], found[1])
    assert not np.array_equal(found[0].removed, found[2].removed)


class Interrupted(Exception):
    pass


@with_torch
@pytest.mark.parametrize("trainings", [2, 3])
def test_an_interrupted_search_ends_as_if_it_had_not_been(
    data, tmp_path, trainings
):
    x, noisy, _ = data
    given = {"iterations": 3, "seed": 9, "verbose": 0}
    expected = FIND(make, x, noisy, train, **given)
    done = []

    def stop(model, x, y):
        if len(done) == trainings:
            raise Interrupted
        done.append(len(x))
        train(model, x, y)

    folder = tmp_path / "a" / "b"
    with pytest.raises(Interrupted):
        FIND(make, x, noisy, stop, folder=folder, **given)
    np.random.rand(3)  # noqa: NPY002
    keras.utils.set_random_seed(0)
    count = []

    def counted(model, x, y):
        count.append(len(x))
        train(model, x, y)

    found = FIND(make, x, noisy, counted, folder=folder, **given)
    assert len(count) == 2 * (3 - trainings // 2)
    assert_equal(found, expected)
    # What is done is read, and not done again.
    again = FIND(make, x, noisy, None, folder=folder, **given)
    assert_equal(again, expected)
    assert [path.name for path in folder.iterdir()] == ["cross_validation.npz"]


def test_rounds_can_be_added(data, tmp_path):
    x, noisy, _ = data
    FIND(make, x, noisy, train, 1, folder=tmp_path, verbose=0)
    found = FIND(make, x, noisy, train, 2, folder=tmp_path, verbose=0)
    assert_equal(found, FIND(make, x, noisy, train, 2, verbose=0))
    with pytest.raises(ValueError, match="`iterations` must be at least 2"):
        FIND(make, x, noisy, train, 1, folder=tmp_path, verbose=0)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"noise": "asymmetric"}, "noise"),
        ({"noise_rate": 0.2}, "given_rate"),
        ({"y": np.zeros(SIZE, int)}, "labels"),
    ],
)
def test_the_state_of_another_search_is_refused(data, tmp_path, change, name):
    x, noisy, _ = data
    given = {"x": x, "y": noisy, "iterations": 1, "verbose": 0}
    given["folder"] = tmp_path
    FIND(fixed, train=no_training, **given)
    with pytest.raises(ValueError, match=f"with another `{name}`"):
        FIND(fixed, train=no_training, **{**given, **change})


def broken(path, **changes):
    with np.load(path) as file:
        content = {name: file[name] for name in file.files}
    np.savez(path, **{**content, **changes})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no archive"),
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: np.savez(path, kept=np.arange(3)),
        lambda path: broken(path, kept=np.array([SIZE])),
        lambda path: broken(path, removed=np.array([[0]])),
        lambda path: broken(path, kept=np.array([0.5])),
        lambda path: broken(path, rounds=np.array("two")),
        lambda path: broken(path, rounds=np.arange(3)),
        lambda path: broken(path, kept=np.array([print], dtype=object)),
    ],
)
def test_a_broken_state_is_refused(data, tmp_path, spoil):
    x, noisy, _ = data
    given = {"iterations": 1, "folder": tmp_path, "verbose": 0}
    FIND(fixed, x, noisy, no_training, **given)
    spoil(tmp_path / "cross_validation.npz")
    with pytest.raises(ValueError, match="`folder` must hold the state"):
        FIND(fixed, x, noisy, no_training, **given)


def test_inputs_may_be_several(data):
    x, noisy, _ = data

    def two_inputs():
        left, right = keras.Input((3,)), keras.Input((3,))
        both = keras.layers.Concatenate()([left, right])
        return keras.Model([left, right], keras.layers.Dense(3)(both))

    found = FIND(
        two_inputs, [x[:, :3], x[:, 3:]], noisy[:, None], train, 1, verbose=0
    )
    assert found.kept.size > SIZE // 2


def test_it_ends_when_no_candidates_are_left():
    x = np.tile(np.eye(6, dtype="float32")[:3], (4, 1))
    y = np.arange(12) % 3
    found = FIND(fixed, x, y, no_training, 4, verbose=0)
    assert found.kept.tolist() == list(range(12))
    assert found.rounds == 1


def test_progress_is_shown(data, tmp_path, capsys):
    x, noisy, _ = data
    FIND(fixed, x, noisy, no_training, 2, folder=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("Cross-validation did round 1 of 2: ")
    FIND(fixed, x, noisy, no_training, 3, folder=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Cross-validation goes on after round 2 of 3")
    FIND(fixed, x, noisy, no_training, 1, verbose=0)
    assert not capsys.readouterr().out


def test_predictions_must_be_finite(data):
    x, noisy, _ = data

    def spoil(model, x, y):
        model.peers[0].set_weights([np.full((6, 3), math.nan)])

    with pytest.raises(ValueError, match="predictions are finite"):
        FIND(make, x, noisy, spoil, verbose=0)


def test_labels_worse_than_chance_have_no_noise_rate(data):
    x, _, clean = data
    wrong = (clean + 1) % 3
    with pytest.raises(ValueError, match="`agreement` must be at least"):
        FIND(fixed, x, wrong, no_training, verbose=0)
    found = FIND(fixed, x, wrong, no_training, 1, noise_rate=0.9, verbose=0)
    assert found.noise_rate == 0.9


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"iterations": 0}, ValueError, "`iterations` must be an integer >= 1"),
        ({"iterations": 2.0}, TypeError, "`iterations` must be an integer"),
        ({"noise": "pair"}, ValueError, "`noise` must be one of 'symmetric'"),
        ({"noise_rate": 25}, ValueError, r"`noise_rate` must be in \[0, 1\]"),
        ({"seed": -1}, ValueError, "`seed` must be an integer >= 0"),
        ({"y": [0, 1]}, ValueError, "as many examples as `y`. Received: 120"),
        ({"y": np.full(SIZE, 3)}, ValueError, r"whole numbers in \[0, 3\)"),
        ({"y": np.eye(SIZE)}, ValueError, "`y` must be class ids"),
        ({"y": ["a"] * SIZE}, TypeError, "`y` must be class ids"),
        ({"make_peer": lambda: None}, TypeError, "peers"),
    ],
)
def test_wrong_arguments(data, change, error, message):
    x, noisy, _ = data
    given = {"make_peer": make, "x": x, "y": noisy, "train": no_training}
    with pytest.raises(error, match=message):
        FIND(**{**given, "verbose": 0, **change})
