"""Metrics: values against loops, streaming, weights, configuration."""

import itertools
import math

import keras
import numpy as np
import pytest
from keras import ops
from naive import naive_log_softmax
from naive import numpy_of

from keras_smkd import metrics
from keras_smkd import selection


@pytest.fixture
def peers_probs(rng):
    logits = rng.normal(0.0, 2.0, (24, 3, 4))
    return np.exp(naive_log_softmax(logits)).astype("float32")


@pytest.fixture
def weights(rng):
    return rng.uniform(0.0, 2.0, 24).astype("float32")


def result_of(metric):
    return numpy_of(metric.result()).item()


def naive_agreement(probs, weights):
    total = 0.0
    for peers, weight in zip(probs, weights, strict=True):
        pairs = list(itertools.combinations(peers, 2))
        agreeing = sum(np.argmax(a) == np.argmax(b) for a, b in pairs)
        total += weight * agreeing / len(pairs)
    return total / sum(weights)


def naive_calibration_error(labels, probs, weights, num_bins):
    gaps = [0.0] * num_bins
    for label, row, weight in zip(labels, probs, weights, strict=True):
        confidence = max(row)
        for b in range(num_bins):
            low, high = b / num_bins, (b + 1) / num_bins
            if low < confidence <= high or (b == 0 and confidence == 0):
                correct = float(np.argmax(row) == label)
                gaps[b] += weight * (correct - confidence)
    return sum(abs(gap) for gap in gaps) / sum(weights)


def test_selection_rate_is_the_mean_of_the_selection(peers_probs):
    metric = metrics.SelectionRate(threshold=0.4)
    metric.update_state(None, peers_probs)
    entropies = -np.sum(peers_probs * np.log(peers_probs), -1) / math.log(4)
    expected = (entropies < 0.4).mean()
    assert 0 < expected < 1
    assert result_of(metric) == pytest.approx(expected, abs=1e-6)


def test_selection_rate_limits(peers_probs):
    for threshold, expected in ((0.0, 0.0), (1.0000001, 1.0)):
        metric = metrics.SelectionRate(threshold=threshold)
        metric.update_state(None, peers_probs)
        assert result_of(metric) == expected


def test_selection_rate_takes_the_threshold_of_its_selection(peers_probs):
    confident = selection.ConfidentKnowledge("margin", threshold=0.3)
    metric = metrics.SelectionRate(confident)
    assert metric.threshold == 0.3
    metric.update_state(None, peers_probs)
    top = np.sort(peers_probs, axis=-1)
    expected = (1 - (top[..., -1] - top[..., -2]) < 0.3).mean()
    assert result_of(metric) == pytest.approx(expected, abs=1e-6)


def test_selection_rate_of_a_function_needs_a_threshold():
    def select(batch):
        return ops.cast(batch.knowledge[..., 0] > -batch.threshold, "float32")

    with pytest.raises(TypeError, match="`threshold` must be a number"):
        metrics.SelectionRate(select)
    metric = metrics.SelectionRate(select, threshold=0.5)
    metric.update_state(None, [[0.9, 0.1], [0.1, 0.9]])
    assert result_of(metric) == 0.5


def test_peer_agreement_equals_a_loop_over_pairs(peers_probs, weights):
    metric = metrics.PeerAgreement()
    metric.update_state(None, peers_probs)
    expected = naive_agreement(peers_probs, np.ones(24))
    assert 0 < expected < 1
    assert result_of(metric) == pytest.approx(expected, rel=1e-5)
    metric.reset_state()
    metric.update_state(None, peers_probs, weights)
    expected = naive_agreement(peers_probs, weights)
    assert result_of(metric) == pytest.approx(expected, rel=1e-5)


def test_peer_agreement_worked_by_hand():
    for votes, expected in (
        ([0, 0, 0, 0], 1.0),
        ([0, 0, 0, 1], 1 / 2),
        ([0, 0, 1, 1], 1 / 3),
        ([0, 0, 1, 2], 1 / 6),
        ([0, 1, 2, 3], 0.0),
    ):
        metric = metrics.PeerAgreement()
        metric.update_state(None, np.eye(4, dtype="float32")[None, votes])
        assert result_of(metric) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(4, 3), (4, 1, 3)])
def test_peer_agreement_needs_two_peers(shape):
    with pytest.raises(ValueError, match=r"`y_pred` must have shape .*two"):
        metrics.PeerAgreement().update_state(None, np.zeros(shape, "float32"))


@pytest.mark.parametrize("num_bins", [1, 2, 10, 15])
def test_calibration_error_equals_a_naive_loop(
    rng, peers_probs, weights, num_bins
):
    probs = peers_probs[:, 0]
    labels = rng.integers(0, 4, 24)
    metric = metrics.ExpectedCalibrationError(num_bins)
    metric.update_state(labels, probs)
    expected = naive_calibration_error(labels, probs, np.ones(24), num_bins)
    assert result_of(metric) == pytest.approx(expected, abs=1e-5)
    metric.reset_state()
    metric.update_state(labels, probs, weights)
    expected = naive_calibration_error(labels, probs, weights, num_bins)
    assert result_of(metric) == pytest.approx(expected, abs=1e-5)


def test_calibration_error_worked_by_hand():
    # Bin (0.5, 0.75]: one of two right at 0.6. Bin (0.75, 1]: both right
    # at 0.9. Gaps 1 - 1.2 and 2 - 1.8, so 0.4 in four examples.
    probs = [[0.6, 0.4], [0.4, 0.6], [0.9, 0.1], [0.1, 0.9]]
    metric = metrics.ExpectedCalibrationError(4)
    metric.update_state([0, 0, 0, 1], probs)
    assert result_of(metric) == pytest.approx(0.1, abs=1e-6)


def test_calibration_bins_contain_their_upper_edge():
    # At 0.5, right, in (0.25, 0.5]; at 0.625, wrong, in (0.5, 0.75]; in one
    # bin the gaps 0.5 and -0.625 would cancel to 0.125.
    probs = [[0.5, 0.25, 0.25], [0.25, 0.625, 0.125]]
    metric = metrics.ExpectedCalibrationError(4)
    metric.update_state([0, 0], probs)
    assert result_of(metric) == pytest.approx(1.125 / 2)
    expected = naive_calibration_error([0, 0], probs, [1, 1], 4)
    assert result_of(metric) == pytest.approx(expected)
    # 0.75 lies with 0.625, in (0.5, 0.75], where the gaps do cancel.
    metric.reset_state()
    probs = [[0.75, 0.25, 0.0], [0.25, 0.625, 0.125]]
    metric.update_state([0, 0], probs)
    assert result_of(metric) == pytest.approx(0.375 / 2)


@pytest.mark.parametrize("num_bins", [1, 4, 15])
def test_calibration_at_the_ends(num_bins):
    metric = metrics.ExpectedCalibrationError(num_bins)
    assert result_of(metric) == 0.0
    metric.update_state([0, 1], [[1.0, 0.0], [0.0, 1.0]])
    assert result_of(metric) == 0.0
    metric.reset_state()
    metric.update_state([1, 0], [[1.0, 0.0], [0.0, 1.0]])
    assert result_of(metric) == 1.0
    metric.reset_state()
    metric.update_state([0], [[0.0, 0.0]])
    assert result_of(metric) == 1.0


def test_calibration_takes_every_form_of_label(rng, peers_probs):
    probs = peers_probs[:, 0]
    labels = rng.integers(0, 4, 24)
    one_hot = np.eye(4, dtype="float32")[labels]
    results = set()
    for form in (labels, labels[:, None], one_hot, 0.7 * one_hot + 0.075):
        metric = metrics.ExpectedCalibrationError()
        metric.update_state(form, probs)
        results.add(result_of(metric))
    assert len(results) == 1


MAKERS = {
    "SelectionRate": lambda: metrics.SelectionRate(threshold=0.4),
    "PeerAgreement": metrics.PeerAgreement,
    "ExpectedCalibrationError": metrics.ExpectedCalibrationError,
}


def inputs_of(name, rng, peers_probs):
    labels = rng.integers(0, 4, 24)
    if name == "PeerAgreement":
        return labels, peers_probs
    return labels, peers_probs[:, 0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_batches_give_the_same_as_all_at_once(
    rng, peers_probs, weights, name, weighted
):
    y_true, y_pred = inputs_of(name, rng, peers_probs)
    at_once, streamed = MAKERS[name](), MAKERS[name]()
    at_once.update_state(y_true, y_pred, weights if weighted else None)
    for rows in np.split(np.arange(24), [8]):
        streamed.update_state(
            y_true[rows], y_pred[rows], weights[rows] if weighted else None
        )
    assert result_of(at_once) > 0
    assert result_of(streamed) == pytest.approx(result_of(at_once), abs=1e-6)


@pytest.mark.parametrize("name", MAKERS)
def test_weight_0_leaves_an_example_out(rng, peers_probs, name):
    y_true, y_pred = inputs_of(name, rng, peers_probs)
    weights = np.repeat(np.float32([3.0, 0.0]), 12)
    weighted, half = MAKERS[name](), MAKERS[name]()
    weighted.update_state(y_true, y_pred, weights)
    half.update_state(y_true[:12], y_pred[:12])
    assert result_of(weighted) == pytest.approx(result_of(half), abs=1e-6)
    whole = MAKERS[name]()
    whole.update_state(y_true, y_pred)
    assert abs(result_of(whole) - result_of(half)) > 1e-3


@pytest.mark.parametrize(
    "metric",
    [
        metrics.SelectionRate(
            selection.ConfidentKnowledge("margin", threshold=0.3),
            threshold=0.2,
            name="rate",
        ),
        metrics.PeerAgreement(name="agreement"),
        metrics.ExpectedCalibrationError(7, name="error"),
    ],
    ids=lambda metric: type(metric).__name__,
)
def test_config_round_trip(rng, peers_probs, metric):
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(metric)
    )
    assert type(again) is type(metric)
    assert again.get_config() == metric.get_config()
    y_true, y_pred = inputs_of(type(metric).__name__, rng, peers_probs)
    for each in (metric, again):
        each.reset_state()
        each.update_state(y_true, y_pred)
    assert result_of(again) == result_of(metric)


def test_calibration_error_fits_compile(rng):
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, activation="softmax")]
    )
    model.compile(
        "sgd",
        "sparse_categorical_crossentropy",
        metrics=[metrics.ExpectedCalibrationError(5, name="ece")],
    )
    x = rng.normal(size=(24, 3)).astype("float32")
    labels = rng.integers(0, 4, 24)
    logs = model.evaluate(x, labels, batch_size=10, verbose=0, return_dict=True)
    probs = model.predict(x, verbose=0)
    expected = naive_calibration_error(labels, probs, np.ones(24), 5)
    assert logs["ece"] == pytest.approx(expected, abs=1e-5)


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"`threshold` must be .* >= 0"):
        metrics.SelectionRate(threshold=-1.0)
    with pytest.raises(ValueError, match="`num_bins` must be an integer >= 1"):
        metrics.ExpectedCalibrationError(0)
    with pytest.raises(TypeError, match="`num_bins` must be an integer"):
        metrics.ExpectedCalibrationError(10.0)


def test_memorization_rate_equals_a_naive_loop(rng):
    clean = rng.integers(0, 3, 40)
    noisy = rng.integers(0, 3, 40)
    predictions = rng.normal(size=(40, 3)).astype("float32")
    wrong = [n for n in range(40) if clean[n] != noisy[n]]
    learnt = [n for n in wrong if np.argmax(predictions[n]) == noisy[n]]
    assert 0 < len(learnt) < len(wrong) < 40
    assert numpy_of(
        metrics.memorization_rate(noisy, clean, predictions)
    ) == pytest.approx(len(learnt) / len(wrong))


def test_memorization_rate_limits():
    labels = np.array([0, 1, 2, 0])
    wrong = np.array([1, 2, 0, 0])
    eye = np.eye(3, dtype="float32")
    for noisy, predicted, expected in (
        (wrong, wrong, 1.0),
        (wrong, labels, 0.0),
        (labels, labels, 0.0),
    ):
        rate = metrics.memorization_rate(noisy, labels, eye[predicted])
        assert numpy_of(rate) == expected


def test_memorization_rate_checks_the_numbers_of_examples():
    with pytest.raises(ValueError, match="Received: 2, 3 and 2 entries"):
        metrics.memorization_rate([0, 1], [0, 1, 1], [[1.0, 0.0], [0.0, 1.0]])
