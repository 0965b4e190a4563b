"""How labels are learnt: the statistics, alone and in training."""

import keras
import numpy as np
import pytest
from keras import ops
from peers import linear
from peers import mlp
from thrift import cases
from thrift import with_torch

import keras_smkd
from keras_smkd import observers
from keras_smkd.callbacks import TrainingDynamics
from keras_smkd.observers import ExampleDynamics

NAMES = (
    "confidence",
    "variability",
    "correctness",
    "margin",
    "learnt",
    "forgotten",
    "count",
)


@pytest.fixture
def data(rng):
    x = rng.normal(size=(40, 6)).astype("float32")
    return x, rng.integers(0, 4, size=40)


def softmax(logits):
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def naive(logits, labels):
    """What is to be known of examples, by loops.

    Args:
        logits: `(visits, examples, peers, classes)`, NaN where an example was
            not visited.
        labels: `(examples,)`.
    """
    found = {name: [] for name in NAMES}
    for n, label in enumerate(labels):
        values, margins, right = [], [], []
        for visit in logits[:, n]:
            if np.isnan(visit).any():
                continue
            probs = [softmax(own) for own in visit]
            mean = sum(probs) / len(probs)
            values.append(mean[label])
            right.append(int(mean.argmax() == label))
            margins.append(
                np.mean([z[label] - np.delete(z, label).max() for z in visit])
            )
        found["count"].append(len(values))
        pairs = list(zip([0, *right], right, strict=False))
        found["learnt"].append(pairs.count((0, 1)))
        found["forgotten"].append(pairs.count((1, 0)))
        for name, value in (
            ("confidence", np.mean(values) if values else np.nan),
            ("variability", np.std(values) if values else np.nan),
            ("correctness", np.mean(right) if values else np.nan),
            ("margin", np.mean(margins) if values else np.nan),
        ):
            found[name].append(value)
    return {name: np.array(value) for name, value in found.items()}


def check(results, expected, rtol=1e-4, atol=1e-6):
    for name in NAMES:
        np.testing.assert_allclose(
            getattr(results, name), expected[name], rtol, atol, err_msg=name
        )


def same(one, other):
    for name in NAMES:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def prepared(num_examples, num_peers=2, **kwargs):
    observer = ExampleDynamics(num_examples, **kwargs)
    observer.prepare([None] * num_peers, 4)
    return observer


def visit(observer, index, logits, labels, labelled=None):
    observer.visit(
        ops.convert_to_tensor(np.asarray(index, "int32")),
        ops.log_softmax(ops.convert_to_tensor(logits)),
        ops.convert_to_tensor(np.eye(4, dtype="float32")[labels]),
        labelled,
    )


def model_of(observer, peers=None, optimizer=None, **compiled):
    keras.utils.set_random_seed(3)
    model = keras_smkd.PeerLearning(
        peers() if peers else [linear(), linear()],
        knowledge="peers",
        observer=observer,
    )
    model.compile(
        optimizer or keras.optimizers.Adam(0.05),
        "sparse_categorical_crossentropy",
        **compiled,
    )
    return model


def logits_of(model, x):
    return np.stack([ops.convert_to_numpy(p(x)) for p in model.peers], axis=1)


class Recorded(keras.callbacks.Callback):
    """Keeps what the peers predict where an epoch begins, and at its end."""

    def __init__(self, x):
        super().__init__()
        self.x, self.before, self.after = x, [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.before.append(logits_of(self.model, self.x))

    def on_epoch_end(self, epoch, logs=None):
        self.after.append(logits_of(self.model, self.x))


# The maths.


def test_what_peers_say_of_a_label_is_the_formula(rng):
    logits = rng.normal(size=(9, 3, 4)).astype("float32") * 3
    labels = rng.integers(0, 4, size=9)
    found = observers.label_statistics(
        ops.log_softmax(ops.convert_to_tensor(logits)),
        np.eye(4, dtype="float32")[labels],
    )
    probability, margin, correct = map(ops.convert_to_numpy, found)
    expected = naive(logits[None], labels)
    np.testing.assert_allclose(probability, expected["confidence"], rtol=1e-5)
    np.testing.assert_allclose(margin, expected["margin"], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(correct, expected["correctness"])
    assert 0 < correct.sum() < 9


def test_the_largest_of_a_soft_label_counts():
    log_probs = np.log([[[0.7, 0.2, 0.1]]]).astype("float32")
    for soft in ([[0.3, 0.4, 0.3]], [[0.0, 1.0, 0.0]]):
        probability, margin, correct = observers.label_statistics(
            log_probs, np.array(soft, "float32")
        )
        assert float(probability[0]) == pytest.approx(0.2, rel=1e-5)
        assert float(margin[0]) == pytest.approx(np.log(0.2 / 0.7), rel=1e-5)
        assert float(correct[0]) == 0.0


def test_no_margin_is_infinite():
    log_probs = np.array([[[0.0, -np.inf]], [[-1e30, 0.0]]], "float32")
    _, margin, _ = observers.label_statistics(
        log_probs, np.array([[1.0, 0.0], [1.0, 0.0]], "float32")
    )
    lowest = np.log(np.finfo("float32").tiny)
    np.testing.assert_allclose(
        ops.convert_to_numpy(margin), [-lowest, lowest], rtol=1e-6
    )


def test_visits_add_up_to_the_mean_and_the_spread(rng):
    visits = 50
    p = rng.uniform(size=(visits, 7)).astype("float32")
    margin = rng.normal(size=(visits, 7)).astype("float32")
    correct = rng.integers(0, 2, size=(visits, 7)).astype("float32")
    rows = ops.zeros((7, 6))
    for i in range(visits):
        rows = observers.after_visit(rows, p[i], margin[i], correct[i])
    found = observers.dynamics_of(ops.convert_to_numpy(rows))
    np.testing.assert_allclose(found.confidence, p.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.variability, p.std(0), rtol=1e-5)
    np.testing.assert_allclose(found.margin, margin.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.correctness, correct.mean(0), rtol=1e-6)
    steps = np.diff(np.concatenate([np.zeros((1, 7)), correct]), axis=0)
    np.testing.assert_array_equal(found.learnt, (steps == 1).sum(0))
    np.testing.assert_array_equal(found.forgotten, (steps == -1).sum(0))
    np.testing.assert_array_equal(found.count, visits)


def test_a_constant_has_no_spread():
    rows = ops.zeros((2, 6))
    for _ in range(100):
        rows = observers.after_visit(
            rows, np.array([0.3, 1.0], "float32"), [2.0, 0.5], [0.0, 1.0]
        )
    found = observers.dynamics_of(ops.convert_to_numpy(rows))
    np.testing.assert_allclose(found.variability, 0.0, atol=1e-6)
    np.testing.assert_allclose(found.confidence, [0.3, 1.0], rtol=1e-6)
    assert found.learnt.tolist() == [0, 1]
    assert found.forgotten.tolist() == [0, 0]


def test_the_first_of_equal_places(rng):
    index = rng.integers(0, 9, size=30).astype("int32")
    found = observers.first_places(ops.convert_to_tensor(index))
    expected = [list(index).index(place) for place in index]
    np.testing.assert_array_equal(ops.convert_to_numpy(found), expected)


# The part, visit by visit.


def test_visits_in_any_order_and_number_are_those_of_the_loops(rng):
    observer = prepared(12)
    logits = np.full((5, 12, 2, 4), np.nan, "float32")
    labels = rng.integers(0, 4, size=12)
    for own in logits:
        index = rng.permutation(11)[:6]  # The last one never comes.
        own[index] = 2 * rng.normal(size=(6, 2, 4))
        visit(observer, index, own[index], labels[index])
    results = observer.results()
    check(results, naive(logits, labels))
    assert results.count[-1] == 0 and np.isnan(results.confidence[-1])
    assert len(set(results.count.tolist())) > 2


def test_of_an_example_twice_in_a_batch_the_first_counts(rng):
    observer = prepared(5)
    logits = rng.normal(size=(4, 2, 4)).astype("float32")
    visit(observer, [3, 1, 3, 3], logits, [2, 0, 1, 0])
    once = prepared(5)
    visit(once, [3, 1], logits[:2], [2, 0])
    same(observer.results(), once.results())
    assert observer.results().count.tolist() == [0, 1, 0, 1, 0]


def test_what_is_not_finite_or_has_no_label_is_no_visit(rng):
    observer = prepared(4)
    logits = rng.normal(size=(4, 2, 4)).astype("float32")
    visit(observer, [0, 1, 2, 3], logits, [0, 1, 2, 3])
    before = observer.results()
    broken = logits.copy()
    broken[0, 1, 2] = np.nan
    broken[1, 0] = np.nan
    labelled = ops.convert_to_tensor(np.array([1.0, 1.0, 1.0, 0.0], "float32"))
    visit(observer, [0, 1, 2, 3], broken, [0, 1, 2, 3], labelled)
    after = observer.results()
    assert after.count.tolist() == [1, 1, 2, 1]
    for name in NAMES:
        for n in (0, 1, 3):
            assert getattr(after, name)[n] == getattr(before, name)[n]


@pytest.mark.parametrize("place", [-1, 4, 100])
def test_places_outside_the_data_set_touch_no_example(rng, place):
    observer = prepared(4)
    logits = rng.normal(size=(2, 2, 4)).astype("float32")
    visit(observer, [0, place], logits, [0, 1])
    rows = ops.convert_to_numpy(observer.memory)
    assert rows[:, 0].tolist() == [1, 0, 0, 0, 1]
    for read in (observer.results, observer.check):
        with pytest.raises(
            ValueError,
            match=r"`y\['index'\]` must be in \[0, 4\).*in 1 batches\.",
        ):
            read()


@with_torch
def test_half_precision_keeps_three_digits_in_half_the_memory(rng):
    single, half = prepared(6), prepared(6, dtype="float16")
    labels = np.arange(6) % 4
    for _ in range(200):
        logits = 2 * rng.normal(size=(6, 2, 4)).astype("float32")
        for observer in (single, half):
            visit(observer, range(6), logits, labels)
    for observer, size in ((single, 24), (half, 12)):
        rows = ops.convert_to_numpy(observer.memory)
        assert rows.nbytes == size * (6 + 1)
    one, other = single.results(), half.results()
    for name in ("learnt", "forgotten", "count", "correctness"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("confidence", "variability", "margin"):
        np.testing.assert_allclose(
            getattr(other, name), getattr(one, name), rtol=1e-2, atol=2e-3
        )
    assert other.confidence.dtype == np.float32


@with_torch
def test_a_part_that_is_reset_begins_anew(rng):
    observer = prepared(3)
    logits = rng.normal(size=(3, 2, 4)).astype("float32")
    visit(observer, range(3), logits, [0, 1, 2])
    first = observer.results()
    observer.reset()
    assert observer.results().count.tolist() == [0, 0, 0]
    visit(observer, range(3), logits, [0, 1, 2])
    same(observer.results(), first)


def test_wrong_arguments_of_the_part():
    with pytest.raises(ValueError, match=r"`num_examples` must be .* >= 1"):
        ExampleDynamics(0)
    with pytest.raises(TypeError, match="`num_examples` must be an integer"):
        ExampleDynamics(2.5)
    with pytest.raises(ValueError, match="`dtype` must be one of 'float32'"):
        ExampleDynamics(3, dtype="int8")
    with pytest.raises(ValueError, match="`source` must be one of 'training'"):
        ExampleDynamics(3, source="clean")
    with pytest.raises(ValueError, match=r"must be the `observer` of a model"):
        ExampleDynamics(3).results()
    with pytest.raises(ValueError, match=r"`peers` must have two classes"):
        ExampleDynamics(3).prepare([None], 1)


# In training.


@pytest.mark.parametrize("eagerly", cases([False, True], [False]))
def test_a_training_keeps_what_its_steps_predict(data, eagerly):
    x, y = data
    model = model_of(ExampleDynamics(40), run_eagerly=eagerly)
    recorded, dynamics = Recorded(x), TrainingDynamics()
    # One batch an epoch: its predictions are those where the epoch begins.
    model.fit(
        x, y, batch_size=40, epochs=6, verbose=0, callbacks=[recorded, dynamics]
    )
    expected = naive(np.array(recorded.before), y)
    check(dynamics, expected)
    check(model.observer.results(), expected)
    assert expected["forgotten"].sum() > 0
    # An evaluation is no visit, and a further training goes on counting.
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    assert set(dynamics.count) == {6}
    model.fit(x, y, batch_size=40, verbose=0, callbacks=[dynamics])
    assert set(dynamics.count) == {7}


def test_passes_keep_what_is_predicted_after_each_epoch(data):
    x, y = data
    model = model_of(ExampleDynamics(40, "passes"), lambda: [mlp(), mlp(5)])
    recorded, dynamics = Recorded(x), TrainingDynamics(x, y, batch_size=16)
    model.fit(
        x, y, batch_size=8, epochs=5, verbose=0, callbacks=[recorded, dynamics]
    )
    check(dynamics, naive(np.array(recorded.after), y))
    assert not model.needs_index


@with_torch
def test_both_ways_agree_where_the_weights_rest(data):
    """An SGD of rate 0: each step and each pass predict the same."""
    x, y = data
    found = []
    for source in ("training", "passes"):
        model = model_of(
            ExampleDynamics(40, source), optimizer=keras.optimizers.SGD(0.0)
        )
        given = () if source == "training" else (x, y)
        dynamics = TrainingDynamics(*given)
        model.fit(
            x, y, batch_size=16, epochs=3, verbose=0, callbacks=[dynamics]
        )
        found.append({name: getattr(dynamics, name) for name in NAMES})
    check(dynamics, found[0], rtol=1e-5)


@pytest.mark.parametrize("form", ["one_hot", "column", "uint8", "bool"])
def test_labels_of_every_form_in_a_pass(data, form):
    x, y = data
    y = y % 2 if form == "bool" else y
    labels = {
        "one_hot": np.eye(4)[y],
        "column": y[:, None].tolist(),
        "uint8": y.astype("uint8"),
        "bool": y.astype(bool),
    }[form]
    model = model_of(ExampleDynamics(40, "passes"))
    dynamics = TrainingDynamics(x, labels)
    recorded = Recorded(x)
    model.fit(x, y, verbose=0, callbacks=[recorded, dynamics])
    check(dynamics, naive(np.array(recorded.after), y))


def test_examples_come_by_their_index_and_with_their_labels(rng):
    """Logits are the data, so that what is predicted of each is known."""
    logits = rng.normal(size=(10, 2, 4)).astype("float32")
    y, index = rng.integers(0, 4, size=10), rng.permutation(20)[:10]
    labelled = np.arange(10) % 3 > 0
    model = keras_smkd.PeerLearning(
        [linear(8), linear(8)], observer=ExampleDynamics(20)
    )
    for peer, kernel in zip(
        model.peers,
        np.split(np.eye(8, dtype="float32"), 2, axis=1),
        strict=True,
    ):
        peer.set_weights([kernel])
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    labels = {"label": y, "index": index, "labelled": labelled.astype("int32")}
    model.fit(logits.reshape(10, 8), labels, epochs=2, batch_size=4, verbose=0)
    seen = np.full((2, 20, 2, 4), np.nan)
    seen[:, index[labelled]] = logits[labelled]
    all_labels = np.zeros(20, int)
    all_labels[index] = y
    check(model.observer.results(), naive(seen, all_labels))


@with_torch
def test_the_training_is_the_same_with_and_without(data):
    x, y = data
    weights = []
    for observer in (None, ExampleDynamics(40), ExampleDynamics(40, "passes")):
        model = model_of(observer, lambda: [mlp(dropout=0.3), mlp()])
        passes = observer is not None and observer.source == "passes"
        callbacks = [TrainingDynamics(x, y)] if passes else []
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
        weights.append([w for peer in model.peers for w in peer.get_weights()])
    for other in weights[1:]:
        for one, two in zip(weights[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("source", ["training", "passes"])
@pytest.mark.parametrize("dtype", cases(["float32", "float16"], ["float16"]))
def test_a_resumed_training_ends_with_the_same_values(
    data, tmp_path, source, dtype
):
    x, y = data
    callbacks = [TrainingDynamics(*(() if source == "training" else (x, y)))]
    fit = {"batch_size": 16, "verbose": 0, "shuffle": False}
    fit["callbacks"] = callbacks
    whole = model_of(ExampleDynamics(40, source, dtype))
    whole.fit(x, y, epochs=5, **fit)
    expected = whole.observer.results()
    first = model_of(ExampleDynamics(40, source, dtype))
    first.fit(x, y, epochs=2, **fit)
    first.save(tmp_path / "model.keras")
    first.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.observer.get_config() == first.observer.get_config()
    same(loaded.observer.results(), first.observer.results())
    other = model_of(ExampleDynamics(40, source, dtype))
    other.load_weights(tmp_path / "model.weights.h5")
    for model in (loaded, other):
        model.fit(x, y, initial_epoch=2, epochs=5, **fit)
        same(model.observer.results(), expected)
    assert set(expected.count) == {5}


@with_torch
def test_a_backup_brings_them_back(data, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    x, y = data

    def train(*more):
        model = model_of(ExampleDynamics(40, "passes"))
        callbacks = [
            TrainingDynamics(x, y),
            *more,
            keras.callbacks.BackupAndRestore(tmp_path),
        ]
        model.fit(
            x,
            y,
            epochs=5,
            batch_size=16,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
        return model.observer.results()

    expected = train()
    with pytest.raises(KeyboardInterrupt):
        train(Stop())
    same(train(), expected)


def test_weights_of_a_model_without_are_refused(data, tmp_path):
    model = model_of(None)
    model.save_weights(tmp_path / "plain.weights.h5")
    with pytest.raises(ValueError, match=r"same peers and parts.*observer"):
        model_of(ExampleDynamics(40)).load_weights(
            tmp_path / "plain.weights.h5"
        )


def test_a_model_with_a_head_asks_its_peers_alone(data):
    x, y = data

    def net():
        return keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(5, name="maps"),
                keras.layers.Dense(4),
            ]
        )

    model = keras_smkd.PeerLearning(
        [net(), net()],
        head=keras_smkd.features.FeatureConcatenation("maps"),
        observer=ExampleDynamics(40),
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    expected = naive(logits_of(model, x)[None], y)
    model.fit(x, y, batch_size=40, verbose=0)
    check(model.observer.results(), expected)


@with_torch
def test_a_function_may_observe_and_changes_nothing(data):
    x, y = data
    seen = []

    def observer(batch):
        seen.append((batch.training, batch.knowledge is not None))

    losses = []
    for one in (observer, None):
        model = model_of(one, run_eagerly=True)
        logs = model.fit(x, y, batch_size=20, verbose=0, validation_data=(x, y))
        losses.append(logs.history["loss"])
    assert losses[0] == losses[1]
    assert (True, True) in seen and (False, True) in seen


@pytest.mark.parametrize("wrong", [0.5, "dynamics", ExampleDynamics])
def test_what_is_no_observer_is_refused(wrong):
    with pytest.raises(
        (TypeError, ValueError),
        match="`observer` must be ",
    ):
        keras_smkd.PeerLearning([linear()], observer=wrong)


def test_a_stream_without_an_index_is_refused(data):
    x, y = data

    class Stream(keras.utils.PyDataset):
        def __init__(self, labels):
            super().__init__()
            self.labels = labels

        def __len__(self):
            return 1

        def __getitem__(self, i):
            return x, self.labels

    model = model_of(ExampleDynamics(40))
    with pytest.raises(ValueError, match=r"`y` must be \{'label'.*'index'"):
        model.fit(Stream(y.astype("int32")), verbose=0)
    outside = {
        "label": y.astype("int32"),
        "index": np.arange(1, 41, dtype="int32"),
    }
    model = model_of(ExampleDynamics(40))
    with pytest.raises(ValueError, match=r"must be in \[0, 40\).*1 batches"):
        model.fit(Stream(outside), verbose=0, callbacks=[TrainingDynamics()])
    model = model_of(ExampleDynamics(39))
    with pytest.raises(ValueError, match=r"`y\['index'\]` must be in \[0, 39"):
        model.fit(x, y, verbose=0)


@with_torch
def test_wrong_arguments_of_the_callback(data):
    x, y = data
    with pytest.raises(ValueError, match=r"both.*Received: x only\."):
        TrainingDynamics(x)
    with pytest.raises(ValueError, match=r"both.*Received: labels only\."):
        TrainingDynamics(labels=y)
    with pytest.raises(ValueError, match=r"`batch_size` must be .* >= 1"):
        TrainingDynamics(x, y, batch_size=0)
    with pytest.raises(ValueError, match="`labels` must be class ids"):
        TrainingDynamics(x, y - 1)
    passes = ExampleDynamics(40, "passes")
    for observer, given, error, message in (
        (None, (), TypeError, "whose `observer` is an `ExampleDynamics`"),
        (passes, (), ValueError, "must have source='training' where `x` is"),
        (ExampleDynamics(40), (x, y), ValueError, "must have source='passes'"),
        (passes, (x[1:], y[1:]), ValueError, "39 labels with num_examples=40"),
        (passes, (x, y + 4), ValueError, r"`labels` .* in \[0, 4\)"),
        (passes, (x[1:], y), ValueError, "40 labels for 39 examples"),
    ):
        if observer is passes:
            observer = ExampleDynamics(40, "passes")
        with pytest.raises(error, match=message):
            model_of(observer).fit(
                x, y, verbose=0, callbacks=[TrainingDynamics(*given)]
            )
