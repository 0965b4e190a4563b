"""Gates: which labels they weaken, for whom, and that no gradient flows."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from naive import gradient
from naive import naive_log_softmax
from naive import numpy_of

from keras_smkd import functional
from keras_smkd import gates
from keras_smkd import selection
from keras_smkd.batch import Batch
from keras_smkd.batch import to_all
from keras_smkd.batch import to_itself
from keras_smkd.batch import to_others

# Of three learners; the last one is taught nothing by the last two.
BY_HAND = np.array([[0.0, 0.5, 0.5], [2.0, 0.0, 0.1], [0.0, 0.0, 0.0]])
ROUTES = {
    "others": to_others(3),
    "itself": to_itself(3),
    "all": to_all(3, 3),
    "by hand": BY_HAND,
    "two sources": BY_HAND[:, 1:],
    "one source": np.array([[1.0], [0.25], [0.0]]),
}


def tensor(values):
    return ops.convert_to_tensor(np.asarray(values, "float32"))


def log_of(probs):
    return ops.log(tensor(probs))


def naive_weights(knowledge, own, labels, routes, passed, weight, agreement):
    """The gate as loops over examples, learners and sources."""
    result = np.ones((len(labels), len(routes)))
    for n, i in np.ndindex(result.shape):
        said = 0.0
        for k, r in enumerate(routes[i]):
            if r > 0 and passed[n, k]:
                said = said + r * knowledge[n, k]
        if np.ndim(said) == 0 or said.argmax() == labels[n].argmax():
            continue
        if not agreement or own[n, i].argmax() == said.argmax():
            result[n, i] = weight
    return result


@pytest.mark.parametrize("select", [False, True])
@pytest.mark.parametrize("agreement", [False, True])
@pytest.mark.parametrize("routes", ROUTES)
def test_a_gate_weakens_labels_that_knowledge_contradicts(
    rng, routes, agreement, select
):
    routes = ROUTES[routes]
    num_sources = routes.shape[1]
    own = np.exp(naive_log_softmax(rng.normal(0.0, 2.0, (40, 3, 4))))
    knowledge = own[:, :num_sources]
    if num_sources != 3 or agreement:
        # Of others than the learners.
        knowledge = np.exp(
            naive_log_softmax(rng.normal(0.0, 2.0, (40, num_sources, 4)))
        )
    labels = np.eye(4)[rng.integers(0, 4, 40)]
    passed = np.ones((40, num_sources), "float32")
    if select:
        passed = (rng.random(passed.shape) < 0.5).astype("float32")
    expected = naive_weights(
        knowledge, own, labels, routes, passed, 0.25, agreement
    )
    assert 0.02 < (expected < 1).mean() < 0.9
    gate = gates.LabelGate(0.25, agreement=agreement)
    weights = gate(
        Batch(
            labels=labels,
            log_probs=log_of(own),
            knowledge=log_of(knowledge),
            routes=routes,
            selected=passed if select else None,
        )
    )
    np.testing.assert_array_equal(numpy_of(weights), expected)


def test_arrays_and_lists_are_taken_as_tensors():
    knowledge = np.log([[[0.9, 0.1], [0.8, 0.2]]])
    for known in (knowledge, knowledge.astype("float32"), knowledge.tolist()):
        batch = Batch(
            labels=[[0.0, 1.0]],
            knowledge=known,
            routes=to_others(2),
            selected=[[1.0, 0.0]],
        )
        assert numpy_of(gates.LabelGate()(batch)).tolist() == [[1.0, 0.0]]
        weights = gates.TeacherConfidence()(batch)
        assert numpy_of(weights).tolist() == [[1.0]]


def test_the_largest_of_a_soft_label_counts():
    batch = Batch(
        labels=[[0.4, 0.6], [0.6, 0.4]],
        knowledge=log_of([[[0.9, 0.1]], [[0.9, 0.1]]]),
        routes=np.ones((1, 1)),
    )
    assert numpy_of(gates.LabelGate()(batch)).tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
@pytest.mark.parametrize("routes", [to_others(2), to_others(2) * 0.5])
def test_a_gate_takes_nothing_from_what_is_not_selected(routes, dtype):
    nan = math.nan

    def weights(selected, label=(1.0, 0.0)):
        return numpy_of(
            gates.LabelGate()(
                Batch(
                    labels=[label],
                    knowledge=log_of([[[nan, nan], [0.2, 0.8]]]),
                    routes=routes,
                    selected=np.array(selected, dtype),
                )
            )
        ).tolist()

    assert weights([[0, 1]]) == [[0, 1]]
    for label in ((1.0, 0.0), (0.0, 1.0)):
        assert weights([[0, 0]], label) == [[1, 1]]


def test_a_gate_takes_nothing_from_what_is_not_on_the_routes():
    nan = math.nan
    batch = Batch(
        labels=[[1.0, 0.0]],
        knowledge=log_of([[[0.2, 0.8], [nan, nan], [0.9, 0.1]]]),
        routes=np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.0, 1.0]]),
    )
    assert numpy_of(gates.LabelGate()(batch)).tolist() == [[0.0, 1.0, 1.0]]


def test_no_gradient_flows_through_gates(rng):
    logits = rng.normal(size=(6, 2, 4)).astype("float32")
    labels = np.eye(4)[rng.integers(0, 4, 6)]

    def total(z):
        log_probs = functional.log_probabilities(z)
        batch = Batch(
            labels=labels,
            logits=z,
            knowledge=log_probs,
            routes=to_others(2),
        )
        batch = batch.filled(selected=selection.MostConfidentShare()(batch))
        weights = gates.LabelGate(0.5, agreement=True)(batch)
        return ops.sum(weights) + ops.sum(batch.selected)

    np.testing.assert_array_equal(gradient(total, logits), 0.0)


def test_half_precision_gives_float32():
    batch = Batch(
        labels=[[1.0, 0.0]],
        knowledge=ops.cast(log_of([[[0.2, 0.8]]]), "float16"),
        routes=np.ones((1, 1)),
    )
    weights = gates.LabelGate(0.25)(batch)
    assert keras.backend.standardize_dtype(weights.dtype) == "float32"
    assert numpy_of(weights).tolist() == [[0.25]]


def test_only_agreement_asks_for_the_learners_predictions():
    batch = Batch(
        labels=[[1.0, 0.0]],
        knowledge=log_of([[[0.2, 0.8]]]),
        routes=np.ones((1, 1)),
    )
    assert numpy_of(gates.LabelGate()(batch)).tolist() == [[0.0]]
    with pytest.raises(ValueError, match="LabelGate needs predictions"):
        gates.LabelGate(agreement=True)(batch)


@pytest.mark.parametrize(
    ("select", "thresholds", "num_classes", "received"),
    [
        (None, [0.0], None, "selection=None"),
        (selection.ConfidentKnowledge(), [1.01], None, "threshold=1.01"),
        (selection.ConfidentKnowledge(), [1.5, 1.1], 4, "threshold=1.1 for"),
        (selection.ConfidentKnowledge("probability"), [0.76], 4, "0.76"),
        (selection.MostConfidentShare(), [1.0, 2.0], None, "threshold=1.0"),
    ],
)
def test_a_gate_refuses_everything_selected_throughout(
    select, thresholds, num_classes, received
):
    with pytest.raises(ValueError, match="`gate` must be None where all") as e:
        gates.LabelGate().check_thresholds(select, thresholds, num_classes)
    assert received in str(e.value)


@pytest.mark.parametrize(
    ("select", "thresholds", "num_classes"),
    [
        (selection.ConfidentKnowledge(), [1.0], None),
        (selection.ConfidentKnowledge(), [1.5, 0.9], None),
        (selection.ConfidentKnowledge("probability"), [0.76], None),
        (selection.ConfidentKnowledge("probability"), [0.75], 4),
        (selection.MostConfidentShare(), [0.99], None),
        # A function of the batch does not say what it selects.
        (lambda batch: batch.knowledge[..., 0], [9.0], None),
    ],
)
def test_a_gate_takes_what_is_selected_in_part(select, thresholds, num_classes):
    gates.LabelGate().check_thresholds(select, thresholds, num_classes)


def test_a_teachers_confidence_weighs_the_labels(rng):
    probs = np.exp(naive_log_softmax(rng.normal(0.0, 2.0, (7, 2, 4))))
    largest = [np.mean([max(row) for row in example]) for example in probs]
    expected = np.array(largest) / np.mean(largest)
    weights = numpy_of(
        gates.TeacherConfidence()(
            Batch(knowledge=log_of(probs), logits=np.zeros((7, 3, 4)))
        )
    )
    assert weights.shape == (7, 3)
    for i in range(3):
        np.testing.assert_allclose(weights[:, i], expected, rtol=1e-5)
    np.testing.assert_allclose(weights.mean(axis=0), 1.0, rtol=1e-6)


def test_no_gradient_flows_through_a_teachers_confidence(rng):
    logits = rng.normal(size=(6, 1, 4)).astype("float32")

    def total(z):
        batch = Batch(knowledge=functional.log_probabilities(z))
        return ops.sum(ops.square(gates.TeacherConfidence()(batch)))

    np.testing.assert_array_equal(gradient(total, logits), 0.0)


def test_config_round_trip():
    part = gates.LabelGate(0.5, agreement=True)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(part)
    )
    assert type(again) is gates.LabelGate
    assert again.get_config() == {"weight": 0.5, "agreement": True}


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"`weight` must be in \[0, 1\]"):
        gates.LabelGate(1.5)
    with pytest.raises(TypeError, match="`agreement` must be True or False"):
        gates.LabelGate(agreement="no")
