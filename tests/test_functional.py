"""The tensor maths against naive loops, limits, gradients and precisions."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from naive import gradient
from naive import naive_entropy
from naive import naive_kl
from naive import naive_log_softmax
from naive import naive_mutual_distillation
from naive import naive_uncertainty
from naive import numpy_of

from keras_smkd import functional
from keras_smkd import selection
from keras_smkd.batch import Batch

INF = math.inf
NAN = math.nan
MEASURES = functional.MEASURES
JUST_ABOVE_ONE = 1.0000001


def dtype_of(value):
    return keras.backend.standardize_dtype(value.dtype)


def random_logits(rng, *shape, scale=2.0):
    return rng.normal(0.0, scale, shape).astype("float32")


@pytest.mark.parametrize("temperature", [0.25, 1.0, 1, 4.0])
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 10), (7,)])
def test_log_probabilities_equal_a_naive_loop(rng, shape, temperature):
    logits = random_logits(rng, *shape)
    ours = numpy_of(functional.log_probabilities(logits, True, temperature))
    np.testing.assert_allclose(
        ours, naive_log_softmax(logits, temperature), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(np.exp(ours).sum(-1), 1.0, rtol=1e-5)


def test_log_probabilities_worked_by_hand():
    logits = [[math.log(9.0), 0.0]]
    np.testing.assert_allclose(
        numpy_of(functional.log_probabilities(logits)),
        np.log([[0.9, 0.1]]),
        rtol=1e-5,
    )
    # Halving the logits takes the square root of the odds.
    np.testing.assert_allclose(
        numpy_of(functional.log_probabilities(logits, temperature=2.0)),
        np.log([[0.75, 0.25]]),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        numpy_of(functional.log_probabilities([[0.8, 0.2]], False, 2.0)),
        np.log([[2 / 3, 1 / 3]]),
        rtol=1e-5,
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_probabilities_and_their_logits_agree(rng, temperature):
    logits = random_logits(rng, 8, 6)
    probs = np.exp(naive_log_softmax(logits)).astype("float32")
    np.testing.assert_allclose(
        numpy_of(functional.log_probabilities(probs, False, temperature)),
        numpy_of(functional.log_probabilities(logits, True, temperature)),
        rtol=1e-4,
        atol=1e-5,
    )


def test_small_probabilities_are_raised_to_epsilon():
    epsilon = keras.config.epsilon()
    log_probs = numpy_of(functional.log_probabilities([[0.0, 1.0]], False))
    np.testing.assert_allclose(log_probs[0, 0], math.log(epsilon), rtol=1e-5)
    np.testing.assert_allclose(log_probs[0, 1], 0.0, atol=1e-6)


def test_a_constant_added_to_the_logits_changes_nothing(rng):
    # Multiples of 1/64, so that the sums are exact.
    logits = (rng.integers(-256, 256, (8, 5)) / 64).astype("float32")
    for temperature in (1.0, 2.0):
        np.testing.assert_allclose(
            numpy_of(
                functional.log_probabilities(
                    logits + 1024, temperature=temperature
                )
            ),
            numpy_of(
                functional.log_probabilities(logits, temperature=temperature)
            ),
            rtol=1e-6,
            atol=1e-6,
        )


@pytest.mark.parametrize("temperature", [0.0, -1.0, NAN, INF])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match=r"`temperature` must be .* > 0"):
        functional.log_probabilities([[0.0, 1.0]], temperature=temperature)


def test_entropy_equals_a_naive_loop(rng):
    log_probs = naive_log_softmax(random_logits(rng, 4, 3, 7))
    ours = numpy_of(functional.entropy(log_probs.astype("float32")))
    assert ours.shape == (4, 3)
    for index in np.ndindex(4, 3):
        expected = naive_entropy(np.exp(log_probs[index]))
        assert ours[index] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_entropy_limits():
    one_hot = [[0.0, -INF, -INF], [-INF, -INF, 0.0]]
    np.testing.assert_array_equal(numpy_of(functional.entropy(one_hot)), 0.0)
    for classes in (2, 3, 10, 1000):
        uniform = np.full((1, classes), -math.log(classes), "float32")
        np.testing.assert_allclose(
            numpy_of(functional.entropy(uniform)), math.log(classes), rtol=1e-5
        )
    # Half on one class, a quarter on two: 3/2 bits.
    np.testing.assert_allclose(
        numpy_of(functional.entropy(np.log([[0.5, 0.25, 0.25]]))),
        1.5 * math.log(2.0),
        rtol=1e-5,
    )


@pytest.mark.parametrize("measure", MEASURES)
def test_uncertainty_equals_a_naive_loop(rng, measure):
    log_probs = naive_log_softmax(random_logits(rng, 4, 3, 7))
    ours = numpy_of(
        functional.uncertainty(log_probs.astype("float32"), measure)
    )
    assert ours.shape == (4, 3)
    for index in np.ndindex(4, 3):
        expected = naive_uncertainty(np.exp(log_probs[index]), measure)
        assert ours[index] == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("measure", "expected"),
    [("entropy", 1.5 / math.log2(3)), ("probability", 0.5), ("margin", 0.75)],
)
def test_uncertainty_worked_by_hand(measure, expected):
    log_probs = np.log([[0.25, 0.5, 0.25]]).astype("float32")
    np.testing.assert_allclose(
        numpy_of(functional.uncertainty(log_probs, measure)),
        expected,
        rtol=1e-6,
    )


CLASSES = (2, 3, 7, 100, 1000)


def selected_of(measure, log_probs, threshold):
    """What is selected of one source, `(batch,)`."""
    knowledge = ops.expand_dims(log_probs, axis=1)
    batch = Batch(knowledge=knowledge, threshold=threshold)
    return numpy_of(selection.ConfidentKnowledge(measure)(batch))[:, 0]


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("measure", MEASURES)
def test_uncertainty_keeps_its_range(rng, measure, classes):
    scales = np.array([1e-4, 1e-2, 1.0, 30.0]).repeat(50)[:, None]
    logits = random_logits(rng, 200, classes, scale=1.0) * scales
    log_probs = functional.log_probabilities(logits.astype("float32"))
    values = numpy_of(functional.uncertainty(log_probs, measure))
    assert values.min() >= 0.0
    assert values.max() <= 1.0
    if measure == "probability":
        assert values.max() <= 1.0 - 1.0 / classes + 1e-6
    # Threshold 0 selects none; the next float32 above 1 selects all.
    assert selected_of(measure, log_probs, 0.0).sum() == 0
    assert selected_of(measure, log_probs, JUST_ABOVE_ONE).sum() == 200


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("measure", MEASURES)
def test_one_hot_is_the_least_and_uniform_the_most_uncertain(measure, classes):
    one_hot = np.full((1, classes), -INF, "float32")
    one_hot[0, -1] = 0.0
    one_hot_value = functional.uncertainty(one_hot, measure)
    assert numpy_of(one_hot_value).tolist() == [0.0]
    top = 1.0 - 1.0 / classes if measure == "probability" else 1.0
    for uniform in (
        functional.log_probabilities(np.zeros((1, classes), "float32")),
        np.full((1, classes), -math.log(classes), "float32"),
        functional.log_probabilities(
            np.full((1, classes), 1.0 / classes, "float32"), from_logits=False
        ),
    ):
        value = numpy_of(functional.uncertainty(uniform, measure))
        np.testing.assert_allclose(value, top, atol=1e-5)
        assert value <= 1.0
        assert selected_of(measure, uniform, 0.0).tolist() == [0.0]
        assert selected_of(measure, uniform, JUST_ABOVE_ONE).tolist() == [1.0]
    assert selected_of(measure, one_hot, 0.0).tolist() == [0.0]
    assert selected_of(measure, one_hot, 1e-6).tolist() == [1.0]


@pytest.mark.parametrize("measure", MEASURES)
def test_uncertainty_falls_as_logits_grow(rng, measure):
    logits = random_logits(rng, 1, 6)
    values = [
        numpy_of(
            functional.uncertainty(
                functional.log_probabilities(scale * logits), measure
            )
        ).item()
        for scale in (0.0, 0.5, 1.0, 2.0, 4.0)
    ]
    assert all(np.diff(values) < 0)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    "log_probs",
    [
        [NAN, NAN, NAN],
        [NAN, -1.0, -1.0],
        [-1.0, -1.0, NAN],
        [-INF, 0.0, NAN],
        [INF, 0.0, 0.0],
        [-INF, -INF, -INF],
    ],
)
def test_uncertainty_of_what_is_no_prediction_is_nan(measure, log_probs):
    good = [-0.1, -5.0, -2.4]
    values = numpy_of(functional.uncertainty([log_probs, good], measure))
    assert np.isnan(values).tolist() == [True, False]


def test_uncertainty_errors():
    with pytest.raises(ValueError, match="`measure` must be one of 'entropy'"):
        functional.uncertainty([[0.0, 1.0]], "variance")
    with pytest.raises(
        ValueError, match=r"two classes or more.*shape=\(3, 1\)"
    ):
        functional.uncertainty(np.zeros((3, 1), "float32"))


def test_soft_cross_entropy_equals_a_naive_loop(rng):
    log_probs = naive_log_softmax(random_logits(rng, 5, 4))
    targets = np.exp(naive_log_softmax(random_logits(rng, 5, 4)))
    expected = [
        -sum(q * lp for q, lp in zip(row, log_row, strict=True))
        for row, log_row in zip(targets, log_probs, strict=True)
    ]
    ours = functional.soft_cross_entropy(
        targets.astype("float32"), log_probs.astype("float32")
    )
    np.testing.assert_allclose(numpy_of(ours), expected, rtol=1e-5)


def test_label_cross_entropy_equals_a_naive_loop(rng):
    log_probs = naive_log_softmax(rng.normal(size=(5, 2, 3))).astype("float32")
    ids = np.array([0, 2, 1, 1, 0])
    shared = rng.dirichlet(np.ones(3), size=5)
    own = rng.dirichlet(np.ones(3), size=(5, 2))
    for labels, each in (
        (ids, np.repeat(np.eye(3)[ids][:, None], 2, axis=1)),
        (shared, np.repeat(shared[:, None], 2, axis=1)),
        (own, own),
    ):
        found = numpy_of(functional.label_cross_entropy(labels, log_probs))
        assert found.shape == (5, 2)
        for n in range(5):
            for i in range(2):
                expected = -sum(each[n, i] * log_probs[n, i].astype("float64"))
                assert found[n, i] == pytest.approx(expected, rel=1e-6)


def test_entropy_that_is_known_is_not_computed_again(rng):
    log_probs = naive_log_softmax(rng.normal(size=(4, 2, 3))).astype("float32")
    nats = functional.entropy(log_probs)
    np.testing.assert_array_equal(
        numpy_of(functional.uncertainty(log_probs, "entropy", nats)),
        numpy_of(functional.uncertainty(log_probs)),
    )
    np.testing.assert_array_equal(
        numpy_of(
            functional.mutual_distillation(
                log_probs, np.ones((4, 2)), nats=nats
            )
        ),
        numpy_of(functional.mutual_distillation(log_probs, np.ones((4, 2)))),
    )
    # It is what is taken.
    largest = np.full((4, 2), np.log(3), "float32")
    found = functional.uncertainty(log_probs, "entropy", largest)
    np.testing.assert_allclose(numpy_of(found), 1.0, rtol=1e-6)
    with pytest.raises(ValueError, match=r"`nats` must be None.*'margin'"):
        functional.uncertainty(log_probs, "margin", largest)


def test_soft_cross_entropy_worked_by_hand():
    ours = functional.soft_cross_entropy([[1, 0], [0, 1]], np.log([[0.5, 0.5]]))
    np.testing.assert_allclose(numpy_of(ours), math.log(2.0), rtol=1e-6)
    log_probs = np.array([[0.0, -INF], [0.0, -INF]], "float32")
    ours = functional.soft_cross_entropy([[1.0, 0.0], [0.5, 0.5]], log_probs)
    assert numpy_of(ours).tolist() == [0.0, INF]


def test_kl_divergence_equals_a_naive_loop(rng):
    p = naive_log_softmax(random_logits(rng, 3, 4, 5))
    q = naive_log_softmax(random_logits(rng, 3, 4, 5))
    ours = numpy_of(
        functional.kl_divergence(p.astype("float32"), q.astype("float32"))
    )
    assert ours.shape == (3, 4)
    for index in np.ndindex(3, 4):
        expected = naive_kl(np.exp(p[index]), np.exp(q[index]))
        assert ours[index] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_kl_divergence_worked_by_hand():
    p = np.log(np.array([[0.5, 0.5], [1.0, 1e-30]])).astype("float32")
    q = np.log(np.array([[0.25, 0.75], [0.25, 0.75]])).astype("float32")
    np.testing.assert_allclose(
        numpy_of(functional.kl_divergence(p, q)),
        [0.5 * math.log(4 / 3), math.log(4.0)],
        rtol=1e-5,
    )
    np.testing.assert_array_equal(numpy_of(functional.kl_divergence(p, p)), 0.0)


def test_kl_divergence_of_one_hots():
    one_hot = [[0.0, -INF]]
    other = [[-INF, 0.0]]
    half = [[-math.log(2.0)] * 2]
    for p, q, expected in (
        (one_hot, one_hot, 0.0),
        (one_hot, half, math.log(2.0)),
        (one_hot, other, INF),
        (half, one_hot, INF),
    ):
        np.testing.assert_allclose(
            numpy_of(functional.kl_divergence(p, q)), [expected], rtol=1e-6
        )


def test_kl_is_cross_entropy_minus_entropy(rng):
    p = functional.log_probabilities(random_logits(rng, 6, 9))
    q = functional.log_probabilities(random_logits(rng, 6, 9))
    np.testing.assert_allclose(
        numpy_of(functional.kl_divergence(p, q)),
        numpy_of(functional.soft_cross_entropy(ops.exp(p), q))
        - numpy_of(functional.entropy(p)),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
@pytest.mark.parametrize("peers", [2, 3, 5])
def test_mutual_distillation_equals_a_loop_over_pairs(rng, peers, dtype):
    logits = random_logits(rng, 40, peers, 6)
    selected = rng.random((40, peers)) < 0.5
    ours = functional.mutual_distillation(
        functional.log_probabilities(logits), selected.astype(dtype)
    )
    expected = naive_mutual_distillation(
        np.exp(naive_log_softmax(logits)), selected
    )
    np.testing.assert_allclose(numpy_of(ours), expected, rtol=1e-4, atol=1e-6)


def test_mutual_distillation_worked_by_hand():
    log_probs = np.log([[[0.5, 0.5], [0.25, 0.75]]]).astype("float32")
    forward = 0.5 * math.log(4 / 3)
    backward = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    for selected, expected in (
        ([[1, 1]], [[backward, forward]]),
        ([[1, 0]], [[0.0, forward]]),
        ([[0, 1]], [[backward, 0.0]]),
        ([[0, 0]], [[0.0, 0.0]]),
    ):
        np.testing.assert_allclose(
            numpy_of(functional.mutual_distillation(log_probs, selected)),
            expected,
            rtol=1e-5,
        )


def test_mutual_distillation_divides_by_all_other_peers():
    # One of three peers is selected: half of its divergence, not all of it.
    log_probs = np.log([[[0.5, 0.5], [0.25, 0.75], [0.25, 0.75]]])
    ours = functional.mutual_distillation(
        log_probs.astype("float32"), [[1, 0, 0]]
    )
    half = 0.25 * math.log(4 / 3)
    np.testing.assert_allclose(numpy_of(ours), [[0.0, half, half]], rtol=1e-5)


@pytest.mark.parametrize("peers", [2, 3, 5])
def test_identical_peers_teach_each_other_nothing(rng, peers):
    logits = np.repeat(random_logits(rng, 20, 1, 8), peers, axis=1)
    selected = np.ones((20, peers), "float32")

    def total(z):
        log_probs = functional.log_probabilities(z)
        return ops.sum(functional.mutual_distillation(log_probs, selected))

    values = functional.mutual_distillation(
        functional.log_probabilities(logits), selected
    )
    np.testing.assert_allclose(numpy_of(values), 0.0, atol=1e-6)
    np.testing.assert_allclose(gradient(total, logits), 0.0, atol=1e-6)


def test_nothing_selected_is_exactly_nothing(rng):
    logits = random_logits(rng, 20, 3, 8, scale=30.0)
    selected = np.zeros((20, 3), "float32")

    def total(z):
        log_probs = functional.log_probabilities(z)
        return ops.sum(functional.mutual_distillation(log_probs, selected))

    values = functional.mutual_distillation(
        functional.log_probabilities(logits), selected
    )
    np.testing.assert_array_equal(numpy_of(values), 0.0)
    np.testing.assert_array_equal(gradient(total, logits), 0.0)


@pytest.mark.parametrize(
    ("peers", "temperature"), [(2, 1.0), (2, 2.0), (3, 1.0), (5, 2.0)]
)
def test_gradient_reaches_the_learner_only(rng, peers, temperature):
    logits = random_logits(rng, 6, peers, 4)
    selected = (rng.random((6, peers)) < 0.6).astype("float32")
    probs = np.exp(naive_log_softmax(logits, temperature))
    for i in (0, peers - 1):

        def value(z, i=i):
            log_probs = functional.log_probabilities(z, True, temperature)
            values = functional.mutual_distillation(log_probs, selected)
            return ops.sum(values[:, i])

        ours = gradient(value, logits)
        expected = np.zeros_like(ours)
        for j in range(peers):
            if j != i:
                expected[:, i] += selected[:, j, None] * (
                    probs[:, i] - probs[:, j]
                )
        expected /= temperature * (peers - 1)
        np.testing.assert_allclose(
            ours[:, i], expected[:, i], rtol=1e-4, atol=1e-6
        )
        others = [j for j in range(peers) if j != i]
        np.testing.assert_array_equal(ours[:, others], 0.0)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("peers", [2, 3])
def test_unselected_knowledge_that_is_not_finite_adds_nothing(rng, peers, bad):
    logits = random_logits(rng, 6, peers, 4)
    broken = logits.copy()
    broken[:, 1] = bad
    partly_broken = logits.copy()
    partly_broken[:, 1, 2] = bad
    selected = np.ones((6, peers), "float32")
    selected[:, 1] = 0.0
    others = [i for i in range(peers) if i != 1]

    def values(z):
        return functional.mutual_distillation(
            functional.log_probabilities(z), selected
        )

    def total(z):
        return ops.sum(ops.take(values(z), others, axis=1))

    for case in (broken, partly_broken):
        np.testing.assert_array_equal(
            numpy_of(values(case))[:, others],
            numpy_of(values(logits))[:, others],
        )
        np.testing.assert_array_equal(
            gradient(total, case)[:, others],
            gradient(total, logits)[:, others],
        )
    # The same for log-probabilities that are not finite themselves.
    log_probs = numpy_of(functional.log_probabilities(logits))
    broken = log_probs.copy()
    broken[:, 1] = bad
    np.testing.assert_array_equal(
        numpy_of(functional.mutual_distillation(broken, selected))[:, others],
        numpy_of(functional.mutual_distillation(log_probs, selected))[
            :, others
        ],
    )


def test_a_learner_that_is_not_finite_learns_nothing_from_nothing():
    log_probs = np.array([[[NAN, NAN], [-0.5, -0.9]]], "float32")
    values = functional.mutual_distillation(log_probs, [[0.0, 0.0]])
    assert numpy_of(values).tolist() == [[0.0, 0.0]]


def test_mutual_distillation_of_one_hots():
    one_hot = [0.0, -INF]
    half = [-math.log(2.0)] * 2
    same = functional.mutual_distillation([[one_hot, one_hot]], [[1, 1]])
    assert numpy_of(same).tolist() == [[0.0, 0.0]]
    mixed = functional.mutual_distillation([[one_hot, half]], [[1, 1]])
    np.testing.assert_allclose(numpy_of(mixed), [[INF, math.log(2.0)]])


@pytest.mark.parametrize(
    ("shape", "selected_shape"),
    [
        ((4, 1, 3), (4, 1)),
        ((4, 3), (4, 3)),
        ((4, 2, 3), (4,)),
        ((4, 2, 3), (4, 2, 3)),
        ((4, 2, 3), (4, 1)),
        ((4, 2, 3), (4, 3)),
        ((4, 2, 3), (1, 2)),
        ((1, 2, 3), (4, 2)),
    ],
)
def test_mutual_distillation_checks_shapes(shape, selected_shape):
    with pytest.raises(ValueError, match="must have shape") as caught:
        functional.mutual_distillation(
            np.zeros(shape, "float32"), np.ones(selected_shape, "float32")
        )
    assert f"log_probs.shape={shape}" in str(caught.value)
    assert f"selected.shape={selected_shape}" in str(caught.value)


PARTS = {
    "entropy": functional.entropy,
    "soft_cross_entropy": lambda lp: functional.soft_cross_entropy(
        [0.2, 0.3, 0.5], lp
    ),
    "kl_divergence": lambda lp: functional.kl_divergence(lp[:, 0], lp[:, 1]),
    "mutual_distillation": lambda lp: functional.mutual_distillation(
        lp, np.ones((lp.shape[0], 2), "float32")
    ),
    "routed_divergence": lambda lp: functional.routed_divergence(
        lp, lp[:, :1], np.array([[0.5], [2.0]])
    ),
    **{
        measure: lambda lp, measure=measure: functional.uncertainty(lp, measure)
        for measure in MEASURES
    },
}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name", PARTS)
def test_saturated_logits_stay_finite(name, temperature):
    logits = np.array(
        [
            [[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4]],
            [[1e4, -1e4, -1e4], [1e4, 1e4, -1e4]],
            [[1e4, 1e4, 1e4], [-1e4, -1e4, -1e4]],
            [[-1e4, 0.0, 0.0], [0.0, 1e4, 0.0]],
        ],
        "float32",
    )

    def value(z):
        return PARTS[name](functional.log_probabilities(z, True, temperature))

    assert np.isfinite(numpy_of(value(logits))).all()
    assert np.isfinite(gradient(lambda z: ops.sum(value(z)), logits)).all()


def test_saturated_logits_keep_their_value():
    # KL of one-hots that disagree is the distance of the logits.
    logits = np.array([[[1e4, -1e4], [-1e4, 1e4]]], "float32")
    log_probs = functional.log_probabilities(logits)
    np.testing.assert_allclose(
        numpy_of(functional.mutual_distillation(log_probs, [[1, 1]])),
        [[2e4, 2e4]],
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name", PARTS)
def test_probabilities_of_0_and_1_stay_finite(name, temperature):
    probs = np.array(
        [
            [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
            [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]],
            [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]],
        ],
        "float32",
    )

    def value(p):
        return PARTS[name](functional.log_probabilities(p, False, temperature))

    assert np.isfinite(numpy_of(value(probs))).all()
    assert np.isfinite(gradient(lambda p: ops.sum(value(p)), probs)).all()


@pytest.mark.parametrize("name", PARTS)
def test_minus_infinity_has_a_finite_gradient(name):
    # Both peers exclude the last class; the target and `q` do not need it.
    log_probs = np.log([[[0.75, 0.25], [0.5, 0.5]]])
    log_probs = np.concatenate([log_probs, [[[-INF], [-INF]]]], axis=-1)
    log_probs = log_probs.astype("float32")

    def value(lp):
        if name == "soft_cross_entropy":
            return functional.soft_cross_entropy([0.5, 0.5, 0.0], lp)
        return PARTS[name](lp)

    assert np.isfinite(numpy_of(value(log_probs))).all()
    assert np.isfinite(gradient(lambda x: ops.sum(value(x)), log_probs)).all()


@pytest.mark.parametrize("name", ["log_probabilities", *PARTS])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_float32(rng, dtype, name):
    x = ops.cast(random_logits(rng, 4, 2, 3), dtype)
    function = {"log_probabilities": functional.log_probabilities, **PARTS}[
        name
    ]
    value = function(x)
    assert dtype_of(value) == "float32"
    np.testing.assert_allclose(
        numpy_of(value), numpy_of(function(ops.cast(x, "float32")))
    )


@pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="JAX computes in float32 unless x64 is enabled for the process",
)
@pytest.mark.parametrize("name", ["log_probabilities", *PARTS])
def test_float64_stays_float64(rng, name):
    logits = rng.normal(size=(4, 2, 3))
    log_probs = functional.log_probabilities(logits)
    if name == "log_probabilities":
        value, expected = log_probs, naive_log_softmax(logits)
        np.testing.assert_allclose(numpy_of(value), expected, rtol=1e-12)
    else:
        value = PARTS[name](log_probs)
    assert dtype_of(value) == "float64"
    if name == "mutual_distillation":
        expected = naive_mutual_distillation(
            np.exp(naive_log_softmax(logits)), np.ones((4, 2))
        )
        np.testing.assert_allclose(numpy_of(value), expected, rtol=1e-10)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_measure_may_be_a_function(rng, measure):
    log_probs = functional.log_probabilities(random_logits(rng, 6, 4))
    assert functional.measure_of(measure) is MEASURES[measure]
    ours = functional.uncertainty(log_probs, MEASURES[measure])
    np.testing.assert_array_equal(
        numpy_of(ours), numpy_of(functional.uncertainty(log_probs, measure))
    )


def test_what_a_measure_gives_is_cut_off_and_nan_where_nothing_is():
    log_probs = np.array([[-0.5, -0.9], [NAN, 0.0]], "float32")
    for value, expected in ((3.0, 1.0), (-2.0, 0.0), (0.25, 0.25)):
        ours = numpy_of(
            functional.uncertainty(
                log_probs, lambda lp, v=value: ops.full_like(lp[..., 0], v)
            )
        )
        np.testing.assert_array_equal(ours, [expected, NAN])


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_logits_are_outputs_or_logarithms_of_them(dtype):
    outputs = np.array([[0.0, 1.0], [1.0, 0.0]], dtype)
    ours = functional.logits(outputs)
    assert dtype_of(ours) == "float32"
    np.testing.assert_array_equal(numpy_of(ours), outputs)
    ours = numpy_of(functional.logits(outputs, from_logits=False))
    expected = np.log(np.maximum(outputs.astype("float64"), 1e-7))
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_mixed_leaves_what_has_no_weight_out():
    values = np.array([[[1.0, 2.0], [NAN, NAN], [3.0, 5.0]]], "float32")
    ours = functional.mixed(
        ops.convert_to_tensor(values), np.array([2.0, 0.0, 1.0])
    )
    assert numpy_of(ours).tolist() == [[5.0, 9.0]]
    assert functional.mixed(values, np.zeros(3)) is None


def test_integers_and_lists_become_float32():
    assert dtype_of(functional.at_least_float32([[1, 2]])) == "float32"
    assert dtype_of(functional.at_least_float32([[1.0, 2.0]])) == "float32"
    assert dtype_of(functional.at_least_float32(np.zeros(2, "int64"))) == (
        "float32"
    )
