"""Divergences: values and gradients against float64 NumPy, at every `T`."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from naive import gradient
from naive import naive_kl
from naive import naive_log_softmax
from naive import numpy_of

from keras_smkd import divergences
from keras_smkd import functional
from keras_smkd.batch import Batch
from keras_smkd.batch import to_all
from keras_smkd.batch import to_itself
from keras_smkd.batch import to_others

NAN = math.nan
SIZE, LEARNERS, CLASSES = 12, 3, 5
TEMPERATURES = [0.01, 0.1, 0.5, 1.0, 4.0, 10.0, 10.5, 100.0, 1e3, 1e4]

# Of three learners.
ROUTES = {
    "others": to_others(3),
    "itself": to_itself(3),
    "all of one": to_all(3, 1),
    "all of two": to_all(3, 2),
    "by hand": np.array([[0.0, 0.25, 2.0], [1.0, 0.5, 0.0], [0.0, 0.0, 0.0]]),
    "alike": np.array([[0.0, 0.5], [0.0, 0.5], [1.0, 0.0]]),
}
KINDS = {
    "kullback_leibler": divergences.KullbackLeibler(),
    "at a high temperature": divergences.KullbackLeibler(50.0),
    "not scaled": divergences.KullbackLeibler(3.0, scaled=False),
    "squared_error": divergences.SquaredError(),
    "logit_squared_error": divergences.LogitSquaredError(),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_route = pytest.mark.parametrize("name", ROUTES)
each_temperature = pytest.mark.parametrize("temperature", TEMPERATURES)


def softmax(logits, temperature=1.0):
    """In float64, with the logarithms."""
    z = np.asarray(logits, "float64") / temperature
    z = z - z.max(axis=-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return np.exp(log_p), log_p


def pair(divergence, known, own):
    """One divergence and its gradient in the learner's logits, in float64."""
    if isinstance(divergence, divergences.LogitSquaredError):
        difference = np.asarray(own, "float64") - known
        return 0.5 * (difference**2).sum(axis=-1), difference
    if isinstance(divergence, divergences.SquaredError):
        (q, _), (p, _) = softmax(known), softmax(own)
        slope = 2.0 * (p - q) / p.shape[-1]
        slope = p * (slope - (p * slope).sum(axis=-1, keepdims=True))
        return ((q - p) ** 2).mean(axis=-1), slope
    temperature = divergence.temperature
    (q, log_q), (p, log_p) = (softmax(z, temperature) for z in (known, own))
    return (q * (log_q - log_p)).sum(axis=-1), (p - q) / temperature


def expected_of(divergence, known, own, routes, selected=None):
    """The sums over the routes as loops, and the gradient of their sum."""
    values, slopes = np.zeros(own.shape[:2]), np.zeros(own.shape)
    for i, k in np.ndindex(routes.shape):
        if routes[i, k] == 0:
            continue
        value, slope = pair(divergence, known[:, k], own[:, i])
        share = routes[i, k] * np.ones(len(own))
        if selected is not None:
            share = share * selected[:, k]
        values[:, i] += share * value
        slopes[:, i] += share[:, None] * slope
    return values, slopes


def values_of(divergence, known, own, routes, selected=None):
    ours = divergence(
        Batch(
            logits=ops.convert_to_tensor(own),
            knowledge_logits=ops.convert_to_tensor(known),
            routes=routes,
            selected=selected,
        )
    )
    assert tuple(ours.shape) == tuple(own.shape[:2])
    return ours


def both_of(divergence, known, own, routes, selected=None):
    """Our values, and the gradient of their sum in the learners' logits."""
    values = numpy_of(values_of(divergence, known, own, routes, selected))
    slopes = gradient(
        lambda z: ops.sum(values_of(divergence, known, z, routes, selected)),
        own,
    )
    return values, slopes


def assert_near(ours, expected, rtol=1e-4):
    """Compare, relatively; beside the largest, the smallest may be lost."""
    for one, other in zip(ours, expected, strict=True):
        # float32 ends before the smallest of these do.
        atol = 1e-6 * np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@pytest.fixture
def own(rng):
    return rng.normal(0.0, 2.0, (SIZE, LEARNERS, CLASSES)).astype("float32")


def knowledge_for(rng, routes, scale=2.0):
    shape = (SIZE, routes.shape[1], CLASSES)
    return rng.normal(0.0, scale, shape).astype("float32")


def selection_for(rng, routes):
    selected = (rng.random((SIZE, routes.shape[1])) < 0.5).astype("float32")
    assert 0 < selected.mean() < 1
    return selected


# The Kullback-Leibler divergence.


@pytest.mark.parametrize("select", [False, True])
@pytest.mark.parametrize("name", ["others", "by hand"])
@each_temperature
def test_divergence_at_every_temperature(rng, own, temperature, name, select):
    routes = ROUTES[name]
    divergence = divergences.KullbackLeibler(temperature)
    known = knowledge_for(rng, routes)
    selected = selection_for(rng, routes) if select else None
    arguments = (divergence, known, own, routes, selected)
    assert_near(both_of(*arguments), expected_of(*arguments))


@each_temperature
def test_the_reference_is_the_formula(own, temperature):
    divergence = divergences.KullbackLeibler(temperature)
    values, _ = pair(divergence, own[:, 0], own[:, 1])
    q, p = (naive_log_softmax(own[:, i], temperature) for i in (0, 1))
    for n in range(SIZE):
        pairs = zip(q[n], p[n], strict=True)
        expected = sum(math.exp(a) * (a - b) for a, b in pairs)
        assert values[n] == pytest.approx(expected, rel=1e-5)
    if temperature >= 1.0:
        q, p = np.exp(q), np.exp(p)
        expected = [naive_kl(*rows) for rows in zip(q, p, strict=True)]
        np.testing.assert_allclose(values, expected, rtol=1e-5)


@each_temperature
def test_the_factor_is_the_square_of_the_temperature(own, temperature):
    scaled = divergences.KullbackLeibler(temperature)
    plain = divergences.KullbackLeibler(temperature, scaled=False)
    assert scaled.factor == temperature**2
    assert plain.factor == 1.0
    np.testing.assert_array_equal(
        *(
            numpy_of(values_of(d, own, own, to_others(3)))
            for d in (scaled, plain)
        )
    )


def test_a_high_temperature_is_a_regression_of_centred_logits(rng, own):
    # Hinton et al., eq. 4.
    divergence = divergences.KullbackLeibler(1e4)
    routes = ROUTES["all of one"]
    known = knowledge_for(rng, routes)
    difference = np.float64(known) - own
    difference -= difference.mean(axis=-1, keepdims=True)
    values, slopes = both_of(divergence, known, own, routes)
    np.testing.assert_allclose(
        divergence.factor * values,
        (difference**2).mean(axis=-1) / 2,
        rtol=1e-3,
    )
    np.testing.assert_allclose(
        divergence.factor * slopes, -difference / CLASSES, rtol=2e-2, atol=1e-3
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0, 1e3])
@pytest.mark.parametrize("scale", [30.0, 1e3])
def test_logits_that_are_far_apart(rng, own, scale, temperature):
    divergence = divergences.KullbackLeibler(temperature)
    routes = ROUTES["by hand"]
    known = knowledge_for(rng, routes, scale)
    own = (scale / 2.0 * own).astype("float32")
    arguments = (divergence, known, own, routes)
    ours = both_of(*arguments)
    assert np.isfinite(ours[0]).all() and np.isfinite(ours[1]).all()
    assert_near(ours, expected_of(*arguments))


@pytest.mark.parametrize("temperature", [10.5, 100.0, 1e4])
def test_a_constant_on_the_logits_changes_nothing(rng, own, temperature):
    divergence = divergences.KullbackLeibler(temperature)
    routes = ROUTES["others"]
    # Exact in float32, so that the sums are too.
    own, known = (np.round(64 * z) / 64 for z in (own, own[::-1]))
    shifted = both_of(divergence, known + 32.0, own - 16.0, routes)
    assert_near(shifted, expected_of(divergence, known, own, routes))


@each_temperature
def test_equal_predictions_teach_nothing(own, temperature):
    divergence = divergences.KullbackLeibler(temperature)
    values, slopes = both_of(divergence, own, own, to_itself(3))
    low = temperature <= 10
    np.testing.assert_allclose(values, 0.0, atol=1e-6 if low else 1e-8)
    # The logits over `T` may differ by a rounding, compiled or not.
    atol = (1e-6 if low else 1e-7) / temperature
    np.testing.assert_allclose(slopes, 0.0, atol=atol)


@each_temperature
def test_knowledge_of_its_own_is_that_of_the_logits(own, temperature):
    divergence = divergences.KullbackLeibler(temperature)
    routes = to_others(3)

    def values(z):
        logits = ops.convert_to_tensor(z)
        batch = Batch(logits=logits, routes=routes)
        return divergence(
            batch.filled(
                knowledge=ops.stop_gradient(batch.log_probs),
                knowledge_logits=ops.stop_gradient(logits),
                is_own_knowledge=True,
            )
        )

    expected = expected_of(divergence, own, own, routes)
    ours = numpy_of(values(own)), gradient(lambda z: ops.sum(values(z)), own)
    assert_near(ours, expected)


@pytest.mark.parametrize("routes", [to_others(3), ROUTES["by hand"]])
@pytest.mark.parametrize("temperature", [1.0, 3.0, 50.0])
def test_log_probabilities_serve_as_logits(own, temperature, routes):
    divergence = divergences.KullbackLeibler(temperature)
    known = own[::-1].copy()
    batch = Batch(
        log_probs=ops.log_softmax(own),
        knowledge=ops.log_softmax(ops.convert_to_tensor(known)),
        routes=routes,
    )
    expected, _ = expected_of(divergence, known, own, routes)
    np.testing.assert_allclose(
        numpy_of(divergence(batch)), expected, rtol=1e-4, atol=1e-6
    )


def test_the_special_routes_agree_with_any_others(own):
    # `to_others` has an algebra of its own.
    log_probs = functional.log_probabilities(own)
    selected = np.ones((SIZE, 3), "float32")
    selected[::2, 1] = 0.0
    np.testing.assert_allclose(
        numpy_of(functional.mutual_distillation(log_probs, selected)),
        numpy_of(
            functional.routed_divergence(
                log_probs, log_probs, to_others(3), selected
            )
        ),
        rtol=1e-4,
        atol=1e-6,
    )


# All divergences.


@pytest.mark.parametrize("select", [False, True])
@each_route
@each_kind
def test_divergences_equal_loops(rng, own, kind, name, select):
    routes = ROUTES[name]
    known = knowledge_for(rng, routes)
    selected = selection_for(rng, routes) if select else None
    arguments = (KINDS[kind], known, own, routes, selected)
    assert_near(both_of(*arguments), expected_of(*arguments))


@pytest.mark.parametrize("dtype", ["int32", "bool"])
@each_kind
def test_a_selection_of_any_type(rng, own, kind, dtype):
    for routes in (to_others(3), ROUTES["by hand"]):
        known = knowledge_for(rng, routes)
        selected = selection_for(rng, routes)
        np.testing.assert_array_equal(
            numpy_of(
                values_of(
                    KINDS[kind], known, own, routes, selected.astype(dtype)
                )
            ),
            numpy_of(values_of(KINDS[kind], known, own, routes, selected)),
        )


@each_kind
def test_nothing_selected_is_exactly_nothing(rng, own, kind):
    for routes in ROUTES.values():
        known = knowledge_for(rng, routes)
        selected = np.zeros((SIZE, routes.shape[1]), "float32")
        values, slopes = both_of(KINDS[kind], known, own, routes, selected)
        np.testing.assert_array_equal(values, 0.0)
        np.testing.assert_array_equal(slopes, 0.0)


@each_kind
def test_a_learner_without_a_route_learns_nothing(rng, own, kind):
    routes = ROUTES["by hand"]
    known = knowledge_for(rng, routes)
    own[:, 2] = NAN
    values, slopes = both_of(KINDS[kind], known, own, routes)
    np.testing.assert_array_equal(values[:, 2], 0.0)
    assert np.isfinite(values).all()
    assert np.isfinite(slopes[:, :2]).all()


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
@each_kind
def test_a_route_of_zero_keeps_out_what_is_not_finite(rng, own, kind, bad):
    routes = np.array([[0.0, 1.0, 0.5], [0.0, 0.0, 2.0], [1.0, 0.5, 0.0]])
    known = knowledge_for(rng, routes)
    expected = expected_of(KINDS[kind], known, own, routes)
    known[:, 0, 1] = bad
    known[:, 0, 3] = bad
    ours = both_of(KINDS[kind], known, own, routes)
    assert_near(
        [each[:, :2] for each in ours], [each[:, :2] for each in expected]
    )
    # And who is on its route hears it. Minus infinity is a class ruled out.
    if bad != -math.inf:
        assert not np.isfinite(ours[0][:, 2]).any()


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("routes", [to_others(3), ROUTES["by hand"]])
@each_kind
def test_what_is_not_selected_may_not_be_finite(rng, own, kind, routes, bad):
    known = knowledge_for(rng, routes)
    selected = selection_for(rng, routes)
    expected = expected_of(KINDS[kind], known, own, routes, selected)
    known[selected == 0] = bad
    ours = both_of(KINDS[kind], known, own, routes, selected)
    assert_near(ours, expected)


@pytest.mark.parametrize("routes", [to_others(3), to_itself(3)])
@each_kind
def test_what_is_not_finite_is_heard_where_nothing_selects(
    rng, own, kind, routes
):
    known = knowledge_for(rng, routes)
    known[3, 1] = NAN
    values = numpy_of(values_of(KINDS[kind], known, own, routes))
    assert np.isnan(values[3, routes[:, 1] > 0]).all()
    values[3] = 0.0
    assert np.isfinite(values).all()


@each_route
@each_kind
def test_no_gradient_flows_through_the_knowledge(rng, own, kind, name):
    routes = ROUTES[name]
    known = knowledge_for(rng, routes)

    def total(z):
        # As the model has it: the knowledge is stopped once.
        given = ops.stop_gradient(z)
        batch = Batch(
            logits=ops.convert_to_tensor(own),
            knowledge_logits=given,
            routes=routes,
        )
        return ops.sum(KINDS[kind](batch))

    np.testing.assert_array_equal(gradient(total, known), 0.0)


@pytest.mark.parametrize("temperature", [1.0, 50.0])
@pytest.mark.parametrize("routes", [to_others(3), ROUTES["by hand"]])
def test_the_divergence_stops_the_gradient_itself(own, temperature, routes):
    divergence = divergences.KullbackLeibler(temperature)

    def total(z):
        batch = Batch(
            logits=own,
            knowledge=functional.log_probabilities(z),
            knowledge_logits=z,
            routes=routes,
        )
        return ops.sum(divergence(batch))

    np.testing.assert_array_equal(gradient(total, own[::-1].copy()), 0.0)


@each_kind
def test_half_precision_gives_float32(own, kind):
    half = ops.cast(own, "float16")
    batch = Batch(logits=half, knowledge_logits=half, routes=to_all(3, 3))
    values = KINDS[kind](batch)
    assert keras.backend.standardize_dtype(values.dtype) == "float32"


@pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="JAX computes in float32 unless x64 is enabled for the process",
)
@pytest.mark.parametrize("select", [False, True])
@pytest.mark.parametrize("name", ["others", "by hand"])
@each_kind
def test_float64_stays_float64(rng, own, kind, name, select):
    routes = ROUTES[name]
    known, own = np.float64(knowledge_for(rng, routes)), np.float64(own)
    selected = selection_for(rng, routes) if select else None
    arguments = (KINDS[kind], known, own, routes, selected)
    assert keras.backend.standardize_dtype(values_of(*arguments).dtype) == (
        "float64"
    )
    # A series of a few terms is what a high temperature has.
    rtol = 1e-5 if kind == "at a high temperature" else 1e-9
    assert_near(both_of(*arguments), expected_of(*arguments), rtol)


def compiled(function):
    """Return a compiled function, of batches of any size on TensorFlow."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        signature = tf.TensorSpec((None, LEARNERS, CLASSES), "float32")
        return tf.function(function, input_signature=[signature])
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="torch runs what it is given"
)
@pytest.mark.parametrize(
    ("name", "select"), [("others", True), ("itself", False), ("alike", True)]
)
@each_kind
def test_eager_is_compiled(rng, own, kind, name, select):
    routes = ROUTES[name]

    def values(z):
        known = z[:, : routes.shape[1]] ** 2
        selected = ops.cast(known[..., 0] > 1.0, "float32") if select else None
        return values_of(KINDS[kind], known, z, routes, selected)

    own = ops.convert_to_tensor(own)
    for rows in (own, own[:5]):
        np.testing.assert_allclose(
            numpy_of(compiled(values)(rows)),
            numpy_of(values(rows)),
            rtol=1e-5,
            atol=1e-6,
        )


# Worked by hand.


def test_squared_error_worked_by_hand():
    batch = Batch(
        log_probs=np.log([[[0.25, 0.75], [0.5, 0.5]]]),
        knowledge=np.log([[[0.5, 0.5], [1.0, 1e-30]]]),
        routes=np.array([[1.0, 2.0], [0.0, 1.0]]),
    )
    # 1/2 (1/16 + 1/16), twice 1/2 (9/16 + 9/16), and 1/2 (1/4 + 1/4).
    ours = numpy_of(divergences.SquaredError()(batch))
    np.testing.assert_allclose(ours, [[1 / 16 + 9 / 8, 1 / 4]], rtol=1e-6)
    assert divergences.SquaredError().factor == 1.0


def test_logit_squared_error_worked_by_hand():
    batch = Batch(
        logits=ops.convert_to_tensor([[[1.0, 3.0], [0.0, 0.0]]]),
        knowledge_logits=ops.convert_to_tensor([[[0.0, 1.0], [2.0, 4.0]]]),
        routes=np.array([[1.0, 0.5], [0.0, 1.0]]),
    )
    # 1/2 (1 + 4), half of 1/2 (1 + 1), and 1/2 (4 + 16).
    ours = numpy_of(divergences.LogitSquaredError()(batch))
    np.testing.assert_allclose(ours, [[2.5 + 0.5, 10.0]], rtol=1e-6)
    assert divergences.LogitSquaredError().factor == 1.0


def test_logits_without_logits_are_log_probabilities():
    batch = Batch(
        log_probs=np.log([[[0.25, 0.75]]]),
        knowledge=np.log([[[0.5, 0.5]]]),
        routes=np.ones((1, 1)),
    )
    expected = (math.log(2.0) ** 2 + math.log(1.5) ** 2) / 2
    ours = numpy_of(divergences.LogitSquaredError()(batch))
    np.testing.assert_allclose(ours, [[expected]], rtol=1e-6)


# The functions below.


@pytest.mark.parametrize("select", [False, True])
@each_route
def test_routed_divergence_equals_loops(rng, own, name, select):
    routes = ROUTES[name]
    known = knowledge_for(rng, routes)
    selected = selection_for(rng, routes) if select else None
    expected, _ = expected_of(
        divergences.KullbackLeibler(), known, own, routes, selected
    )
    ours = functional.routed_divergence(
        functional.log_probabilities(own),
        functional.log_probabilities(known),
        routes,
        selected,
    )
    np.testing.assert_allclose(numpy_of(ours), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_routed_divergence_of_any_routes(own, seed):
    rng = np.random.default_rng(seed)
    num_sources = int(rng.integers(1, 6))
    routes = rng.random((LEARNERS, num_sources))
    routes *= rng.random(routes.shape) < 0.6
    known = knowledge_for(rng, routes)
    selected = (rng.random((SIZE, num_sources)) < 0.7).astype("float32")
    expected, _ = expected_of(
        divergences.KullbackLeibler(), known, own, routes, selected
    )
    # What reaches nobody may be anything.
    known[:, routes.sum(axis=0) == 0] = NAN
    known[selected == 0] = NAN
    ours = functional.routed_divergence(
        functional.log_probabilities(own),
        functional.log_probabilities(known),
        routes,
        selected,
    )
    np.testing.assert_allclose(numpy_of(ours), expected, rtol=1e-4, atol=1e-6)


def test_routed_divergence_of_one_hots():
    inf = math.inf
    one_hot, half = [0.0, -inf], [-math.log(2.0)] * 2

    def value(known, own):
        ours = functional.routed_divergence(
            np.array([[own]], "float32"),
            np.array([[known]], "float32"),
            np.ones((1, 1)),
        )
        return numpy_of(ours).tolist()

    assert value(one_hot, one_hot) == [[0.0]]
    assert value(half, one_hot) == [[inf]]
    assert value(one_hot, half)[0][0] == pytest.approx(math.log(2.0))


@pytest.mark.parametrize("temperature", TEMPERATURES[2:])
@pytest.mark.parametrize("distance", [1e-3, 0.1, 1.0, 30.0])
def test_close_logits_keep_their_digits(rng, own, temperature, distance):
    own = own[:, 0]
    step = rng.normal(0.0, distance, own.shape)
    known = (own + temperature * step).astype("float32")
    value, slope = pair(divergences.KullbackLeibler(temperature), known, own)

    def values(z):
        return functional.kl_of_close_logits(known, z, temperature)

    ours = numpy_of(values(own)), gradient(lambda z: ops.sum(values(z)), own)
    np.testing.assert_allclose(ours[0], value, rtol=1e-3, atol=1e-30)
    np.testing.assert_allclose(
        ours[1], slope, rtol=1e-3, atol=1e-4 * np.abs(slope).max()
    )


# Configuration.


@pytest.mark.parametrize(
    "divergence",
    [
        divergences.KullbackLeibler(4.0, scaled=False),
        divergences.SquaredError(),
        divergences.LogitSquaredError(),
    ],
)
def test_config_round_trip(divergence):
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(divergence)
    )
    assert type(again) is type(divergence)
    assert again == divergence
    assert again.factor == divergence.factor


def test_get_gives_a_divergence_by_name_or_itself():
    for name, kind in (
        ("kullback_leibler", divergences.KullbackLeibler),
        ("squared_error", divergences.SquaredError),
        ("logit_squared_error", divergences.LogitSquaredError),
    ):
        assert divergences.get(name) == kind()

    def own(batch):
        return ops.zeros_like(batch.logits[..., 0])

    assert divergences.get(own) is own
    with pytest.raises(ValueError, match="`divergence` must be one of 'kull"):
        divergences.get("hellinger")
    for wrong in (None, 1.0, divergences.SquaredError):
        with pytest.raises(TypeError, match="`divergence` must be a callable"):
            divergences.get(wrong)


def test_wrong_arguments():
    for temperature in (0.0, -1.0, NAN, math.inf):
        with pytest.raises(ValueError, match=r"`temperature` must be .* > 0"):
            divergences.KullbackLeibler(temperature)
    with pytest.raises(TypeError, match="`temperature` must be a number"):
        divergences.KullbackLeibler("4")
    with pytest.raises(TypeError, match="`scaled` must be True or False"):
        divergences.KullbackLeibler(scaled=1)
