"""Noise that depends on the input, and labels drawn example by example."""

import math
import tracemalloc

import numpy as np
import pytest

from keras_smkd import noise
from keras_smkd.noise import instance


def data(rng, examples=40, features=6, classes=5):
    return (
        rng.normal(size=(examples, features)),
        rng.integers(0, classes, examples),
        rng.normal(size=(classes, features, classes)),
        rng.uniform(0, 1, examples),
    )


def naive(features, labels, projections, flip_rates, scale):
    rows = []
    for x, y, q in zip(features, labels, flip_rates, strict=True):
        classes = len(projections)
        scores = [
            scale * sum(x[d] * projections[y][d][c] for d in range(len(x)))
            for c in range(classes)
        ]
        total = sum(math.exp(scores[c]) for c in range(classes) if c != y)
        rows.append(
            [
                1 - q if c == y else q * math.exp(scores[c]) / total
                for c in range(classes)
            ]
        )
    return rows


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_probabilities_equal_a_naive_loop(rng, scale, monkeypatch):
    # Several chunks for each class, the last not full.
    monkeypatch.setattr(instance, "_CHUNK", 3)
    given = data(rng)
    ours = noise.instance_dependent_probabilities(*given, scale=scale)
    np.testing.assert_allclose(ours, naive(*given, scale), rtol=1e-12)
    np.testing.assert_allclose(ours.sum(axis=1), 1.0, atol=1e-12)


def test_probabilities_worked_by_hand():
    projections = np.zeros((3, 1, 3))
    projections[2, 0] = [math.log(3.0), 0.0, 50.0]
    probabilities = noise.instance_dependent_probabilities(
        [[1.0], [2.0]], [2, 2], projections, [0.4, 1.0]
    )
    np.testing.assert_allclose(
        probabilities, [[0.3, 0.1, 0.6], [0.9, 0.1, 0.0]], atol=1e-12
    )


def test_flip_rate_zero_keeps_and_one_flips(rng):
    features, labels, projections, _ = data(rng)
    at_label = np.arange(labels.size), labels
    for rate in (0.0, 1.0):
        probabilities = noise.instance_dependent_probabilities(
            features, labels, projections, np.full(labels.size, rate)
        )
        np.testing.assert_array_equal(probabilities[at_label], 1.0 - rate)


def test_scale_goes_from_symmetric_to_one_wrong_class(rng):
    features, labels, projections, rates = data(rng)
    args = features, labels, projections, rates
    symmetric = noise.instance_dependent_probabilities(*args, scale=0.0)
    wrong = symmetric[np.arange(5) != labels[:, None]].reshape(-1, 4)
    np.testing.assert_allclose(wrong, np.repeat(rates[:, None] / 4, 4, axis=1))
    certain = noise.instance_dependent_probabilities(*args, scale=1e6)
    assert np.all(np.count_nonzero(certain, axis=1) == 2)


def test_images_are_flattened_and_dtypes_agree(rng):
    images = rng.integers(0, 256, (30, 4, 4, 3), np.uint8)
    labels = rng.integers(0, 3, 30)
    expected = noise.draw_instance_dependent_probabilities(
        images, labels, 0.4, num_classes=3, seed=0, scale=0.01
    )
    for features in (
        images.astype(np.float32),
        images.reshape(30, -1).astype(np.int64),
    ):
        ours = noise.draw_instance_dependent_probabilities(
            features, labels, 0.4, num_classes=3, seed=0, scale=0.01
        )
        np.testing.assert_array_equal(ours, expected)


def test_a_projection_depends_on_the_seed_and_its_class_alone(rng):
    features, labels, _, _ = data(rng, examples=60)

    def draw(keep):
        return noise.draw_instance_dependent_probabilities(
            features[keep], labels[keep], 1.0, num_classes=5, seed=3
        )

    everything = draw(np.arange(60))
    for label in range(5):
        keep = np.flatnonzero(labels == label)
        np.testing.assert_allclose(draw(keep), everything[keep], rtol=1e-9)
    # Other classes have other projections, and other seeds, too.
    same = np.tile(features[:1], (5, 1))
    drawn = [
        noise.draw_instance_dependent_probabilities(
            same, np.arange(5), 1.0, num_classes=5, seed=seed
        )
        for seed in (3, 4)
    ]
    assert len(np.unique(np.round(np.stack(drawn), 6), axis=1)[0]) == 5
    assert np.all(np.abs(drawn[0] - drawn[1]).max(axis=1) > 1e-3)
    ratios = drawn[0][:3, 3] / drawn[0][:3, 4]
    assert len(np.unique(np.round(ratios, 6))) == 3


def test_projections_are_standard_normal():
    # With features of the identity and one class, scores are the projection:
    # differences of log probabilities have variance 2.
    classes, examples = 30, 400
    probabilities = noise.draw_instance_dependent_probabilities(
        np.eye(examples),
        np.zeros(examples, int),
        1.0,
        num_classes=classes,
        seed=0,
    )
    logs = np.log(probabilities[:, 1:])
    difference = (logs[:, 1::2] - logs[:, :-1:2]).ravel()
    error = 1 / math.sqrt(difference.size)
    assert abs(difference.mean()) < 4 * math.sqrt(2) * error
    assert abs(difference.var() - 2) < 4 * 2 * math.sqrt(2) * error


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.4, 0.9])
@pytest.mark.parametrize("std", [0.1, 0.3])
def test_flip_rates_have_the_truncated_normal_distribution(rate, std):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.truncnorm(-rate / std, (1 - rate) / std, rate, std)
    levels = np.array([0.001, 0.01, 0.25, 0.5, 0.75, 0.99, 0.999])
    np.testing.assert_allclose(
        instance.truncated_normal_quantiles(levels, rate, std),
        expected.ppf(levels),
        rtol=1e-9,
    )
    labels = np.zeros(20_000, int)
    probabilities = noise.draw_instance_dependent_probabilities(
        np.zeros((20_000, 1)), labels, rate, num_classes=2, seed=1, std=std
    )
    flip_rates = probabilities[:, 1]
    assert 0 <= flip_rates.min() and flip_rates.max() <= 1
    # The 0.1 % point of the distance of Kolmogorov and Smirnov is 1.95.
    distance = stats.kstest(flip_rates, expected.cdf).statistic
    assert distance < 1.95 / math.sqrt(labels.size)
    error = expected.std() / math.sqrt(labels.size)
    assert abs(flip_rates.mean() - expected.mean()) < 4 * error


def test_quantiles_at_the_ends_are_finite_and_in_range():
    levels = np.array([0.0, 1.0 - 2.0**-53, 1.0])
    for mean in (0.0, 0.5, 1.0):
        for std in (0.0, 1e-9, 0.1, 10.0):
            values = instance.truncated_normal_quantiles(levels, mean, std)
            assert np.all((values >= 0.0) & (values <= 1.0))
    values = instance.truncated_normal_quantiles(levels[:2], 0.5, 10.0)
    np.testing.assert_allclose(values, [0.0, 1.0], atol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_noise_rate_zero_flips_none_and_one_all(rng, rate):
    features, labels, _, _ = data(rng)
    noisy = noise.make_noisy_by_instance(
        labels, features, rate, num_classes=5, seed=0
    )
    assert noisy.realized_noise_rate == rate


def test_without_deviation_all_flip_rates_are_the_noise_rate(rng):
    features, labels, _, _ = data(rng)
    probabilities = noise.draw_instance_dependent_probabilities(
        features, labels, 0.3, num_classes=5, seed=0, std=0.0
    )
    chosen = probabilities[np.arange(labels.size), labels]
    np.testing.assert_allclose(chosen, 0.7)


def test_noisy_labels_have_the_expected_rate(rng):
    images = rng.integers(0, 256, (10_000, 12), np.uint8)
    labels = rng.integers(0, 10, 10_000).astype(np.uint8)
    noisy = noise.make_noisy_by_instance(
        labels, images, 0.4, num_classes=10, seed=0
    )
    assert noisy.noisy_labels.dtype == np.uint8
    # A coin of 0.4, whatever the spread of the rates: within 4 deviations.
    error = math.sqrt(0.4 * 0.6 / labels.size)
    assert abs(noisy.realized_noise_rate - 0.4) < 4 * error
    assert noisy.recipe == {
        "kind": "instance_dependent",
        "noise_rate": 0.4,
        "num_classes": 10,
        "seed": 0,
        "std": 0.1,
        "scale": 1.0,
    }
    probabilities = noise.draw_instance_dependent_probabilities(
        images, labels, 0.4, num_classes=10, seed=0
    )
    np.testing.assert_array_equal(
        noisy.noisy_labels, noise.draw_labels(probabilities, 0)
    )


def test_memory_is_that_of_a_chunk_not_of_the_features(rng):
    features = np.ones((20_000, 1000), np.uint8)
    labels = np.zeros(20_000, np.uint8)
    tracemalloc.start()
    noise.draw_instance_dependent_probabilities(
        features, labels, 0.4, num_classes=2, seed=0
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # In float64 the features would take 160 MB.
    assert peak < 20e6


def test_labels_drawn_one_by_one_are_those_of_the_matrix(rng):
    matrix = rng.dirichlet(np.ones(6), size=6)
    matrix[2] = [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    labels = rng.integers(0, 6, 5000)
    np.testing.assert_array_equal(
        noise.draw_labels(matrix[labels], seed=4),
        noise.corrupt_labels(labels, matrix, seed=4),
    )


def test_class_of_probability_zero_is_never_drawn():
    # The row's sum is off by as much as the check lets pass, and this seed
    # has a number above it.
    row = np.append(np.full(10, 0.1) - 9e-8, 0.0)
    seed = 26
    uniform = np.random.default_rng(seed).random(100_000)
    assert uniform.max() > row.sum()
    drawn = noise.draw_labels(np.tile(row, (100_000, 1)), seed)
    assert drawn.dtype == np.int64
    assert drawn.max() == drawn[uniform.argmax()] == 9


GOOD = {
    "features": np.zeros((2, 3)),
    "labels": [0, 1],
    "projections": np.zeros((2, 3, 2)),
    "flip_rates": [0.1, 0.2],
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": np.zeros((3, 3))}, ValueError, "2 labels, 3 features"),
        ({"features": [0.0, 1.0]}, ValueError, r"features of shape \(2,\)"),
        ({"features": np.zeros((2, 0))}, ValueError, r"shape \(2, 0\)"),
        (
            {"features": np.zeros((2, 3), bool)},
            TypeError,
            "`features` must be integers or floating point.*dtype bool",
        ),
        ({"features": [["a"], ["b"]]}, TypeError, "`features` must be int"),
        (
            {"features": [[0, 0, 0], [0, np.nan, 0]]},
            ValueError,
            "`features` must give finite scores.*at example 1",
        ),
        (
            {"features": np.zeros((2, 4))},
            ValueError,
            r"`projections` must have shape \(classes, 4, classes\)",
        ),
        ({"labels": [0, 2]}, ValueError, r"in \[0, 2\).*from 0 to 2"),
        ({"labels": [0.0, 0.5]}, ValueError, r"`labels` must be .*=0\.5"),
        (
            {"projections": np.zeros((2, 3, 3))},
            ValueError,
            r"`projections` must be numbers.*shape \(2, 3, 3\)",
        ),
        (
            {"projections": np.zeros((3, 2))},
            ValueError,
            r"`projections` must be numbers.*shape \(3, 2\)",
        ),
        ({"flip_rates": [0.1]}, ValueError, r"`flip_rates` .*shape \(1,\)"),
        ({"flip_rates": ["a", "b"]}, ValueError, "`flip_rates` must be one"),
        ({"flip_rates": [0.1, 1.5]}, ValueError, r"in \[0, 1\].*0\.1 to 1\.5"),
        ({"flip_rates": [np.nan, 0]}, ValueError, r"`flip_rates` .*\[0, 1\]"),
        ({"scale": -1}, ValueError, "`scale` must be .*Received: scale=-1"),
        ({"scale": "1"}, TypeError, "`scale` must be a number"),
    ],
)
def test_errors_of_given_chances(change, error, message):
    noise.instance_dependent_probabilities(**GOOD)
    with pytest.raises(error, match=message):
        noise.instance_dependent_probabilities(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": np.zeros((3, 3))}, ValueError, "2 labels, 3 features"),
        ({"labels": [0, 2]}, ValueError, r"in \[0, 2\).*from 0 to 2"),
        ({"labels": []}, ValueError, r"`labels` must be .*shape \(0,\)"),
        ({"noise_rate": 40}, ValueError, r"noise_rate=40\. Give a fraction"),
        ({"num_classes": 1}, ValueError, "`num_classes` must be"),
        ({"seed": -1}, ValueError, "`seed` must be an integer >= 0"),
        ({"seed": None}, TypeError, "`seed` must be an integer"),
        ({"std": -0.1}, ValueError, "`std` must be .*std=-0.1"),
        ({"scale": math.inf}, ValueError, "`scale` must be .*scale=inf"),
    ],
)
def test_errors_of_drawn_chances(change, error, message):
    good = {
        "labels": [0, 1],
        "features": np.zeros((2, 3)),
        "noise_rate": 0.4,
        "num_classes": 2,
        "seed": 0,
    }
    noise.make_noisy_by_instance(**good)
    with pytest.raises(error, match=message):
        noise.make_noisy_by_instance(**{**good, **change})


def test_instance_noise_of_labels_of_every_dtype(rng):
    clean, features = np.tile([0, 1, 2], 20), rng.normal(size=(60, 4))
    options = {"noise_rate": 0.5, "num_classes": 300, "seed": 0}
    whole = noise.make_noisy_by_instance(clean, features, **options)
    for dtype in ("uint8", "int16", "float32"):
        labels = clean.astype(dtype)[:, None]
        found = noise.make_noisy_by_instance(labels, features, **options)
        np.testing.assert_array_equal(found.noisy_labels, whole.noisy_labels)
        np.testing.assert_array_equal(found.clean_labels, clean)
        kept = "int16" if dtype == "int16" else "int64"
        assert found.noisy_labels.dtype == found.clean_labels.dtype == kept


@pytest.mark.parametrize(
    ("probabilities", "error", "message"),
    [
        ([0.5, 0.5], ValueError, r"`probabilities` must be .*shape \(2,\)"),
        ([[1.0]], ValueError, r"2 classes.*shape \(1, 1\)"),
        (np.zeros((0, 2)), ValueError, r"one example.*shape \(0, 2\)"),
        ([[0.5, 0.4]], ValueError, r"row 0 of probabilities sums to 0\.9"),
        ([[1.5, -0.5]], ValueError, r"probabilities\[0, 0\]=1\.5"),
        ([[np.nan, 1.0]], ValueError, r"probabilities\[0, 0\]=nan"),
        ([["a", "b"]], TypeError, "`probabilities` must be an array of num"),
    ],
)
def test_errors_of_drawing(probabilities, error, message):
    with pytest.raises(error, match=message):
        noise.draw_labels(probabilities, seed=0)
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        noise.draw_labels([[0.5, 0.5]], seed=0.5)
