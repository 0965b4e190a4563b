"""Transition matrices and the labels drawn from them."""

import doctest
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from keras_smkd import noise

MATRICES = (
    noise.symmetric_excluding_true,
    noise.symmetric_including_true,
    noise.pair_flip,
)


def test_matrices_worked_by_hand():
    np.testing.assert_allclose(
        noise.symmetric_excluding_true(0.3, 4),
        [
            [0.7, 0.1, 0.1, 0.1],
            [0.1, 0.7, 0.1, 0.1],
            [0.1, 0.1, 0.7, 0.1],
            [0.1, 0.1, 0.1, 0.7],
        ],
        atol=1e-15,
    )
    np.testing.assert_allclose(
        noise.symmetric_including_true(0.5, 2), [[0.75, 0.25], [0.25, 0.75]]
    )
    np.testing.assert_allclose(
        noise.pair_flip(0.2, 3),
        [[0.8, 0.2, 0.0], [0.0, 0.8, 0.2], [0.2, 0.0, 0.8]],
    )


def test_asymmetric_cifar10_maps_the_named_classes():
    names = (
        "airplane automobile bird cat deer dog frog horse ship truck".split()
    )
    flips = {
        "truck": "automobile",
        "bird": "airplane",
        "deer": "horse",
        "cat": "dog",
        "dog": "cat",
    }
    matrix = noise.asymmetric_cifar10(0.4)
    for i, clean in enumerate(names):
        expected = dict.fromkeys(names, 0.0)
        expected[clean] = 0.6 if clean in flips else 1.0
        if clean in flips:
            expected[flips[clean]] = 0.4
        assert dict(zip(names, matrix[i].tolist(), strict=True)) == expected


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize(
    ("build", "share"),
    [
        (lambda r: noise.symmetric_excluding_true(r, 10), 1.0),
        (lambda r: noise.symmetric_including_true(r, 10), 0.9),
        (lambda r: noise.pair_flip(r, 10), 1.0),
        (noise.asymmetric_cifar10, 0.5),
    ],
)
def test_share_of_wrong_labels_is_as_documented(build, share, rate):
    matrix = build(rate)
    assert matrix.dtype == np.float64
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)
    assert 1 - matrix.diagonal().mean() == pytest.approx(share * rate)
    if rate == 0.0:
        np.testing.assert_array_equal(matrix, np.eye(10))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_identity_flips_nothing_and_dtype_is_kept(rng, exact, dtype):
    labels = rng.integers(0, 10, 1000).astype(dtype)
    noisy = noise.corrupt_labels(labels, np.eye(10), seed=0, exact=exact)
    assert noisy.dtype == labels.dtype
    np.testing.assert_array_equal(noisy, labels)


def test_drawn_labels_follow_every_cell_of_the_matrix(rng):
    matrix = rng.dirichlet(np.ones(5), size=5)
    labels = rng.integers(0, 5, 50_000)
    noisy = noise.corrupt_labels(labels, matrix, seed=11)
    realized = noise.realized_transition_matrix(labels, noisy, 5)
    counts = np.bincount(labels)[:, None]
    error = np.sqrt(matrix * (1 - matrix) / counts)
    assert np.all(np.abs(realized - matrix) < 4 * error)


@pytest.mark.parametrize("rate", [0.2, 0.4, 0.8])
def test_drawn_rate_is_within_four_standard_errors(rng, rate):
    labels = rng.integers(0, 10, 20_000)
    matrix = noise.symmetric_excluding_true(rate, 10)
    noisy = noise.corrupt_labels(labels, matrix, seed=3)
    error = np.sqrt(rate * (1 - rate) / labels.size)
    realized = noise.realized_noise_rate(labels, noisy)
    assert abs(realized - rate) < 4 * error
    # A rate that equals the expected one is drawn by count, not by chance.
    assert realized != rate


def test_draws_equal_a_naive_loop(rng):
    labels = rng.integers(0, 4, 300)
    matrix = np.array(
        [
            [0.0, 0.5, 0.5, 0.0],
            [0.0, 0.0, 1.0, 0.0],
            [0.1, 0.2, 0.3, 0.4],
            [1.0, 0.0, 0.0, 0.0],
        ]
    )
    expected = []
    generator = np.random.default_rng(5)
    for label in labels:
        left = generator.random()
        noisy = 0
        while left >= matrix[label, noisy]:
            left -= matrix[label, noisy]
            noisy += 1
        expected.append(noisy)
    drawn = noise.corrupt_labels(labels, matrix, seed=5)
    np.testing.assert_array_equal(drawn, expected)


def test_class_of_probability_zero_is_never_drawn():
    # Ten times 0.1 sums to less than 1 in floats, and the row's own sum may
    # be off by as much as the check lets pass.
    row = np.append(np.full(10, 0.1) - 9e-8, 0.0)
    matrix = np.vstack([row] * 11)
    labels = np.zeros(2_000_000, np.int8)
    for seed in range(3):
        noisy = noise.corrupt_labels(labels, matrix, seed)
        assert noisy.max() == 9


def test_exact_counts_are_the_expected_ones():
    labels = np.repeat(np.arange(10), 50)
    matrix = noise.symmetric_excluding_true(0.18, 10)
    noisy = noise.corrupt_labels(labels, matrix, seed=1, exact=True)
    counts = noise.realized_transition_matrix(labels, noisy, 10) * 50
    expected = np.full((10, 10), 1.0) + 40 * np.eye(10)
    np.testing.assert_allclose(counts, expected, atol=1e-9)


def test_exact_rounds_by_largest_remainder():
    # 7 * (0.5, 0.3, 0.2) = (3.5, 2.1, 1.4): the one left over goes to 0.5.
    labels = np.repeat([0, 1, 2], 7)
    matrix = [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]]
    noisy = noise.corrupt_labels(labels, matrix, seed=0, exact=True)
    counts = [np.bincount(noisy[labels == i]).tolist() for i in range(3)]
    assert counts == [[4, 2, 1], [1, 4, 2], [2, 1, 4]]


def test_exact_gives_ties_to_the_next_classes_in_turn():
    # One example of each class, and no class more likely than another.
    matrix = np.full((4, 4), 0.25)
    noisy = noise.corrupt_labels([0, 1, 2, 3], matrix, seed=0, exact=True)
    assert noisy.tolist() == [1, 2, 3, 0]
    # 0.4 and 1.4 are expected: they tie, whatever rounding makes of them.
    matrix = np.array([[1.0, 0.0, 0.0], [0.1, 0.2, 0.7], [0.0, 0.0, 1.0]])
    noisy = noise.corrupt_labels([1, 1], matrix, seed=0, exact=True)
    assert noisy.tolist() == [2, 2]


def test_exact_seed_decides_only_which_examples_flip():
    labels = np.tile(np.arange(5), 40)
    matrix = noise.pair_flip(0.3, 5)
    first, second = (
        noise.corrupt_labels(labels, matrix, seed, exact=True)
        for seed in (0, 1)
    )
    assert np.any(first != second)
    np.testing.assert_array_equal(np.bincount(first), np.bincount(second))
    assert noise.realized_noise_rate(labels, first) == 0.3
    # Not simply the first examples of each class.
    assert np.any(first[:100] == labels[:100])
    assert np.any(first[100:] != labels[100:])


@pytest.mark.parametrize("exact", [False, True])
def test_same_seed_same_labels_and_no_global_state(rng, exact):
    labels = rng.integers(0, 10, 500)
    matrix = noise.symmetric_including_true(0.5, 10)
    before = np.random.get_state()  # noqa: NPY002
    first = noise.corrupt_labels(labels, matrix, seed=4, exact=exact)
    again = noise.corrupt_labels(labels, matrix, seed=4, exact=exact)
    other = noise.corrupt_labels(labels, matrix, seed=5, exact=exact)
    after = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]


def test_realized_rate_and_matrix_by_hand():
    clean = np.array([0, 0, 0, 0, 1, 1, 2, 2], np.uint8)
    noisy = np.array([0, 1, 2, 0, 1, 1, 2, 0], np.uint8)
    assert noise.realized_noise_rate(clean, noisy) == 0.375
    np.testing.assert_array_equal(
        noise.realized_transition_matrix(clean, noisy, 3),
        [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]],
    )


def test_realized_matrix_of_bytes_does_not_overflow():
    clean = np.arange(100, dtype=np.uint8)
    np.testing.assert_array_equal(
        noise.realized_transition_matrix(clean, clean, 100), np.eye(100)
    )


def test_realized_rate_is_logged(caplog):
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    try:
        with caplog.at_level("INFO", logger="absl"):
            noise.corrupt_labels(
                [0, 0, 0, 0], noise.pair_flip(0.25, 2), seed=0, exact=True
            )
    finally:
        logging.set_verbosity(verbosity)
    assert "0.2500 of 4 labels are wrong" in caplog.text


def test_matrix_is_checked_and_copied():
    given = np.eye(2, dtype=np.float32)
    checked = noise.check_transition_matrix(given, num_classes=2)
    checked[0] = 0.5
    assert checked.dtype == np.float64
    noise.check_transition_matrix([[1 + 5e-7, 0], [5e-7, 1 - 1e-6]])
    np.testing.assert_array_equal(given, np.eye(2))


@pytest.mark.parametrize(
    "build",
    [
        lambda rate: noise.symmetric_excluding_true(rate, 10),
        lambda rate: noise.symmetric_including_true(rate, 10),
        lambda rate: noise.pair_flip(rate, 10),
        noise.asymmetric_cifar10,
    ],
)
def test_noise_rate_out_of_range(build):
    with pytest.raises(
        ValueError,
        match=r"`noise_rate` must be in \[0, 1\]\. Received: noise_rate=40\. "
        r"Give a fraction, not a percentage\.",
    ):
        build(40)
    with pytest.raises(ValueError, match=r"noise_rate=-0\.1"):
        build(-0.1)
    with pytest.raises(ValueError, match="noise_rate=nan"):
        build(float("nan"))
    with pytest.raises(TypeError, match="`noise_rate` must be a number"):
        build("0.4")


@pytest.mark.parametrize("build", MATRICES)
def test_num_classes_out_of_range(build):
    with pytest.raises(
        ValueError, match="`num_classes` must be an integer >= 2"
    ):
        build(0.2, 1)
    with pytest.raises(TypeError, match="`num_classes` must be an integer"):
        build(0.2, 10.0)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1.0, 0.0]], r"must be square.*shape \(1, 2\)"),
        ([1.0, 0.0], r"must be square.*shape \(2,\)"),
        ([[1.0]], r"at least 2 classes.*shape \(1, 1\)"),
        ([[1, 0], [1.5, -0.5]], r"in \[0, 1\].*\[1, 0\]=1\.5"),
        ([[1, 0], [np.nan, 1]], r"in \[0, 1\].*\[1, 0\]=nan"),
        ([[np.inf, 0], [0, 1]], r"in \[0, 1\].*\[0, 0\]=inf"),
        ([[1, 0], [0.5, 0.4]], r"row 1 of transition_matrix sums to 0\.9\.$"),
        ([[0.9, 0.2], [0.1, 0.8]], r"row 0.*sums to 1\.1\..*transpose it"),
        (np.eye(2) + 2e-6, r"row 0 of|in \[0, 1\]"),
    ],
)
def test_matrix_errors(matrix, message):
    with pytest.raises(ValueError, match=message):
        noise.check_transition_matrix(matrix)
    with pytest.raises(ValueError, match=message):
        noise.corrupt_labels([0, 0], matrix, seed=0)


def test_matrix_of_another_size_or_kind():
    with pytest.raises(ValueError, match=r"must have shape \(3, 3\)"):
        noise.check_transition_matrix(np.eye(2), num_classes=3)
    with pytest.raises(TypeError, match="square array of numbers"):
        noise.check_transition_matrix([["a", "b"], ["c", "d"]])
    with pytest.raises(TypeError, match="square array of numbers"):
        noise.check_transition_matrix([[1, 0], [1]])


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0.0, 0.5], ValueError, r"`labels` must be class ids.*\[1\]=0\.5"),
        ([0.0, np.nan], ValueError, r"`labels` must be class ids.*\[1\]=nan"),
        (["a", "b"], TypeError, r"`labels` must be class.*<U1\. Encode names"),
        ([[0, 1]], ValueError, r"`labels` must be .*shape \(1, 2\)"),
        (1, ValueError, r"`labels` must be .*shape \(\)"),
        ([], ValueError, r"`labels` must be .*shape \(0,\)"),
        ([0, 2], ValueError, r"in \[0, 2\).*labels from 0 to 2"),
        ([-1, 1], ValueError, r"in \[0, 2\).*labels from -1 to 1"),
    ],
)
def test_label_errors(labels, error, message):
    with pytest.raises(error, match=message):
        noise.corrupt_labels(labels, np.eye(2), seed=0)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("dtype", "classes", "expected"),
    [
        ("uint8", 256, "uint8"),
        ("uint8", 257, "int64"),
        ("int8", 128, "int8"),
        ("int8", 129, "int64"),
        ("uint64", 300, "uint64"),
        ("float32", 300, "int64"),
        ("bool", 2, "int64"),
    ],
)
def test_labels_of_every_dtype(dtype, classes, expected, exact):
    wide = np.tile([0, 1], 50)
    matrix = noise.pair_flip(0.5, classes)
    noisy = noise.corrupt_labels(wide, matrix, seed=0, exact=exact)
    assert set(noisy.tolist()) == {0, 1, 2 % classes}
    for labels in (wide.astype(dtype), wide.astype(dtype)[:, None]):
        found = noise.corrupt_labels(labels, matrix, seed=0, exact=exact)
        assert found.dtype == expected
        assert found.tolist() == noisy.tolist()
        pair = noise.NoisyLabels(labels, found, classes)
        assert pair.clean_labels.dtype == pair.noisy_labels.dtype == expected
        assert pair.clean_labels.tolist() == wide.tolist()
        assert pair.realized_noise_rate == np.mean(noisy != wide)
        rate = noise.realized_noise_rate(labels, found)
        assert rate == pair.realized_noise_rate


def test_high_labels_of_a_narrow_dtype_find_their_rows():
    highest = np.full(4, 255, np.uint8)
    noisy = noise.corrupt_labels(highest, noise.pair_flip(1.0, 300), seed=0)
    assert noisy.tolist() == [256] * 4
    noisy = noise.corrupt_labels(highest, noise.pair_flip(1.0, 256), seed=0)
    assert noisy.tolist() == [0] * 4


@pytest.mark.parametrize(
    ("seed", "error"), [(None, TypeError), (1.0, TypeError), (-1, ValueError)]
)
def test_seed_errors(seed, error):
    with pytest.raises(error, match="`seed` must be an integer"):
        noise.corrupt_labels([0, 1], np.eye(2), seed=seed)


def test_realized_errors():
    with pytest.raises(
        ValueError, match=r"as long as.*3 noisy_labels, 2 clean"
    ):
        noise.realized_noise_rate([0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match=r"`noisy_labels` must .*\[0\]=0\.5"):
        noise.realized_noise_rate([0, 1], [0.5, 1.0])
    with pytest.raises(ValueError, match=r"`clean_labels` must .*-1 to 0"):
        noise.realized_noise_rate([0, -1], [0, 1])
    with pytest.raises(ValueError, match=r"without classes \[1, 3\]"):
        noise.realized_transition_matrix([0, 2], [0, 2], 4)
    with pytest.raises(ValueError, match=r"`noisy_labels` must .*\[0, 2\)"):
        noise.realized_transition_matrix([0, 1], [0, 2], 2)
    with pytest.raises(ValueError, match="`num_classes` must be"):
        noise.realized_transition_matrix([0, 1], [0, 1], 1)


@pytest.mark.parametrize(
    "module",
    [
        noise.cifar,
        noise.injectors,
        noise.instance,
        noise.labels,
        noise.matrices,
        noise.open_set,
        noise.result,
    ],
)
def test_docstring_examples(module):
    result = doctest.testmod(module, extraglobs={"np": np, **vars(noise)})
    assert result.attempted > 1
    assert result.failed == 0


@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None,
    reason="needs a backend other than TensorFlow: jax is not installed",
)
def test_import_loads_no_other_framework():
    code = (
        "import sys, keras_smkd.noise, keras_smkd.data; "
        "loaded = {'tensorflow', 'tensorflow_datasets', 'keras_cv', 'torch'}"
        " & set(sys.modules); sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
