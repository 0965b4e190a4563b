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
from keras_smkd.batch import Batch


def batch_of(labels, predictions, progress=None):
    """A batch of one learner, of probabilities `(batch, classes)`."""
    log_probs = ops.log(ops.expand_dims(predictions, axis=1))
    return Batch(labels=labels, log_probs=log_probs, progress=progress)


def batch_of_logits(labels, logits, progress=None):
    """A batch of one learner, of logits `(batch, classes)`."""
    logits = ops.expand_dims(logits, axis=1)
    return Batch(labels=labels, logits=logits, progress=progress)


def only(targets_of_learners):
    """The targets of the one learner."""
    assert targets_of_learners.shape[1] == 1
    return targets_of_learners[:, 0]


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


def test_corrected_targets_of_learners_equal_a_naive_loop(rng, labels):
    logits = rng.normal(0.0, 2.0, (10, 3, 4))
    predictions = np.exp(naive_log_softmax(logits)).astype("float32")
    for shape in ((10, 3), (10, 1), ()):
        trust = rng.random(shape).astype("float32")
        ours = numpy_of(targets.corrected_targets(labels, predictions, trust))
        each = np.broadcast_to(trust, (10, 3))
        for n, i, k in np.ndindex(10, 3, 4):
            expected = (1 - each[n, i]) * labels[n, k]
            expected += each[n, i] * predictions[n, i, k]
            assert ours[n, i, k] == pytest.approx(expected, abs=1e-6)
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
    [
        ((3, 2), (3, 4)),
        ((3,), (3, 4)),
        ((1, 4), (3, 4)),
        ((3, 4), (1, 4)),
        ((3, 2), (3, 2, 4)),
        ((2, 4), (3, 2, 4)),
        ((3, 2, 4), (3, 2, 4)),
    ],
)
def test_corrected_targets_check_shapes(labels_shape, shape):
    with pytest.raises(
        ValueError, match=r"must have shape \(batch, classes\)"
    ) as caught:
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


def total_cross_entropy(target, batch):
    """The sum over the batch of the cross entropy with a target."""
    values = functional.soft_cross_entropy(target(batch), batch.log_probs)
    return ops.sum(values)


def test_no_gradient_flows_through_trust(labels, predictions):
    def loss(trust):
        corrected = targets.corrected_targets(labels, predictions, trust, True)
        return ops.sum(ops.multiply(corrected, predictions))

    trust = np.full(10, 0.5, "float32")
    np.testing.assert_array_equal(gradient(loss, trust), 0.0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_gives_float32(labels, logits, predictions, dtype):
    half = ops.cast(predictions, dtype)
    half_logits = ops.cast(logits, dtype)
    half_labels = ops.cast(labels, dtype)
    for value, expected in (
        (
            targets.corrected_targets(half_labels, half, 0.5),
            targets.corrected_targets(labels, ops.cast(half, "float32"), 0.5),
        ),
        *(
            (
                target(batch_of_logits(half_labels, half_logits, 0.5)),
                target(
                    batch_of_logits(
                        labels, ops.cast(half_logits, "float32"), 0.5
                    )
                ),
            )
            for target in EVERY_TARGET
        ),
    ):
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        np.testing.assert_array_equal(numpy_of(value), numpy_of(expected))


LOCAL_TRUST = {
    "entropy": lambda p: 1.0 - naive_entropy(p) / math.log(len(p)),
    "probability": max,
    "global": lambda p: 1.0,
}


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("trust", targets.proselflc.TRUSTS)
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
            numpy_of(only(part(batch_of(labels, predictions, given)))),
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
        numpy_of(only(part(batch_of(labels, uniform, progress)))),
        labels,
        atol=1e-6,
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


@pytest.mark.parametrize("trust", targets.proselflc.TRUSTS)
def test_proselflc_trust_carries_no_gradient(logits, trust):
    part = targets.ProSelfLC(trust=trust)

    def total(z):
        probs = ops.exp(functional.log_probabilities(z))
        return ops.sum(part.trust_in(probs, 0.7))

    np.testing.assert_array_equal(gradient(total, logits), 0.0)


@pytest.mark.parametrize("target_gradient", [False, True])
@pytest.mark.parametrize("trust", targets.proselflc.TRUSTS)
def test_proselflc_gradient_holds_the_trust_constant(
    labels, logits, predictions, trust, target_gradient
):
    part = targets.ProSelfLC(trust=trust, target_gradient=target_gradient)
    constant = numpy_of(part.trust_in(predictions, 0.7))

    def with_part(z):
        return total_cross_entropy(part, batch_of_logits(labels, z, 0.7))

    def with_constant(z):
        log_probs = functional.log_probabilities(z)
        corrected = targets.corrected_targets(
            labels, ops.exp(log_probs), constant, target_gradient
        )
        return ops.sum(functional.soft_cross_entropy(corrected, log_probs))

    np.testing.assert_allclose(
        gradient(with_part, logits), gradient(with_constant, logits), atol=1e-6
    )


@pytest.mark.parametrize("target_gradient", [False, True])
def test_proselflc_is_finite_at_probabilities_of_0_and_1(target_gradient):
    labels = np.eye(3, dtype="float32")
    logits = 1e4 * np.roll(labels, 1, axis=1)
    for trust in targets.proselflc.TRUSTS:
        part = targets.ProSelfLC(trust=trust, target_gradient=target_gradient)

        def loss(z, part=part):
            return total_cross_entropy(part, batch_of_logits(labels, z, 0.7))

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
        targets.ProSelfLC()(batch_of(labels, predictions, 30))


# Smoothed labels, bootstrapping, a virtual teacher.


def test_label_smoothing_worked_by_hand():
    labels = [[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]
    over_all = targets.LabelSmoothing(0.3)(Batch(labels=labels))
    np.testing.assert_allclose(
        numpy_of(only(over_all)),
        [[0.1, 0.8, 0.1], [0.45, 0.45, 0.1]],
        rtol=1e-6,
    )
    over_others = targets.LabelSmoothing(0.3, over="others")(
        Batch(labels=labels)
    )
    np.testing.assert_allclose(
        numpy_of(only(over_others)),
        [[0.15, 0.7, 0.15], [0.425, 0.425, 0.15]],
        rtol=1e-6,
    )


def test_the_two_smoothings_are_one_another(labels):
    batch = Batch(labels=labels)
    over_others = targets.LabelSmoothing(0.4 * 3 / 4, over="others")(batch)
    np.testing.assert_allclose(
        numpy_of(targets.LabelSmoothing(0.4)(batch)),
        numpy_of(over_others),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    "target",
    [
        targets.LabelSmoothing(0.0),
        targets.LabelSmoothing(0.0, over="others"),
        targets.SoftBootstrapping(1.0),
        targets.HardBootstrapping(1.0),
        targets.VirtualTeacher(0.0),
        targets.VirtualTeacher(0.0, multiplier=50.0),
    ],
)
def test_nothing_corrected_gives_the_labels(labels, predictions, target):
    np.testing.assert_array_equal(
        numpy_of(only(target(batch_of(labels, predictions, 0.5)))), labels
    )


def test_bootstrapping_worked_by_hand():
    batch = batch_of([[1.0, 0.0, 0.0]], [[0.2, 0.3, 0.5]])
    soft = only(targets.SoftBootstrapping(0.9)(batch))
    np.testing.assert_allclose(numpy_of(soft), [[0.92, 0.03, 0.05]], rtol=1e-6)
    hard = only(targets.HardBootstrapping(0.9)(batch))
    np.testing.assert_allclose(numpy_of(hard), [[0.9, 0.0, 0.1]], rtol=1e-6)


def test_hard_bootstrapping_takes_the_first_of_equals():
    batch = batch_of([[0.0, 0.0, 1.0]], [[0.25, 0.375, 0.375]])
    hard = only(targets.HardBootstrapping(0.5)(batch))
    assert numpy_of(hard).tolist() == [[0.0, 0.5, 0.5]]


@pytest.mark.parametrize(
    ("target", "attached"),
    [
        (targets.SoftBootstrapping(0.75), True),
        (targets.SoftBootstrapping(0.75, target_gradient=False), False),
        (targets.HardBootstrapping(0.75), False),
    ],
)
def test_gradient_through_a_bootstrapped_target(
    labels, logits, target, attached
):
    def loss(z):
        return total_cross_entropy(target, batch_of_logits(labels, z))

    probs = np.exp(naive_log_softmax(logits))
    corrected = numpy_of(only(target(batch_of_logits(labels, logits))))
    expected = probs - corrected
    if attached:
        entropies = np.array([[naive_entropy(row)] for row in probs])
        expected = expected - 0.25 * probs * (np.log(probs) + entropies)
    np.testing.assert_allclose(gradient(loss, logits), expected, atol=1e-5)


def test_virtual_teacher_worked_by_hand():
    part = targets.VirtualTeacher(alpha=0.5, temperature=0.5, correct_prob=0.8)
    # u / T is (1.6, 0.2, 0.2).
    top = math.exp(1.6) / (math.exp(1.6) + 2 * math.exp(0.2))
    teacher = numpy_of(part.teacher([[1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(
        teacher, [[top, (1 - top) / 2, (1 - top) / 2]], rtol=1e-6
    )
    ours = numpy_of(only(part(Batch(labels=[[1.0, 0.0, 0.0]]))))
    np.testing.assert_allclose(
        ours, 0.5 * np.array([[1.0, 0.0, 0.0]]) + 0.5 * teacher, rtol=1e-6
    )
    assert part.loss_weight(3) == 1.0


def test_multiplier_of_the_virtual_teacher_keeps_the_proportions(labels):
    # (1 - 0.25) labels + 0.25 * 8 / 4 teacher, normalised.
    part = targets.VirtualTeacher(0.25, 2.0, 0.9, multiplier=8.0)
    assert part.loss_weight(4) == 1.25
    expected = (0.75 * labels + 0.5 * numpy_of(part.teacher(labels))) / 1.25
    ours = only(part(Batch(labels=labels)))
    np.testing.assert_allclose(numpy_of(ours), expected, rtol=1e-6)


EVERY_TARGET = [
    targets.ProSelfLC(),
    targets.LabelSmoothing(),
    targets.LabelSmoothing(0.2, over="others"),
    targets.SoftBootstrapping(),
    targets.HardBootstrapping(),
    targets.VirtualTeacher(),
    targets.VirtualTeacher(0.95, 10.0, 0.9, multiplier=100.0),
]


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_every_target_is_a_distribution(rng, predictions, target):
    soft = rng.random((10, 4)).astype("float32") + 0.1
    soft /= soft.sum(axis=-1, keepdims=True)
    for labels in (soft, np.eye(4, dtype="float32")[:1].repeat(10, 0)):
        ours = numpy_of(only(target(batch_of(labels, predictions, 0.7))))
        assert ours.dtype == "float32"
        assert (ours >= 0).all()
        np.testing.assert_allclose(ours.sum(axis=-1), 1.0, atol=1e-6)


@pytest.mark.parametrize("target", EVERY_TARGET)
def test_every_learner_has_the_target_that_it_has_alone(rng, labels, target):
    logits = rng.normal(0.0, 2.0, (10, 3, 4)).astype("float32")
    ours = target(Batch(labels=labels, logits=logits, progress=0.7))
    assert tuple(ours.shape) == (10, 3, 4)
    for i in range(3):
        alone = only(target(batch_of_logits(labels, logits[:, i], 0.7)))
        np.testing.assert_allclose(
            numpy_of(ours)[:, i], numpy_of(alone), rtol=1e-6, atol=1e-7
        )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: targets.LabelSmoothing(1.5), r"`smoothing` must be in \[0, 1"),
        (lambda: targets.LabelSmoothing(over="none"), "`over` must be one of"),
        (lambda: targets.SoftBootstrapping(-1), r"`beta` must be in \[0, 1\]"),
        (lambda: targets.HardBootstrapping(2.0), r"`beta` must be in \[0, 1\]"),
        (lambda: targets.VirtualTeacher(2.0), r"`alpha` must be in \[0, 1\]"),
        (
            lambda: targets.VirtualTeacher(temperature=0),
            "`temperature` must be a finite number > 0",
        ),
        (
            lambda: targets.VirtualTeacher(multiplier=0),
            "`multiplier` must be a finite number > 0",
        ),
    ],
)
def test_wrong_arguments_of_the_other_targets(build, message):
    with pytest.raises(ValueError, match=message):
        build()
