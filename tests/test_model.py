"""The objective, its gradient and its limits, on the running backend."""

import json

import keras
import numpy as np
import pytest
from peers import copies
from peers import functional_net
from peers import given_logits
from peers import linear
from peers import mlp

import keras_smkd
from keras_smkd.selection import ConfidentKnowledge
from keras_smkd.selection import LabelGate

CLASSES = 4


def softmax(logits):
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def objective(
    logits, labels, threshold, w_s=1.0, w_d=1.0, temperature=1.0, gate=1.0
):
    """The formula, written out: per-example values, selection, gradient.

    `logits` is `(peers, batch, classes)`, float64; `gate` the weight of a
    label that selected knowledge contradicts.
    """
    num_peers, batch, classes = logits.shape
    one_hot = np.eye(classes)[labels]
    probs, tempered = softmax(logits), softmax(logits / temperature)
    selected = np.zeros((num_peers, batch))
    for j in range(num_peers):
        for n in range(batch):
            p = probs[j, n]
            entropy = -sum(q * np.log(q) for q in p)
            selected[j, n] = entropy / np.log(classes) < threshold
    supervised = np.zeros(batch)
    distillation = np.zeros(batch)
    gradient = np.zeros_like(logits)
    for i in range(num_peers):
        label_weight = np.ones(batch)
        for n in range(batch):
            known = [
                probs[j, n]
                for j in range(num_peers)
                if j != i and selected[j, n]
            ]
            if known and sum(known).argmax() != labels[n]:
                label_weight[n] = gate
        supervised -= label_weight * np.log(probs[i, np.arange(batch), labels])
        gradient[i] += w_s * label_weight[:, None] * (probs[i] - one_hot)
        for j in range(num_peers):
            if j == i:
                continue
            share = selected[j] * temperature**2 / (num_peers - 1)
            ratio = np.log(tempered[j]) - np.log(tempered[i])
            distillation += share * (tempered[j] * ratio).sum(axis=1)
            gradient[i] += (
                w_d
                * (share / temperature)[:, None]
                * (tempered[i] - tempered[j])
            )
    return supervised, distillation, selected, gradient


def smkd(peers, threshold, **kwargs):
    """The plain form, unless something else is asked for."""
    plain = {"gate": None, **kwargs}
    return keras_smkd.SelectiveMutualDistillation(
        peers, selection=ConfidentKnowledge(threshold=threshold), **plain
    )


def compiled(model, optimizer=None, loss="sparse_categorical_crossentropy"):
    model.compile(optimizer or keras.optimizers.SGD(1.0), loss)
    return model


@pytest.fixture
def batch(rng):
    x = rng.normal(size=(12, 6)).astype("float32")
    return x, rng.integers(0, CLASSES, size=12)


@pytest.mark.parametrize("num_peers", [2, 3, 5])
@pytest.mark.parametrize(
    "threshold, temperature, gate",
    [
        (0.0, 1.0, None),
        (0.8, 1.0, None),
        (1.5, 1.0, None),
        (0.0, 3.0, 0.25),
        (0.8, 3.0, 0.25),
        (1.0, 3.0, 0.25),
    ],
)
def test_objective_is_the_formula(
    batch, num_peers, threshold, temperature, gate
):
    x, labels = batch
    peers = [linear() for _ in range(num_peers)]
    logits = np.stack(
        [x.astype("float64") @ peer.get_weights()[0] for peer in peers]
    )
    # In evaluation every label counts.
    supervised, distillation, selected, _ = objective(
        logits, labels, threshold, 0.7, 1.3, temperature
    )
    model = compiled(
        smkd(
            peers,
            threshold,
            supervised_weight=0.7,
            distillation_weight=1.3,
            temperature=temperature,
            gate=gate and LabelGate(gate),
        )
    )
    logs = model.evaluate(x, labels, verbose=0, return_dict=True)
    expected = {
        "loss": (0.7 * supervised + 1.3 * distillation).mean(),
        "supervised_loss": supervised.mean(),
        "distillation_loss": distillation.mean(),
        "selection_rate": selected.mean(),
        "threshold": threshold,
    }
    assert logs.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=2e-5, atol=1e-6)
    supervised, _, _, gradient = objective(
        logits, labels, threshold, 0.7, 1.3, temperature, gate or 1.0
    )
    before = [peer.get_weights()[0] for peer in peers]
    logs = model.train_on_batch(x, labels, return_dict=True)
    np.testing.assert_allclose(
        logs["supervised_loss"], supervised.mean(), rtol=2e-5
    )
    for i, peer in enumerate(peers):
        step = before[i] - peer.get_weights()[0]
        np.testing.assert_allclose(
            step, x.T @ gradient[i] / len(x), rtol=1e-3, atol=2e-6
        )


def test_labels_that_knowledge_contradicts_are_dropped_by_default(batch):
    x, labels = batch
    peers = [linear(), linear()]
    logits = np.stack(
        [x.astype("float64") @ peer.get_weights()[0] for peer in peers]
    )
    plain, dropped = (
        objective(logits, labels, 0.8, gate=weight)[0].mean()
        for weight in (1.0, 0.0)
    )
    assert dropped < plain
    model = compiled(
        keras_smkd.SelectiveMutualDistillation(
            peers, selection=ConfidentKnowledge(threshold=0.8)
        )
    )
    for logs, expected in (
        (model.test_on_batch(x, labels, return_dict=True), plain),
        (model.train_on_batch(x, labels, return_dict=True), dropped),
    ):
        np.testing.assert_allclose(logs["supervised_loss"], expected, rtol=2e-5)


def test_some_knowledge_is_selected_in_that_test(batch):
    x, labels = batch
    logits = np.stack([x.astype("float64") @ linear().get_weights()[0]] * 2)
    selected = objective(logits, labels, 0.8)[2]
    assert 0 < selected.mean() < 1


@pytest.mark.parametrize("case", ["C10_scale1_K3", "C100_scale20_K2"])
def test_threshold_above_one_is_deep_mutual_learning(golden_dir, case):
    cases = json.loads((golden_dir / "dml.json").read_text())["cases"]
    case = next(c for c in cases if c["name"] == case)
    num_peers = case["hyperparameters"]["num_networks"]
    logits = [case["inputs"][f"logits_{i + 1}"] for i in range(num_peers)]
    classes = len(logits[0][0])
    model = compiled(
        smkd(
            [given_logits(i, num_peers, classes) for i in range(num_peers)],
            threshold=1.5,
        )
    )
    logs = model.evaluate(
        np.concatenate(logits, axis=1).astype("float32"),
        np.array(case["inputs"]["labels"]),
        verbose=0,
        return_dict=True,
    )
    expected = sum(
        case["outputs"][f"loss_avg_exact_{i + 1}"] for i in range(num_peers)
    )
    np.testing.assert_allclose(logs["loss"], expected, rtol=2e-4)


def test_threshold_zero_trains_independent_models(rng):
    x = rng.normal(size=(64, 6)).astype("float32")
    y = rng.integers(0, CLASSES, size=64)
    peers = [mlp(8), mlp(16), functional_net()]
    alone = copies(peers)
    model = compiled(smkd(peers, 0.0), keras.optimizers.Adam(0.01))
    fit = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0}
    model.fit(x, y, **fit)
    for peer, single in zip(peers, alone, strict=True):
        single.compile(
            keras.optimizers.Adam(0.01),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        single.fit(x, y, **fit)
        for ours, theirs in zip(
            peer.get_weights(), single.get_weights(), strict=True
        ):
            if keras.backend.backend() == "jax":
                # XLA fuses the two programs differently.
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
            else:
                np.testing.assert_array_equal(ours, theirs)


def test_peers_may_have_layers_of_the_same_name(batch):
    def named(width):
        inputs = keras.Input((6,))
        hidden = keras.layers.Dense(width, "relu", name="hidden")(inputs)
        return keras.Model(
            inputs, keras.layers.Dense(CLASSES, name="logits")(hidden)
        )

    peers = [named(8), named(5)]
    alone = copies(peers)
    model = compiled(smkd(peers, 0.0), keras.optimizers.SGD(0.1))
    for _ in range(3):
        model.train_on_batch(*batch)
    for peer, single in zip(peers, alone, strict=True):
        single.compile(
            keras.optimizers.SGD(0.1),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        for _ in range(3):
            single.train_on_batch(*batch)
        for ours, theirs in zip(
            peer.get_weights(), single.get_weights(), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    if keras.backend.backend() == "torch":
        parameters = {id(p) for p in model.parameters()}
        assert parameters == {id(v.value) for v in model.variables}


def test_identical_peers_distil_nothing(batch):
    peers = [mlp()]
    peers += copies(peers * 2)
    logs = compiled(smkd(peers, 1.5)).evaluate(
        *batch, verbose=0, return_dict=True
    )
    assert logs["selection_rate"] == 1.0
    assert abs(logs["distillation_loss"]) < 1e-6


def test_each_peer_runs_forward_once_in_a_step(batch):
    x, y = batch
    peers = [
        keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.BatchNormalization(momentum=0.9),
                keras.layers.Dense(CLASSES),
            ]
        )
        for _ in range(2)
    ]
    compiled(smkd(peers, 1.5)).train_on_batch(x, y)
    for peer in peers:
        moving_mean = peer.layers[0].moving_mean
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(moving_mean),
            0.1 * x.mean(axis=0),
            rtol=1e-4,
            atol=1e-6,
        )


def test_probabilities_and_logits_give_the_same(batch):
    logit_peers = [mlp(), mlp(5)]
    softmax_peers = [mlp(activation="softmax"), mlp(5, activation="softmax")]
    for a, b in zip(logit_peers, softmax_peers, strict=True):
        b.set_weights(a.get_weights())
    from_logits = compiled(smkd(logit_peers, 0.9, temperature=2.0))
    from_probs = compiled(
        smkd(softmax_peers, 0.9, temperature=2.0, from_logits=False)
    )
    logs = from_logits.evaluate(*batch, verbose=0)
    np.testing.assert_allclose(
        from_probs.evaluate(*batch, verbose=0), logs, rtol=1e-5
    )


@pytest.mark.parametrize(
    "form", ["column", "uint8", "with index", "one-hot", "one-hot in a dict"]
)
def test_every_form_of_labels_gives_the_same(batch, form):
    x, y = batch
    one_hot = np.eye(CLASSES, dtype="float32")[y]
    labels = {
        "column": y[:, None],
        "uint8": y.astype("uint8"),
        "with index": {"label": y, "index": np.arange(len(y))},
        "one-hot": one_hot,
        "one-hot in a dict": {"label": one_hot},
    }[form]
    loss = "categorical" if "one-hot" in form else "sparse_categorical"
    peers = [mlp(), mlp(5)]
    expected = compiled(smkd(peers, 0.9)).evaluate(x, y, verbose=0)
    model = compiled(smkd(peers, 0.9), loss=f"{loss}_crossentropy")
    np.testing.assert_allclose(
        model.evaluate(x, labels, verbose=0), expected, rtol=1e-6
    )


def test_soft_labels_reach_the_loss(batch, rng):
    x, _ = batch
    soft = softmax(rng.normal(size=(len(x), CLASSES)))
    peers = [linear(), linear()]
    logs = compiled(smkd(peers, 0.0), loss="categorical_crossentropy").evaluate(
        x, soft.astype("float32"), verbose=0, return_dict=True
    )
    expected = sum(
        -(soft * np.log(softmax(x @ peer.get_weights()[0]))).sum(axis=1).mean()
        for peer in peers
    )
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)


def test_sample_weight_weighs_both_terms(batch, rng):
    x, y = batch
    weight = rng.uniform(size=len(y)).astype("float32")
    weight[:3] = 0.0
    peers = [linear(), linear()]
    logits = np.stack(
        [x.astype("float64") @ peer.get_weights()[0] for peer in peers]
    )
    supervised, distillation, _, gradient = objective(logits, y, 1.5)
    model = compiled(smkd(peers, 1.5))
    logs = model.evaluate(
        x, y, sample_weight=weight, verbose=0, return_dict=True
    )
    np.testing.assert_allclose(
        [logs["loss"], logs["supervised_loss"], logs["distillation_loss"]],
        [
            (weight * (supervised + distillation)).mean(),
            (weight * supervised).mean(),
            (weight * distillation).mean(),
        ],
        rtol=1e-5,
    )
    before = peers[0].get_weights()[0]
    model.train_on_batch(x, y, sample_weight=weight)
    np.testing.assert_allclose(
        before - peers[0].get_weights()[0],
        x.T @ (weight[:, None] * gradient[0]) / len(x),
        rtol=1e-3,
        atol=1e-6,
    )


@pytest.mark.parametrize("form", ["plain", "with index"])
def test_class_weight_is_the_sample_weight_of_the_class(batch, form):
    x, y = batch
    class_weight = {0: 0.5, 1: 2.0, 2: 0.0}
    weight = np.array([class_weight.get(label, 1.0) for label in y])
    labels = {"label": y, "index": np.arange(len(y))}
    labels = y if form == "plain" else labels
    peers = [linear(), linear()]
    by_class = compiled(smkd(copies(peers), 1.5))
    by_sample = compiled(smkd(peers, 1.5))
    np.testing.assert_allclose(
        by_class.train_on_batch(x, labels, class_weight=class_weight),
        by_sample.train_on_batch(x, y, sample_weight=weight),
        rtol=1e-6,
    )
    losses = [
        by_class.fit(x, labels, class_weight=class_weight, verbose=0),
        by_sample.fit(x, y, sample_weight=weight, verbose=0),
    ]
    np.testing.assert_allclose(
        losses[0].history["loss"], losses[1].history["loss"], rtol=1e-6
    )


def test_regularisers_and_added_losses_of_the_peers_count(batch):
    class AddedLoss(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(3.0 * keras.ops.mean(inputs**2))
            return inputs

    x, y = batch
    plain = [linear(), linear()]
    extra = [
        linear(kernel_regularizer=keras.regularizers.L2(0.1)),
        keras.Sequential(
            [
                keras.Input((6,)),
                AddedLoss(),
                keras.layers.Dense(CLASSES, use_bias=False),
            ]
        ),
    ]
    for a, b in zip(plain, extra, strict=True):
        b.set_weights(a.get_weights())
    kernel = plain[0].get_weights()[0]
    models = [compiled(smkd(peers, 0.5)) for peers in (plain, extra)]
    without, with_losses = (
        model.evaluate(x, y, verbose=0, return_dict=True) for model in models
    )
    np.testing.assert_allclose(
        with_losses["loss"] - without["loss"],
        0.1 * (kernel**2).sum() + 3.0 * (x**2).mean(),
        rtol=1e-4,
    )
    for model in models:
        model.train_on_batch(x, y)
    np.testing.assert_allclose(
        plain[0].get_weights()[0] - extra[0].get_weights()[0],
        0.2 * kernel,
        rtol=1e-3,
        atol=1e-6,
    )


def test_target_corrects_the_labels_of_each_peer(batch):
    x, y = batch
    peers = [linear(), linear()]
    target = keras_smkd.targets.ProSelfLC(sharpness=4.0, trust="probability")
    model = compiled(smkd(peers, 0.0, target=target, total_steps=100))
    model.step_counter.assign(75)
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    expected = 0.0
    for peer in peers:
        p = softmax(x.astype("float64") @ peer.get_weights()[0])
        trust = (p.max(axis=1) / (1 + np.exp(-4.0 * (0.75 - 0.5))))[:, None]
        targets = (1 - trust) * np.eye(CLASSES)[y] + trust * p
        expected -= (targets * np.log(p)).sum(axis=1).mean()
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)


def test_own_target_and_selection_functions_are_called(batch):
    x, y = batch

    def keep_labels(labels, predictions, progress):
        return labels

    def even_rows_of_first(log_probs, threshold):
        rows = keras.ops.arange(keras.ops.shape(log_probs)[0])
        even = keras.ops.cast(rows % 2 == 0, "float32")
        return keras.ops.stack([even, keras.ops.zeros_like(even)], axis=1)

    peers = [linear(), linear()]
    model = compiled(
        keras_smkd.SelectiveMutualDistillation(
            peers,
            target=keep_labels,
            selection=even_rows_of_first,
            total_steps=1,
        )
    )
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    p = [softmax(x.astype("float64") @ peer.get_weights()[0]) for peer in peers]
    kl = (p[0] * np.log(p[0] / p[1])).sum(axis=1)
    np.testing.assert_allclose(
        logs["distillation_loss"], kl[::2].sum() / len(x), rtol=1e-5
    )
    assert logs["selection_rate"] == 0.25


def test_knowledge_that_is_not_finite_poisons_no_other_peer(batch):
    x, y = batch
    peers = [linear(), linear(), linear()]
    broken = peers[1].get_weights()[0] * np.nan
    peers[1].set_weights([broken])
    alone = copies([peers[0], peers[2]])
    three = compiled(smkd(peers, 1.5))
    two = compiled(smkd(alone, 1.5, distillation_weight=0.5))
    three.train_on_batch(x, y)
    two.train_on_batch(x, y)
    for peer, expected in zip(peers[::2], alone, strict=True):
        weights = peer.get_weights()[0]
        assert np.isfinite(weights).all()
        np.testing.assert_allclose(
            weights, expected.get_weights()[0], rtol=1e-5, atol=1e-6
        )


def test_label_outside_the_classes_in_a_stream_is_loud(batch):
    x, y = batch
    y = y.copy()
    y[0] = CLASSES
    model = smkd([linear(), linear()], 0.5)
    # A function, since Keras's own sparse loss raises on TensorFlow here.
    model.compile("sgd", lambda y_true, y_pred: keras.ops.sum(y_pred**2, -1))

    def batches():
        yield x, y

    logs = model.evaluate(batches(), steps=1, verbose=0, return_dict=True)
    assert np.isnan(logs["loss"])


def test_predict_gives_ensemble_or_every_peer(batch):
    x, _ = batch
    peers = [mlp(), mlp(5), functional_net()]
    model = smkd(peers, 0.5)
    expected = [softmax(peer.predict(x, verbose=0)) for peer in peers]
    for _ in range(2):
        ensemble = model.predict(x, batch_size=5, verbose=0)
        np.testing.assert_allclose(
            ensemble, np.mean(expected, axis=0), rtol=1e-5, atol=1e-7
        )
        each = model.predict(x, batch_size=5, verbose=0, output="all")
        assert list(each) == ["peer_0", "peer_1", "peer_2"]
        for name, probs in zip(each, expected, strict=True):
            np.testing.assert_allclose(each[name], probs, rtol=1e-5, atol=1e-7)


def test_logs_are_those_of_ensemble_and_peers(batch):
    x, y = batch
    model = smkd([mlp(), mlp(5)], 0.5)
    top2 = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
    model.compile(
        "adam",
        "sparse_categorical_crossentropy",
        metrics=["accuracy", top2],
        weighted_metrics=["sparse_categorical_accuracy"],
    )
    history = model.fit(x, y, epochs=1, verbose=0, validation_data=(x, y))
    own = ["supervised_loss", "distillation_loss", "selection_rate"]
    per_output = ["accuracy", "top2", "sparse_categorical_accuracy"]
    names = ["loss", *own, "threshold", *per_output]
    names += [f"peer_{i}_{name}" for i in range(2) for name in per_output]
    assert set(history.history) == {*names, *(f"val_{name}" for name in names)}
    weight = np.arange(len(y)) % 3
    logs = model.evaluate(
        x, y, sample_weight=weight, verbose=0, return_dict=True
    )
    assert set(logs) == set(names)
    predictions = {"": model.predict(x, verbose=0)}
    predictions |= {
        f"{name}_": probs
        for name, probs in model.predict(x, verbose=0, output="all").items()
    }
    for prefix, probs in predictions.items():
        hit = probs.argmax(axis=1) == y
        assert logs[f"{prefix}accuracy"] == pytest.approx(hit.mean())
        in_top2 = (np.argsort(probs, axis=1)[:, -2:] == y[:, None]).any(axis=1)
        assert logs[f"{prefix}top2"] == pytest.approx(in_top2.mean())
        assert logs[f"{prefix}sparse_categorical_accuracy"] == pytest.approx(
            (weight * hit).sum() / weight.sum()
        )
    values = model.evaluate(x, y, sample_weight=weight, verbose=0)
    assert values == pytest.approx([logs[name] for name in names])
