"""Matrices, rates, posteriors and weights estimated from noisy labels."""

import builtins
import doctest
import importlib
import math
import statistics

import numpy as np
import pytest

from keras_smkd import estimators
from keras_smkd import noise

POSTERIORS = {
    "beta": estimators.beta_mixture_posterior,
    "beta, table": lambda losses: estimators.beta_mixture_posterior(
        losses, lookup_points=1000
    ),
    "gaussian": lambda losses: estimators.gaussian_mixture_posterior(
        losses, seed=0
    ),
}
needs_sklearn = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None,
    reason="the Gaussian mixture needs scikit-learn, which is not installed",
)
MIXTURES = ["beta", pytest.param("gaussian", marks=needs_sklearn)]


def spread_predictions(rng, examples=60, classes=4):
    return rng.dirichlet(np.ones(classes), size=examples)


# Transition matrices.


@pytest.mark.parametrize("percentile", [None, 50, 97, 100])
def test_anchor_rows_equal_a_naive_loop(rng, percentile):
    probs = spread_predictions(rng)
    expected = []
    for i in range(4):
        column = sorted(p[i] for p in probs)
        bar = math.inf
        if percentile is not None:
            # The next value up from where the percentile falls.
            bar = column[math.ceil(percentile / 100 * (len(column) - 1))]
        best = max((p for p in probs if p[i] < bar), key=lambda p: p[i])
        expected.append([x / sum(best) for x in best])
    before = probs.copy()
    ours = estimators.anchor_transition_matrix(probs, percentile)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    np.testing.assert_array_equal(probs, before)
    np.testing.assert_array_equal(
        estimators.anchor_transition_matrix(probs.tolist(), percentile), ours
    )


def test_anchor_filter_of_one_class_leaves_the_rows_of_others_alone():
    # Example 0 is the outlier of class 0 and takes no part in its row, but it
    # is row 1's best; an overwritten 0 there would show in the row.
    probs = [[0.5, 0.3, 0.2], [0.4, 0.2, 0.4], [0.3, 0.31, 0.39]]
    ours = estimators.anchor_transition_matrix(probs, percentile=100)
    np.testing.assert_allclose(ours, [probs[1], probs[0], probs[2]])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_anchor_rows_sum_to_one_from_any_precision(rng, dtype):
    probs = spread_predictions(rng, classes=100).astype(dtype)
    ours = estimators.anchor_transition_matrix(probs)
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours.sum(axis=1), 1.0, atol=1e-12)


def test_anchors_recover_a_planted_matrix_from_perfect_predictions(rng):
    matrix = noise.symmetric_excluding_true(0.4, 5)
    clean = rng.dirichlet(np.full(5, 0.3), size=500)
    clean[:5] = np.eye(5)
    ours = estimators.anchor_transition_matrix(clean @ matrix)
    np.testing.assert_allclose(ours, matrix, atol=1e-12)


def test_intermediate_matrix_equals_a_naive_loop(rng):
    probs = spread_predictions(rng)
    labels = rng.integers(0, 4, len(probs)).astype(np.uint8)
    expected = np.zeros((4, 4))
    for p, label in zip(probs, labels, strict=True):
        expected[list(p).index(max(p)), label] += 1
    expected /= expected.sum(axis=1, keepdims=True)
    ours = estimators.intermediate_transition_matrix(probs, labels)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    dual = estimators.dual_t_transition_matrix(probs, labels, percentile=90)
    anchors = estimators.anchor_transition_matrix(probs, percentile=90)
    for i in range(4):
        for j in range(4):
            assert dual[i, j] == pytest.approx(
                sum(anchors[i, k] * expected[k, j] for k in range(4))
            )
    np.testing.assert_allclose(dual.sum(axis=1), 1.0, atol=1e-12)


def test_dual_t_by_hand():
    probs = [[0.8, 0.2], [0.6, 0.4], [0.1, 0.9], [0.3, 0.7]]
    ours = estimators.dual_t_transition_matrix(probs, [0, 1, 1, 1])
    # [[0.8, 0.2], [0.1, 0.9]] @ [[0.5, 0.5], [0, 1]]
    np.testing.assert_allclose(ours, [[0.4, 0.6], [0.05, 0.95]])


def test_dual_t_recovers_a_planted_matrix_from_sure_predictions(rng):
    matrix = rng.dirichlet(np.ones(4), size=4)
    clean = rng.integers(0, 4, 20_000)
    noisy = noise.corrupt_labels(clean, matrix, seed=2)
    ours = estimators.dual_t_transition_matrix(np.eye(4)[clean], noisy)
    counts = np.bincount(clean)[:, None]
    assert np.all(
        np.abs(ours - matrix) < 4 * np.sqrt(matrix * (1 - matrix) / counts)
    )
    np.testing.assert_allclose(
        ours, noise.realized_transition_matrix(clean, noisy, 4), atol=1e-12
    )


def test_a_class_that_is_never_predicted():
    probs = [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]]
    for build in (
        estimators.intermediate_transition_matrix,
        estimators.dual_t_transition_matrix,
    ):
        with pytest.raises(ValueError, match=r"never predict classes \[2\]"):
            build(probs, [0, 1])
    np.testing.assert_array_equal(
        estimators.intermediate_transition_matrix(
            probs, [0, 1], empty_rows="zeros"
        ),
        [[1, 0, 0], [0, 1, 0], [0, 0, 0]],
    )
    np.testing.assert_allclose(
        estimators.dual_t_transition_matrix(probs, [0, 1], empty_rows="zeros"),
        [[0.6, 0.3, 0.0], [0.2, 0.5, 0.0], [0.2, 0.5, 0.0]],
    )


def test_clean_set_matrix_by_hand():
    clean, noisy = [0, 0, 0, 1], [0, 0, 1, 1]
    np.testing.assert_allclose(
        estimators.clean_set_transition_matrix(clean, noisy, 2),
        [[2 / 3, 1 / 3], [0, 1]],
    )
    np.testing.assert_allclose(
        estimators.clean_set_transition_matrix(clean, noisy, 3, smoothing=0.5),
        [
            [2.5 / 4.5, 1.5 / 4.5, 0.5 / 4.5],
            [0.5 / 2.5, 1.5 / 2.5, 0.5 / 2.5],
            [1 / 3, 1 / 3, 1 / 3],
        ],
    )


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_clean_set_recovers_a_planted_matrix(rng, smoothing):
    matrix = rng.dirichlet(np.ones(5), size=5)
    clean = rng.integers(0, 5, 20_000).astype(np.uint8)
    noisy = noise.corrupt_labels(clean, matrix, seed=4)
    ours = estimators.clean_set_transition_matrix(clean, noisy, 5, smoothing)
    counts = np.bincount(clean)[:, None]
    bound = 4 * np.sqrt(matrix * (1 - matrix) / counts)
    # A pseudo-count moves a cell by no more than this.
    assert np.all(np.abs(ours - matrix) < bound + 5 * smoothing / counts)
    np.testing.assert_allclose(ours.sum(axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize(
    ("predictions", "error", "message"),
    [
        ([[0.5, 0.4]], ValueError, r"rows that sum to 1.*row 0 .* 0\.9\."),
        ([[2.0, -1.0]], ValueError, r"\[0, 0\]=2\.0\. Give prob.*not logits"),
        ([[0.5, np.nan]], ValueError, r"in \[0, 1\].*\[0, 1\]=nan"),
        ([0.5, 0.5], ValueError, r"\(examples, classes\).*shape \(2,\)"),
        ([[1.0], [1.0]], ValueError, r"2 classes.*shape \(2, 1\)"),
        (np.zeros((0, 2)), ValueError, r"1 example.*shape \(0, 2\)"),
        ([["a", "b"]], TypeError, "`predictions` must be .* real numbers"),
        ([["0.5", "0.5"]], TypeError, "`predictions` must be .*dtype <U3"),
        ([[0.5, 0.5], [1]], TypeError, "`predictions` must be .*numbers"),
    ],
)
def test_prediction_errors(predictions, error, message):
    for build in (
        estimators.anchor_transition_matrix,
        lambda p: estimators.intermediate_transition_matrix(p, [0]),
        lambda p: estimators.dual_t_transition_matrix(p, [0]),
    ):
        with pytest.raises(error, match=message):
            build(predictions)


def test_other_matrix_errors():
    probs = [[0.6, 0.4], [0.4, 0.6]]
    anchor = estimators.anchor_transition_matrix
    dual = estimators.dual_t_transition_matrix
    with pytest.raises(ValueError, match=r"in \(0, 100\].*percentile=0\."):
        anchor(probs, percentile=0)
    with pytest.raises(ValueError, match=r"percentile=101"):
        dual(probs, [0, 1], percentile=101)
    with pytest.raises(
        ValueError, match=r"percentile=97, which leaves none for classes \[1\]"
    ):
        anchor([[0.5, 0.2, 0.3], [0.4, 0.2, 0.4]], percentile=97)
    with pytest.raises(ValueError, match="Received: 3 noisy_labels, 2 rows"):
        dual(probs, [0, 1, 1])
    with pytest.raises(ValueError, match=r"`noisy_labels` must .*\[0, 2\)"):
        dual(probs, [0, 2])
    with pytest.raises(ValueError, match=r"`noisy_labels` must .*\[1\]=0\.5"):
        dual(probs, [0.0, 0.5])
    with pytest.raises(ValueError, match="`empty_rows` must be one of 'raise'"):
        dual(probs, [0, 1], empty_rows="uniform")
    clean_set = estimators.clean_set_transition_matrix
    with pytest.raises(ValueError, match=r"without classes \[1\]"):
        clean_set([0, 0], [0, 1], 2)
    with pytest.raises(ValueError, match=r"`smoothing` must be .* >= 0"):
        clean_set([0, 1], [0, 1], 2, smoothing=-1)
    for smoothing in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"`noisy_labels` .*\[0, 2\)"):
            clean_set([0, 1], [0, 2], 2, smoothing)
        with pytest.raises(ValueError, match="`num_classes` must be"):
            clean_set([0, 0], [0, 0], 1, smoothing)


# Noise rates.


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_matrix_noise_rate_is_the_rate_of_the_matrix(rate):
    for build in (noise.symmetric_excluding_true, noise.pair_flip):
        assert estimators.matrix_noise_rate(build(rate, 10)) == pytest.approx(
            rate, abs=1e-12
        )
    ours = estimators.matrix_noise_rate(np.eye(3), [0.1, 0.2, 0.7])
    assert type(ours) is float
    assert ours == 0.0


def test_matrix_noise_rate_weighs_by_the_shares_of_classes(rng):
    matrix = rng.dirichlet(np.ones(3), size=3)
    shares = [0.7, 0.25, 0.05]
    expected = sum(s * (1 - matrix[i, i]) for i, s in enumerate(shares))
    ours = estimators.matrix_noise_rate(matrix, shares)
    assert ours == pytest.approx(expected)
    assert ours != pytest.approx(estimators.matrix_noise_rate(matrix))


def agreement_at(rate, num_classes, top=1):
    return (1 - rate) ** 2 + rate**2 / (num_classes / top - 1)


@pytest.mark.parametrize(("num_classes", "top"), [(2, 1), (10, 1), (100, 5)])
def test_agreement_rate_inverts_the_formula(num_classes, top):
    highest = 1 - top / num_classes
    for rate in np.linspace(0.0, 0.999 * highest, 23):
        ours = estimators.agreement_noise_rate(
            min(1.0, agreement_at(rate, num_classes, top)), num_classes, top
        )
        assert ours == pytest.approx(rate, abs=1e-9)
    # The least that any rate can reach, also when rounded below it.
    for lowest in (top / num_classes, top / num_classes - 1e-8):
        ours = estimators.agreement_noise_rate(lowest, num_classes, top)
        assert ours == pytest.approx(highest, abs=1e-9)


@pytest.mark.parametrize("step", [0.001, 0.01, 0.03])
@pytest.mark.parametrize("num_classes", [10, 100])
def test_agreement_rate_on_a_grid_equals_a_naive_search(step, num_classes):
    for agreement in (1.0, 0.983, 0.61, 0.377, 0.21, 0.114):
        k = 1
        while agreement_at(k * step, num_classes) > agreement:
            k += 1
        assert estimators.agreement_noise_rate(
            agreement, num_classes, step=step
        ) == pytest.approx(k * step, abs=1e-12)


def test_a_root_on_the_grid_stays_there():
    # 0.7^2 + 0.3^2 / 9 = 0.5 and 0.4^2 + 0.6^2 / 9 = 0.2.
    for agreement, rate in ((0.5, 0.3), (0.2, 0.6)):
        for rounded in (agreement, agreement - 1e-9, np.float32(agreement)):
            assert estimators.agreement_noise_rate(
                float(rounded), 10, step=0.001
            ) == pytest.approx(rate, abs=1e-12)


def test_agreement_recovers_a_planted_rate(rng):
    # A network that has learnt the noise predicts with that noise.
    rate, examples = 0.4, 40_000
    clean = rng.integers(0, 10, examples)
    matrix = noise.symmetric_excluding_true(rate, 10)
    labels = noise.corrupt_labels(clean, matrix, seed=1)
    predicted = noise.corrupt_labels(clean, matrix, seed=2)
    agreement = float(np.mean(labels == predicted))
    ours = estimators.agreement_noise_rate(agreement, 10)
    # Four standard errors of the agreement, over the formula's slope.
    error = math.sqrt(agreement * (1 - agreement) / examples)
    slope = 2 * (1 - rate) - 2 * rate / 9
    assert abs(ours - rate) < 4 * error / slope


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.0, 0.0), (0.2, 0.25), (0.5, 1.0), (2 / 3, 2.0), (0.7, 2.0), (1.0, 2.0)],
)
def test_discard_ratio_by_hand(rate, expected):
    assert estimators.discard_ratio(rate) == pytest.approx(expected)
    assert estimators.discard_ratio(rate, maximum=0.1) == min(0.1, expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"agreement": 0.05},
            ValueError,
            r"top / num_classes = 0\.1: .*=0\.05",
        ),
        ({"agreement": 0.15, "top": 2}, ValueError, r"num_classes = 0\.2"),
        ({"agreement": 1.1}, ValueError, r"`agreement` must be in \[0, 1\]"),
        ({"agreement": math.nan}, ValueError, "agreement=nan"),
        ({"agreement": "1"}, TypeError, "`agreement` must be a number"),
        ({"num_classes": 1}, ValueError, "`num_classes` must be an integer"),
        ({"top": 0}, ValueError, "`top` must be an integer >= 1"),
        ({"top": 10}, ValueError, "`top` must be smaller .* 10.*top=10"),
        ({"step": 0}, ValueError, "`step` must be a finite number > 0"),
        ({"step": 1}, ValueError, r"`step` must be in \(0, 1\)"),
    ],
)
def test_agreement_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        estimators.agreement_noise_rate(
            **{"agreement": 0.5, "num_classes": 10, **arguments}
        )


def test_other_rate_errors():
    with pytest.raises(ValueError, match=r"one per class, 2.*shape \(3,\)"):
        estimators.matrix_noise_rate(np.eye(2), [0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match=r"`class_shares` must sum to 1.*0\.9"):
        estimators.matrix_noise_rate(np.eye(2), [0.4, 0.5])
    with pytest.raises(ValueError, match=r"numbers >= 0.*class_shares\[1\]=-"):
        estimators.matrix_noise_rate(np.eye(2), [1.5, -0.5])
    with pytest.raises(ValueError, match="`transition_matrix` must have rows"):
        estimators.matrix_noise_rate([[1.0, 0.0], [0.5, 0.0]])
    with pytest.raises(ValueError, match=r"noise_rate=40\. Give a fraction"):
        estimators.discard_ratio(40)
    with pytest.raises(ValueError, match="`maximum` must be"):
        estimators.discard_ratio(0.4, maximum=-1)


# Mixtures of losses.


def planted_losses(rng, clean=700, noisy=300):
    """Losses of clean examples near 0.3, of noisy ones near 4."""
    losses = np.r_[rng.gamma(1.0, 0.3, clean), rng.normal(4.0, 0.7, noisy)]
    order = rng.permutation(losses.size)
    return np.abs(losses)[order], (np.arange(losses.size) >= clean)[order]


def beta_density(x, alpha, beta):
    log = math.lgamma(alpha + beta) - math.lgamma(alpha) - math.lgamma(beta)
    return math.exp(log) * x ** (alpha - 1) * (1 - x) ** (beta - 1)


def naive_percentile(values, percentile):
    values = sorted(values)
    position = percentile / 100 * (len(values) - 1)
    below = math.floor(position)
    above = math.ceil(position)
    return values[below] + (position - below) * (values[above] - values[below])


def naive_normalized(losses, low, high):
    result = []
    for loss in losses:
        x = (loss - (low + 1e-5)) / (high - (low + 1e-5) + 1e-6)
        result.append(0.999 if x >= 1 else 0.001 if x <= 0 else x)
    return result


def naive_fit(losses, iterations, start, percentiles):
    """EM in plain Python: `[(alpha, beta, weight), ...]`, low and high."""
    low, high = (naive_percentile(losses, p) for p in percentiles)
    kept = naive_normalized(
        [loss for loss in losses if low <= loss <= high], low, high
    )
    x = [min(max(value, 1e-4), 1 - 1e-4) for value in kept]
    parts = start
    for _ in range(iterations):
        shares = []
        for value in x:
            both = [
                max(w * beta_density(value, a, b), 1e-12) for a, b, w in parts
            ]
            shares.append([density / sum(both) for density in both])
        parts = []
        for k in range(2):
            total = sum(share[k] for share in shares)
            mean = sum(s[k] * v for s, v in zip(shares, x, strict=True)) / total
            variance = (
                sum(
                    s[k] * (v - mean) ** 2
                    for s, v in zip(shares, x, strict=True)
                )
                / total
            )
            alpha = mean * (mean * (1 - mean) / variance - 1)
            parts.append((alpha, alpha * (1 - mean) / mean, total / len(x)))
    return parts, low, high


@pytest.mark.parametrize(
    ("iterations", "start", "percentiles"),
    [
        (1, [(1, 2, 0.5), (2, 1, 0.5)], (5, 95)),
        (10, [(1, 2, 0.5), (2, 1, 0.5)], (5, 95)),
        (4, [(1.5, 4, 0.8), (3, 1.2, 0.2)], (2, 90)),
    ],
)
def test_beta_mixture_equals_a_naive_loop(rng, iterations, start, percentiles):
    losses, _ = planted_losses(rng, 140, 60)
    parts, low, high = naive_fit(losses, iterations, start, percentiles)
    alphas, betas, weights = zip(*start, strict=True)
    before = losses.copy()
    mixture = estimators.fit_beta_mixture(
        losses, iterations, alphas, betas, weights, percentiles
    )
    np.testing.assert_array_equal(losses, before)
    assert (mixture.low, mixture.high) == pytest.approx((low, high))
    np.testing.assert_allclose(
        [mixture.alphas, mixture.betas, mixture.weights],
        list(zip(*parts, strict=True)),
        rtol=1e-8,
    )
    x = naive_normalized(losses, low, high)
    np.testing.assert_allclose(mixture.normalized(losses), x, rtol=1e-9)
    clean, noisy = ([w * beta_density(v, a, b) for v in x] for a, b, w in parts)
    posterior = [n / (c + n) for c, n in zip(clean, noisy, strict=True)]
    ours = mixture.posterior_noisy(losses)
    np.testing.assert_allclose(ours, posterior, rtol=1e-7, atol=1e-12)


def test_beta_mixture_function_is_fit_and_posterior(rng):
    losses, _ = planted_losses(rng)
    for iterations, points in ((10, None), (3, None), (10, 100)):
        np.testing.assert_array_equal(
            estimators.beta_mixture_posterior(losses, iterations, points),
            estimators.fit_beta_mixture(losses, iterations).posterior_noisy(
                losses, points
            ),
        )


def test_lookup_table_equals_a_naive_loop():
    # The clean component has the heavier end: its beta is below 1.
    alphas, betas, weights = (0.4, 6.0), (0.5, 3.0), (0.4, 0.6)
    mixture = estimators.BetaMixture(alphas, betas, weights, 0.0, 2.0)
    grid = [1e-12 + k / 49 * (1 - 2e-12) for k in range(50)]
    expected = []
    for value in grid:
        clean, noisy = (
            w * beta_density(value, a, b)
            for a, b, w in zip(alphas, betas, weights, strict=True)
        )
        expected.append(noisy / (clean + noisy + 1e-12))
    best = expected.index(max(expected))
    assert 0 < best < 49
    assert expected[-1] < 0.5 * expected[best]
    expected[best:] = [expected[best]] * (50 - best)
    table = mixture.lookup_table(50)
    np.testing.assert_allclose(table, expected, rtol=1e-4)
    assert np.all(np.diff(table[1:]) >= 0)

    losses = np.array([-1.0, 0.5, 1.01, 1.99, 7.0])
    bins = [int(50 * x) for x in naive_normalized(losses, 0.0, 2.0)]
    assert bins == [0, 12, 25, 49, 49]
    np.testing.assert_array_equal(
        mixture.posterior_noisy(losses, lookup_points=50), table[bins]
    )
    # The exact posterior does fall again.
    assert mixture.posterior_noisy([1.99])[0] < 0.5 * table[-1]


def test_posterior_by_hand_and_its_margin():
    mixture = estimators.BetaMixture((1, 2), (2, 1), (0.8, 0.2), 0.0, 1.0)
    x = mixture.normalized([0.3])[0]
    # 0.2 * 2x / (0.2 * 2x + 0.8 * 2(1 - x))
    expected = 0.2 * x / (0.2 * x + 0.8 * (1 - x))
    assert mixture.posterior_noisy([0.3])[0] == pytest.approx(expected)
    sure = estimators.BetaMixture((1, 50), (50, 1), (0.5, 0.5), 0.0, 1.0)
    losses = [0.1, 0.9]
    assert sure.posterior_noisy(losses)[0] < 1e-12
    for points in (None, 100):
        np.testing.assert_allclose(
            sure.posterior_noisy(losses, points, margin=1e-4),
            [1e-4, 1 - 1e-4],
            rtol=1e-12,
        )


def test_posterior_where_both_densities_vanish():
    # Both underflow to 0 here, and their logarithms do not.
    mixture = estimators.BetaMixture((2, 9e3), (9e3, 2), (0.5, 0.5), 0.0, 1.0)
    np.testing.assert_allclose(
        mixture.posterior_noisy([0.4, 0.6]), [0.0, 1.0], atol=1e-12
    )
    # The table's 1e-12 decides for clean.
    assert mixture.lookup_table(5)[2] == 0.0


def test_components_are_ordered_by_their_mean(rng):
    losses, _ = planted_losses(rng)
    usual = estimators.fit_beta_mixture(losses, 30)
    swapped = estimators.fit_beta_mixture(
        losses, 30, alphas=(2.0, 1.0), betas=(1.0, 2.0)
    )
    np.testing.assert_allclose(swapped.alphas, usual.alphas)
    np.testing.assert_allclose(swapped.betas, usual.betas)
    np.testing.assert_allclose(swapped.weights, usual.weights)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("beta", 0.2),
        ("beta", 0.4),
        ("beta, table", 0.2),
        ("beta, table", 0.5),
        pytest.param("gaussian", 0.2, marks=needs_sklearn),
        pytest.param("gaussian", 0.5, marks=needs_sklearn),
    ],
)
def test_mixtures_recover_planted_noise(rng, name, share):
    noisy = int(2000 * share)
    losses, is_noisy = planted_losses(rng, 2000 - noisy, noisy)
    before = losses.copy()
    posterior = POSTERIORS[name](losses)
    np.testing.assert_array_equal(losses, before)
    assert posterior.shape == losses.shape
    assert posterior.dtype == np.float64
    assert np.all((posterior >= 0) & (posterior <= 1))
    # The losses overlap a little, and are neither beta nor Gaussian.
    assert np.mean((posterior > 0.5) == is_noisy) > 0.96
    # The beta mixture counts the clean ones from 0.3 on to the middle.
    assert abs(posterior.mean() - share) < 0.1


def test_largest_losses_pass_for_clean_without_a_table(rng):
    losses, _ = planted_losses(rng, 500, 500)
    largest = losses > np.percentile(losses, 95)
    mixture = estimators.fit_beta_mixture(losses)
    assert mixture.betas[0] < mixture.betas[1]
    assert np.all(mixture.posterior_noisy(losses)[largest] < 0.5)
    for points in (100, 10_000):
        assert np.all(mixture.posterior_noisy(losses, points)[largest] > 0.8)


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_ignore_order_origin_and_unit_of_losses(rng, name):
    losses, _ = planted_losses(rng)
    posterior = POSTERIORS[name](losses)
    np.testing.assert_allclose(
        POSTERIORS[name](losses[::-1])[::-1], posterior, atol=1e-9
    )
    np.testing.assert_allclose(
        POSTERIORS[name](losses - 2.0), posterior, atol=1e-9
    )
    # The beta mixture's normalisation has constants of 1e-5 in it, which
    # matter to the very smallest losses.
    change = np.abs(POSTERIORS[name](3 * losses) - posterior)
    assert np.median(change) < 1e-4
    assert change.max() < 0.05
    change = np.abs(POSTERIORS[name](losses.astype("float32")) - posterior)
    assert change.max() < 1e-4


@needs_sklearn
def test_gaussian_mixture_equals_a_naive_em(rng):
    losses, _ = planted_losses(rng, 140, 60)
    low, high = min(losses), max(losses)
    x = [(loss - low) / (high - low) for loss in losses]
    # From one start or another, EM ends where it ends.
    parts = [(0.1, 0.01, 0.5), (0.9, 0.01, 0.5)]
    for _ in range(200):
        shares = []
        for value in x:
            both = [
                w * statistics.NormalDist(m, math.sqrt(v)).pdf(value)
                for m, v, w in parts
            ]
            shares.append([density / sum(both) for density in both])
        parts = []
        for k in range(2):
            total = sum(share[k] for share in shares)
            mean = sum(s[k] * v for s, v in zip(shares, x, strict=True)) / total
            variance = (
                sum(
                    s[k] * (v - mean) ** 2
                    for s, v in zip(shares, x, strict=True)
                )
                / total
            )
            parts.append((mean, variance + 5e-4, total / len(x)))
    ours = estimators.gaussian_mixture_posterior(
        losses, seed=0, max_iterations=500, tolerance=1e-9
    )
    expected = [share[1] for share in shares]
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@needs_sklearn
def test_the_larger_losses_are_the_noisy_ones_with_any_seed(rng):
    losses, _ = planted_losses(rng)
    ends = [losses.argmin(), losses.argmax()]
    for seed in range(6):
        posterior = estimators.gaussian_mixture_posterior(losses, seed)
        assert posterior[ends[0]] < 0.5 < posterior[ends[1]]


@needs_sklearn
def test_gaussian_mixture_has_a_seed_and_no_global_state(rng):
    losses, _ = planted_losses(rng)
    before = np.random.get_state()  # noqa: NPY002
    first = estimators.gaussian_mixture_posterior(losses, seed=3)
    again = estimators.gaussian_mixture_posterior(losses, seed=3)
    after = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]
    # A bar this high ends the EM at its second iteration, where losses of
    # one kind only are far from settled.
    losses = rng.gamma(2.0, 1.0, 500)
    first = estimators.gaussian_mixture_posterior(losses, seed=3)
    np.testing.assert_array_equal(
        estimators.gaussian_mixture_posterior(losses, 3, 100, tolerance=1e9),
        estimators.gaussian_mixture_posterior(losses, 3, 2, tolerance=0.0),
    )
    # Not converged after one iteration, and silent about it.
    once = estimators.gaussian_mixture_posterior(
        losses, seed=3, max_iterations=1, tolerance=0.0
    )
    assert np.any(once != first)


def test_gaussian_mixture_without_scikit_learn(monkeypatch):
    load = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.split(".")[0] == "sklearn":
            raise ImportError(name)
        return load(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        estimators.gaussian_mixture_posterior([0.0, 1.0], seed=0)


@pytest.mark.parametrize("name", ["beta", "gaussian"])
@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        (np.full(50, 0.7), ValueError, "two different values.*50 losses"),
        ([0.7], ValueError, "two different values.*1 losses"),
        ([], ValueError, r"`losses` must be 1-D.*shape \(0,\)"),
        (np.ones((5, 2)), ValueError, r"`losses` must be 1-D.*\(5, 2\)"),
        ([0.1, np.nan, 2], ValueError, r"finite numbers.*losses\[1\]=nan"),
        ([0.1, 0.2, np.inf], ValueError, r"finite numbers.*losses\[2\]=inf"),
        (["a", "b"], TypeError, "`losses` must be an array of real numbers"),
        ([True, False], TypeError, "`losses` must be .*dtype bool"),
    ],
)
def test_loss_errors(name, losses, error, message):
    with pytest.raises(error, match=message):
        POSTERIORS[name](losses)


@pytest.mark.parametrize(
    "losses",
    [
        [0.1, 5.0],
        [0.1, 2.0, 5.0],
        np.r_[np.full(98, 0.5), 4.0, 5.0],
        np.r_[0.0, np.full(18, 1.0), 2.0],
        1.0 + np.linspace(0.0, 1e-5, 50),
    ],
    ids=["two", "three", "most equal", "all kept equal", "nearly equal"],
)
def test_losses_that_the_percentiles_leave_nothing_of(losses):
    with pytest.raises(ValueError, match=r"percentiles 5 and 95.*1e-05"):
        estimators.fit_beta_mixture(losses)


@pytest.mark.parametrize(
    "losses",
    [
        np.r_[np.full(30, 0.1), np.full(20, 3.0)],
        np.r_[np.zeros(40), np.ones(60) + 1e-7 * (np.arange(60) % 2)],
        np.linspace(0.0, 0.05, 200) ** 2,
    ],
    ids=["two values", "almost two values", "small"],
)
def test_components_of_almost_no_variance_stay_finite(losses):
    for points in (None, 100):
        posterior = estimators.beta_mixture_posterior(losses, 100, points)
        assert np.all((posterior >= 0) & (posterior <= 1))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_iterations": 0}, ValueError, "`max_iterations` must be"),
        ({"alphas": (1.0,)}, ValueError, r"`alphas` must be two.*\(1\.0,\)"),
        ({"betas": (0.0, 1.0)}, ValueError, "`betas` must be .* > 0"),
        ({"betas": ("1", 1.0)}, TypeError, "`betas` must be a number"),
        ({"weights": (0.5, 0.4)}, ValueError, "`weights` must sum to 1"),
        ({"percentiles": (95, 5)}, ValueError, "`percentiles` .* increase"),
        ({"percentiles": (5,)}, ValueError, "`percentiles` must be two"),
        ({"percentiles": (5, 101)}, ValueError, r"in \[0, 100\].*=101"),
    ],
)
def test_fit_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        estimators.fit_beta_mixture(np.linspace(0.0, 3.0, 20), **arguments)


def test_mixture_errors():
    shape = ((1, 2), (2, 1), (0.5, 0.5))
    with pytest.raises(ValueError, match="`high` must be larger than `low`"):
        estimators.BetaMixture(*shape, low=1.0, high=1.0)
    with pytest.raises(TypeError, match="`low` must be a number"):
        estimators.BetaMixture(*shape, low=None, high=1.0)
    mixture = estimators.BetaMixture(*shape, low=0.0, high=1.0)
    with pytest.raises(ValueError, match=r"`lookup_points` must be .* >= 2"):
        mixture.posterior_noisy([0.5], lookup_points=1)
    with pytest.raises(TypeError, match="`lookup_points` must be an integer"):
        mixture.posterior_noisy([0.5], lookup_points=100.0)
    with pytest.raises(ValueError, match="`points` must be an integer >= 2"):
        mixture.lookup_table(0)
    with pytest.raises(ValueError, match=r"`margin` must be in \[0, 0\.5\]"):
        mixture.posterior_noisy([0.5], margin=0.6)
    with pytest.raises(ValueError, match=r"losses\[0\]=nan"):
        mixture.normalized([np.nan])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed": None}, TypeError, "`seed` must be an integer"),
        ({"seed": -1}, ValueError, "`seed` must be an integer >= 0"),
        ({"max_iterations": 0}, ValueError, "`max_iterations` must be"),
        ({"tolerance": -1}, ValueError, "`tolerance` must be"),
        ({"minimum_variance": -1}, ValueError, "`minimum_variance` must be"),
    ],
)
def test_gaussian_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        estimators.gaussian_mixture_posterior(
            [0.1, 0.2, 3.0], **{"seed": 0, **arguments}
        )


# The room.


def test_public_names_are_sorted_and_exist():
    names = estimators.__all__
    assert names == sorted(names)
    assert all(callable(getattr(estimators, name)) for name in names)


@pytest.mark.parametrize(
    "name", ["beta", "gaussian", "matrices", "mixture", "rates"]
)
def test_docstring_examples(name):
    if name == "gaussian":
        pytest.importorskip("sklearn", reason="the Gaussian mixture's example")
    module = importlib.import_module(f"keras_smkd.estimators.{name}")
    result = doctest.testmod(module, extraglobs={**vars(estimators), "np": np})
    assert result.attempted > 1
    assert result.failed == 0
