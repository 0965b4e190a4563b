"""Selection: which predictions pass, and that no gradient does."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from naive import gradient
from naive import naive_log_softmax
from naive import naive_uncertainty
from naive import numpy_of

from keras_smkd import functional
from keras_smkd import selection


@pytest.mark.parametrize("measure", functional.MEASURES)
@pytest.mark.parametrize("threshold", [0.2, 0.4, 0.6])
def test_selects_what_lies_below_the_threshold(rng, measure, threshold):
    log_probs = naive_log_softmax(rng.normal(0.0, 2.0, (60, 2, 3)))
    expected = np.zeros((60, 2))
    for index in np.ndindex(60, 2):
        value = naive_uncertainty(np.exp(log_probs[index]), measure)
        expected[index] = value < threshold
    assert 0 < expected.mean() < 1
    given = selection.ConfidentKnowledge(measure, threshold=threshold)
    default = selection.ConfidentKnowledge(measure)
    log_probs = log_probs.astype("float32")
    np.testing.assert_array_equal(numpy_of(given(log_probs)), expected)
    np.testing.assert_array_equal(
        numpy_of(default(log_probs, threshold)), expected
    )
    np.testing.assert_array_equal(
        numpy_of(
            default(log_probs, ops.convert_to_tensor(threshold, "float32"))
        ),
        expected,
    )


def test_the_comparison_is_strict():
    log_probs = np.log([[0.75, 0.25]]).astype("float32")
    uncertainty = numpy_of(functional.uncertainty(log_probs, "margin"))[0]
    select = selection.ConfidentKnowledge("margin")
    above = np.nextafter(uncertainty, np.float32(1))
    assert numpy_of(select(log_probs, uncertainty)).tolist() == [0.0]
    assert numpy_of(select(log_probs, above)).tolist() == [1.0]


def test_threshold_0_given_in_the_call_is_not_taken_for_none():
    log_probs = np.log([[0.99, 0.01]]).astype("float32")
    select = selection.ConfidentKnowledge(threshold=0.9)
    assert numpy_of(select(log_probs)).tolist() == [1.0]
    assert numpy_of(select(log_probs, 0)).tolist() == [0.0]


@pytest.mark.parametrize("measure", functional.MEASURES)
def test_what_is_not_finite_is_never_selected(measure):
    nan, inf = math.nan, math.inf
    log_probs = [[nan, nan], [nan, 0.0], [0.0, nan], [inf, 0.0], [0.0, -inf]]
    select = selection.ConfidentKnowledge(measure)
    assert numpy_of(select(log_probs, 5.0)).tolist() == [0, 0, 0, 0, 1]


def test_no_gradient_flows_through_the_selection(rng):
    logits = rng.normal(size=(6, 4)).astype("float32")
    select = selection.ConfidentKnowledge()

    def total(z):
        return ops.sum(select(functional.log_probabilities(z), 0.7))

    np.testing.assert_array_equal(gradient(total, logits), 0.0)


def test_half_precision_selects_in_float32():
    log_probs = ops.cast(np.log([[0.99, 0.01], [0.5, 0.5]]), "float16")
    selected = selection.ConfidentKnowledge()(log_probs)
    assert keras.backend.standardize_dtype(selected.dtype) == "float32"
    assert numpy_of(selected).tolist() == [1.0, 0.0]


def test_config_round_trip():
    select = selection.ConfidentKnowledge("margin", threshold=0.25)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(select)
    )
    assert type(again) is selection.ConfidentKnowledge
    assert again.get_config() == {"measure": "margin", "threshold": 0.25}


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`measure` must be one of 'entropy'"):
        selection.ConfidentKnowledge("variance")
    with pytest.raises(ValueError, match=r"`threshold` must be .* >= 0"):
        selection.ConfidentKnowledge(threshold=-0.1)
    with pytest.raises(ValueError, match=r"`threshold` must be .*nan"):
        selection.ConfidentKnowledge(threshold=math.nan)
    with pytest.raises(TypeError, match="`threshold` must be a number"):
        selection.ConfidentKnowledge(threshold="0.5")


def naive_share(log_probs, share, per_class):
    probs = np.exp(log_probs)
    selected = np.zeros(probs.shape[:2])
    for n, p in np.ndindex(selected.shape):
        group = [
            naive_uncertainty(probs[m, p], "entropy")
            for m in range(len(probs))
            if not per_class or probs[m, p].argmax() == probs[n, p].argmax()
        ]
        own = naive_uncertainty(probs[n, p], "entropy")
        rank = sum(value < own for value in group)
        selected[n, p] = rank < share * len(group)
    return selected


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.45, 1.0, 1.5])
def test_the_most_confident_share_of_a_batch(rng, share, per_class):
    log_probs = naive_log_softmax(rng.normal(0.0, 2.0, (23, 2, 3)))
    expected = naive_share(log_probs, share, per_class)
    select = selection.MostConfidentShare(threshold=share, per_class=per_class)
    given = log_probs.astype("float32")
    np.testing.assert_array_equal(numpy_of(select(given)), expected)
    if share == 0.1 and per_class:
        # The most confident of every class passes, however small the share.
        for p in range(2):
            passed = log_probs[expected[:, p] == 1, p].argmax(axis=-1)
            present = log_probs[:, p].argmax(axis=-1)
            assert set(passed) == set(present)


def test_what_is_not_finite_has_no_share():
    nan = math.nan
    log_probs = np.log([[0.9, 0.1], [nan, nan], [0.8, 0.2], [0.7, 0.3]])
    select = selection.MostConfidentShare()
    # Two of three: rank 0 and 1 lie below half of three.
    assert numpy_of(select(log_probs, 0.5)).tolist() == [1, 0, 1, 0]
    assert numpy_of(select(log_probs, 2.0)).tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize("agreement", [False, True])
def test_a_gate_weakens_labels_that_knowledge_contradicts(rng, agreement):
    probs = np.exp(naive_log_softmax(rng.normal(0.0, 2.0, (40, 3, 4))))
    labels = np.eye(4)[rng.integers(0, 4, 40)]
    passed = (rng.random((40, 3)) < 0.5).astype("float32")
    expected = np.ones((40, 3))
    for n, i in np.ndindex(40, 3):
        known = [probs[n, j] for j in range(3) if j != i and passed[n, j]]
        if not known:
            continue
        opinion = sum(known).argmax()
        if opinion == labels[n].argmax():
            continue
        if not agreement or probs[n, i].argmax() == opinion:
            expected[n, i] = 0.25
    assert 0.05 < (expected < 1).mean() < 0.7
    gate = selection.LabelGate(0.25, agreement=agreement)
    weights = gate(labels, np.log(probs).astype("float32"), passed)
    np.testing.assert_array_equal(numpy_of(weights), expected)


def test_a_gate_takes_nothing_from_what_is_not_selected():
    log_probs = np.log([[[math.nan, math.nan], [0.2, 0.8]]]).astype("float32")
    gate = selection.LabelGate()
    labels = [[1.0, 0.0]]
    assert numpy_of(gate(labels, log_probs, [[0, 1]])).tolist() == [[0, 1]]
    assert numpy_of(gate(labels, log_probs, [[0, 0]])).tolist() == [[1, 1]]


def test_no_gradient_flows_through_shares_and_gates(rng):
    logits = rng.normal(size=(6, 2, 4)).astype("float32")
    labels = np.eye(4)[rng.integers(0, 4, 6)]

    def total(z):
        log_probs = functional.log_probabilities(z)
        selected = selection.MostConfidentShare()(log_probs)
        weights = selection.LabelGate()(labels, log_probs, selected)
        return ops.sum(selected) + ops.sum(weights)

    np.testing.assert_array_equal(gradient(total, logits), 0.0)


@pytest.mark.parametrize(
    "part",
    [
        selection.MostConfidentShare("margin", 0.25, per_class=False),
        selection.LabelGate(0.5, agreement=True),
    ],
    ids=lambda part: type(part).__name__,
)
def test_shares_and_gates_come_back_from_their_configuration(part):
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(part)
    )
    assert type(again) is type(part)
    assert again.get_config() == part.get_config()


def test_wrong_arguments_of_shares_and_gates():
    with pytest.raises(TypeError, match="`per_class` must be True or False"):
        selection.MostConfidentShare(per_class=1)
    with pytest.raises(ValueError, match=r"`weight` must be in \[0, 1\]"):
        selection.LabelGate(1.5)
    with pytest.raises(TypeError, match="`agreement` must be True or False"):
        selection.LabelGate(agreement="no")
