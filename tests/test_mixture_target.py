"""Targets that a mixture over the losses corrects, and the callback."""

import keras
import numpy as np
import pytest
from keras import ops
from naive import gradient
from naive import naive_log_softmax
from naive import numpy_of
from peers import functional_net
from peers import linear
from peers import mlp

from keras_smkd import PeerLearning
from keras_smkd import callbacks
from keras_smkd import estimators
from keras_smkd import losses
from keras_smkd import targets
from keras_smkd.batch import Batch
from keras_smkd.targets.refinement import sharpened

SIZE = 40


@pytest.fixture
def data(rng):
    """Four clusters, and a quarter of the labels wrong."""
    clean = np.arange(SIZE) % 4
    x = rng.normal(size=(SIZE, 6)) * 0.3
    x[np.arange(SIZE), clean] += 2.0
    noisy = clean.copy()
    noisy[: SIZE // 4] = (clean[: SIZE // 4] + 1) % 4
    return x.astype("float32"), noisy


@pytest.fixture
def posterior(rng):
    return rng.random((SIZE, 2)).astype("float32")


def model_with(target, peers=None, optimizer="adam", loss=None, **arguments):
    model = PeerLearning(peers or [mlp(), mlp()], target=target, **arguments)
    model.compile(optimizer, loss or "sparse_categorical_crossentropy")
    return model


def fit(model, x, y, **kwargs):
    return model.fit(
        x, y, **{"batch_size": 8, "shuffle": False, "verbose": 0, **kwargs}
    ).history


def batch_of(rng, index, peers=2, classes=4):
    logits = rng.normal(size=(len(index), peers, classes)).astype("float32")
    labels = np.eye(classes, dtype="float32")[np.array(index) % classes]
    return Batch(
        labels=labels,
        logits=ops.convert_to_tensor(logits),
        index=np.array(index),
        training=True,
    ), np.exp(naive_log_softmax(logits))


def prepared(target, posterior):
    target.prepare(peers=[None] * posterior.shape[1], num_classes=4)
    target.set_posterior(posterior)
    return target


# The targets.


@pytest.mark.parametrize("hard", [True, False])
def test_bootstrapping_is_a_naive_loop(rng, posterior, hard):
    target = prepared(targets.MixtureBootstrapping(SIZE, hard), posterior)
    index = [3, 17, 39, 3]
    batch, probs = batch_of(rng, index)
    expected = np.zeros((4, 2, 4))
    for n, place in enumerate(index):
        for i in range(2):
            b = posterior[place, i]
            said = probs[n, i]
            if hard:
                said = np.eye(4)[said.argmax()]
            expected[n, i] = (1 - b) * batch.labels[n] + b * said
    np.testing.assert_allclose(numpy_of(target(batch)), expected, atol=1e-6)


@pytest.mark.parametrize("peers", [1, 2, 3])
def test_refinement_is_a_naive_loop(rng, peers):
    index = list(range(12))
    posterior = rng.random((SIZE, peers)).astype("float32")
    target = prepared(
        targets.CoRefinement(SIZE, temperature=0.4, threshold=0.6), posterior
    )
    batch, probs = batch_of(rng, index, peers)
    expected = np.zeros((12, peers, 4))
    guessed = 0
    for n in index:
        for i in range(peers):
            clean = 1.0 - posterior[n, (i + 1) % peers]
            if clean > 0.6:
                q = clean * batch.labels[n] + (1 - clean) * probs[n, i]
            else:
                guessed += 1
                q = sum(probs[n]) / peers
            expected[n, i] = q**2.5 / sum(q**2.5)
    assert 0 < guessed < 12 * peers
    np.testing.assert_allclose(numpy_of(target(batch)), expected, atol=1e-5)


def test_a_label_at_the_threshold_does_not_count(rng):
    target = prepared(targets.CoRefinement(1), np.array([[0.5]]))
    batch, probs = batch_of(rng, [0], peers=1)
    expected = probs**2 / (probs**2).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(numpy_of(target(batch)), expected, atol=1e-6)


def test_sharpening_survives_small_probabilities():
    probs = np.array([[1e-30, 2e-30, 0.0], [1.0, 0.0, 0.0]], "float32")
    np.testing.assert_allclose(
        numpy_of(sharpened(probs, 0.01)),
        [[2.0**-100, 1.0, 0.0], [1.0, 0.0, 0.0]],
        atol=1e-6,
    )
    np.testing.assert_allclose(numpy_of(sharpened(probs[1:], 1.0)), probs[1:])


BOTH = [targets.MixtureBootstrapping, targets.CoRefinement]


@pytest.mark.parametrize("kind", BOTH)
def test_labels_stay_before_a_fit_and_in_evaluation(rng, posterior, kind):
    target = kind(SIZE)
    target.prepare(peers=[None, None], num_classes=4)
    batch, _ = batch_of(rng, [0, 5])
    both = np.stack([batch.labels, batch.labels], axis=1)
    np.testing.assert_allclose(numpy_of(target(batch)), both, atol=1e-7)
    target.set_posterior(posterior)
    assert np.abs(numpy_of(target(batch)) - both).max() > 0.1
    silent = batch.filled(training=False, index=None)
    np.testing.assert_allclose(numpy_of(target(silent)), both, atol=1e-7)


@pytest.mark.parametrize("kind", BOTH)
def test_a_place_outside_the_data_set_is_loud(rng, posterior, kind):
    target = prepared(kind(SIZE), posterior)
    batch, _ = batch_of(rng, [SIZE, 1, -1])
    found = numpy_of(target(batch))
    assert np.isnan(found[[0, 2]]).all()
    assert np.isfinite(found[1]).all()


@pytest.mark.parametrize(
    "target",
    [
        lambda: targets.MixtureBootstrapping(SIZE),
        lambda: targets.MixtureBootstrapping(SIZE, hard=False),
        lambda: targets.CoRefinement(SIZE),
    ],
)
def test_no_gradient_flows_through_a_target(rng, posterior, target):
    target = prepared(target(), posterior)
    batch, _ = batch_of(rng, [0, 1, 2])

    def value(logits):
        own = Batch(
            labels=batch.labels,
            logits=logits,
            index=batch.index,
            training=True,
        )
        return ops.sum(ops.square(target(own)))

    np.testing.assert_array_equal(gradient(value, batch.logits), 0.0)


# The callback.


@pytest.mark.parametrize(
    ("given", "by_hand"),
    [
        (
            {},
            lambda loss: estimators.fit_beta_mixture(loss).posterior_noisy(
                loss, 100, margin=1e-4
            ),
        ),
        (
            {"lookup_points": None},
            lambda loss: np.clip(
                estimators.beta_mixture_posterior(loss), 1e-4, 1 - 1e-4
            ),
        ),
        (
            {"kind": "gaussian", "seed": 3},
            lambda loss: estimators.gaussian_mixture_posterior(loss, 3),
        ),
    ],
)
def test_the_posterior_is_that_of_the_estimators(data, given, by_hand):
    x, y = data
    model = model_with(targets.MixtureBootstrapping(SIZE))
    mixture = callbacks.FitMixture(x, y, start_epoch=1, batch_size=16, **given)
    fit(model, x, y, epochs=2, callbacks=[mixture])
    found = numpy_of(model.target.posterior)
    probs = model.predict(x, batch_size=16, verbose=0, output="all")
    for i in range(2):
        own = probs[f"peer_{i}"].astype("float64")[np.arange(SIZE), y]
        np.testing.assert_allclose(found[:, i], by_hand(-np.log(own)), 1e-6)


def test_labels_are_corrected_from_the_epoch_on(data):
    x, y = data
    model = model_with(
        targets.MixtureBootstrapping(SIZE),
        [linear(), functional_net()],
        keras.optimizers.SGD(0.0),
    )
    seen = []
    remember = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(
            numpy_of(model.target.posterior).copy()
        )
    )
    mixture = callbacks.FitMixture(x, y, start_epoch=2)
    history = fit(model, x, y, epochs=3, callbacks=[mixture, remember])
    assert not seen[0].any()
    assert seen[1].any()
    # Nothing was learnt: the losses differ by their targets only.
    assert history["loss"][0] == history["loss"][1]
    expected = np.zeros(2)
    for i, peer in enumerate(model.peers):
        log_probs = naive_log_softmax(peer.predict(x, verbose=0))
        said = np.eye(4)[log_probs.argmax(axis=1)]
        for b, target in ((seen[0], 0), (seen[1], 1)):
            b = b[:, i : i + 1]
            own = (1 - b) * np.eye(4)[y] + b * said
            expected[target] -= (own * log_probs).sum() / SIZE
    np.testing.assert_allclose(history["loss"][1:], expected, rtol=1e-5)


def test_wrong_labels_are_found(data):
    x, y = data
    model = model_with(
        targets.MixtureBootstrapping(SIZE),
        [linear(kernel_initializer="zeros")],
        keras.optimizers.Adam(0.05),
    )
    fit(
        model,
        x,
        y,
        epochs=6,
        callbacks=[callbacks.FitMixture(x, y, start_epoch=4)],
    )
    posterior = numpy_of(model.target.posterior)[:, 0]
    wrong = np.arange(SIZE) < SIZE // 4
    assert posterior[wrong].min() > posterior[~wrong].max()
    assert posterior[wrong].mean() > 0.6 > 0.3 > posterior[~wrong].mean()


@pytest.mark.parametrize("kind", ["beta", "gaussian"])
def test_a_saved_model_goes_on_with_equal_losses_and_weights(
    data, tmp_path, kind
):
    x, y = data
    target = {
        "beta": targets.MixtureBootstrapping(SIZE, hard=False),
        "gaussian": targets.CoRefinement(SIZE),
    }[kind]
    model = model_with(
        target,
        [mlp(dropout=0.3), functional_net()],
        loss=losses.JointOptimization(alpha=1.0, beta=0.0, from_logits=True),
    )

    def mixture():
        return [callbacks.FitMixture(x, y, start_epoch=2, kind=kind)]

    fit(model, x, y, epochs=3, callbacks=mixture())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before = numpy_of(model.target.posterior)
    assert before.any()
    np.testing.assert_array_equal(numpy_of(loaded.target.posterior), before)
    again = {"initial_epoch": 3, "epochs": 5}
    history = fit(model, x, y, **again, callbacks=mixture())
    assert fit(loaded, x, y, **again, callbacks=mixture()) == history
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(ours), numpy_of(theirs))


@pytest.mark.parametrize(
    "form",
    [
        lambda y: y.astype("uint8")[:, None],
        lambda y: y.astype("float32"),
        lambda y: y.tolist(),
    ],
)
def test_labels_have_many_forms(data, form):
    x, y = data
    found = []
    for labels in (y, form(y)):
        keras.utils.set_random_seed(1)
        model = model_with(targets.MixtureBootstrapping(SIZE), [linear()])
        fit(
            model,
            x,
            y,
            callbacks=[callbacks.FitMixture(x, labels, start_epoch=1)],
        )
        found.append(numpy_of(model.target.posterior))
    np.testing.assert_array_equal(*found)


def test_examples_that_are_held_out_keep_their_labels(data):
    x, y = data
    model = model_with(targets.MixtureBootstrapping(SIZE), [linear()])
    mixture = callbacks.FitMixture(x[:30], y[:30], start_epoch=1)
    fit(model, x, y, validation_split=0.25, callbacks=[mixture])
    posterior = numpy_of(model.target.posterior)
    assert (posterior[:30] > 0).all()
    assert not posterior[30:].any()


def test_a_probability_that_rounds_to_0_has_a_finite_loss(data):
    x, y = data
    peer = linear()
    peer.set_weights([np.eye(6, 4, dtype="float32") * 1e4])
    model = model_with(targets.MixtureBootstrapping(SIZE), [peer], "sgd")
    mixture = callbacks.FitMixture(x, y, start_epoch=1, kind="gaussian")
    mixture.set_model(model)
    mixture.on_epoch_end(0)
    posterior = numpy_of(model.target.posterior)[:, 0]
    assert ((posterior > 0.5) == (np.arange(SIZE) < SIZE // 4)).all()


# What is wrong.


def test_a_model_without_the_target_is_refused(data):
    x, y = data
    mixture = callbacks.FitMixture(x, y, start_epoch=1)
    for target in (None, "hard_bootstrapping"):
        model = model_with(target)
        with pytest.raises(TypeError, match="whose `target` is a `Mixture"):
            fit(model, x, y, callbacks=[mixture])
    with pytest.raises(TypeError, match="target=None of Sequential"):
        mixture.set_model(linear())
        mixture.on_train_begin()


@pytest.mark.parametrize(
    ("num_examples", "count", "message"),
    [
        (SIZE - 1, SIZE, "must be in \\[0, 39\\)"),
        (SIZE, SIZE + 1, "41 labels with num_examples=40"),
        (SIZE, SIZE - 1, "39 labels for 40 examples"),
    ],
)
def test_numbers_of_examples_must_fit(data, num_examples, count, message):
    x, y = data
    model = model_with(targets.MixtureBootstrapping(num_examples))
    labels = np.resize(y, count)
    mixture = callbacks.FitMixture(x, labels, start_epoch=1)
    with pytest.raises(ValueError, match=message):
        fit(model, x, y, callbacks=[mixture])


def test_losses_that_are_all_alike_cannot_be_told_apart(data):
    x, y = data
    peer = linear(kernel_initializer="zeros")
    model = model_with(
        targets.MixtureBootstrapping(SIZE), [peer], keras.optimizers.SGD(0.0)
    )
    for kind in ("beta", "gaussian"):
        mixture = callbacks.FitMixture(x, y, start_epoch=1, kind=kind)
        with pytest.raises(ValueError, match="at least two different values"):
            fit(model, x, y, callbacks=[mixture])


def test_a_class_that_the_model_has_not_is_refused(data):
    x, y = data
    model = model_with(targets.MixtureBootstrapping(SIZE))
    mixture = callbacks.FitMixture(x, y + 1, start_epoch=1)
    with pytest.raises(ValueError, match="Received: labels from 1 to 4"):
        fit(model, x, y, callbacks=[mixture])


def test_a_head_is_refused(data):
    class Head(keras.layers.Layer):
        taps = ("dense",)

        def call(self, features, training=None):
            return features[0]

    peers = [
        keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(4, name="dense")]
        )
    ]
    model = model_with(targets.MixtureBootstrapping(SIZE), peers, head=Head())
    with pytest.raises(ValueError, match="cannot be used with a head"):
        fit(model, *data)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"start_epoch": 0}, ValueError, "`start_epoch` must be an integer >="),
        ({"start_epoch": 1.5}, TypeError, "`start_epoch` must be an integer"),
        ({"kind": "gamma"}, ValueError, "`kind` must be one of 'beta'"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be"),
        ({"lookup_points": 1}, ValueError, "`lookup_points` must be"),
        ({"seed": -1}, ValueError, "`seed` must be"),
        ({"labels": ["cat"]}, TypeError, "`labels` must be class ids"),
        ({"labels": [[0.5, 0.5]]}, ValueError, "`labels` must be class ids"),
    ],
)
def test_wrong_arguments_of_the_callback(arguments, error, message):
    given = {"x": None, "labels": [0, 1], "start_epoch": 1, **arguments}
    with pytest.raises(error, match=message):
        callbacks.FitMixture(**given)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: targets.MixtureBootstrapping(0),
            ValueError,
            "`num_examples` must be an integer >= 1",
        ),
        (
            lambda: targets.MixtureBootstrapping(3, hard=1),
            TypeError,
            "`hard` must be True or False",
        ),
        (
            lambda: targets.CoRefinement(3, temperature=0),
            ValueError,
            "`temperature` must be a finite number > 0",
        ),
        (
            lambda: targets.CoRefinement(3, threshold=1.1),
            ValueError,
            r"`threshold` must be in \[0, 1\]",
        ),
    ],
)
def test_wrong_arguments_of_the_targets(make, error, message):
    with pytest.raises(error, match=message):
        make()
