"""What Keras shows of a model: its summary, and its picture."""

import re

import keras
import numpy as np
import pytest
from peers import linear
from peers import mlp

import keras_smkd

ROW = re.compile(
    r"^│ +(?:└ )?([\w-]+) \((\w+)\) +│ (.*?) +│ +([\d,]+)(?: \(unbuilt\))? │",
    re.MULTILINE,
)


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def summary_of(model, **kwargs):
    """Return the rows (name, class, shape, parameters), and the totals."""
    printed = []
    model.summary(line_length=150, print_fn=printed.append, **kwargs)
    text = "\n".join(printed)
    rows = [
        (name, kind, shape, int(count.replace(",", "")))
        for name, kind, shape, count in ROW.findall(text)
    ]
    totals = re.findall(r"^ ([\w-]+) params: ([\d,]+) ", text, re.MULTILINE)
    return rows, {name: int(n.replace(",", "")) for name, n in totals}


def deep():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(3, name="inner"),
            keras.layers.Dense(4),
        ]
    )


def test_peers_and_parts_have_rows_and_nothing_else_has():
    model = keras_smkd.SelectiveMutualDistillation(
        {"small": linear(), "wide": mlp(16)},
        knowledge="averaged_peers",
        distillation_weight=keras_smkd.schedules.Linear(0.0, 1.0),
    )
    rows, totals = summary_of(model)
    # 6 * 4; 6 * 16 + 16, four numbers each of 16 in the normalisation, and
    # 16 * 4 + 4. Averages have what is trained, and not the moments.
    assert rows == [
        ("small", "Sequential", "(None, 4)", 24),
        ("wide", "Sequential", "(None, 4)", 112 + 64 + 68),
        ("knowledge", "AveragedPeers", "(None, None, 4)", 24 + 112 + 64 + 68),
        ("selection", "ConfidentKnowledge", "(None, None)", 0),
        ("divergence", "KullbackLeibler", "(None, 2)", 0),
        ("gate", "LabelGate", "(None, 2)", 0),
        ("distillation_weight", "Linear", "()", 0),
    ]
    trained = 24 + 112 + 32 + 68
    assert totals == {
        "Total": 2 * (24 + 112 + 64 + 68),
        "Trainable": trained,
        "Non-trainable": 2 * (24 + 112 + 64 + 68) - trained,
    }


def test_a_head_is_a_learner_and_what_is_not_asked_is_not_shown():
    model = keras_smkd.PeerLearning(
        [deep(), deep()],
        head=keras_smkd.features.FeatureConcatenation("inner"),
        gate=lambda batch: 1.0,
    )
    rows, totals = summary_of(model)
    assert rows == [
        ("peer_0", "Sequential", "(None, 4)", 21 + 16),
        ("peer_1", "Sequential", "(None, 4)", 21 + 16),
        ("head", "FeatureConcatenation", "(None, 4)", 6 * 4 + 4),
        ("gate", "function", "(None, 3)", 0),
    ]
    assert totals == {"Total": 102, "Trainable": 102, "Non-trainable": 0}


def test_memories_are_counted_and_the_rows_are_the_total(rng):
    model = keras_smkd.methods.posterior_smkd(
        [linear(), linear()], num_examples=20
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = rng.normal(size=(20, 6)).astype("float32")
    model.fit(x, rng.integers(0, 4, size=20), verbose=0)
    rows, totals = summary_of(model)
    shown = {name: (kind, count) for name, kind, _, count in rows}
    assert shown["target"][0] == "PosteriorLabels"
    assert shown["knowledge"] == (
        "PastPredictions",
        keras_smkd._config.parts_of(model.knowledge)[0].count_params(),
    )
    assert shown["knowledge"][1] >= 20 * 2 * 4
    of_optimizer = totals.pop("Optimizer")
    assert of_optimizer == sum(
        int(np.prod(v.shape)) for v in model.optimizer.variables
    )
    assert sum(count for *_, count in rows) == totals["Total"] - of_optimizer


def test_arguments_are_those_of_keras(capsys):
    model = keras_smkd.SelectiveMutualDistillation([linear(), mlp()])
    rows, _ = summary_of(model, layer_range=["peer_1", "selection"])
    assert [name for name, *_ in rows] == ["peer_1", "knowledge", "selection"]
    rows, _ = summary_of(model, expand_nested=True)
    kinds = [kind for _, kind, _, _ in rows[:5]]
    assert kinds == [
        "Sequential",
        "Dense",
        "Sequential",
        "Dense",
        "BatchNormalization",
    ]
    printed = []
    model.peers[0].trainable = False
    model.summary(150, print_fn=printed.append, show_trainable=True)
    marks = re.findall(r"^│ (\w+) \(.* ([YN-]) +│$", printed[0], re.MULTILINE)
    assert dict(marks) == {
        "peer_0": "N",
        "peer_1": "Y",
        "knowledge": "-",
        "selection": "-",
        "divergence": "-",
        "gate": "-",
    }
    model.summary()
    assert "peer_1 (Sequential)" in capsys.readouterr().out


def test_peers_without_an_input_are_shown_before_they_are_built():
    model = keras_smkd.PeerLearning([keras.Sequential([keras.layers.Dense(4)])])
    rows, totals = summary_of(model)
    assert rows == [("peer_0", "Sequential", "?", 0)]
    assert totals["Total"] == 0


def test_a_transition_matrix_that_is_trained_is_shown():
    model = keras_smkd.PeerLearning([linear()])
    loss = keras_smkd.losses.TransitionRevision(np.eye(4), from_logits=True)
    model.compile("sgd", loss)
    rows, totals = summary_of(model)
    assert rows == [
        ("peer_0", "Sequential", "(None, 4)", 24),
        ("transition_slack", "TransitionSlack", "?", 16),
    ]
    assert totals["Trainable"] == 40


def test_a_summary_changes_nothing_in_the_model():
    model = keras_smkd.SelectiveMutualDistillation([linear(), mlp()])
    before = [variable.path for variable in model.variables]
    names = [peer.name for peer in model.peers]
    summary_of(model)
    assert [variable.path for variable in model.variables] == before
    assert [peer.name for peer in model.peers] == names
    assert model.non_trainable_weights[-3:] == model.clock.weights


def test_a_picture_has_the_model_as_one_box(tmp_path):
    """As Keras draws every model that is no graph of layers."""
    pydot = pytest.importorskip("pydot", reason="needs pydot, to draw")
    model = keras_smkd.SelectiveMutualDistillation(
        [linear(), mlp()], name="pair"
    )
    dot = keras.utils.model_to_dot(
        model,
        show_shapes=True,
        show_dtype=True,
        show_trainable=True,
        expand_nested=True,
        show_layer_activations=True,
    )
    (box,) = [node for node in dot.get_nodes() if node.get_name() != "node"]
    label = box.get("label")
    assert "<b>pair</b> (SelectiveMutualDistillation)" in label
    assert "<b>Trainable</b>" in label
    # A peer is a graph.
    drawn = keras.utils.model_to_dot(model.peers[1])
    assert len(drawn.get_edges()) == 2
    try:
        pydot.Dot().create()
    except (OSError, pydot.PydotException):
        pytest.skip("needs Graphviz, to write the picture")
    keras.utils.plot_model(model, tmp_path / "model.png")
    assert (tmp_path / "model.png").read_bytes().startswith(b"\x89PNG")
