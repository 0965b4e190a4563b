"""Sources of knowledge in a model: values, files, what moves, bad input."""

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from naive import naive_kl
from naive import naive_log_softmax
from naive import numpy_of
from peers import copies
from peers import functional_net
from peers import linear
from peers import mlp
from thrift import cases

import keras_smkd
from keras_smkd import PeerLearning
from keras_smkd import batch as batch_module
from keras_smkd import divergences
from keras_smkd import knowledge
from keras_smkd.batch import Batch
from keras_smkd.batch import Knowledge
from keras_smkd.knowledge.permuted import permuted

SIZE = 24


@pytest.fixture
def data(rng):
    x = rng.normal(size=(SIZE, 6)).astype("float32")
    return x, rng.integers(0, 4, SIZE)


def teacher():
    return mlp(width=5)


# From a name to (number of peers, the arguments of the model).
MODELS = {
    "peers": lambda: (2, {"knowledge": "peers"}),
    "teacher": lambda: (1, {"knowledge": knowledge.Teacher(teacher())}),
    "teachers": lambda: (
        2,
        {
            "knowledge": knowledge.Teacher([teacher(), teacher()], "mean"),
            "divergence": divergences.LogitSquaredError(),
        },
    ),
    "averaged": lambda: (2, {"knowledge": knowledge.AveragedPeers(0.7)}),
    "mean_teacher": lambda: (
        1,
        {
            "knowledge": knowledge.AveragedPeers(0.7),
            "divergence": "squared_error",
        },
    ),
    "past": lambda: (
        2,
        {
            "knowledge": knowledge.PastPredictions(SIZE, routes="others"),
            "divergence": "squared_error",
        },
    ),
    "several": lambda: (
        2,
        {
            "knowledge": knowledge.Several(
                [
                    knowledge.PeerPredictions(),
                    knowledge.AveragedPeers(0.7, "itself"),
                    knowledge.PastPredictions(SIZE),
                    knowledge.Teacher(teacher()),
                ]
            ),
            "selection": "margin",
            "gate": "label",
            "target": "proselflc",
        },
    ),
    "permuted": lambda: (
        1,
        {
            "knowledge": knowledge.PermutedKnowledge(
                knowledge.Teacher(teacher()), seed=3
            )
        },
    ),
    "independent": lambda: (1, {}),
}


def model_of(name, make=mlp, **compiled):
    count, arguments = MODELS[name]()
    model = PeerLearning([make() for _ in range(count)], **arguments)
    model.compile(
        compiled.pop("optimizer", "adam"),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        **compiled,
    )
    return model


def fit(model, x, y, **kwargs):
    return model.fit(
        x,
        y,
        **{"batch_size": 8, "shuffle": False, "verbose": 0, **kwargs},
    ).history


FEW = ("past", "several")


@pytest.mark.parametrize("name", cases(MODELS, FEW))
def test_a_saved_model_goes_on_with_equal_losses_and_weights(
    name, data, tmp_path
):
    model = model_of(name, make=lambda: mlp(dropout=0.3))
    fit(model, *data, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = {"initial_epoch": 2, "epochs": 4}
    assert fit(loaded, *data, **again) == fit(model, *data, **again)
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(ours), numpy_of(theirs))


@pytest.mark.parametrize("name", cases(MODELS, FEW))
def test_weights_alone_bring_everything_back(name, data, tmp_path):
    model = model_of(name, optimizer="sgd")
    fit(model, *data, epochs=2)
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    expected = {
        "rest": fit(model, *data, initial_epoch=2, epochs=3),
        "weights": model.get_weights(),
    }
    model.load_weights(path)
    assert fit(model, *data, initial_epoch=2, epochs=3) == expected["rest"]
    for ours, theirs in zip(
        model.get_weights(), expected["weights"], strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", cases(MODELS, FEW))
def test_a_step_calls_each_peer_once(name, data):
    model = model_of(name, optimizer=keras.optimizers.SGD(0.0))
    (plain, *_) = copies(model.peers[:1])
    x, y = data
    fit(model, x[:8], y[:8], epochs=1)
    plain(x[:8], training=True)
    for ours, theirs in zip(
        model.peers[0].non_trainable_variables,
        plain.non_trainable_variables,
        strict=True,
    ):
        np.testing.assert_allclose(numpy_of(ours), numpy_of(theirs), rtol=1e-6)


@pytest.mark.parametrize("name", cases(MODELS, FEW))
def test_eager_and_compiled_steps_agree(name, data):
    models = [model_of(name), None]
    config = models[0].get_config()
    models[1] = PeerLearning.from_config(config)
    models[1].set_weights(models[0].get_weights())
    models[1].compile(
        "adam",
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        run_eagerly=True,
    )
    compiled, eager = (fit(model, *data, epochs=2) for model in models)
    assert compiled.keys() == eager.keys()
    for name_of_log in compiled:
        np.testing.assert_allclose(
            compiled[name_of_log],
            eager[name_of_log],
            rtol=2e-4,
            atol=1e-5,
            err_msg=name_of_log,
        )


@pytest.mark.parametrize("name", cases(MODELS, FEW))
def test_mixed_precision_is_near_to_float32(name, data):
    full = model_of(name, optimizer=keras.optimizers.SGD(0.01))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = model_of(name, optimizer=keras.optimizers.SGD(0.01))
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(full.get_weights())
    losses = [fit(model, *data, epochs=1)["loss"][0] for model in (full, half)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)
    for part in knowledge.parts_of(half.knowledge):
        if isinstance(part, knowledge.AveragedPeers):
            dtypes = {weight.dtype for weight in part.weights}
            assert dtypes == {"float32"}


@pytest.mark.parametrize("name", ["several", "averaged", "teacher"])
def test_one_fit_traces_the_objective_once(name, data, monkeypatch):
    if keras.backend.backend() == "torch":
        pytest.skip("torch runs every step as it is written")
    calls = []
    original = PeerLearning.compute_loss

    def counting(self, *args, **kwargs):
        calls.append(kwargs.get("training"))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(PeerLearning, "compute_loss", counting)
    model = model_of(name)
    fit(model, *data, epochs=3)
    # Once more when Keras builds the optimizer and the metrics.
    assert len(calls) <= 2


# Teachers.


def test_a_teacher_teaches_what_it_predicts(data):
    x, y = data
    student, own = linear(), linear()
    model = PeerLearning(
        [student],
        knowledge=knowledge.Teacher(own),
        divergence=divergences.KullbackLeibler(2.0),
        distillation_weight=0.7,
        supervised_weight=0.3,
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    p, q = (
        naive_log_softmax(x @ net.get_weights()[0], 2.0)
        for net in (student, own)
    )
    divergence = 4.0 * np.mean(
        [naive_kl(np.exp(a), np.exp(b)) for a, b in zip(q, p, strict=True)]
    )
    one = naive_log_softmax(x @ student.get_weights()[0])
    supervised = -np.mean(one[np.arange(SIZE), y])
    np.testing.assert_allclose(logs["distillation_loss"], divergence, rtol=1e-5)
    np.testing.assert_allclose(
        logs["loss"], 0.7 * divergence + 0.3 * supervised, rtol=1e-5
    )
    assert "selection_rate" not in logs and "threshold" not in logs


def test_a_teacher_has_no_dropout(data):
    x, _ = data
    own = mlp(dropout=0.5)
    batch = Batch(x=x, logits=ops.zeros((SIZE, 1, 4)), training=True)
    np.testing.assert_allclose(
        numpy_of(knowledge.Teacher(own)(batch).logits)[:, 0],
        numpy_of(own(x, training=False)),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_teacher_never_learns_and_never_thaws(data):
    own = mlp(dropout=0.5)
    before = own.get_weights()
    model = PeerLearning([linear()], knowledge=knowledge.Teacher(own))
    model.trainable = True
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    assert len(model.trainable_variables) == 1
    fit(model, *data, epochs=2)
    for was, now in zip(before, own.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


def test_teachers_are_combined_as_said(rng):
    x = rng.normal(size=(5, 6)).astype("float32")
    nets = [linear(), linear()]
    logits = np.stack([x @ net.get_weights()[0] for net in nets], axis=1)
    batch = Batch(x=x, logits=ops.zeros((5, 1, 4)))
    each = knowledge.Teacher(nets)(batch)
    np.testing.assert_allclose(numpy_of(each.logits), logits, rtol=1e-5)
    np.testing.assert_array_equal(each.routes, [[0.5, 0.5]])
    mean = knowledge.Teacher(nets, "mean_logits")(batch)
    np.testing.assert_allclose(
        numpy_of(mean.logits)[:, 0], logits.mean(axis=1), rtol=1e-5, atol=1e-6
    )
    probs = np.exp(naive_log_softmax(logits)).mean(axis=1)
    mean = knowledge.Teacher(nets, "mean")(batch)
    np.testing.assert_allclose(
        np.exp(numpy_of(mean.logits)[:, 0]), probs, rtol=1e-5
    )


def test_a_teacher_of_probabilities_gives_their_logarithms(rng):
    x = rng.normal(size=(5, 6)).astype("float32")
    net = keras.Sequential([linear(), keras.layers.Softmax()])
    net.build((None, 6))
    found = knowledge.Teacher(net, from_logits=False)(
        Batch(x=x, logits=ops.zeros((5, 1, 4)))
    )
    np.testing.assert_allclose(
        np.exp(numpy_of(found.logits)[:, 0]), numpy_of(net(x)), rtol=1e-5
    )


def test_weights_files_have_a_digest_of_the_teacher_only(data, tmp_path):
    own, other = mlp(), mlp()
    model = PeerLearning([linear()], knowledge=knowledge.Teacher(own))
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    model.save(tmp_path / "model.keras")
    names = []
    with h5py.File(path) as file:
        file["knowledge"].visititems(
            lambda name, item: (
                names.append(name) if isinstance(item, h5py.Dataset) else None
            )
        )
    assert names == ["vars/digest"]
    # A whole file that was written does not change what comes after it.
    after = tmp_path / "after.weights.h5"
    model.save_weights(after)
    assert after.stat().st_size == path.stat().st_size
    again = PeerLearning([linear()], knowledge=knowledge.Teacher(own))
    again.load_weights(path)
    wrong = PeerLearning([linear()], knowledge=knowledge.Teacher(other))
    with pytest.raises(ValueError, match="must be the one that the weights"):
        wrong.load_weights(path)


def test_a_student_needs_no_labels_where_they_have_no_weight(rng):
    x = rng.normal(size=(SIZE, 6)).astype("float32")
    own = linear()
    model = keras_smkd.methods.model_compression(linear(), [own, linear()])
    model.compile(keras.optimizers.Adam(0.1))
    history = fit(model, x, None, epochs=20)
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert history.keys() == {"loss", "distillation_loss"}


def test_labels_that_have_a_weight_must_be_given(rng):
    x = rng.normal(size=(SIZE, 6)).astype("float32")
    model = PeerLearning([linear()], knowledge=knowledge.Teacher(linear()))
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="`y` must be given"):
        fit(model, x, None, epochs=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda peer: linear(classes=5), "must have the peers' 4 classes"),
        (lambda peer: linear(features=7), "must take the peers' inputs"),
        (lambda peer: peer, "must share no weights with the peers"),
        (
            lambda peer: keras.Sequential([keras.Input((6,)), *peer.layers]),
            "must share no weights with the peers",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(make, message):
    peer = linear()
    with pytest.raises(ValueError, match=message):
        PeerLearning([peer], knowledge=knowledge.Teacher(make(peer)))


def test_what_is_no_teacher_is_refused():
    with pytest.raises(TypeError, match=r"must be a `keras\.Model` or a list"):
        knowledge.Teacher(keras.layers.Dense(4))
    with pytest.raises(ValueError, match="an empty list"):
        knowledge.Teacher([])
    with pytest.raises(ValueError, match="must be built, and trained"):
        knowledge.Teacher(keras.Sequential([keras.layers.Dense(4)]))
    with pytest.raises(ValueError, match="`combine` must be one of"):
        knowledge.Teacher(linear(), combine="median")


# Past predictions.


def test_past_predictions_are_averages_of_earlier_visits(data):
    x, _ = data
    part = knowledge.PastPredictions(SIZE, momentum=0.5)
    part.prepare([linear()], 4)
    index = ops.arange(8, dtype="int32")
    logits = ops.convert_to_tensor(x[:8, None, :4])
    batch = Batch(logits=logits, index=index, training=True)
    first = part(batch)
    np.testing.assert_array_equal(numpy_of(first.available), np.zeros((8, 1)))
    second = part(Batch(logits=-logits, index=index, training=True))
    p = np.exp(naive_log_softmax(x[:8, None, :4]))
    np.testing.assert_allclose(np.exp(numpy_of(second.log_probs)), p, rtol=1e-5)
    third = part(batch)
    q = np.exp(naive_log_softmax(-x[:8, None, :4]))
    np.testing.assert_allclose(
        np.exp(numpy_of(third.log_probs)),
        (0.5 * p + q) / 1.5,
        rtol=1e-5,
    )
    silent = part(Batch(logits=logits))
    np.testing.assert_array_equal(numpy_of(silent.available), np.zeros((8, 1)))


def test_a_first_visit_adds_no_distillation(data):
    model = model_of("past")
    history = fit(model, *data, epochs=2)
    assert history["distillation_loss"][0] == 0
    assert history["distillation_loss"][1] > 0


def test_a_selection_passes_on_only_what_is_there(data):
    selection = keras_smkd.selection.ConfidentKnowledge(threshold=2.0)
    past = knowledge.PastPredictions(SIZE)
    model = PeerLearning([linear()], knowledge=past, selection=selection)
    model.compile("sgd", "sparse_categorical_crossentropy")
    history = fit(model, *data, epochs=2)
    assert history["selection_rate"] == [0.0, 1.0]
    assert history["distillation_loss"][0] == 0


def test_streams_must_bring_the_index(data):
    x, y = data
    model = model_of("past")
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, SIZE, 8)]

    class Data(keras.utils.PyDataset):
        def __len__(self):
            return len(batches)

        def __getitem__(self, i):
            return batches[i]

    with pytest.raises(ValueError, match="labels without an index"):
        model.fit(Data(), verbose=0)


def test_a_place_outside_the_data_set_is_refused(data):
    x, y = data
    model = model_of("past")
    labels = {"label": y, "index": np.arange(SIZE) + 1}
    with pytest.raises(ValueError, match="must be in \\[0, 24\\)"):
        fit(model, x, labels)


# Several, and plain functions.


def test_several_sources_stand_side_by_side(rng):
    logits = rng.normal(size=(3, 2, 4)).astype("float32")

    def other(batch):
        return Knowledge(
            log_probs=ops.log_softmax(ops.zeros((3, 1, 4))),
            routes=np.array([[2.0], [0.0]]),
            available=ops.convert_to_tensor([[1.0], [0.0], [1.0]]),
        )

    found = knowledge.Several([knowledge.PeerPredictions(), other])(
        Batch(logits=ops.convert_to_tensor(logits))
    )
    np.testing.assert_array_equal(found.routes, [[0, 1, 2], [1, 0, 0]])
    np.testing.assert_array_equal(
        numpy_of(found.available), [[1, 1, 1], [1, 1, 0], [1, 1, 1]]
    )
    np.testing.assert_allclose(
        numpy_of(found.log_probs)[:, :2],
        naive_log_softmax(logits),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        numpy_of(found.log_probs)[:, 2], np.log(0.25), rtol=1e-6
    )


def test_a_plain_function_is_a_source(data):
    x, y = data
    sure = np.log(np.array([0.97, 0.01, 0.01, 0.01], "float32"))

    def first_class(batch):
        size = ops.shape(batch.logits)[0]
        return Knowledge(log_probs=ops.tile(sure[None, None], (size, 1, 1)))

    student = linear()
    model = PeerLearning([student], knowledge=first_class, supervised_weight=0)
    model.compile(keras.optimizers.SGD(0.0))
    found = fit(model, x, y)["loss"][0]
    p = naive_log_softmax(x @ student.get_weights()[0])
    expected = np.mean([naive_kl(np.exp(sure), np.exp(row)) for row in p])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        (lambda batch: batch.logits, TypeError, "must give a `keras_smkd"),
        (
            lambda batch: Knowledge(logits=batch.logits[..., :2]),
            ValueError,
            r"`knowledge` must give shape \(.*, 4\)",
        ),
        (
            lambda batch: Knowledge(
                logits=batch.logits, routes=np.ones((1, 3))
            ),
            ValueError,
            r"must have shape \(learners, sources\) = \(2, 2\)",
        ),
        (
            lambda batch: Knowledge(
                logits=batch.logits, routes=[[0.0, -1.0], [1.0, 0.0]]
            ),
            ValueError,
            "must be finite and >= 0",
        ),
    ],
)
def test_wrong_knowledge_is_named(part, error, message, data):
    model = PeerLearning([linear(), linear()], knowledge=part)
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(error, match=message):
        fit(model, *data)


def test_wrong_sources_are_refused():
    with pytest.raises(ValueError, match="must be a list of two parts"):
        knowledge.Several([knowledge.PeerPredictions()])
    with pytest.raises(TypeError, match="must be callables of the batch"):
        knowledge.Several([knowledge.PeerPredictions(), "peers"])
    with pytest.raises(ValueError, match="`knowledge` must be one of"):
        PeerLearning([linear()], knowledge="teacher")
    with pytest.raises(ValueError, match="must be 2 or more"):
        batch_module.to_others(1)


def test_a_permutation_keeps_the_largest_and_moves_the_rest(rng):
    log_probs = naive_log_softmax(rng.normal(size=(50, 2, 5))).astype("float32")
    noise = rng.random((50, 2, 5)).astype("float32")
    found = numpy_of(permuted(log_probs, noise))
    np.testing.assert_array_equal(
        found.argmax(axis=-1), log_probs.argmax(axis=-1)
    )
    np.testing.assert_array_equal(
        np.sort(found, axis=-1), np.sort(log_probs, axis=-1)
    )
    for n in range(50):
        row, keys = log_probs[n, 0], noise[n, 0]
        rest = [c for c in range(5) if c != row.argmax()]
        order = sorted(rest, key=lambda c: keys[c])
        expected = row.copy()
        expected[rest] = row[order]
        np.testing.assert_array_equal(found[n, 0], expected)


def test_a_permutation_speaks_where_its_source_does(rng):
    given = Knowledge(
        logits=ops.convert_to_tensor(rng.normal(size=(3, 2, 4))),
        routes=np.array([[2.0, 1.0]]),
        available=ops.convert_to_tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
    )
    part = knowledge.PermutedKnowledge(lambda batch: given, seed=1)
    found = part(Batch(training=True))
    np.testing.assert_array_equal(found.routes, given.routes)
    np.testing.assert_array_equal(
        numpy_of(found.available), numpy_of(given.available)
    )


def test_a_permutation_is_for_training_only(data):
    x, _ = data
    own = functional_net()
    part = knowledge.PermutedKnowledge(knowledge.Teacher(own), seed=1)
    logits = ops.zeros((SIZE, 1, 4))
    plain = numpy_of(part(Batch(x=x, logits=logits)).logits)
    np.testing.assert_allclose(plain[:, 0], numpy_of(own(x)), rtol=1e-5)
    moved = numpy_of(part(Batch(x=x, logits=logits, training=True)).log_probs)
    again = numpy_of(part(Batch(x=x, logits=logits, training=True)).log_probs)
    assert np.any(moved != again)


def test_a_permuted_memory_needs_what_the_memory_does(data):
    source = knowledge.PermutedKnowledge(knowledge.PastPredictions(SIZE))
    model = PeerLearning([linear()], knowledge=source)
    assert model.needs_index
    model.compile("sgd", "sparse_categorical_crossentropy")
    fit(model, *data, epochs=2)
    assert np.all(numpy_of(source.source.memory).sum(axis=-1) > 0)
