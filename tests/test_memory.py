"""Targets that remember examples: by themselves, and in the model."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from naive import gradient
from naive import numpy_of
from peers import linear
from peers import mlp

import keras_smkd
from keras_smkd import schedules
from keras_smkd import targets


def predictions_of(rng, *shape):
    values = rng.random(shape).astype("float32") + 0.1
    return values / values.sum(axis=-1, keepdims=True)


def test_temporal_ensembling_is_the_corrected_average(rng):
    target = targets.TemporalEnsembling(3, momentum=0.6, trust=0.25)
    visits = predictions_of(rng, 5, 3, 4)
    labels = np.eye(4, dtype="float32")[[0, 1, 2]]
    memory = np.zeros((3, 4), "float32")
    average = np.zeros((3, 4))
    for k, visit in enumerate(visits, start=1):
        memory = target.remember(memory, visit)
        average = 0.6 * average + 0.4 * visit
        expected = 0.75 * labels + 0.25 * average / (1 - 0.6**k)
        ours = numpy_of(target(labels, visit, 0.5, memory))
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_joint_optimization_labels_are_the_mean_of_the_window(rng):
    target = targets.JointOptimizationLabels(3, start=0.5, window=2)
    visits = predictions_of(rng, 4, 3, 5)
    labels = np.eye(5, dtype="float32")[[0, 1, 2]]
    memory = np.zeros((3, 2, 5), "float32")
    for k, visit in enumerate(visits, start=1):
        memory = target.remember(memory, visit)
        early = numpy_of(target(labels, visit, 0.4999, memory))
        np.testing.assert_array_equal(early, labels)
        ours = numpy_of(target(labels, visit, 0.5, memory))
        expected = visits[max(0, k - 2) : k].mean(axis=0)
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_labels_are_replaced_from_the_step_at_start_on():
    # In float32, 70 of 200 must count as 0.35.
    target = targets.JointOptimizationLabels(1, start=0.35, window=1)
    memory = [[[0.25, 0.75]]]
    for step, expected in ((6999, [1.0, 0.0]), (7000, [0.25, 0.75])):
        progress = ops.cast(step, "float32") / ops.cast(20000, "float32")
        ours = target([[1.0, 0.0]], [[0.5, 0.5]], progress, memory)
        np.testing.assert_array_equal(numpy_of(ours), [expected])


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        (targets.TemporalEnsembling(9, trust=1.0), (2, 3)),
        (targets.JointOptimizationLabels(9, start=0.0), (2, 10, 3)),
    ],
)
def test_examples_not_seen_keep_their_labels(target, shape):
    labels = np.array([[0.0, 1.0, 0.0], [0.5, 0.25, 0.25]], "float32")
    assert target.memory_shape(3) == shape[1:]
    ours = target(labels, labels, 1.0, np.zeros(shape, "float32"))
    np.testing.assert_array_equal(numpy_of(ours), labels)


def test_no_gradient_flows_into_the_memory():
    target = targets.TemporalEnsembling(2)
    memory = np.zeros((2, 3), "float32")
    ours = gradient(
        lambda p: ops.sum(target.remember(memory, p)),
        np.full((2, 3), 1 / 3, "float32"),
    )
    np.testing.assert_array_equal(ours, 0.0)


def test_trust_is_a_number_or_a_schedule():
    assert not targets.TemporalEnsembling(1, trust=0.5).needs_progress
    target = targets.TemporalEnsembling(1, trust=schedules.Linear(0.0, 1.0))
    assert target.needs_progress
    ours = target([[1.0, 0.0]], None, 0.25, [[0.2, 0.2]])
    np.testing.assert_allclose(numpy_of(ours), [[0.875, 0.125]], rtol=1e-6)


# In the model.

NUM_EXAMPLES = 20
BATCH = 5


@pytest.fixture
def data(rng):
    x = rng.normal(size=(NUM_EXAMPLES, 6)).astype("float32")
    return x, rng.integers(0, 4, size=NUM_EXAMPLES)


def memory_of(model):
    (weight,) = [w for w in model.weights if w.name == "memory"]
    return numpy_of(ops.cast(weight, "float32"))


def model_with(target, peers=None):
    model = keras_smkd.SelectiveMutualDistillation(
        peers or [linear(), linear()], target=target, gate=None
    )
    model.compile(
        keras.optimizers.SGD(0.5),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def softmax(logits):
    values = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return values / values.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("eagerly", [False, True])
@pytest.mark.parametrize("kind", ["ensembling", "joint"])
def test_training_is_the_loop_written_out(data, kind, eagerly):
    x, y = data
    index = np.random.default_rng(0).permutation(NUM_EXAMPLES)
    # A memory with more places than examples were given.
    size, epochs, trust = NUM_EXAMPLES + 3, 3, 0.5
    if kind == "ensembling":
        target = targets.TemporalEnsembling(size, 0.6, trust)
    else:
        target = targets.JointOptimizationLabels(size, 1 / 3, window=2)
    model = model_with(target)
    model.run_eagerly = eagerly
    kernels = [np.array(p.get_weights()[0], "float64") for p in model.peers]
    model.distillation_weight = 0.0
    model.fit(
        x,
        {"label": y, "index": index},
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
    )

    labels = np.eye(4)[y]
    past = [[[] for _ in range(size)] for _ in kernels]
    for epoch in range(epochs):
        for start in range(0, NUM_EXAMPLES, BATCH):
            rows = slice(start, start + BATCH)
            for peer, kernel in enumerate(kernels):
                probs = softmax(x[rows] @ kernel)
                corrected = labels[rows].copy()
                for n, place in enumerate(index[rows]):
                    seen = past[peer][place]
                    if kind == "ensembling" and seen:
                        z = np.zeros(4)
                        for p in seen:
                            z = 0.6 * z + 0.4 * p
                        z /= 1 - 0.6 ** len(seen)
                        corrected[n] = trust * corrected[n] + (1 - trust) * z
                    elif kind == "joint" and seen and epoch >= 1:
                        corrected[n] = np.mean(seen[-2:], axis=0)
                    seen.append(probs[n])
                kernel -= 0.5 * x[rows].T @ (probs - corrected) / BATCH
    trained = [peer.get_weights()[0] for peer in model.peers]
    for ours, expected in zip(trained, kernels, strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-5)
    assert (memory_of(model).sum(axis=-1) == 0).any(), "three were not seen"
    unseen = sorted(set(range(size)) - set(index))
    np.testing.assert_array_equal(memory_of(model)[unseen], 0.0)


def test_evaluation_neither_reads_nor_writes(data):
    x, y = data
    target = targets.JointOptimizationLabels(NUM_EXAMPLES, start=0.0)
    model = model_with(target)
    labels = {"label": y, "index": np.arange(NUM_EXAMPLES)}
    model.fit(x, labels, epochs=1, verbose=0)
    before = memory_of(model)
    with_index = model.evaluate(x, labels, verbose=0)
    # Not asked for an index: the places are those of the training data.
    assert model.evaluate(x, y, verbose=0) == with_index
    np.testing.assert_array_equal(memory_of(model), before)
    plain = model_with(None, model.peers)
    plain.threshold = model.threshold
    assert plain.evaluate(x, y, verbose=0) == pytest.approx(with_index)


def test_memory_is_saved_and_resumed_bit_for_bit(data, tmp_path):
    x, y = data
    labels = {"label": y, "index": np.arange(NUM_EXAMPLES)}

    def new():
        keras.utils.set_random_seed(3)
        target = targets.TemporalEnsembling(
            NUM_EXAMPLES, trust=schedules.Linear(0.0, 1.0)
        )
        model = keras_smkd.SelectiveMutualDistillation(
            [mlp(), linear()], target=target, total_steps=4 * 4
        )
        model.compile(
            keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy"
        )
        return model

    def fit(model, first, last):
        model.fit(
            x,
            labels,
            batch_size=BATCH,
            initial_epoch=first,
            epochs=last,
            shuffle=False,
            verbose=0,
        )

    whole, begun = new(), new()
    fit(whole, 0, 4)
    fit(begun, 0, 2)
    begun.save(tmp_path / "begun.keras")
    resumed = keras.saving.load_model(tmp_path / "begun.keras")
    np.testing.assert_array_equal(memory_of(resumed), memory_of(begun))
    fit(resumed, 2, 4)
    for ours, expected in zip(
        resumed.get_weights(), whole.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, expected)


def test_float16_memory_is_close_and_half_the_size(data):
    x, y = data
    labels = {"label": y, "index": np.arange(NUM_EXAMPLES)}
    memories = {}
    for dtype in targets.memory.DTYPES:
        keras.utils.set_random_seed(3)
        model = model_with(
            targets.TemporalEnsembling(NUM_EXAMPLES, trust=0.5, dtype=dtype)
        )
        model.fit(x, labels, epochs=3, verbose=0, shuffle=False)
        (weight,) = [w for w in model.weights if w.name == "memory"]
        assert weight.dtype == dtype
        memories[dtype] = memory_of(model)
    np.testing.assert_allclose(
        memories["float16"], memories["float32"], atol=2e-3
    )


def test_bad_batch_does_not_spoil_the_memory(data):
    x, y = data
    model = model_with(targets.TemporalEnsembling(NUM_EXAMPLES, trust=0.5))
    index = np.arange(NUM_EXAMPLES)
    model.train_on_batch(x, {"label": y, "index": index})
    before = memory_of(model)
    bad = x.copy()
    bad[3] = np.nan
    model.train_on_batch(bad, {"label": y, "index": index})
    after = memory_of(model)
    np.testing.assert_array_equal(after[3], before[3])
    assert (after[4] != before[4]).any()


def test_place_outside_the_data_set_is_loud_and_writes_nothing(data):
    x, y = data
    model = model_with(targets.TemporalEnsembling(NUM_EXAMPLES, trust=0.5))
    index = np.arange(NUM_EXAMPLES)
    index[7] = NUM_EXAMPLES

    def batches():
        yield x, {"label": y, "index": index}

    logs = model.fit(
        batches(), steps_per_epoch=1, shuffle=False, verbose=0
    ).history
    assert math.isnan(logs["loss"][0])
    np.testing.assert_array_equal(memory_of(model)[7], 0.0)
    assert (memory_of(model)[8] > 0).all()


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (lambda y: y, ValueError, "`y` must be {'label': ..., 'index': ...}"),
        (
            lambda y: {"label": y},
            ValueError,
            "Received: labels without an index",
        ),
        (
            lambda y: {"label": y, "index": np.arange(len(y)) + 1},
            ValueError,
            r"must be in \[0, 20\).* Received: places from 1 to 20",
        ),
        (
            lambda y: {"label": y, "index": np.arange(3)},
            ValueError,
            "Received: 3 places for 20 labels",
        ),
        (
            lambda y: {"label": y, "index": np.arange(len(y)) * 1.0},
            TypeError,
            "must hold integers. Received: index of dtype float",
        ),
        (
            lambda y: {"label": y, "index": np.zeros((len(y), 2), int)},
            ValueError,
            "must have shape",
        ),
    ],
)
@pytest.mark.parametrize("method", ["fit", "train_on_batch"])
def test_index_that_cannot_be(data, labels, error, message, method):
    x, y = data
    model = model_with(targets.TemporalEnsembling(NUM_EXAMPLES, trust=0.5))
    before = model.get_weights()
    with pytest.raises(error, match=message):
        getattr(model, method)(x, labels(y))
    for ours, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_batches_without_an_index_are_refused_before_the_first_step(data):
    x, y = data
    model = model_with(targets.TemporalEnsembling(NUM_EXAMPLES, trust=0.5))

    def batches():
        yield x, y

    with pytest.raises(ValueError, match="labels without an index"):
        model.fit(batches(), steps_per_epoch=1, shuffle=False, verbose=0)
    assert model.step == 0


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4)

    def call(self, inputs):
        return self.dense(inputs)


def test_peers_must_tell_their_classes():
    with pytest.raises(ValueError, match="must tell their number of classes"):
        model_with(
            targets.TemporalEnsembling(NUM_EXAMPLES),
            [Subclassed(), Subclassed()],
        ).build((None, 6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_examples": 0}, "`num_examples` must be an integer >= 1"),
        ({"num_examples": 2, "momentum": 1.0}, r"`momentum` must be in \[0, 1"),
        ({"num_examples": 2, "trust": 1.5}, r"`trust` must be in \[0, 1\]"),
        ({"num_examples": 2, "dtype": "int8"}, "`dtype` must be one of"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        targets.TemporalEnsembling(**arguments)
    if "start" not in arguments:
        with pytest.raises(ValueError, match="`window` must be"):
            targets.JointOptimizationLabels(2, window=0)
