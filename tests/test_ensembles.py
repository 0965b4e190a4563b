"""Tests of the ensembles of peers, their parts and their callback."""

import types

import keras
import numpy as np
import pytest
from keras import ops
from naive import gradient
from naive import naive_log_softmax
from naive import numpy_of
from scipy import optimize
from thrift import cases

from keras_smkd.batch import Batch
from keras_smkd.callbacks.ensembles import MeasureEnsemble
from keras_smkd.divergences import KullbackLeibler
from keras_smkd.functional import ensembles
from keras_smkd.functional import log_probabilities
from keras_smkd.knowledge.ensembles import GeneralEnsemble
from keras_smkd.knowledge.ensembles import LinearEnsemble
from keras_smkd.knowledge.ensembles import MinLogitEnsemble
from keras_smkd.knowledge.ensembles import NaiveEnsemble
from keras_smkd.knowledge.several import Several

OF_LABELS = [NaiveEnsemble, MinLogitEnsemble, LinearEnsemble]
FUNCTIONS = {
    "naive": ensembles.naive_ensemble,
    "min_logit": ensembles.min_logit_ensemble,
    "linear": lambda z, y: ensembles.weighted_logits(
        z, ensembles.linear_weights(z, y)
    ),
}


def problem(rng, batch, peers, classes, scale, alike=False, dtype="float32"):
    """Return logits, some of them better than others, and labels."""
    labels = np.eye(classes)[rng.integers(0, classes, batch)]
    logits = rng.normal(size=(batch, peers, classes))
    if alike:
        logits = 0.01 * logits + rng.normal(size=(batch, 1, classes))
    skill = rng.uniform(0.0, 2.0, (1, peers, 1))
    logits = scale * (logits + skill * labels[:, None])
    return logits.astype(dtype), labels.astype(dtype)


def mean_loss(weights, logits, labels):
    """Return the mean cross entropy of weighted logits, in float64."""
    mean = np.einsum("i,nik->nk", weights, logits.astype("float64"))
    return float(-(labels * naive_log_softmax(mean)).sum(axis=-1).mean())


def smallest_loss(logits, labels):
    """Return the smallest mean cross entropy on the simplex, by SciPy."""
    logits = logits.astype("float64")
    relative = logits - (logits * labels[:, None]).sum(-1, keepdims=True)

    def loss_and_slope(weights):
        mean = np.einsum("i,nik->nk", weights, relative)
        top = mean.max(axis=1, keepdims=True)
        probs = np.exp(mean - top)
        total = probs.sum(axis=1, keepdims=True)
        slope = np.einsum("nk,nik->i", probs / total, relative) / len(mean)
        return float((top + np.log(total)).mean()), slope

    peers = logits.shape[1]
    starts = [np.full(peers, 1.0 / peers)]
    starts += [0.9 * row + 0.1 / peers for row in np.eye(peers)]
    found = [
        optimize.minimize(
            loss_and_slope,
            start,
            jac=True,
            method="SLSQP",
            bounds=[(0.0, 1.0)] * peers,
            constraints={
                "type": "eq",
                "fun": lambda a: a.sum() - 1.0,
                "jac": np.ones_like,
            },
            options={"maxiter": 500, "ftol": 1e-12},
        ).x
        for start in starts
    ]
    points = [
        np.clip(x, 0.0, None) / np.clip(x, 0.0, None).sum() for x in found
    ]
    return min(loss_and_slope(point)[0] for point in points)


def test_numbers_worked_by_hand():
    logits = [[[1.0, 0.0, 3.0], [0.0, 2.0, 1.0]]]
    label = [[1.0, 0.0, 0.0]]
    # Losses: log(1 + e^-1 + e^2) = 2.17 and log(1 + e^2 + e) = 2.41.
    naive = ensembles.naive_ensemble(logits, label)
    np.testing.assert_array_equal(numpy_of(naive), [[1.0, 0.0, 3.0]])
    # (0, -1, 2) and (0, 2, 1), counted from the label.
    smallest = ensembles.min_logit_ensemble(logits, label)
    np.testing.assert_array_equal(numpy_of(smallest), [[0.0, -1.0, 1.0]])
    mean = ensembles.weighted_logits(logits, [1.5, -0.5])
    np.testing.assert_array_equal(numpy_of(mean), [[1.5, -1.0, 4.0]])


def test_linear_weights_worked_by_hand():
    # The label's margins are 3a - 1 and, as b = 1 - a, 3b - 1. At the minimum
    # of u log(1 + e^(1 - 3a)) + v log(1 + e^(1 - 3b)) the slopes are equal:
    # u / (1 + e^(3a - 1)) = v / (1 + e^(3b - 1)).
    logits = [[[2.0, 0.0], [-1.0, 0.0]], [[-1.0, 0.0], [2.0, 0.0]]]
    label = [[1.0, 0.0], [1.0, 0.0]]
    weights = numpy_of(ensembles.linear_weights(logits, label))
    np.testing.assert_allclose(weights, [0.5, 0.5], atol=1e-6)
    weights = numpy_of(ensembles.linear_weights(logits, label, [2.0, 1.0]))
    slopes = np.array([2.0, 1.0]) / (1.0 + np.exp(3.0 * weights - 1.0))
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-4)
    # 9 / (1 + e^2) is still above 1 / (1 + e^-1): the first has all.
    weights = numpy_of(ensembles.linear_weights(logits, label, [9.0, 1.0]))
    np.testing.assert_allclose(weights, [1.0, 0.0], atol=1e-5)


def test_linear_weights_are_the_same_on_every_backend():
    logits, labels = problem(np.random.default_rng(3), 16, 3, 4, 2.0)
    weights = numpy_of(ensembles.linear_weights(logits, labels))
    # Found once in float64, by a slower search.
    expected = [0.49219773, 0.19340248, 0.31439979]
    np.testing.assert_allclose(weights, expected, atol=1e-5)


def test_a_soft_label_takes_the_mean_under_it():
    logits = [[[1.0, 0.0, 3.0], [0.0, 2.0, 1.0]]]
    label = [[0.5, 0.5, 0.0]]
    smallest = ensembles.min_logit_ensemble(logits, label)
    # (0.5, -0.5, 2.5) and (-1, 1, 0).
    np.testing.assert_allclose(numpy_of(smallest), [[-1.0, -0.5, 0.0]])
    naive = ensembles.naive_ensemble(logits, label)
    # The second: 2.41 - 1 is less than 3.17 - 0.5.
    np.testing.assert_array_equal(numpy_of(naive), [[0.0, 2.0, 1.0]])


def test_values_are_those_of_naive_loops(rng):
    logits, labels = problem(rng, 12, 4, 5, 3.0)
    naive, smallest = np.empty((2, 12, 5))
    for n in range(12):
        label = int(labels[n].argmax())
        losses = [-naive_log_softmax(logits[n, i])[label] for i in range(4)]
        naive[n] = logits[n, losses.index(min(losses))]
        for k in range(5):
            smallest[n, k] = min(
                float(logits[n, i, k]) - float(logits[n, i, label])
                for i in range(4)
            )
    np.testing.assert_array_equal(
        numpy_of(ensembles.naive_ensemble(logits, labels)), naive
    )
    np.testing.assert_allclose(
        numpy_of(ensembles.min_logit_ensemble(logits, labels)),
        smallest,
        atol=1e-6,
    )


def test_the_first_of_equally_close_peers_is_the_naive_one():
    # The same numbers for the wrong classes, in other places.
    logits = [[[0.0, -1.0], [1.0, 2.0], [2.0, 1.0], [3.0, 2.0]]]
    label = [[1.0, 0.0]]
    chosen = numpy_of(ensembles.naive_ensemble(logits, label))
    np.testing.assert_array_equal(chosen, [[0.0, -1.0]])
    chosen = numpy_of(
        ensembles.naive_ensemble(np.array(logits)[:, ::-1], label)
    )
    np.testing.assert_array_equal(chosen, [[3.0, 2.0]])


def test_linear_weights_are_those_of_a_grid_search(rng):
    ticks = np.arange(101)
    grid = [(i, j, 100 - i - j) for i in ticks for j in ticks[: 101 - i]]
    for scale in (1.0, 5.0):
        logits, labels = problem(rng, 8, 3, 4, scale)
        mean = np.einsum("gi,nik->gnk", np.array(grid) / 100.0, logits)
        losses = -(labels * naive_log_softmax(mean)).sum(-1).mean(-1)
        ours = numpy_of(ensembles.linear_weights(logits, labels))
        assert mean_loss(ours, logits, labels) < losses.min() + 1e-6
        best = np.array(grid[losses.argmin()]) / 100.0
        # Half a tick, but for how flat the minimum is.
        np.testing.assert_allclose(ours, best, atol=0.02)


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("scale", [1.0, 5.0, 20.0])
@pytest.mark.parametrize(
    ("batch", "peers", "classes"),
    [(1, 2, 2), (2, 8, 10), (4, 5, 10), (32, 3, 100), (64, 8, 10)],
)
def test_linear_weights_reach_the_minimum(
    rng, batch, peers, classes, scale, alike
):
    logits, labels = problem(rng, batch, peers, classes, scale, alike)
    weights = numpy_of(ensembles.linear_weights(logits, labels))
    assert weights.shape == (peers,)
    assert (weights > 0).all()
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-6)
    excess = mean_loss(weights, logits, labels) - smallest_loss(logits, labels)
    assert excess < 1e-5


def test_linear_weights_do_not_jump_over_kinks(rng):
    for _ in range(30):
        labels = np.eye(3)[rng.integers(0, 3, 4)]
        logits = (20.0 * rng.normal(size=(4, 2, 3))).astype("float32")
        weights = numpy_of(ensembles.linear_weights(logits, labels))
        found = mean_loss(weights, logits, labels)
        tried = np.linspace(0.0, 1.0, 1001)
        mean = np.einsum(
            "gi,nik->gnk", np.stack([tried, 1.0 - tried], axis=1), logits
        )
        losses = -(labels * naive_log_softmax(mean)).sum(-1).mean(-1)
        assert found < losses.min() + 1e-5


def test_linear_weights_of_equal_peers_beside_another(rng):
    # Their rows of the system are the same; as large as here, the barrier
    # does not tell them apart.
    for scale in (20.0, 100.0, 1000.0):
        logits, labels = problem(rng, 32, 2, 5, scale)
        two = numpy_of(ensembles.linear_weights(logits, labels))
        three = numpy_of(
            ensembles.linear_weights(logits[:, [0, 0, 1]], labels, steps=30)
        )
        np.testing.assert_allclose(three[0], three[1], atol=1e-3)
        np.testing.assert_allclose(three[2], two[1], atol=2e-3)


def test_linear_weights_take_a_diverged_scale(rng):
    for scale in (1e3, 1e5, 1e8):
        logits, labels = problem(rng, 16, 3, 5, scale)
        weights = numpy_of(ensembles.linear_weights(logits, labels))
        assert (weights >= 0).all()
        np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-6)


def test_equal_peers_and_a_single_one_share_the_weight(rng):
    logits, labels = problem(rng, 6, 1, 5, 20.0)
    for peers in (1, 2, 8):
        same = np.repeat(logits, peers, axis=1)
        weights = numpy_of(ensembles.linear_weights(same, labels))
        np.testing.assert_allclose(weights, 1.0 / peers, atol=1e-4)
        taught = ensembles.weighted_logits(same, weights)
        np.testing.assert_allclose(numpy_of(taught), logits[:, 0], rtol=1e-5)


def test_examples_without_weight_do_not_count(rng):
    logits, labels = problem(rng, 12, 3, 4, 3.0)
    # Labels of those that are not labelled may be anything.
    hidden = np.where(np.arange(12)[:, None] < 5, np.nan, labels)
    weights = (np.arange(12) >= 5).astype("int32")
    some = numpy_of(ensembles.linear_weights(logits, hidden, weights))
    alone = numpy_of(ensembles.linear_weights(logits[5:], labels[5:]))
    np.testing.assert_allclose(some, alone, atol=1e-5)
    assert (
        np.abs(some - numpy_of(ensembles.linear_weights(logits, labels))).max()
        > 0.01
    )
    none = numpy_of(ensembles.linear_weights(logits, hidden, 0 * weights))
    np.testing.assert_allclose(none, 1.0 / 3.0, atol=1e-6)
    small = numpy_of(ensembles.linear_weights(logits, labels, [1e-5] * 12))
    whole = numpy_of(ensembles.linear_weights(logits, labels))
    np.testing.assert_allclose(small, whole, atol=1e-5)


@pytest.mark.parametrize("bad", cases([np.nan, np.inf, -np.inf], [np.inf]))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_peer_that_is_not_finite_is_left_out(rng, name, bad):
    logits, labels = problem(rng, 6, 3, 4, 2.0)
    broken = logits.copy()
    broken[2, 1, 3] = bad
    broken[4, :, 0] = bad
    result = numpy_of(FUNCTIONS[name](broken, labels))
    rows = [0, 1, 2, 3, 5]
    assert np.isfinite(result[rows]).all()
    assert not np.isfinite(result[4]).all()
    if name != "naive":
        assert np.isnan(result[4]).all()
    without = FUNCTIONS[name](logits[2:3, [0, 2]], labels[2:3])
    if name == "linear":
        # Its weight falls to the two others.
        shares = (result[2] - logits[2, 2]) / (logits[2, 0] - logits[2, 2])
        np.testing.assert_allclose(shares, shares[0], rtol=1e-3)
        assert 0 < shares[0] < 1
    else:
        np.testing.assert_array_equal(result[2], numpy_of(without)[0])
    broken[:, 1] = np.nan
    dead = numpy_of(FUNCTIONS[name](broken[:4], labels[:4]))
    alone = numpy_of(FUNCTIONS[name](logits[:4, [0, 2]], labels[:4]))
    np.testing.assert_allclose(dead, alone, atol=2e-3)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_gradient_flows_through_an_ensemble(rng, name):
    logits, labels = problem(rng, 6, 3, 4, 2.0)
    grad = gradient(
        lambda z: (
            ops.sum(ops.square(FUNCTIONS[name](z, labels))) + 0.5 * ops.sum(z)
        ),
        logits,
    )
    np.testing.assert_array_equal(grad, np.full_like(grad, 0.5))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_precision_is_kept_or_raised(rng, name):
    logits, labels = problem(rng, 6, 3, 4, 2.0)
    half = ops.cast(logits, "float16")
    result = FUNCTIONS[name](half, labels)
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    raised = FUNCTIONS[name](numpy_of(half).astype("float32"), labels)
    np.testing.assert_array_equal(numpy_of(result), numpy_of(raised))
    if keras.backend.backend() != "jax":
        double = FUNCTIONS[name](logits.astype("float64"), labels)
        assert keras.backend.standardize_dtype(double.dtype) == "float64"
        np.testing.assert_allclose(
            numpy_of(double), numpy_of(FUNCTIONS[name](logits, labels)), 2e-3
        )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shapes_that_do_not_fit_are_refused(name):
    with pytest.raises(
        ValueError, match=r"`logits` must have shape \(batch, p"
    ):
        FUNCTIONS[name](np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"labels\.shape=\(2, 4\)"):
        FUNCTIONS[name](np.zeros((2, 2, 3)), np.zeros((2, 4)))


def test_weights_of_another_shape_are_refused():
    logits, labels = np.zeros((2, 2, 3)), np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"`weights` must have shape \(batch,"):
        ensembles.linear_weights(logits, labels, np.ones(3))
    with pytest.raises(ValueError, match=r"and `weights` shape \(peers,\)"):
        ensembles.weighted_logits(logits, np.ones(3))
    with pytest.raises(ValueError, match=r"and `weights` shape \(peers,\)"):
        ensembles.weighted_logits(labels, np.ones(2))


def test_error_correlation_is_that_of_naive_loops(rng):
    probs = rng.dirichlet(np.ones(4), (3, 7))
    labels = np.eye(4)[rng.integers(0, 4, 7)]
    expected = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            for n in range(7):
                for c in range(4):
                    expected[i, j] += (
                        (probs[i, n, c] - labels[n, c])
                        * (probs[j, n, c] - labels[n, c])
                        / 7
                    )
    ours = ensembles.error_correlation(probs.astype("float32"), labels)
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3,)), r"shape \(peers, examples, classes"),
        (np.zeros((2, 3, 4)), np.zeros((4, 4)), r"labels\.shape=\(4, 4\)"),
        (np.zeros((2, 0, 4)), np.zeros((0, 4)), "none of them 0"),
        (np.full((2, 3, 4), np.nan), np.zeros((3, 4)), "from peer 0"),
        (np.zeros((2, 3, 4)), np.full((3, 4), np.inf), "`labels` must be fin"),
    ],
)
def test_bad_errors_are_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        ensembles.error_correlation(probabilities, labels)


def test_general_weights_worked_by_hand():
    # The inverse of [[2, 1], [1, 3]] is [[3, -1], [-1, 2]] / 5.
    weights = ensembles.general_weights([[2.0, 1.0], [1.0, 3.0]], ridge=0.0)
    np.testing.assert_allclose(weights, [2.0 / 3.0, 1.0 / 3.0], rtol=1e-12)
    # That of [[1, 2], [2, 5]] is [[5, -2], [-2, 1]]: one peer's errors are
    # taken from the other's.
    weights = ensembles.general_weights([[1.0, 2.0], [2.0, 5.0]], ridge=0.0)
    np.testing.assert_allclose(weights, [1.5, -0.5], rtol=1e-12)


def test_general_weights_are_the_least_squared_error(rng):
    errors = rng.normal(size=(4, 30))
    matrix = errors @ errors.T
    weights = ensembles.general_weights(matrix, ridge=0.0)
    np.testing.assert_allclose(weights.sum(), 1.0)
    least = weights @ matrix @ weights
    for _ in range(50):
        other = rng.normal(size=4)
        other = weights + 0.1 * (other - other.mean())
        assert other @ matrix @ other > least
    # The scale of the errors does not matter, with a ridge neither.
    np.testing.assert_allclose(
        ensembles.general_weights(1e-9 * matrix),
        ensembles.general_weights(matrix),
        rtol=1e-9,
    )


def test_peers_that_err_alike_share_their_weight():
    matrix = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    weights = ensembles.general_weights(matrix)
    np.testing.assert_allclose(weights, [0.25, 0.25, 0.5], atol=1e-5)
    with pytest.raises(ValueError, match="`ridge` must be above 0 where"):
        ensembles.general_weights(matrix, ridge=0.0)


def test_a_perfect_peer_has_all_the_weight():
    weights = ensembles.general_weights([[1.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(weights, [0.0, 1.0], atol=1e-5)
    weights = ensembles.general_weights(np.zeros((3, 3)))
    np.testing.assert_array_equal(weights, np.full(3, 1.0 / 3.0))


def test_the_ridge_bounds_the_weights():
    # Errors of one are a thousandth more than of the other: without a ridge
    # their difference would be blown up to cancel them.
    errors = np.array([[1.0], [1.001]])
    for ridge in (1e-4, 1e-6, 1e-8):
        weights = ensembles.general_weights(errors @ errors.T, ridge)
        assert np.abs(weights).max() <= ridge**-0.5
    assert np.abs(weights).max() > 900.0


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((2, 3)), r"shape \(peers, peers\)"),
        (np.zeros(2), r"shape \(peers, peers\)"),
        (np.zeros((0, 0)), r"shape \(peers, peers\)"),
        ([[1.0, np.nan], [np.nan, 1.0]], "`correlation` must be finite"),
        ([[1.0, 0.5], [0.2, 1.0]], "must be symmetric and positive semid"),
        ([[1.0, 2.0], [2.0, 1.0]], "must be symmetric and positive semid"),
        ([[0.0, 1.0], [1.0, 0.0]], "must be symmetric and positive semid"),
    ],
)
def test_a_matrix_that_is_no_correlation_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        ensembles.general_weights(matrix)


def test_a_bad_ridge_is_refused():
    with pytest.raises(
        ValueError, match="`ridge` must be a finite number >= 0"
    ):
        ensembles.general_weights(np.eye(2), -1.0)
    with pytest.raises(TypeError, match="`ridge` must be a number"):
        ensembles.general_weights(np.eye(2), "much")


def prepared(num_peers=2):
    ensemble = GeneralEnsemble()
    ensemble.prepare((None,) * num_peers, 4)
    return ensemble


@pytest.mark.parametrize("make", [*OF_LABELS, prepared])
def test_a_part_is_one_source_for_all_learners(rng, make):
    logits, labels = problem(rng, 6, 3, 4, 2.0)
    knowledge = make()(
        Batch(logits=ops.convert_to_tensor(logits), labels=labels)
    )
    assert tuple(knowledge.logits.shape) == (6, 1, 4)
    np.testing.assert_array_equal(knowledge.routes, np.ones((3, 1)))
    assert knowledge.available is None


@pytest.mark.parametrize(
    ("make", "name"), list(zip(OF_LABELS, FUNCTIONS, strict=True))
)
def test_a_part_gives_what_its_function_gives(rng, make, name):
    logits, labels = problem(rng, 6, 3, 4, 2.0)
    z = ops.convert_to_tensor(logits)
    ours = make()(Batch(logits=z, labels=labels)).logits
    expected = numpy_of(FUNCTIONS[name](z, labels))
    np.testing.assert_array_equal(numpy_of(ours)[:, 0], expected)
    # Of peers that put out probabilities, there are only these.
    batch = Batch(log_probs=log_probabilities(z), labels=labels)
    np.testing.assert_array_equal(
        numpy_of(make()(batch).logits)[:, 0],
        numpy_of(FUNCTIONS[name](log_probabilities(z), labels)),
    )


@pytest.mark.parametrize("make", OF_LABELS)
def test_a_part_without_labels_or_predictions_says_so(make):
    logits = ops.zeros((2, 2, 3))
    with pytest.raises(ValueError, match=f"{make.__name__} needs labels"):
        make()(Batch(logits=logits))
    with pytest.raises(ValueError, match=f"{make.__name__} needs predictions"):
        make()(Batch(labels=np.eye(3)[:2]))


def test_examples_without_a_label(rng):
    logits, labels = problem(rng, 6, 3, 4, 2.0)
    labelled = np.array([1, 0, 1, 1, 0, 1])
    batch = Batch(
        logits=ops.convert_to_tensor(logits), labels=labels, labelled=labelled
    )
    for make in (NaiveEnsemble, MinLogitEnsemble):
        available = numpy_of(make()(batch).available)
        np.testing.assert_array_equal(available, labelled[:, None])
    knowledge = LinearEnsemble()(batch)
    assert knowledge.available is None
    weights = ensembles.linear_weights(logits, labels, labelled)
    np.testing.assert_array_equal(
        numpy_of(knowledge.logits)[:, 0],
        numpy_of(ensembles.weighted_logits(logits, weights)),
    )


@pytest.mark.parametrize("make", [*OF_LABELS, lambda: LinearEnsemble(steps=7)])
def test_parts_survive_their_configuration(make):
    part = make()
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(part)
    )
    assert again == part
    assert repr(again) == repr(part)


def test_steps_are_taken_and_checked(rng):
    logits, labels = problem(rng, 6, 3, 4, 2.0)
    batch = Batch(logits=ops.convert_to_tensor(logits), labels=labels)
    one = numpy_of(LinearEnsemble(steps=1)(batch).logits)
    assert np.abs(one - numpy_of(LinearEnsemble()(batch).logits)).max() > 1e-3
    even = numpy_of(ensembles.linear_weights(logits, labels, steps=0))
    np.testing.assert_allclose(even, 1.0 / 3.0, rtol=1e-6)
    with pytest.raises(ValueError, match="`steps` must be an integer >= 1"):
        LinearEnsemble(steps=0)


def test_a_general_ensemble_is_the_mean_until_it_is_measured(rng):
    logits, _ = problem(rng, 6, 2, 4, 2.0)
    ensemble = prepared(2)
    assert len(ensemble.weights) == 1
    assert not ensemble.trainable_weights
    batch = Batch(logits=ops.convert_to_tensor(logits))
    np.testing.assert_allclose(
        numpy_of(ensemble(batch).logits)[:, 0], logits.mean(axis=1), atol=1e-6
    )
    ensemble.set_peer_weights([1.5, -0.5])
    np.testing.assert_allclose(
        numpy_of(ensemble(batch).logits)[:, 0],
        1.5 * logits[:, 0] - 0.5 * logits[:, 1],
        atol=1e-5,
    )


def test_a_general_ensemble_does_not_ask_the_head(rng):
    logits, _ = problem(rng, 6, 3, 4, 2.0)
    logits[:, 2] = np.nan
    knowledge = prepared(2)(Batch(logits=ops.convert_to_tensor(logits)))
    np.testing.assert_allclose(
        numpy_of(knowledge.logits)[:, 0], logits[:, :2].mean(axis=1), atol=1e-6
    )
    assert knowledge.routes.shape == (3, 1)


def test_a_general_ensemble_of_peers_that_are_not_there():
    batch = Batch(logits=ops.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="must be prepared for the peers"):
        GeneralEnsemble()(batch)
    with pytest.raises(ValueError, match="must be prepared for the peers"):
        GeneralEnsemble().set_peer_weights([1.0])
    with pytest.raises(ValueError, match="with 3 learners or more"):
        prepared(3)(batch)


@pytest.mark.parametrize(
    "weights", [[1.0], [0.5, 0.6], [np.nan, 1.0], [[0.5], [0.5]]]
)
def test_bad_peer_weights_are_refused(weights):
    with pytest.raises(ValueError, match="`weights` must be finite, of shape"):
        prepared(2).set_peer_weights(weights)


class Pair(keras.Model):
    """Two linear peers that learn from their ensemble, as a model has them."""

    def __init__(self, knowledge):
        super().__init__()
        self.peers = [keras.layers.Dense(3) for _ in range(2)]
        self.peer_names = ["peer_0", "peer_1"]
        self.knowledge = knowledge

    def build(self, input_shape):
        for peer in self.peers:
            peer.build(input_shape)
        if isinstance(self.knowledge, GeneralEnsemble):
            self.knowledge.prepare(self.peers, 3)

    def call(self, x, training=False):
        return ops.stack([peer(x) for peer in self.peers], axis=1)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        batch = Batch(x=x, logits=y_pred, labels=y)
        found = self.knowledge(batch)
        batch = batch.filled(
            knowledge=log_probabilities(found.logits), routes=found.routes
        )
        return ops.mean(ops.sum(KullbackLeibler()(batch), axis=1))

    def predict(self, x, output=None, **kwargs):
        self.asked = kwargs
        probs = numpy_of(ops.softmax(super().predict(x, **kwargs), axis=-1))
        return {name: probs[:, i] for i, name in enumerate(self.peer_names)}


def fitted(knowledge, callbacks=(), epochs=2, learning_rate=0.0):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(24, 4)).astype("float32")
    y = np.eye(3, dtype="float32")[rng.integers(0, 3, 24)]
    model = Pair(knowledge)
    model.build((None, 4))
    for peer in model.peers:
        peer.set_weights([rng.normal(size=(4, 3)), rng.normal(size=3)])
    model.compile(keras.optimizers.SGD(learning_rate))
    history = model.fit(
        x, y, 12, epochs, verbose=0, shuffle=False, callbacks=list(callbacks)
    )
    return model, x, y, history.history["loss"]


@pytest.mark.parametrize("make", [*OF_LABELS, GeneralEnsemble])
def test_peers_learn_from_their_ensemble_in_a_compiled_step(make):
    losses = fitted(make(), epochs=6, learning_rate=0.1)[-1]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_the_loss_of_a_compiled_step_is_the_eager_one():
    model, x, y, losses = fitted(LinearEnsemble(), epochs=1)
    eager = [
        float(numpy_of(model.compute_loss(x[s], y[s], model(x[s]))))
        for s in (slice(0, 12), slice(12, 24))
    ]
    np.testing.assert_allclose(losses[0], np.mean(eager), rtol=1e-4)


def expected_weights(model, x, y):
    probs = np.stack(list(model.predict(x, output="all", verbose=0).values()))
    return ensembles.general_weights(ensembles.error_correlation(probs, y))


@pytest.mark.parametrize("kind", ["distributions", "integers", "column"])
def test_the_callback_measures_the_weights(kind):
    rng = np.random.default_rng(9)
    x_valid = rng.normal(size=(30, 4)).astype("float32")
    labels = rng.integers(0, 3, 30)
    y_valid = np.eye(3)[labels]
    given = {
        "distributions": y_valid,
        "integers": labels,
        "column": labels[:, None],
    }[kind]
    measure = MeasureEnsemble(x_valid, given, batch_size=8)
    model, x, y, losses = fitted(GeneralEnsemble(), [measure])
    assert model.asked == {"batch_size": 8, "verbose": 0}
    expected = expected_weights(model, x_valid, y_valid)
    assert np.abs(expected - 0.5).max() > 0.05
    np.testing.assert_allclose(
        numpy_of(model.knowledge.peer_weights), expected, rtol=1e-4
    )
    # The peers do not learn here: the second epoch has the new weights only.
    even, measured = losses
    batch = Batch(logits=model(x), labels=y)
    for weights, loss in (([0.5, 0.5], even), (expected, measured)):
        taught = ensembles.weighted_logits(batch.logits, weights)
        filled = batch.filled(
            knowledge=log_probabilities(taught[:, None]),
            routes=np.ones((2, 1)),
        )
        np.testing.assert_allclose(
            2.0 * numpy_of(KullbackLeibler()(filled)).mean(), loss, rtol=1e-4
        )


def test_the_callback_has_a_ridge_of_its_own():
    rng = np.random.default_rng(9)
    x_valid = rng.normal(size=(30, 4)).astype("float32")
    measure = MeasureEnsemble(x_valid, rng.integers(0, 3, 30), ridge=1e6)
    model = fitted(GeneralEnsemble(), [measure], epochs=1)[0]
    weights = numpy_of(model.knowledge.peer_weights)
    np.testing.assert_allclose(weights, 0.5, rtol=1e-5)


def test_measured_weights_are_saved_with_the_model(tmp_path):
    rng = np.random.default_rng(9)
    x_valid = rng.normal(size=(30, 4)).astype("float32")
    measure = MeasureEnsemble(x_valid, rng.integers(0, 3, 30))
    model = fitted(GeneralEnsemble(), [measure], epochs=1)[0]
    path = str(tmp_path / "model.weights.h5")
    model.save_weights(path)
    again = Pair(GeneralEnsemble())
    again.build((None, 4))
    np.testing.assert_array_equal(
        numpy_of(again.knowledge.peer_weights), [0.5, 0.5]
    )
    again.load_weights(path)
    np.testing.assert_array_equal(
        numpy_of(again.knowledge.peer_weights),
        numpy_of(model.knowledge.peer_weights),
    )


def test_a_general_ensemble_survives_its_configuration():
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(prepared())
    )
    assert isinstance(again, GeneralEnsemble)
    assert again.peer_weights is None


def stub(knowledge, probs=None):
    """Return what the callback needs of a model."""
    return types.SimpleNamespace(
        knowledge=knowledge,
        peer_names=["peer_0", "peer_1"],
        predict=lambda x, **kwargs: probs,
    )


def test_the_callback_finds_an_ensemble_among_several_sources():
    ensemble = prepared()
    inner = Several([NaiveEnsemble(), ensemble])
    outer = Several([inner, lambda batch: None])
    # The first errs by a half of each class, the second wholly.
    probs = {
        "peer_1": np.array([[0.0, 1.0], [1.0, 0.0]]),
        "peer_0": np.array([[0.5, 0.5], [0.5, 0.5]]),
    }
    measure = MeasureEnsemble(None, [0, 1], ridge=1.0)
    measure.set_model(stub(outer, probs))
    measure.on_train_begin()
    measure.on_epoch_end(0)
    # C = [[0.5, 1], [1, 2]], with a ridge of their mean, 1.25.
    # The inverse of [[1.75, 1], [1, 3.25]] is [[3.25, -1], [-1, 1.75]] / d.
    np.testing.assert_allclose(
        numpy_of(ensemble.peer_weights), [0.75, 0.25], rtol=1e-6
    )


@pytest.mark.parametrize(
    "knowledge",
    [None, LinearEnsemble(), Several([NaiveEnsemble(), LinearEnsemble()])],
)
def test_the_callback_refuses_a_model_without_its_ensemble(knowledge):
    measure = MeasureEnsemble(np.zeros((2, 4)), [0, 1])
    measure.set_model(stub(knowledge))
    with pytest.raises(TypeError, match="whose `knowledge` is a `GeneralEns"):
        measure.on_train_begin()


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ([0.5, 1.0], ValueError, r"`y` must be class ids.*y\[0\]=0\.5"),
        (["a", "b"], TypeError, "`y` must be class ids.*Encode names"),
        (np.zeros((2, 2, 2), "int32"), ValueError, r"shape \(2, 2, 2\)"),
        (np.zeros((0,), "int32"), ValueError, r"y of shape \(0,\)"),
        ([[np.nan, 1.0]], ValueError, r"y\[0, 0\]=nan"),
        ([0, -1], ValueError, "y from -1 to 0"),
    ],
)
def test_the_callback_refuses_bad_labels(y, error, message):
    with pytest.raises(error, match=message):
        MeasureEnsemble(np.zeros((2, 4)), y)


def test_the_callback_refuses_bad_numbers():
    x, y = np.zeros((2, 4)), [0, 1]
    with pytest.raises(
        ValueError, match="`batch_size` must be an integer >= 1"
    ):
        MeasureEnsemble(x, y, batch_size=0)
    with pytest.raises(
        ValueError, match="`ridge` must be a finite number >= 0"
    ):
        MeasureEnsemble(x, y, ridge=-1.0)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 1], "a label for each example"),
        (np.eye(3)[:2], r"y of shape \(2, 3\)"),
        ([0, 2], "y from 0 to 2"),
    ],
)
def test_the_callback_refuses_labels_that_do_not_fit(y, message):
    probs = {name: np.full((2, 2), 0.5) for name in ("peer_0", "peer_1")}
    measure = MeasureEnsemble(np.zeros((2, 4)), y)
    measure.set_model(stub(prepared(), probs))
    with pytest.raises(ValueError, match=message):
        measure.on_epoch_end(0)


def test_the_callback_refuses_a_peer_that_diverged():
    probs = {"peer_0": np.full((2, 2), 0.5), "peer_1": np.full((2, 2), np.nan)}
    measure = MeasureEnsemble(np.zeros((2, 4)), [0, 1])
    measure.set_model(stub(prepared(), probs))
    with pytest.raises(ValueError, match="NaN or infinity from peer 1"):
        measure.on_epoch_end(0)
