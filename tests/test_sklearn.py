"""The estimator of scikit-learn: what it computes, and how it fits in."""

import copy
import importlib.util
import pathlib
import pickle
import random
import sys

import joblib
import keras
import numpy as np
import pandas as pd
import polars as pl
import pytest
from keras import ops
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from thrift import IS_THRIFTY
from thrift import cases
from thrift import with_torch

import keras_smkd
from keras_smkd import callbacks
from keras_smkd import knowledge
from keras_smkd import targets
from keras_smkd.sklearn import SelectiveMutualClassifier
from keras_smkd.sklearn import randomness
from keras_smkd.sklearn.batches import Batches
from keras_smkd.sklearn.peers import built

BACKEND = keras.backend.backend()


def small(input_shape, num_classes):
    """A peer that learns fast."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(num_classes),
        ]
    )


def with_dropout(input_shape, num_classes):
    """A peer that draws in training."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(num_classes),
        ]
    )


def of_images(input_shape, num_classes):
    """A peer that convolves."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Conv2D(2, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(num_classes),
        ]
    )


def plain_smkd(peers, num_examples):
    """A method with settings of its own, none of them a default."""
    return keras_smkd.SelectiveMutualDistillation(
        peers, gate=None, distillation_weight=2.0, temperature=3.0
    )


def temporal_ensembling(peers, num_examples):
    """A method with a memory of every example."""
    return keras_smkd.PeerLearning(
        peers, target=targets.TemporalEnsembling(num_examples)
    )


def classifier(build_peer=small, **kwargs):
    defaults = {"epochs": 2, "batch_size": 100, "learning_rate": 0.05}
    return SelectiveMutualClassifier(
        build_peer, **{**defaults, "random_state": 0, **kwargs}
    )


@pytest.fixture(scope="module")
def blobs():
    """`(60, 4)` of three classes, which any classifier tells apart."""
    return make_blobs(
        60, n_features=4, centers=3, cluster_std=0.5, random_state=1
    )


@pytest.fixture(scope="module")
def probs_of_ids(blobs):
    """What comes of class ids, however they are called."""
    x, ids = blobs
    return classifier(epochs=1).fit(x, ids).predict_proba(x)


# scikit-learn's own checks.

EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": (
        "it compares to 1e-7, and a sum in float32 over repeated examples is "
        "rounded differently; below, to 1e-6, it holds"
    ),
}
# Each takes seconds where steps are compiled: two minutes or more in all.
ON_EVERY_BACKEND = {
    "check_dict_unchanged",
    "check_estimators_unfitted",
    "check_n_features_in",
    "check_readonly_memmap_input",
}


CHECKS = parametrize_with_checks(
    [
        SelectiveMutualClassifier(
            small, epochs=15, batch_size=1000, learning_rate=0.05
        )
    ],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
)


# The names that scikit-learn gives have the function's address in them, and
# differ between processes.
@pytest.mark.parametrize(
    *CHECKS.args,
    ids=lambda value: getattr(
        getattr(value, "func", value), "__name__", "classifier"
    ),
)
def test_what_scikit_learn_checks(estimator, check):
    name = getattr(check, "func", check).__name__
    if IS_THRIFTY and name not in ON_EVERY_BACKEND:
        pytest.skip("compiles for seconds: all checks run on torch")
    check(estimator)


# What it computes.


def test_it_predicts_the_mean_of_the_peers_probabilities(blobs):
    x, y = blobs
    fitted = classifier(num_peers=3).fit(x, y)
    each = []
    for peer in fitted.model_.peers:
        first, bias, second, shift = (np.asarray(w) for w in peer.get_weights())
        logits = np.maximum(x @ first + bias, 0) @ second + shift
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        each.append(powers / powers.sum(axis=1, keepdims=True))
    assert len(each) == 3
    assert np.abs(each[0] - each[1]).max() > 0.01
    expected = np.mean(each, axis=0)
    found = fitted.predict_proba(x)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(
        fitted.predict(x), fitted.classes_[expected.argmax(axis=1)]
    )
    assert fitted.score(x, y) == np.mean(fitted.predict(x) == y)


def test_it_trains_what_the_model_does_by_hand(blobs):
    x, y = blobs
    weights = np.linspace(0.0, 2.0, 60)
    fitted = classifier(
        epochs=3,
        batch_size=25,
        method=plain_smkd,
        callbacks=[callbacks.StaticThreshold(0.7)],
    ).fit(x, y, sample_weight=weights)

    seed = np.random.RandomState(0).randint(2**31 - 1)
    with randomness.seeded(seed):
        model = plain_smkd(built(small, 2, x.astype("float32"), 3), 59)
    model.total_steps = 9
    model.compile(
        keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy"
    )
    model.threshold = 0.7
    x, y, weights = x[1:], y[1:], weights[1:] / weights[1:].mean()
    for epoch in range(3):
        order = np.random.default_rng([seed, epoch]).permutation(59)
        for places in np.split(order, [25, 50]):
            model.train_on_batch(
                x[places].astype("float32"),
                y[places].astype("int32"),
                weights[places].astype("float32"),
            )
    assert fitted.model_.step == model.step == 9
    for found, expected in zip(
        fitted.model_.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@with_torch
def test_by_default_it_is_the_recipe_of_readme(blobs):
    made = SelectiveMutualClassifier()
    assert (made.epochs, made.batch_size, made.learning_rate) == (60, 64, 0.001)
    weights = np.ones(60)
    weights[:10] = 0.0
    fitted = made.set_params(epochs=4).fit(*blobs, sample_weight=weights)
    model = fitted.model_
    # Of those that are trained on.
    for part, expected in (
        (model.target, targets.PosteriorLabels(50)),
        (
            model.knowledge,
            knowledge.PastPredictions(50, momentum=0.9, routes="others"),
        ),
    ):
        assert type(part) is type(expected)
        assert part.get_config() == expected.get_config()
    assert [layer.units for layer in model.peers[0].layers] == [64, 64, 3]
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert int(ops.convert_to_numpy(model.target.seen)) == 200


@with_torch
def test_the_loss_is_that_which_is_asked_for(blobs):
    loss = keras_smkd.losses.GeneralizedCrossEntropy(from_logits=True)
    model = classifier(loss=loss, epochs=1).fit(*blobs).model_
    assert isinstance(model.loss, keras_smkd.losses.GeneralizedCrossEntropy)
    assert model.loss is not loss


@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [("sgd", keras.optimizers.SGD), (keras.optimizers.AdamW,) * 2],
)
@with_torch
def test_the_optimizer_has_the_learning_rate(blobs, optimizer, kind):
    fitted = classifier(optimizer=optimizer, learning_rate=0.25).fit(*blobs)
    made = fitted.model_.optimizer
    assert isinstance(made, kind)
    assert float(ops.convert_to_numpy(made.learning_rate)) == 0.25


@with_torch
def test_the_learning_rate_may_be_a_schedule(blobs):
    halving = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    fitted = classifier(learning_rate=halving).fit(*blobs)
    rate = ops.convert_to_numpy(fitted.model_.optimizer.learning_rate)
    assert float(rate) == 0.125


# Labels of every kind.

NAMES = np.array(["cat", "dog", "owl"])


@pytest.mark.parametrize(
    ("make", "classes"),
    [
        (lambda ids: NAMES[ids], NAMES),
        (lambda ids: NAMES[ids].tolist(), NAMES),
        (lambda ids: NAMES[ids].astype(object), NAMES.astype(object)),
        (lambda ids: np.array([-7, 3, 1000])[ids], np.array([-7, 3, 1000])),
        (lambda ids: ids.astype("float64"), np.array([0.0, 1.0, 2.0])),
        (lambda ids: ids.astype(object), np.array([0, 1, 2])),
        (lambda ids: pd.Series(NAMES[ids], index=ids), NAMES),
        (lambda ids: pd.Series(pd.Categorical(NAMES[ids])), NAMES),
        (lambda ids: pd.Series(ids + 5, dtype="Int64"), np.array([5, 6, 7])),
        (lambda ids: pd.Series(NAMES[ids], dtype="string"), NAMES),
        (lambda ids: pl.Series(NAMES[ids]), NAMES),
    ],
)
@with_torch
def test_labels_are_of_any_kind(blobs, probs_of_ids, make, classes):
    x, ids = blobs
    fitted = classifier(epochs=1).fit(x, make(ids))
    assert fitted.classes_.tolist() == classes.tolist()
    found = fitted.predict(x)
    assert found.dtype == fitted.classes_.dtype
    assert fitted.classes_.dtype.kind in (classes.dtype.kind, "O", "T")
    # The labels' names change nothing else.
    np.testing.assert_array_equal(fitted.predict_proba(x), probs_of_ids)


@pytest.mark.parametrize("kind", ["bool", object])
@with_torch
def test_labels_may_be_booleans(blobs, kind):
    x, ids = blobs
    labels = (ids == 1).astype(kind)
    fitted = classifier(epochs=10).fit(x, labels)
    assert fitted.classes_.dtype == fitted.predict(x).dtype == bool
    assert fitted.classes_.tolist() == [False, True]
    assert np.mean(fitted.predict(x) == labels) > 0.9


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (["a", None] * 30, ValueError, r"label for each.*Received: y\[1\]=No"),
        (["a", pd.NA] * 30, ValueError, r"label for each.*: y\[1\]=<NA>"),
        (
            np.array(["a", np.nan] * 30, object),
            ValueError,
            r"label for each example. Received: y\[1\]=nan",
        ),
        (
            np.array(["a", 1] * 30, object),
            TypeError,
            "`y` must be labels of one kind.*of types int, str",
        ),
        ([[0], [1, 2]] * 30, ValueError, "`y` must be of shape.*no array"),
        (["one"] * 60, ValueError, "two classes or more.*one class, 'one'"),
        ([0, 1] * 29, ValueError, "inconsistent numbers of samples"),
        (np.eye(3)[[0, 1, 2] * 20], ValueError, "y should be a 1d array"),
        (np.linspace(0, 1, 60), ValueError, "Unknown label type: continuous"),
    ],
)
def test_labels_that_are_none(blobs, labels, error, message):
    with pytest.raises(error, match=message):
        classifier().fit(blobs[0], labels)


# Weights of examples.


@pytest.mark.parametrize("batch_size", cases([8, 100], [8]))
def test_weight_zero_is_leaving_out(blobs, batch_size):
    x, y = blobs
    kept = np.arange(60) % 3 > 0
    weighted = classifier(batch_size=batch_size).fit(
        x, y, sample_weight=0.5 * kept
    )
    left = classifier(batch_size=batch_size).fit(x[kept], y[kept])
    np.testing.assert_allclose(
        weighted.predict_proba(x), left.predict_proba(x), rtol=0, atol=1e-6
    )
    other = classifier(batch_size=batch_size).fit(x, y)
    assert np.abs(left.predict_proba(x) - other.predict_proba(x)).max() > 1e-4


@with_torch
def test_a_whole_weight_is_as_many_examples(blobs):
    x, y = blobs
    weights = np.random.default_rng(3).integers(0, 5, 60)
    weighted, repeated = (
        # By the gradient itself: Adam would undo a factor.
        classifier(optimizer="sgd", batch_size=1000, epochs=5).fit(*given)
        for given in (
            (x, y, pd.Series(weights)),
            (x.repeat(weights, axis=0), y.repeat(weights)),
        )
    )
    np.testing.assert_allclose(
        weighted.predict_proba(x), repeated.predict_proba(x), atol=1e-6
    )
    np.testing.assert_allclose(
        weighted.history_["loss"], repeated.history_["loss"], rtol=1e-5
    )
    # The ratios alone count.
    scaled = classifier(optimizer="sgd", batch_size=1000, epochs=5)
    scaled.fit(x, y, sample_weight=list(weights * 1e-3))
    np.testing.assert_allclose(
        weighted.predict_proba(x), scaled.predict_proba(x), atol=1e-6
    )
    plain = classifier(optimizer="sgd", batch_size=1000, epochs=5).fit(x, y)
    assert np.abs(plain.predict_proba(x) - scaled.predict_proba(x)).max() > 1e-4


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (np.ones(59), ValueError, r"shape=\(59,\) for 60 examples"),
        (np.ones((60, 1)), ValueError, r"shape=\(60, 1\) for 60 examples"),
        (2.0, ValueError, r"one weight for each example. Received: shape=\(\)"),
        (-np.ones(60), ValueError, r">= 0. Received: sample_weight\[0\]=-1.0"),
        (np.full(60, np.nan), ValueError, r"finite.*sample_weight\[0\]=nan"),
        (np.full(60, np.inf), ValueError, r"finite.*sample_weight\[0\]=inf"),
        (["many"] * 60, TypeError, "`sample_weight` must be numbers"),
        (np.zeros(60), ValueError, "zero for all classes but 0"),
        (np.eye(60)[0], ValueError, "zero for all classes but 1"),
    ],
)
def test_weights_that_are_none(blobs, weights, error, message):
    with pytest.raises(error, match=message):
        classifier().fit(*blobs, sample_weight=weights)


# Seeds.


def states():
    """The states of the generators that can be read."""
    found = [random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002
    if BACKEND == "torch":
        import torch

        found.append(torch.random.get_rng_state().tolist())
    return found


def test_a_seed_gives_the_same_classifier_and_leaves_no_trace(blobs):
    x, y = blobs

    def probs(random_state):
        made = classifier(with_dropout, batch_size=20)
        return made.set_params(random_state=random_state).fit(x, y)

    keras.utils.set_random_seed(1)
    before = states()
    first = probs(5)
    assert states() == before
    keras.utils.set_random_seed(2)
    first, again, other = (
        made.predict_proba(x) for made in (first, probs(5), probs(6))
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    # A generator goes on; without any, it is NumPy's.
    generator = np.random.RandomState(5)
    np.testing.assert_array_equal(probs(generator).predict_proba(x), first)
    assert np.abs(probs(generator).predict_proba(x) - first).max() > 1e-3
    np.random.seed(5)  # noqa: NPY002
    np.testing.assert_array_equal(probs(None).predict_proba(x), first)


def test_the_batches_of_each_epoch_are_all_examples_in_an_order_of_its_own():
    ids = np.arange(10)
    batches = Batches(
        ids[:, None] * 1.0,
        ids + 20,
        ids + 0.5,
        batch_size=4,
        epochs=3,
        seed=1,
        with_index=True,
    )
    assert (batches.steps, len(batches)) == (3, 9)
    found = [batches[k] for k in (4, 8, 0, 1, 2, 3, 5, 6, 7)]
    orders = {}
    for k, (x, labels, weights) in zip(
        (4, 8, 0, 1, 2, 3, 5, 6, 7), found, strict=True
    ):
        places = labels["index"]
        np.testing.assert_array_equal(x[:, 0], places)
        np.testing.assert_array_equal(labels["label"], places + 20)
        np.testing.assert_array_equal(weights, places + 0.5)
        orders[k] = places.tolist()
    epochs = [
        [place for step in range(3) for place in orders[3 * epoch + step]]
        for epoch in range(3)
    ]
    assert [sorted(order) for order in epochs] == [list(range(10))] * 3
    assert len({tuple(order) for order in epochs}) == 3
    assert [len(orders[k]) for k in range(3)] == [4, 4, 2]
    with pytest.raises(IndexError, match=r"in \[0, 9\). Received: index=9"):
        batches[9]


# In the company of scikit-learn.


@with_torch
def test_it_is_cloned_with_its_parameters_and_stays_as_it_was(blobs):
    x, y = blobs
    stop = keras.callbacks.EarlyStopping("loss", min_delta=1e9, patience=0)
    made = classifier(
        method=temporal_ensembling,
        callbacks=[stop],
        epochs=5,
        batch_size=25,
    )
    first = made.fit(x, y).predict_proba(x)
    assert len(made.history_["loss"]) == 2  # The callback was at work.
    assert stop.stopped_epoch == 0
    assert stop.model is None
    # The memory is of every example.
    memory = made.model_.target
    largest = max(memory.weights, key=lambda weight: np.prod(weight.shape))
    seen = ops.convert_to_numpy(largest).reshape(60, -1)
    assert (seen != 0).any(axis=1).all()
    for again in (made, clone(made)):
        np.testing.assert_array_equal(again.fit(x, y).predict_proba(x), first)
    again = clone(made)
    assert not hasattr(again, "model_")
    assert again.get_params().keys() == made.get_params().keys()
    assert again.set_params(epochs=7).get_params()["epochs"] == 7
    assert made.epochs == 5


@with_torch
def test_it_is_searched_over_in_a_pipeline(blobs):
    x, y = blobs
    search = GridSearchCV(
        make_pipeline(StandardScaler(), classifier(epochs=12)),
        {"selectivemutualclassifier__learning_rate": [1e-6, 0.05]},
        cv=2,
    ).fit(x * 1000, NAMES[y])
    assert search.best_params_ == {
        "selectivemutualclassifier__learning_rate": 0.05
    }
    assert search.cv_results_["mean_test_score"].max() > 0.9
    assert search.score(x * 1000, NAMES[y]) > 0.9


@with_torch
def test_it_predicts_out_of_fold(blobs):
    x, y = blobs
    made = classifier(epochs=12, learning_rate=0.1)
    found = cross_val_predict(made, x, NAMES[y], cv=2)
    assert np.mean(found == NAMES[y]) > 0.9
    assert not hasattr(made, "model_")


@with_torch
def test_columns_have_names(blobs, probs_of_ids):
    x, y = blobs
    table = pd.DataFrame(x, columns=list("abcd"))
    fitted = classifier(epochs=1).fit(table, y)
    assert fitted.feature_names_in_.tolist() == list("abcd")
    assert fitted.n_features_in_ == 4
    np.testing.assert_array_equal(fitted.predict_proba(table), probs_of_ids)
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(table.rename(columns={"a": "z"}))
    of_polars = classifier(epochs=1).fit(pl.from_pandas(table), pl.Series(y))
    assert of_polars.feature_names_in_.tolist() == list("abcd")


@with_torch
def test_examples_may_be_images(rng):
    ids = np.arange(24) % 2
    x = rng.normal(size=(24, 5, 4, 1)) + 3.0 * ids[:, None, None, None]
    shapes = []

    def build_peer(input_shape, num_classes):
        shapes.append((input_shape, num_classes))
        return of_images(input_shape, num_classes)

    fitted = classifier(build_peer, epochs=10).fit(x, ids)
    assert shapes == [((5, 4, 1), 2)] * 2
    assert fitted.n_features_in_ == 5
    assert fitted.score(x, ids) > 0.9
    with pytest.raises(
        ValueError,
        match=r"`X` must be of shape \(examples, 5, 4, 1\).*\(24, 5, 3, 1\)",
    ):
        fitted.predict(x[:, :, :3])
    with pytest.raises(ValueError, match="`build_peer` must be given for ex"):
        classifier(None).fit(x, ids)


def test_an_estimator_is_written_as_keras_writes_models(blobs, tmp_path):
    x, y = blobs
    fitted = classifier(with_dropout).fit(x, NAMES[y])
    expected = fitted.predict_proba(x)
    state = fitted.__getstate__()
    assert state["model_"].startswith(b"PK")  # An archive.
    assert state["_training"] is None
    assert fitted._training is not None
    joblib.dump(fitted, tmp_path / "classifier.joblib")
    for again in (
        pickle.loads(pickle.dumps(fitted)),
        joblib.load(tmp_path / "classifier.joblib"),
        copy.deepcopy(fitted),
    ):
        np.testing.assert_array_equal(again.predict_proba(x), expected)
        assert again.predict(x).tolist() == fitted.predict(x).tolist()
        assert again.history_ == fitted.history_
        assert again.get_params() == fitted.get_params()
        assert again.model_.step == fitted.model_.step
        with pytest.raises(AttributeError, match="Received: an estimator from"):
            again.suspicious_labels_  # noqa: B018
    unfitted = pickle.loads(pickle.dumps(classifier()))
    with pytest.raises(NotFittedError):
        unfitted.predict(x)


def test_the_package_does_not_pickle():
    folder = pathlib.Path(keras_smkd.__file__).parent / "sklearn"
    sources = [path.read_text() for path in folder.glob("*.py")]
    assert len(sources) > 3
    assert not [text for text in sources if "import pickle" in text]
    assert not [text for text in sources if "from pickle" in text]


def test_wrong_labels_are_found(blobs):
    x, y = blobs
    noisy = y.copy()
    noisy[[4, 17, 33]] = (y[[4, 17, 33]] + 1) % 3
    fitted = classifier(epochs=40, batch_size=20).fit(x, NAMES[noisy])
    table = fitted.suspicious_labels_
    assert len(table) == 60
    assert sorted(table.index[:3].tolist()) == [4, 17, 33]
    assert table.class_names == tuple(NAMES.tolist())
    np.testing.assert_array_equal(table.label, noisy[table.index])
    np.testing.assert_array_equal(table.suggestion[:3], y[table.index[:3]])
    assert fitted.suspicious_labels_ is table  # Once.
    expected = keras_smkd.report.noise_rate(table)
    assert isinstance(fitted.noise_rate_, float)
    assert fitted.noise_rate_ == expected
    assert 0.0 < expected < 0.2
    # What was asked for is in the file.
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.suspicious_labels_.index, table.index)
    assert again.noise_rate_ == expected
    # The table is of all rows, and of the last training.
    fitted.set_params(epochs=1).fit(x, y, sample_weight=np.arange(60) % 2)
    assert fitted.suspicious_labels_ is not table
    assert sorted(fitted.suspicious_labels_.index.tolist()) == list(range(60))


def test_nothing_is_suspicious_before_a_training():
    for name in ("suspicious_labels_", "noise_rate_"):
        with pytest.raises(NotFittedError):
            getattr(classifier(), name)
        assert not hasattr(classifier(), name)


@pytest.mark.filterwarnings("ignore")
@with_torch
def test_it_drops_into_cleanlab(blobs):
    classification = pytest.importorskip(
        "cleanlab.classification", reason="needs cleanlab"
    )
    x, y = blobs
    noisy = y.copy()
    noisy[[4, 17, 33]] = (y[[4, 17, 33]] + 1) % 3
    learning = classification.CleanLearning(
        classifier(epochs=15), cv_n_folds=3, seed=0
    )
    learning.fit(x, noisy)
    issues = learning.get_label_issues()
    assert issues["is_label_issue"].to_numpy().nonzero()[0].tolist() == [
        4,
        17,
        33,
    ]
    assert learning.score(x, y) > 0.95


# Wrong arguments.


def of_one_peer(peers, num_examples):
    return keras_smkd.PeerLearning(peers[:1])


def compiled(peers, num_examples):
    model = keras_smkd.PeerLearning(peers)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"build_peer": "mlp"}, TypeError, "`build_peer` must be a function.*"),
        ({"num_peers": 1}, ValueError, "`num_peers` must be an integer >= 2"),
        ({"epochs": 0}, ValueError, "`epochs` must be an integer >= 1.*=0"),
        ({"epochs": 2.0}, TypeError, "`epochs` must be an integer.*=2.0"),
        ({"batch_size": "auto"}, TypeError, "`batch_size` must be an integer"),
        ({"learning_rate": 0}, ValueError, "`learning_rate` must be a finite"),
        ({"learning_rate": "slow"}, TypeError, "`learning_rate` must be a num"),
        ({"optimizer": "adamant"}, ValueError, "`optimizer`.*'adamant'"),
        ({"optimizer": 3}, TypeError, "`optimizer` must be the name.*=3"),
        (
            {"optimizer": keras.optimizers.Adam(0.1)},
            TypeError,
            "`optimizer` must be the name",
        ),
        (
            {"optimizer": lambda rate: "adam"},
            TypeError,
            "`optimizer`.*which returned 'adam'",
        ),
        ({"loss": "cross"}, ValueError, "cross"),
        ({"method": "smkd"}, TypeError, "`method` must be a function.*'smkd'"),
        (
            {"method": lambda peers, num_examples: peers[0]},
            TypeError,
            "`method` must return a.*PeerLearning.*of type Sequential",
        ),
        (
            {"method": lambda peers, _: plain_smkd([*peers, peers[0]], 60)},
            ValueError,
            "peers",
        ),
        ({"method": of_one_peer}, ValueError, "`method`.*a model of other pee"),
        ({"method": compiled}, ValueError, "`method`.*a model that is comp"),
        ({"callbacks": "stop"}, TypeError, "`callbacks` must be a list of"),
        ({"callbacks": ["stop"]}, TypeError, "`callbacks` must be a list of"),
        ({"random_state": "seven"}, ValueError, "'seven' cannot be used to"),
        ({"verbose": 3}, ValueError, "`verbose` must be 0, 1, 2 or 'auto'"),
    ],
)
def test_arguments_that_do_not_fit(blobs, arguments, error, message):
    made = classifier(**arguments)  # Checked in `fit`, as elsewhere there.
    with pytest.raises(error, match=message):
        made.fit(*blobs)
    assert not hasattr(made, "model_")


def the_same_again():
    peer = small((4,), 3)
    return lambda input_shape, num_classes: peer


def two_outputs(input_shape, num_classes):
    inputs = keras.Input(input_shape)
    dense = keras.layers.Dense(num_classes)(inputs)
    return keras.Model(inputs, [dense, dense])


@pytest.mark.parametrize(
    ("build_peer", "error", "message"),
    [
        (lambda shape, n: "mlp", TypeError, "return a `keras.Model`.*'mlp'"),
        (
            lambda shape, n: small(shape, n + 1),
            ValueError,
            r"one output of shape \(None, 3\).*output of shape \(None, 4\)",
        ),
        (
            lambda shape, n: small((5,), n),
            ValueError,
            r"inputs of shape \(None, 4\).*cannot be called with them",
        ),
        (two_outputs, ValueError, "Received: output of type list"),
        (the_same_again(), ValueError, "`peers` must be different models"),
    ],
)
def test_peers_that_do_not_fit(blobs, build_peer, error, message):
    with pytest.raises(error, match=message):
        classifier(build_peer).fit(*blobs)


def test_examples_that_are_no_finite_numbers(blobs):
    x, y = blobs
    fitted = classifier(epochs=1).fit(x, y)
    for value in (np.nan, np.inf, 1e300):
        wrong = x.copy()
        wrong[3, 1] = value
        with pytest.raises(ValueError, match="Input X contains"):
            classifier().fit(wrong, y)
        with pytest.raises(ValueError, match="Input X contains"):
            fitted.predict(wrong)


def test_without_scikit_learn_it_says_how_to_install_it(monkeypatch):
    module = sys.modules["keras_smkd.sklearn.classifier"]
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    spec = importlib.util.spec_from_file_location("apart", module.__file__)
    apart = importlib.util.module_from_spec(spec)
    with pytest.raises(ImportError, match=r'pip install "keras-smkd\[sklearn'):
        spec.loader.exec_module(apart)
