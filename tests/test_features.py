"""Features of inner layers, heads on them, and what is learned from a head."""

import keras
import naive
import numpy as np
import peers as small
import pytest
from keras import layers
from keras import ops

import keras_smkd
from keras_smkd import divergences
from keras_smkd import features
from keras_smkd.batch import Batch
from keras_smkd.knowledge.fused import FusedClassifier

TAPS = ["hidden", "masked"]


@keras.saving.register_keras_serializable(package="test_features")
class Counting(layers.Layer):
    """Hands on its input, and counts how often."""

    calls = 0

    def call(self, inputs):
        self.calls += 1
        return inputs


def inner_layers(**kwargs):
    return [
        layers.Dense(5, activation="relu", name="hidden", **kwargs),
        layers.BatchNormalization(name="norm", **kwargs),
        Counting(name="counting", **kwargs),
        layers.Dropout(0.5, seed=3, name="masked", **kwargs),
        layers.Dense(3, name="logits", **kwargs),
    ]


def listed(**kwargs):
    return keras.Sequential([keras.Input((4,)), *inner_layers(**kwargs)])


def added():
    peer = keras.Sequential()
    peer.add(keras.Input((4,)))
    for layer in inner_layers():
        peer.add(layer)
    return peer


def built_late():
    peer = keras.Sequential(inner_layers())
    peer(np.zeros((1, 4), "float32"))
    return peer


def functional():
    """With a skip connection around the inner layers."""
    inputs = keras.Input((4,))
    hidden, norm, counting, masked, logits = inner_layers()
    inner = hidden(inputs)
    outer = masked(counting(norm(inner)))
    return keras.Model(inputs, logits(layers.add([inner, outer])))


def compiled():
    peer = functional()
    peer.compile("adam", "mse")
    return peer


class Named(keras.Model):
    """A functional model of a class of its own."""

    def __init__(self):
        inputs = keras.Input((4,))
        outputs = inputs
        for layer in inner_layers():
            outputs = layer(outputs)
        super().__init__(inputs, outputs)


def reloaded(make):
    def again(tmp_path):
        path = tmp_path / "peer.keras"
        make().save(path)
        return keras.saving.load_model(path)

    again.__name__ = f"{make.__name__}_from_a_file"
    return again


MAKERS = [listed, added, built_late, functional, compiled, Named]
MAKERS += [reloaded(make) for make in (listed, added, functional)]


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def peer(request, tmp_path):
    make = request.param
    return make(tmp_path) if make.__name__.endswith("file") else make()


def state_of(peer):
    """The weights, and where the dropout's seeds are."""
    masked = peer.get_layer("masked").seed_generator.state
    return [*peer.get_weights(), naive.numpy_of(masked)]


def assert_equal(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(
            naive.numpy_of(one), naive.numpy_of(other)
        )


@pytest.mark.parametrize("training", [None, False, True])
def test_a_recorder_does_what_the_peer_does_in_one_pass(peer, rng, training):
    x = rng.normal(size=(16, 4)).astype("float32")
    before = state_of(peer)
    config = peer.get_config()
    record = features.recorder(peer, TAPS)
    assert_equal(state_of(peer), before)
    assert peer.get_config() == config
    assert {id(v) for v in record.variables} == {id(v) for v in peer.variables}

    plain = naive.numpy_of(peer(x, training=training))
    after = state_of(peer)
    peer.set_weights(before[:-1])
    peer.get_layer("masked").seed_generator.state.assign(before[-1])
    counting = peer.get_layer("counting")
    counting.calls = 0
    output, found = record(x, training=training)
    assert counting.calls == 1
    assert len(found) == len(TAPS)
    assert_equal([output, *state_of(peer)], [plain, *after])
    moved = [
        not np.array_equal(a, b) for a, b in zip(before, after, strict=True)
    ]
    assert any(moved) == (training is True)


def test_features_are_those_of_the_layers(peer, rng):
    x = rng.normal(size=(16, 4)).astype("float32")
    record = features.recorder(peer, ["masked", "masked", "hidden"])
    output, (masked, again, hidden) = record(x, training=True)
    kernel, bias = peer.get_layer("hidden").get_weights()
    np.testing.assert_allclose(
        naive.numpy_of(hidden), np.maximum(x @ kernel + bias, 0), rtol=1e-5
    )
    assert_equal([masked], [again])
    masked = naive.numpy_of(masked)
    assert (masked == 0).any()
    # One mask: the prediction comes from these features.
    if any(isinstance(layer, layers.Add) for layer in peer.layers):
        masked = masked + naive.numpy_of(hidden)
    kernel, bias = peer.get_layer("logits").get_weights()
    np.testing.assert_allclose(
        naive.numpy_of(output), masked @ kernel + bias, rtol=1e-4, atol=1e-5
    )


def test_no_taps_are_allowed(rng):
    peer = listed()
    x = rng.normal(size=(2, 4)).astype("float32")
    output, found = features.recorder(peer, [])(x)
    assert found == []
    assert_equal([output], [peer(x)])


def test_the_flag_of_an_outer_call_holds(rng):
    peer = listed()
    record = features.recorder(peer, TAPS)

    class Outer(layers.Layer):
        def call(self, inputs):
            return record(inputs)[0]

    x = rng.normal(size=(16, 4)).astype("float32")
    before = state_of(peer)
    Outer()(x, training=False)
    assert_equal(state_of(peer), before)
    Outer()(x, training=True)
    assert not np.array_equal(state_of(peer)[-1], before[-1])


def test_a_model_inside_is_one_layer(rng):
    backbone = listed()
    peer = keras.Sequential(
        [keras.Input((4,)), backbone, layers.Dense(2, name="last")]
    )
    x = rng.normal(size=(2, 4)).astype("float32")
    output, (found,) = features.recorder(peer, [backbone.name])(x)
    assert_equal([output, found], [peer(x), backbone(x)])
    with pytest.raises(ValueError, match=f"'hidden'; .* are '{backbone.name}'"):
        features.recorder(peer, ["hidden"])
    # A Sequential that begins with a model.
    peer = keras.Sequential([backbone, layers.Dense(2)])
    output, (found,) = features.recorder(peer, [backbone.name])(x)
    assert_equal([output, found], [peer(x), backbone(x)])


@pytest.mark.parametrize("structure", [dict, list])
def test_several_inputs(rng, structure):
    inputs = {
        "a": keras.Input((4,), name="a"),
        "b": keras.Input((2,), name="b"),
    }
    inner = layers.Dense(3, name="inner")(inputs["b"])
    outputs = layers.Concatenate()([inputs["a"], inner])
    x = {
        name: rng.normal(size=(5, width)).astype("float32")
        for name, width in (("a", 4), ("b", 2))
    }
    if structure is list:
        inputs, x = list(inputs.values()), list(x.values())
    peer = keras.Model(inputs, outputs)
    output, (found,) = features.recorder(peer, ["inner"])(x)
    assert_equal([output, found], [peer(x), peer(x)[:, 4:]])


class OrNothing(layers.Layer):
    """Adds what may be missing."""

    def call(self, inputs):
        first, second = inputs
        return first if second is None else first + second


def test_an_input_may_be_missing(rng):
    inputs = [keras.Input((4,)), keras.Input((4,), optional=True)]
    inner = layers.Dense(3, name="inner")(OrNothing()(inputs))
    record = features.recorder(keras.Model(inputs, inner), ["inner"])
    x = rng.normal(size=(5, 4)).astype("float32")
    assert_equal([record([x, None])[0]], [record([x, 0 * x])[0]])


def test_maps_of_any_size(rng):
    def make():
        return keras.Sequential(
            [
                keras.Input((None, None, 2)),
                layers.Conv2D(3, 3, name="maps"),
                layers.GlobalAveragePooling2D(),
            ]
        )

    head = features.FeatureFusion("maps")
    head.prepare([make(), image_peer()], 4)
    maps = [rng.normal(size=(2, 5, 7, 3)).astype("float32")] * 2
    assert tuple(head(maps, training=True).shape) == (2, 4)


def test_masks_of_padding_go_on(rng):
    peer = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Embedding(9, 3, mask_zero=True),
            layers.Dense(3, name="inner"),
            layers.GlobalAveragePooling1D(),
        ]
    )
    x = np.array([[1, 2, 0, 0], [3, 4, 5, 0]])
    output, (inner,) = features.recorder(peer, ["inner"])(x)
    inner = naive.numpy_of(inner)
    assert_equal([output], [peer(x)])
    np.testing.assert_allclose(
        naive.numpy_of(output),
        [inner[0, :2].mean(axis=0), inner[1, :3].mean(axis=0)],
        rtol=1e-5,
    )


def test_layers_of_half_precision(rng):
    peer = listed(dtype="mixed_float16")
    x = rng.normal(size=(8, 4)).astype("float32")
    record = features.recorder(peer, TAPS)
    output, found = record(x, training=False)
    assert_equal([output], [peer(x, training=False)])
    dtypes = {keras.backend.standardize_dtype(v.dtype) for v in found}
    assert dtypes == {"float16"}
    head = features.FeatureFusion("hidden", dtype="mixed_float16")
    head.prepare([peer], 3)
    logits = head([found[0]], training=True)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert np.isfinite(naive.numpy_of(logits)).all()


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3, name="hidden")

    def call(self, inputs):
        return self.dense(inputs)


class OwnCall(Named):
    def call(self, inputs, training=None):
        return 2 * super().call(inputs, training=training)


class SequentialWithOwnCall(keras.Sequential):
    def call(self, inputs, training=None):
        return 2 * super().call(inputs, training=training)


def called(peer):
    peer(keras.Input((4,)))
    return peer


def twice():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    return keras.Model(inputs, shared(shared(inputs)))


def two_outputs():
    inputs = keras.Input((4, 3))
    outputs = layers.LSTM(2, return_state=True, name="states")(inputs)
    return keras.Model(inputs, outputs[0])


@pytest.mark.parametrize(
    ("make", "taps", "error", "message"),
    [
        (listed, "hidden", TypeError, "`taps` must be a list of names"),
        (listed, [0], TypeError, r"Received: taps=\[0\]"),
        (
            listed,
            ["hidden", "maps"],
            ValueError,
            r"`taps` must name layers of the peer. Received: 'maps'; .* are "
            "'hidden', 'norm', 'counting', 'masked', 'logits'",
        ),
        (twice, ["shared"], ValueError, "called once.* 'shared', .* 2 times"),
        (two_outputs, ["states"], ValueError, "put out one tensor.*'states'"),
        (
            lambda: keras.Sequential(inner_layers()),
            ["hidden"],
            ValueError,
            "`taps` must be of a model that is built.*keras.Input",
        ),
        *(
            (make, ["hidden"], ValueError, "`call` of its own.*functional")
            for make in (
                Subclassed,
                lambda: called(Subclassed()),
                OwnCall,
                lambda: SequentialWithOwnCall(
                    [keras.Input((4,)), layers.Dense(3, name="hidden")]
                ),
            )
        ),
        (lambda: layers.Dense(3), ["a"], TypeError, "`peer` must be a `keras"),
    ],
)
def test_what_cannot_be_recorded_is_an_error(make, taps, error, message):
    peer = make()
    with pytest.raises(error, match=message):
        features.recorder(peer, taps)


def test_names_for_peers():
    assert features.names_for_peers("a", 2) == ("a", "a")
    assert features.names_for_peers(["a"], 2) == ("a", "a")
    assert features.names_for_peers(("a", "b"), 2) == ("a", "b")
    with pytest.raises(ValueError, match=r"`taps` must be one name.*3 names"):
        features.names_for_peers(["a", "b", "c"], 2)
    with pytest.raises(TypeError, match="`taps` must be a list of names"):
        features.names_for_peers(3, 2)


# Heads.


def image_peer(channels=3, size=6, name="maps"):
    return keras.Sequential(
        [
            keras.Input((size, size, 2)),
            layers.Conv2D(channels, 3, name=name),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )


def dense_peer(units=5):
    return keras.Sequential(
        [keras.Input((2,)), layers.Dense(units, name="maps"), layers.Dense(4)]
    )


HEADS = [features.FeatureFusion, features.FeatureConcatenation]
PEERS = {
    "maps": lambda: [image_peer(3), image_peer(2)],
    "dense": lambda: [dense_peer(5), dense_peer(3)],
}


def randomize(layer, rng):
    """Give weights that no default could stand in for."""
    for variable in layer.variables:
        if variable.dtype == "float32":
            values = rng.uniform(0.5, 1.5, size=variable.shape)
            sign = rng.choice([-1, 1], size=variable.shape)
            is_variance = "variance" in variable.path
            variable.assign(values if is_variance else values * sign)


def features_like(peers, rng, batch=4):
    shapes = [peer.get_layer("maps").output.shape for peer in peers]
    return [
        rng.normal(size=(batch, *shape[1:])).astype("float32")
        for shape in shapes
    ]


def naive_norm(x, layer, training):
    gamma, beta, mean, variance = layer.get_weights()
    if training:
        axes = tuple(range(x.ndim - 1))
        mean, variance = x.mean(axis=axes), x.var(axis=axes)
    return (x - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta


@pytest.mark.parametrize("training", [False, True])
def test_dense_fusion_is_its_formula(rng, training):
    peers = PEERS["dense"]()
    head = features.FeatureFusion("maps", filters=7)
    head.prepare(peers, 4)
    randomize(head, rng)
    x = features_like(peers, rng)
    mixed = np.concatenate(x, axis=-1) @ head.mixing.get_weights()[0]
    assert mixed.shape == (4, 7)
    mixed = np.maximum(naive_norm(mixed, head.norm, training), 0)
    kernel, bias = head.classifier.get_weights()
    found = naive.numpy_of(head(x, training=training))
    np.testing.assert_allclose(
        found, mixed @ kernel + bias, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("training", [False, True])
def test_fusion_of_maps_is_its_formula(rng, training):
    peers = PEERS["maps"]()
    head = features.FeatureFusion("maps")
    head.prepare(peers, 4)
    randomize(head, rng)
    x = features_like(peers, rng)
    joined = np.concatenate(x, axis=-1)
    kernel = head.depthwise.get_weights()[0][..., 0]
    padded = np.pad(joined, ((0, 0), (1, 1), (1, 1), (0, 0)))
    mixed = np.zeros(joined.shape)
    for i in range(3):
        for j in range(3):
            mixed += padded[:, i : i + 4, j : j + 4] * kernel[i, j]
    mixed = np.maximum(naive_norm(mixed, head.first_norm, training), 0)
    mixed = mixed @ head.mixing.get_weights()[0][0, 0]
    # As many filters as the first peer's maps have channels.
    assert mixed.shape == (4, 4, 4, 3)
    mixed = np.maximum(naive_norm(mixed, head.norm, training), 0)
    kernel, bias = head.classifier.get_weights()
    found = naive.numpy_of(head(x, training=training))
    np.testing.assert_allclose(
        found, mixed.mean(axis=(1, 2)) @ kernel + bias, rtol=1e-3, atol=1e-3
    )


def test_concatenation_is_its_formula(rng):
    peers = [image_peer(3, size=6), image_peer(2, size=5), dense_peer(4)]
    head = features.FeatureConcatenation("maps")
    head.prepare(peers, 4)
    randomize(head, rng)
    x = features_like(peers, rng)
    joined = [x[0].mean(axis=(1, 2)), x[1].mean(axis=(1, 2)), x[2]]
    kernel, bias = head.classifier.get_weights()
    np.testing.assert_allclose(
        naive.numpy_of(head(x, training=True)),
        np.concatenate(joined, axis=-1) @ kernel + bias,
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_layer_of_each_peer_by_its_own_name():
    peers = [image_peer(name="first"), image_peer(name="second")]
    head = features.FeatureFusion(["first", "second"])
    assert head.taps == ("first", "second")
    head.prepare(peers, 4)
    assert head.widths == (3, 3)
    with pytest.raises(ValueError, match=r"'second'; .* are 'first'"):
        features.FeatureFusion("second").prepare(peers, 4)
    with pytest.raises(ValueError, match="one name for all peers or one for"):
        features.FeatureFusion(["a", "b", "c"]).prepare(peers, 4)


def test_the_ensemble_is_that_of_the_peers_without_the_head(rng):
    def first_class(y_true, y_pred):
        return y_pred[:, 0]

    peers = [image_peer(name="first"), image_peer(name="second")]
    head = features.FeatureFusion(["first", "second"])
    model = keras_smkd.PeerLearning(
        peers, knowledge="fused_classifier", head=head
    )
    model.compile(
        "sgd", "sparse_categorical_crossentropy", metrics=[first_class]
    )
    x = 5.0 * rng.normal(size=(8, 6, 6, 2)).astype("float32")
    y = rng.integers(0, 4, 8)
    each = model.predict(x, verbose=0, output="all")
    assert np.abs(each["head"] - each["peer_0"]).max() > 1e-2
    mean = (each["peer_0"] + each["peer_1"]) / 2
    np.testing.assert_allclose(
        model.predict(x, verbose=0), mean, rtol=1e-5, atol=1e-6
    )
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    expected = {
        "first_class": mean,
        **{f"{name}_first_class": probs for name, probs in each.items()},
    }
    for name, probs in expected.items():
        np.testing.assert_allclose(logs[name], probs[:, 0].mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("peers", "shapes"),
    [
        (
            lambda: [image_peer(size=6), image_peer(size=5)],
            r"height and width.*\(None, 4, 4, 3\) and \(None, 3, 3, 3\)",
        ),
        (
            lambda: [image_peer(), dense_peer()],
            r"maps in all peers.*\(None, 4, 4, 3\) and \(None, 5\)",
        ),
    ],
)
def test_features_that_do_not_fit_are_an_error(peers, shapes):
    with pytest.raises(ValueError, match=shapes):
        features.FeatureFusion("maps").prepare(peers(), 4)


@pytest.mark.parametrize("kind", HEADS)
def test_wrong_heads_are_errors(kind):
    with pytest.raises(TypeError, match="`tap` must be a list of names"):
        kind(3)
    sequence = keras.Sequential(
        [keras.Input((4, 3)), layers.Dense(2, name="maps"), layers.Flatten()]
    )
    with pytest.raises(ValueError, match=r"\(batch, units\).*\(None, 4, 2\)"):
        kind("maps").prepare([sequence], 8)
    with pytest.raises(ValueError, match="must know the number of classes"):
        kind("maps")([np.zeros((1, 2), "float32")])
    head = kind("maps")
    head.prepare(PEERS["dense"](), 4)
    weights = [id(v) for v in head.variables]
    head.prepare(PEERS["dense"](), 4)
    assert [id(v) for v in head.variables] == weights
    for peers, classes in ((PEERS["dense"](), 5), (PEERS["dense"]()[::-1], 4)):
        with pytest.raises(ValueError, match="`head` must be prepared once"):
            head.prepare(peers, classes)


def test_wrong_filters_are_errors():
    with pytest.raises(ValueError, match="`filters` must be an integer >= 1"):
        features.FeatureFusion("maps", filters=0)
    with pytest.raises(TypeError, match="`filters` must be an integer"):
        features.FeatureFusion("maps", filters=2.0)


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_is_made_again_from_its_configuration(kind):
    for tap in ("maps", ["a", "b"]):
        head = kind(tap, name="fused")
        again = kind.from_config(head.get_config())
        assert again.get_config() == head.get_config()
        assert (again.tap, again.taps, again.name) == (
            head.tap,
            head.taps,
            "fused",
        )
        assert not again.built
    assert (
        features.FeatureFusion.from_config(
            features.FeatureFusion("maps", filters=3).get_config()
        ).filters
        == 3
    )


class Together(keras.Model):
    """The least that a model of peers with a head can be."""

    def __init__(self, peers, head, **kwargs):
        super().__init__(**kwargs)
        self.peers = peers
        self.head = head

    def build(self, input_shape):
        self.head.prepare(self.peers, 4)
        names = features.names_for_peers(self.head.taps, len(self.peers))
        records = [
            features.recorder(peer, [name])
            for peer, name in zip(self.peers, names, strict=True)
        ]
        self.run_peers = lambda x, training: [
            record(x, training=training) for record in records
        ]

    def call(self, inputs, training=None):
        passes = self.run_peers(inputs, training)
        found = [inner for _, (inner,) in passes]
        fused = self.head(found, training=training)
        return ops.stack([*(output for output, _ in passes), fused], axis=1)

    def get_config(self):
        return {
            "peers": [
                keras.saving.serialize_keras_object(p) for p in self.peers
            ],
            "head": keras.saving.serialize_keras_object(self.head),
        }

    @classmethod
    def from_config(cls, config):
        return cls(
            [keras.saving.deserialize_keras_object(p) for p in config["peers"]],
            keras.saving.deserialize_keras_object(config["head"]),
        )


def loss_of_the_head(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(
        y_true, y_pred[:, -1], from_logits=True
    )


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("peers", PEERS)
def test_what_the_head_learns_reaches_the_tapped_layers(kind, peers, rng):
    model = Together(PEERS[peers](), kind("maps"))
    model.compile(keras.optimizers.SGD(0.1), loss_of_the_head)
    shape = model.peers[0].input_shape[1:]
    x = rng.normal(size=(8, *shape)).astype("float32")
    y = rng.integers(0, 4, size=(8, 1))
    before = [peer.get_weights() for peer in model.peers]
    first = model.fit(x, y, verbose=0, shuffle=False).history["loss"][0]
    for peer, weights in zip(model.peers, before, strict=True):
        moved = [
            not np.array_equal(old, new)
            for old, new in zip(weights, peer.get_weights(), strict=True)
        ]
        # The tapped layer's two weights, not those of the peer's classifier.
        assert moved[0] and not any(moved[2:])
    last = model.fit(x, y, epochs=5, verbose=0).history["loss"][-1]
    assert last < first


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("peers", PEERS)
def test_a_file_holds_every_weight_once(kind, peers, rng, tmp_path):
    model = Together(PEERS[peers](), kind("maps"))
    shape = model.peers[0].input_shape[1:]
    x = rng.normal(size=(3, *shape)).astype("float32")
    model(x)
    randomize(model.head, rng)
    before = naive.numpy_of(model(x))
    held = {id(v) for v in model.variables}
    own = {id(v) for part in [*model.peers, model.head] for v in part.variables}
    assert held == own
    assert len(model.variables) == len(held)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(
        tmp_path / "model.keras", custom_objects={"Together": Together}
    )
    np.testing.assert_allclose(naive.numpy_of(again(x)), before, rtol=1e-6)

    model.save_weights(tmp_path / "model.weights.h5")
    other = Together(small.copies(model.peers), kind("maps"))
    other(x)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(naive.numpy_of(other(x)), before, rtol=1e-6)
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "model.weights.h5") as file:
        stored = []
        file.visititems(
            lambda _, item: (
                stored.append(item)
                if isinstance(item, h5py.Dataset)
                and item.parent.name[-4:] == "vars"
                else None
            )
        )
        assert len(stored) == len(held)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("peers", PEERS)
def test_a_head_can_be_a_layer_of_a_functional_model(
    kind, peers, rng, tmp_path
):
    peers = PEERS[peers]()
    head = kind("maps")
    head.prepare(peers, 4)
    randomize(head, rng)
    inputs = keras.Input(peers[0].input_shape[1:])
    records = [features.recorder(peer, ["maps"]) for peer in peers]
    found = [record(inputs)[1][0] for record in records]
    model = keras.Model(inputs, head(found))
    model.save(tmp_path / "fused.keras")
    again = keras.saving.load_model(tmp_path / "fused.keras")
    x = rng.normal(size=(3, *inputs.shape[1:])).astype("float32")
    np.testing.assert_allclose(
        naive.numpy_of(again(x)), naive.numpy_of(model(x)), rtol=1e-6
    )


# Knowledge.


def fused_batch(logits, part, **fields):
    batch = Batch(logits=ops.convert_to_tensor(logits), **fields)
    known = part(batch)
    return batch.filled(knowledge_logits=known.logits, routes=known.routes)


def prepared(num_peers, **kwargs):
    part = FusedClassifier(**kwargs)
    part.prepare([None] * num_peers, 4)
    return part


def naive_k(student, teacher, temperature=3.0):
    """Kim et al.'s K(a, b), for each example."""
    rows = zip(student, teacher, strict=True)
    result = []
    for one, other in rows:
        p = np.exp(naive.naive_log_softmax(one, temperature))
        q = np.exp(naive.naive_log_softmax(other, temperature))
        result.append(temperature**2 * naive.naive_kl(q, p))
    return np.array(result)


def test_the_whole_objective_of_feature_fusion_learning(rng):
    z = rng.normal(size=(6, 3, 4))
    labels = np.eye(4)[rng.integers(0, 4, size=6)]
    weight = 0.3
    batch = fused_batch(z.astype("float32"), prepared(2), labels=labels)
    divergence = divergences.KullbackLeibler(3.0)
    supervised = -np.sum(
        labels[:, None] * naive.numpy_of(batch.log_probs), axis=-1
    )
    ours = np.mean(
        supervised.sum(axis=1)
        + weight
        * divergence.factor
        * naive.numpy_of(divergence(batch)).sum(axis=1)
    )
    entropies = [
        -(labels * naive.naive_log_softmax(z[:, i])).sum(axis=-1)
        for i in range(3)
    ]
    mean = (z[:, 0] + z[:, 1]) / 2
    theirs = np.mean(
        sum(entropies)
        + weight
        * (
            naive_k(z[:, 0], z[:, 2])
            + naive_k(z[:, 1], z[:, 2])
            + naive_k(z[:, 2], mean)
        )
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_no_gradient_flows_through_the_knowledge(rng):
    z = rng.normal(size=(2, 4, 5)).astype("float32")
    divergence = divergences.KullbackLeibler(3.0)
    part = prepared(3)

    def of_learners(*learners):
        return lambda logits: ops.sum(
            ops.take(divergence(fused_batch(logits, part)), learners, axis=1)
        )

    grad = naive.gradient(of_learners(0, 1, 2), z)
    assert np.all(grad[:, 3] == 0) and np.all(grad[:, :3] != 0)
    grad = naive.gradient(of_learners(3), z)
    assert np.all(grad[:, :3] == 0) and np.all(grad[:, 3] != 0)
    known = naive.gradient(
        lambda logits: ops.sum(part(Batch(logits=logits)).logits), z
    )
    assert not known.any()


@pytest.mark.parametrize(
    ("arguments", "routes", "sources"),
    [
        ({}, [[1, 0], [1, 0], [0, 1]], [2, "mean"]),
        ({"to_head": False}, [[1], [1], [0]], [2]),
        ({"to_peers": False}, [[0], [0], [1]], ["mean"]),
    ],
)
def test_who_learns_from_whom(rng, arguments, routes, sources):
    z = rng.normal(size=(5, 3, 4)).astype("float32")
    part = prepared(2, **arguments)
    batch = Batch(logits=ops.convert_to_tensor(z))
    known = part(batch)
    np.testing.assert_array_equal(known.routes, routes)
    expected = [
        z[:, :2].mean(axis=1) if source == "mean" else z[:, source]
        for source in sources
    ]
    np.testing.assert_allclose(
        naive.numpy_of(known.logits), np.stack(expected, axis=1), rtol=1e-6
    )
    again = FusedClassifier.from_config(part.get_config())
    assert again == part
    assert part.get_config().keys() == {"to_peers", "to_head"}
    # Not prepared, the last learner is taken for the head.
    np.testing.assert_array_equal(again(batch).routes, routes)


def test_probabilities_will_do(rng):
    z = rng.normal(size=(5, 3, 4)).astype("float32")
    log_probs = naive.naive_log_softmax(z).astype("float32")
    divergence = divergences.KullbackLeibler(3.0)
    batch = Batch(log_probs=ops.convert_to_tensor(log_probs))
    known = prepared(2)(batch)
    batch = batch.filled(knowledge_logits=known.logits, routes=known.routes)
    np.testing.assert_allclose(
        naive.numpy_of(divergence(batch)),
        naive.numpy_of(divergence(fused_batch(z, prepared(2)))),
        rtol=1e-3,
        atol=1e-5,
    )


def test_a_missing_head_is_an_error(rng):
    z = np.zeros((5, 2, 4), "float32")
    with pytest.raises(
        ValueError, match=r"a model with a head.*2 learners, 2 of them peers"
    ):
        prepared(2)(Batch(logits=z))
    with pytest.raises(ValueError, match="1 learners, 1 of them peers"):
        FusedClassifier()(Batch(logits=z[:, :1]))
    with pytest.raises(ValueError, match="FusedClassifier needs predictions"):
        prepared(2)(Batch())
    with pytest.raises(ValueError, match="both False"):
        FusedClassifier(to_peers=False, to_head=False)
    with pytest.raises(TypeError, match="`to_head` must be True or False"):
        FusedClassifier(to_head=1)
