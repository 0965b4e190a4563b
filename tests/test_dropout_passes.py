"""Several passes with dropout: values, what moves, selection by them, files."""

import keras
import numpy as np
import pytest
from keras import ops
from naive import naive_entropy
from naive import naive_log_softmax
from naive import numpy_of
from peers import linear
from peers import mlp

import keras_smkd
from keras_smkd import functional
from keras_smkd import selection
from keras_smkd.batch import Batch
from keras_smkd.batch import Knowledge
from keras_smkd.knowledge import DropoutPasses

LOSS = "sparse_categorical_crossentropy"
NAMES = list(functional.SAMPLE_MEASURES)


@pytest.fixture
def data(rng):
    x = rng.normal(size=(24, 6)).astype("float32")
    return x, rng.integers(0, 4, 24)


def some_samples(rng, size):
    """Passes of two sources that are of one mind on most examples."""
    logits = 4 * rng.normal(size=(size, 2, 4))
    return naive_log_softmax(logits + rng.normal(size=(6, size, 2, 4))).astype(
        "float32"
    )


def naive_measures(probs):
    """In nats, and the share of missed modes, of one `(passes, classes)`."""
    mean = probs.mean(axis=0)
    entropy = naive_entropy(mean)
    votes = [int(np.argmax(p)) for p in probs]
    modal = max(votes.count(c) for c in votes)
    return {
        "predictive_entropy": entropy,
        "mutual_information": entropy
        - sum(naive_entropy(p) for p in probs) / len(probs),
        "variation_ratio": 1 - modal / len(votes),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_measures_are_those_of_the_naive_loop(rng, name, scale):
    logits = scale * rng.normal(size=(5, 3, 2, 4))
    log_probs = naive_log_softmax(logits)
    raw = numpy_of(getattr(functional, name)(log_probs.astype("float32")))
    shared = numpy_of(functional.uncertainty(log_probs.astype("float32"), name))
    assert raw.shape == shared.shape == (3, 2)
    unit = 1.0 if name == "variation_ratio" else np.log(4)
    for index in np.ndindex(3, 2):
        wanted = naive_measures(np.exp(log_probs[:, *index]))[name]
        np.testing.assert_allclose(raw[index], wanted, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            shared[index], wanted / unit, rtol=1e-4, atol=1e-6
        )


def test_limits_of_the_measures():
    one_hot = np.log(np.eye(3) + 1e-45).astype("float32")
    same = np.stack([one_hot[0]] * 4)
    uniform = np.full((4, 3), -np.log(3), "float32")
    found = {
        name: [
            float(functional.uncertainty(samples, name))
            for samples in (same, uniform, one_hot)
        ]
        for name in NAMES
    }
    for name, wanted in {
        "predictive_entropy": [0, 1, 1],
        "mutual_information": [0, 0, 1],
        "variation_ratio": [0, 0, 2 / 3],
    }.items():
        np.testing.assert_allclose(found[name], wanted, atol=1e-6)
    exact = np.array([[0.0, -np.inf], [-np.inf, 0.0]], "float32")
    for name in NAMES:
        assert np.isfinite(float(functional.uncertainty(exact, name)))
    # One pass that is not finite is enough.
    bad = np.array([[0.0, -np.inf], [np.nan, 0.0]], "float32")
    for name in NAMES:
        assert np.isnan(float(functional.uncertainty(bad, name)))


def test_the_mutual_information_of_equal_passes_is_not_negative(rng):
    one = naive_log_softmax(rng.normal(size=(500, 4)))
    samples = np.stack([one] * 3).astype("float32")
    found = numpy_of(functional.mutual_information(samples))
    assert 0.0 <= found.min() and found.max() < 1e-5


def functional_net():
    """Dropout inside of a model inside, and batch normalisation."""
    inner = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5, seed=5),
        ]
    )
    inputs = keras.Input((6,))
    return keras.Model(inputs, keras.layers.Dense(4)(inner(inputs)))


def spatial_net():
    """Maps, spatial dropout and a layer without dropout's argument."""
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Reshape((3, 2, 1)),
            keras.layers.Conv2D(5, 1),
            keras.layers.SpatialDropout2D(0.5, seed=3),
            keras.layers.Flatten(),
            keras.layers.Dense(4),
        ]
    )


NETS = [lambda: mlp(dropout=0.5), functional_net, spatial_net]


def prepared(peers, **kwargs):
    part = DropoutPasses(**kwargs)
    part.prepare(peers, 4)
    return part


@pytest.mark.parametrize("make", NETS)
def test_passes_differ_and_their_mean_is_known(data, make):
    x = data[0]
    part = prepared([make(), make()], passes=5)
    before = [v for run in part._runs() for v in run.get_weights()]
    known = part(Batch(x=x, logits=ops.zeros((24, 2, 4))))
    samples = numpy_of(known.samples)
    assert samples.shape == (5, 24, 2, 4)
    probs = np.exp(samples)
    np.testing.assert_allclose(probs.sum(axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(
        np.exp(numpy_of(known.log_probs)), probs.mean(axis=0), rtol=1e-5
    )
    for s in range(1, 5):
        assert (np.abs(probs[s] - probs[0]).max(axis=-1) > 1e-3).mean() > 0.6
    assert known.routes.tolist() == [[0, 1], [1, 0]]
    after = [v for run in part._runs() for v in run.get_weights()]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_pass_is_of_each_example(data):
    x = data[0]
    peer = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dropout(0.0),
            keras.layers.Dense(4),
        ]
    )
    part = prepared([peer], passes=3)
    known = part(Batch(x=x, logits=ops.zeros((24, 1, 4))))
    expected = naive_log_softmax(numpy_of(peer(x)))
    for samples in numpy_of(known.samples):
        np.testing.assert_allclose(
            samples[:, 0], expected, rtol=1e-5, atol=1e-6
        )


def test_the_mean_of_many_passes_is_what_dropout_gives_by_hand(rng):
    """A linear peer on kept inputs: each mask is one of four."""
    peer = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dropout(0.5, seed=1),
            keras.layers.Dense(2, use_bias=False),
        ]
    )
    kernel = np.array([[1.0, -1.0], [0.5, 2.0]], "float32")
    peer.set_weights([kernel])
    x = np.array([[1.0, 2.0]], "float32")
    known = prepared([peer], passes=400)(
        Batch(x=x, logits=ops.zeros((1, 1, 2)))
    )
    masks = 2.0 * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    rows = np.exp(naive_log_softmax((masks * x) @ kernel))
    samples = np.exp(numpy_of(known.samples))[:, 0, 0]
    distance = np.abs(samples[:, None] - rows[None]).max(axis=-1)
    assert distance.min(axis=1).max() < 1e-5
    counts = np.bincount(distance.argmin(axis=1), minlength=4)
    assert (counts > 60).all()
    np.testing.assert_allclose(
        np.exp(numpy_of(known.log_probs))[0, 0], samples.mean(axis=0), rtol=1e-4
    )


def test_probabilities_are_taken(data):
    peer = mlp(dropout=1e-6, activation="softmax")
    known = prepared([peer], passes=2)(
        Batch(x=data[0], logits=ops.zeros((24, 1, 4)), from_logits=False)
    )
    np.testing.assert_allclose(
        np.exp(numpy_of(known.samples))[1, :, 0],
        numpy_of(peer(data[0])),
        rtol=1e-4,
    )
    assert known.routes.tolist() == [[1.0]]


@pytest.mark.parametrize("measure", NAMES)
@pytest.mark.parametrize(
    "kind", [selection.ConfidentKnowledge, selection.MostConfidentShare]
)
def test_selection_goes_by_the_samples(rng, measure, kind):
    samples = some_samples(rng, 9)
    batch = Batch(
        knowledge=functional.mean_of_samples(samples),
        samples=ops.convert_to_tensor(samples),
    )
    part = kind(measure, 0.08)
    values = numpy_of(functional.uncertainty(samples, measure))
    wanted = values < 0.08
    if kind is selection.MostConfidentShare:
        top = numpy_of(batch.knowledge).argmax(axis=-1)
        for n, k in np.ndindex(9, 2):
            group = top[:, k] == top[n, k]
            rank = (group & (values[:, k] < values[n, k])).sum()
            wanted[n, k] = rank < np.float32(0.08) * group.sum()
    assert 0 < wanted.sum() < wanted.size
    np.testing.assert_array_equal(numpy_of(part(batch)), wanted)
    with pytest.raises(ValueError, match=r"several passes.*`batch.samples`"):
        part(Batch(knowledge=batch.knowledge))
    assert selection.get(measure) == selection.ConfidentKnowledge(measure)


def given_samples(samples):
    """Knowledge with these passes, whatever the batch is."""
    return lambda batch: Knowledge(
        log_probs=functional.mean_of_samples(samples),
        samples=ops.convert_to_tensor(samples),
        routes=np.array([[0.0, 1.0], [1.0, 0.0]]),
    )


@pytest.mark.parametrize("measure", NAMES)
def test_a_model_selects_by_name(data, rng, measure):
    samples = some_samples(rng, 24)
    model = keras_smkd.PeerLearning(
        [mlp(), mlp()],
        knowledge=given_samples(samples),
        selection=selection.ConfidentKnowledge(measure, 0.08),
    )
    model.compile("adam", LOSS)
    logs = model.fit(*data, batch_size=24, verbose=0).history
    share = (numpy_of(functional.uncertainty(samples, measure)) < 0.08).mean()
    assert 0 < share < 1
    np.testing.assert_allclose(logs["selection_rate"], [share], rtol=1e-5)


def model_of(**kwargs):
    model = keras_smkd.PeerLearning(
        [mlp(dropout=0.5), functional_net()],
        knowledge=DropoutPasses(3),
        selection="mutual_information",
        **kwargs,
    )
    model.compile("adam", LOSS)
    return model


def test_a_model_trains_and_goes_on_from_its_file(data, tmp_path):
    model = model_of()
    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    logs = model.fit(*data, epochs=2, **options).history
    assert all(np.isfinite(values).all() for values in logs.values())
    assert logs["distillation_loss"][0] > 0
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.knowledge == DropoutPasses(3)
    again = {"initial_epoch": 2, "epochs": 4, **options}
    assert (
        loaded.fit(*data, **again).history == model.fit(*data, **again).history
    )
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(ours), numpy_of(theirs))


def test_batch_statistics_move_once_and_gradients_are_the_peers_own(data):
    """With nothing selected the step is that without knowledge."""
    peers = [mlp(dropout=0.0001), mlp(dropout=0.0001)]
    plain = keras_smkd.PeerLearning(peers)
    twin = keras_smkd.PeerLearning.from_config(plain.get_config())
    twin.set_weights(plain.get_weights())
    ours = keras_smkd.PeerLearning(
        twin.peers, knowledge=DropoutPasses(4), distillation_weight=0.0
    )
    for model in (plain, ours):
        model.compile(keras.optimizers.SGD(0.1), LOSS)
        model.fit(*data, batch_size=24, epochs=1, verbose=0)
    for first, second in zip(
        (v for peer in plain.peers for v in peer.get_weights()),
        (v for peer in ours.peers for v in peer.get_weights()),
        strict=True,
    ):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)


def test_the_default_of_one_peer_is_itself(data):
    model = keras_smkd.PeerLearning(
        [mlp(dropout=0.5)], knowledge="dropout_passes"
    )
    model.compile("adam", LOSS)
    model.fit(*data, batch_size=12, verbose=0)
    assert model.knowledge.passes == 8


def test_evaluation_draws_passes_too(data):
    model = model_of()
    logs = model.evaluate(*data, verbose=0, return_dict=True)
    assert 0 < logs["selection_rate"] <= 1


def whole_batch_dropout():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dropout(0.5, noise_shape=(1, 6), name="shared"),
            keras.layers.Dense(4),
        ]
    )


class OwnCall(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DropoutPasses(0), ValueError, "`passes` must be .* >= 1"),
        (lambda: DropoutPasses(2.0), TypeError, "`passes` must be an integer"),
        (
            lambda: prepared([mlp(dropout=0.5), linear()]),
            ValueError,
            r"with a dropout layer.*`peers\[1\]`, 'sequential",
        ),
        (
            lambda: prepared([whole_batch_dropout()]),
            ValueError,
            r"differs between examples.*'shared'",
        ),
        (
            lambda: prepared([OwnCall()]),
            ValueError,
            "`knowledge` must be of a model whose layers are known",
        ),
        (
            lambda: selection.ConfidentKnowledge("bald"),
            ValueError,
            "'mutual_information'",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_other_routes(data):
    batch = Batch(x=data[0], logits=ops.zeros((24, 2, 4)))
    peers = [mlp(dropout=0.5), mlp(dropout=0.5)]
    known = prepared(peers, passes=1, routes="itself")(batch)
    assert known.routes.tolist() == [[1, 0], [0, 1]]
    known = prepared(peers, passes=1, routes=[[1, 0], [1, 0]])(batch)
    assert known.routes.tolist() == [[1, 0], [1, 0]]
