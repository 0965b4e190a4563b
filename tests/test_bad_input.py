"""Wrong arguments end in errors that name them, before training begins."""

import keras
import numpy as np
import pytest
from peers import linear
from peers import mlp

import keras_smkd
from keras_smkd import callbacks

SPARSE = "sparse_categorical_crossentropy"
BACKEND = keras.backend.backend()


def smkd(peers=None, **kwargs):
    return keras_smkd.SelectiveMutualDistillation(
        peers or [linear(), linear()], **kwargs
    )


def compiled(loss=SPARSE, peers=None, compile_args=None, **kwargs):
    model = smkd(peers, **kwargs)
    model.compile("sgd", loss, **(compile_args or {}))
    return model


@pytest.fixture
def data(rng):
    x = rng.normal(size=(8, 6)).astype("float32")
    return x, rng.integers(0, 4, size=8)


def one_peer():
    return [linear()]


def the_same_twice():
    peer = linear()
    return [peer, linear(), peer]


def two_outputs():
    inputs = keras.Input((6,))
    dense = keras.layers.Dense(4)(inputs)
    return keras.Model(inputs, [dense, dense])


def images():
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Dense(4)])


@pytest.mark.parametrize(
    ("peers", "error", "message"),
    [
        (one_peer, ValueError, "`peers` must hold two models or more.*1 of"),
        (list, ValueError, "`peers` must hold two models or more.*0 of"),
        (the_same_twice, ValueError, "`peers` must be different models"),
        (
            lambda: [linear(classes=4), linear(classes=5)],
            ValueError,
            "`peers` must have the same number of classes",
        ),
        (
            lambda: [linear(features=6), linear(features=7)],
            ValueError,
            r"`peers` must take the same inputs.*\(None, 7\) for peers\[1\]",
        ),
        (
            lambda: [linear(classes=1), linear(classes=1)],
            ValueError,
            "with two classes or more",
        ),
        (
            lambda: [two_outputs(), linear()],
            ValueError,
            r"one output of shape \(batch, classes\)",
        ),
        (
            lambda: [images(), images()],
            ValueError,
            r"one output of shape \(batch, classes\)",
        ),
        (
            lambda: [linear(), "resnet"],
            TypeError,
            r"`peers` must be a list of `keras.Model`s.*peers\[1\]='resnet'",
        ),
        (
            lambda: [linear(), keras.layers.Dense(4)],
            TypeError,
            "`peers` must be a list of `keras.Model`s",
        ),
        (linear, TypeError, "`peers` must be a list"),
    ],
)
def test_peers_that_do_not_fit(peers, error, message):
    with pytest.raises(error, match=message):
        keras_smkd.SelectiveMutualDistillation(peers())


def test_unbuilt_peers_are_checked_with_the_first_batch(data):
    def unbuilt(classes):
        return keras.Sequential([keras.layers.Dense(classes)])

    model = compiled(peers=[unbuilt(4), unbuilt(5)])
    with pytest.raises(ValueError, match="the same number of classes"):
        model.fit(*data, verbose=0)
    compiled(peers=[unbuilt(4), unbuilt(4)]).fit(*data, verbose=0)


def test_subclassed_peers_are_checked_with_the_first_batch(data):
    class Subclassed(keras.Model):
        def __init__(self, classes):
            super().__init__()
            self.dense = keras.layers.Dense(classes)

        def call(self, inputs):
            return self.dense(inputs)

    model = compiled(peers=[Subclassed(4), Subclassed(5)])
    with pytest.raises(ValueError, match="the same number of classes"):
        model.fit(*data, verbose=0)
    model = compiled(peers=[Subclassed(4), Subclassed(4)])
    model.fit(*data, verbose=0)
    assert model.num_classes == 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"distillation_weight": -1}, ValueError, "`distillation_weight` must"),
        ({"supervised_weight": -0.1}, ValueError, "`supervised_weight` must"),
        ({"supervised_weight": np.nan}, ValueError, "supervised_weight=nan"),
        ({"temperature": 0}, ValueError, "`temperature` must be .* > 0"),
        ({"temperature": "hot"}, TypeError, "`temperature` must be a number"),
        ({"from_logits": "yes"}, TypeError, "`from_logits` must be True or"),
        ({"target": "prose"}, ValueError, "`target` must be one of 'hard_"),
        ({"selection": 0.5}, TypeError, "`selection` must be a callable"),
        ({"total_steps": 0}, ValueError, "`total_steps` must be an integer"),
        ({"total_steps": 1.5}, TypeError, "`total_steps` must be an integer"),
    ],
)
def test_wrong_arguments_of_the_model(arguments, error, message):
    with pytest.raises(error, match=message):
        smkd(**arguments)


@pytest.mark.parametrize("value", [np.nan, -0.1, np.inf])
def test_thresholds_are_finite_and_not_negative(value):
    with pytest.raises(ValueError, match=r"`threshold` must be .* >= 0"):
        smkd().threshold = value
    with pytest.raises(ValueError, match=r"`threshold` must be .* >= 0"):
        callbacks.StaticThreshold(value)
    with pytest.raises(ValueError, match=r"`scale` must be .* >= 0"):
        callbacks.ProgressiveThreshold(scale=value)


def sparse(**kwargs):
    return keras.losses.SparseCategoricalCrossentropy(**kwargs)


@pytest.mark.parametrize(
    ("loss", "from_logits", "message"),
    [
        (sparse(), True, "`from_logits` of the model and of the loss"),
        (sparse(from_logits=True), False, "`from_logits` of the model and"),
        ("categorical_hinge", True, "takes probabilities, but `from_logits`"),
        (
            keras.losses.CategoricalGeneralizedCrossEntropy(),
            True,
            "takes probabilities, but `from_logits`",
        ),
        (sparse(from_logits=True, reduction="sum"), True, "reduction='sum'"),
        (
            sparse(from_logits=True, ignore_class=3),
            True,
            "must not ignore a class.*ignore_class=3",
        ),
        (None, True, "`loss` must be one loss for all peers"),
        ([SPARSE, SPARSE], True, "`loss` must be one loss for all peers"),
        ("no such loss", True, "Could not interpret loss"),
    ],
)
def test_losses_that_do_not_fit(loss, from_logits, message):
    with pytest.raises(ValueError, match=message):
        compiled(loss, from_logits=from_logits)


def test_loss_must_take_what_the_target_gives():
    target = keras_smkd.targets.ProSelfLC()
    with pytest.raises(ValueError, match="`loss` must take distributions"):
        compiled(
            keras.losses.CategoricalGeneralizedCrossEntropy(),
            peers=[mlp(activation="softmax"), mlp(activation="softmax")],
            from_logits=False,
            target=target,
        )
    compiled(target=target)


def test_loss_must_give_one_value_per_example(data):
    model = compiled(lambda y_true, y_pred: keras.ops.mean(y_pred))
    with pytest.raises(ValueError, match="one value per example"):
        model.evaluate(*data, verbose=0)


def test_lists_of_optimizers_that_do_not_fit():
    adam = keras.optimizers.Adam()
    cases = [
        (["adam"], "1 optimizers for 2 peers"),
        (["adam", "sgd", "sgd"], "3 optimizers for 2 peers"),
        ([adam, adam], "one object twice"),
        (
            [adam, keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())],
            "list of plain optimizers",
        ),
        (
            [adam, keras.optimizers.SGD(gradient_accumulation_steps=2)],
            "the same gradient_accumulation_steps",
        ),
    ]
    for optimizer, message in cases:
        with pytest.raises(ValueError, match=message):
            smkd().compile(optimizer, SPARSE)


def test_metrics_must_be_a_list():
    with pytest.raises(ValueError, match="`metrics` must be a list"):
        compiled(compile_args={"metrics": {"peer_0": "accuracy"}})
    with pytest.raises(ValueError, match="`weighted_metrics` must be a list"):
        compiled(compile_args={"weighted_metrics": "accuracy"})


@pytest.mark.skipif(BACKEND != "torch", reason="only torch refuses it")
def test_torch_runs_one_step_per_call():
    with pytest.raises(ValueError, match="`steps_per_execution` must be 1 on"):
        compiled(compile_args={"steps_per_execution": 4})


def test_steps_per_execution_is_a_positive_integer():
    with pytest.raises(ValueError, match="`steps_per_execution` must be an"):
        compiled(compile_args={"steps_per_execution": 0})


@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 4, 0], r"whole numbers in \[0, 4\).*from 0 to 4"),
        ([0, -1, 1, 0], r"whole numbers in \[0, 4\).*from -1 to 1"),
        ([0.0, 0.5, 1.0, 0.0], r"whole numbers in \[0, 4\).*y\[1\]=0\.5"),
        (np.zeros((4, 3)), r"or distributions, of shape \(examples, 4\)"),
        (np.zeros((4, 4, 1)), r"Received: y of shape \(4, 4, 1\)"),
        (np.ones((4, 4)), "row 0 of y sums to 4"),
        ({"labels": [0, 1, 2, 3]}, "must have the keys 'label'"),
    ],
)
def test_labels_that_cannot_be(data, method, labels, message):
    x, _ = data
    if not isinstance(labels, dict):
        labels = np.asarray(labels)
    model = compiled()
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(x[:4], labels)
    assert model.step == 0


def test_validation_labels_are_looked_at_before_training(data):
    x, y = data
    model = compiled()
    with pytest.raises(ValueError, match=r"whole numbers in \[0, 4\)"):
        model.fit(x, y, validation_data=(x, y + 1), verbose=0)
    assert model.step == 0


def test_labels_in_the_form_of_another_loss(data):
    x, y = data
    one_hot = np.eye(4, dtype="float32")[y]
    with pytest.raises(ValueError, match="Labels must be integers of shape"):
        compiled().evaluate(x, one_hot, verbose=0)
    with pytest.raises(ValueError, match=r"Labels must have shape \(batch, 4"):
        compiled("categorical_crossentropy").evaluate(x, y, verbose=0)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_progress_of_data_without_length_must_be_given(data):
    x, y = data

    def batches():
        while True:
            yield x, y

    fit = {"epochs": 1, "shuffle": False, "verbose": 0}
    schedule = callbacks.ProgressiveThreshold()
    target = keras_smkd.targets.ProSelfLC()

    def one_epoch():
        yield x, y

    with pytest.raises(ValueError, match="`total_steps` must be known"):
        compiled().fit(one_epoch(), callbacks=[schedule], **fit)
    with pytest.raises(ValueError, match="`total_steps` must be known"):
        compiled(target=target).fit(one_epoch(), **fit)
    with pytest.raises(ValueError, match="`total_steps` must be known"):
        compiled(target=target).train_on_batch(x, y)
    static = [callbacks.StaticThreshold(0.5)]
    compiled().fit(one_epoch(), callbacks=static, **fit)
    compiled(total_steps=3).fit(one_epoch(), callbacks=[schedule], **fit)
    compiled().fit(batches(), steps_per_epoch=2, callbacks=[schedule], **fit)
    model = compiled(target=target)
    model.total_steps = 5
    model.train_on_batch(x, y)


def test_schedules_that_do_not_fit(data):
    class NotANumber(callbacks.ThresholdSchedule):
        def value(self, progress):
            return 0.0 * progress + np.nan

    two = [callbacks.StaticThreshold(0.5), callbacks.ProgressiveThreshold()]
    with pytest.raises(ValueError, match="one threshold schedule at the most"):
        compiled().fit(*data, callbacks=two, verbose=0)
    with pytest.raises(ValueError, match="must give finite thresholds >= 0"):
        compiled().fit(*data, callbacks=[NotANumber()], verbose=0)
    with pytest.raises(TypeError, match="`schedule` must be given"):
        compiled().fit(
            *data, callbacks=[callbacks.ThresholdSchedule()], verbose=0
        )
    plain = mlp()
    plain.compile("sgd", sparse(from_logits=True))
    with pytest.raises(TypeError, match="A threshold schedule needs a"):
        plain.fit(*data, callbacks=two[:1], verbose=0)


def test_a_gate_needs_a_threshold_that_selects(data):
    everything = keras_smkd.selection.ConfidentKnowledge(threshold=1.5)
    with pytest.raises(
        ValueError, match=r"`gate` must be None where .*threshold=1\.5"
    ):
        smkd(selection=everything)
    smkd(selection=everything, gate=None).threshold = 2.0
    model = compiled()
    with pytest.raises(ValueError, match=r"`gate` must be None where "):
        model.threshold = 1.5
    assert model.threshold == 0.5
    x, y = data
    with pytest.raises(ValueError, match=r"`gate` must be None where "):
        model.fit(x, y, verbose=0, callbacks=[callbacks.StaticThreshold(1.001)])
    # Not throughout.
    loosening = [callbacks.ProgressiveThreshold(1.0)]
    model.fit(x, y, verbose=0, callbacks=loosening)


def test_predict_knows_two_outputs(data):
    with pytest.raises(ValueError, match="`output` must be one of 'ensemble'"):
        smkd().predict(data[0], output="best")


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_an_error_in_the_first_batch_leaves_the_model_as_it_was(data, method):
    x, y = data
    model = compiled()
    before = [peer.get_weights()[0] for peer in model.peers]
    wrong = (x[:, :3],) if method == "predict" else (x, np.eye(4)[y][:, :3])

    def batches():
        yield wrong

    options = {"fit": {"steps_per_epoch": 1, "shuffle": False}}
    with pytest.raises(Exception):  # noqa: B017
        getattr(model, method)(batches(), verbose=0, **options.get(method, {}))
    for peer, expected in zip(model.peers, before, strict=True):
        np.testing.assert_array_equal(peer.get_weights()[0], expected)
    assert model.step == 0
    model.train_on_batch(x, y)
