"""The losses for noisy labels: values, limits, gradients, forms of labels."""

import json
import math

import keras
import numpy as np
import pytest
from keras import ops
from naive import gradient
from naive import naive_entropy
from naive import naive_log_softmax
from naive import numpy_of
from peers import linear
from peers import mlp

import keras_smkd
from keras_smkd import losses
from keras_smkd import noise

CLASSES = 4
NOISE = [
    [0.7, 0.3, 0.0, 0.0],
    [0.0, 0.6, 0.2, 0.2],
    [0.1, 0.1, 0.8, 0.0],
    [0.0, 0.0, 0.5, 0.5],
]
PRIOR = [0.1, 0.2, 0.3, 0.4]
A = math.log(1e-4)


def gce(p, label, q=0.7):
    return (1.0 - p[label] ** q) / q


def truncated(p, label, q=0.7, k=0.5):
    return (1.0 - max(p[label], k) ** q) / q


def mae(p, label):
    return sum(abs((j == label) - p[j]) for j in range(len(p))) / 2


def rce(p, label, log_zero=A):
    return -sum(p[j] * log_zero for j in range(len(p)) if j != label)


def cross(p, label):
    return -math.log(p[label])


def sce(p, label, alpha=0.1, beta=1.0, log_zero=A):
    return alpha * cross(p, label) + beta * rce(p, label, log_zero)


def nce(p, label):
    return cross(p, label) / sum(cross(p, j) for j in range(len(p)))


def nfl(p, label, gamma=0.5):
    focal = [(1 - a) ** gamma * -math.log(a) for a in p]
    return focal[label] / sum(focal)


def forward(p, label):
    return -math.log(sum(p[i] * NOISE[i][label] for i in range(len(p))))


def backward(p, label):
    inverse = np.linalg.inv(np.array(NOISE))
    return sum(inverse[label, j] * cross(p, j) for j in range(len(p)))


def reweighted(p, label):
    seen = sum(p[i] * NOISE[i][label] for i in range(len(p)))
    return p[label] / seen * cross(p, label)


def penalized(p, label, beta=0.1):
    return cross(p, label) - beta * naive_entropy(p)


def penalized_below(p, label, beta=0.5, threshold=1.0):
    low = max(0.0, threshold - naive_entropy(p))
    return cross(p, label) + beta * low


# The class, its arguments, and the loss of one example. All are linear in the
# label, so that soft labels give the mean over the label.
SINGLE = {
    "gce": (losses.GeneralizedCrossEntropy, {}, gce),
    "gce_q": (
        losses.GeneralizedCrossEntropy,
        {"q": 0.3},
        lambda p, y: gce(p, y, 0.3),
    ),
    "truncated": (losses.TruncatedGeneralizedCrossEntropy, {}, truncated),
    "truncated_k": (
        losses.TruncatedGeneralizedCrossEntropy,
        {"q": 0.4, "k": 0.2},
        lambda p, y: truncated(p, y, 0.4, 0.2),
    ),
    "mae": (losses.MeanAbsoluteProbabilityError, {}, mae),
    "nce": (losses.NormalizedCrossEntropy, {}, nce),
    "nfl": (losses.NormalizedFocal, {}, nfl),
    "nfl_gamma": (
        losses.NormalizedFocal,
        {"gamma": 2.0, "factor_gradient": True},
        lambda p, y: nfl(p, y, 2.0),
    ),
    # A power below 1, whose slope at 0 is infinite.
    "nfl_gradient": (
        losses.NormalizedFocal,
        {"gamma": 0.5, "factor_gradient": True},
        nfl,
    ),
    "forward": (
        losses.ForwardCorrection,
        {"transition_matrix": NOISE},
        forward,
    ),
    "backward": (
        losses.BackwardCorrection,
        {"transition_matrix": NOISE},
        backward,
    ),
    "reweighted": (
        losses.ImportanceReweighting,
        {"transition_matrix": NOISE},
        reweighted,
    ),
    "penalty": (losses.ConfidencePenalty, {}, penalized),
    "penalty_threshold": (
        losses.ConfidencePenalty,
        {"beta": 0.5, "threshold": 1.0},
        penalized_below,
    ),
    "rce": (losses.ReverseCrossEntropy, {}, rce),
    "rce_4": (
        losses.ReverseCrossEntropy,
        {"log_zero": -4.0},
        lambda p, y: rce(p, y, -4.0),
    ),
    "sce": (losses.SymmetricCrossEntropy, {}, sce),
    "sce_weights": (
        losses.SymmetricCrossEntropy,
        {"alpha": 6.0, "beta": 0.1, "log_zero": -4.0},
        lambda p, y: sce(p, y, 6.0, 0.1, -4.0),
    ),
}
# Not the mean over the label, for soft labels.
NOT_LINEAR = {"rce", "rce_4", "sce", "sce_weights"}
# Losses of a batch, and the sum of two.
OTHERS = {
    "dmi": (losses.DeterminantMutualInformation, {}),
    "joint": (losses.JointOptimization, {"prior": PRIOR, "beta": 0.5}),
    "sum": (
        lambda from_logits=False, **kwargs: losses.ActivePassive(
            losses.NormalizedFocal(from_logits=from_logits),
            losses.ReverseCrossEntropy(from_logits=from_logits),
            alpha=2.0,
            from_logits=from_logits,
            **kwargs,
        ),
        {},
    ),
}
ALL = {**{name: given[:2] for name, given in SINGLE.items()}, **OTHERS}


def made(name, /, **kwargs):
    kind, arguments = ALL[name]
    return kind(**arguments, **kwargs)


@pytest.fixture
def logits(rng):
    return rng.normal(0.0, 2.0, (12, CLASSES)).astype("float32")


@pytest.fixture
def labels():
    return np.arange(12, dtype="int32") % CLASSES


def softmax(logits):
    return np.exp(naive_log_softmax(logits))


@pytest.mark.parametrize("name", SINGLE)
def test_values_are_those_of_the_loop(name, logits, labels):
    probs = softmax(logits)
    expected = [
        SINGLE[name][2](p, y) for p, y in zip(probs, labels, strict=True)
    ]
    values = made(name, from_logits=True).call(labels, logits)
    assert tuple(values.shape) == (12,)
    np.testing.assert_allclose(numpy_of(values), expected, rtol=2e-5, atol=2e-6)
    mean = made(name, from_logits=True)(labels, logits)
    np.testing.assert_allclose(numpy_of(mean), np.mean(expected), rtol=2e-5)


@pytest.mark.parametrize("name", sorted(SINGLE.keys() - NOT_LINEAR))
def test_soft_labels_are_the_mean_over_the_label(name, rng, logits):
    soft = rng.dirichlet(np.ones(CLASSES), 12).astype("float32")
    soft[0] = [0.5, 0.5, 0.0, 0.0]
    expected = [
        sum(q[j] * SINGLE[name][2](p, j) for j in range(CLASSES))
        for p, q in zip(softmax(logits), soft, strict=True)
    ]
    values = made(name, from_logits=True).call(soft, logits)
    np.testing.assert_allclose(numpy_of(values), expected, rtol=5e-5, atol=5e-6)


def test_reverse_cross_entropy_of_soft_labels_is_its_formula(rng, logits):
    soft = rng.dirichlet(np.ones(CLASSES), 12).astype("float32")
    soft[0] = [0.5, 0.5, 0.0, 0.0]
    # Below what stands for log 0.
    soft[1] = [1.0 - 1e-6, 1e-6, 0.0, 0.0]
    expected = [
        -sum(
            p[j] * (max(math.log(q[j]), A) if q[j] > 0 else A)
            for j in range(CLASSES)
        )
        for p, q in zip(softmax(logits), soft, strict=True)
    ]
    loss = losses.ReverseCrossEntropy(from_logits=True)
    np.testing.assert_allclose(
        numpy_of(loss.call(soft, logits)), expected, rtol=2e-5
    )


HALF = [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("loss", "label", "probs", "expected"),
    [
        # (1 - sqrt(1/4)) / (1/2)
        (losses.GeneralizedCrossEntropy(0.5), 1, [0.75, 0.25], 1.0),
        # Not kept: (1 - sqrt(0.36)) / (1/2)
        (
            losses.TruncatedGeneralizedCrossEntropy(0.5, 0.36),
            1,
            [0.75, 0.25],
            0.8,
        ),
        (losses.MeanAbsoluteProbabilityError(), 1, [0.75, 0.25], 0.75),
        (losses.ReverseCrossEntropy(-4.0), 1, [0.75, 0.25], 3.0),
        # log 4 / (log 4 + log 2 + log 4)
        (losses.NormalizedCrossEntropy(), 0, [0.25, 0.5, 0.25], 0.4),
        # (3/4) 2 / ((3/4) 2 + (1/2) 1 + (3/4) 2), in units of log 2
        (losses.NormalizedFocal(1.0), 0, [0.25, 0.5, 0.25], 3 / 7),
        # -log(0.5 * 0.5)
        (
            losses.ForwardCorrection([[0.5, 0.5], [0.0, 1.0]]),
            0,
            [0.5, 0.5],
            math.log(4),
        ),
        # The inverse has the row (2, -1): 2 log 2 - log 2
        (
            losses.BackwardCorrection([[0.5, 0.5], [0.0, 1.0]]),
            0,
            [0.5, 0.5],
            math.log(2),
        ),
        # 0.5 / 0.75 * log 2
        (
            losses.ImportanceReweighting([[0.5, 0.5], [0.0, 1.0]]),
            1,
            [0.5, 0.5],
            math.log(2) / 1.5,
        ),
        (losses.ConfidencePenalty(0.25), 0, [0.5, 0.5], 0.75 * math.log(2)),
        # log 2 + 0.7 log 2 + 0.5 log 2
        (losses.JointOptimization(0.7, 0.5), 0, [0.5, 0.5], 2.2 * math.log(2)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_values_worked_by_hand(loss, label, probs, expected):
    np.testing.assert_allclose(
        numpy_of(loss.call([label], [probs])), [expected], rtol=1e-5
    )


def test_determinant_is_that_of_the_joint_counts(logits, labels):
    joint = np.zeros((CLASSES, CLASSES))
    for p, y in zip(softmax(logits), labels, strict=True):
        joint[y] += p
    for offset in (0.001, 0.0):
        expected = -math.log(abs(np.linalg.det(joint)) + offset)
        loss = losses.DeterminantMutualInformation(offset, from_logits=True)
        np.testing.assert_allclose(
            numpy_of(loss.call(labels, logits)), [expected] * 12, rtol=1e-4
        )
    # Two counts of 3/4 and 1/4: 9/16 - 1/16.
    loss = losses.DeterminantMutualInformation(0.5)
    value = loss.call([0, 1], [[0.75, 0.25], [0.25, 0.75]])
    np.testing.assert_allclose(numpy_of(value), [0.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("offset", [0.001, 0.0])
def test_determinant_without_a_class_has_no_gradient(offset, logits):
    labels = np.arange(12) % (CLASSES - 1)
    loss = losses.DeterminantMutualInformation(offset, from_logits=True)
    value = numpy_of(loss(labels, logits))
    expected = -math.log(offset) if offset else math.inf
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    grad = gradient(lambda z: loss(labels, z), logits)
    np.testing.assert_array_equal(grad, np.zeros_like(grad))


def test_determinant_outside_float32_leaves_the_loss_finite():
    logits = 10.0 * np.eye(60, dtype="float32")[np.arange(600) % 60]
    labels = np.arange(600) % 60
    loss = losses.DeterminantMutualInformation(from_logits=True)
    sharp = np.linalg.slogdet(10 * softmax(logits[:60]))[1]
    assert sharp > math.log(np.finfo("float32").max)
    np.testing.assert_allclose(
        numpy_of(loss(labels, logits)), -sharp, rtol=1e-4
    )
    grad = gradient(lambda z: loss(labels, z), logits)
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0


def test_noise_adds_a_constant_to_the_determinant_loss(rng, logits):
    # Exactly, for labels that are distributed as the noise says.
    loss = losses.DeterminantMutualInformation(0.0, from_logits=True)
    matrix = np.array([[0.5, 0.5], [0.25, 0.75]])
    probs = rng.normal(0.0, 1.0, (2, 2)).astype("float32")
    clean = np.array([0, 1])
    # Four examples of each class, of which the noise flips 2 and 1.
    repeated = np.repeat(probs, 4, axis=0)
    noisy = [0, 0, 1, 1, 0, 1, 1, 1]
    before = numpy_of(loss(np.repeat(clean, 4), repeated))
    after = numpy_of(loss(np.array(noisy), repeated))
    expected = before - math.log(np.linalg.det(matrix))
    np.testing.assert_allclose(after, expected, rtol=1e-4)


def test_joint_optimization_is_its_formula(rng, logits):
    soft = rng.dirichlet(np.ones(CLASSES), 12).astype("float32")
    probs = softmax(logits)
    for prior in (None, PRIOR):
        given = [1 / CLASSES] * CLASSES if prior is None else prior
        mean = probs.mean(axis=0)
        common = -sum(a * math.log(b) for a, b in zip(given, mean, strict=True))
        expected = [
            sum(q[j] * cross(p, j) for j in range(CLASSES))
            + 0.5 * naive_entropy(p)
            + 2.0 * common
            for p, q in zip(probs, soft, strict=True)
        ]
        loss = losses.JointOptimization(2.0, 0.5, prior, from_logits=True)
        np.testing.assert_allclose(
            numpy_of(loss.call(soft, logits)), expected, rtol=2e-5
        )


CROSS_ENTROPIES = {
    "identity_forward": losses.ForwardCorrection(np.eye(CLASSES), True),
    "identity_backward": losses.BackwardCorrection(np.eye(CLASSES), True),
    "identity_weights": losses.ImportanceReweighting(np.eye(CLASSES), True),
    "no_penalty": losses.ConfidencePenalty(0.0, from_logits=True),
    "penalty_above_all": losses.ConfidencePenalty(9.0, 0.0, from_logits=True),
    "no_reverse": losses.SymmetricCrossEntropy(1.0, 0.0, from_logits=True),
    "no_regulariser": losses.JointOptimization(0.0, 0.0, from_logits=True),
    "small_q": losses.GeneralizedCrossEntropy(1e-6, from_logits=True),
    "small_q_and_k": losses.TruncatedGeneralizedCrossEntropy(
        1e-6, 1e-30, from_logits=True
    ),
}


@pytest.mark.parametrize("name", CROSS_ENTROPIES)
def test_limits_that_are_the_cross_entropy(name, logits, labels):
    reference = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = CROSS_ENTROPIES[name]
    np.testing.assert_allclose(
        numpy_of(loss.call(labels, logits)),
        numpy_of(reference.call(labels, ops.convert_to_tensor(logits))),
        rtol=2e-5,
    )
    np.testing.assert_allclose(
        gradient(lambda z: loss(labels, z), logits),
        gradient(lambda z: reference(labels, z), logits),
        rtol=1e-4,
        atol=1e-6,
    )


def test_other_limits(logits, labels):
    def values(loss):
        return numpy_of(loss.call(labels, logits))

    error = values(losses.MeanAbsoluteProbabilityError(from_logits=True))
    one = values(losses.GeneralizedCrossEntropy(1.0, from_logits=True))
    np.testing.assert_array_equal(one, error)
    reverse = values(losses.ReverseCrossEntropy(-4.0, from_logits=True))
    np.testing.assert_allclose(reverse, 4.0 * error, rtol=1e-5)
    no_cross = losses.SymmetricCrossEntropy(0.0, 1.0, -4.0, from_logits=True)
    np.testing.assert_array_equal(values(no_cross), reverse)
    unfocused = values(losses.NormalizedFocal(0.0, from_logits=True))
    normalized = values(losses.NormalizedCrossEntropy(from_logits=True))
    np.testing.assert_allclose(unfocused, normalized, rtol=1e-6)
    for alpha, beta, expected in ((0.0, 1.0, error), (1.0, 0.0, normalized)):
        total = losses.ActivePassive(
            losses.NormalizedCrossEntropy(from_logits=True),
            losses.MeanAbsoluteProbabilityError(from_logits=True),
            alpha,
            beta,
            from_logits=True,
        )
        np.testing.assert_array_equal(values(total), expected)


def test_the_threshold_itself_is_not_kept():
    loss = losses.TruncatedGeneralizedCrossEntropy(1.0, 0.5, from_logits=True)
    grad = gradient(
        lambda z: loss([0, 0, 0], z),
        np.array([[0.0, 0.0], [0.1, 0.0], [-0.1, 0.0]], "float32"),
    )
    assert (grad != 0).any(axis=1).tolist() == [False, True, False]
    # All is dropped.
    loss = losses.TruncatedGeneralizedCrossEntropy(1.0, 1.0)
    np.testing.assert_array_equal(numpy_of(loss.call([0], [[0.9, 0.1]])), 0.0)


@pytest.mark.parametrize("name", ALL)
def test_forms_of_labels_agree(name, logits, labels):
    loss = made(name, from_logits=True)
    expected = numpy_of(loss.call(labels, logits))
    column = loss.call(labels[:, None].astype("float32"), logits)
    np.testing.assert_array_equal(numpy_of(column), expected)
    if name != "dmi":
        one_hot = np.eye(CLASSES, dtype="float32")[labels]
        np.testing.assert_array_equal(
            numpy_of(loss.call(one_hot, logits)), expected
        )


@pytest.mark.parametrize("name", ALL)
def test_logits_and_probabilities_agree(name, logits, labels):
    expected = numpy_of(made(name, from_logits=True).call(labels, logits))
    probs = softmax(logits).astype("float32")
    np.testing.assert_allclose(
        numpy_of(made(name).call(labels, probs)),
        expected,
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", ALL)
def test_a_constant_on_the_logits_changes_nothing(name, logits, labels):
    loss = made(name, from_logits=True)
    exact = np.round(logits * 64) / 64
    np.testing.assert_allclose(
        numpy_of(loss.call(labels, exact + 128.0)),
        numpy_of(loss.call(labels, exact)),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("name", ALL)
def test_extreme_predictions_have_finite_values_and_gradients(name):
    # Every class is certain, impossible, and right and wrong in turn.
    certain = 2.0 * np.eye(CLASSES, dtype="float32") - 1.0
    predictions = np.repeat(certain, CLASSES, axis=0)
    labels = np.tile(np.arange(CLASSES), CLASSES)
    for loss, y_pred in (
        (made(name, from_logits=True), 1e4 * predictions),
        (made(name), np.maximum(predictions, 0.0)),
    ):
        assert np.isfinite(numpy_of(loss.call(labels, y_pred))).all()
        grad = gradient(lambda z, loss=loss: loss(labels, z), y_pred)
        assert np.isfinite(grad).all()


@pytest.mark.parametrize("name", ["gce_q", "sce", "forward", "penalty"])
def test_saturated_examples_keep_their_gradient(name):
    # Clipped at 1e-7, the label's probability would have none.
    logits = np.array([[20.0, 0.0, 0.0, 0.0]], "float32")
    grad = gradient(lambda z: made(name, from_logits=True)([3], z), logits)
    assert np.abs(grad).max() > 1e-4


def test_focal_factors_carry_a_gradient_if_asked(logits, labels):
    def grad(**kwargs):
        loss = losses.NormalizedFocal(0.5, from_logits=True, **kwargs)
        return gradient(lambda z: loss(labels, z), logits)

    step = 1e-3
    loss = losses.NormalizedFocal(0.5, from_logits=True)
    slope = np.zeros_like(logits)
    for index in np.ndindex(slope.shape):
        moved = [logits.astype("float64").copy() for _ in range(2)]
        moved[0][index] += step
        moved[1][index] -= step
        up, down = (
            np.mean(
                [nfl(p, y) for p, y in zip(softmax(z), labels, strict=True)]
            )
            for z in moved
        )
        slope[index] = (up - down) / (2 * step)
    np.testing.assert_allclose(
        grad(factor_gradient=True), slope, rtol=1e-2, atol=1e-6
    )
    assert np.abs(grad() - slope).max() > 1e-3
    assert loss.get_config()["factor_gradient"] is False


def test_weights_carry_no_gradient(logits, labels):
    loss = losses.ImportanceReweighting(NOISE, from_logits=True)
    probs = softmax(logits)
    expected = np.zeros_like(probs)
    for i, (p, y) in enumerate(zip(probs, labels, strict=True)):
        weight = reweighted(p, y) / cross(p, y)
        expected[i] = weight * (p - np.eye(CLASSES)[y]) / len(labels)
    np.testing.assert_allclose(
        gradient(lambda z: loss(labels, z), logits), expected, atol=1e-6
    )


def test_a_label_that_the_matrix_excludes_is_infinite_without_a_gradient():
    loss = losses.ForwardCorrection([[1.0, 0.0], [1.0, 0.0]], True)
    logits = np.array([[0.0, 1.0], [0.0, 1.0]], "float32")
    values = numpy_of(loss.call([0, 1], logits))
    np.testing.assert_allclose(values, [0.0, math.inf], atol=1e-6)
    assert np.isfinite(gradient(lambda z: loss([0, 1], z), logits)).all()


def test_backward_correction_is_the_cross_entropy_on_average(logits):
    loss = losses.BackwardCorrection(NOISE, from_logits=True)
    per_noisy = np.stack(
        [numpy_of(loss.call([j] * 12, logits)) for j in range(CLASSES)], axis=1
    )
    np.testing.assert_allclose(
        per_noisy @ np.array(NOISE).T,
        -naive_log_softmax(logits),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_raised(name, logits, labels):
    half = logits.astype("float16")
    loss = made(name, from_logits=True)
    values = loss.call(labels, half)
    assert keras.backend.standardize_dtype(values.dtype) == "float32"
    np.testing.assert_array_equal(
        numpy_of(values), numpy_of(loss.call(labels, half.astype("float32")))
    )


@pytest.mark.parametrize("name", ALL)
def test_a_label_that_is_no_class_is_nan(name, logits, labels):
    for wrong in (CLASSES, -1):
        labels[5] = wrong
        loss = made(name, from_logits=True)
        values = numpy_of(loss.call(labels, logits))
        assert np.isnan(values[5])
        assert np.isnan(values).all() == (name == "dmi")
        # TensorFlow has an error for the inverse of NaN.
        gradient(lambda z, loss=loss: loss(labels, z), logits)


def test_many_classes_do_not_fit_in_the_type_of_the_labels():
    loss = losses.MeanAbsoluteProbabilityError(from_logits=True)
    logits = np.zeros((1, 300), "float32")
    logits[0, 40] = 50.0
    value = loss.call(np.array([40], "uint8"), logits)
    np.testing.assert_allclose(numpy_of(value), [0.0], atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_serialisation_keeps_everything(name, logits, labels):
    loss = made(
        name, from_logits=True, reduction=None, name="mine", dtype="float32"
    )
    again = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    )
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    arguments = {"from_logits": True, "reduction": None, "name": "mine"}
    assert arguments.items() <= again.get_config().items()
    for key, value in ALL[name][1].items():
        assert again.get_config()[key] == getattr(again, key) == value
    np.testing.assert_array_equal(
        numpy_of(again(labels, logits)), numpy_of(loss.call(labels, logits))
    )


@pytest.mark.parametrize("name", ALL)
def test_a_plain_model_trains_with_it(name, rng):
    # Far apart, so that some labels are likely from the start.
    x = rng.normal(0.0, 4.0, (16, 6)).astype("float32")
    y = np.arange(16) % CLASSES
    model = linear()
    before = numpy_of(model.weights[0])
    model.compile(optimizer="sgd", loss=made(name, from_logits=True))
    history = model.fit(x, y, batch_size=8, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert np.abs(numpy_of(model.weights[0]) - before).max() > 0


@pytest.mark.parametrize("name", ["gce", *OTHERS])
def test_peers_train_with_it(name, rng):
    # Far apart, so that some labels are likely from the start.
    x = rng.normal(0.0, 4.0, (16, 6)).astype("float32")
    y = np.arange(16) % CLASSES
    model = keras_smkd.SelectiveMutualDistillation([mlp(), mlp()])
    model.compile(optimizer="sgd", loss=made(name, from_logits=True))
    before = [numpy_of(v) for v in model.trainable_variables]
    history = model.fit(x, y, batch_size=8, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    after = [numpy_of(v) for v in model.trainable_variables]
    assert any(
        np.abs(a - b).max() > 0 for a, b in zip(after, before, strict=True)
    )


def test_corrected_labels_reach_the_loss(rng):
    # Far apart, so that some labels are likely from the start.
    x = rng.normal(0.0, 4.0, (16, 6)).astype("float32")
    y = np.arange(16) % CLASSES

    def fit(loss):
        model = keras_smkd.SelectiveMutualDistillation(
            [linear(), linear()], target=keras_smkd.targets.ProSelfLC()
        )
        model.compile(optimizer="sgd", loss=loss)
        return model.fit(x, y, batch_size=8, verbose=0).history["loss"]

    assert np.isfinite(fit(losses.GeneralizedCrossEntropy(from_logits=True)))
    with pytest.raises(ValueError, match=r"`y_true` must be integers of shape"):
        fit(losses.DeterminantMutualInformation(from_logits=True))
    with pytest.raises(ValueError, match=r"must agree.*from_logits=False"):
        fit(losses.GeneralizedCrossEntropy())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: losses.GeneralizedCrossEntropy(0.0),
            ValueError,
            r"`q` must be in \(0, 1\]\. Received: q=0\.0",
        ),
        (
            lambda: losses.GeneralizedCrossEntropy("much"),
            TypeError,
            r"`q` must be a number\. Received: q='much'",
        ),
        (
            lambda: losses.TruncatedGeneralizedCrossEntropy(k=1.5),
            ValueError,
            r"`k` must be in \(0, 1\]\. Received: k=1\.5",
        ),
        (
            lambda: losses.ReverseCrossEntropy(4.0),
            ValueError,
            r"`log_zero` must be a finite number <= 0\. Received: log_zero=4",
        ),
        (
            lambda: losses.SymmetricCrossEntropy(alpha=-1.0),
            ValueError,
            r"`alpha` must be .* >= 0\. Received: alpha=-1\.0",
        ),
        (
            lambda: losses.SymmetricCrossEntropy(beta=math.nan),
            ValueError,
            r"`beta` must be .* >= 0\. Received: beta=nan",
        ),
        (
            lambda: losses.NormalizedFocal(-0.5),
            ValueError,
            r"`gamma` must be .* >= 0\. Received: gamma=-0\.5",
        ),
        (
            lambda: losses.ActivePassive("nce", "mae"),
            TypeError,
            r"`active` must be a `keras.losses.Loss`\. Received: active='nce'",
        ),
        (
            lambda: losses.ActivePassive(
                losses.NormalizedCrossEntropy(),
                losses.ReverseCrossEntropy(from_logits=True),
            ),
            ValueError,
            r"`from_logits` must be that of both.*True for `passive`",
        ),
        (
            lambda: losses.ConfidencePenalty(threshold=-1.0),
            ValueError,
            r"`threshold` must be .* >= 0\. Received: threshold=-1\.0",
        ),
        (
            lambda: losses.DeterminantMutualInformation(offset=-1.0),
            ValueError,
            r"`offset` must be .* >= 0\. Received: offset=-1\.0",
        ),
        (
            lambda: losses.JointOptimization(prior=[0.5, 0.6]),
            ValueError,
            r"`prior` must be .* sum to 1\. Received: prior=\[0\.5, 0\.6\]",
        ),
        (
            lambda: losses.JointOptimization(prior="even"),
            TypeError,
            r"`prior` must be a list of numbers\. Received: prior='even'",
        ),
        (
            lambda: losses.ForwardCorrection("none"),
            TypeError,
            r"`transition_matrix` must be a square array of numbers\. Received",
        ),
        (
            lambda: losses.ForwardCorrection([[1.0, 0.0]]),
            ValueError,
            r"`transition_matrix` must be square.*Received: .*shape \(1, 2\)",
        ),
        (
            lambda: losses.ForwardCorrection(np.array(NOISE).T),
            ValueError,
            r"rows that sum to 1\. Received: .* from 0\.7 to 1\.5",
        ),
        (
            lambda: losses.ForwardCorrection([[1.5, -0.5], [0.0, 1.0]]),
            ValueError,
            r"entries >= 0 .*Received: smallest entry -0\.5",
        ),
        (
            lambda: losses.ForwardCorrection([[math.nan, 1.0], [0.0, 1.0]]),
            ValueError,
            r"entries >= 0 .*Received: smallest entry nan",
        ),
        (
            lambda: losses.BackwardCorrection(np.full((3, 3), 1 / 3)),
            ValueError,
            r"`transition_matrix` must be invertible\. Received",
        ),
        (
            lambda: losses.ImportanceReweighting([[0.0, 1.0], [1.0, 0.0]]),
            ValueError,
            r"must have a positive diagonal\. Received: .* with 0 on it",
        ),
    ],
)
def test_constructors_refuse_what_cannot_be_right(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_calls_refuse_shapes_that_do_not_fit(logits, labels):
    loss = losses.GeneralizedCrossEntropy()
    for y_true in (labels[:5], np.ones((12, 3)), np.ones((12, 4, 1)), 1.0):
        with pytest.raises(ValueError, match=r"`y_true` must have shape .*Rec"):
            loss.call(y_true, logits)
    for y_pred in (logits[:, :1], logits[:, None]):
        with pytest.raises(ValueError, match=r"`y_pred` must have shape .*Rec"):
            loss.call(labels, y_pred)
    matrix = noise.symmetric_excluding_true(0.2, 3)
    with pytest.raises(
        ValueError,
        match=r"`transition_matrix` must be for the 4 .*Received.* 3",
    ):
        losses.ForwardCorrection(matrix).call(labels, logits)
    with pytest.raises(ValueError, match=r"`prior` must be for the 4 .* 2 cl"):
        losses.JointOptimization(prior=[0.5, 0.5]).call(labels, logits)
    one_hot = np.eye(CLASSES)[labels]
    with pytest.raises(ValueError, match=r"integers of shape.*\(12, 4\)"):
        losses.DeterminantMutualInformation().call(one_hot, logits)
