"""Gates that weigh labels by their losses, alone and in the model."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from naive import naive_log_softmax
from naive import numpy_of
from peers import linear
from peers import mlp
from thrift import cases

from keras_smkd import gates
from keras_smkd import losses as losses_room
from keras_smkd import schedules
from keras_smkd.batch import Batch
from keras_smkd.gates import curriculum
from keras_smkd.gates.percentile import epoch_percent
from keras_smkd.gates.percentile import loss_percentile
from keras_smkd.model import PeerLearning

SPARSE = "sparse_categorical_crossentropy"
NAN, INF = math.nan, math.inf


def tensor(values):
    return ops.convert_to_tensor(np.asarray(values, "float32"))


def batch_of(losses, **fields):
    """A training batch with losses, `(batch, learners)`."""
    for name in ("labelled", "log_probs", "progress"):
        if fields.get(name) is not None:
            fields[name] = tensor(fields[name])
    return Batch(losses=tensor(losses), **{"training": True, **fields})


def naive_small_loss(losses, rate, candidates=None, labelled=None):
    """Loops over learners and examples; the losses are finite."""
    size, learners = losses.shape
    labelled = range(size) if labelled is None else labelled
    candidates = list(labelled if candidates is None else candidates)
    number = math.floor((1 - rate) * len(candidates) + 1e-4)
    if not candidates:
        candidates = list(labelled)
    if number == 0:
        number = len(candidates)
    result = np.zeros((size, learners))
    for i in range(learners):
        teacher = (i - 1) % learners
        order = sorted(candidates, key=lambda n: (losses[n, teacher], n))
        for n in order[:number]:
            result[n, i] = len(labelled) / number
    return result


# Small loss.


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.45, 0.8, 0.99])
@pytest.mark.parametrize(("size", "learners"), [(10, 2), (7, 3), (1, 2)])
def test_small_loss_is_a_naive_loop(rng, size, learners, rate):
    losses = rng.gamma(1.0, 1.0, (size, learners)).astype("float32")
    ours = numpy_of(gates.SmallLoss(rate)(batch_of(losses)))
    np.testing.assert_allclose(ours, naive_small_loss(losses, rate), rtol=1e-6)
    # So that the mean over the batch is the mean over the chosen.
    np.testing.assert_allclose(ours.mean(axis=0), 1.0, rtol=1e-6)


def test_small_loss_worked_by_hand():
    losses = [[1.0, 9.0], [2.0, 8.0], [3.0, 7.0], [4.0, 6.0]]
    ours = numpy_of(gates.SmallLoss(0.5)(batch_of(losses)))
    # The first learns what the second finds easy, and the other way round.
    np.testing.assert_array_equal(ours, [[0, 2], [0, 2], [2, 0], [2, 0]])


def test_three_learners_stand_in_a_ring():
    losses = [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    ours = numpy_of(gates.SmallLoss(0.6)(batch_of(losses)))
    np.testing.assert_array_equal(ours, [[0, 3, 0], [0, 0, 3], [3, 0, 0]])


def test_rate_0_is_all_ones(rng):
    losses = rng.normal(size=(9, 2))
    np.testing.assert_array_equal(
        numpy_of(gates.SmallLoss(0.0)(batch_of(losses))), 1.0
    )
    some = numpy_of(
        gates.SmallLoss(0.0)(batch_of(losses, labelled=[1] * 6 + [0] * 3))
    )
    np.testing.assert_array_equal(some, np.r_[np.ones((6, 2)), 0 * losses[:3]])


def test_a_share_of_ten_is_not_rounded_down():
    for size, rate, number in ((10, 0.6, 4), (10, 0.3, 7), (1000, 0.1, 900)):
        losses = np.arange(2 * size).reshape(size, 2)
        ours = numpy_of(gates.SmallLoss(rate)(batch_of(losses)))
        assert np.count_nonzero(ours[:, 0]) == number


def test_ties_are_broken_by_position():
    ours = numpy_of(gates.SmallLoss(0.5)(batch_of(np.ones((6, 2)))))
    np.testing.assert_array_equal(ours, [[2, 2]] * 3 + [[0, 0]] * 3)
    ours = gates.SmallLoss(0.5)(batch_of([[1, 0]] + [[1, 1]] * 3))
    np.testing.assert_array_equal(numpy_of(ours)[:, 0], [2, 2, 0, 0])


def test_losses_that_are_not_finite_are_never_chosen():
    losses = [[NAN, 0.0], [-INF, 1.0], [2.0, 2.0], [1.0, INF]]
    ours = numpy_of(gates.SmallLoss(0.0)(batch_of(losses)))
    np.testing.assert_allclose(
        ours, [[4 / 3, 0], [4 / 3, 0], [4 / 3, 2], [0, 2]], rtol=1e-6
    )
    # Unless there is nothing else.
    losses = [[NAN, 0.0], [NAN, 1.0]]
    ours = numpy_of(gates.SmallLoss(0.5)(batch_of(losses)))
    np.testing.assert_array_equal(ours, [[2, 2], [0, 0]])


def test_examples_without_a_label_do_not_count(rng):
    losses = rng.gamma(1.0, 1.0, (8, 2)).astype("float32")
    labelled = np.array([1, 0, 1, 1, 0, 1, 0, 1])
    broken = np.where(labelled[:, None] > 0, losses, NAN)
    expected = naive_small_loss(losses, 0.4, labelled=np.flatnonzero(labelled))
    for given in (losses, broken, np.where(labelled[:, None], losses, -1.0)):
        ours = gates.SmallLoss(0.4)(batch_of(given, labelled=labelled))
        np.testing.assert_allclose(numpy_of(ours), expected, rtol=1e-6)
    none = gates.SmallLoss(0.4)(batch_of(losses, labelled=np.zeros(8)))
    np.testing.assert_array_equal(numpy_of(none), 0.0)


def test_the_rate_follows_a_schedule(rng):
    losses = rng.gamma(1.0, 1.0, (10, 2)).astype("float32")
    gate = gates.SmallLoss(schedules.ForgetRate(0.4, ramp=0.1))
    assert gate.needs_progress
    assert not gates.SmallLoss(0.4).needs_progress
    assert not gates.SmallLoss(schedules.Constant(0.4)).needs_progress
    for progress, rate in ((0.0, 0.0), (0.05, 0.2), (0.1, 0.4), (1.0, 0.4)):
        ours = numpy_of(gate(batch_of(losses, progress=progress)))
        np.testing.assert_allclose(
            ours, naive_small_loss(losses, rate), rtol=1e-6
        )


def test_disagreements_are_the_candidates(rng):
    losses = rng.gamma(1.0, 1.0, (12, 3)).astype("float32")
    log_probs = naive_log_softmax(rng.normal(size=(12, 3, 2)))
    predicted = log_probs.argmax(axis=-1)
    labelled = np.r_[np.ones(9), np.zeros(3)]
    differ = [n for n in range(9) if len(set(predicted[n])) > 1]
    assert 2 < len(differ) < 9
    gate = gates.SmallLoss(0.3, disagreement=True, start=0.1)
    assert gate.needs_progress
    for progress, candidates in ((0.0999, range(9)), (0.1, differ)):
        ours = gate(
            batch_of(
                losses,
                labelled=labelled,
                log_probs=log_probs,
                progress=progress,
            )
        )
        expected = naive_small_loss(losses, 0.3, candidates, range(9))
        np.testing.assert_allclose(numpy_of(ours), expected, rtol=1e-6)


def test_without_disagreement_every_label_counts():
    agree = np.log([[[0.9, 0.1], [0.6, 0.4]]] * 4)
    gate = gates.SmallLoss(0.5, disagreement=True)
    assert not gate.needs_progress
    losses = np.arange(8.0).reshape(4, 2)
    ours = gate(batch_of(losses, log_probs=agree, labelled=[1, 1, 1, 0]))
    np.testing.assert_array_equal(numpy_of(ours), [[1, 1]] * 3 + [[0, 0]])
    # One disagreement, of which the share kept is less than one.
    agree[2, 0] = agree[2, 0, ::-1]
    ours = numpy_of(gate(batch_of(losses, log_probs=agree)))
    np.testing.assert_array_equal(ours, [[0, 0], [0, 0], [4, 4], [0, 0]])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gates.SmallLoss(40), ValueError, "rate=40. Give a fraction"),
        (lambda: gates.SmallLoss(1.0), ValueError, r"must be in \[0, 1\)"),
        (
            lambda: gates.SmallLoss(schedules.Linear(0.0, 20.0)),
            ValueError,
            r"`rate\(0.25\)` must be .* Give a fraction",
        ),
        (lambda: gates.SmallLoss("0.4"), TypeError, "`rate` must be a number"),
        (
            lambda: gates.SmallLoss(0.4, start=0.5),
            ValueError,
            "`start` must be 0 unless disagreements",
        ),
        (lambda: gates.SmallLoss(0.4, 1), TypeError, "`disagreement` must be"),
        (
            lambda: gates.SmallLoss(0.4)(batch_of([[1.0]])),
            ValueError,
            "SmallLoss needs two learners or more.* Received: 1 learner",
        ),
        (lambda: gates.SmallLoss(0.4)(Batch()), ValueError, "batch.losses"),
        (
            lambda: gates.Curriculum("hard"),
            ValueError,
            "`rule` must be one of 'self_paced'.*rule='hard'",
        ),
        (
            lambda: gates.Curriculum(percentile=70),
            ValueError,
            "percentile=70. Give a fraction",
        ),
        (lambda: gates.Curriculum(decay=1.0), ValueError, "`decay` must be"),
        (lambda: gates.Curriculum(gamma=0.0), ValueError, "`gamma` must be"),
        (lambda: gates.Curriculum(exponent=0), ValueError, "`exponent` must"),
        (
            lambda: gates.LearnedCurriculum(lambda x: x),
            TypeError,
            "`mentor` must be a `keras.Model`",
        ),
        (
            lambda: gates.LearnedCurriculum(keras.Sequential()),
            ValueError,
            "`mentor` must be built",
        ),
        (
            lambda: gates.LearnedCurriculum(linear(3, 1)),
            ValueError,
            r"from \(batch, 4\) to \(batch, 1\).*\(None, 3\)",
        ),
        (
            lambda: gates.LearnedCurriculum(linear(4, 2)),
            ValueError,
            r"to \(batch, 1\).*to \(None, 2\)",
        ),
        (lambda: gates.Product([gates.LabelGate()]), ValueError, "two parts"),
        (
            lambda: gates.Product([gates.LabelGate(), gates.LabelGate]),
            TypeError,
            r"gates\[1\]=",
        ),
        (lambda: gates.get("small"), ValueError, "'curriculum', 'label'"),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


# The forget rate.


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("gradual", [1, 2, 10])
def test_forget_rate_equals_its_formulas(gradual, exponent):
    rate, epochs = 0.3, 15
    ramp = np.linspace(0, rate**exponent, gradual)
    for form in ("paper", "code"):
        part = schedules.ForgetRate(
            rate, gradual / epochs, exponent, form, epochs
        )
        for epoch in range(epochs):
            expected = min(rate * epoch**exponent / gradual, rate)
            if form == "code":
                expected = ramp[epoch] if epoch < gradual else rate
            ours = part(epoch / epochs)
            assert ours == pytest.approx(expected), (form, epoch)
            step = ops.cast(epoch * 7, "float32") / (7 * epochs)
            assert float(part(step)) == pytest.approx(expected, rel=1e-5)
            if form == "code":
                assert part((epoch + 0.5) / epochs) == ours


def test_an_epoch_begins_with_its_first_step():
    # 0.29 * 100 is a little less than 29.
    part = schedules.ForgetRate(0.3, 1.0, form="code", epochs=100)
    for epoch in range(100):
        assert part(epoch / 100) == pytest.approx(0.3 * epoch / 99)


def test_forget_rate_limits():
    part = schedules.ForgetRate(0.2)
    assert [part(t) for t in (0.0, 0.05, 1.0)] == [0.0, 0.2, 0.2]
    assert part(0.025) == pytest.approx(0.1)
    assert schedules.ForgetRate(0.2, ramp=0.0)(0.0) == 0.2
    for form in ("paper", "code"):
        assert schedules.ForgetRate(0.0, form=form, epochs=9)(0.5) == 0.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rate": 20}, ValueError, "rate=20. Give a fraction"),
        ({"ramp": 10}, ValueError, r"`ramp` must be in \[0, 1\]"),
        ({"exponent": 0}, ValueError, "`exponent` must be .* > 0"),
        ({"form": "author"}, ValueError, "`form` must be one of 'paper'"),
        ({"form": "code"}, ValueError, "`epochs` must be given.*form='code'"),
        ({"exponent": 2.0}, ValueError, "`epochs` must be given.*=2.0"),
        ({"epochs": 0}, ValueError, "`epochs` must be an integer >= 1"),
    ],
)
def test_forget_rate_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        schedules.ForgetRate(**{"rate": 0.2, **arguments})


# Curricula.


def naive_weight(rule, loss, difference, percent, gamma, exponent):
    if rule == "predefined":
        if percent <= 18:
            return 1.0
        rule = "linear" if percent >= 90 else "self_paced"
    if rule == "focal":
        return (1 - math.exp(-loss)) ** exponent
    if rule == "linear":
        return min(max(1 - difference / gamma, 0.0), 1.0)
    if rule == "self_paced":
        return 1.0 if difference <= 0 else 0.0
    return 1.0 if difference >= 0 else 0.0


@pytest.mark.parametrize("rule", curriculum.RULES)
def test_curricula_are_naive_loops_over_a_training(rng, rule):
    gate = gates.Curriculum(rule, 0.7, 0.6, gamma=0.5, exponent=3.0)
    assert gate.needs_progress == (rule == "predefined")
    gate.prepare([None, None], 3)
    averages = [None, None]
    for step, size in enumerate((8, 8, 5, 8, 3)):
        progress = step / 4
        losses = rng.gamma(1.0, 1.0, (size, 2)).astype("float32")
        ours = numpy_of(gate(batch_of(losses, progress=progress)))
        for i in (0, 1):
            now = np.percentile(losses[:, i].astype("float64"), 70)
            old = averages[i]
            averages[i] = now if old is None else 0.6 * old + 0.4 * now
            expected = [
                naive_weight(
                    rule,
                    loss,
                    loss - averages[i],
                    min(math.floor(100 * progress), 99),
                    0.5,
                    3.0,
                )
                for loss in losses[:, i].astype("float64")
            ]
            np.testing.assert_allclose(
                ours[:, i], expected, rtol=1e-4, atol=1e-5
            )
    np.testing.assert_allclose(numpy_of(gate.average), averages, rtol=1e-5)


def test_curriculum_rules_worked_by_hand():
    d = tensor([-1.0, 0.0, 0.25, 2.0])
    rules = {
        "all": [1.0, 1.0, 1.0, 1.0],
        "self-paced": [1.0, 1.0, 0.0, 0.0],
        "linear": [1.0, 1.0, 0.875, 0.0],
    }
    for progress, rule in (
        (0.0, "all"),
        (0.18, "all"),
        (0.1899, "all"),
        (0.19, "self-paced"),
        (0.8999, "self-paced"),
        (0.9, "linear"),
        (1.0, "linear"),
    ):
        percent = epoch_percent(tensor(progress))
        ours = curriculum.predefined_weights(d, percent, gamma=2.0)
        assert numpy_of(ours).tolist() == rules[rule], progress
    hard = numpy_of(curriculum.hard_example_weights(d))
    assert hard.tolist() == [0.0, 1.0, 1.0, 1.0]
    focal = curriculum.focal_weights(tensor(np.log([1.0, 2.0, 10.0])))
    np.testing.assert_allclose(numpy_of(focal), [0, 0.25, 0.81], rtol=1e-5)


def test_percents_are_whole_and_end_at_99():
    steps = ops.cast(np.arange(0, 101), "float32") / 100.0
    percents = numpy_of(epoch_percent(steps))
    np.testing.assert_array_equal(percents, [*range(100), 99])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_the_percentile_is_that_of_numpy(rng, share):
    losses = rng.normal(size=(11, 3)).astype("float32")
    losses[4, 0], losses[7, 0], losses[:, 2] = NAN, INF, NAN
    counted = np.arange(11) != 2
    value, any_counts = loss_percentile(tensor(losses), counted, share)
    kept = losses[counted]
    expected = [
        np.percentile(kept[np.isfinite(kept[:, 0]), 0], 100 * share),
        np.percentile(kept[:, 1], 100 * share),
        0.0,
    ]
    np.testing.assert_allclose(numpy_of(value), expected, rtol=1e-5, atol=1e-6)
    assert numpy_of(any_counts).tolist() == [True, True, False]


def test_the_average_begins_with_the_first_loss_and_only_in_training():
    gate = gates.Curriculum("self_paced", percentile=0.5, decay=0.5)
    gate.prepare([None], 3)
    nothing = batch_of([[5.0], [7.0]], labelled=[0, 0])
    gate(nothing)
    gate(batch_of([[NAN]]))
    gate(batch_of([[5.0]], training=False))
    assert numpy_of(gate.begun).tolist() == [0.0]
    ours = gate(batch_of([[1.0], [3.0], [99.0]], labelled=[1, 1, 0]))
    assert numpy_of(ours).tolist() == [[1.0], [0.0], [0.0]]
    assert numpy_of(gate.average).tolist() == [2.0]
    gate(nothing)
    assert numpy_of(gate.average).tolist() == [2.0]
    # This batch is in the average already: 4, and not 2.
    ours = gate(batch_of([[3.0], [6.0], [9.0]]))
    assert numpy_of(gate.average).tolist() == [4.0]
    assert numpy_of(ours).tolist() == [[1.0], [0.0], [0.0]]


def mentor_of_features(weights):
    """A mentor that is a sigmoid of a weighted sum of what it sees."""
    mentor = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")]
    )
    mentor.set_weights([np.reshape(weights, (4, 1)), np.zeros(1)])
    return mentor


def test_a_mentor_sees_losses_differences_and_percents(rng):
    weights = np.array([0.3, -2.0, 50.0, 0.02], "float32")
    gate = gates.LearnedCurriculum(mentor_of_features(weights), 0.5)
    gate.prepare([None, None], 3)
    losses = rng.gamma(1.0, 1.0, (6, 2)).astype("float32")
    ours = numpy_of(gate(batch_of(losses, progress=0.555)))
    d = losses - np.median(losses, axis=0)
    z = 0.3 * losses - 2.0 * d + 0.02 * 55
    np.testing.assert_allclose(ours, 1 / (1 + np.exp(-z)), rtol=1e-5)


def test_the_mentor_network_is_the_papers(rng):
    network = gates.mentor_network()
    assert network.input_shape == (None, 4)
    features = np.c_[
        rng.normal(size=(20, 2)), np.zeros(20), rng.integers(0, 100, 20)
    ]
    weights = numpy_of(network(features.astype("float32")))
    assert weights.shape == (20, 1)
    assert ((weights > 0) & (weights < 1)).all()
    # Embeddings, two LSTMs of 4 * (1 + 1 + 1), and two dense layers.
    assert network.count_params() == 2 * 2 + 100 * 5 + 24 + 10 * 20 + 21
    frozen = [w for w in network.non_trainable_weights if len(w.shape) == 2]
    assert [tuple(w.shape) for w in frozen] == [(100, 5)]


# Products.


def test_a_product_is_one_and_passes_on_what_its_gates_need(rng):
    losses = rng.gamma(1.0, 1.0, (8, 2)).astype("float32")
    batch = batch_of(losses, progress=0.5)
    parts = [gates.SmallLoss(0.4), gates.Curriculum("linear")]
    for part in parts:
        if hasattr(part, "prepare"):
            part.prepare([None, None], 3)
    expected = np.prod([numpy_of(part(batch)) for part in parts], axis=0)
    product = gates.Product([gates.SmallLoss(0.4), gates.Curriculum("linear")])
    assert not product.needs_progress and not product.needs_index
    product.prepare([None, None], 3)
    np.testing.assert_allclose(numpy_of(product(batch)), expected, rtol=1e-6)
    assert 0 < np.count_nonzero(expected) < expected.size

    class Needy:
        needs_index = True
        needs_progress = False

        def __call__(self, batch):
            return 1.0

        def after_step(self, taken, step):
            self.told = taken, step

        def check_thresholds(self, selection, thresholds, num_classes=None):
            raise ValueError(f"told {thresholds}")

    needy = Needy()
    product = gates.Product([gates.SmallLoss(0.4), needy])
    assert product.needs_index and not product.needs_progress
    product.after_step(1, 5)
    assert needy.told == (1, 5)
    with pytest.raises(ValueError, match=r"told \(0.5,\)"):
        product.check_thresholds(None, (0.5,), 3)
    follows = schedules.ForgetRate(0.4)
    product = gates.Product([needy, gates.SmallLoss(follows)])
    assert product.needs_progress


# In the model.


def make_gate(name):
    return {
        "small loss": lambda: gates.SmallLoss(0.4),
        "plus": lambda: gates.SmallLoss(
            schedules.ForgetRate(0.4, 0.3), disagreement=True, start=0.5
        ),
        "curriculum": lambda: gates.Curriculum("predefined", 0.6),
        "learned": lambda: gates.LearnedCurriculum(gates.mentor_network()),
        "product": lambda: gates.Product(
            [gates.SmallLoss(0.4), gates.Curriculum("linear")]
        ),
    }[name]()


EACH = pytest.mark.parametrize(
    "name",
    cases(
        ["small loss", "plus", "curriculum", "learned", "product"],
        ["plus", "learned"],
    ),
)


@pytest.fixture
def data(rng):
    x = rng.normal(size=(30, 6)).astype("float32")
    return x, rng.integers(0, 4, 30)


def model_of(gate, optimizer="adam", **kwargs):
    model = PeerLearning([mlp(), mlp(5)], gate=gate)
    model.compile(optimizer, SPARSE, **kwargs)
    return model


def fit(model, x, y, **kwargs):
    """Batches of 8, of which the last has 6."""
    return model.fit(
        x, y, batch_size=8, shuffle=False, verbose=0, **kwargs
    ).history


@EACH
def test_eager_and_compiled_steps_agree(name, data):
    first = model_of(make_gate(name))
    second = PeerLearning.from_config(first.get_config())
    second.set_weights(first.get_weights())
    second.compile("adam", SPARSE, run_eagerly=True)
    np.testing.assert_allclose(
        fit(first, *data, epochs=3)["loss"],
        fit(second, *data, epochs=3)["loss"],
        rtol=2e-4,
    )
    for ours, theirs in zip(first.weights, second.weights, strict=True):
        np.testing.assert_allclose(
            numpy_of(ours), numpy_of(theirs), rtol=1e-3, atol=1e-3
        )


@EACH
def test_a_saved_model_goes_on_with_equal_losses(name, data, tmp_path):
    model = model_of(make_gate(name))
    fit(model, *data, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = {"initial_epoch": 2, "epochs": 4}
    assert fit(loaded, *data, **again) == fit(model, *data, **again)
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(ours), numpy_of(theirs))


def test_the_average_of_a_fit_is_saved_with_it(data):
    model = model_of(make_gate("curriculum"))
    assert numpy_of(model.gate.begun).tolist() == [0.0, 0.0]
    fit(model, *data, epochs=1)
    assert numpy_of(model.gate.begun).tolist() == [1.0, 1.0]
    average = numpy_of(model.gate.average)
    assert (average > 0).all()
    assert average[0] != average[1]
    model.evaluate(*data, verbose=0)
    np.testing.assert_array_equal(numpy_of(model.gate.average), average)


def model_that_stays(x, rate, loss):
    """A model that never learns, and its logits: each batch's are known."""
    peers = [linear(classes=3), linear(classes=3)]
    model = PeerLearning(peers, gate=gates.SmallLoss(rate))
    model.compile(keras.optimizers.SGD(0.0), loss)
    logits = np.stack([x @ peer.get_weights()[0] for peer in peers], axis=1)
    return model, naive_log_softmax(logits)


def test_a_fit_with_a_last_smaller_batch_is_a_naive_loop(rng):
    x = rng.normal(size=(10, 6)).astype("float32")
    y = rng.integers(0, 3, 10)
    model, log_probs = model_that_stays(x, 0.4, SPARSE)
    history = model.fit(x, y, batch_size=7, shuffle=False, verbose=0).history
    losses = -log_probs[np.arange(10), :, y]
    # The means over 4 of 7 and over 1 of 3, weighed by the batches' sizes.
    expected = sum(
        (naive_small_loss(part, 0.4) * part).sum()
        for part in (losses[:7], losses[7:])
    )
    np.testing.assert_allclose(history["loss"][0], expected / 10, rtol=1e-5)


def test_co_teaching_with_a_robust_loss_is_a_naive_loop(rng):
    x = rng.normal(size=(12, 6)).astype("float32")
    y = rng.integers(0, 3, 12)
    loss = losses_room.GeneralizedCrossEntropy(q=0.7, from_logits=True)
    model, log_probs = model_that_stays(x, 0.5, loss)
    ours = model.train_on_batch(x, y, return_dict=True)
    probs = np.exp(log_probs[np.arange(12), :, y])
    losses = (1 - probs**0.7) / 0.7
    expected = (naive_small_loss(losses, 0.5) * losses).mean(axis=0).sum()
    np.testing.assert_allclose(ours["loss"], expected, rtol=1e-5)


def test_gates_act_in_training_only(data):
    model = model_of(gates.SmallLoss(0.8), keras.optimizers.SGD(0.0))
    plain = PeerLearning(model.peers)
    plain.compile("sgd", SPARSE)
    evaluated = [
        own.evaluate(*data, verbose=0, return_dict=True)["loss"]
        for own in (model, plain)
    ]
    assert evaluated[0] == pytest.approx(evaluated[1], rel=1e-6)


def test_a_mentor_never_learns_and_never_thaws(data):
    mentor = gates.mentor_network()
    before = mentor.get_weights()
    model = PeerLearning(
        [linear(), linear()], gate=gates.LearnedCurriculum(mentor)
    )
    model.trainable = False
    model.trainable = True
    assert not mentor.trainable
    assert len(model.trainable_variables) == 2
    model.compile("adam", SPARSE)
    fit(model, *data, epochs=2)
    for now, then in zip(mentor.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_one_peer_and_heads_are_refused(data):
    model = PeerLearning([linear()], gate=gates.SmallLoss(0.4))
    model.compile("sgd", SPARSE)
    with pytest.raises(ValueError, match="needs two learners or more"):
        model.train_on_batch(*data)
    gate = gates.Curriculum()
    gate.prepare([None, None], 3)
    with pytest.raises(ValueError, match=r"2 peers.*Received: 3 learn"):
        gate(batch_of([[1.0, 2.0, 3.0]]))
