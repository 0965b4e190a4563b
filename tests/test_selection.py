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
from keras_smkd import schedules
from keras_smkd import selection
from keras_smkd.batch import Batch


def batch_of(log_probs, threshold=None):
    """A batch with knowledge, `(batch, sources, classes)`."""
    return Batch(
        knowledge=ops.convert_to_tensor(log_probs), threshold=threshold
    )


def selected_of_one(part, log_probs, threshold=None):
    """What is selected of one source, given as `(batch, classes)`."""
    log_probs = ops.expand_dims(log_probs, axis=1)
    selected = part(batch_of(log_probs, threshold))
    assert selected.shape[1] == 1
    return numpy_of(selected)[:, 0].tolist()


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
    for part, in_force in (
        (given, None),
        (default, threshold),
        (default, ops.convert_to_tensor(threshold, "float32")),
    ):
        np.testing.assert_array_equal(
            numpy_of(part(batch_of(log_probs, in_force))), expected
        )


@pytest.mark.parametrize("measure", functional.MEASURES)
def test_a_measure_may_be_a_function(rng, measure):
    function = functional.MEASURES[measure]
    log_probs = naive_log_softmax(rng.normal(0.0, 2.0, (60, 2, 3)))
    batch = batch_of(log_probs.astype("float32"), 0.4)
    for kind in (selection.ConfidentKnowledge, selection.MostConfidentShare):
        expected = numpy_of(kind(measure)(batch))
        assert 0 < expected.mean() < 1
        np.testing.assert_array_equal(numpy_of(kind(function)(batch)), expected)


@pytest.mark.parametrize(
    "kind", [selection.ConfidentKnowledge, selection.MostConfidentShare]
)
def test_arrays_and_lists_are_taken_as_tensors(kind):
    log_probs = np.log([[[0.99, 0.01], [0.5, 0.5]], [[0.5, 0.5], [0.9, 0.1]]])
    for given in (log_probs, log_probs.astype("float32"), log_probs.tolist()):
        selected = kind()(Batch(knowledge=given))
        assert numpy_of(selected).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_the_comparison_is_strict():
    log_probs = np.log([[0.75, 0.25]]).astype("float32")
    uncertainty = numpy_of(functional.uncertainty(log_probs, "margin"))[0]
    select = selection.ConfidentKnowledge("margin")
    above = np.nextafter(uncertainty, np.float32(1))
    assert selected_of_one(select, log_probs, uncertainty) == [0.0]
    assert selected_of_one(select, log_probs, above) == [1.0]


def test_threshold_0_of_the_batch_is_not_taken_for_none():
    log_probs = np.log([[0.99, 0.01]]).astype("float32")
    select = selection.ConfidentKnowledge(threshold=0.9)
    assert selected_of_one(select, log_probs) == [1.0]
    assert selected_of_one(select, log_probs, 0) == [0.0]


@pytest.mark.parametrize(
    "kind", [selection.ConfidentKnowledge, selection.MostConfidentShare]
)
def test_a_threshold_may_be_a_schedule(rng, kind):
    log_probs = naive_log_softmax(rng.normal(0.0, 2.0, (60, 2, 3)))
    batch = batch_of(log_probs.astype("float32"))
    part = kind(threshold=schedules.Linear(0.25, 0.75))
    for progress, threshold in ((0.0, 0.25), (0.5, 0.5), (1.0, 0.75)):
        expected = numpy_of(kind(threshold=threshold)(batch))
        assert 0 < expected.mean() < 1
        tensor = ops.convert_to_tensor(progress, "float32")
        for given in (progress, tensor):
            ours = part(batch.filled(progress=given))
            np.testing.assert_array_equal(numpy_of(ours), expected)
    # That of the batch is in force.
    ours = part(batch.filled(progress=1.0, threshold=0.25))
    expected = kind(threshold=0.25)(batch)
    np.testing.assert_array_equal(numpy_of(ours), numpy_of(expected))
    with pytest.raises(ValueError, match=f"{kind.__name__} needs the progress"):
        part(batch)


def test_a_schedule_of_thresholds_that_cannot_be():
    for kind in (selection.ConfidentKnowledge, selection.MostConfidentShare):
        with pytest.raises(
            ValueError, match=r"`threshold\(0.75\)` must be .* >= 0"
        ):
            kind(threshold=schedules.Linear(0.5, -0.5))


@pytest.mark.parametrize("measure", functional.MEASURES)
def test_what_is_not_finite_is_never_selected(measure):
    nan, inf = math.nan, math.inf
    log_probs = [[nan, nan], [nan, 0.0], [0.0, nan], [inf, 0.0], [0.0, -inf]]
    select = selection.ConfidentKnowledge(measure)
    assert selected_of_one(select, log_probs, 5.0) == [0, 0, 0, 0, 1]


def test_no_gradient_flows_through_the_selection(rng):
    logits = rng.normal(size=(6, 2, 4)).astype("float32")
    for select in (
        selection.ConfidentKnowledge(),
        selection.MostConfidentShare(),
    ):

        def total(z, select=select):
            log_probs = functional.log_probabilities(z)
            return ops.sum(select(batch_of(log_probs, 0.7)))

        np.testing.assert_array_equal(gradient(total, logits), 0.0)


@pytest.mark.parametrize(
    "kind", [selection.ConfidentKnowledge, selection.MostConfidentShare]
)
def test_half_precision_selects_in_float32(kind):
    log_probs = ops.cast(np.log([[[0.99, 0.01]], [[0.6, 0.4]]]), "float16")
    selected = kind()(batch_of(log_probs))
    assert keras.backend.standardize_dtype(selected.dtype) == "float32"
    assert numpy_of(selected).tolist() == [[1.0], [0.0]]


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
    np.testing.assert_array_equal(numpy_of(select(batch_of(given))), expected)
    in_force = selection.MostConfidentShare(threshold=0.7, per_class=per_class)
    np.testing.assert_array_equal(
        numpy_of(in_force(batch_of(given, share))), expected
    )
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
    # Two of three: rank 2 lies below 0.6 of four, and not of three.
    assert selected_of_one(select, log_probs, 0.6) == [1, 0, 1, 0]
    assert selected_of_one(select, log_probs, 2.0) == [1, 0, 1, 1]


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("measure", functional.MEASURES)
def test_selects_all_says_when_all_that_is_finite_passes(measure, num_classes):
    uniform = np.full((1, num_classes), -math.log(num_classes), "float32")
    select = selection.ConfidentKnowledge(measure)
    for threshold in (0.0, 0.2, 0.45, 0.7, 0.9, 1.0, 1.1):
        passes = selected_of_one(select, uniform, threshold) == [1]
        assert select.selects_all(threshold, num_classes) == passes
        # Where the number of classes is not known, whatever it is.
        assert select.selects_all(threshold) == (threshold > 1)


def test_shares_select_all_from_one_on():
    select = selection.MostConfidentShare()
    assert not select.selects_all(0.999)
    assert select.selects_all(1.0)
    assert select.selects_all(2.0, 10)


def test_shares_come_back_from_their_configuration():
    part = selection.MostConfidentShare("margin", 0.25, per_class=False)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(part)
    )
    assert type(again) is selection.MostConfidentShare
    assert again.get_config() == {
        "measure": "margin",
        "threshold": 0.25,
        "per_class": False,
    }


def test_wrong_arguments_of_shares():
    with pytest.raises(ValueError, match="`measure` must be one of 'entropy'"):
        selection.MostConfidentShare("variance")
    with pytest.raises(ValueError, match=r"`threshold` must be .* >= 0"):
        selection.MostConfidentShare(threshold=-0.1)
    with pytest.raises(TypeError, match="`per_class` must be True or False"):
        selection.MostConfidentShare(per_class=1)
