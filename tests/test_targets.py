"""Label correction: values, limits, and where the gradient flows."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from naive import gradient
from naive import naive_entropy
from naive import naive_log_softmax
from naive import numpy_of

from keras_smkd import functional
from keras_smkd import targets


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


@pytest.fixture
def labels(rng):
    return np.eye(4, dtype="float32")[rng.integers(0, 4, 10)]


@pytest.fixture
def logits(rng):
    return rng.normal(0.0, 2.0, (10, 4)).astype("float32")


@pytest.fixture
def predictions(logits):
    return np.exp(naive_log_softmax(logits)).astype("float32")


def test_corrected_targets_equal_a_naive_loop(rng, labels, predictions):
    trust = rng.random(10).astype("float32")
    ours = numpy_of(targets.corrected_targets(labels, predictions, trust))
    for n in range(10):
        for k in range(4):
            expected = (1 - trust[n]) * labels[n, k]
            expected += trust[n] * predictions[n, k]
            assert ours[n, k] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(ours.sum(axis=-1), 1.0, rtol=1e-6)


def test_corrected_targets_limits(labels, predictions):
    for trust, expected in (
        (0.0, labels),
        (np.zeros(10, "float32"), labels),
        (1.0, predictions),
        (np.ones(10, "float32"), predictions),
    ):
        np.testing.assert_array_equal(
            numpy_of(targets.corrected_targets(labels, predictions, trust)),
            expected,
        )


def test_corrected_targets_worked_by_hand():
    ours = targets.corrected_targets(
        [[1, 0], [0.5, 0.5]], [[0.2, 0.8], [0.2, 0.8]], [0.25, 1.0]
    )
    np.testing.assert_allclose(
        numpy_of(ours), [[0.8, 0.2], [0.2, 0.8]], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("labels_shape", "shape"),
    [((3, 2), (3, 4)), ((3,), (3, 4)), ((1, 4), (3, 4)), ((3, 4), (1, 4))],
)
def test_corrected_targets_check_shapes(labels_shape, shape):
    with pytest.raises(ValueError, match="must have the same shape") as caught:
        targets.corrected_targets(
            np.zeros(labels_shape, "float32"), np.zeros(shape, "float32"), 0.5
        )
    assert f"labels.shape={labels_shape}" in str(caught.value)
    assert f"predictions.shape={shape}" in str(caught.value)


@pytest.mark.parametrize("target_gradient", [False, True])
def test_gradient_through_the_target(
    rng, labels, logits, predictions, target_gradient
):
    trust = rng.random(10).astype("float32")

    def loss(z):
        log_probs = functional.log_probabilities(z)
        corrected = targets.corrected_targets(
            labels, ops.exp(log_probs), trust, target_gradient
        )
        return ops.sum(functional.soft_cross_entropy(corrected, log_probs))

    corrected = (1 - trust[:, None]) * labels + trust[:, None] * predictions
    expected = predictions - corrected
    if target_gradient:
        # The part of the prediction is trust * H(p).
        entropies = np.array([[naive_entropy(row)] for row in predictions])
        expected = expected - trust[:, None] * predictions * (
            np.log(predictions) + entropies
        )
    np.testing.assert_allclose(gradient(loss, logits), expected, atol=1e-5)


def test_no_gradient_flows_through_trust(labels, predictions):
    def loss(trust):
        corrected = targets.corrected_targets(labels, predictions, trust, True)
        return ops.sum(ops.multiply(corrected, predictions))

    trust = np.full(10, 0.5, "float32")
    np.testing.assert_array_equal(gradient(loss, trust), 0.0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_float32(labels, predictions, dtype):
    half = ops.cast(predictions, dtype)
    for value in (
        targets.corrected_targets(ops.cast(labels, dtype), half, 0.5),
        targets.ProSelfLC()(ops.cast(labels, dtype), half, 0.5),
    ):
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
    expected = targets.ProSelfLC()(labels, ops.cast(half, "float32"), 0.5)
    np.testing.assert_array_equal(numpy_of(value), numpy_of(expected))


LOCAL_TRUST = {
    "entropy": lambda p: 1.0 - naive_entropy(p) / math.log(len(p)),
    "probability": max,
    "global": lambda p: 1.0,
}


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("trust", targets.TRUSTS)
def test_proselflc_equals_a_naive_loop(labels, predictions, trust, progress):
    part = targets.ProSelfLC(sharpness=6.0, midpoint=0.4, trust=trust)
    growth = sigmoid(6.0 * (progress - 0.4))
    expected = np.array([growth * LOCAL_TRUST[trust](p) for p in predictions])
    tensor = ops.convert_to_tensor(progress, "float32")
    for given in (progress, tensor):
        np.testing.assert_allclose(
            numpy_of(part.trust_in(predictions, given)), expected, rtol=2e-5
        )
        np.testing.assert_allclose(
            numpy_of(part(labels, predictions, given)),
            (1 - expected[:, None]) * labels + expected[:, None] * predictions,
            rtol=2e-5,
            atol=1e-6,
        )


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_proselflc_limits(progress):
    labels = np.eye(3, dtype="float32")
    part = targets.ProSelfLC(sharpness=16.0)
    # A uniform prediction is not trusted, a one-hot one as much as allowed.
    uniform = np.full((3, 3), 1 / 3, "float32")
    np.testing.assert_allclose(
        numpy_of(part(labels, uniform, progress)), labels, atol=1e-6
    )
    one_hot = np.roll(labels, 1, axis=1)
    np.testing.assert_allclose(
        numpy_of(part.trust_in(one_hot, progress)),
        sigmoid(16.0 * (progress - 0.5)),
        rtol=1e-5,
    )


def test_proselflc_trust_grows_with_progress(predictions):
    part = targets.ProSelfLC()
    values = [
        numpy_of(part.trust_in(predictions, t)) for t in (0.0, 0.3, 0.6, 1.0)
    ]
    assert (np.diff(values, axis=0) > 0).all()
    assert np.min(values) >= 0.0
    assert np.max(values) <= 1.0


@pytest.mark.parametrize("trust", targets.TRUSTS)
def test_proselflc_trust_carries_no_gradient(logits, trust):
    part = targets.ProSelfLC(trust=trust)

    def total(z):
        probs = ops.exp(functional.log_probabilities(z))
        return ops.sum(part.trust_in(probs, 0.7))

    np.testing.assert_array_equal(gradient(total, logits), 0.0)


@pytest.mark.parametrize("target_gradient", [False, True])
@pytest.mark.parametrize("trust", targets.TRUSTS)
def test_proselflc_gradient_holds_the_trust_constant(
    labels, logits, predictions, trust, target_gradient
):
    part = targets.ProSelfLC(trust=trust, target_gradient=target_gradient)
    constant = numpy_of(part.trust_in(predictions, 0.7))

    def loss(z, make):
        log_probs = functional.log_probabilities(z)
        corrected = make(ops.exp(log_probs))
        return ops.sum(functional.soft_cross_entropy(corrected, log_probs))

    def with_part(z):
        return loss(z, lambda p: part(labels, p, 0.7))

    def with_constant(z):
        return loss(
            z,
            lambda p: targets.corrected_targets(
                labels, p, constant, target_gradient
            ),
        )

    np.testing.assert_allclose(
        gradient(with_part, logits), gradient(with_constant, logits), atol=1e-6
    )


@pytest.mark.parametrize("target_gradient", [False, True])
def test_proselflc_is_finite_at_probabilities_of_0_and_1(target_gradient):
    labels = np.eye(3, dtype="float32")
    logits = 1e4 * np.roll(labels, 1, axis=1)
    for trust in targets.TRUSTS:
        part = targets.ProSelfLC(trust=trust, target_gradient=target_gradient)

        def loss(z, part=part):
            log_probs = functional.log_probabilities(z)
            corrected = part(labels, ops.exp(log_probs), 0.7)
            return ops.sum(functional.soft_cross_entropy(corrected, log_probs))

        assert np.isfinite(numpy_of(loss(ops.convert_to_tensor(logits))))
        assert np.isfinite(gradient(loss, logits)).all()


def test_config_round_trip():
    part = targets.ProSelfLC(4.0, 0.25, "probability", True)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(part)
    )
    assert type(again) is targets.ProSelfLC
    assert again.get_config() == {
        "sharpness": 4.0,
        "midpoint": 0.25,
        "trust": "probability",
        "target_gradient": True,
    }


def test_wrong_arguments(labels, predictions):
    with pytest.raises(ValueError, match=r"`sharpness` must be .* > 0"):
        targets.ProSelfLC(sharpness=0.0)
    with pytest.raises(ValueError, match=r"`midpoint` must be in \[0, 1\]"):
        targets.ProSelfLC(midpoint=80)
    with pytest.raises(ValueError, match="`trust` must be one of 'entropy'"):
        targets.ProSelfLC(trust="margin")
    with pytest.raises(ValueError, match=r"`progress` must be in \[0, 1\]"):
        targets.ProSelfLC()(labels, predictions, 30)
