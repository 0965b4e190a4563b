"""What holds for all values: of every loss, and of the maths below them.

The shapes are fixed, for JAX compiles each operation anew for each shape; only
the values are drawn, the same ones in every run.
"""

import atexit
import functools
import inspect
import shutil
import tempfile

import keras
import numpy as np
import pytest
from hypothesis import configuration
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops
from naive import gradient
from naive import naive_log_softmax
from naive import numpy_of

from keras_smkd import functional
from keras_smkd import losses
from keras_smkd import schedules
from keras_smkd import targets
from keras_smkd.batch import Batch

BATCH, CLASSES = 8, 3
NOISE = [[0.75, 0.25, 0.0], [0.0, 0.5, 0.5], [0.125, 0.125, 0.75]]
IDENTITY = np.eye(CLASSES)

drawn = settings(
    max_examples=10, deadline=None, derandomize=True, database=None
)
# A gradient that is not compiled takes JAX a tenth of a second.
drawn_for_gradients = settings(drawn, max_examples=5)
# Even without a database, hypothesis has notes that it would leave here.
HOME = tempfile.mkdtemp()
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
configuration.set_hypothesis_home_dir(HOME)

# What is drawn. Others can be made of `arrays_of` in the same way.


def arrays_of(elements, classes=CLASSES):
    return hnp.arrays("float32", (BATCH, classes), elements=elements)


def normalised(weights):
    weights = weights + (weights.sum(axis=1, keepdims=True) == 0)
    return weights / weights.sum(axis=1, keepdims=True)


# In steps of 1/64, so that they are exact in float16, and with an integer
# added in float32 too. So wide that predictions round to 0 and 1.
LOGITS = arrays_of(st.integers(-1280, 1280).map(lambda k: k / 64))
# So that no probability is below `keras.config.epsilon()`.
MILD_LOGITS = arrays_of(st.integers(-384, 384).map(lambda k: k / 64))
EXTREME_LOGITS = arrays_of(st.sampled_from([-1e4, 0.0, 1e4]))
EXTREME_PROBS = arrays_of(st.sampled_from([0.0, 1.0])).map(normalised)
LABELS = hnp.arrays("int32", (BATCH,), elements=st.integers(0, CLASSES - 1))
# Some probabilities are exactly 0.
SOFT_LABELS = arrays_of(st.integers(0, 8)).map(normalised)
CONSTANTS = st.integers(-100, 100).map(float)


def one_hot(labels):
    return np.eye(CLASSES, dtype="float32")[labels]


def expected_over(labels, values):
    """The expectation over the label: `(batch,)` from `(batch, classes)`."""
    return (labels * values).sum(axis=1)


# The losses.


def combined(from_logits, **kwargs):
    return losses.ActivePassive(
        losses.NormalizedFocal(from_logits=from_logits),
        losses.ReverseCrossEntropy(from_logits=from_logits),
        from_logits=from_logits,
        **kwargs,
    )


def matrix(kind, transition_matrix=NOISE, **kwargs):
    return functools.partial(
        kind, transition_matrix=transition_matrix, **kwargs
    )


SLACK = [[0.0, 0.1, 0.0], [0.2, 0.0, 0.0], [0.0, 0.0, 0.05]]

LOSSES = {
    "gce": losses.GeneralizedCrossEntropy,
    "gce_0.01": functools.partial(losses.GeneralizedCrossEntropy, q=0.01),
    "truncated": losses.TruncatedGeneralizedCrossEntropy,
    "mae": losses.MeanAbsoluteProbabilityError,
    "rce": losses.ReverseCrossEntropy,
    "sce": losses.SymmetricCrossEntropy,
    "nce": losses.NormalizedCrossEntropy,
    "nfl": losses.NormalizedFocal,
    "nfl_full": functools.partial(
        losses.NormalizedFocal, gamma=0.5, factor_gradient=True
    ),
    "apl": functools.partial(combined, alpha=2.0, beta=0.5),
    "penalty": losses.ConfidencePenalty,
    "penalty_below": functools.partial(
        losses.ConfidencePenalty, beta=0.5, threshold=1.0
    ),
    "joint": losses.JointOptimization,
    "forward": matrix(losses.ForwardCorrection),
    "backward": matrix(losses.BackwardCorrection),
    "reweighting": matrix(losses.ImportanceReweighting),
    "revision": matrix(losses.TransitionRevision, slack=SLACK),
    "dmi": losses.DeterminantMutualInformation,
    "dmi_0": functools.partial(losses.DeterminantMutualInformation, offset=0.0),
}
INTEGERS_ONLY = {
    "dmi": "a loss of the counts of the labels, which soft labels have not",
    "dmi_0": "the same",
}
NOT_FINITE = {
    "dmi_0": "-log |det U| is infinite where the predictions are alike",
}
# The others are compared with a relative tolerance of 1e-3.
LOOSE = {
    "dmi": "the determinant is a difference of nearly equal products",
    "dmi_0": "the same",
}
RANGES = {
    "gce": (0.0, 1 / 0.7),
    "gce_0.01": (0.0, 100.0),
    "truncated": (0.0, (1 - 0.5**0.7) / 0.7),
    "mae": (0.0, 1.0),
    "rce": (0.0, -np.log(1e-4)),
    "sce": (0.0, np.inf),
    "nce": (0.0, 1.0),
    "nfl": (0.0, 1.0),
    "nfl_full": (0.0, 1.0),
    "apl": (0.0, 2.0 - 0.5 * np.log(1e-4)),
    "penalty": (-0.1 * np.log(CLASSES), np.inf),
    "penalty_below": (0.0, np.inf),
    "joint": (1.2 * np.log(CLASSES), np.inf),
    "forward": (0.0, np.inf),
    "reweighting": (0.0, np.inf),
    "revision": (0.0, np.inf),
    "dmi": (-np.log(BATCH**CLASSES), -np.log(0.001)),
}
MODELS = []


@functools.cache
def made(name, from_logits=True):
    return ready(LOSSES[name](from_logits=from_logits))


def ready(loss):
    """Attach the loss to a model, if it needs one."""
    if hasattr(loss, "attach"):
        inputs = keras.Input((CLASSES,))
        MODELS.append(keras.Model(inputs, inputs))
        loss.attach(MODELS[-1])
    return loss


def values_of(loss, labels, predictions):
    result = loss.call(labels, predictions)
    assert tuple(result.shape) == (BATCH,)
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    return numpy_of(result)


def assert_close(name, values, expected):
    tolerance = 1e-2 if name in LOOSE else 1e-3
    np.testing.assert_allclose(values, expected, rtol=tolerance, atol=1e-5)


each = pytest.mark.parametrize("name", LOSSES)


def test_every_loss_is_in_the_table():
    public = {
        kind
        for kind in vars(losses).values()
        if inspect.isclass(kind) and issubclass(kind, keras.Loss)
    }
    assert {type(made(name)) for name in LOSSES} == public
    assert RANGES.keys() | {"backward", "dmi_0"} == LOSSES.keys()


@each
@drawn
@given(logits=LOGITS, labels=LABELS)
def test_integers_are_one_hot_labels(name, logits, labels):
    loss = made(name)
    values = values_of(loss, labels, logits)
    column = values_of(loss, labels[:, None], logits)
    np.testing.assert_array_equal(column, values)
    if name not in INTEGERS_ONLY:
        np.testing.assert_array_equal(
            values_of(loss, one_hot(labels), logits), values
        )


@each
@drawn
@given(logits=LOGITS, labels=LABELS, constant=CONSTANTS)
def test_a_constant_on_the_logits_changes_nothing(
    name, logits, labels, constant
):
    loss = made(name)
    shifted = (logits + constant).astype("float32")
    assert_close(
        name,
        values_of(loss, labels, shifted),
        values_of(loss, labels, logits),
    )


@each
@drawn
@given(logits=MILD_LOGITS, labels=LABELS)
def test_logits_and_their_probabilities_agree(name, logits, labels):
    probs = np.exp(naive_log_softmax(logits)).astype("float32")
    expected = values_of(made(name), labels, logits)
    values = values_of(made(name, False), labels, probs)
    if name == "dmi_0":
        # Without an offset the logarithm of a rounding error is seen.
        expected, values = np.exp(-expected), np.exp(-values)
    assert_close(name, values, expected)


@each
@drawn
@given(logits=LOGITS, labels=LABELS)
def test_half_precision_is_raised(name, logits, labels):
    half = logits.astype("float16")
    np.testing.assert_array_equal(
        values_of(made(name), labels, half),
        values_of(made(name), labels, logits),
    )


@pytest.mark.parametrize("name", RANGES)
@drawn
@given(logits=LOGITS, labels=LABELS)
def test_values_are_in_the_range_of_the_formula(name, logits, labels):
    values = values_of(made(name), labels, logits)
    low, high = RANGES[name]
    # At most rounding errors beside it.
    assert (values >= low - 1e-5).all() and (values <= high + 1e-5).all()


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - NOT_FINITE.keys()))
@pytest.mark.parametrize(
    ("from_logits", "extremes"),
    [(True, EXTREME_LOGITS), (False, EXTREME_PROBS)],
    ids=["logits", "probabilities"],
)
def test_extremes_are_finite_in_value_and_gradient(name, from_logits, extremes):
    loss = made(name, from_logits)

    @drawn_for_gradients
    @given(predictions=extremes, labels=LABELS, soft=SOFT_LABELS)
    def check(predictions, labels, soft):
        for given_labels in (labels, soft):
            if given_labels is soft and name in INTEGERS_ONLY:
                continue
            values = values_of(loss, given_labels, predictions)
            assert np.isfinite(values).all()
            grad = gradient(
                lambda z, y=given_labels: ops.mean(loss.call(y, z)),
                predictions,
            )
            assert np.isfinite(grad).all()

    check()


def test_what_is_said_not_to_be_finite_is_not():
    for name in NOT_FINITE:
        values = values_of(
            made(name), np.arange(BATCH) % 3, 1e4 * one_hot([0] * BATCH)
        )
        assert np.isinf(values).all()


# Limits.

CROSS_ENTROPIES = {
    "gce": losses.GeneralizedCrossEntropy(1e-6, from_logits=True),
    "truncated": losses.TruncatedGeneralizedCrossEntropy(
        1e-6, 1e-30, from_logits=True
    ),
    "forward": losses.ForwardCorrection(IDENTITY, True),
    "backward": losses.BackwardCorrection(IDENTITY, True),
    "reweighting": losses.ImportanceReweighting(IDENTITY, True),
    "revision": losses.TransitionRevision(IDENTITY, from_logits=True),
    "penalty": losses.ConfidencePenalty(0.0, from_logits=True),
    "penalty_above": losses.ConfidencePenalty(9.0, 0.0, from_logits=True),
    "sce": losses.SymmetricCrossEntropy(1.0, 0.0, from_logits=True),
    "joint": losses.JointOptimization(0.0, 0.0, from_logits=True),
}


@functools.cache
def limit_of(name):
    return ready(CROSS_ENTROPIES[name])


@pytest.mark.parametrize("name", CROSS_ENTROPIES)
@drawn
@given(logits=LOGITS, soft=SOFT_LABELS)
def test_limits_that_are_the_cross_entropy(name, logits, soft):
    loss = limit_of(name)
    expected = expected_over(soft, -naive_log_softmax(logits))
    np.testing.assert_allclose(
        values_of(loss, soft, logits), expected, rtol=1e-4, atol=1e-6
    )


ERRORS = {
    "mae": losses.MeanAbsoluteProbabilityError(from_logits=True),
    "gce": losses.GeneralizedCrossEntropy(1.0, from_logits=True),
}


@pytest.mark.parametrize("name", ERRORS)
@drawn
@given(logits=LOGITS, soft=SOFT_LABELS)
def test_limits_that_are_the_absolute_error(name, logits, soft):
    expected = expected_over(soft, -np.expm1(naive_log_softmax(logits)))
    np.testing.assert_allclose(
        values_of(ERRORS[name], soft, logits), expected, rtol=1e-4, atol=1e-6
    )


@drawn
@given(
    logits=LOGITS,
    labels=LABELS,
    alpha=st.floats(0.0, 10.0),
    beta=st.floats(0.0, 10.0),
)
def test_sums_are_weighted_by_alpha_and_beta(logits, labels, alpha, beta):
    total = combined(True, alpha=alpha, beta=beta)
    np.testing.assert_allclose(
        values_of(total, labels, logits),
        alpha * values_of(made("nfl"), labels, logits)
        + beta * values_of(made("rce"), labels, logits),
        rtol=1e-5,
        atol=1e-6,
    )


# The maths below.


@drawn
@given(logits=LOGITS, constant=CONSTANTS)
def test_log_probabilities_are_normalised(logits, constant):
    log_probs = numpy_of(functional.log_probabilities(logits))
    np.testing.assert_allclose(
        log_probs, naive_log_softmax(logits), rtol=1e-5, atol=1e-6
    )
    shifted = (logits + constant).astype("float32")
    np.testing.assert_allclose(
        numpy_of(functional.log_probabilities(shifted)),
        log_probs,
        rtol=1e-5,
        atol=1e-6,
    )


@drawn
@given(logits=LOGITS, other=LOGITS)
def test_cross_entropy_is_entropy_plus_divergence(logits, other):
    log_probs = functional.log_probabilities(logits)
    other = functional.log_probabilities(other)
    entropy = numpy_of(functional.entropy(log_probs))
    divergence = numpy_of(functional.kl_divergence(log_probs, other))
    cross = functional.soft_cross_entropy(ops.exp(log_probs), other)
    assert (entropy >= 0).all() and (entropy <= np.log(CLASSES) + 1e-6).all()
    assert (divergence >= -1e-5).all()
    np.testing.assert_allclose(
        numpy_of(cross), entropy + divergence, rtol=1e-4, atol=1e-5
    )
    own = functional.kl_divergence(log_probs, log_probs)
    np.testing.assert_array_equal(numpy_of(own), np.zeros(BATCH))


@pytest.mark.parametrize("measure", functional.MEASURES)
@drawn
@given(logits=st.one_of(LOGITS, EXTREME_LOGITS))
def test_uncertainty_is_a_share(measure, logits):
    log_probs = functional.log_probabilities(logits)
    values = numpy_of(functional.uncertainty(log_probs, measure))
    assert (values >= 0).all() and (values <= 1).all()
    if measure != "entropy":
        top = np.sort(np.exp(naive_log_softmax(logits)), axis=1)
        second = top[:, -2] if measure == "margin" else 0.0
        np.testing.assert_allclose(
            values, 1.0 - (top[:, -1] - second), atol=1e-6
        )


PEERS = hnp.arrays(
    "float32",
    (BATCH, 2, CLASSES),
    elements=st.sampled_from([-1e4, -3.0, 0.0, 1.0, 1e4]),
)
SELECTED = hnp.arrays("float32", (BATCH, 2), elements=st.sampled_from([0, 1]))


@drawn_for_gradients
@given(logits=PEERS, selected=SELECTED)
def test_each_peer_learns_from_what_the_other_passes_on(logits, selected):
    def values(z, selected=selected):
        log_probs = functional.log_probabilities(z)
        return functional.mutual_distillation(log_probs, selected)

    log_probs = functional.log_probabilities(logits)
    mutual = numpy_of(values(logits))
    for i, j in ((0, 1), (1, 0)):
        divergence = functional.kl_divergence(log_probs[:, j], log_probs[:, i])
        np.testing.assert_allclose(
            mutual[:, i],
            selected[:, j] * numpy_of(divergence),
            rtol=1e-4,
            atol=1e-5,
        )
    grad = gradient(lambda z: ops.sum(values(z)), logits)
    assert np.isfinite(grad).all()
    # Where the other passes on nothing, nothing is learned.
    np.testing.assert_array_equal(grad[selected[:, ::-1] == 0], 0.0)


@drawn_for_gradients
@given(logits=st.one_of(LOGITS, EXTREME_LOGITS), soft=SOFT_LABELS)
def test_half_precision_is_raised_below_too(logits, soft):
    for function in (
        lambda z: functional.entropy(functional.log_probabilities(z)),
        lambda z: functional.uncertainty(functional.log_probabilities(z)),
        lambda z: functional.soft_cross_entropy(
            soft, functional.log_probabilities(z)
        ),
    ):
        values = function(logits.astype("float16"))
        assert keras.backend.standardize_dtype(values.dtype) == "float32"
        exact = numpy_of(function(logits.astype("float16").astype("float32")))
        np.testing.assert_array_equal(numpy_of(values), exact)
        assert np.isfinite(exact).all()
        grad = gradient(lambda z, f=function: ops.sum(f(z)), logits)
        assert np.isfinite(grad).all()


# The label corrections. A memory is a sum of predictions with weights.

MEMORY_VISITS = [0.0, 0.25, 0.6]


def remembered(kind, **kwargs):
    return lambda: kind(num_examples=BATCH, **kwargs)


def judged(kind, posterior=0.25, **kwargs):
    """A target that knows how probably each label is wrong."""

    def make():
        target = kind(num_examples=BATCH, **kwargs)
        target.prepare([None], CLASSES)
        target.set_posterior(np.full((BATCH, 1), posterior, "float32"))
        return target

    return make


TARGETS = {
    "ProSelfLC": targets.ProSelfLC,
    "LabelSmoothing": targets.LabelSmoothing,
    "LabelSmoothing over others": lambda: targets.LabelSmoothing(0.3, "others"),
    "SoftBootstrapping": targets.SoftBootstrapping,
    "HardBootstrapping": targets.HardBootstrapping,
    "VirtualTeacher": targets.VirtualTeacher,
    "VirtualTeacher, multiplied": lambda: targets.VirtualTeacher(
        0.9, 2.0, 0.75, multiplier=50.0
    ),
    "TemporalEnsembling": remembered(targets.TemporalEnsembling, trust=0.5),
    "JointOptimizationLabels": remembered(
        targets.JointOptimizationLabels, start=0.25, window=2
    ),
    "MixtureBootstrapping": judged(targets.MixtureBootstrapping),
    "MixtureBootstrapping, soft": judged(
        targets.MixtureBootstrapping, hard=False
    ),
    "CoRefinement": judged(targets.CoRefinement),
    "CoRefinement, guessed": judged(targets.CoRefinement, 0.75),
}
# The same kinds, set so that nothing is corrected.
UNCORRECTED = {
    "ProSelfLC": (lambda: targets.ProSelfLC(sharpness=1e4), 0.0),
    "LabelSmoothing": (lambda: targets.LabelSmoothing(0.0), 1.0),
    "LabelSmoothing over others": (
        lambda: targets.LabelSmoothing(0.0, "others"),
        1.0,
    ),
    "SoftBootstrapping": (lambda: targets.SoftBootstrapping(1.0), 1.0),
    "HardBootstrapping": (lambda: targets.HardBootstrapping(1.0), 1.0),
    "VirtualTeacher": (lambda: targets.VirtualTeacher(0.0), 1.0),
    "TemporalEnsembling": (
        remembered(
            targets.TemporalEnsembling, trust=schedules.Linear(0.0, 1.0)
        ),
        0.0,
    ),
    "JointOptimizationLabels": (
        remembered(targets.JointOptimizationLabels, start=0.5, window=2),
        0.25,
    ),
    "MixtureBootstrapping": (judged(targets.MixtureBootstrapping, 0.0), 1.0),
    "CoRefinement": (judged(targets.CoRefinement, 0.0, temperature=1.0), 1.0),
}
# What is sharpened is divided by its sum, which rounds.
ROUNDED = {"CoRefinement"}


def correct(target, batch, memory_weight=0.5):
    """Apply a target, with something to remember if it asks for that."""
    if hasattr(target, "remember"):
        shape = (BATCH, 1, *target.row_shape(CLASSES))
        memory = np.full(shape, memory_weight / CLASSES, "float32")
        ours = target.corrected(batch.labels, memory, batch.progress)
    else:
        ours = target(batch)
    assert tuple(ours.shape) == (BATCH, 1, CLASSES)
    return numpy_of(ours)[:, 0]


def batch_of(labels, logits, progress):
    """A batch of one learner, of the first examples."""
    return in_training(
        Batch(labels=labels, logits=logits[:, None], progress=progress)
    )


def in_training(batch):
    index = ops.arange(BATCH, dtype="int32")
    return batch.filled(index=index, training=True)


@pytest.mark.parametrize("name", TARGETS)
@drawn
@given(labels=SOFT_LABELS, logits=LOGITS)
def test_targets_are_distributions(name, labels, logits):
    target = TARGETS[name]()
    for progress, weight in zip((0.0, 0.5, 1.0), MEMORY_VISITS, strict=True):
        ours = correct(target, batch_of(labels, logits, progress), weight)
        assert (ours >= 0).all()
        np.testing.assert_allclose(ours.sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("name", UNCORRECTED)
@drawn
@given(labels=SOFT_LABELS, logits=LOGITS)
def test_no_trust_returns_the_labels(name, labels, logits):
    made, progress = UNCORRECTED[name]
    ours = correct(made(), batch_of(labels, logits, progress))
    atol = 1e-6 if name in ROUNDED else 0.0
    np.testing.assert_allclose(ours, labels, rtol=0.0, atol=atol)


@pytest.mark.parametrize("name", TARGETS)
@drawn
@given(labels=SOFT_LABELS, probs=EXTREME_PROBS)
def test_targets_of_sure_predictions_are_finite(name, labels, probs):
    log_probs = ops.log(ops.convert_to_tensor(probs[:, None]))
    batch = Batch(labels=labels, log_probs=log_probs, progress=0.75)
    ours = correct(TARGETS[name](), in_training(batch))
    assert np.isfinite(ours).all()


@pytest.mark.parametrize("name", TARGETS)
@drawn
@given(labels=LABELS, logits=LOGITS)
def test_targets_take_half_precision(name, labels, logits):
    target, labels = TARGETS[name](), one_hot(labels)
    half = batch_of(labels.astype("float16"), logits.astype("float16"), 0.75)
    ours = correct(target, half)
    assert ours.dtype == "float32"
    expected = correct(target, batch_of(labels, logits, 0.75))
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_every_target_has_its_properties_tested():
    kinds = {
        kind
        for kind in vars(targets).values()
        if inspect.isclass(kind) and kind.__name__ in targets.__all__
    }
    # It looks at knowledge, and is tested with that in `test_posterior.py`.
    kinds -= {targets.PosteriorLabels}
    assert {type(made()) for made in TARGETS.values()} == kinds
    assert {type(made()) for made, _ in UNCORRECTED.values()} == kinds
