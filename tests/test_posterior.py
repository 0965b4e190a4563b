"""Posterior labels: each formula, many steps as a naive loop, their limits."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from naive import naive_log_softmax
from naive import numpy_of
from peers import compiled
from peers import fit_in_order
from peers import linear
from peers import mlp
from thrift import cases
from thrift import with_torch

from keras_smkd import PeerLearning
from keras_smkd import divergences
from keras_smkd import knowledge
from keras_smkd import methods
from keras_smkd import selection
from keras_smkd import targets
from keras_smkd.batch import Batch
from keras_smkd.batch import to_others
from keras_smkd.functional import posteriors as maths

CLASSES, SIZE = 3, 48
fit = functools.partial(fit_in_order, batch_size=16)
SINGLE = 1e-5


def distributions(rng, *shape, sharpness=1.5):
    logits = sharpness * rng.normal(size=(*shape, CLASSES))
    return (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).astype(
        "float32"
    )


def prepared(part, classes=CLASSES):
    part.prepare([None, None], classes)
    return part


def training_batch(known, labels, **fields):
    return Batch(
        labels=ops.convert_to_tensor(labels),
        knowledge=ops.log(ops.convert_to_tensor(known)),
        routes=to_others(known.shape[1]),
        training=True,
        **fields,
    )


class NaiveRule:
    """The rule as it is written down, example by example, in float64."""

    def __init__(self, num_examples, momentum, start, prior=None):
        self.n, self.momentum, self.start = num_examples, momentum, start
        self.prior = prior
        self.steps = self.seen = 0
        self.r = np.full(CLASSES, 1 / CLASSES)
        self.e = np.full(CLASSES, 1 / CLASSES)
        self.counts = np.zeros(CLASSES)
        self.j = np.zeros((CLASSES, CLASSES))
        self.shares = []

    def table(self):
        rows = self.j + 0.02 / CLASSES * np.eye(CLASSES)
        rows = rows / rows.sum(1, keepdims=True)
        return 0.99 * rows + 0.01 / CLASSES

    def weighed(self, k, y, prior=1.0):
        gamma = 3 - 2 * np.exp(-self.seen / self.n / 30)
        out = (k / prior) ** gamma * prior * self.table()[:, y]
        return out / out.sum()

    def most_confident(self, k):
        """Return `(batch, learners)`: in the surer half of its class."""
        top = k.argmax(-1)
        entropy = -(k * np.log(k)).sum(-1)
        chosen = np.zeros(top.shape)
        for i in range(k.shape[1]):
            for c in range(CLASSES):
                own = np.flatnonzero(top[:, i] == c)
                order = entropy[own, i].argsort()
                chosen[own[order[: int(np.ceil(len(own) / 2))]], i] = 1
        return chosen

    def step(self, k, labels):
        """`k` `(batch, learners, classes)`; returns targets, aligned."""
        size = len(k)
        self.steps += 1
        self.seen += size
        m = self.momentum ** (size / 64)
        self.r = m * self.r + (1 - m) * k.mean((0, 1))
        chosen = self.most_confident(k)
        new = np.zeros_like(self.j)
        for n in range(size):
            for i in range(k.shape[1]):
                new[k[n, i].argmax(), labels[n]] += chosen[n, i]
        self.j = m * self.j + (1 - m) * new / chosen.sum()
        out = np.array(
            [
                [self.weighed(q, y) for q in row]
                for row, y in zip(k, labels, strict=True)
            ]
        )
        m = np.exp(-size / (20 * self.n))
        self.e = m * self.e + (1 - m) * out.mean((0, 1))
        self.counts += np.bincount(labels, minlength=CLASSES)
        tolerance = max(0.05, 0.5 * np.sqrt(CLASSES / self.n))
        far = 0.5 * np.abs(self.e - 1 / CLASSES).sum()
        z = np.clip((far - tolerance) / tolerance, 0, 1)
        self.shares.append(z)
        f = np.maximum(self.counts, 1) / np.maximum(self.counts, 1).sum()
        prior, strength = f ** (0.7 * z), 1 - z / 2
        if self.prior is not None:
            prior, strength = np.array(self.prior), 1.0
        given = 1.0 if self.prior is None else prior
        a = k * (prior / prior.sum() / self.r) ** strength
        a = a / a.sum(-1, keepdims=True)
        if self.steps <= self.start:
            return np.repeat(np.eye(CLASSES)[labels][:, None], 2, 1), None
        out = np.array(
            [
                [self.weighed(q, y, given) for q in row]
                for row, y in zip(a, labels, strict=True)
            ]
        )
        return out, a


@pytest.mark.parametrize("prior", [None, [0.6, 0.3, 0.1]])
def test_many_steps_are_the_rule_as_it_is_written_down(rng, prior):
    part = prepared(targets.PosteriorLabels(SIZE, prior, start=2, momentum=0.6))
    rule = NaiveRule(SIZE, 0.6, 2, prior)
    for step in range(20):
        # Of one class more than of others, so that balance has a say.
        q = distributions(rng, SIZE, 2) * np.float32([1.0, 0.1, 0.05])
        q = q / q.sum(-1, keepdims=True)
        labels = rng.choice(CLASSES, SIZE, p=[0.8, 0.1, 0.1])
        answer = part(training_batch(q, np.eye(CLASSES, dtype="f4")[labels]))
        wanted, a = rule.step(q[:, ::-1].astype("float64"), labels)
        np.testing.assert_allclose(
            numpy_of(answer.labels), wanted, atol=SINGLE, err_msg=step
        )
        passed = numpy_of(answer.knowledge.available)
        assert (passed == (a is not None)).all()
        if a is not None:
            np.testing.assert_allclose(
                np.exp(numpy_of(answer.knowledge.log_probs)), a, atol=SINGLE
            )
        for name, own in (
            ("prevalence", rule.r),
            ("balance", rule.e),
            ("label_counts", rule.counts),
            ("confusion", rule.j),
            ("seen", rule.seen),
            ("steps", rule.steps),
        ):
            np.testing.assert_allclose(
                numpy_of(getattr(part, name)), own, atol=SINGLE, err_msg=name
            )
    # Both ends of the balance were seen, and what is between.
    assert min(rule.shares) == 0.0 and max(rule.shares) == 1.0
    assert any(0.0 < share < 1.0 for share in rule.shares)
    np.testing.assert_array_equal(answer.knowledge.routes, np.eye(2))


def test_what_a_learner_hears_is_the_mean_of_what_passes(rng):
    q = distributions(rng, 4, 3)
    routes = np.array([[0.0, 1.0, 3.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    selected = np.float32([[1, 1, 1], [1, 1, 0], [0, 0, 1], [0, 0, 0]])
    q[3, 2] = np.nan  # Nobody hears it.
    log_k, said = maths.heard(np.log(q), routes, selected)
    k = np.exp(numpy_of(log_k))
    wanted = np.full((4, 3, CLASSES), 1 / CLASSES)
    wanted[0, 0] = (q[0, 1] + 3 * q[0, 2]) / 4
    wanted[1, 0] = q[1, 1]
    wanted[2, 0] = q[2, 2]
    wanted[:2, 1] = q[:2, 0]
    np.testing.assert_allclose(k, wanted, rtol=SINGLE)
    np.testing.assert_array_equal(
        numpy_of(said),
        [[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]],
    )


def test_small_probabilities_of_one_peer_are_not_lost_beside_another():
    q = np.float32([[[1.0 - 1e-12, 1e-12, 0.0], [0.2, 0.3, 0.5]]])
    log_k, _ = maths.heard(ops.log(q), to_others(2))
    np.testing.assert_allclose(
        numpy_of(log_k)[0, 1], [0.0, np.log(1e-12), -np.inf], rtol=SINGLE
    )


@with_torch
def test_a_class_that_was_never_named_keeps_its_labels():
    table = numpy_of(maths.label_probabilities(np.zeros((4, 4), "f4")))
    np.testing.assert_allclose(table, 0.99 * np.eye(4) + 0.0025, rtol=SINGLE)


@with_torch
def test_a_label_that_is_a_distribution_is_a_draw_from_it():
    confusion = np.float32([[0.3, 0.1, 0.0], [0.1, 0.3, 0.0], [0.0, 0.1, 0.1]])
    k = np.float32([[[0.5, 0.3, 0.2]]])
    mixed = numpy_of(
        maths.posterior(np.log(k), np.float32([[0.5, 0.5, 0]]), confusion, 2.0)
    )
    table = numpy_of(maths.label_probabilities(confusion))
    wanted = k[0, 0] ** 2 * (0.5 * table[:, 0] + 0.5 * table[:, 1])
    np.testing.assert_allclose(mixed[0, 0], wanted / wanted.sum(), rtol=SINGLE)


@with_torch
@pytest.mark.parametrize(
    ("balance", "examples", "z"),
    [
        ([0.5, 0.5], 10_000, 0.0),
        ([0.55, 0.45], 10_000, 0.0),
        ([0.575, 0.425], 10_000, 0.5),
        ([0.7, 0.3], 10_000, 1.0),
        # 200 examples are tolerated as much as they differ by chance.
        ([0.575, 0.425], 200, 0.5),
        ([0.575, 0.425], 50, 0.0),
        ([0.65, 0.35], 50, 0.5),
    ],
)
def test_imbalance_begins_beyond_what_chance_makes(balance, examples, z):
    value = maths.imbalance(ops.convert_to_tensor(balance), examples)
    np.testing.assert_allclose(numpy_of(value), z, atol=1e-4)


@with_torch
@pytest.mark.parametrize("sizes", [[48], [16, 16, 16], [8, 40]])
def test_means_do_not_depend_on_the_batch_size(sizes):
    """Batches of the same content move them alike, cut as they may be."""
    q = np.tile(np.float32([[[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]]), (48, 1, 1))
    labels = np.tile(np.eye(CLASSES, dtype="f4")[[1]], (48, 1))
    part = prepared(targets.PosteriorLabels(SIZE, selection=None))
    start = 0
    for size in sizes:
        part(training_batch(q[:size], labels[:size]))
        start += size
    kept = 0.98 ** (48 / 64)
    np.testing.assert_allclose(
        numpy_of(part.prevalence),
        kept / 3 + (1 - kept) * np.array([0.4, 0.4, 0.2]),
        rtol=SINGLE,
    )
    wanted = np.zeros((3, 3))
    wanted[:2, 1] = (1 - kept) / 2
    np.testing.assert_allclose(numpy_of(part.confusion), wanted, atol=1e-7)
    np.testing.assert_allclose(
        numpy_of(part.label_counts), [0, 48, 0], atol=1e-7
    )


@with_torch
def test_what_says_nothing_or_has_no_label_moves_nothing(rng):
    q = distributions(rng, 4, 2)
    labels = np.eye(CLASSES, dtype="f4")[[0, 1, 2, 0]]
    part = prepared(targets.PosteriorLabels(SIZE, start=0))
    silent = training_batch(q, labels, selected=np.zeros((4, 2), "f4"))
    answer = part(silent)
    np.testing.assert_array_equal(
        numpy_of(answer.labels), np.repeat(labels[:, None], 2, 1)
    )
    part(training_batch(q, labels, labelled=np.zeros(4, "int32")))
    q[:] = np.nan
    part(training_batch(q, labels))
    np.testing.assert_array_equal(numpy_of(part.confusion), np.zeros((3, 3)))
    # Labels count where nothing is known, and not where there are none.
    np.testing.assert_array_equal(numpy_of(part.label_counts), [4, 2, 2])
    for name in ("prevalence", "balance"):
        np.testing.assert_allclose(numpy_of(getattr(part, name)), 1 / 3)
    # One that is finite still counts.
    q[1] = [[0.1, 0.1, 0.8], [0.2, 0.7, 0.1]]
    part(training_batch(q, labels))
    wanted = np.zeros((3, 3))
    wanted[1, 1] = wanted[2, 1] = 0.5 * (1 - 0.98 ** (4 / 64))
    np.testing.assert_allclose(numpy_of(part.confusion), wanted, rtol=1e-4)


@with_torch
def test_in_evaluation_nothing_moves(rng):
    part = prepared(targets.PosteriorLabels(SIZE, start=0))
    q = distributions(rng, 4, 2)
    labels = np.eye(CLASSES, dtype="f4")[[0, 1, 2, 0]]
    part(training_batch(q, labels))
    before = [numpy_of(own).copy() for own in part.variables]
    batch = training_batch(q, labels)
    part(batch.filled(training=False))
    for own, value in zip(part.variables, before, strict=True):
        np.testing.assert_array_equal(numpy_of(own), value)


@with_torch
@pytest.mark.parametrize("gamma", [2.0, lambda visits: 1.0 + visits])
def test_gamma_may_be_a_number_or_follow_the_visits(rng, gamma):
    part = prepared(targets.PosteriorLabels(4, gamma=gamma, start=0))
    q = distributions(rng, 4, 2)
    labels = np.eye(CLASSES, dtype="f4")[[0, 1, 2, 0]]
    answer = part(training_batch(q, labels))
    # After these four examples each was seen once: 2 both ways.
    wanted = maths.posterior(
        answer.knowledge.log_probs, labels, numpy_of(part.confusion), 2.0
    )
    np.testing.assert_allclose(
        numpy_of(answer.labels), numpy_of(wanted), rtol=SINGLE
    )


# In a model.


@pytest.fixture
def data(rng):
    x = rng.normal(size=(SIZE, 6)).astype("float32")
    return x, rng.integers(0, 4, SIZE)


def test_the_second_term_draws_to_the_aligned_knowledge(data):
    """Both terms of one step from hand: weights 0.7 and 0.3."""
    x, y = data
    peers = [linear(), mlp()]
    model = compiled(
        methods.posterior_smkd(
            peers,
            SIZE,
            start=0,
            distillation_weight=0.3,
            supervised_weight=0.7,
        ),
        keras.optimizers.SGD(0.0),
    )
    logs = fit(model, x, y, epochs=2, batch_size=SIZE)
    # The second epoch hears what the first has remembered: the same peers.
    memory = numpy_of(model.knowledge.memory)
    q = memory / memory.sum(-1, keepdims=True)
    part = prepared(targets.PosteriorLabels(SIZE, start=0), 4)
    part.seen.assign(SIZE)
    part.label_counts.assign(np.bincount(y, minlength=4))
    answer = part(training_batch(q, np.eye(4, dtype="float32")[y]))
    a = np.exp(numpy_of(answer.knowledge.log_probs))
    log_p = np.stack(
        [naive_log_softmax(numpy_of(peer(x, training=True))) for peer in peers],
        axis=1,
    )
    supervised = -(numpy_of(answer.labels) * log_p).sum((1, 2)).mean()
    drawn = (a * (np.log(a) - log_p)).sum((1, 2)).mean()
    np.testing.assert_allclose(
        logs["supervised_loss"][1], supervised, rtol=1e-4
    )
    np.testing.assert_allclose(logs["distillation_loss"][1], drawn, rtol=1e-4)
    np.testing.assert_allclose(
        logs["loss"][1], 0.7 * supervised + 0.3 * drawn, rtol=1e-4
    )
    assert logs["distillation_loss"][0] == 0.0


@with_torch
def test_until_the_start_it_is_independent_training(data):
    x, y = data
    first = [linear(), linear()]
    plain = compiled(PeerLearning([keras.models.clone_model(p) for p in first]))
    model = compiled(methods.posterior_smkd(first, SIZE))
    plain.set_weights(
        [numpy_of(w) for w in first[0].weights + first[1].weights]
        + plain.get_weights()[2:]
    )
    fit(plain, x, y, epochs=3)
    fit(model, x, y, epochs=3)
    for one, other in zip(plain.peers, model.peers, strict=True):
        for own, wanted in zip(
            one.get_weights(), other.get_weights(), strict=True
        ):
            np.testing.assert_allclose(own, wanted, atol=1e-6)


@with_torch
def test_without_steps_it_starts_once_learners_agree(rng):
    """The mean is `0.6 * past + 0.4 * share` where a batch has 64."""
    part = prepared(targets.PosteriorLabels(64, start=None, momentum=0.6))
    known = distributions(rng, 64, 2)
    labels = np.eye(CLASSES, dtype="float32")[rng.integers(CLASSES, size=64)]
    told = known[:, ::-1]
    mean, begun = 0.0, []
    for share in (0.0, 1.0, 0.5, 0.75, 1.0, 0.0, 0.0):
        # So many of both learners predict what they are told.
        same = (np.arange(64) < 64 * share)[:, None, None]
        own = np.where(same, told, np.roll(told, 1, axis=-1))
        batch = training_batch(
            known, labels, log_probs=ops.log(ops.convert_to_tensor(own))
        )
        given = part(batch)
        mean = 0.6 * mean + 0.4 * share
        assert float(numpy_of(part.agreement)) == pytest.approx(mean, abs=1e-6)
        begun.append(bool(numpy_of(part.has_begun)))
        corrected = numpy_of(given.labels)
        np.testing.assert_array_equal(
            numpy_of(given.knowledge.available), np.full((64, 2), begun[-1])
        )
        if begun[-1]:
            assert np.abs(corrected - labels[:, None]).max() > 0.1
        else:
            np.testing.assert_array_equal(
                corrected, np.repeat(labels[:, None], 2, axis=1)
            )
    # 0, 0.4, 0.44, 0.564, 0.738; once begun it goes on: 0.443, 0.266.
    assert begun == [False, False, False, False, True, True, True]


@with_torch
def test_agreement_is_of_what_is_heard_and_has_a_label(rng):
    part = prepared(targets.PosteriorLabels(4, start=None, momentum=0.0))
    known = distributions(rng, 4, 2)
    known[0] = np.nan
    told = np.nan_to_num(known[:, ::-1], nan=1.0)
    # The first is not known, the second has no label, the third agrees.
    own = np.roll(told, 1, axis=-1)
    own[2] = told[2]
    part(
        training_batch(
            known,
            np.eye(CLASSES, dtype="float32")[[0, 1, 2, 0]],
            labelled=ops.convert_to_tensor([1.0, 0.0, 1.0, 1.0]),
            log_probs=ops.log(ops.convert_to_tensor(own)),
        )
    )
    assert float(numpy_of(part.agreement)) == pytest.approx(0.5)


@pytest.mark.parametrize("start", [50, None])
@pytest.mark.parametrize(
    "has_memory",
    cases([True, False], [True]),
)
def test_a_saved_training_goes_on_bit_for_bit(
    data, has_memory, start, tmp_path
):
    x, y = data
    source = None
    if not has_memory:
        source = knowledge.AveragedPeers(0.9, routes="others")
    keras.utils.set_random_seed(3)
    model = compiled(
        methods.posterior_smkd(
            [linear(), mlp()], SIZE, knowledge=source, start=start
        )
    )
    if start is not None:
        model.target.start = 2
    fit(model, x, y, epochs=2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.target.get_config() == model.target.get_config()
    again.target.start = model.target.start
    fit(model, x, y, initial_epoch=2, epochs=4)
    fit(again, x, y, initial_epoch=2, epochs=4)
    assert int(numpy_of(again.target.steps)) == 12
    for one, other in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(one), numpy_of(other), one.path)


@with_torch
def test_it_finds_the_labels_that_were_flipped(rng):
    """Two clouds, a quarter of the labels of one said to be the other's."""
    x = rng.normal(size=(256, 2)).astype("float32")
    clean = (np.arange(256) % 2).astype("int32")
    x[:, 0] += np.where(clean, 3.0, -3.0)
    wrong = (clean == 1) & (rng.random(256) < 0.4)
    noisy = np.where(wrong, 0, clean)
    peers = [linear(2, 2), linear(2, 2)]
    model = methods.posterior_smkd(peers, 256)
    model.compile(
        keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy"
    )
    fit(model, x, noisy, epochs=30, batch_size=32, shuffle=True)
    table = numpy_of(maths.label_probabilities(model.target.confusion))
    rate = wrong.sum() / (clean == 1).sum()
    np.testing.assert_allclose(
        table, [[1.0, 0.0], [rate, 1.0 - rate]], atol=0.1
    )
    assert np.mean(model.predict(x, verbose=0).argmax(-1) == clean) > 0.99


@with_torch
@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: targets.PosteriorLabels(0), ValueError, "num_examples"),
        (lambda: targets.PosteriorLabels(5, gamma=0), ValueError, "gamma"),
        (lambda: targets.PosteriorLabels(5, start=-1), ValueError, "start"),
        (
            lambda: targets.PosteriorLabels(5, momentum=1),
            ValueError,
            "momentum",
        ),
        (
            lambda: targets.PosteriorLabels(5, [0.5, 0.6]),
            ValueError,
            "sum to 1",
        ),
        (
            lambda: targets.PosteriorLabels(5, [1.0, 0.0]),
            ValueError,
            "positive",
        ),
        (
            lambda: targets.PosteriorLabels(5, [[0.5], [0.5]]),
            ValueError,
            "one row",
        ),
        (lambda: targets.PosteriorLabels(5, ["a"]), TypeError, "numbers"),
        (
            lambda: targets.PosteriorLabels(5, selection="no"),
            ValueError,
            "selection",
        ),
        (
            lambda: prepared(targets.PosteriorLabels(5, [0.5, 0.5])),
            ValueError,
            "one entry for each of 3 classes",
        ),
    ],
)
def test_bad_arguments_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()


@with_torch
def test_other_parts_take_their_places(data):
    """A divergence and a gate see what the target leaves."""
    x, y = data
    seen = {}

    def gate(batch):
        seen["routes"] = batch.routes
        return ops.ones_like(batch.logits[..., 0])

    model = compiled(
        methods.posterior_smkd(
            [linear(), mlp()],
            SIZE,
            gate=gate,
            divergence=divergences.SquaredError(),
            selection=selection.ConfidentKnowledge(threshold=0.9),
        )
    )
    model.target.start = 0
    logs = fit(model, x, y, epochs=3)
    np.testing.assert_array_equal(seen["routes"], np.eye(2))
    assert 0.0 < logs["distillation_loss"][-1] < 0.5
    assert 0.0 < logs["selection_rate"][-1] <= 1.0
