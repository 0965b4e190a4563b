"""Parts that remember examples: by themselves, and in the model."""

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
from keras_smkd import knowledge
from keras_smkd import memory
from keras_smkd import schedules
from keras_smkd import targets
from keras_smkd.batch import Batch
from keras_smkd.functional import largest as maths
from keras_smkd.memory import ExampleMemory


def predictions_of(rng, *shape):
    values = rng.random(shape).astype("float32") + 0.1
    return values / values.sum(axis=-1, keepdims=True)


def of_one_learner(values):
    """What is remembered, with an axis for the learner."""
    return ops.expand_dims(values, axis=1)


def test_temporal_ensembling_is_the_corrected_average(rng):
    target = targets.TemporalEnsembling(3, momentum=0.6, trust=0.25)
    visits = predictions_of(rng, 5, 3, 4)
    labels = np.eye(4, dtype="float32")[[0, 1, 2]]
    remembered = np.zeros((3, 4), "float32")
    average = np.zeros((3, 4))
    for k, visit in enumerate(visits, start=1):
        remembered = target.remember(remembered, visit)
        average = 0.6 * average + 0.4 * visit
        expected = 0.75 * labels + 0.25 * average / (1 - 0.6**k)
        ours = target.corrected(labels, of_one_learner(remembered), 0.5)
        np.testing.assert_allclose(numpy_of(ours), expected[:, None], rtol=1e-5)


def test_joint_optimization_labels_are_the_mean_of_the_window(rng):
    target = targets.JointOptimizationLabels(3, start=0.5, window=2)
    visits = predictions_of(rng, 4, 3, 5)
    labels = np.eye(5, dtype="float32")[[0, 1, 2]]
    remembered = np.zeros((3, 2, 5), "float32")
    for k, visit in enumerate(visits, start=1):
        remembered = target.remember(remembered, visit)
        of_learner = of_one_learner(remembered)
        early = numpy_of(target.corrected(labels, of_learner, 0.4999))
        np.testing.assert_array_equal(early, labels[:, None])
        ours = numpy_of(target.corrected(labels, of_learner, 0.5))
        expected = visits[max(0, k - 2) : k].mean(axis=0)
        np.testing.assert_allclose(ours, expected[:, None], rtol=1e-5)


def test_labels_are_replaced_from_the_step_at_start_on():
    # In float32, 70 of 200 must count as 0.35.
    target = targets.JointOptimizationLabels(1, start=0.35, window=1)
    remembered = [[[[0.25, 0.75]]]]
    for step, expected in ((6999, [1.0, 0.0]), (7000, [0.25, 0.75])):
        progress = ops.cast(step, "float32") / ops.cast(20000, "float32")
        ours = target.corrected([[1.0, 0.0]], remembered, progress)
        np.testing.assert_array_equal(numpy_of(ours), [[expected]])


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        (targets.TemporalEnsembling(9, trust=1.0), (2, 3)),
        (targets.JointOptimizationLabels(9, start=0.0), (2, 10, 3)),
    ],
)
def test_examples_not_seen_keep_their_labels(target, shape):
    labels = np.array([[0.0, 1.0, 0.0], [0.5, 0.25, 0.25]], "float32")
    assert target.row_shape(3) == shape[1:]
    unseen = of_one_learner(np.zeros(shape, "float32"))
    ours = target.corrected(labels, unseen, 1.0)
    np.testing.assert_array_equal(numpy_of(ours), labels[:, None])


@pytest.mark.parametrize(
    "target",
    [
        targets.TemporalEnsembling(2),
        targets.JointOptimizationLabels(2, window=2),
        knowledge.PastPredictions(2),
    ],
)
def test_no_gradient_flows_into_the_memory(target):
    remembered = np.zeros((2, *target.row_shape(3)), "float32")
    ours = gradient(
        lambda p: ops.sum(target.remember(remembered, p)),
        np.full((2, 3), 1 / 3, "float32"),
    )
    np.testing.assert_array_equal(ours, 0.0)


def test_trust_is_a_number_or_a_schedule():
    assert not targets.TemporalEnsembling(1, trust=0.5).needs_progress
    target = targets.TemporalEnsembling(1, trust=schedules.Linear(0.0, 1.0))
    assert target.needs_progress
    ours = target.corrected([[1.0, 0.0]], [[[0.2, 0.2]]], 0.25)
    np.testing.assert_allclose(numpy_of(ours), [[[0.875, 0.125]]], rtol=1e-6)


# Called with batches.

PEERS = [object(), object()]


def batch_at(index, probs, training=True, progress=1.0):
    """A batch of the examples at `index`, of one class in truth, the first."""
    labels = np.eye(probs.shape[-1], dtype="float32")[[0] * len(probs)]
    return Batch(
        labels=labels,
        index=ops.convert_to_tensor(np.array(index, "int32")),
        log_probs=ops.log(ops.convert_to_tensor(probs)),
        progress=progress,
        training=training,
    )


def prepared(part, num_classes=3):
    part.prepare(PEERS, num_classes)
    return part


def test_a_visit_gives_what_was_there_before_and_remembers(rng):
    part = prepared(targets.TemporalEnsembling(5, momentum=0.5))
    assert tuple(part.memory.shape) == (5, 2, 3)
    first, second = predictions_of(rng, 2, 2, 2, 3)
    before = numpy_of(part.visit(batch_at([3, 1], first)))
    np.testing.assert_array_equal(before, np.zeros((2, 2, 3)))
    # Example 1 again, and one that was not seen.
    ours = numpy_of(part.visit(batch_at([1, 0], second)))
    np.testing.assert_allclose(ours[0], 0.5 * first[1], rtol=1e-5)
    np.testing.assert_array_equal(ours[1], 0.0)
    expected = np.zeros((5, 2, 3))
    expected[3] = 0.5 * first[0]
    expected[1] = 0.25 * first[1] + 0.5 * second[0]
    expected[0] = 0.5 * second[1]
    np.testing.assert_allclose(numpy_of(part.memory), expected, rtol=1e-5)


def test_a_target_is_called_with_a_batch(rng):
    part = prepared(targets.TemporalEnsembling(5, momentum=0.5, trust=0.25))
    first, second = predictions_of(rng, 2, 2, 2, 3)
    batch = batch_at([3, 1], first)
    # Not seen yet: the label of each learner.
    expected = np.repeat(batch.labels[:, None], 2, axis=1)
    np.testing.assert_array_equal(numpy_of(part(batch)), expected)
    ours = numpy_of(part(batch_at([3, 1], second)))
    np.testing.assert_allclose(ours, 0.75 * expected + 0.25 * first, rtol=1e-5)


def test_past_predictions_are_the_corrected_average(rng):
    part = prepared(knowledge.PastPredictions(4, momentum=0.6))
    visits = predictions_of(rng, 3, 2, 2, 3)
    average = np.zeros((2, 2, 3))
    for k, visit in enumerate(visits):
        given = part(batch_at([2, 0], visit))
        np.testing.assert_array_equal(given.routes, np.eye(2))
        np.testing.assert_array_equal(numpy_of(given.available), float(k > 0))
        probs = np.exp(numpy_of(given.log_probs))
        expected = np.full((2, 2, 3), 1 / 3)
        if k > 0:
            expected = average / (1 - 0.6**k)
        np.testing.assert_allclose(probs, expected, rtol=1e-5)
        average = 0.6 * average + 0.4 * visit


# The largest classes only.


def test_the_largest_are_kept_and_the_others_share_by_hand():
    values = np.array([[0.125, 0.5, 0.0625, 0.25, 0.0625], [0, 0, 1, 0, 0]])
    kept = numpy_of(maths.keep_largest(values.astype("float32"), 2))
    np.testing.assert_array_equal(kept[0], [0.5, 0.25, 1, 3, 0.25])
    np.testing.assert_array_equal(kept[1, [0, 1, 2, 4]], [1, 0, 2, 0])
    whole = numpy_of(maths.spread_largest(kept, 5))
    third = 0.25 / 3
    np.testing.assert_allclose(
        whole, [[third, 0.5, third, 0.25, third], [0, 0, 1, 0, 0]], rtol=1e-6
    )
    # What is not known stays it, and nothing is nothing.
    nothing = numpy_of(maths.spread_largest(np.zeros((1, 5), "float32"), 5))
    np.testing.assert_array_equal(nothing, 0.0)
    unknown = np.full((1, 5), np.nan, "float32")
    assert np.isnan(numpy_of(maths.spread_largest(unknown, 5))).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_past_predictions_of_the_largest_are_the_naive_loop(rng, dtype):
    part = prepared(
        knowledge.PastPredictions(4, momentum=0.5, dtype=dtype, top=2), 5
    )
    assert tuple(part.memory.shape) == (4, 2, 5)
    average = np.zeros((2, 2, 5))
    for k, visit in enumerate(predictions_of(rng, 4, 2, 2, 5)):
        given = part(batch_at([2, 0], visit))
        expected = np.full((2, 2, 5), 1 / 5)
        if k > 0:
            expected = average / (1 - 0.5**k)
        np.testing.assert_allclose(
            np.exp(numpy_of(given.log_probs)),
            expected,
            rtol=1e-5 if dtype == "float32" else 3e-3,
        )
        average = 0.5 * average + 0.5 * visit
        smaller = np.argsort(average, axis=-1)[..., :3]
        shared = np.take_along_axis(average, smaller, axis=-1).mean(
            axis=-1, keepdims=True
        )
        np.put_along_axis(average, smaller, shared, axis=-1)


def test_all_classes_but_one_are_all(rng):
    """What is left over is of one class, which is then known."""
    visits = predictions_of(rng, 3, 2, 2, 4)
    answers = []
    for top in (None, 3):
        part = prepared(knowledge.PastPredictions(4, top=top), 4)
        answers.append([part(batch_at([1, 3], visit)) for visit in visits])
    for whole, kept in zip(*answers, strict=True):
        np.testing.assert_allclose(
            numpy_of(kept.log_probs), numpy_of(whole.log_probs), rtol=1e-5
        )


def test_more_classes_than_a_memory_has_numbers_for():
    for num_classes, dtype in ((2048, "float16"), (2049, "float32")):
        part = knowledge.PastPredictions(1, dtype=dtype, top=1)
        probs = np.zeros((1, 2, num_classes), "float32")
        probs[..., -1] = 1.0
        prepared(part, num_classes)(batch_at([0], probs))
        given = numpy_of(part(batch_at([0], probs)).log_probs)
        np.testing.assert_array_equal(given.argmax(axis=-1), num_classes - 1)
    part = knowledge.PastPredictions(1, dtype="float16", top=1)
    with pytest.raises(
        ValueError, match=r"None for more than 2048 classes.*204"
    ):
        prepared(part, 2049)
    with pytest.raises(ValueError, match=r"`top` must be below.*top=1 for 1 c"):
        prepared(part, 1)
    with pytest.raises(ValueError, match="`top` must be an integer >= 1"):
        knowledge.PastPredictions(1, top=0)
    prepared(knowledge.PastPredictions(1, dtype="float16"), 2049)


def test_a_place_outside_is_heard_from_past_predictions(rng):
    part = prepared(knowledge.PastPredictions(4))
    given = part(batch_at([0, 4], predictions_of(rng, 2, 2, 3)))
    np.testing.assert_array_equal(numpy_of(given.available), [[0, 0], [1, 1]])
    assert np.isnan(numpy_of(given.log_probs)[1]).all()


def test_past_predictions_say_nothing_in_evaluation(rng):
    part = prepared(knowledge.PastPredictions(4, routes="others"))
    part(batch_at([0, 1], predictions_of(rng, 2, 2, 3)))
    before = numpy_of(part.memory)
    batch = batch_at([0, 1], predictions_of(rng, 2, 2, 3), training=False)
    given = part(batch)
    np.testing.assert_array_equal(given.routes, 1 - np.eye(2))
    np.testing.assert_array_equal(numpy_of(given.available), 0.0)
    assert np.isfinite(numpy_of(given.log_probs)).all()
    np.testing.assert_array_equal(numpy_of(part.memory), before)


EVERY_MEMORY = [
    lambda: targets.TemporalEnsembling(4, trust=1.0),
    lambda: targets.JointOptimizationLabels(4, start=0.0, window=2),
    lambda: knowledge.PastPredictions(4),
    lambda: knowledge.PastPredictions(4, top=2),
]
each_memory = pytest.mark.parametrize("make", EVERY_MEMORY)


def said_by(answer):
    return numpy_of(getattr(answer, "log_probs", answer))


@each_memory
def test_predictions_that_are_not_finite_are_not_remembered(rng, make):
    part = prepared(make())
    first, second, third = predictions_of(rng, 3, 2, 2, 3)
    part(batch_at([1, 2], first))
    before = numpy_of(part.memory)
    second[0, 1, 2] = np.nan
    part(batch_at([1, 2], second))
    after = numpy_of(part.memory)
    np.testing.assert_array_equal(after[1, 1], before[1, 1])
    assert (after[1, 0] != before[1, 0]).any()
    assert (after[2] != before[2]).any()
    assert np.isfinite(said_by(part(batch_at([1, 2], third)))).all()


@each_memory
def test_a_place_outside_is_nan_and_writes_nothing(rng, make):
    part = prepared(make())
    visit = predictions_of(rng, 3, 2, 3)
    part(batch_at([0, 1, 2], visit))
    before = numpy_of(part.memory)
    said = said_by(part(batch_at([-1, 4, 1], visit)))
    assert np.isnan(said).all(axis=(1, 2)).tolist() == [True, True, False]
    after = numpy_of(part.memory)
    np.testing.assert_array_equal(after[[0, 2, 3]], before[[0, 2, 3]])
    answer = part(batch_at([-1, 1, 1], visit))
    if hasattr(answer, "available"):
        # The NaN must be heard.
        np.testing.assert_array_equal(numpy_of(answer.available), 1.0)


@each_memory
def test_a_batch_without_an_index_is_refused_in_training(rng, make):
    part = prepared(make())
    batch = batch_at([0, 1], predictions_of(rng, 2, 2, 3))
    with pytest.raises(
        ValueError, match=rf"{type(part).__name__} needs each example's place"
    ):
        part(batch.filled(index=None))
    part(batch.filled(index=None, training=False))


@each_memory
def test_a_head_has_no_place_in_a_memory(rng, make):
    part = prepared(make())
    with pytest.raises(
        ValueError, match=r"one of the 2 peers.*a head\. Received: 3 learners"
    ):
        part(batch_at([0, 1], predictions_of(rng, 2, 3, 3)))


def test_a_memory_must_say_what_it_remembers():
    part = ExampleMemory(2, "float32")
    for method, arguments in (("row_shape", [3]), ("remember", [None, None])):
        with pytest.raises(TypeError, match=f"`{method}` must be written by"):
            getattr(part, method)(*arguments)


def test_mean_distribution_worked_by_hand():
    ours, seen = memory.mean_distribution([[0.25, 0.25], [0.0, 0.0]])
    np.testing.assert_array_equal(numpy_of(ours), [[0.5, 0.5], [0.0, 0.0]])
    assert numpy_of(seen).tolist() == [1.0, 0.0]


def test_moving_average_worked_by_hand():
    ours = memory.moving_average([[0.5, 0.25]], [[1.0, 0.0]], 0.75)
    np.testing.assert_array_equal(numpy_of(ours), [[0.625, 0.1875]])


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
    for dtype in memory.DTYPES:
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


@pytest.mark.parametrize("labels", [lambda y: y, lambda y: {"label": y}])
def test_fit_supplies_the_index_of_arrays(data, labels):
    x, y = data
    results = []
    for given in (labels(y), {"label": y, "index": np.arange(NUM_EXAMPLES)}):
        keras.utils.set_random_seed(3)
        model = model_with(targets.TemporalEnsembling(NUM_EXAMPLES, trust=0.5))
        model.fit(x, given, batch_size=BATCH, epochs=2, verbose=0)
        results.append(model.get_weights())
        assert (memory_of(model).sum(axis=-1) > 0).all()
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda y: y, "`y` must be {'label': ..., 'index': ...}"),
        (lambda y: {"label": y}, "Received: labels without an index"),
    ],
)
def test_a_batch_alone_must_bring_its_index(data, labels, message):
    x, y = data
    model = model_with(targets.TemporalEnsembling(NUM_EXAMPLES, trust=0.5))
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.train_on_batch(x, labels(y))
    for ours, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
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
    if "trust" in arguments:
        return
    with pytest.raises(ValueError, match=message):
        knowledge.PastPredictions(**arguments)


def test_wrong_arguments_of_joint_optimization_labels():
    with pytest.raises(ValueError, match="`window` must be an integer >= 1"):
        targets.JointOptimizationLabels(2, window=0)
    with pytest.raises(ValueError, match=r"`start` must be in \[0, 1\]"):
        targets.JointOptimizationLabels(2, start=1.5)
    with pytest.raises(ValueError, match="`num_examples` must be an integer"):
        targets.JointOptimizationLabels(0)
    with pytest.raises(ValueError, match="`dtype` must be one of"):
        targets.JointOptimizationLabels(2, dtype="int8")


@pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="has no float64 unless it is told so at its start",
)
@pytest.mark.parametrize(
    "part", [knowledge.PastPredictions, knowledge.EarlyPredictions]
)
@pytest.mark.parametrize("divergence", ["squared_error", "kullback_leibler"])
def test_peers_of_float64_learn_from_a_memory_of_float32(rng, part, divergence):
    x, y = rng.normal(size=(12, 6)), rng.integers(0, 4, 12)
    keras.config.set_dtype_policy("float64")
    try:
        model = keras_smkd.PeerLearning(
            [linear(), linear()], knowledge=part(12), divergence=divergence
        )
        model.compile("sgd", "sparse_categorical_crossentropy")
        logs = model.fit(x, y, epochs=2, verbose=0).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(logs["loss"]).all()
    assert logs["distillation_loss"][1] != 0
