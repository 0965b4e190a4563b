"""The loss with a slack on the transition matrix, and the slack's weight."""

import json
import math

import keras
import numpy as np
import pytest
from keras import ops
from naive import gradient
from naive import naive_log_softmax
from naive import numpy_of
from peers import functional_net
from peers import linear

import keras_smkd
from keras_smkd import losses
from keras_smkd import noise
from keras_smkd.losses import base
from keras_smkd.losses import revision

CLASSES = 4
NOISE = np.array(
    [
        [0.7, 0.3, 0.0, 0.0],
        [0.0, 0.6, 0.2, 0.2],
        [0.1, 0.1, 0.8, 0.0],
        [0.0, 0.0, 0.5, 0.5],
    ]
)
RATE = 0.05


@pytest.fixture
def logits(rng):
    return rng.normal(0.0, 1.5, (12, CLASSES)).astype("float32")


@pytest.fixture
def labels():
    return np.arange(12, dtype="int32") % CLASSES


@pytest.fixture
def slack(rng):
    return np.round(rng.uniform(0.0, 0.1, (CLASSES, CLASSES)), 3)


def made(**kwargs):
    return losses.TransitionRevision(NOISE, from_logits=True, **kwargs)


def attached(**kwargs):
    """A loss, and a model that trains nothing but the loss's slack."""
    loss = made(**kwargs)
    model = functional_net(CLASSES, CLASSES)
    for layer in model.layers:
        layer.trainable = False
    loss.attach(model)
    return loss, model


def naive_revision(logits, labels, slack):
    """The mean loss, in float64."""
    log_probs = naive_log_softmax(logits)
    revised = NOISE + slack
    values = []
    for row, label in zip(log_probs, labels, strict=True):
        p = np.exp(row)
        seen = sum(p[i] * revised[i, label] for i in range(CLASSES))
        values.append(-p[label] / seen * row[label])
    return np.mean(values)


def naive_slope(function, x, step=1e-5):
    result = np.zeros(np.shape(x))
    for index in np.ndindex(result.shape):
        ends = [np.array(x, "float64") for _ in range(2)]
        ends[0][index] += step
        ends[1][index] -= step
        result[index] = (function(ends[0]) - function(ends[1])) / (2 * step)
    return result


def pure(labels, logits, slack, matrix=NOISE):
    log_probs = ops.log_softmax(ops.convert_to_tensor(logits), axis=-1)
    labels = base.distributions(labels, log_probs)
    return revision.transition_revision(labels, log_probs, matrix, slack)


def values_of(variables):
    return [numpy_of(variable) for variable in variables]


# The formula.


@pytest.mark.parametrize(
    ("slack", "label", "expected"),
    [
        # 0.5 / 0.75 * log 2
        (None, 1, math.log(2) / 1.5),
        # 0.5 / (0.5 * 0.5 + 0.5 * 1.25) * log 2
        ([[0.0, 0.0], [0.25, 0.25]], 1, math.log(2) * 4 / 7),
        # 0.5 / (0.5 * 0.5 + 0.5 * 0.25) * log 2
        ([[0.0, 0.0], [0.25, 0.25]], 0, math.log(2) * 4 / 3),
        # Half of each.
        ([[0.0, 0.0], [0.25, 0.25]], [0.5, 0.5], math.log(2) * 20 / 21),
        # As the formula says: 0.5 / (0.5 * 0.5 - 0.5 * 0.75) * log 2
        ([[0.0, 0.0], [-0.75, 0.0]], 0, -4 * math.log(2)),
        # 0.5 / 0
        ([[0.0, 0.0], [-0.5, 0.0]], 0, math.inf),
    ],
)
def test_values_worked_by_hand(slack, label, expected):
    loss = losses.TransitionRevision([[0.5, 0.5], [0.0, 1.0]], slack)
    model = functional_net(2, 2)
    loss.attach(model)
    np.testing.assert_allclose(
        numpy_of(loss.call([label], [[0.5, 0.5]])), [expected], rtol=1e-5
    )


def test_values_and_both_gradients_are_those_of_the_loop(logits, labels, slack):
    loss, _model = attached(slack=slack)
    np.testing.assert_allclose(
        numpy_of(loss(labels, logits)),
        naive_revision(logits, labels, slack),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        gradient(lambda z: loss(labels, z), logits),
        naive_slope(lambda z: naive_revision(z, labels, slack), logits),
        rtol=1e-3,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        gradient(
            lambda s: ops.mean(pure(labels, logits, s)),
            slack.astype("float32"),
        ),
        naive_slope(lambda s: naive_revision(logits, labels, s), slack),
        rtol=1e-3,
        atol=1e-6,
    )


def test_soft_labels_are_the_mean_over_the_label(rng, logits, slack):
    soft = rng.dirichlet(np.ones(CLASSES), 12).astype("float32")
    soft[0] = [0.5, 0.5, 0.0, 0.0]
    loss, _model = attached(slack=slack)
    each = np.stack(
        [numpy_of(loss.call([j] * 12, logits)) for j in range(CLASSES)], axis=1
    )
    np.testing.assert_allclose(
        numpy_of(loss.call(soft, logits)), (soft * each).sum(axis=1), rtol=1e-5
    )


def test_without_slack_the_value_is_that_of_importance_reweighting(
    logits, labels
):
    loss, _model = attached()
    fixed = losses.ImportanceReweighting(NOISE, from_logits=True)
    np.testing.assert_allclose(
        numpy_of(loss.call(labels, logits)),
        numpy_of(fixed.call(labels, logits)),
        rtol=1e-5,
    )
    difference = gradient(lambda z: loss(labels, z), logits) - gradient(
        lambda z: fixed(labels, z), logits
    )
    assert np.abs(difference).max() > 1e-2


def test_extreme_predictions_have_finite_values_and_gradients(slack):
    certain = 2.0 * np.eye(CLASSES, dtype="float32") - 1.0
    predictions = np.repeat(certain, CLASSES, axis=0)
    labels = np.tile(np.arange(CLASSES), CLASSES)
    soft = np.full((CLASSES * CLASSES, CLASSES), 1 / CLASSES, "float32")
    for given in (None, slack):
        for loss, y_pred in (
            (made(slack=given), 1e4 * predictions),
            (
                losses.TransitionRevision(NOISE, given),
                np.maximum(predictions, 0.0),
            ),
        ):
            model = functional_net(CLASSES, CLASSES)
            loss.attach(model)
            for y_true in (labels, soft):
                values = numpy_of(loss.call(y_true, y_pred))
                assert np.isfinite(values).all()
                grad = gradient(
                    lambda z, loss=loss, y=y_true: loss(y, z), y_pred
                )
                assert np.isfinite(grad).all()


def test_entries_of_zero_get_their_gradient():
    # The label's class and the class that turns into it are as good as
    # impossible; the entry of the class that is predicted is 0.
    matrix = np.eye(3)
    logits = np.array([[0.0, -40.0, -40.0]], "float32")
    grad = gradient(
        lambda s: ops.sum(pure([1], logits, s, matrix)),
        np.zeros((3, 3), "float32"),
    )
    expected = np.zeros((3, 3))
    # d(w CE)/dT_i1 = -CE p_1 p_i / (p_1)^2
    expected[:, 1] = -40.0 * np.exp([40.0, 0.0, 0.0])
    np.testing.assert_allclose(grad, expected, rtol=1e-4)


def test_a_class_that_is_not_the_label_adds_nothing(logits, labels):
    # Not even where its own loss is not finite.
    slack = np.zeros((CLASSES, CLASSES), "float32")
    slack[:, 3] = -NOISE[:, 3]
    kept = labels != 3
    assert not np.isfinite(numpy_of(pure(labels, logits, slack))[~kept]).any()
    labels, logits = labels[kept], logits[kept]
    assert np.isfinite(numpy_of(pure(labels, logits, slack))).all()
    for grad in (
        gradient(lambda s: ops.sum(pure(labels, logits, s)), slack),
        gradient(lambda z: ops.sum(pure(labels, z, slack)), logits),
    ):
        assert np.isfinite(grad).all() and np.abs(grad).max() > 0


def test_no_entry_is_ever_lowered(rng, labels, logits):
    slack = rng.normal(0.0, 0.2, (CLASSES, CLASSES)).astype("float32")
    grad = gradient(lambda s: ops.sum(pure(labels, logits, s)), slack)
    assert (grad <= 0).all() and (grad < 0).any()


def test_half_precision_is_raised(logits, labels, slack):
    loss, _model = attached(slack=slack)
    half = logits.astype("float16")
    values = loss.call(labels, half)
    assert keras.backend.standardize_dtype(values.dtype) == "float32"
    np.testing.assert_array_equal(
        numpy_of(values), numpy_of(loss.call(labels, half.astype("float32")))
    )


# The weight.


def test_fit_moves_the_slack_down_its_gradient(logits, labels, slack):
    loss, model = attached(slack=slack)
    (weight,) = model.trainable_variables
    assert weight.path == "transition_slack/slack"
    if keras.backend.backend() == "torch":
        assert any(p is weight.value for p in model.parameters())
    outputs = model.predict(logits, verbose=0)
    model.compile(optimizer=keras.optimizers.SGD(RATE), loss=loss)
    expected = numpy_of(weight).astype("float64")
    # Twice, because torch adds up the gradients that nobody clears.
    for _ in range(2):
        model.fit(logits, labels, batch_size=12, verbose=0)
        expected -= RATE * naive_slope(
            lambda s: naive_revision(outputs, labels, s), expected
        )
        np.testing.assert_allclose(
            numpy_of(weight), expected, rtol=1e-4, atol=1e-6
        )
    assert np.abs(expected - slack).max() > 1e-2
    np.testing.assert_array_equal(loss.slack, numpy_of(weight))
    np.testing.assert_allclose(loss.revised_matrix, NOISE + numpy_of(weight))
    assert isinstance(loss.revised_matrix, np.ndarray)


def test_the_model_and_its_slack_train_together(rng, labels):
    x = rng.normal(0.0, 1.0, (12, 6)).astype("float32")
    model = functional_net()
    loss = made()
    loss.attach(model)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss)
    before = values_of(model.trainable_variables)
    history = model.fit(x, labels, batch_size=6, epochs=3, verbose=0)
    assert np.diff(history.history["loss"]).max() < 0
    for old, new in zip(
        before, values_of(model.trainable_variables), strict=True
    ):
        assert np.abs(old - new).max() > 0
    assert np.max(loss.slack) > 0
    assert math.isfinite(model.evaluate(x, labels, verbose=0))


class Several(keras.Model):
    """Calls its loss more than once in a step; has a place for its slack."""

    def __init__(self, has_place):
        super().__init__()
        self.head = keras.layers.Dense(CLASSES, trainable=False)
        if has_place:
            self.transition_slack = losses.TransitionSlack()

    def build(self, input_shape):
        self.head.build(input_shape)

    def call(self, inputs):
        return self.head(inputs)

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        return ops.mean(self.loss.call(y, y_pred)) + ops.mean(
            self.loss.call(y, 2.0 * y_pred)
        )


@pytest.mark.parametrize("is_built", [True, False])
def test_a_subclass_may_call_it_several_times_in_a_step(
    logits, labels, is_built
):
    model = Several(has_place=is_built)
    if is_built:
        model.build((None, CLASSES))
    loss = made()
    loss.attach(model)
    model.compile(optimizer=keras.optimizers.SGD(RATE), loss=loss)
    outputs = numpy_of(model(logits))
    model.fit(logits, labels, batch_size=12, verbose=0)
    expected = -RATE * naive_slope(
        lambda s: (
            naive_revision(outputs, labels, s)
            + naive_revision(2.0 * outputs, labels, s)
        ),
        np.zeros((CLASSES, CLASSES)),
    )
    np.testing.assert_allclose(loss.slack, expected, rtol=1e-3, atol=1e-6)


def test_the_slack_is_float32_in_a_model_of_half_precision(logits, labels):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    try:
        loss, model = attached()
        model.compile(optimizer=keras.optimizers.SGD(RATE), loss=loss)
        model.fit(logits, labels, verbose=0)
    finally:
        keras.config.set_dtype_policy(before)
    (weight,) = model.trainable_variables
    assert keras.backend.standardize_dtype(weight.dtype) == "float32"
    assert np.max(loss.slack) > 0


# Attached to a model, and to another.


def test_a_new_loss_takes_the_place_of_the_old(logits, labels, slack):
    old, model = attached(slack=slack)
    model.compile(optimizer="sgd", loss=old)
    model.fit(logits, labels, verbose=0)
    trained = old.slack
    new = made()
    model.compile(optimizer="sgd", loss=new)
    new.attach(model)
    assert len(model.trainable_variables) == 1
    np.testing.assert_array_equal(
        numpy_of(model.trainable_variables[0]), np.zeros((CLASSES, CLASSES))
    )
    model.fit(logits, labels, verbose=0)
    assert np.max(new.slack) > 0
    assert old.slack == trained
    with pytest.raises(ValueError, match=r"must be attached to a model"):
        old.call(labels, logits)


def test_detached_it_keeps_its_values_and_leaves_the_model(logits, labels):
    loss, model = attached(slack=0.5 * np.eye(CLASSES))
    loss.attach(model)
    weights = len(model.weights)
    loss.detach()
    loss.detach()
    assert len(model.weights) == weights - 1
    assert not model.trainable_variables
    assert loss.slack == (0.5 * np.eye(CLASSES)).tolist()
    with pytest.raises(ValueError, match=r"must be attached to a model"):
        loss.call(labels, logits)
    other = functional_net(CLASSES, CLASSES)
    loss.attach(other)
    np.testing.assert_array_equal(
        numpy_of(other.trainable_variables[-1]), 0.5 * np.eye(CLASSES)
    )
    assert np.isfinite(numpy_of(loss.call(labels, logits))).all()
    # The first model trains with another loss as if nothing had been.
    for layer in model.layers:
        layer.trainable = True
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(logits, labels, verbose=0)


def test_a_loss_outlives_its_model(logits, labels):
    loss, model = attached(slack=0.5 * np.eye(CLASSES))
    # As if the model were gone, which takes the collector its time.
    loss._model = loss._layer = lambda: None
    del model
    assert loss.slack == (0.5 * np.eye(CLASSES)).tolist()
    other = functional_net(CLASSES, CLASSES)
    loss.attach(other)
    assert np.isfinite(numpy_of(loss.call(labels, logits))).all()


# Saved and restored.


def trained(x, labels, optimizer="sgd", **kwargs):
    loss, model = made(), functional_net()
    loss.attach(model)
    model.compile(optimizer=optimizer, loss=loss)
    model.fit(x, labels, batch_size=6, verbose=0, **kwargs)
    return loss, model


@pytest.fixture
def x(rng):
    return rng.normal(0.0, 1.0, (12, 6)).astype("float32")


def test_saved_weights_have_the_slack(x, labels, tmp_path):
    loss, model = trained(x, labels)
    model.save_weights(tmp_path / "all.weights.h5")
    other_loss, other = made(), functional_net()
    other_loss.attach(other)
    other.load_weights(tmp_path / "all.weights.h5")
    assert other_loss.slack == loss.slack
    assert np.max(loss.slack) > 0
    # And are complete for a model with a slack only if they do.
    _, plain = made(), functional_net()
    plain.save_weights(tmp_path / "plain.weights.h5")
    with pytest.raises(ValueError, match=r"'transition_slack' expected 1 var"):
        other.load_weights(tmp_path / "plain.weights.h5")


def test_a_loaded_model_predicts_and_does_not_train_without_slack(
    x, labels, tmp_path
):
    loss, model = trained(x, labels)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    for use in ("fit", "evaluate"):
        # Another each time: on JAX an error in `fit` loses the weights.
        failing = keras.models.load_model(path)
        with pytest.raises(ValueError, match=r"Call `loss.attach\(model\)` be"):
            getattr(failing, use)(x, labels, verbose=0)
    # The values of the slack are in the configuration of the loss.
    assert loaded.loss.slack == loss.slack
    with pytest.raises(ValueError, match=r"optimizer that is not built"):
        loaded.loss.attach(loaded)
    loaded.compile("sgd", loaded.loss)
    loaded.loss.attach(loaded)
    np.testing.assert_allclose(
        loaded.evaluate(x, labels, verbose=0),
        model.evaluate(x, labels, verbose=0),
        rtol=1e-6,
    )
    loaded.fit(x, labels, batch_size=6, verbose=0)
    assert np.max(np.subtract(loaded.loss.slack, loss.slack)) > 0


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_plain_model_goes_on_as_the_docstring_says(
    x, labels, tmp_path, optimizer
):
    loss, model = trained(x, labels, optimizer)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path, compile=False)
    again = made()
    again.attach(loaded)
    assert np.max(again.slack) == 0
    loaded.load_weights(path)
    assert again.slack == loss.slack
    loaded.compile(optimizer, again)
    np.testing.assert_allclose(
        loaded.evaluate(x, labels, verbose=0),
        model.evaluate(x, labels, verbose=0),
        rtol=1e-6,
    )
    loaded.fit(x, labels, verbose=0)
    assert np.max(np.subtract(again.slack, loss.slack)) > 0


def test_keras_says_that_it_has_no_state_for_the_slack(x, labels, tmp_path):
    # Of an optimizer with moments; the way above is without it.
    _, model = trained(x, labels, "adam")
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="Skipping variable loading for opt"):
        keras.models.load_model(tmp_path / "model.keras")


def test_backups_resume_with_the_slack(x, labels, tmp_path):
    start = functional_net().get_weights()

    def fit(epochs, folder):
        loss, model = made(), functional_net()
        model.set_weights(start)
        loss.attach(model)
        model.compile(optimizer="adam", loss=loss)
        backup = keras.callbacks.BackupAndRestore(
            tmp_path / folder, delete_checkpoint=False
        )
        model.fit(
            x,
            labels,
            batch_size=6,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[backup],
        )
        return loss.slack

    whole = fit(2, "whole")
    fit(1, "parts")
    np.testing.assert_allclose(fit(2, "parts"), whole, rtol=1e-6)


def test_serialisation_keeps_the_slack(slack):
    loss = made(slack=slack, reduction=None, name="mine")
    assert loss.slack == slack.tolist()
    again = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    )
    assert type(again) is losses.TransitionRevision
    assert again.get_config() == loss.get_config()
    assert again.get_config()["slack"] == slack.tolist()
    assert made().get_config()["slack"] == np.zeros((CLASSES,) * 2).tolist()


# What is refused.


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: made(slack="none"),
            TypeError,
            r"`slack` must be a square array of numbers\. Received: slack='no",
        ),
        (
            lambda: made(slack=[[0.0, 0.0], [0.0, 0.0]]),
            ValueError,
            r"`slack` must be finite and .* shape \(4, 4\)\. Received: slack=",
        ),
        (
            lambda: made(slack=np.full((CLASSES, CLASSES), math.nan)),
            ValueError,
            r"`slack` must be finite and .*Received: slack=array\(\[\[nan",
        ),
        (
            lambda: losses.TransitionRevision([[0.0, 1.0], [1.0, 0.0]]),
            ValueError,
            r"must have a positive diagonal\. Received: .* with 0 on it",
        ),
        (
            lambda: made().attach("model"),
            TypeError,
            r"`model` must be a `keras.Model`\. Received: model='model'",
        ),
        (
            lambda: made().attach(linear()),
            ValueError,
            r"`keras.Sequential` is not\. Received: .*keras\.Model\(model\.in",
        ),
        (
            lambda: made()([0], [[0.0] * CLASSES]),
            ValueError,
            r"`TransitionRevision` must be attached to a model, .*Received: .*"
            r"Call `loss.attach\(model\)` before training",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_models_that_cannot_take_the_slack_are_refused(logits, labels):
    loss, _model = attached()
    with pytest.raises(
        ValueError, match=r"only one that the loss is attached to\. Received"
    ):
        loss.attach(functional_net())
    model = functional_net(CLASSES, CLASSES)
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(logits, labels, verbose=0)
    with pytest.raises(
        ValueError, match=r"optimizer that is not built, or none\. Received"
    ):
        made().attach(model)
    assert not hasattr(model, "transition_slack")
    model = Several(has_place=False)
    model.build((None, CLASSES))
    with pytest.raises(
        ValueError, match=r"that is built is not\. Received.*TransitionSlack"
    ):
        made().attach(model)
    model = functional_net()
    model.transition_slack = 0.5
    with pytest.raises(
        ValueError, match=r"leave the attribute `transition_slack`.*a float"
    ):
        made().attach(model)


def test_calls_refuse_shapes_that_do_not_fit(logits, labels):
    loss, _model = attached()
    with pytest.raises(ValueError, match=r"must be for the 3 classes .* 4 cl"):
        loss.call(labels, logits[:, :3])


# In the model of peers, which attaches it by itself.


def peers_with(loss, optimizer):
    model = keras_smkd.SelectiveMutualDistillation([linear(), linear()])
    model.compile(optimizer, loss)
    return model


@pytest.mark.parametrize("is_list", [False, True])
def test_peers_train_one_slack_together(rng, is_list):
    x = rng.normal(size=(12, 6)).astype("float32")
    y = rng.integers(0, 4, size=12)
    matrix = noise.symmetric_excluding_true(0.2, 4)
    optimizer = keras.optimizers.SGD(0.5)
    if is_list:
        # The slack is of no peer, and goes with the first.
        optimizer = [optimizer, keras.optimizers.SGD(0.25)]
    loss = losses.TransitionRevision(matrix, from_logits=True)
    model = peers_with(loss, optimizer)
    model.threshold = 0.0
    log_probs = [
        ops.convert_to_tensor(
            naive_log_softmax(x @ peer.get_weights()[0]), "float32"
        )
        for peer in model.peers
    ]
    model.train_on_batch(x, y)

    def objective(slack):
        values = [
            ops.mean(
                revision.transition_revision(
                    np.eye(4)[y], values, matrix, slack
                )
            )
            for values in log_probs
        ]
        return values[0] + values[1]

    expected = -0.5 * gradient(objective, np.zeros((4, 4), "float32"))
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(loss.slack, expected, atol=1e-6)


def test_slack_of_peers_comes_back_and_trains_on(rng, tmp_path):
    x = rng.normal(size=(12, 6)).astype("float32")
    y = rng.integers(0, 4, size=12)
    matrix = noise.symmetric_excluding_true(0.2, 4)
    loss = losses.TransitionRevision(matrix, from_logits=True)
    model = peers_with(loss, keras.optimizers.Adam(0.01))
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.loss.slack, loss.slack)
    assert model.train_on_batch(x, y) == loaded.train_on_batch(x, y)
    np.testing.assert_array_equal(loaded.loss.slack, loss.slack)
    # Another loss takes its place, and there is nothing to revise.
    before = len(model.trainable_variables)
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert len(model.trainable_variables) == before - 1
    model.train_on_batch(x, y)
