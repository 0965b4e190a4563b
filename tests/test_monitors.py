"""What the monitor logs of labels, for every kind of part."""

import keras
import numpy as np
import pytest
from keras import ops
from peers import linear
from peers import mlp
from thrift import cases
from thrift import with_torch

import keras_smkd
from keras_smkd import features
from keras_smkd import gates
from keras_smkd import knowledge
from keras_smkd import selection
from keras_smkd import targets
from keras_smkd.callbacks import NoiseMonitor
from keras_smkd.model import viewing

STILL = {"verbose": 0, "batch_size": 8}


@pytest.fixture
def data(rng):
    x = rng.normal(size=(40, 6)).astype("float32")
    clean = rng.integers(0, 4, size=40)
    noisy = np.where(np.arange(40) % 3 > 0, clean, (clean + 1) % 4)
    return x, noisy, clean


def net():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5, activation="relu", name="maps"),
            keras.layers.Dropout(0.5, seed=5),
            keras.layers.Dense(4),
        ]
    )


def model_of(rate=0.1, loss="sparse_categorical_crossentropy", **parts):
    keras.utils.set_random_seed(5)
    model = keras_smkd.PeerLearning([net(), net()], **parts)
    model.compile(keras.optimizers.SGD(rate), loss)
    return model


def logs_of(model, x, y, *given, epochs=1, **kwargs):
    """The logs of the last epoch that the monitor adds."""
    monitor = NoiseMonitor(x, *given, **kwargs)
    history = model.fit(
        x, y, epochs=epochs, callbacks=[monitor], shuffle=False, **STILL
    ).history
    return {name: values[-1] for name, values in history.items()}


def probs_of(model, x):
    found = model.predict(x, verbose=0, output="all")
    return np.stack([found[name] for name in model.learner_names], axis=1)


def view_of(model, x, labels, batch_size=64):
    return viewing.view(model, x, labels, probs_of(model, x), batch_size)


def test_without_clean_labels_and_without_parts(data):
    x, noisy, _ = data
    model = model_of()
    logs = logs_of(model, x, noisy, noisy, batch_size=16)
    probs = probs_of(model, x)
    votes = probs.argmax(axis=-1)
    ensemble = probs.mean(axis=1).argmax(axis=-1)
    assert logs.keys() == {
        "loss",
        "supervised_loss",
        "estimated_noise_rate",
        "unanimity",
    }
    assert logs["estimated_noise_rate"] == np.mean(ensemble != noisy)
    assert logs["unanimity"] == np.mean(votes[:, 0] == votes[:, 1])
    assert 0 < logs["estimated_noise_rate"] < 1
    assert 0 < logs["unanimity"] < 1


def test_one_peer_has_nobody_to_agree_with(data):
    x, noisy, _ = data
    model = keras_smkd.PeerLearning([linear()])
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert "unanimity" not in logs_of(model, x, noisy, noisy)


def test_the_share_of_labels_that_the_gate_drops(data):
    x, noisy, clean = data
    model = model_of(
        knowledge="peers",
        selection=selection.ConfidentKnowledge(threshold=0.9),
        gate="label",
    )
    logs = logs_of(model, x, noisy, noisy, clean)
    probs = probs_of(model, x)
    dropped, right, passed = 0, 0, 0
    for p, label, truth in zip(probs, noisy, clean, strict=True):
        for i in range(2):
            other = p[1 - i]
            entropy = -(other * np.log(other)).sum() / np.log(4)
            dropped += entropy < 0.9 and other.argmax() != label
            passed += entropy < 0.9
            right += entropy < 0.9 and other.argmax() == truth
    assert 0 < dropped < 80
    assert logs["dropped_labels"] == pytest.approx(dropped / 80)
    assert logs["selection_precision"] == pytest.approx(right / passed)
    assert "corrected_labels" not in logs


@with_torch
def test_a_gate_of_losses_sees_those_of_the_pass(data):
    x, noisy, _ = data
    model = model_of(gate=gates.SmallLoss(0.25))
    logs = logs_of(model, x, noisy, noisy, batch_size=40)
    assert logs["dropped_labels"] == pytest.approx(0.25)
    weights = view_of(model, x, noisy).weights
    losses = -np.log(probs_of(model, x))[np.arange(40), :, noisy]
    for i in range(2):
        largest = np.argsort(losses[:, 1 - i])[30:]
        assert set(np.flatnonzero(weights[:, i] == 0)) == set(largest)


@with_torch
def test_the_share_of_labels_that_the_target_corrects(data):
    x, noisy, _ = data
    for target, corrected in (
        (targets.LabelSmoothing(0.3), False),
        (targets.HardBootstrapping(0.1), True),
    ):
        model = model_of(target=target)
        logs = logs_of(model, x, noisy, noisy)
        votes = probs_of(model, x).argmax(axis=-1)
        expected = np.mean(votes != noisy[:, None]) if corrected else 0.0
        assert logs["corrected_labels"] == pytest.approx(expected)
        assert "dropped_labels" not in logs
    assert 0 < expected < 1


def test_a_memory_says_what_it_remembers_of_each_example(data):
    x, noisy, _ = data
    part = targets.TemporalEnsembling(40, trust=1.0)
    model = model_of(target=part, knowledge=knowledge.PastPredictions(40))
    model.fit(x, noisy, epochs=2, **STILL)
    seen = view_of(model, x, noisy, batch_size=16)
    for found, own in (
        (seen.targets, part.memory),
        (seen.known, model.knowledge.memory),
    ):
        expected = ops.convert_to_numpy(own).argmax(axis=-1)
        np.testing.assert_array_equal(found, expected)
    assert seen.passed.all()
    fresh = model_of(knowledge=knowledge.PastPredictions(40))
    assert not view_of(fresh, x, noisy).passed.any()


@with_torch
def test_teachers_and_averages_are_asked_about_the_inputs(data):
    x, noisy, clean = data
    teacher = mlp()
    model = model_of(
        rate=1.0,
        knowledge=knowledge.Several(
            [knowledge.Teacher(teacher), knowledge.AveragedPeers(0.9)]
        ),
    )
    logs = logs_of(model, x, noisy, noisy, clean, epochs=3, batch_size=7)
    known = [ops.convert_to_numpy(teacher(x)).argmax(axis=-1)]
    averages = model.averaged_peers()
    for peer in model.peers:
        copy = net()
        copy.set_weights(averages.values_of(peer))
        known.append(ops.convert_to_numpy(copy(x)).argmax(axis=-1))
    known = np.stack(known, axis=1)
    np.testing.assert_array_equal(view_of(model, x, noisy).known, known)
    assert (known[:, 1:] != probs_of(model, x).argmax(axis=-1)).any()
    expected = np.mean(known == clean[:, None])
    assert logs["selection_precision"] == pytest.approx(expected)


KNOWLEDGE = {
    "early": lambda: knowledge.EarlyPredictions(40),
    "passes": lambda: knowledge.DropoutPasses(3),
    "naive": knowledge.NaiveEnsemble,
    "linear": knowledge.LinearEnsemble,
    "min_logit": knowledge.MinLogitEnsemble,
    "general": knowledge.GeneralEnsemble,
    "permuted": lambda: knowledge.PermutedKnowledge(
        knowledge.PastPredictions(40), seed=3
    ),
    "function": lambda: lambda batch: knowledge.Knowledge(logits=batch.logits),
}


@pytest.mark.parametrize("kind", cases(KNOWLEDGE, ["early"]))
def test_every_knowledge_is_asked_and_left_as_it_was(data, kind):
    x, noisy, clean = data
    model = model_of(
        knowledge=KNOWLEDGE[kind](),
        target=targets.JointOptimizationLabels(40, start=0.0),
        gate=gates.Curriculum(),
    )
    model.fit(x, noisy, epochs=2, **STILL)
    before = [np.array(ops.convert_to_numpy(v)) for v in model.variables]
    seen = view_of(model, x, noisy, batch_size=16)
    after = [ops.convert_to_numpy(v) for v in model.variables]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    sources = {"early": 2, "passes": 2, "permuted": 2, "function": 2}
    assert seen.known.shape == (40, sources.get(kind, 1))
    assert seen.targets.shape == seen.weights.shape == (40, 2)
    logs = logs_of(model, x, noisy, noisy, clean)
    assert {"dropped_labels", "corrected_labels"} <= logs.keys()
    assert 0 <= logs["selection_precision"] <= 1


@with_torch
def test_ensembles_say_what_their_formula_says(data):
    x, noisy, _ = data
    for part, expected in (
        (knowledge.NaiveEnsemble(), "naive"),
        (knowledge.GeneralEnsemble(), "mean"),
    ):
        model = model_of(knowledge=part)
        logits = np.log(probs_of(model, x))
        if expected == "naive":
            best = logits[np.arange(40), :, noisy].argmax(axis=1)
            taught = logits[np.arange(40), best]
        else:
            taught = logits.mean(axis=1)
        known = view_of(model, x, noisy, batch_size=9).known
        np.testing.assert_array_equal(known[:, 0], taught.argmax(axis=-1))


@with_torch
def test_a_head_is_a_learner_and_no_peer(data):
    x, noisy, _ = data
    model = model_of(
        head=features.FeatureConcatenation("maps"),
        knowledge=knowledge.FusedClassifier(),
        gate=gates.LabelGate(),
        selection="entropy",
    )
    logs = logs_of(model, x, noisy, noisy)
    probs = probs_of(model, x)
    assert probs.shape[1] == 3
    ensemble = probs[:, :2].mean(axis=1).argmax(axis=-1)
    assert logs["estimated_noise_rate"] == np.mean(ensemble != noisy)
    seen = view_of(model, x, noisy)
    np.testing.assert_array_equal(seen.known[:, 0], probs[:, 2].argmax(-1))
    assert seen.weights.shape == (40, 3)


def test_a_training_is_the_same_with_the_monitor(data):
    x, noisy, clean = data
    weights = []
    for watched in (False, True):
        model = model_of(
            knowledge=knowledge.Several(
                [knowledge.PastPredictions(40), knowledge.PeerPredictions()]
            ),
            gate=gates.Curriculum(),
        )
        monitor = NoiseMonitor(x, noisy, clean)
        model.fit(
            x,
            noisy,
            epochs=3,
            callbacks=[monitor] if watched else [],
            **STILL,
        )
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("form", cases(["one_hot", "column", "soft"], ["soft"]))
@pytest.mark.parametrize("loss", ["sparse", "categorical"])
def test_labels_of_every_form_count_as_class_ids(data, form, loss):
    x, noisy, clean = data

    def formed(ids):
        one_hot = np.eye(4)[ids]
        return {
            "one_hot": one_hot.astype("int64"),
            "column": ids[:, None].astype("uint8"),
            "soft": 0.7 * one_hot + 0.075,
        }[form]

    y = noisy if loss == "sparse" else np.eye(4, dtype="float32")[noisy]
    found = []
    for given in ((noisy, clean), (formed(noisy), formed(clean))):
        model = model_of(
            loss=loss + "_crossentropy"
            if loss == "categorical"
            else "sparse_categorical_crossentropy",
            gate=gates.SmallLoss(0.3),
            knowledge="peers",
        )
        found.append(
            logs_of(
                model,
                x,
                y,
                given[0],
                given[1],
                validation_data=(x, given[0]),
            )
        )
    assert found[0] == pytest.approx(found[1])


def test_the_calibration_error_is_that_of_noisy_labels(data):
    x, noisy, _ = data
    model = model_of()
    logs = logs_of(model, x, noisy, noisy, validation_data=(x[:25], noisy[:25]))
    probs = model.predict(x[:25], verbose=0)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == noisy[:25]
    bins = np.ceil(confidence * 15) - 1
    gaps = [np.sum((right - confidence)[bins == b]) for b in range(15)]
    expected = np.abs(gaps).sum() / 25
    assert expected > 0.05
    assert logs["val_calibration_error"] == pytest.approx(expected, rel=1e-4)


def test_labels_without_weight_are_not_asked_about(data):
    x, noisy, _ = data
    model = keras_smkd.PeerLearning(
        [linear(), linear()], knowledge="peers", supervised_weight=0
    )
    model.compile("sgd")
    logs = logs_of(model, x, noisy, noisy)
    assert {"dropped_labels", "corrected_labels"}.isdisjoint(logs)


def test_inputs_that_are_no_arrays(data):
    x, noisy, clean = data

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 5

        def __getitem__(self, i):
            return (x[8 * i : 8 * i + 8],)

    model = model_of(knowledge="peers")
    monitor = NoiseMonitor(Batches(), noisy, clean)
    logs = model.fit(x, noisy, callbacks=[monitor], **STILL).history
    votes = probs_of(model, x).argmax(axis=-1)
    assert logs["selection_precision"][0] == pytest.approx(
        np.mean(votes == clean[:, None])
    )
    model = model_of(knowledge=knowledge.AveragedPeers())
    with pytest.raises(ValueError, match="AveragedPeers needs the inputs"):
        model.fit(x, noisy, callbacks=[monitor], **STILL)


def test_what_the_monitor_refuses(data):
    x, noisy, clean = data
    with pytest.raises(ValueError, match=r"the same number.*40 and 39"):
        NoiseMonitor(x, noisy, clean[:-1])
    with pytest.raises(ValueError, match="`noisy_labels` must be class ids"):
        NoiseMonitor(x, noisy - 1)
    with pytest.raises(ValueError, match="`batch_size` must be an integer"):
        NoiseMonitor(x, noisy, batch_size=0)
    with pytest.raises(ValueError, match=r"`validation_data` must be \(x, l"):
        NoiseMonitor(x, noisy, validation_data=x)
    plain = net()
    plain.compile("sgd", "sparse_categorical_crossentropy")
    tapped = selection.ConfidentKnowledge()
    tapped.taps = ("maps",)
    for model, given, error, message in (
        (plain, (x, noisy), TypeError, "with a `keras_smkd.PeerLearning`"),
        (model_of(), (x, noisy + 4), ValueError, r"`noisy_labels` .*\[0, 4\)"),
        (model_of(), (x, noisy, clean + 4), ValueError, "`clean_labels`"),
        (model_of(), (x[1:], noisy), ValueError, "40 labels for 39 examples"),
        (
            model_of(target=targets.TemporalEnsembling(40)),
            (np.concatenate([x, x]), np.concatenate([noisy, noisy])),
            ValueError,
            "must not have more examples than .* 80 examples for Temporal",
        ),
        (
            model_of(knowledge="peers", selection=tapped),
            (x, noisy),
            ValueError,
            "must not look at inner layers",
        ),
    ):
        with pytest.raises(error, match=message):
            model.fit(x, noisy, callbacks=[NoiseMonitor(*given)], **STILL)
