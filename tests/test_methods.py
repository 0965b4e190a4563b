"""The methods: what each is made of, by value."""

import keras
import numpy as np
import pytest
from naive import naive_kl
from naive import naive_log_softmax

from keras_smkd import callbacks
from keras_smkd import divergences
from keras_smkd import gates
from keras_smkd import knowledge
from keras_smkd import methods
from keras_smkd import schedules
from keras_smkd import selection
from keras_smkd import targets
from keras_smkd.model import PeerLearning
from keras_smkd.model import SelectiveMutualDistillation

SIZE = 24


def net():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5, activation="relu", name="features"),
            keras.layers.Dense(4),
        ]
    )


@pytest.fixture
def data(rng):
    x = rng.normal(size=(SIZE, 6)).astype("float32")
    return x, rng.integers(0, 4, SIZE)


def fit(model, x, y, batch_size=8, **kwargs):
    """Return the logs of a training, of a measured ensemble if it has one."""
    measured = []
    for part in knowledge.parts_of(model.knowledge):
        if isinstance(part, knowledge.GeneralEnsemble):
            measured = [callbacks.MeasureEnsemble(x[:12], y[:12])]
    return model.fit(
        x,
        y,
        batch_size=batch_size,
        shuffle=False,
        verbose=0,
        callbacks=measured,
        **kwargs,
    ).history


def test_the_defaults_are_the_papers():
    model = methods.dml([net(), net()])
    assert model.knowledge == knowledge.PeerPredictions()
    assert model.divergence == divergences.KullbackLeibler(1.0)
    assert model.selection is None and model.gate is None

    model = methods.smkd_progressive([net(), net()])
    assert isinstance(model, SelectiveMutualDistillation)
    assert model.gate is None
    assert model.selection == selection.ConfidentKnowledge(
        threshold=schedules.Sigmoid(0.5, -8.0, 0.5)
    )

    model = methods.distillation(net(), net())
    assert model.divergence == divergences.KullbackLeibler(4.0)
    assert model.distillation_weight == 0.9
    assert model.supervised_weight == pytest.approx(0.1)

    model = methods.kdcl([net(), net()])
    assert model.knowledge == knowledge.MinLogitEnsemble()
    assert model.divergence == divergences.KullbackLeibler(2.0)

    model = methods.mean_teacher(net())
    assert model.knowledge.momentum == 0.99
    assert model.knowledge.routes == "itself"
    assert model.divergence == divergences.SquaredError()
    assert model.distillation_weight == schedules.RampUp(100.0, 5 / 300)

    model = methods.temporal_ensembling(net(), SIZE, labelled_share=0.1)
    assert model.knowledge.momentum == 0.6
    assert model.distillation_weight.end == pytest.approx(3.0)
    assert model.distillation_weight.length == pytest.approx(80 / 300)

    model = methods.early_learning(net(), SIZE)
    assert model.knowledge.momentum == 0.7
    assert model.knowledge.routes == "itself"
    assert model.divergence == divergences.EarlyLearning()
    assert model.distillation_weight == 3.0

    model = methods.m_correction(net(), SIZE)
    assert model.target.hard and model.target.num_examples == SIZE

    model = methods.divide_mix([net(), net()], SIZE)
    assert model.target.temperature == model.target.threshold == 0.5

    model = methods.teacher_free(net(), net())
    assert model.divergence == divergences.KullbackLeibler(6.0)
    assert model.supervised_weight == pytest.approx(0.05)
    assert model.distillation_weight == pytest.approx(0.95 * 50 / 4)

    model = methods.teacher_free(net())
    assert model.target == targets.VirtualTeacher(0.1, 20.0, multiplier=100.0)
    assert model.supervised_weight == pytest.approx(0.9 + 0.1 * 100 / 4)


def test_a_progressive_threshold_needs_no_callback(data):
    model = methods.smkd_progressive([net(), net()])
    model.compile("sgd", "sparse_categorical_crossentropy")
    history = fit(model, *data, epochs=4)
    schedule = schedules.Sigmoid(0.5, -8.0, 0.5)
    expected = [
        np.mean([schedule((3 * epoch + step) / 12) for step in range(3)])
        for epoch in range(4)
    ]
    np.testing.assert_allclose(history["threshold"], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="one threshold schedule at the most"):
        model.fit(
            *data,
            callbacks=[callbacks.StaticThreshold(0.5)],
            verbose=0,
        )


def test_feature_fusion_learning_is_the_sum_of_its_terms(data):
    x, y = data
    peers = [net(), net()]
    model = methods.ffl(peers, "features", weight=0.7)
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    found = model.evaluate(x, y, batch_size=SIZE, verbose=0, return_dict=True)
    outputs = model(x, training=False)
    z1, z2, zf = (
        keras.ops.convert_to_numpy(outputs[name])
        for name in ("peer_0", "peer_1", "head")
    )

    def cross_entropy(z):
        return -np.mean(naive_log_softmax(z)[np.arange(SIZE), y])

    def distance(learner, source):
        q, p = (naive_log_softmax(z, 3.0) for z in (source, learner))
        rows = zip(np.exp(q), np.exp(p), strict=True)
        return 9.0 * np.mean([naive_kl(a, b) for a, b in rows])

    labels = sum(cross_entropy(z) for z in (z1, z2, zf))
    known = distance(z1, zf) + distance(z2, zf) + distance(zf, (z1 + z2) / 2)
    np.testing.assert_allclose(found["distillation_loss"], known, rtol=1e-4)
    np.testing.assert_allclose(found["loss"], labels + 0.7 * known, rtol=1e-4)


def test_peer_collaborative_learning_is_the_sum_of_its_terms(data):
    x, y = data
    peers = [net(), net(), net()]
    model = methods.pcl(peers, "features", weight=1.0)
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    found = model.evaluate(x, y, batch_size=SIZE, verbose=0, return_dict=True)
    outputs = model(x, training=False)
    # Before a step the averages are the peers.
    *z, ze = (
        keras.ops.convert_to_numpy(outputs[name])
        for name in ("peer_0", "peer_1", "peer_2", "head")
    )

    def distance(learner, source):
        q, p = (naive_log_softmax(z, 3.0) for z in (source, learner))
        rows = zip(np.exp(q), np.exp(p), strict=True)
        return 9.0 * np.mean([naive_kl(a, b) for a, b in rows])

    known = 0.0
    for j in range(3):
        known += distance(z[j], ze)
        known += sum(distance(z[j], z[k]) for k in range(3) if k != j) / 2
    np.testing.assert_allclose(found["distillation_loss"], known, rtol=1e-4)


@pytest.mark.parametrize("weighting", ["none", "cwtm", "dkpp"])
def test_generations_are_born_again(weighting, data):
    x, y = data
    models = []

    def train(model):
        models.append(model)
        model.compile("adam", "sparse_categorical_crossentropy")
        fit(model, x, y, epochs=1)

    trained = methods.born_again(net, train, 2, weighting)
    assert len(trained) == len(models) == 3
    assert [model.peers[0] for model in models] == trained
    assert models[0].knowledge is None
    for model, before in zip(models[1:], trained, strict=False):
        (teacher,) = (
            part
            for part in knowledge.parts_of(model.knowledge)
            if isinstance(part, knowledge.Teacher)
        )
        assert teacher.models() == [before]
        if weighting == "cwtm":
            assert model.gate == gates.TeacherConfidence()
            assert model.distillation_weight == 0
        else:
            assert model.supervised_weight == 0


def test_confidence_weights_count_in_training(data):
    x, y = data
    teacher, student = net(), net()
    model = PeerLearning(
        [student],
        knowledge=knowledge.Teacher(teacher),
        gate="teacher_confidence",
        distillation_weight=0.0,
    )
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    found = model.fit(x, y, batch_size=SIZE, verbose=0).history["loss"][0]
    q = np.exp(naive_log_softmax(teacher.predict(x, verbose=0)))
    p = naive_log_softmax(student.predict(x, verbose=0))
    weights = q.max(axis=1) / q.max(axis=1).sum()
    expected = -np.sum(weights * p[np.arange(SIZE), y])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: methods.kdcl([net(), net()], "mean"), "`ensemble` must be"),
        (lambda: methods.distillation(net(), net(), alpha=90), r"in \[0, 1\]"),
        (
            lambda: methods.born_again(net, print, weighting="dark"),
            "`weighting` must be one of",
        ),
        (lambda: methods.born_again(net, print, 0), "integer >= 1"),
        (
            lambda: methods.temporal_ensembling(net(), 8, labelled_share=2),
            "`labelled_share` must be",
        ),
        (
            lambda: methods.ffl([net(), net()], "maps"),
            "must",
        ),
        (
            lambda: methods.teacher_free(keras.Sequential([])),
            "must tell its number of classes",
        ),
        (lambda: methods.mean_teacher(net(), momentum=1.0), r"in \[0, 1\)"),
        (lambda: methods.smkd_static([net()]), "two models or more"),
        (lambda: methods.divide_mix([net()], 8), "two models or more"),
        (lambda: methods.m_correction(net(), 0), "integer >= 1"),
        (
            lambda: methods.early_learning(net(), 8, weight=-1),
            "`weight` must be",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
