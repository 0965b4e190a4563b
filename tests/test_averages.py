"""Knowledge of averaged weights, and a weight that follows a schedule."""

import keras
import numpy as np
import pytest
from naive import numpy_of
from peers import copies
from peers import linear
from peers import mlp
from thrift import with_torch

import keras_smkd
from keras_smkd import functional
from keras_smkd import schedules
from keras_smkd import selection
from keras_smkd.knowledge import AveragedPeers
from keras_smkd.knowledge import PeerPredictions
from keras_smkd.knowledge import Several
from keras_smkd.knowledge.peers import averaged

BACKEND = keras.backend.backend()
BATCH, STEPS, RATE, MOMENTUM = 5, 4, 0.5, 0.75
LOSS = "sparse_categorical_crossentropy"


@pytest.fixture
def data(rng):
    x = rng.normal(size=(BATCH * STEPS, 6)).astype("float32")
    return x, rng.integers(0, 4, size=len(x))


def model_of(peers, optimizer=None, threshold=2.0, compile_args=None, **kwargs):
    kwargs = {"knowledge": AveragedPeers(MOMENTUM), **kwargs}
    model = keras_smkd.PeerLearning(
        peers,
        selection=selection.ConfidentKnowledge(threshold=threshold),
        **kwargs,
    )
    model.compile(
        optimizer or keras.optimizers.SGD(RATE), LOSS, **(compile_args or {})
    )
    return model


def train(model, data, epochs=1, **kwargs):
    return model.fit(
        *data,
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        **kwargs,
    ).history


def softmax(logits):
    values = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return values / values.sum(axis=-1, keepdims=True)


def naive_average(average, value, step, momentum=MOMENTUM):
    """The average after a step, counted from 1."""
    share = min(1.0 - 1.0 / (step + 1.0), momentum)
    return share * average + (1.0 - share) * value


class Weights(keras.callbacks.Callback):
    """Keeps the weights of every peer, from before and after every batch."""

    def __init__(self, peers):
        super().__init__()
        self.peers = lambda: peers
        self.seen = [[peer.get_weights() for peer in peers]]

    def on_train_batch_end(self, batch, logs=None):
        assert self.model.step >= 0  # On JAX this brings the weights.
        self.seen.append([peer.get_weights() for peer in self.peers()])


def naive_averages(seen, is_taken=lambda batch: True, first=0):
    """The averages of all weights that were seen, batch by batch."""
    averages = [[w.astype("float64") for w in own] for own in seen[0]]
    step = first
    for batch, weights in enumerate(seen[1:]):
        if not is_taken(batch):
            continue
        step += 1
        averages = [
            [
                naive_average(average, value, step)
                for average, value in zip(*both, strict=True)
            ]
            for both in zip(averages, weights, strict=True)
        ]
    return averages


def assert_averages(model, expected, **tolerance):
    tolerance = {"rtol": 1e-5, "atol": 1e-6, **tolerance}
    for peer, own in zip(model.peers, expected, strict=True):
        found = model.averaged_peers().values_of(peer)
        assert len(found) == len(peer.weights)
        for ours, theirs in zip(found, own, strict=True):
            np.testing.assert_allclose(ours, theirs, **tolerance)


def trained_by_loop(kernels, x, y, weight, threshold, is_averaged, epochs):
    """Two linear peers, gradient descent, all in float64.

    Returns the kernels and their averages.
    """
    kernels = [kernel.astype("float64") for kernel in kernels]
    averages = list(kernels)
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
            averages[i] = naive_average(averages[i], kernels[i], step + 1)
    return kernels, averages


@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("has_list", [False, True])
@pytest.mark.parametrize("threshold", [0.8, 2.0])
def test_training_is_the_loop_written_out(
    data, threshold, has_list, run_eagerly
):
    peers = [linear(), linear()]
    kernels = [peer.get_weights()[0] for peer in peers]
    weight = schedules.Linear(0.5, 3.0)
    optimizers = [keras.optimizers.SGD(RATE) for _ in peers]
    model = model_of(
        peers,
        optimizers if has_list else optimizers[0],
        threshold,
        {"run_eagerly": run_eagerly},
        distillation_weight=weight,
    )
    train(model, data, epochs=2)
    ends, averages = trained_by_loop(kernels, *data, weight, threshold, True, 2)
    for peer, kernel in zip(peers, ends, strict=True):
        np.testing.assert_allclose(peer.get_weights()[0], kernel, atol=2e-5)
    assert_averages(model, [[kernel] for kernel in averages], atol=2e-5)


def test_the_weight_of_knowledge_follows_its_schedule(data):
    peers = [linear(), linear()]
    kernels = [peer.get_weights()[0] for peer in peers]
    weight = schedules.Piecewise([0.5], [0.0, 4.0])
    model = model_of(peers, knowledge="peers", distillation_weight=weight)
    train(model, data, epochs=2)
    expected, _ = trained_by_loop(kernels, *data, weight, 2.0, False, 2)
    for peer, kernel in zip(peers, expected, strict=True):
        np.testing.assert_allclose(peer.get_weights()[0], kernel, atol=2e-5)


@pytest.mark.parametrize("accumulation", [None, 2, 3])
def test_averages_are_of_all_weights_and_statistics(data, accumulation):
    peers = [mlp(), mlp(5)]
    model = model_of(
        peers,
        keras.optimizers.SGD(RATE, gradient_accumulation_steps=accumulation),
    )
    weights = Weights(peers)
    assert_averages(model, weights.seen[0], rtol=0, atol=0)
    train(model, data, epochs=2, callbacks=[weights])
    assert len(weights.seen) == 2 * STEPS + 1
    per_step = accumulation or 1
    expected = naive_averages(
        weights.seen, lambda batch: (batch + 1) % per_step == 0
    )
    assert_averages(model, expected)
    # Kernels, biases, scales, and the statistics of batch normalisation, all
    # of which have moved away from the weights.
    assert len(expected[0]) == 8
    for peer, own in zip(peers, expected, strict=True):
        for value, average in zip(peer.get_weights(), own, strict=True):
            assert np.abs(value - average).max() > 1e-4


def test_the_momentum_grows_with_the_step():
    value = keras.ops.convert_to_tensor([1.0, -2.0], "float32")
    momenta = [
        1.0 - numpy_of(averaged(0.0 * value, value, 0.8, step)) / [1.0, -2.0]
        for step in range(1, 9)
    ]
    expected = [1 / 2, 2 / 3, 3 / 4, 4 / 5, 0.8, 0.8, 0.8, 0.8]
    np.testing.assert_allclose(momenta, np.transpose([expected] * 2), rtol=1e-6)


def test_a_step_that_loss_scaling_skips_moves_no_average(data):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = model_of(
            [mlp(), mlp(5)],
            keras.optimizers.LossScaleOptimizer(
                keras.optimizers.SGD(RATE), initial_scale=2.0**120
            ),
        )
        before = [peer.get_weights() for peer in model.peers]
        model.train_on_batch(*data)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.step == 0
    assert_averages(model, before, rtol=0, atol=0)
    # The statistics of the peers themselves have moved.
    moved = model.peers[0].get_weights()
    assert any(np.any(a != b) for a, b in zip(moved, before[0], strict=True))


def test_momentum_zero_learns_from_the_weights_of_now(data):
    peers = [linear(), linear()]
    ends = []
    for source in (PeerPredictions(), AveragedPeers(0.0)):
        own = copies(peers)
        model = model_of(own, knowledge=source, distillation_weight=2.0)
        train(model, data, epochs=2)
        ends.append([peer.get_weights()[0] for peer in own])
    np.testing.assert_allclose(*ends, atol=1e-6)


def test_knowledge_is_of_inference(rng):
    peers = [
        keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dropout(0.9, seed=0),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(4),
            ]
        )
        for _ in range(2)
    ]
    model = model_of(peers, distillation_weight=0.0)
    x = rng.normal(size=(10, 6)).astype("float32")
    y = rng.integers(0, 4, size=10)
    log_probs = [
        functional.log_probabilities(peer.predict(x, verbose=0))
        for peer in peers
    ]
    entropies = [numpy_of(functional.uncertainty(p)) for p in log_probs]
    model.threshold = float(np.median(entropies))
    # In training, of the averages as they were before the step.
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["selection_rate"] == 0.5


def divergence(knowledge, log_probs):
    return (np.exp(knowledge) * (knowledge - log_probs)).sum(axis=-1).mean()


@pytest.mark.parametrize(
    ("num_peers", "routes", "expected", "from_logits"),
    [
        pytest.param(1, None, [[1.0]], True, marks=with_torch),
        (1, "itself", [[1.0]], False),
        pytest.param(
            2, None, [[0.0, 1.0], [1.0, 0.0]], False, marks=with_torch
        ),
        pytest.param(
            2, "others", [[0.0, 1.0], [1.0, 0.0]], True, marks=with_torch
        ),
        pytest.param(
            2, "itself", [[1.0, 0.0], [0.0, 1.0]], True, marks=with_torch
        ),
        (2, [[0.25, 0.5], [0.0, 2.0]], [[0.25, 0.5], [0.0, 2.0]], True),
        (3, None, 0.5 * (1.0 - np.eye(3)), True),
    ],
)
def test_evaluation_compares_with_the_averages(
    data, num_peers, routes, expected, from_logits
):
    activation = None if from_logits else "softmax"
    peers = [mlp(activation=activation) for _ in range(num_peers)]
    source = AveragedPeers(MOMENTUM, routes)
    model = model_of(peers, knowledge=source, from_logits=from_logits)
    train(model, data, epochs=2)
    teachers = copies(peers)
    for copy, peer in zip(teachers, peers, strict=True):
        copy.set_weights(source.values_of(peer))
    x, y = data

    def log_probs(peer):
        outputs = peer.predict(x, verbose=0).astype("float64")
        return np.log(softmax(outputs) if from_logits else outputs)

    knowledge = [log_probs(peer) for peer in teachers]
    own = [log_probs(peer) for peer in peers]
    value = sum(
        share * divergence(knowledge[k], own[i])
        for i, row in enumerate(np.array(expected))
        for k, share in enumerate(row)
    )
    assert value > 1e-4
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["distillation_loss"], value, rtol=1e-3)
    # Nothing moves.
    again = model.evaluate(x, y, verbose=0, return_dict=True)
    assert again == logs
    mean = np.mean(np.exp(knowledge), axis=0)
    for _ in range(2):
        np.testing.assert_allclose(
            model.predict(x, verbose=0, output="averaged"), mean, rtol=1e-4
        )
        np.testing.assert_allclose(
            model.predict(x, verbose=0), np.mean(np.exp(own), axis=0), rtol=1e-4
        )


def test_averages_are_predicted_only_where_they_are_asked_for(data):
    x, _ = data
    model = model_of([linear(), linear()])
    train(model, data)
    averaged = model.predict(x, verbose=0, output="averaged")
    for name, peer in zip(model.peer_names, model.peers, strict=True):
        own = numpy_of(peer(x))
        np.testing.assert_allclose(numpy_of(model(x)[name]), own, rtol=1e-6)
    assert np.abs(averaged - model.predict(x, verbose=0)).max() > 1e-4


@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_other_precisions_learn_from_averages(data, policy):
    if policy == "float64" and BACKEND == "jax":
        pytest.skip(
            "JAX computes in float32 unless x64 is enabled for the process"
        )
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        peers = [mlp(), mlp(5)]
        model = model_of(
            peers,
            keras.optimizers.SGD(0.1),
            distillation_weight=schedules.Linear(0.0, 2.0),
        )
        weights = Weights(peers)
        train(model, data, epochs=2, callbacks=[weights])
    finally:
        keras.config.set_dtype_policy(before)
    assert model.step == 2 * STEPS
    logs = model.evaluate(*data, verbose=0, return_dict=True)
    assert np.isfinite(logs["loss"])
    # The averages are float32 whatever the peers compute in.
    dtypes = {v.dtype for v in model.averaged_peers().variables}
    assert dtypes == {"float32"}
    if policy == "float64":
        assert_averages(model, naive_averages(weights.seen))


def test_averages_begin_anew(data):
    model = model_of([mlp(), mlp(5)])
    train(model, data)
    first = [peer.get_weights() for peer in model.peers]
    averages = model.averaged_peers()
    assert np.any(averages.values_of(model.peers[0])[0] != first[0][0])
    averages.reset()
    assert_averages(model, first, rtol=0, atol=0)
    # A training of its own counts its steps from the first.
    weights = Weights(model.peers)
    train(model, data, callbacks=[weights])
    assert_averages(model, naive_averages(weights.seen))


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_a_training_that_goes_on_has_its_averages(data, tmp_path, name):
    def fresh():
        return model_of(
            copies(peers),
            keras.optimizers.Adam(0.01),
            knowledge=AveragedPeers(0.5, "itself"),
            distillation_weight=schedules.RampUp(4.0, 0.25),
        )

    peers = [mlp(dropout=0.3), mlp(5)]
    whole, stopped = fresh(), fresh()
    train(whole, data, epochs=4)
    path = tmp_path / name

    class StopAfterTwo(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                model = self.model
                if path.suffix == ".keras":
                    model.save(path)
                else:
                    model.save_weights(path)
                model.stop_training = True

    train(stopped, data, epochs=4, callbacks=[StopAfterTwo()])
    if path.suffix == ".keras":
        loaded = keras.saving.load_model(path)
        assert loaded.knowledge.get_config() == {
            "momentum": 0.5,
            "routes": "itself",
        }
        assert loaded.distillation_weight == schedules.RampUp(4.0, 0.25)
    else:
        loaded = fresh()
        loaded.load_weights(path)
    assert (loaded.step, loaded.total_steps) == (2 * STEPS, 4 * STEPS)
    x, _ = data
    np.testing.assert_array_equal(
        *(
            model.predict(x, verbose=0, output="averaged")
            for model in (loaded, stopped)
        )
    )
    train(loaded, data, epochs=4, initial_epoch=2)
    for ours, theirs in zip(
        loaded.get_weights(), whole.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    # They are weights of the part, besides those of the peers.
    paths = [variable.path for variable in loaded.knowledge.weights]
    assert len(paths) == 16
    known = {id(v) for peer in loaded.peers for v in peer.weights}
    assert not known & {id(v) for v in loaded.knowledge.weights}


def test_averages_among_several_sources_are_found(data):
    model = model_of(
        [mlp(), mlp(5)],
        knowledge=Several([PeerPredictions(), AveragedPeers(MOMENTUM)]),
    )
    weights = Weights(model.peers)
    train(model, data, epochs=2, callbacks=[weights])
    assert_averages(model, naive_averages(weights.seen))
    x, _ = data
    teachers = copies(model.peers)
    for copy, peer in zip(teachers, model.peers, strict=True):
        copy.set_weights(model.averaged_peers().values_of(peer))
    expected = [softmax(peer.predict(x, verbose=0)) for peer in teachers]
    np.testing.assert_allclose(
        model.predict(x, verbose=0, output="averaged"),
        np.mean(expected, axis=0),
        rtol=1e-4,
    )


def test_wrong_settings_are_refused(data):
    for momentum, error in ((1.0, ValueError), (-0.1, ValueError)):
        with pytest.raises(error, match=r"`momentum` must be in \[0, 1\)"):
            AveragedPeers(momentum)
    with pytest.raises(TypeError, match="`momentum` must be a number"):
        AveragedPeers("slow")
    for routes, message in (
        ("nobody", "`routes` must be one of 'others', 'itself', 'all'"),
        ([[1.0]], r"`routes` must have shape .* = \(2, 2\)"),
        ([[1.0, 0.0], [-1.0, 0.0]], "`routes` must be finite and >= 0"),
    ):
        model = model_of(
            [linear(), linear()], knowledge=AveragedPeers(routes=routes)
        )
        with pytest.raises(ValueError, match=message):
            model.train_on_batch(*data)
    alone = model_of([linear()], knowledge=AveragedPeers(routes="others"))
    with pytest.raises(ValueError, match="`num_peers` must be 2 or more"):
        alone.train_on_batch(*data)
    for weight in (lambda progress: -progress, schedules.Linear(1.0, -1.0)):
        with pytest.raises(ValueError, match=r"distillation_weight\("):
            model_of([linear(), linear()], distillation_weight=weight)
    without = model_of([linear(), linear()], knowledge="peers")
    with pytest.raises(
        ValueError, match="`knowledge` must be or hold a `AveragedPeers`"
    ):
        without.predict(data[0], verbose=0, output="averaged")
    # Nothing is left behind by that.
    without.predict(data[0], verbose=0)
    averages = model_of([linear(), linear()]).averaged_peers()
    with pytest.raises(ValueError, match="`peer` must be one of the peers"):
        averages.values_of(linear())


def test_peers_that_do_not_tell_their_classes_have_no_averages(data):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def call(self, inputs):
            return self.dense(inputs)

    model = model_of([Subclassed(), Subclassed()])
    with pytest.raises(
        ValueError,
        match=r"`peers` must tell their number of classes when they are built, "
        r"for `knowledge`=AveragedPeers\(",
    ):
        train(model, data)


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
