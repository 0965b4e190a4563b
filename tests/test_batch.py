"""The batch that parts are called with: what it holds, when, and routes."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from naive import gradient
from naive import naive_log_softmax
from naive import numpy_of
from peers import linear

from keras_smkd import batch as batch_module
from keras_smkd import divergences
from keras_smkd import gates
from keras_smkd import knowledge
from keras_smkd import selection
from keras_smkd import targets
from keras_smkd.batch import Batch
from keras_smkd.batch import Knowledge
from keras_smkd.batch import checked_routes
from keras_smkd.batch import checked_shape
from keras_smkd.batch import is_to_others
from keras_smkd.batch import routes_by_name
from keras_smkd.batch import to_all
from keras_smkd.batch import to_itself
from keras_smkd.batch import to_others

LABELS = np.eye(3, dtype="float32")[[0, 2]]


class Counted:
    """A function that counts its calls."""

    def __init__(self, value):
        self.value = value
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.value


@pytest.fixture
def logits(rng):
    return rng.normal(size=(2, 4, 3)).astype("float32")


# When what is called.


@pytest.mark.parametrize("field", ["labels", "losses", "log_probs"])
def test_a_function_is_called_when_first_asked_and_once(field):
    function = Counted(LABELS)
    batch = Batch(**{field: function})
    # Two copies, and a copy of one of them.
    first = batch.filled(progress=0.5)
    second = batch.filled(threshold=0.25)
    third = first.filled(routes=np.ones((1, 1)))
    assert function.calls == 0
    for each in (third, batch, first, second, third, batch.filled()):
        assert getattr(each, field) is LABELS
        assert each.needed(field, None) is LABELS
    assert function.calls == 1


def test_a_function_filled_in_later_is_called_once_too():
    function = Counted(LABELS)
    batch = Batch(progress=0.5).filled(losses=function)
    copy = batch.filled(threshold=0.25)
    assert function.calls == 0
    assert copy.losses is LABELS
    assert batch.losses is LABELS
    assert function.calls == 1


def test_what_nothing_asks_for_is_never_made(logits):
    function = Counted(LABELS)
    batch = Batch(
        labels=function,
        logits=logits,
        knowledge_logits=logits,
        routes=to_others(4),
        losses=function,
    )
    batch = batch.filled(selected=selection.ConfidentKnowledge()(batch))
    divergences.KullbackLeibler()(batch)
    targets_of = targets.LabelSmoothing()
    assert function.calls == 0
    targets_of(batch)
    gates.LabelGate()(batch)
    assert function.calls == 1


def test_other_knowledge_has_another_entropy():
    known = ops.log(np.array([[[0.5, 0.5]]], "float32"))
    sure = ops.log(np.array([[[0.9, 0.1]]], "float32"))
    batch = Batch(knowledge=known).filled(knowledge_entropy=Counted("nats"))
    assert batch.filled(progress=1.0).knowledge_entropy == "nats"
    other = batch.filled(knowledge=sure)
    assert other.knowledge_entropy is None
    both = batch.filled(knowledge=sure, knowledge_entropy=Counted("more"))
    assert both.knowledge_entropy == "more"
    select = selection.ConfidentKnowledge(threshold=0.6)
    assert numpy_of(select(other)) == [[1.0]]


def test_values_may_be_values():
    for field in ("labels", "log_probs", "losses", "knowledge"):
        batch = Batch(**{field: LABELS})
        assert getattr(batch, field) is LABELS
        assert getattr(batch.filled(progress=1.0), field) is LABELS
        other = np.zeros_like(LABELS)
        assert getattr(batch.filled(**{field: other}), field) is other
        assert getattr(batch, field) is LABELS


def test_a_field_that_is_not_filled_is_none_or_as_documented():
    batch = Batch()
    documented = {
        "training": False,
        "is_own_knowledge": False,
        "from_logits": True,
        "knowledge_features": (),
    }
    for field in dataclasses.fields(Batch):
        assert getattr(batch, field.name) == documented.get(field.name)


def test_a_batch_does_not_change():
    batch = Batch(progress=0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.progress = 0.75
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.labels = LABELS
    filled = batch.filled(progress=0.75, labels=LABELS)
    assert (batch.progress, batch.labels) == (0.5, None)
    assert (filled.progress, filled.labels) == (0.75, LABELS)


# What follows from what.


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_log_probabilities_are_those_of_the_logits(logits, dtype):
    logits = ops.convert_to_tensor(logits.astype(dtype))
    batch = Batch(logits=logits)
    log_probs = batch.log_probs
    assert keras.backend.standardize_dtype(log_probs.dtype) == "float32"
    np.testing.assert_allclose(
        numpy_of(log_probs),
        naive_log_softmax(numpy_of(logits).astype("float32")),
        rtol=1e-5,
        atol=1e-6,
    )
    assert batch.filled(progress=0.5).log_probs is log_probs


def test_log_probabilities_that_are_given_count(logits):
    given = ops.log_softmax(2.0 * logits)
    assert Batch(logits=logits, log_probs=given).log_probs is given
    batch = Batch(log_probs=given)
    assert batch.logits is None


def test_knowledge_is_that_of_its_logits_without_gradient(logits):
    knowledge_logits = ops.convert_to_tensor(logits)
    ours = Batch(knowledge_logits=knowledge_logits).knowledge
    np.testing.assert_allclose(
        numpy_of(ours), naive_log_softmax(logits), rtol=1e-5, atol=1e-6
    )
    given = ops.log_softmax(2.0 * logits)
    batch = Batch(knowledge_logits=knowledge_logits, knowledge=given)
    assert batch.knowledge is given

    def total(z):
        return ops.sum(ops.square(Batch(knowledge_logits=z).knowledge))

    np.testing.assert_array_equal(gradient(total, logits), 0.0)


def test_the_number_of_learners(logits):
    assert Batch().num_learners == 1
    assert Batch(labels=LABELS).num_learners == 1
    assert Batch(logits=logits).num_learners == 4
    assert Batch(log_probs=logits[:, :2]).num_learners == 2


# What a part needs.


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("x", ""),
        ("labels", "labels: give `y`"),
        ("index", "each example's place: labels {'label': ..., 'index': ..."),
        ("log_probs", "predictions"),
        ("logits", "predictions"),
        ("features", "outputs of inner layers: a part that has `taps`"),
        ("progress", "the progress of training"),
        ("threshold", "a threshold"),
        ("knowledge", "knowledge: give `knowledge`, such as 'peers'"),
        ("knowledge_logits", "a source of knowledge that gives logits"),
        ("samples", "a source of several passes, such as dropout"),
        ("routes", "knowledge: give `knowledge`, such as 'peers'"),
        ("losses", "the losses of the labels"),
    ],
)
def test_what_is_needed_and_not_there_is_named(field, words):
    with pytest.raises(ValueError) as caught:
        Batch().needed(field, targets.ProSelfLC())
    message = str(caught.value)
    assert message.startswith(f"ProSelfLC needs {words}")
    assert message.endswith(
        f"`batch.{field}` must be there. Received: a batch without."
    )
    filled = Batch(**{field: LABELS})
    assert filled.needed(field, targets.ProSelfLC()) is LABELS


PART_OF_EACH_FIELD = [
    (targets.LabelSmoothing(), "labels"),
    (targets.VirtualTeacher(), "labels"),
    (targets.SoftBootstrapping(), "labels"),
    (targets.HardBootstrapping(), "log_probs"),
    (targets.ProSelfLC(), "progress"),
    (selection.ConfidentKnowledge(), "knowledge"),
    (selection.MostConfidentShare(), "knowledge"),
    (gates.LabelGate(), "knowledge"),
    (gates.LabelGate(), "routes"),
    (gates.LabelGate(), "labels"),
    (divergences.KullbackLeibler(), "routes"),
    (divergences.KullbackLeibler(), "log_probs"),
    (divergences.KullbackLeibler(), "knowledge"),
    (divergences.KullbackLeibler(100.0), "routes"),
    (divergences.SquaredError(), "routes"),
    (divergences.SquaredError(), "log_probs"),
    (divergences.SquaredError(), "knowledge"),
    (divergences.LogitSquaredError(), "routes"),
    (divergences.LogitSquaredError(), "knowledge"),
    (knowledge.PeerPredictions(), "log_probs"),
    (knowledge.Teacher(linear()), "x"),
]


@pytest.mark.parametrize(("part", "field"), PART_OF_EACH_FIELD)
def test_parts_say_what_they_miss(logits, part, field):
    log_probs = ops.log_softmax(logits)
    fields = {
        "labels": LABELS,
        "log_probs": log_probs,
        "progress": 0.5,
        "threshold": 0.5,
        "knowledge": log_probs,
        "routes": to_others(4),
        "x": np.zeros((2, 6), "float32"),
    }
    part(Batch(**fields))
    fields.pop(field)
    with pytest.raises(
        ValueError, match=rf"{type(part).__name__} needs .*batch\.{field}"
    ):
        part(Batch(**fields))


# Routes.


def test_routes_worked_by_hand():
    assert to_others(2).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert to_others(3).tolist() == [
        [0.0, 0.5, 0.5],
        [0.5, 0.0, 0.5],
        [0.5, 0.5, 0.0],
    ]
    assert to_itself(2).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert to_all(2, 4).tolist() == [[0.25] * 4] * 2
    for num_peers in (0, 1):
        with pytest.raises(
            ValueError, match=f"2 or more.*Received: num_peers={num_peers}"
        ):
            to_others(num_peers)


@pytest.mark.parametrize("routes", [to_others(n) for n in (2, 3, 5)])
def test_routes_to_others_are_known_by_their_values(routes):
    assert is_to_others(routes)
    assert not is_to_others(0.5 * routes)
    assert not is_to_others(routes[:-1])
    assert not is_to_others(np.concatenate([routes, 0 * routes[:1]]))
    assert not is_to_others(to_itself(len(routes)))
    assert not is_to_others(to_all(len(routes), len(routes)))
    assert not is_to_others(np.zeros((1, 1)))


def test_routes_by_name():
    np.testing.assert_array_equal(routes_by_name("others", 3, 3), to_others(3))
    np.testing.assert_array_equal(routes_by_name("itself", 3, 3), to_itself(3))
    np.testing.assert_array_equal(routes_by_name("all", 3, 3), to_all(3, 3))
    by_hand = [[0.0, 2.0], [0.5, 0.0], [1.0, 1.0]]
    np.testing.assert_array_equal(routes_by_name(by_hand, 3, 2), by_hand)


def test_a_head_learns_from_all_only():
    for name, known in (("others", to_others(2)), ("itself", to_itself(2))):
        ours = routes_by_name(name, 3, 2)
        np.testing.assert_array_equal(ours[:2], known)
        np.testing.assert_array_equal(ours[2], [0.0, 0.0])
    np.testing.assert_array_equal(routes_by_name("all", 3, 2), to_all(3, 2))


def test_routes_that_are_not_known():
    with pytest.raises(
        ValueError, match=r"one of 'others', 'itself', 'all'.*'none'"
    ):
        routes_by_name("none", 2, 2)
    with pytest.raises(ValueError, match="`num_peers` must be 2 or more"):
        routes_by_name("others", 1, 1)
    with pytest.raises(ValueError, match=r"\(2, 2\). Received: .*\(1, 2\)"):
        routes_by_name([[0.0, 1.0]], 2, 2)


def test_checked_routes_are_a_float64_array_of_their_own():
    for given in ([[1, 0]], [[True, False]], np.array([[1, 0]], "int8")):
        routes = checked_routes(given, 1, 2)
        assert routes.dtype == "float64"
        assert routes.tolist() == [[1.0, 0.0]]
    given = np.zeros((1, 2))
    checked_routes(given, 1, 2)[0, 0] = 1.0
    assert given[0, 0] == 0.0


@pytest.mark.parametrize(
    ("routes", "error", "message"),
    [
        ([["a", "b"]], TypeError, r"array of numbers. Received: routes=\[\['a"),
        ([[1.0, 0.0], [1.0]], TypeError, "must be an array of numbers"),
        ([[{}, 0.0]], TypeError, "must be an array of numbers"),
        ([1.0, 0.0], ValueError, r"\(learners, sources\) = \(1, 2\).*\(2,\)"),
        ([[1.0], [0.0]], ValueError, r"= \(1, 2\). Received: .*\(2, 1\)"),
        (None, ValueError, r"\(1, 2\). Received: routes of shape \(\)"),
        ([[1.0, -0.5]], ValueError, r">= 0. Received: routes=\[\[1.0, -0.5\]"),
        ([[1.0, np.nan]], ValueError, "must be finite and >= 0.*nan"),
        ([[np.inf, 0.0]], ValueError, "must be finite and >= 0.*inf"),
    ],
)
def test_routes_that_cannot_be(routes, error, message):
    with pytest.raises(error, match=message):
        checked_routes(routes, 1, 2)


# Shapes, and answers.


def test_checked_shape_lets_pass_what_is_not_known():
    value = np.zeros((4, 2))
    for shape in ((4, 2), (None, 2), (None, None)):
        assert checked_shape(gates.LabelGate(), "gate", value, shape) is value


def test_a_shape_that_differs_is_named_with_its_part():
    def weigh(batch):
        return batch

    for part, name in ((gates.LabelGate(), "LabelGate"), (weigh, "weigh")):
        with pytest.raises(ValueError) as caught:
            checked_shape(part, "gate", np.zeros((4, 3)), (None, 2))
        assert str(caught.value) == (
            f"`gate` must give shape (None, 2). "
            f"Received: shape (4, 3) from {name}."
        )
    for value in (np.zeros(4), np.zeros((4, 2, 1)), 1.0, None):
        with pytest.raises(ValueError, match="`gate` must give shape"):
            checked_shape(weigh, "gate", value, (None, 2))


def test_an_answer_has_logits_or_log_probabilities(logits):
    for field in ("logits", "log_probs"):
        answer = Knowledge(**{field: logits})
        assert getattr(answer, field) is logits
        assert answer.routes is answer.available is answer.samples is None
        assert answer.features == ()
    with pytest.raises(
        ValueError,
        match=r"must have `logits` or `log_probs`\. Received: neither",
    ):
        Knowledge(routes=to_others(2))
    assert batch_module.Knowledge is knowledge.Knowledge
