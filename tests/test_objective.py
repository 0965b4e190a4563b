"""The losses of the labels: whose they are, and how often they are computed."""

import keras
import numpy as np
import pytest
from keras import ops
from naive import naive_log_softmax
from peers import linear

import keras_smkd

CLASSES = 4


class Halved(keras.losses.CategoricalCrossentropy):
    """A cross entropy of the user's own."""

    def call(self, y_true, y_pred):
        return 0.5 * super().call(y_true, y_pred)


def categorical_crossentropy(y_true, y_pred):
    """A function with the name of one of Keras, which it is not."""
    return 3.0 * ops.sum(y_true, axis=-1) + 0.0 * ops.sum(y_pred, axis=-1)


@pytest.fixture
def data(rng):
    x = rng.normal(size=(9, 6)).astype("float32")
    soft = rng.dirichlet(np.ones(CLASSES), size=9).astype("float32")
    return x, soft


def supervised_loss(loss, x, y, **kwargs):
    model = keras_smkd.PeerLearning([linear(), linear()], **kwargs)
    model.compile("sgd", loss)
    logs = model.evaluate(x, y, batch_size=9, return_dict=True, verbose=0)
    outputs = [
        keras.ops.convert_to_numpy(peer(x)).astype("float64")
        for peer in model.peers
    ]
    return logs["supervised_loss"], outputs


def naive_losses(labels, outputs):
    """Return the sum over the peers, `(batch,)`."""
    return sum(-np.sum(labels * naive_log_softmax(o), -1) for o in outputs)


@pytest.mark.parametrize("form", ["ids", "one_hot", "soft"])
@pytest.mark.parametrize("as_object", [False, True])
def test_cross_entropy_is_that_of_each_peer(data, form, as_object):
    x, soft = data
    ids = soft.argmax(-1)
    labels = {"ids": ids, "one_hot": np.eye(CLASSES)[ids], "soft": soft}[form]
    name = "categorical_crossentropy"
    kind = keras.losses.CategoricalCrossentropy
    if form == "ids":
        name = f"sparse_{name}"
        kind = keras.losses.SparseCategoricalCrossentropy
    loss = kind(from_logits=True) if as_object else name
    found, outputs = supervised_loss(loss, x, labels)
    distributions = soft if form == "soft" else np.eye(CLASSES)[ids]
    expected = naive_losses(distributions, outputs).mean()
    assert found == pytest.approx(expected, rel=1e-6)


def test_another_loss_is_asked_itself(data):
    x, soft = data
    smoothed = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.2
    )
    found, outputs = supervised_loss(smoothed, x, soft)
    expected = naive_losses(0.8 * soft + 0.2 / CLASSES, outputs).mean()
    assert found == pytest.approx(expected, rel=1e-6)
    found, outputs = supervised_loss(Halved(from_logits=True), x, soft)
    expected = 0.5 * naive_losses(soft, outputs).mean()
    assert found == pytest.approx(expected, rel=1e-6)
    found, _ = supervised_loss(categorical_crossentropy, x, soft)
    assert found == pytest.approx(6.0, rel=1e-6)


def test_a_logit_of_minus_infinity_excludes_a_class_without_nan():
    logits = np.array([[0.0, 1.0, -np.inf]], "float32")
    peer = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    twin = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    model = keras_smkd.PeerLearning([peer, twin])
    model.compile("sgd", "categorical_crossentropy")
    found = model.evaluate(logits, np.eye(3)[[1]], verbose=0, return_dict=True)
    expected = 2.0 * np.log1p(np.exp(-1.0))
    assert found["supervised_loss"] == pytest.approx(expected, rel=1e-6)


def test_one_log_softmax_serves_a_step(data, monkeypatch):
    x, soft = data
    model = keras_smkd.SelectiveMutualDistillation(
        [linear(), linear(), linear()]
    )
    model.compile(
        "sgd",
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        run_eagerly=True,
    )
    labels = soft.argmax(-1)
    model.train_on_batch(x, labels)
    count = []
    log_softmax = ops.log_softmax
    monkeypatch.setattr(
        ops,
        "log_softmax",
        lambda *args, **kwargs: count.append(1) or log_softmax(*args, **kwargs),
    )
    logs = model.train_on_batch(x, labels, return_dict=True)
    assert len(count) == 1
    assert {"accuracy", "peer_2_accuracy", "distillation_loss"} <= set(logs)
