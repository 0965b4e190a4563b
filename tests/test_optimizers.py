"""Gradient rules: values, in any model, in models of peers, files, errors."""

import keras
import numpy as np
import pytest
from keras import ops
from naive import numpy_of
from peers import copies
from peers import linear
from peers import mlp

import keras_smkd
from keras_smkd.model import backends
from keras_smkd.optimizers import CriticalGradients
from keras_smkd.optimizers import GradientRule
from keras_smkd.optimizers import critical_gradients

LOSS = "sparse_categorical_crossentropy"


@keras.saving.register_keras_serializable(package="test_optimizers")
class Halved(GradientRule):
    """Halves every gradient."""

    def changed(self, gradients, variables):
        return [None if g is None else 0.5 * g for g in gradients]


@pytest.fixture
def data(rng):
    x = rng.normal(size=(24, 6)).astype("float32")
    return x, rng.integers(0, 4, 24)


def naive_critical_gradients(gradients, weights, noise_rate):
    ranked = [
        abs(w * g)
        for g, w in zip(gradients, weights, strict=True)
        if np.ndim(g) in (2, 4)
    ]
    values = sorted(np.concatenate([r.ravel() for r in ranked]), reverse=True)
    count = int(round((1 - noise_rate) * len(values), 6))
    threshold = values[count - 1] if count else np.inf
    return [
        np.where(abs(w * g) >= threshold, (1 - noise_rate) * g, 0)
        if np.ndim(g) in (2, 4)
        else g
        for g, w in zip(gradients, weights, strict=True)
    ]


@pytest.mark.parametrize("noise_rate", [0.0, 0.2, 0.45, 0.9, 0.999])
def test_critical_gradients_are_those_of_the_naive_loop(rng, noise_rate):
    shapes = [(5, 4), (4,), (2, 2, 3, 2), (), (3, 2, 2), (7, 1)]
    weights, gradients = (
        [np.asarray(rng.normal(size=s), "float32") for s in shapes]
        for _ in range(2)
    )
    ours = critical_gradients(gradients, weights, noise_rate)
    theirs = naive_critical_gradients(gradients, weights, noise_rate)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(numpy_of(our), their, rtol=1e-6)


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="float64 is for the whole process"
)
def test_weights_of_several_precisions_are_compared(rng):
    shapes = {"float64": (5, 4), "float32": (3, 2), "float16": (4, 2)}
    weights, gradients = (
        [
            rng.normal(size=shape).astype(dtype)
            for dtype, shape in shapes.items()
        ]
        for _ in range(2)
    )
    ours = critical_gradients(gradients, weights, 0.4)
    theirs = naive_critical_gradients(
        *([g.astype("float64") for g in v] for v in (gradients, weights)), 0.4
    )
    for our, their, dtype in zip(ours, theirs, shapes, strict=True):
        assert keras.backend.standardize_dtype(our.dtype) == dtype
        np.testing.assert_allclose(numpy_of(our), their, rtol=2e-3)


def test_ties_are_kept_and_so_is_what_is_not_finite():
    weights = [np.array([[1.0, 2.0, 1.0, 5.0, 1.0]], "float32"), None]
    gradients = [np.array([[4.0, 2.0, 1.0, np.nan, -4.0]], "float32"), None]
    ours, none = critical_gradients(gradients, weights, 0.6)
    np.testing.assert_allclose(numpy_of(ours), [[1.6, 0.8, 0, np.nan, -1.6]])
    assert none is None


@pytest.mark.parametrize("noise_rate", [0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
def test_rounding_drops_no_weight(noise_rate):
    weights = [np.arange(1, 11, dtype="float32")[None]]
    (ours,) = critical_gradients([np.ones((1, 10), "f")], weights, noise_rate)
    count = (numpy_of(ours) > 0).sum()
    assert count == round(10 * (1 - noise_rate))


def test_half_precision_underflows_in_no_product():
    weights = [np.array([[1e-4, 2e-4]], "float16")]
    gradients = [np.array([[1e-4, 1e-4]], "float16")]
    (ours,) = critical_gradients(gradients, weights, 0.5)
    assert keras.backend.standardize_dtype(ours.dtype) == "float16"
    assert (numpy_of(ours) > 0).tolist() == [[False, True]]


def sgd_step(model, optimizer, x, y):
    """The weights before and after one step."""
    model.compile(optimizer, keras.losses.get(LOSS))
    before = model.get_weights()
    model.fit(x, y, batch_size=len(x), epochs=1, verbose=0)
    return before, model.get_weights()


def softmax_net():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5, activation="tanh"),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )


@pytest.mark.parametrize("weight_decay", [None, 0.1])
def test_a_step_of_any_model_moves_the_critical_weights(data, weight_decay):
    plain = softmax_net()
    (ours,) = copies([plain])
    before, after = sgd_step(plain, keras.optimizers.SGD(1.0), *data)
    gradients = [b - a for b, a in zip(before, after, strict=True)]
    rule = CriticalGradients(
        keras.optimizers.SGD(0.5, weight_decay=weight_decay), noise_rate=0.4
    )
    _, after = sgd_step(ours, rule, *data)
    wanted = naive_critical_gradients(gradients, before, 0.4)
    for start, end, gradient in zip(before, after, wanted, strict=True):
        shrunk = start * (1 - 0.5 * (weight_decay or 0.0))
        np.testing.assert_allclose(
            end, shrunk - 0.5 * gradient, rtol=1e-4, atol=1e-6
        )
    assert int(numpy_of(rule.iterations)) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.AdamW(0.01, clipnorm=0.5),
        lambda: keras.optimizers.RMSprop(0.01, use_ema=True),
        lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=3),
        lambda: keras.optimizers.SGD(
            keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
        ),
        lambda: keras.optimizers.LossScaleOptimizer(
            keras.optimizers.Adam(0.01), initial_scale=4.0
        ),
    ],
)
def test_a_rule_that_changes_nothing_is_the_inner_optimizer(data, make):
    models = [softmax_net()]
    models += copies(models)
    inner = make()
    if isinstance(inner, keras.optimizers.LossScaleOptimizer):
        ours = keras.optimizers.LossScaleOptimizer(
            CriticalGradients(inner.inner_optimizer, 0.0), initial_scale=4.0
        )
        inner = make()
    else:
        ours = CriticalGradients(make(), 0.0)
    logs = []
    for model, optimizer in zip(models, (inner, ours), strict=True):
        model.compile(optimizer, keras.losses.get(LOSS))
        logs.append(
            model.fit(
                *data, batch_size=4, epochs=2, shuffle=False, verbose=0
            ).history["loss"]
        )
    assert logs[0] == logs[1]
    for first, second in zip(*(m.get_weights() for m in models), strict=True):
        np.testing.assert_array_equal(first, second)
    assert int(numpy_of(ours.iterations)) == int(numpy_of(inner.iterations))
    np.testing.assert_array_equal(
        numpy_of(ours.learning_rate), numpy_of(inner.learning_rate)
    )


def test_callbacks_read_and_set_the_learning_rate(data):
    model = softmax_net()
    rule = CriticalGradients("sgd", 0.2)
    model.compile(rule, keras.losses.get(LOSS))
    logs = model.fit(
        *data,
        epochs=3,
        verbose=0,
        callbacks=[
            keras.callbacks.LearningRateScheduler(lambda _, rate: rate / 2),
            keras.callbacks.ReduceLROnPlateau(
                "loss", factor=0.1, patience=0, min_delta=100.0
            ),
        ],
    ).history["learning_rate"]
    np.testing.assert_allclose(logs, [0.005, 0.0025, 0.000125], rtol=1e-5)
    rule.learning_rate = 0.5
    assert float(numpy_of(rule.inner_optimizer.learning_rate)) == 0.5


def test_scaling_of_the_loss_changes_nothing_but_the_scale(data):
    models = [softmax_net()]
    models += copies(models)
    inner = keras.optimizers.SGD(0.5)
    optimizers = [
        CriticalGradients(keras.optimizers.SGD(0.5), 0.4),
        keras.optimizers.LossScaleOptimizer(
            CriticalGradients(inner, 0.4), initial_scale=64.0
        ),
    ]
    for model, optimizer in zip(models, optimizers, strict=True):
        sgd_step(model, optimizer, *data)
    for first, second in zip(*(m.get_weights() for m in models), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-7)
    assert backends.innermost(optimizers[1]) is inner


def test_mixed_precision_scales_around_the_rule(data):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras_smkd.PeerLearning([mlp(), mlp()], knowledge="peers")
        rule = CriticalGradients(keras.optimizers.SGD(0.1), 0.2)
        model.compile(rule, LOSS)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.optimizer.inner_optimizer is rule
    model.fit(*data, batch_size=8, epochs=2, verbose=0)
    assert model.step == 6
    assert np.isfinite(
        model.evaluate(*data, verbose=0, return_dict=True)["loss"]
    )


def test_a_rule_has_the_steps_of_its_inner_optimizer():
    variable = keras.Variable(np.ones((2, 2), "float32"))
    rule = CriticalGradients(keras.optimizers.SGD(0.5), 0.5)
    for _ in range(3):
        rule.apply([ops.ones((2, 2))], [variable])
    assert int(numpy_of(rule.iterations)) == 3
    assert int(numpy_of(rule.inner_optimizer.iterations)) == 3


@pytest.mark.parametrize("accumulation", [None, 2])
@pytest.mark.parametrize("many", [False, True])
def test_peers_count_their_steps(data, accumulation, many):
    def rule():
        inner = keras.optimizers.SGD(
            0.1, gradient_accumulation_steps=accumulation
        )
        return CriticalGradients(inner, 0.2)

    model = keras_smkd.SelectiveMutualDistillation([mlp(), mlp()])
    model.compile([rule(), rule()] if many else rule(), LOSS)
    before = model.get_weights()
    model.fit(*data, batch_size=4, epochs=2, verbose=0)
    assert model.step == 12 // (accumulation or 1)
    assert model.total_steps == model.step
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(before, model.get_weights(), strict=True)
    )


def test_a_list_of_rules_does_not_couple_the_peers(data):
    """With the first peer's gradients small, one bar leaves it nothing."""
    nets = [linear(), linear()]
    nets[0].set_weights([1e-3 * w for w in nets[0].get_weights()])
    moved = []
    for many in (False, True):
        peers = copies(nets)
        model = keras_smkd.PeerLearning(peers)
        rules = [
            CriticalGradients(keras.optimizers.SGD(0.1), 0.5) for _ in range(2)
        ]
        model.compile(rules if many else rules[0], LOSS)
        model.fit(*data, batch_size=24, epochs=1, verbose=0)
        moved.append(
            [
                int((a.get_weights()[0] != b.get_weights()[0]).sum())
                for a, b in zip(nets, peers, strict=True)
            ]
        )
    size = nets[0].get_weights()[0].size
    assert moved == [[0, size], [size // 2, size // 2]]


@pytest.mark.parametrize("many", [False, True])
def test_a_saved_model_goes_on_as_it_would_have(data, tmp_path, many):
    def rule():
        return CriticalGradients(keras.optimizers.Adam(0.01), 0.3)

    model = keras_smkd.PeerLearning([mlp(), mlp()], knowledge="peers")
    model.compile([rule(), rule()] if many else rule(), LOSS)
    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model.fit(*data, epochs=2, **options)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found = loaded.optimizer.optimizers[0] if many else loaded.optimizer
    assert (type(found), found.noise_rate) == (CriticalGradients, 0.3)
    again = {"initial_epoch": 2, "epochs": 4, **options}
    assert (
        loaded.fit(*data, **again).history == model.fit(*data, **again).history
    )
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(ours), numpy_of(theirs))


def test_a_plain_model_is_saved_with_its_rule(data, tmp_path):
    model = softmax_net()
    rule = CriticalGradients(keras.optimizers.SGD(0.1, momentum=0.9), 0.3)
    model.compile(rule, keras.losses.get(LOSS))
    model.fit(*data, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    ours, theirs = loaded.optimizer.variables, rule.variables
    inner = {id(v) for v in rule.inner_optimizer.variables}
    assert inner < {id(v) for v in theirs}
    for first, second in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(numpy_of(first), numpy_of(second))
    logs = [m.fit(*data, verbose=0, shuffle=False) for m in (loaded, model)]
    assert logs[0].history == logs[1].history


def test_state_is_set_all_at_once(data):
    model = softmax_net()
    rule = Halved(keras.optimizers.SGD(0.1, momentum=0.9))
    model.compile(rule, keras.losses.get(LOSS))
    model.fit(*data, epochs=1, verbose=0)
    state = [numpy_of(variable) + 1 for variable in rule.variables]
    rule.set_weights(state)
    for variable, value in zip(rule.variables, state, strict=True):
        np.testing.assert_array_equal(numpy_of(variable), value)


def test_a_rule_of_ones_own(data):
    plain = softmax_net()
    (ours,) = copies([plain])
    sgd_step(plain, keras.optimizers.SGD(0.05), *data)
    sgd_step(ours, Halved(keras.optimizers.SGD(0.1)), *data)
    for first, second in zip(
        plain.get_weights(), ours.get_weights(), strict=True
    ):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-7)
    config = keras.saving.serialize_keras_object(Halved("adam", name="half"))
    again = keras.saving.deserialize_keras_object(config)
    assert (type(again), again.name) == (Halved, "half")
    assert isinstance(again.inner_optimizer, keras.optimizers.Adam)


def test_what_is_set_around_the_rule_reaches_the_inner_optimizer():
    inner = keras.optimizers.SGD(0.1, loss_scale_factor=8.0, momentum=0.9)
    rule = CriticalGradients(inner, 0.2)
    assert float(rule.scale_loss(2.0)) == 16.0
    keras.optimizers.LossScaleOptimizer(rule)
    assert inner.loss_scale_factor is None
    variables = [keras.Variable(np.ones((2, 2), "float32"))]
    inner.build(variables)
    state = list(inner.variables)
    rule.build(variables)
    assert [v.path for v in inner.variables] == [v.path for v in state]


def test_a_sparse_gradient_is_taken(rng):
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(5, 2),
            keras.layers.GlobalAveragePooling1D(),
        ]
    )
    before = model.get_weights()[0]
    model.compile(CriticalGradients(keras.optimizers.SGD(1.0), 0.5), "mse")
    model.fit(np.array([[0, 1, 1]]), np.ones((1, 2)), verbose=0)
    moved = model.get_weights()[0] != before
    assert moved.any()
    assert not moved[2:].any()


def test_a_variable_without_gradient_is_left(data):
    optimizer = CriticalGradients(keras.optimizers.SGD(1.0), 0.5)
    variables = [
        keras.Variable(np.ones((2, 2), "float32")),
        keras.Variable(np.ones((2, 2), "float32")),
    ]
    optimizer.build(variables)
    gradient = ops.convert_to_tensor(np.arange(4, dtype="float32"))
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([ops.reshape(gradient, (2, 2)), None], variables)
    np.testing.assert_array_equal(
        numpy_of(variables[0]), [[1.0, 1.0], [0.0, -0.5]]
    )
    np.testing.assert_array_equal(numpy_of(variables[1]), np.ones((2, 2)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: CriticalGradients("sgd", 40), ValueError, "not a percentage"),
        (lambda: CriticalGradients("sgd", 1), ValueError, r"in \[0, 1\)"),
        (lambda: CriticalGradients("sgd", -0.1), ValueError, r"in \[0, 1\)"),
        (lambda: CriticalGradients("sgd", "2"), TypeError, "`noise_rate` must"),
        (
            lambda: CriticalGradients(3, 0.2),
            TypeError,
            "Keras optimizer or its",
        ),
        (
            lambda: CriticalGradients(CriticalGradients("sgd", 0.1), 0.1),
            ValueError,
            "must not be a gradient rule itself.*CriticalGradients",
        ),
        (
            lambda: Halved(keras.optimizers.LossScaleOptimizer(Halved("sgd"))),
            ValueError,
            r"around the rule: `LossScaleOptimizer\(Halved",
        ),
        (
            lambda: setattr(Halved("sgd"), "gradient_accumulation_steps", 2),
            ValueError,
            "set on the inner optimizer",
        ),
        (
            lambda: GradientRule("sgd").changed([], []),
            NotImplementedError,
            "by",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
