"""Early-learning regularisation: its values, its gradient, its memory."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from naive import gradient
from naive import naive_log_softmax
from naive import numpy_of
from peers import compiled
from peers import fit_in_order
from peers import linear
from peers import mlp
from thrift import with_torch

from keras_smkd import PeerLearning
from keras_smkd import divergences
from keras_smkd import knowledge
from keras_smkd import methods
from keras_smkd.batch import Batch

SIZE = 12
fit = functools.partial(fit_in_order, batch_size=SIZE)


@pytest.fixture
def data(rng):
    x = rng.normal(size=(SIZE, 6)).astype("float32")
    return x, rng.integers(0, 4, SIZE)


def naive_visit(t, logits, momentum):
    """Return t after a visit, the regulariser and its gradient, row by row."""
    t, values, grads = t.copy(), np.zeros(len(t)), np.zeros(logits.shape)
    for n, z in enumerate(logits):
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        clipped = np.clip(p, 1e-4, 1 - 1e-4)
        said = clipped / clipped.sum()
        t[n] = momentum * t[n] + (1 - momentum) * said
        rest = 1 - (t[n] * clipped).sum()
        values[n] = np.log(rest)
        # Clipped probabilities have no gradient, and t is a constant.
        by_p = np.where(p == clipped, -t[n] / rest, 0.0)
        grads[n] = p * (by_p - (by_p * p).sum())
    return t, values, grads


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_three_visits_are_a_naive_loop_with_its_gradient(rng, scale):
    part = knowledge.EarlyPredictions(SIZE, momentum=0.7)
    part.prepare([None], 4)
    index = np.array([7, 2, 5])
    t = np.zeros((3, 4))
    for _ in range(3):
        logits = rng.normal(0.0, scale, (3, 4)).astype("float32")
        t, values, grads = naive_visit(t, logits.astype("float64"), 0.7)
        batch = Batch(
            logits=ops.convert_to_tensor(logits[:, None]),
            index=index,
            training=True,
        )
        said = part(batch)
        np.testing.assert_allclose(
            np.exp(numpy_of(said.log_probs))[:, 0], t, rtol=1e-4
        )
        np.testing.assert_array_equal(numpy_of(said.available), 1.0)

        def divergence(z, said=said):
            return divergences.EarlyLearning()(
                Batch(
                    logits=z,
                    knowledge=said.log_probs,
                    routes=said.routes,
                    selected=said.available,
                )
            )

        found = numpy_of(divergence(batch.logits))[:, 0]
        np.testing.assert_allclose(found, values, rtol=1e-3, atol=1e-6)
        ours = gradient(lambda z, f=divergence: ops.sum(f(z)), batch.logits)
        np.testing.assert_allclose(ours[:, 0], grads, rtol=2e-3, atol=1e-6)
    remembered = numpy_of(part.memory)[:, 0]
    np.testing.assert_allclose(remembered[index], t, rtol=1e-4)
    assert not np.delete(remembered, index, axis=0).any()


def test_the_system_trains_as_the_authors_loss_does(data):
    x, y = data
    peer = linear()
    weights = peer.get_weights()[0].astype("float64")
    model = methods.early_learning(peer, SIZE, weight=3.0, momentum=0.7)
    compiled(model, keras.optimizers.SGD(0.5))
    history = fit(model, x, y, epochs=4)
    t = np.zeros((SIZE, 4))
    for epoch in range(4):
        logits = x @ weights
        t, values, grads = naive_visit(t, logits, 0.7)
        log_probs = naive_log_softmax(logits)
        own = np.eye(4)[y]
        loss = (-(own * log_probs).sum(axis=1) + 3.0 * values).mean()
        np.testing.assert_allclose(history["loss"][epoch], loss, rtol=1e-4)
        grads = (np.exp(log_probs) - own + 3.0 * grads) / SIZE
        weights -= 0.5 * x.T @ grads
    np.testing.assert_allclose(peer.get_weights()[0], weights, rtol=1e-4)


def test_certain_predictions_are_finite_and_at_rest():
    part = knowledge.EarlyPredictions(1, momentum=0.0)
    part.prepare([None], 3)
    batch = Batch(
        logits=ops.convert_to_tensor([[[1e4, -1e4, 0.0]]]),
        index=np.array([0]),
        training=True,
    )
    said = part(batch)

    def divergence(z):
        return ops.sum(
            divergences.EarlyLearning()(
                Batch(logits=z, knowledge=said.log_probs, routes=said.routes)
            )
        )

    # 1 - p t - 2 p' t', with the clipped p and t = p / sum(p).
    t = 0.9999 / 1.0001
    expected = np.log(1.0 - 0.9999 * t - 2e-4 * (1 - t) / 2)
    np.testing.assert_allclose(
        numpy_of(divergence(batch.logits)), expected, rtol=1e-3
    )
    np.testing.assert_array_equal(gradient(divergence, batch.logits), 0.0)


def test_others_may_be_listened_to(rng):
    part = knowledge.EarlyPredictions(2, momentum=0.5, routes="others")
    part.prepare([None, None], 4)
    logits = rng.normal(size=(2, 2, 4)).astype("float32")
    batch = Batch(
        logits=ops.convert_to_tensor(logits),
        index=np.array([0, 1]),
        training=True,
    )
    said = part(batch)
    found = divergences.EarlyLearning()(
        batch.filled(
            knowledge=said.log_probs, routes=said.routes, selected=None
        )
    )
    p = np.exp(naive_log_softmax(logits))
    expected = np.log(1.0 - 0.5 * (p * p[:, ::-1]).sum(axis=-1))
    np.testing.assert_allclose(numpy_of(found), expected, rtol=1e-4)


def test_evaluation_says_and_remembers_nothing(data):
    x, y = data
    model = compiled(methods.early_learning(mlp(), SIZE))
    fit(model, x, y)
    before = numpy_of(model.knowledge.memory).copy()
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    assert found["distillation_loss"] == 0
    # XLA sums the two in different orders.
    assert found["loss"] == pytest.approx(found["supervised_loss"], rel=1e-6)
    np.testing.assert_array_equal(numpy_of(model.knowledge.memory), before)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_saved_model_goes_on_with_equal_losses_and_weights(
    data, tmp_path, dtype
):
    x, y = data
    model = compiled(
        PeerLearning(
            [mlp(dropout=0.3), linear()],
            knowledge=knowledge.EarlyPredictions(SIZE, 0.9, dtype=dtype),
            divergence="early_learning",
            distillation_weight=2.0,
        )
    )
    fit(model, x, y, epochs=2, batch_size=4)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.knowledge.memory.dtype == dtype
    again = {"initial_epoch": 2, "epochs": 4, "batch_size": 4}
    assert fit(loaded, x, y, **again) == fit(model, x, y, **again)
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(ours), numpy_of(theirs))


@with_torch
def test_wrong_labels_are_held_off(rng):
    clean = np.arange(60) % 3
    x = rng.normal(size=(60, 60)) * 0.5
    x[np.arange(60), clean] += 3.0
    x = x.astype("float32")
    noisy = clean.copy()
    noisy[:12] = (clean[:12] + 1) % 3
    for weight, expected in ((0.0, noisy), (3.0, clean)):
        peer = linear(60, 3, kernel_initializer="zeros")
        model = methods.early_learning(peer, 60, weight)
        compiled(model, keras.optimizers.SGD(0.1, momentum=0.9))
        fit(model, x, noisy, epochs=100, batch_size=60)
        said = model.predict(x, verbose=0).argmax(axis=1)
        np.testing.assert_array_equal(said, expected)


def test_places_must_be_in_the_data_set(data):
    x, y = data
    model = compiled(methods.early_learning(mlp(), SIZE - 1))
    with pytest.raises(ValueError, match="must be in \\[0, 11\\)"):
        fit(model, x, y)

    part = knowledge.EarlyPredictions(2)
    part.prepare([None], 4)
    said = part(
        Batch(logits=ops.ones((2, 1, 4)), index=np.array([0, 2]), training=True)
    )
    assert np.isnan(numpy_of(said.log_probs)[1]).all()
    assert not numpy_of(part.memory)[1].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_examples": 0}, "`num_examples` must be an integer >= 1"),
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\)"),
        ({"dtype": "int8"}, "`dtype` must be one of"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        knowledge.EarlyPredictions(**{"num_examples": 3, **arguments})


def test_wrong_routes_are_named():
    part = knowledge.EarlyPredictions(3, routes="all of them")
    part.prepare([None], 4)
    with pytest.raises(ValueError, match="`routes` must be one of"):
        part(Batch(logits=ops.ones((2, 1, 4))))
