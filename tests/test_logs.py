"""What is reported: each name once, with the value that belongs to it."""

import threading

import keras
import numpy as np
import pytest
from keras import ops
from peers import linear
from thrift import with_torch

import keras_smkd
from keras_smkd import metrics

BATCH = 8
CROSSENTROPY = "categorical_crossentropy"


@pytest.fixture
def data(rng):
    x = rng.normal(size=(20, 6)).astype("float32")
    return x, np.eye(4, dtype="float32")[rng.integers(0, 4, size=20)]


def model_of(compiled=None, weighted=None, **kwargs):
    kwargs = {"knowledge": "peers", "selection": "entropy", **kwargs}
    model = keras_smkd.PeerLearning([linear(), linear()], **kwargs)
    model.compile(
        "sgd", CROSSENTROPY, metrics=compiled, weighted_metrics=weighted
    )
    return model


def probabilities(model, x):
    """From the start of the logs' names to what the metrics look at."""
    each = model.predict(x, verbose=0, output="all")
    return {
        "": model.predict(x, verbose=0),
        **{f"{name}_": probs for name, probs in each.items()},
    }


def evaluate(model, x, y, **kwargs):
    return model.evaluate(
        x, y, batch_size=BATCH, verbose=0, return_dict=True, **kwargs
    )


def hits(y_true, y_pred):
    return (y_true.argmax(axis=1) == y_pred.argmax(axis=1)).astype("float64")


class ShareOfClass(keras.metrics.Mean):
    """Has no configuration of its `label`; a default hides that, or not."""

    def __init__(self, label, **kwargs):
        super().__init__(**kwargs)
        self.label = label

    def update_state(self, y_true, y_pred, sample_weight=None):
        predicted = ops.argmax(y_pred, axis=-1) == self.label
        super().update_state(ops.cast(predicted, "float32"))


class ShareOfClassByDefault(ShareOfClass):
    def __init__(self, label=0, **kwargs):
        super().__init__(label, **kwargs)


class Nested(keras.metrics.Metric):
    """Its state is in metrics and variables inside, found by a method."""

    def __init__(self, labels, name="nested"):
        super().__init__(name=name)
        self.shares = [ShareOfClass(label) for label in labels]
        self.counts = {"batches": [self.add_variable((), "zeros")]}
        self.count = self.add_one

    def add_one(self):
        self.counts["batches"][0].assign_add(1.0)

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.count()
        for share in self.shares:
            share.update_state(y_true, y_pred)

    def result(self):
        first, second = (share.result() for share in self.shares)
        return 100.0 * self.counts["batches"][0] + 10.0 * first + second


class TwoMeans(keras.metrics.Metric):
    """Its result is a dictionary."""

    def __init__(self, classes, name="two_means"):
        super().__init__(name=name)
        self.sums = {label: self.add_variable((), "zeros") for label in classes}

    def update_state(self, y_true, y_pred, sample_weight=None):
        for label, total in self.sums.items():
            total.assign_add(ops.sum(y_pred[:, label]))

    def result(self):
        return {
            f"sum_{k}": ops.convert_to_tensor(v) for k, v in self.sums.items()
        }


class WithLock(keras.metrics.Mean):
    """Can't be copied, and is made again only from a configuration."""

    def __init__(self, label=0, name="with_lock", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.label = label
        self.lock = threading.Lock()

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_pred[:, self.label])


class WithLockAndConfig(WithLock):
    def get_config(self):
        return {**super().get_config(), "label": self.label}


class Bound(keras.metrics.Mean):
    """Has a function that only knows the metric that it was made in."""

    def __init__(self, label, name="bound"):
        super().__init__(name=name)
        self.values = lambda y_pred: y_pred[:, label] + 0.0 * self.total


# Names and values in pairs.


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"selection": None},
        {"knowledge": None, "selection": None},
        {"supervised_weight": 0.0},
    ],
    ids=str,
)
def test_metrics_names_pair_with_the_list_of_evaluate(data, kwargs):
    x, y = data
    compiled = ["accuracy", "auc", TwoMeans((1, 3))]
    model = model_of(compiled, ["accuracy"], **kwargs)
    before = model.metrics_names
    values = model.evaluate(x, y, batch_size=BATCH, verbose=0)
    logs = evaluate(model, x, y)
    assert len(values) == len(model.metrics_names)
    paired = dict(zip(model.metrics_names, values, strict=True))
    assert paired == logs
    assert model.metrics_names == before
    history = model.fit(x, y, verbose=0, validation_data=(x, y)).history
    assert set(history) == {*logs, *(f"val_{name}" for name in logs)}
    assert model.metrics_names == before
    values = model.train_on_batch(x, y)
    assert len(values) == len(before)


def test_without_metrics_there_are_the_names_of_the_objective():
    model = model_of()
    assert model.metrics_names == [
        "loss",
        "supervised_loss",
        "distillation_loss",
        "selection_rate",
        "threshold",
    ]


def test_the_parts_of_the_objective_are_one_sum_and_one_count(data):
    model = model_of()
    shapes = [tuple(variable.shape) for variable in model.metrics_variables]
    assert shapes == [(), (), (4,), ()]  # The first two are the loss's.
    first = evaluate(model, *data)
    assert evaluate(model, *data) == first  # Reset in between.


# Names.


@pytest.mark.parametrize(
    "given, name",
    [
        ("auc", "auc"),
        ("AUC", "auc"),
        (keras.metrics.AUC, "auc"),
        ("Precision", "precision"),
        ("mse", "mse"),
        ("Accuracy", "accuracy"),
        ("acc", "acc"),
        (keras.metrics.MeanSquaredError, "mean_squared_error"),
        (lambda y_true, y_pred: y_pred[:, 0], "lambda"),
        (hits, "hits"),
    ],
)
def test_what_keras_would_number_has_the_plain_name_each_time(given, name):
    for _ in range(2):
        keras.metrics.AUC()  # Takes a number.
        model = model_of([given])
        assert model.metrics_names[-3:] == [
            name,
            f"peer_0_{name}",
            f"peer_1_{name}",
        ]


def test_metrics_by_their_strings_have_the_values_of_keras(data):
    x, y = data
    model = model_of(["auc", "Precision", "mse", "F1Score"])
    logs = evaluate(model, x, y)
    for prefix, probs in probabilities(model, x).items():
        for name, metric in {
            "auc": keras.metrics.AUC(),
            "precision": keras.metrics.Precision(),
            "mse": keras.metrics.MeanSquaredError(),
            "f1_score": keras.metrics.F1Score(),
        }.items():
            metric.update_state(y, probs)
            np.testing.assert_allclose(
                logs[prefix + name],
                ops.convert_to_numpy(metric.result()),
                rtol=1e-5,
                err_msg=prefix + name,
            )


def top2(name):
    return keras.metrics.TopKCategoricalAccuracy(2, name=name)


def same_twice():
    metric = top2("top2")
    return [metric, metric], None


@pytest.mark.parametrize(
    "compiled, weighted, name",
    [
        (["accuracy", "accuracy"], None, "accuracy"),
        (["AUC", "auc"], None, "auc"),
        (["accuracy", top2("accuracy")], None, "accuracy"),
        ([top2("accuracy"), top2("accuracy")], None, "accuracy"),
        (*same_twice(), "top2"),
        (None, ["accuracy", "accuracy"], "accuracy"),
        (["accuracy"], ["accuracy", "accuracy"], "weighted_accuracy"),
        (["accuracy", top2("peer_1_accuracy")], None, "peer_1_accuracy"),
        ([TwoMeans((0, 1)), TwoMeans((1, 2), "b")], None, "sum_1"),
        ([top2("loss")], None, "loss"),
        ([top2("threshold")], None, "threshold"),
        (None, [top2("supervised_loss")], "supervised_loss"),
        ([metrics.SelectionRate()], None, "selection_rate"),
    ],
)
def test_one_name_for_two_values_is_an_error(compiled, weighted, name):
    metric = ((compiled or []) + (weighted or []))[-1]
    with pytest.raises(ValueError, match="must have different names") as error:
        model_of(compiled, weighted)
    message = str(error.value)
    assert f"the name {name!r} for " in message
    assert f"for {metric!r}" in message


def test_a_name_of_the_model_that_it_does_not_use_is_free(data):
    x, y = data
    model = model_of([metrics.SelectionRate(threshold=0.8)], selection=None)
    logs = evaluate(model, x, y)
    for prefix, probs in probabilities(model, x).items():
        metric = metrics.SelectionRate(threshold=0.8)
        metric.update_state(None, probs)
        assert logs[f"{prefix}selection_rate"] == pytest.approx(
            float(metric.result())
        )


@pytest.mark.parametrize("given", [3, None, ["accuracy"], {"a": "accuracy"}])
def test_what_is_no_metric_is_an_error(given):
    with pytest.raises(ValueError, match="must be a list of strings, func"):
        model_of([given])
    with pytest.raises(ValueError, match="`weighted_metrics` must be a list"):
        model_of(None, [given])


# Weighted metrics of the same name.


def one_object():
    metric = keras.metrics.CategoricalAccuracy(name="accuracy")
    return metric, metric


def two_objects():
    return one_object()[0], one_object()[0]


@pytest.mark.parametrize(
    "pair",
    [lambda: ("accuracy", "accuracy"), one_object, two_objects],
    ids=["strings", "one object", "two objects"],
)
def test_a_weighted_metric_of_the_same_name_is_reported_too(data, pair):
    x, y = data
    unweighted, weighted = pair()
    model = model_of([unweighted], [weighted])
    weight = np.arange(len(y)) % 3
    logs = evaluate(model, x, y, sample_weight=weight)
    for prefix, probs in probabilities(model, x).items():
        hit = hits(y, probs)
        assert logs[f"{prefix}accuracy"] == pytest.approx(hit.mean())
        assert logs[f"{prefix}weighted_accuracy"] == pytest.approx(
            (weight * hit).sum() / weight.sum()
        )
    # Compiled again, it is called the same.
    names = model.metrics_names
    model.compile(
        "sgd",
        CROSSENTROPY,
        metrics=[unweighted],
        weighted_metrics=[weighted],
    )
    assert model.metrics_names == names


def test_weighted_names_are_those_of_plain_keras(data):
    x, y = data
    compiled = {
        "metrics": ["accuracy", "mse", top2("top2")],
        "weighted_metrics": ["accuracy", top2("top2"), "auc"],
    }
    plain = linear()
    plain.compile("sgd", CROSSENTROPY, **compiled)
    expected = plain.evaluate(x, y, verbose=0, return_dict=True)
    model = model_of(compiled["metrics"], compiled["weighted_metrics"])
    own = {"supervised_loss", "distillation_loss", "selection_rate"}
    logs = evaluate(model, x, y)
    ensemble = {name for name in logs if not name.startswith("peer_")}
    assert ensemble - own - {"threshold"} == set(expected)


def test_dictionaries_of_results_are_reported_for_each_output(data):
    x, y = data
    model = model_of([TwoMeans((1, 3))], [TwoMeans((3, 0))])
    logs = evaluate(model, x, y)
    for prefix, probs in probabilities(model, x).items():
        for name, label in {
            "sum_1": 1,
            "sum_3": 3,
            "weighted_sum_3": 3,
            "weighted_sum_0": 0,
        }.items():
            np.testing.assert_allclose(
                logs[prefix + name], probs[:, label].sum(), rtol=1e-5
            )


# Objects.


def test_the_ensemble_keeps_the_object_and_its_name(data):
    x, y = data
    first, second = two_objects()
    model = model_of([first], [second])
    weight = np.arange(len(y)) % 3
    logs = evaluate(model, x, y, sample_weight=weight)
    assert first in model.metrics
    assert first.name == second.name == "accuracy"
    assert float(first.result()) == logs["accuracy"]
    assert float(second.result()) == logs["weighted_accuracy"]


def test_metrics_inside_are_reset_with_the_object(data):
    x, y = data
    metric = Nested((1, 2))
    metric.update_state(y[:4], y[:4])  # Is of nobody's.
    model = model_of([metric])
    logs = model.test_on_batch(x, y, return_dict=True)
    assert [logs[f"peer_{i}_nested"] // 100 for i in range(2)] == [1, 1]
    for _ in range(2):
        logs = evaluate(model, x, y)
        for name in ("nested", "peer_0_nested", "peer_1_nested"):
            assert logs[name] // 100 == 3


def unregistered(label):
    def share(y_true, y_pred):
        return ops.cast(ops.argmax(y_pred, axis=-1) == label, "float32")

    return share


def wrapped(function):
    return keras.metrics.MeanMetricWrapper(function, name="share")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ShareOfClass(2, name="share"),
        lambda: ShareOfClassByDefault(2, name="share"),
        lambda: wrapped(unregistered(2)),
        lambda: wrapped(lambda y_true, y_pred: unregistered(2)(y_true, y_pred)),
        lambda: unregistered(2),
    ],
    ids=["no config", "half a config", "function", "lambda", "bare function"],
)
def test_metrics_without_a_configuration_are_kept_for_each_peer(data, make):
    x, y = data
    model = model_of([make()])
    for _ in range(2):
        logs = evaluate(model, x, y)
        for prefix, probs in probabilities(model, x).items():
            share = (probs.argmax(axis=1) == 2).mean()
            assert logs[f"{prefix}share"] == pytest.approx(share)
        model.fit(x, y, verbose=0)


def test_metrics_of_metrics_are_kept_for_each_peer(data):
    x, y = data
    model = model_of([Nested((1, 2))])
    logs = evaluate(model, x, y)
    for prefix, probs in probabilities(model, x).items():
        first, second = (
            (probs.argmax(axis=1) == label).mean() for label in (1, 2)
        )
        assert logs[f"{prefix}nested"] == pytest.approx(
            100 * 3 + 10 * first + second
        )
    # All have their own state: of two shares and of a count, three times.
    variables = model.metrics_variables
    assert len({id(variable) for variable in variables}) == len(variables)
    assert len(variables) == 4 + 3 * 5


def test_metrics_that_only_a_configuration_makes_again_are_kept(data):
    x, y = data
    model = model_of([WithLockAndConfig(3)])
    logs = evaluate(model, x, y)
    for prefix, probs in probabilities(model, x).items():
        np.testing.assert_allclose(
            logs[f"{prefix}with_lock"], probs[:, 3].mean(), rtol=1e-5
        )


def test_metrics_that_cannot_be_made_again_are_an_error():
    with pytest.raises(ValueError, match=r"can be copied.*`get_config`"):
        model_of([Bound(2)])
    with pytest.raises(ValueError, match="`weighted_metrics` must be metrics"):
        model_of(None, [Bound(2)])


@with_torch
def test_copies_of_the_metrics_of_keras_have_the_values_of_keras(data):
    x, y = data

    def made():
        return [
            keras.metrics.CategoricalAccuracy(name="a"),
            keras.metrics.CategoricalCrossentropy(name="b"),
            keras.metrics.TopKCategoricalAccuracy(3, name="c"),
            keras.metrics.AUC(
                num_thresholds=7, multi_label=True, num_labels=4, name="d"
            ),
            keras.metrics.AUC(curve="PR", name="e"),
            keras.metrics.F1Score(average="macro", threshold=0.4, name="f"),
            keras.metrics.Recall(thresholds=0.3, class_id=1, name="g"),
            keras.metrics.PrecisionAtRecall(0.5, name="h"),
            keras.metrics.R2Score(name="j"),
            keras.metrics.CosineSimilarity(name="k"),
            keras.metrics.RootMeanSquaredError(name="l"),
            metrics.ExpectedCalibrationError(5, name="m"),
            metrics.SelectionRate(threshold=0.3, name="n"),
        ]

    model = model_of(made())
    logs = evaluate(model, x, y)
    for prefix, probs in probabilities(model, x).items():
        for metric in made():
            metric.update_state(y, probs)
            np.testing.assert_allclose(
                logs[prefix + metric.name],
                ops.convert_to_numpy(metric.result()),
                rtol=2e-5,
                atol=1e-6,
                err_msg=prefix + type(metric).__name__,
            )


# Files.


def test_a_saved_model_reports_the_same(data, tmp_path):
    x, y = data
    model = model_of(
        ["auc", top2("top2"), metrics.SelectionRate(name="confident")],
        ["AUC", top2("top2")],
    )
    model.fit(x, y, verbose=0)
    logs = evaluate(model, x, y)
    assert {"weighted_auc", "peer_1_weighted_top2", "peer_0_confident"} < set(
        logs
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.metrics_names == model.metrics_names
    again = evaluate(loaded, x, y)
    assert again.keys() == logs.keys()
    for name, value in logs.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-6, err_msg=name)
