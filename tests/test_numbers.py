"""What is not finite, and what is computed in which precision."""

import keras
import numpy as np
import pytest
from peers import copies
from peers import linear
from peers import mlp

import keras_smkd
from keras_smkd import gates
from keras_smkd import selection
from keras_smkd import targets
from keras_smkd.batch import Batch

BACKEND = keras.backend.backend()
SPARSE = "sparse_categorical_crossentropy"
NAN = float("nan")


@pytest.fixture
def data(rng):
    x = rng.normal(size=(32, 6)).astype("float32")
    return x, rng.integers(0, 4, 32)


@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("is_own", [False, True])
def test_the_loss_of_half_precision_is_computed_in_float32(data, name, is_own):
    x, y = data
    peer = linear(dtype=name)
    model = keras_smkd.PeerLearning([peer])

    def loss(labels, outputs):
        return keras.ops.sparse_categorical_crossentropy(
            labels, outputs, from_logits=True
        )

    # As one program, JAX would round elsewhere.
    model.compile("sgd", loss if is_own else SPARSE, run_eagerly=True)
    outputs = keras.ops.cast(peer(x), "float32")
    losses = keras.ops.sparse_categorical_crossentropy(
        y, outputs, from_logits=True
    )
    np.testing.assert_allclose(
        model.evaluate(x, y, verbose=0, return_dict=True)["supervised_loss"],
        keras.ops.convert_to_numpy(losses).mean(),
        rtol=1e-5,
    )


@pytest.mark.parametrize("broken", ["input", "infinite input", "weight"])
def test_terminate_on_nan_stops_at_the_batch(data, broken):
    x, y = data
    x, weight = x.copy(), np.ones(len(x), "float32")
    if broken == "weight":
        weight[17] = NAN
    else:
        x[17, 0] = NAN if broken == "input" else float("inf")
    model = keras_smkd.SelectiveMutualDistillation([linear(), linear()])
    model.compile("sgd", SPARSE)
    model.fit(
        x,
        y,
        sample_weight=weight,
        batch_size=8,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.TerminateOnNaN()],
    )
    # Example 17 is in the third batch of the first epoch.
    assert model.step == 3


@pytest.mark.parametrize("share", [True, False])
def test_a_broken_peer_leaves_the_others_as_they_would_be(data, share):
    x, y = data
    kind = selection.ConfidentKnowledge
    if share:
        kind = selection.MostConfidentShare

    def options():
        return {
            "selection": kind(threshold=0.9),
            "gate": gates.LabelGate(0.5),
            "target": targets.TemporalEnsembling(len(x)),
            "temperature": 2.0,
        }

    peers = [linear(), linear(), linear()]
    alone = copies([peers[0], peers[2]])
    peers[1].set_weights([peers[1].get_weights()[0] * NAN])
    three = keras_smkd.SelectiveMutualDistillation(peers, **options())
    # Divided by one other peer, not by two.
    two = keras_smkd.SelectiveMutualDistillation(
        alone, distillation_weight=0.5, **options()
    )
    labels = {"label": y, "index": np.arange(len(x))}
    for model in (three, two):
        model.compile(keras.optimizers.SGD(0.1), SPARSE)
        model.fit(x, labels, batch_size=8, epochs=3, shuffle=False, verbose=0)
    for peer, expected in zip(peers[::2], alone, strict=True):
        np.testing.assert_allclose(
            peer.get_weights()[0],
            expected.get_weights()[0],
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.skipif(
    BACKEND == "jax", reason="JAX has float64 only if told so at its start"
)
def test_float64_is_float64_throughout(rng):
    # Keras makes arrays into float32; these are float32 already.
    x = rng.normal(size=(32, 6)).astype("float32").astype("float64")
    y = rng.integers(0, 4, 32)
    keras.config.set_dtype_policy("float64")
    try:
        peers = [linear(), linear()]
        model = keras_smkd.SelectiveMutualDistillation(
            peers,
            selection=selection.ConfidentKnowledge(threshold=1.5),
            gate=None,
        )
        model.compile(keras.optimizers.SGD(1.0), SPARSE)
        before = [peer.get_weights()[0] for peer in peers]
        model.train_on_batch(x, y)
    finally:
        keras.config.set_dtype_policy("float32")
    probs = []
    for kernel in before:
        exp = np.exp(x @ kernel)
        probs.append(exp / exp.sum(axis=1, keepdims=True))
    for i, peer in enumerate(peers):
        after = peer.get_weights()[0]
        assert after.dtype == "float64"
        gradient = probs[i] - np.eye(4)[y] + probs[i] - probs[1 - i]
        # On torch Keras rounds to float32 on the way, a plain model's too.
        np.testing.assert_allclose(
            before[i] - after,
            x.T @ gradient / len(x),
            rtol=0,
            atol=1e-7 if BACKEND == "torch" else 1e-12,
        )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_selects_what_float32_selects(data, policy):
    """The same logits, in half precision: entropy and selection in float32."""
    x, y = data
    keras.config.set_dtype_policy(policy)
    try:
        peers = [mlp(), mlp()]
        model = keras_smkd.SelectiveMutualDistillation(
            peers, selection=selection.ConfidentKnowledge(threshold=0.9)
        )
        model.compile("sgd", SPARSE)
        logs = model.evaluate(x, y, verbose=0, return_dict=True)
        logits = [
            keras.ops.convert_to_numpy(keras.ops.cast(peer(x), "float32"))
            for peer in peers
        ]
    finally:
        keras.config.set_dtype_policy("float32")
    select = selection.ConfidentKnowledge(threshold=0.9)
    log_probs = keras.ops.log_softmax(np.stack(logits, axis=1))
    expected = keras.ops.convert_to_numpy(select(Batch(knowledge=log_probs)))
    assert 0 < expected.mean() < 1
    assert logs["selection_rate"] == expected.mean()
