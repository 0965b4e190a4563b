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
