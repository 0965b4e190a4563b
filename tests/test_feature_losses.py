"""Hints and adversaries: by value, in fits, from files, and what is refused."""

import keras
import numpy as np
import pytest
from keras import ops
from naive import gradient
from naive import numpy_of

from keras_smkd import features
from keras_smkd import knowledge
from keras_smkd.batch import Batch
from keras_smkd.features.hints import default_regressor
from keras_smkd.model import PeerLearning

CROSS_ENTROPY = "sparse_categorical_crossentropy"


def dense_net(units=5, name="hidden"):
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(units, activation="tanh", name=name),
            keras.layers.Dense(4),
        ]
    )


def map_net(size, channels, name="maps"):
    """Its maps are of `size` by `size`, from inputs of 8 by 8."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(channels, 9 - size, name=name),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ]
    )


@pytest.fixture
def data(rng):
    return rng.normal(size=(16, 6)).astype("float32"), rng.integers(0, 4, 16)


@pytest.fixture
def images(rng):
    x = rng.normal(size=(16, 8, 8, 1)).astype("float32")
    return x, rng.integers(0, 4, 16)


def values_of(model, x, y):
    """Return the loss of the features, and the model's whole."""
    found = model.evaluate(x, y, verbose=0, batch_size=16, return_dict=True)
    return found["feature_loss"], found["loss"]


def first_stage(student, teacher, layers=("hidden", "hidden"), **kwargs):
    model = PeerLearning(
        [student],
        feature_loss=features.Hint(layers[0], teacher, layers[1], **kwargs),
        supervised_weight=0,
    )
    model.compile(keras.optimizers.SGD(0.1))
    return model


def outputs_of(peer, x):
    """Return what the first layer puts out, in NumPy."""
    return numpy_of(peer.layers[0](x))


# Hints.


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_hint_is_half_the_squared_distance(rng, reduction):
    student, teacher = rng.normal(size=(2, 3, 2, 5, 4)).astype("float32")
    expected = 0.5 * ((student - teacher) ** 2).sum(axis=(1, 2, 3))
    if reduction == "mean":
        expected /= 10
    found = features.hint_loss(student, teacher, reduction)
    np.testing.assert_allclose(numpy_of(found), expected, rtol=1e-5)
    slope = gradient(
        lambda s: ops.sum(features.hint_loss(s, teacher, reduction)), student
    )
    scale = 10 if reduction == "mean" else 1
    np.testing.assert_allclose(slope, (student - teacher) / scale, rtol=1e-4)


def test_a_hint_of_dense_layers_by_hand(data):
    x, _ = data
    student, teacher = dense_net(5), dense_net(3)
    model = first_stage(student, teacher)
    (regressor,) = model.feature_loss.regressors
    kernel, bias = regressor.get_weights()
    expected = outputs_of(student, x) @ kernel + bias - outputs_of(teacher, x)
    expected = 0.5 * np.mean(np.sum(expected**2, axis=1))
    np.testing.assert_allclose(
        values_of(model, x, None)[0], expected, rtol=1e-5
    )
    np.testing.assert_allclose(
        values_of(model, x, None)[1], expected, rtol=1e-5
    )


def test_a_hint_of_maps_goes_through_a_convolution_without_padding(images):
    x, _ = images
    student, teacher = map_net(6, 2), map_net(4, 3)
    model = first_stage(student, teacher, ("maps", "maps"))
    (regressor,) = model.feature_loss.regressors
    assert regressor.kernel.shape == (3, 3, 2, 3)
    kernel, bias = regressor.get_weights()
    maps = outputs_of(student, x)
    regressed = np.zeros((16, 4, 4, 3)) + bias
    for i in range(4):
        for j in range(4):
            regressed[:, i, j] += np.einsum(
                "nhwc,hwcd->nd", maps[:, i : i + 3, j : j + 3], kernel
            )
    distance = (regressed - outputs_of(teacher, x)) ** 2
    expected = 0.5 * distance.sum(axis=(1, 2, 3)).mean()
    np.testing.assert_allclose(
        values_of(model, x, None)[0], expected, rtol=1e-4
    )


def test_hints_train_what_lies_below_and_nothing_above(data):
    x, _ = data
    student, teacher = dense_net(5), dense_net(3)
    model = first_stage(student, teacher)
    before = [w.copy() for w in student.get_weights()]
    of_teacher = [w.copy() for w in teacher.get_weights()]
    history = model.fit(x, epochs=60, batch_size=16, verbose=0).history
    assert history.keys() == {"loss", "feature_loss"}
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    after = student.get_weights()
    assert np.any(after[0] != before[0]) and np.any(after[1] != before[1])
    np.testing.assert_array_equal(after[2], before[2])
    np.testing.assert_array_equal(after[3], before[3])
    for old, new in zip(of_teacher, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_teacher_stays_frozen_and_its_batch_statistics_too(data):
    x, y = data
    teacher = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(3),
            keras.layers.BatchNormalization(name="hidden"),
            keras.layers.Dense(4),
        ]
    )
    model = PeerLearning(
        [dense_net(), dense_net()],
        feature_loss=features.Hint("hidden", teacher, "hidden"),
    )
    model.compile("adam", CROSS_ENTROPY)
    model.trainable = True
    before = [w.copy() for w in teacher.get_weights()]
    model.fit(x, y, epochs=2, verbose=0)
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert len(model.feature_loss.regressors) == 2
    # A dense layer each, beside the peers' own.
    assert len(model.trainable_variables) == 2 * 4 + 2 * 2


def test_each_peer_has_a_regressor_of_its_own_from_one_that_is_given():
    template = keras.layers.Dense(3, use_bias=False, name="template")
    first, second = dense_net(5, "a"), dense_net(7, "b")
    model = PeerLearning(
        [first, second],
        feature_loss=features.Hint(
            ["a", "b"], dense_net(3), "hidden", regressor=template
        ),
    )
    shapes = [r.kernel.shape for r in model.feature_loss.regressors]
    assert shapes == [(5, 3), (7, 3)]
    assert not template.built


@pytest.mark.parametrize("stage", ["weights", "whole"])
def test_hints_go_on_from_files(data, tmp_path, stage):
    x, y = data

    def make():
        keras.utils.set_random_seed(3)
        student, teacher = dense_net(5), dense_net(3)
        model = PeerLearning(
            [student], feature_loss=features.Hint("hidden", teacher, "hidden")
        )
        model.compile("adam", CROSS_ENTROPY)
        return model

    model = make()
    model.fit(x, y, epochs=2, shuffle=False, verbose=0)
    if stage == "whole":
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
    else:
        model.save_weights(tmp_path / "model.weights.h5")
        again = make()
        again.load_weights(tmp_path / "model.weights.h5")
    arguments = {"initial_epoch": 2, "epochs": 4, "shuffle": False}
    expected = model.fit(x, y, verbose=0, **arguments).history
    assert again.fit(x, y, verbose=0, **arguments).history == expected


def test_weights_of_another_teacher_are_refused(data, tmp_path):
    first_stage(dense_net(), dense_net()).save_weights(
        tmp_path / "model.weights.h5"
    )
    other = first_stage(dense_net(), dense_net())
    with pytest.raises(ValueError, match="teacher must be the one"):
        other.load_weights(tmp_path / "model.weights.h5")


def test_hints_work_in_half_precision(data):
    x, y = data
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = PeerLearning(
            [dense_net(5)],
            feature_loss=features.Hint("hidden", dense_net(3), "hidden"),
        )
        model.compile("adam", CROSS_ENTROPY)
        history = model.fit(x, y, epochs=2, verbose=0).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(history["loss"]).all()


def shared_teacher():
    student = dense_net()
    return PeerLearning(
        [student], feature_loss=features.Hint("hidden", student, "hidden")
    )


def hint_between(shape, target):
    return default_regressor((None, *shape), (None, *target), "regressor")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: features.Hint("a", dense_net(), "none"),
            ValueError,
            "'none'; the layers",
        ),
        (
            lambda: features.Hint("a", "net", "hidden"),
            TypeError,
            "`teacher` must be a `keras.Model`",
        ),
        (
            lambda: features.Hint("a", [dense_net(), dense_net()], "hidden"),
            TypeError,
            "`teacher` must be one",
        ),
        (
            lambda: features.Hint(3, dense_net(), "hidden"),
            TypeError,
            "`student_layer` must be a list of names",
        ),
        (
            lambda: features.Hint("a", dense_net(), "hidden", regressor=3),
            TypeError,
            "`regressor` must be a Keras layer",
        ),
        (
            lambda: features.Hint("a", dense_net(), "hidden", reduction="max"),
            ValueError,
            "`reduction` must be one of",
        ),
        (shared_teacher, ValueError, "must share no weights with the peers"),
        (
            lambda: first_stage(dense_net(), dense_net(), ("none", "hidden")),
            ValueError,
            "'none'; the layers",
        ),
        (
            lambda: first_stage(dense_net(), map_net(4, 3), ("hidden", "maps")),
            ValueError,
            "must take the peers' inputs",
        ),
        (
            lambda: first_stage(
                dense_net(), dense_net(3), regressor=keras.layers.Dense(2)
            ),
            ValueError,
            r"from \(None, 5\) to \(None, 2\), for 'hidden' with \(None, 3\)",
        ),
        (
            lambda: hint_between((4, 4, 2), (6, 6, 2)),
            ValueError,
            r"\(None, 4, 4, 2\) and a teacher's of \(None, 6, 6, 2\)",
        ),
        (lambda: hint_between((4,), (6, 6, 2)), ValueError, "not both dense"),
        (
            lambda: hint_between((None, 4, 2), (6, 4, 2)),
            ValueError,
            "as large as the teacher's",
        ),
    ],
)
def test_hints_that_cannot_be(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_maps_of_unknown_size_are_matched_position_by_position():
    layer = default_regressor(
        (None, None, None, 2), (None, None, None, 3), "regressor"
    )
    assert layer.kernel.shape == (1, 1, 2, 3)


# Adversaries.


def adversaries(peers, **kwargs):
    part = features.FeatureAdversaries("hidden", **kwargs)
    part.prepare(peers, 4)
    return part


def batch_of(peers, x, training=False):
    maps = tuple(peer.layers[0](x) for peer in peers)
    return Batch(features={"hidden": maps}, training=training)


def test_a_teacher_of_hints_has_no_dropout(rng):
    def net(dropout):
        return keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(8, activation="relu"),
                keras.layers.Dropout(dropout),
                keras.layers.Dense(5, name="inner"),
                keras.layers.Dense(4),
            ]
        )

    hint = features.Hint("inner", net(0.5), "inner")
    model = PeerLearning([net(0.0)], feature_loss=hint, supervised_weight=0.0)
    model.compile(keras.optimizers.SGD(0.0))
    x = rng.normal(size=(8, 6)).astype("float32")
    expected = model.evaluate(x, verbose=0, return_dict=True)["feature_loss"]
    found = model.train_on_batch(x, return_dict=True)["feature_loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_losses_of_both_sides_by_hand():
    found = features.discriminator_loss([0.5, 2.0], [1.0, -1.0])
    np.testing.assert_allclose(numpy_of(found), [1.25, 2.0])
    found = features.fooling_loss([0.5, 2.0])
    np.testing.assert_allclose(numpy_of(found), [0.25, 1.0])


def naive_network(layers, x):
    """Dense layers of a Sequential, with its activations, in NumPy."""
    for layer in layers:
        if isinstance(layer, keras.layers.Dense):
            kernel, *bias = layer.get_weights()
            x = x @ kernel + (bias[0] if bias else 0.0)
        elif isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            x = (x - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta
        elif isinstance(layer, keras.layers.ReLU):
            x = np.maximum(x, 0.0)
        else:
            x = np.where(x > 0, x, 0.2 * x)
    return x


@pytest.mark.parametrize("num_peers", [2, 3])
def test_the_loss_is_the_naive_sum_around_the_ring(data, num_peers):
    x, _ = data
    peers = [dense_net() for _ in range(num_peers)]
    part = adversaries(peers, filters=3)
    found = numpy_of(part(batch_of(peers, x)))
    maps = [
        naive_network(transfer.layers, outputs_of(peer, x))
        for transfer, peer in zip(part.transfers, peers, strict=True)
    ]
    expected = np.zeros(16)
    for k, discriminator in enumerate(part.discriminators):
        own, other = (
            naive_network(discriminator.layers, values)[:, 0]
            for values in (maps[k], maps[(k + 1) % num_peers])
        )
        expected += (1 - other) ** 2 + own**2 + (1 - own) ** 2
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_no_gradient_of_one_side_is_in_the_other(data):
    """Each side's is that of its own terms, with the other side's weights."""
    x, _ = data
    peers = [dense_net(), dense_net()]
    part = adversaries(peers)
    # Batch statistics of the moment would be in both.
    for transfer in part.transfers:
        transfer.layers[1].trainable = False
    weights = {
        name: [[w.copy() for w in model.get_weights()] for model in models]
        for name, models in (
            ("peer", peers),
            ("transfer", part.transfers),
            ("discriminator", part.discriminators),
        )
    }
    fixed = keras.tree.map_structure(ops.convert_to_tensor, weights)
    scale = 1 / np.sqrt(1 + part.transfers[0].layers[1].epsilon)

    def map_of(i, kernel=None, mixing=None):
        own, bias = fixed["peer"][i][:2]
        hidden = ops.tanh(
            ops.matmul(x, own if kernel is None else kernel) + bias
        )
        mixing = fixed["transfer"][i][0] if mixing is None else mixing
        return ops.relu(ops.matmul(hidden, mixing) * float(scale))

    def score(i, features, kernel=None):
        own, bias, last, last_bias = fixed["discriminator"][i]
        hidden = ops.matmul(features, own if kernel is None else kernel) + bias
        hidden = ops.leaky_relu(hidden, 0.2)
        return (ops.matmul(hidden, last) + last_bias)[:, 0]

    def fooled(i, **changed):
        return ops.mean(ops.square(1 - score(i, map_of(i, **changed))))

    def told(kernel):
        other, own = score(0, map_of(1), kernel), score(0, map_of(0), kernel)
        return ops.mean(ops.square(1 - other) + ops.square(own))

    expected = {
        "peer": gradient(lambda w: fooled(0, kernel=w), weights["peer"][0][0]),
        "transfer": gradient(
            lambda w: fooled(1, mixing=w), weights["transfer"][1][0]
        ),
        "discriminator": gradient(told, weights["discriminator"][0][0]),
    }
    model = PeerLearning(peers, feature_loss=part, supervised_weight=0)
    model.compile(keras.optimizers.SGD(1.0))
    model.fit(x, epochs=1, batch_size=16, verbose=0)
    moved = {
        "peer": weights["peer"][0][0] - peers[0].get_weights()[0],
        "transfer": weights["transfer"][1][0]
        - part.transfers[1].get_weights()[0],
        "discriminator": weights["discriminator"][0][0]
        - part.discriminators[0].get_weights()[0],
    }
    for name, change in moved.items():
        assert np.abs(change).max() > 1e-3
        np.testing.assert_allclose(
            change, expected[name], rtol=1e-3, atol=1e-5, err_msg=name
        )


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="a read is an operation of TensorFlow's graphs",
)
def test_a_discriminator_is_read_once(data):
    """A read apart from what is trained may come after the update there."""
    import tensorflow as tf

    x, _ = data
    peers = [dense_net(), dense_net()]
    part = adversaries(peers)
    function = tf.function(lambda x: part(batch_of(peers, x)))
    graph = function.get_concrete_function(tf.constant(x)).graph
    handles = {
        id(inner): outer
        for outer, inner in graph.captures
        if outer.dtype == tf.resource
    }
    read = [
        id(handles[id(operation.inputs[0])])
        for operation in graph.get_operations()
        if operation.type == "ReadVariableOp"
    ]
    for discriminator in part.discriminators:
        for variable in discriminator.trainable_variables:
            assert read.count(id(variable.value.handle)) == 1, variable.path


def test_adversaries_of_maps_train_and_go_on_from_a_file(images, tmp_path):
    x, y = images
    peers = [map_net(6, 2, "a"), map_net(6, 4, "b")]
    model = PeerLearning(
        peers,
        knowledge=knowledge.PeerPredictions(),
        feature_loss=features.FeatureAdversaries(["a", "b"]),
    )
    model.compile("adam", CROSS_ENTROPY)
    assert [t.output_shape for t in model.feature_loss.transfers] == [
        (None, 6, 6, 2)
    ] * 2
    history = model.fit(x, y, epochs=2, shuffle=False, verbose=0).history
    assert np.isfinite(history["feature_loss"]).all()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    arguments = {"initial_epoch": 2, "epochs": 3, "shuffle": False}
    expected = model.fit(x, y, verbose=0, **arguments).history
    assert again.fit(x, y, verbose=0, **arguments).history == expected


@pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="has no float64 unless it is told so at its start",
)
@pytest.mark.parametrize(
    "feature_loss",
    [
        lambda: features.FeatureAdversaries("hidden"),
        lambda: features.Hint("hidden", dense_net(3), "hidden"),
    ],
)
def test_feature_losses_work_in_float64(data, feature_loss):
    x, y = data
    keras.config.set_dtype_policy("float64")
    try:
        model = PeerLearning(
            [dense_net(), dense_net()], feature_loss=feature_loss()
        )
        model.compile("adam", CROSS_ENTROPY)
        history = model.fit(x, y, epochs=2, verbose=0).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert history["loss"][1] < history["loss"][0]


def test_adversaries_work_in_half_precision(data):
    x, y = data
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = PeerLearning(
            [dense_net(), dense_net()],
            feature_loss=features.FeatureAdversaries("hidden"),
        )
        model.compile("adam", CROSS_ENTROPY)
        history = model.fit(x, y, epochs=2, verbose=0).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: adversaries([dense_net()]), ValueError, "two peers or more"),
        (
            lambda: adversaries([dense_net(), map_net(4, 3, "hidden")]),
            ValueError,
            "`tap` must name layers that put out",
        ),
        (
            lambda: adversaries(
                [map_net(4, 3, "hidden"), map_net(6, 3, "hidden")]
            ),
            ValueError,
            "one height and width",
        ),
        (
            lambda: features.FeatureAdversaries("hidden", filters=0),
            ValueError,
            "`filters` must be an integer >= 1",
        ),
        (
            lambda: features.FeatureAdversaries(3),
            TypeError,
            "`tap` must be a list of names",
        ),
    ],
)
def test_adversaries_that_cannot_be(make, error, message):
    with pytest.raises(error, match=message):
        make()
