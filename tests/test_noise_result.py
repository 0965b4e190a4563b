"""Noisy labels as one object, in one call, and in a file."""

import hashlib
import io
import json

import numpy as np
import pytest

from keras_smkd import data
from keras_smkd import noise


def made(**changes):
    arguments = {
        "labels": np.tile(np.arange(10), 20),
        "kind": "symmetric_excluding_true",
        "noise_rate": 0.4,
        "num_classes": 10,
        "seed": 0,
        "exact": True,
    }
    return noise.make_noisy(**{**arguments, **changes})


MATRIX_OF = {
    "symmetric_excluding_true": noise.symmetric_excluding_true(0.4, 10),
    "symmetric_including_true": noise.symmetric_including_true(0.4, 10),
    "pair_flip": noise.pair_flip(0.4, 10),
    "asymmetric_cifar10": noise.asymmetric_cifar10(0.4),
    "asymmetric_cifar100": noise.asymmetric_cifar100(0.4),
    "asymmetric_cifar100_blocks": noise.asymmetric_cifar100_blocks(0.4),
}


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("kind", noise.KINDS)
def test_each_kind_is_the_matrix_of_its_name(kind, exact):
    matrix = MATRIX_OF[kind]
    labels = np.tile(np.arange(len(matrix), dtype=np.int16), 10)
    result = made(
        labels=labels, kind=kind, num_classes=len(matrix), exact=exact, seed=7
    )
    expected = noise.corrupt_labels(labels, matrix, 7, exact)
    np.testing.assert_array_equal(result.noisy_labels, expected)
    assert result.noisy_labels.dtype == np.int16
    np.testing.assert_array_equal(result.clean_labels, labels)
    again = noise.make_noisy(labels, **result.recipe)
    np.testing.assert_array_equal(again.noisy_labels, expected)
    assert again.recipe == result.recipe


def test_what_follows_from_the_labels():
    clean, noisy = [0, 0, 1, 1, 2], [0, 2, 1, 1, 2]
    labels = noise.NoisyLabels(clean, noisy, 3)
    assert labels.is_noisy.tolist() == [False, True, False, False, False]
    assert labels.realized_noise_rate == 0.2
    np.testing.assert_array_equal(
        labels.realized_transition_matrix,
        [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    )
    assert (len(labels), labels.num_classes, labels.recipe) == (5, 3, {})


def test_later_changes_of_what_was_given_change_nothing():
    clean, noisy, recipe = np.array([0, 1]), np.array([1, 1]), {"kind": ["a"]}
    labels = noise.NoisyLabels(clean, noisy, 2, recipe)
    clean[:], noisy[:] = 1, 0
    recipe["kind"].append("b")
    assert labels.clean_labels.tolist() == [0, 1]
    assert labels.noisy_labels.tolist() == [1, 1]
    assert labels.recipe == {"kind": ["a"]}
    with pytest.raises(AttributeError):
        labels.num_classes = 3


def test_it_prints_on_one_line():
    assert str(made()) == (
        "NoisyLabels(200 labels, 10 classes, 40.0 % wrong: "
        "symmetric_excluding_true(0.4), seed 0, exact)"
    )
    assert "40.0 % wrong: pair_flip(0.4), seed 3, exact)" in repr(
        made(kind="pair_flip", seed=3)
    )
    clean, noisy = [0, 1, 1], [0, 1, 0]
    assert repr(noise.NoisyLabels(clean, noisy, 2, {"kind": "human"})) == (
        "NoisyLabels(3 labels, 2 classes, 33.3 % wrong: human)"
    )


def test_any_matrix_in_one_call(rng):
    matrix = rng.dirichlet(np.ones(4), size=4)
    labels = rng.integers(0, 4, 100)
    result = noise.make_noisy_by_matrix(labels, matrix, seed=2, name="mine")
    np.testing.assert_array_equal(
        result.noisy_labels, noise.corrupt_labels(labels, matrix, 2)
    )
    assert result.num_classes == 4
    assert result.recipe == {
        "kind": "mine",
        "sha256": hashlib.sha256(matrix.tobytes()).hexdigest(),
        "seed": 2,
        "exact": False,
    }
    exact = noise.make_noisy_by_matrix(labels, matrix, seed=2, exact=True)
    np.testing.assert_array_equal(
        exact.noisy_labels, noise.corrupt_labels(labels, matrix, 2, True)
    )
    assert exact.recipe["kind"] == "transition_matrix"


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_saved_and_loaded_is_the_same(tmp_path, dtype):
    saved = made(labels=np.tile(np.arange(10, dtype=dtype), 20))
    saved.save(tmp_path / "labels.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["labels.npz"]
    loaded = noise.NoisyLabels.load(str(tmp_path / "labels.npz"))
    for name in ("clean_labels", "noisy_labels"):
        ours, theirs = getattr(saved, name), getattr(loaded, name)
        assert ours.dtype == theirs.dtype == dtype
        np.testing.assert_array_equal(ours, theirs)
    assert loaded.num_classes == 10 and type(loaded.num_classes) is int
    assert loaded.recipe == saved.recipe
    assert repr(loaded) == repr(saved)


def test_a_class_without_examples_prints_and_saves(tmp_path):
    labels = noise.NoisyLabels([0, 2], [0, 1], 4, {"note": "é"})
    assert repr(labels) == "NoisyLabels(2 labels, 4 classes, 50.0 % wrong)"
    labels.save(tmp_path / "labels.npz")
    assert noise.NoisyLabels.load(tmp_path / "labels.npz").recipe == {
        "note": "é"
    }
    with pytest.raises(ValueError, match=r"without classes \[1, 3\]"):
        _ = labels.realized_transition_matrix


def test_a_saved_file_serves_as_human_labels(tmp_path):
    saved = made()
    saved.save(tmp_path / "labels.npz")
    for name in ("clean", "noisy"):
        np.testing.assert_array_equal(
            data.load_human_labels(tmp_path / "labels.npz", f"{name}_label"),
            getattr(saved, f"{name}_labels"),
        )


def archive(**changes):
    """Return the bytes of a saved file, with some arrays changed or gone."""
    arrays = {
        "version": np.int64(1),
        "clean_label": np.array([0, 1]),
        "noisy_label": np.array([1, 1]),
        "num_classes": np.int64(2),
        "recipe": np.array("{}"),
        **changes,
    }
    buffer = io.BytesIO()
    np.savez(buffer, **{k: v for k, v in arrays.items() if v is not None})
    return buffer.getvalue()


def bare_array():
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"not a file of NumPy", ValueError, "must be an intact .npz file"),
        (b"", ValueError, "must be an intact .npz file"),
        (bare_array(), ValueError, "must be an intact .npz file"),
        (archive()[:-40], ValueError, "must be an intact .npz file"),
        (
            archive(version=None, recipe=None),
            ValueError,
            r"that NoisyLabels\.save wrote\. .*without version, recipe\.",
        ),
        (
            archive(version=np.int64(2)),
            ValueError,
            r"of version 1\. Received: .*version 2\. Another version",
        ),
        (
            archive(clean_label=np.array([{}, {}])),
            ValueError,
            "without pickled objects",
        ),
        (
            archive(recipe=np.array("{'a': 1}")),
            ValueError,
            "whose recipe is JSON.*recipe=\"{'a': 1}\"",
        ),
        (
            archive(recipe=np.array("[]")),
            TypeError,
            r"`recipe` must be a dict.*recipe=\[\]",
        ),
        (archive(num_classes=np.int64(1)), ValueError, "`num_classes` must"),
        (archive(num_classes=np.arange(2)), TypeError, "`num_classes` must"),
        (
            archive(noisy_label=np.array([0.0, 0.5])),
            ValueError,
            r"`noisy_labels` must be class ids.*\[1\]=0\.5",
        ),
        (
            archive(noisy_label=np.array(["a", "b"])),
            TypeError,
            "`noisy_labels` must be class ids.*dtype <U1",
        ),
        (
            archive(noisy_label=np.array([0, 2])),
            ValueError,
            r"`noisy_labels` must .*\[0, 2\)",
        ),
        (
            archive(noisy_label=np.array([0])),
            ValueError,
            "1 noisy_labels, 2 clean_labels",
        ),
    ],
)
def test_wrong_files(tmp_path, content, error, message):
    path = tmp_path / "labels.npz"
    path.write_bytes(archive())
    assert len(noise.NoisyLabels.load(path)) == 2
    path.write_bytes(content)
    with pytest.raises(error, match=message):
        noise.NoisyLabels.load(path)


def test_wrong_paths(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.npz\. Received"):
        made().save(tmp_path / "labels.npy")
    with pytest.raises(FileNotFoundError, match="must be an existing"):
        noise.NoisyLabels.load(tmp_path / "absent.npz")
    with pytest.raises(FileNotFoundError, match="must be an existing"):
        noise.NoisyLabels.load(tmp_path)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ([], r"must be a dict with string keys.*recipe=\[\]"),
        ({1: 2}, r"must be a dict with string keys.*recipe=\{1: 2\}"),
        ({"a": np.int64(1)}, "must hold only finite numbers"),
        ({"a": float("nan")}, "must hold only finite numbers"),
        ({"a": {1, 2}}, "must hold only finite numbers"),
    ],
)
def test_wrong_recipes(recipe, message):
    with pytest.raises(TypeError, match=message):
        noise.NoisyLabels([0, 1], [0, 1], 2, recipe)
    json.dumps(noise.NoisyLabels([0, 1], [0, 1], 2, {"a": (1, 2)}).recipe)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kind": "uniform"}, ValueError, "`kind` must be one of 'symmetric_"),
        (
            {"kind": "asymmetric_cifar100"},
            ValueError,
            "`num_classes` must be 100 for kind='asymmetric_cifar100'. "
            "Received: num_classes=10",
        ),
        (
            {"kind": "asymmetric_cifar10", "num_classes": 100},
            ValueError,
            "`num_classes` must be 10 for kind='asymmetric_cifar10'",
        ),
        ({"noise_rate": 40}, ValueError, r"noise_rate=40\. Give a fraction"),
        ({"noise_rate": None}, TypeError, "`noise_rate` must be a number"),
        ({"num_classes": 5}, ValueError, r"`labels` must be .*\[0, 5\)"),
        ({"num_classes": 10.0}, TypeError, "`num_classes` must be an integer"),
        ({"labels": [0.5]}, ValueError, "`labels` must be class ids"),
        ({"seed": -1}, ValueError, "`seed` must be an integer >= 0"),
    ],
)
def test_errors(changes, error, message):
    with pytest.raises(error, match=message):
        made(**changes)


def test_name_of_a_matrix_must_be_a_string():
    with pytest.raises(TypeError, match=r"`name` must be a string.*name=3"):
        noise.make_noisy_by_matrix([0, 1], np.eye(2), seed=0, name=3)
