"""The objective, its gradient and its limits, on the running backend."""

import json
import threading

import keras
import numpy as np
import pytest
from peers import copies
from peers import functional_net
from peers import given_logits
from peers import linear
from peers import mlp

import keras_smkd
from keras_smkd.gates import LabelGate
from keras_smkd.knowledge import Knowledge
from keras_smkd.selection import ConfidentKnowledge

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
            if keras.backend.backend() == "torch":
                np.testing.assert_array_equal(ours, theirs)
            else:
                # XLA fuses the two programs differently; TensorFlow has a
                # cross entropy in one piece, which rounds elsewhere.
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize("target", [None, "hard_bootstrapping"])
def test_probabilities_and_logits_give_the_same(batch, target):
    logit_peers = [mlp(), mlp(5)]
    softmax_peers = [mlp(activation="softmax"), mlp(5, activation="softmax")]
    for a, b in zip(logit_peers, softmax_peers, strict=True):
        b.set_weights(a.get_weights())
    options = {"temperature": 2.0, "target": target}
    from_logits = compiled(smkd(logit_peers, 0.9, **options))
    from_probs = compiled(
        smkd(softmax_peers, 0.9, from_logits=False, **options)
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


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_an_example_without_a_label_counts_in_the_mean(batch, threshold):
    x, y = batch
    labelled = (np.arange(len(y)) % 3 > 0).astype("float32")
    # What stands in the label's place is no class, and not looked at.
    labels = {"label": np.where(labelled > 0, y, -1), "labelled": labelled}
    peers = [linear(), linear()]
    logits = np.stack(
        [x.astype("float64") @ peer.get_weights()[0] for peer in peers]
    )
    supervised, distillation, _, of_labels = objective(
        logits, y, threshold, w_d=0.0
    )
    of_knowledge = objective(logits, y, threshold, w_s=0.0)[3]
    model = smkd(peers, threshold)
    model.compile(
        keras.optimizers.SGD(1.0),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        weighted_metrics=["sparse_categorical_accuracy"],
    )
    ensemble = model.predict(x, verbose=0).argmax(axis=1)
    expected = {
        "loss": (labelled * supervised + distillation).mean(),
        "supervised_loss": (labelled * supervised).mean(),
        "distillation_loss": distillation.mean(),
        "accuracy": (ensemble == y)[labelled > 0].mean(),
    }
    logs = model.evaluate(x, labels, verbose=0, return_dict=True)
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=2e-5, err_msg=name)
    weight = np.arange(len(y)) % 4
    logs = model.evaluate(
        x, labels, sample_weight=weight, verbose=0, return_dict=True
    )
    np.testing.assert_allclose(
        [logs["loss"], logs["sparse_categorical_accuracy"]],
        [
            (weight * (labelled * supervised + distillation)).mean(),
            np.average(ensemble == y, weights=weight * labelled),
        ],
        rtol=2e-5,
    )
    before = [peer.get_weights()[0] for peer in peers]
    model.train_on_batch(x, labels)
    for i, peer in enumerate(peers):
        slope = labelled[:, None] * of_labels[i] + of_knowledge[i]
        np.testing.assert_allclose(
            before[i] - peer.get_weights()[0],
            x.T @ slope / len(x),
            rtol=1e-3,
            atol=2e-6,
        )


def test_labelled_must_fit_the_labels(batch):
    x, y = batch
    model = compiled(smkd([linear(), linear()], 0.5))
    for labelled, message in (
        (np.ones(len(y) - 1), "must be as long as `y\\['label'\\]`"),
        (np.ones((len(y), 2)), r"`y\['labelled'\]` must "),
    ):
        with pytest.raises(ValueError, match=message):
            model.train_on_batch(x, {"label": y, "labelled": labelled})
    # An example that has a label is checked all the same.
    wrong = {"label": np.where(y == y[0], -1, y), "labelled": np.ones(len(y))}
    with pytest.raises(ValueError, match=r"`y` must be class ids.* from -1"):
        model.train_on_batch(x, wrong)


@pytest.mark.parametrize("with_labels", [False, True])
def test_data_need_no_labels_that_do_not_count(batch, with_labels):
    x, y = batch
    peers = [linear(), linear()]
    kernels = [peer.get_weights()[0] for peer in peers]
    logits = np.stack([x.astype("float64") @ kernel for kernel in kernels])
    _, distillation, selected, gradient = objective(
        logits, y, 0.8, w_s=0.0, w_d=2.0
    )
    model = smkd(peers, 0.8, supervised_weight=0.0, distillation_weight=2.0)
    model.compile(keras.optimizers.SGD(1.0), metrics=["accuracy"])
    labels = y if with_labels else None
    expected = {
        "loss": 2.0 * distillation.mean(),
        "distillation_loss": distillation.mean(),
        "selection_rate": selected.mean(),
        "threshold": 0.8,
    }
    evaluated = model.evaluate(x, labels, verbose=0, return_dict=True)
    trained = model.fit(x, labels, batch_size=len(x), verbose=0).history
    assert "supervised_loss" not in evaluated
    for name, value in expected.items():
        np.testing.assert_allclose(evaluated[name], value, rtol=2e-5)
        np.testing.assert_allclose(trained[name], [value], rtol=2e-5)
    for i, peer in enumerate(peers):
        np.testing.assert_allclose(
            kernels[i] - peer.get_weights()[0],
            x.T @ gradient[i] / len(x),
            rtol=1e-3,
            atol=2e-6,
        )


def test_labels_that_count_must_be_there(batch):
    x, _ = batch
    model = compiled(smkd([linear(), linear()], 0.5))
    with pytest.raises(ValueError, match=r"`y` must be given, .*y=None"):
        model.fit(x, verbose=0)


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
    model.clock.step.assign(75)
    before = [peer.get_weights()[0] for peer in peers]
    corrected, labelled, steps = 0.0, 0.0, []
    for kernel in before:
        p = softmax(x.astype("float64") @ kernel)
        trust = (p.max(axis=1) / (1 + np.exp(-4.0 * (0.75 - 0.5))))[:, None]
        targets = (1 - trust) * np.eye(CLASSES)[y] + trust * p
        corrected -= (targets * np.log(p)).sum(axis=1).mean()
        labelled -= np.log(p[np.arange(len(y)), y]).mean()
        steps.append(x.T @ (p - targets) / len(x))
    # In training only.
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["loss"], labelled, rtol=1e-5)
    logs = model.train_on_batch(x, y, return_dict=True)
    np.testing.assert_allclose(logs["loss"], corrected, rtol=1e-5)
    for peer, kernel, step in zip(peers, before, steps, strict=True):
        np.testing.assert_allclose(
            kernel - peer.get_weights()[0], step, rtol=1e-3, atol=2e-6
        )


def test_no_gradient_flows_through_a_gate_that_is_a_function(batch):
    x, y = batch
    peer = linear()

    def first_class(batch):
        return keras.ops.exp(batch.log_probs[..., 0])

    model = compiled(
        keras_smkd.PeerLearning([peer], gate=first_class, total_steps=1)
    )
    before = peer.get_weights()[0]
    p = softmax(x.astype("float64") @ before)
    model.train_on_batch(x, y)
    step = x.T @ (p[:, :1] * (p - np.eye(CLASSES)[y])) / len(x)
    np.testing.assert_allclose(
        before - peer.get_weights()[0], step, rtol=1e-3, atol=2e-6
    )


def test_no_gradient_flows_through_knowledge_to_a_function(batch):
    x, y = batch

    def of_knowledge(batch):
        first = keras.ops.exp(batch.knowledge[..., 0])
        return first + batch.knowledge_logits[..., 1]

    peers = [linear(), linear()]
    alone = compiled(keras_smkd.PeerLearning(copies(peers)))
    model = compiled(
        keras_smkd.PeerLearning(
            peers, knowledge="peers", divergence=of_knowledge, total_steps=1
        )
    )
    alone.train_on_batch(x, y)
    model.train_on_batch(x, y)
    for own, other in zip(peers, alone.peers, strict=True):
        np.testing.assert_allclose(
            own.get_weights()[0], other.get_weights()[0], rtol=1e-5, atol=1e-6
        )


def test_every_part_may_be_a_function_of_the_batch(batch):
    """All at once: each is called, and its values enter the formula."""
    x, y = batch
    ops = keras.ops
    routes = np.array([[0.0, 2.0], [0.5, 0.0]], "float32")

    def doubled(batch):
        return Knowledge(logits=2.0 * batch.logits, routes=routes)

    def even_rows_of_first(batch):
        rows = ops.arange(ops.shape(batch.knowledge)[0])
        even = ops.cast(rows % 2 == 0, "float32")
        return ops.stack([even, ops.zeros_like(even)], axis=1)

    def linear_in_knowledge(batch):
        # Of the class that the label says, wherever it is selected.
        said = ops.einsum("bkc,bc->bk", ops.exp(batch.knowledge), batch.labels)
        return ops.stop_gradient(
            ops.einsum("lk,bk->bl", routes, said * batch.selected)
        )

    linear_in_knowledge.factor = 3.0

    def half_uniform(batch):
        labels = ops.expand_dims(batch.labels, axis=1)
        corrected = 0.5 * labels + 0.5 / CLASSES
        return ops.repeat(corrected, batch.num_learners, axis=1)

    def by_loss(batch):
        return ops.minimum(batch.losses, 1.8)

    def square_of_inputs(batch):
        return ops.sum(ops.square(batch.x), axis=-1)

    peers = [linear(), linear()]
    model = compiled(
        keras_smkd.PeerLearning(
            peers,
            knowledge=doubled,
            selection=even_rows_of_first,
            divergence=linear_in_knowledge,
            target=half_uniform,
            gate=by_loss,
            feature_loss=square_of_inputs,
            distillation_weight=lambda progress: 0.5 + progress,
            supervised_weight=0.7,
            total_steps=4,
        )
    )
    model.clock.step.assign(1)
    kernels = [peer.get_weights()[0].astype("float64") for peer in peers]
    logs = model.train_on_batch(x, y, return_dict=True)
    one_hot = np.eye(CLASSES)[y]
    said = [(softmax(2 * x @ kernel) * one_hot).sum(1) for kernel in kernels]
    # Only the first source's, which teaches the second learner, by half.
    distillation = 3.0 * 0.5 * said[0] * (np.arange(len(x)) % 2 == 0)
    supervised = np.zeros(len(x))
    for peer, kernel in zip(peers, kernels, strict=True):
        p = softmax(x @ kernel)
        target = 0.5 * one_hot + 0.5 / CLASSES
        losses = -(target * np.log(p)).sum(axis=1)
        gate = np.minimum(losses, 1.8)
        assert 0 < (gate < 1.8).sum() < len(x)
        supervised += gate * losses
        slope = 0.7 * gate[:, None] * (p - target)
        np.testing.assert_allclose(
            kernel - peer.get_weights()[0],
            x.T @ slope / len(x),
            rtol=1e-3,
            atol=2e-6,
        )
    features = (x.astype("float64") ** 2).sum(axis=1)
    expected = {
        "loss": (0.7 * supervised + 0.75 * distillation + features).mean(),
        "supervised_loss": supervised.mean(),
        "distillation_loss": distillation.mean(),
        "selection_rate": 0.25,
        "threshold": 0.5,
        "feature_loss": features.mean(),
    }
    assert logs.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-5, err_msg=name)


def zeros_like(shape):
    """A part that gives zeros of a shape, the batch's size first."""

    def part_of_zeros(batch):
        size = keras.ops.shape(batch.logits)[0]
        return keras.ops.zeros((size, *shape))

    return part_of_zeros


@pytest.mark.parametrize(
    ("argument", "shape", "expected"),
    [
        ("selection", (), r"\(\d+, 2\)"),
        ("selection", (3,), r"\(\d+, 2\)"),
        ("divergence", (), r"\(\d+, 2\)"),
        ("divergence", (2, 4), r"\(\d+, 2\)"),
        ("target", (4,), r"\(\d+, 2, 4\)"),
        ("target", (2, 3), r"\(\d+, 2, 4\)"),
        ("gate", (), r"\(\d+, 2\)"),
        ("gate", (3,), r"\(\d+, 2\)"),
        ("feature_loss", (1,), r"\(\d+,\)"),
        ("feature_loss", (2,), r"\(\d+,\)"),
    ],
)
def test_a_part_that_gives_a_wrong_shape_is_named(
    batch, argument, shape, expected
):
    parts = {argument: zeros_like(shape)}
    model = compiled(
        keras_smkd.PeerLearning(
            [linear(), linear()], knowledge="peers", total_steps=1, **parts
        )
    )
    found = r"\(\d+" + "".join(f", {size}" for size in shape)
    with pytest.raises(
        ValueError,
        match=f"`{argument}` must give shape {expected}. "
        rf"Received: shape {found}.* from part_of_zeros\.",
    ):
        model.train_on_batch(*batch)


def test_knowledge_of_a_wrong_form_is_named(batch):
    def fit(knowledge):
        model = keras_smkd.PeerLearning(
            [linear(), linear()], knowledge=knowledge, total_steps=1
        )
        compiled(model).train_on_batch(*batch)

    def of_three_classes(batch):
        return Knowledge(logits=batch.logits[..., :3])

    def without_sources(batch):
        return Knowledge(log_probs=batch.log_probs[:, 0])

    for wrong in (of_three_classes, without_sources):
        with pytest.raises(
            ValueError,
            match=r"`knowledge` must give shape \(\d+, None, 4\)\. Received: "
            rf"shape .* from {wrong.__name__}\.",
        ):
            fit(wrong)
    with pytest.raises(
        ValueError, match=r"`knowledge.available` must give shape \(\d+, 2\)"
    ):
        fit(
            lambda batch: Knowledge(
                logits=batch.logits, available=batch.logits[:, 0, 0]
            )
        )
    with pytest.raises(
        ValueError,
        match=r"`routes` must have shape \(learners, sources\) = \(2, 2\)",
    ):
        fit(lambda batch: Knowledge(batch.logits, routes=[[1.0, 0.0]]))
    with pytest.raises(TypeError, match=r"`knowledge` must give a .*Knowledge"):
        fit(lambda batch: batch.logits)


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


@pytest.mark.parametrize("num_peers", [1, 2])
def test_without_knowledge_logs_are_those_of_labels(batch, num_peers):
    x, y = batch
    peers = [mlp() for _ in range(num_peers)]
    model = keras_smkd.PeerLearning(peers)
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    history = model.fit(x, y, verbose=0, validation_data=(x, y)).history
    names = ["loss", "supervised_loss", "accuracy"]
    names += [f"peer_{i}_accuracy" for i in range(num_peers)]
    assert set(history) == {*names, *(f"val_{name}" for name in names)}
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert set(logs) == set(names)
    each = model.predict(x, verbose=0, output="all").values()
    expected = sum(-np.log(p[np.arange(len(y)), y]).mean() for p in each)
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(logs["supervised_loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("from_logits", [True, False])
def test_one_peer_is_a_model_like_any_other(rng, from_logits):
    x = rng.normal(size=(64, 6)).astype("float32")
    y = rng.integers(0, CLASSES, size=64)
    peer = mlp(dropout=0.3, activation=None if from_logits else "softmax")
    (alone,) = copies([peer])
    model = compiled(
        keras_smkd.PeerLearning([peer], from_logits=from_logits),
        keras.optimizers.Adam(0.01),
    )
    alone.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits),
    )
    fit = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0}
    losses = [one.fit(x, y, **fit).history["loss"] for one in (model, alone)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for ours, theirs in zip(
        peer.get_weights(), alone.get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    probs = alone.predict(x, verbose=0)
    probs = softmax(probs) if from_logits else probs
    for output in ("ensemble", "peer_0"):
        np.testing.assert_allclose(
            model.predict(x, verbose=0, output=output),
            probs,
            rtol=1e-4,
            atol=1e-6,
        )


def test_one_peer_alone_has_nobody_to_learn_from():
    with pytest.raises(ValueError, match="`peers` must hold two models"):
        keras_smkd.SelectiveMutualDistillation([linear()])
    model = compiled(keras_smkd.PeerLearning([linear()], knowledge="peers"))
    with pytest.raises(ValueError, match="`num_peers` must be 2 or more"):
        model.train_on_batch(np.zeros((2, 6)), np.zeros(2, "int32"))


def test_threads_predict_what_each_asked_for(batch):
    x, _ = batch
    model = smkd([mlp(), mlp(5)], 0.5)
    expected = {
        output: model.predict(x, verbose=0, output=output)
        for output in ("ensemble", "all", "peer_1")
    }
    found = {output: [] for output in expected}
    barrier = threading.Barrier(len(expected))

    def predict(output):
        barrier.wait()
        for _ in range(15):
            try:
                result = model.predict(x, verbose=0, output=output)
            except Exception as error:
                result = error
            found[output].append(result)

    threads = [
        threading.Thread(target=predict, args=(output,)) for output in found
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for output, results in found.items():
        assert len(results) == 15
        for result in results:
            assert type(result) is type(expected[output]), result
            keras.tree.map_structure(
                np.testing.assert_array_equal, result, expected[output]
            )
