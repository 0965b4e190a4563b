"""Knowledge of averaged weights, and a weight that follows a schedule."""

import keras
import numpy as np
import pytest
from naive import numpy_of
from peers import linear

import keras_smkd
from keras_smkd import functional
from keras_smkd import schedules
from keras_smkd import selection

BATCH, STEPS, RATE, MOMENTUM = 5, 4, 0.5, 0.75


@pytest.fixture
def data(rng):
    x = rng.normal(size=(BATCH * STEPS, 6)).astype("float32")
    return x, rng.integers(0, 4, size=len(x))


def sgd(**kwargs):
    kwargs = {"use_ema": True, "ema_momentum": MOMENTUM, **kwargs}
    return keras.optimizers.SGD(RATE, **kwargs)


def model_of(peers, optimizer, threshold=2.0, run_eagerly=False, **kwargs):
    model = keras_smkd.SelectiveMutualDistillation(
        peers,
        selection=selection.ConfidentKnowledge(threshold=threshold),
        gate=None,
        **kwargs,
    )
    model.compile(
        optimizer, "sparse_categorical_crossentropy", run_eagerly=run_eagerly
    )
    return model


def train(model, data, epochs=1):
    model.fit(*data, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0)


def softmax(logits):
    values = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return values / values.sum(axis=-1, keepdims=True)


def trained_by_loop(kernels, x, y, weight, threshold, is_averaged, epochs):
    """Two linear peers, gradient descent, all in float64.

    Returns the averages if they are the source; `fit` ends with these.
    """
    kernels = [kernel.astype("float64") for kernel in kernels]
    averages = [np.zeros_like(kernel) for kernel in kernels]
    batches = [slice(i, i + BATCH) for i in range(0, len(x), BATCH)] * epochs
    for step, batch in enumerate(batches):
        inputs, labels = x[batch].astype("float64"), np.eye(4)[y[batch]]
        probs = [softmax(inputs @ kernel) for kernel in kernels]
        source = averages if is_averaged else kernels
        knowledge = [softmax(inputs @ kernel) for kernel in source]
        entropies = [-(q * np.log(q)).sum(1) / np.log(4) for q in knowledge]
        passed = [(h < threshold)[:, None] for h in entropies]
        share = weight(step / len(batches))
        for i in (0, 1):
            j = 1 - i
            slope = probs[i] - labels
            slope += share * passed[j] * (probs[i] - knowledge[j])
            kernels[i] = kernels[i] - RATE * inputs.T @ slope / BATCH
            momentum = MOMENTUM if step else 0.0
            averages[i] = momentum * averages[i] + (1 - momentum) * kernels[i]
    return averages if is_averaged else kernels


@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("has_list", [False, True])
@pytest.mark.parametrize("threshold", [0.8, 2.0])
def test_training_is_the_loop_written_out(
    data, threshold, has_list, run_eagerly
):
    peers = [linear(), linear()]
    kernels = [peer.get_weights()[0] for peer in peers]
    weight = schedules.Linear(0.5, 3.0)
    model = model_of(
        peers,
        [sgd(), sgd()] if has_list else sgd(),
        threshold,
        run_eagerly,
        averaged_knowledge=True,
        distillation_weight=weight,
    )
    train(model, data, epochs=2)
    expected = trained_by_loop(kernels, *data, weight, threshold, True, 2)
    for peer, kernel in zip(peers, expected, strict=True):
        np.testing.assert_allclose(peer.get_weights()[0], kernel, atol=2e-5)


def test_the_weight_of_knowledge_follows_its_schedule(data):
    peers = [linear(), linear()]
    kernels = [peer.get_weights()[0] for peer in peers]
    weight = schedules.Piecewise([0.5], [0.0, 4.0])
    model = model_of(peers, sgd(use_ema=False), distillation_weight=weight)
    train(model, data, epochs=2)
    expected = trained_by_loop(kernels, *data, weight, 2.0, False, 2)
    for peer, kernel in zip(peers, expected, strict=True):
        np.testing.assert_allclose(peer.get_weights()[0], kernel, atol=2e-5)


def test_momentum_zero_learns_from_the_weights_of_now(data):
    ends = []
    for is_averaged in (False, True):
        keras.utils.set_random_seed(0)
        model = model_of(
            [linear(), linear()],
            sgd(ema_momentum=0.0),
            averaged_knowledge=is_averaged,
            distillation_weight=2.0,
        )
        # The averages are zeros before the first step.
        x, y = data
        model.distillation_weight = 0.0
        model.train_on_batch(x[:BATCH], y[:BATCH])
        model.distillation_weight = 2.0
        model.make_train_function(force=True)
        train(model, data)
        ends.append(model.get_weights())
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_knowledge_is_of_inference(rng):
    peers = [
        keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dropout(0.9, seed=0),
                keras.layers.Dense(4),
            ]
        )
        for _ in range(2)
    ]
    model = model_of(peers, sgd(), averaged_knowledge=True)
    x = rng.normal(size=(10, 6)).astype("float32")
    y = rng.integers(0, 4, size=10)
    # The averages are zeros, all classes alike; then they are the weights.
    model.threshold = 0.999
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["selection_rate"] == 0.0
    model.reset_metrics()
    log_probs = [
        functional.log_probabilities(peer.predict(x)) for peer in peers
    ]
    entropies = [numpy_of(functional.uncertainty(p)) for p in log_probs]
    model.threshold = float(np.median(entropies))
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["selection_rate"] == 0.5


@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_other_precisions_learn_from_averages(data, policy):
    if policy == "float64" and keras.backend.backend() == "jax":
        pytest.skip(
            "JAX computes in float32 unless x64 is enabled for the process"
        )
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = model_of(
            [linear(), linear()],
            sgd(),
            averaged_knowledge=True,
            distillation_weight=schedules.Linear(0.0, 2.0),
        )
        train(model, data, epochs=2)
    finally:
        keras.config.set_dtype_policy(before)
    assert model.step == 2 * STEPS
    logs = model.evaluate(*data, verbose=0, return_dict=True)
    assert np.isfinite(logs["loss"])


def test_settings_come_back_from_a_file(data, tmp_path):
    model = model_of(
        [linear(), linear()],
        sgd(),
        averaged_knowledge=True,
        distillation_weight=schedules.RampUp(4.0, 0.25),
    )
    train(model, data)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.averaged_knowledge
    assert loaded.distillation_weight == schedules.RampUp(4.0, 0.25)
    for one in (model, loaded):
        one.fit(
            *data,
            batch_size=BATCH,
            initial_epoch=1,
            epochs=2,
            shuffle=False,
            verbose=0,
        )
    for one, other in zip(
        model.get_weights(), loaded.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_wrong_settings_are_refused(data):
    model = keras_smkd.SelectiveMutualDistillation(
        [linear(), linear()], averaged_knowledge=True
    )
    loss = "sparse_categorical_crossentropy"
    for optimizer in ("sgd", sgd(use_ema=False), [sgd(), "adam"]):
        with pytest.raises(ValueError, match="`use_ema=True`"):
            model.compile(optimizer, loss)
    assert not model.compiled
    for weight in (lambda progress: -progress, schedules.Linear(1.0, -1.0)):
        with pytest.raises(ValueError, match=r"distillation_weight\("):
            keras_smkd.SelectiveMutualDistillation(
                [linear(), linear()], distillation_weight=weight
            )
    with pytest.raises(TypeError, match="averaged_knowledge"):
        keras_smkd.SelectiveMutualDistillation(
            [linear(), linear()], averaged_knowledge=1
        )


def test_divergences_from_knowledge_of_another_source(rng):
    log_probs, knowledge = (
        np.log(softmax(rng.normal(size=(3, 2, 4)))) for _ in range(2)
    )
    selected = np.array([[1, 1], [1, 0], [0, 1]])
    q = np.exp(knowledge)
    expected = [
        [
            selected[n, 1 - i]
            * (q[n, 1 - i] * (knowledge[n, 1 - i] - log_probs[n, i])).sum()
            for i in (0, 1)
        ]
        for n in range(3)
    ]
    ours = functional.mutual_distillation(log_probs, selected, knowledge)
    np.testing.assert_allclose(numpy_of(ours), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="`knowledge` must have the shape"):
        functional.mutual_distillation(log_probs, selected, knowledge[:, :, :3])
