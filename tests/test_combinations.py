"""Parts of different systems together, each pair by value in one place.

Passes with dropout and a selection by how they disagree are in
`test_dropout_passes.py`.
"""

import keras
import numpy as np
import pytest
from naive import naive_entropy
from naive import naive_kl
from naive import naive_log_softmax
from naive import numpy_of
from peers import linear

from keras_smkd import gates
from keras_smkd import knowledge
from keras_smkd import losses
from keras_smkd import optimizers
from keras_smkd import selection
from keras_smkd.model import PeerLearning
from keras_smkd.model import SelectiveMutualDistillation

SIZE = 16
CROSS_ENTROPY = "sparse_categorical_crossentropy"


@pytest.fixture
def data(rng):
    keras.utils.set_random_seed(0)
    x = rng.normal(size=(SIZE, 6)).astype("float32")
    return x, rng.integers(0, 4, SIZE)


def log_probs_of(peer, x):
    return naive_log_softmax(x.astype("float64") @ peer.get_weights()[0])


def one_step(model, x, y, optimizer=None, loss=CROSS_ENTROPY):
    """Return the logs of one batch."""
    model.compile(optimizer or keras.optimizers.SGD(0.0), loss)
    history = model.fit(x, y, batch_size=SIZE, verbose=0, shuffle=False)
    return {name: values[0] for name, values in history.history.items()}


def test_co_teaching_ranks_by_the_generalised_cross_entropy(data):
    x, y = data
    peers = [linear(), linear()]
    model = PeerLearning(peers, gate=gates.SmallLoss(0.25))
    loss = losses.GeneralizedCrossEntropy(0.7, from_logits=True)
    logs = one_step(model, x, y, loss=loss)
    values = [
        (1 - np.exp(log_probs_of(peer, x)[np.arange(SIZE), y]) ** 0.7) / 0.7
        for peer in peers
    ]
    kept = [np.argsort(value, kind="stable")[:12] for value in values]
    expected = values[0][kept[1]].mean() + values[1][kept[0]].mean()
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)


def test_the_selection_of_smkd_over_a_teacher(data):
    x, y = data
    student, teacher = linear(), linear()
    p, q = log_probs_of(student, x), log_probs_of(teacher, x)
    unsure = np.array([naive_entropy(row) for row in np.exp(q)]) / np.log(4)
    threshold = float(np.sort(unsure)[5:7].mean())
    selected = unsure < threshold
    model = PeerLearning(
        [student],
        knowledge=knowledge.Teacher(teacher),
        selection=selection.ConfidentKnowledge("entropy", threshold),
        distillation_weight=2.0,
    )
    logs = one_step(model, x, y)
    divergence = np.array(
        [naive_kl(a, b) for a, b in zip(np.exp(q), np.exp(p), strict=True)]
    )
    known = (selected * divergence).mean()
    labels = -p[np.arange(SIZE), y].mean()
    np.testing.assert_allclose(logs["distillation_loss"], known, rtol=1e-4)
    np.testing.assert_allclose(logs["selection_rate"], 6 / SIZE)
    np.testing.assert_allclose(logs["loss"], labels + 2 * known, rtol=1e-4)


def test_critical_gradients_of_smkd(data):
    """The rule sees the gradients of the whole objective, of all peers."""
    x, y = data
    peers = [linear(), linear()]
    model = SelectiveMutualDistillation(peers, total_steps=1)
    before = [peer.get_weights()[0].astype("float64") for peer in peers]
    one_step(model, x, y, keras.optimizers.SGD(1.0))
    slopes = [
        start - peer.get_weights()[0]
        for start, peer in zip(before, peers, strict=True)
    ]
    for peer, start in zip(peers, before, strict=True):
        peer.set_weights([start])
    rule = optimizers.CriticalGradients(keras.optimizers.SGD(1.0), 0.25)
    one_step(model, x, y, rule)
    criticality = np.abs(np.stack(before) * np.stack(slopes))
    bar = np.sort(criticality.ravel())[12]  # Of 48, three quarters are above.
    moves = np.where(criticality >= bar, 0.75 * np.stack(slopes), 0.0)
    for peer, start, move in zip(peers, before, moves, strict=True):
        np.testing.assert_allclose(
            peer.get_weights()[0], start - move, rtol=1e-4, atol=1e-5
        )


def test_the_gate_goes_by_averaged_peers(data):
    x, y = data
    peers = [linear(), linear()]
    model = PeerLearning(
        peers,
        knowledge=knowledge.AveragedPeers(0.9, routes="others"),
        selection=selection.ConfidentKnowledge("entropy", 0.9),
        gate=gates.LabelGate(),
    )
    # Averages that are not the peers: three large steps behind them.
    model.compile(keras.optimizers.SGD(3.0), CROSS_ENTROPY)
    model.fit(x, y, batch_size=SIZE, epochs=3, verbose=0, shuffle=False)
    averages = [
        naive_log_softmax(numpy_of(output).astype("float64"))
        for output in model.averaged_outputs(x)
    ]
    own = [log_probs_of(peer, x) for peer in peers]
    assert np.abs(averages[0] - own[0]).max() > 0.01
    expected, kept_of_all = 0.0, []
    for i in (0, 1):
        said = averages[1 - i]
        unsure = np.array([naive_entropy(row) for row in np.exp(said)])
        selected = unsure / np.log(4) < 0.9
        kept = ~(selected & (said.argmax(axis=1) != y))
        kept_of_all.append(kept.mean())
        expected += -(kept * own[i][np.arange(SIZE), y]).mean()
    assert 0 < np.mean(kept_of_all) < 1
    again = model.fit(x, y, batch_size=SIZE, verbose=0, shuffle=False)
    np.testing.assert_allclose(
        again.history["supervised_loss"][0], expected, rtol=1e-4
    )
