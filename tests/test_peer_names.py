"""Names of peers: where they appear, what they may be, and that they stay."""

import collections
import json

import keras
import numpy as np
import pytest
from peers import copies
from peers import functional_net
from peers import linear
from peers import mlp

import keras_smkd
from keras_smkd.export.arguments import chosen_artefacts

CROSSENTROPY = "sparse_categorical_crossentropy"


@pytest.fixture
def data(rng):
    x = rng.normal(size=(24, 6)).astype("float32")
    return x, rng.integers(0, 4, size=24)


def compiled(model, optimizer="sgd"):
    # Whose means of few examples are not alike by chance, as accuracies are.
    metrics = ["accuracy", keras.metrics.SparseCategoricalCrossentropy("ce")]
    model.compile(optimizer, CROSSENTROPY, metrics=metrics)
    return model


def deep():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(3, name="inner"),
            keras.layers.Dense(4),
        ]
    )


@pytest.fixture
def trained(data):
    """Not in the order of the alphabet, since sorting must do no harm."""
    model = compiled(
        keras_smkd.SelectiveMutualDistillation(
            {"vit": mlp(), "res-net": functional_net(), "b_2": linear()}
        ),
        [keras.optimizers.Adam(), keras.optimizers.SGD(), "rmsprop"],
    )
    model.fit(*data, epochs=2, verbose=0)
    return model


def test_names_stand_in_outputs_and_logs(trained, data):
    x, y = data
    assert trained.peer_names == ("vit", "res-net", "b_2")
    each = trained.predict(x, verbose=0, output="all")
    assert set(each) == {"vit", "res-net", "b_2"}
    logs = trained.evaluate(x, y, verbose=0, return_dict=True)
    learners = {name for name in logs if name.endswith("_accuracy")}
    assert learners == {"vit_accuracy", "res-net_accuracy", "b_2_accuracy"}
    for name, peer in zip(trained.peer_names, trained.peers, strict=True):
        probs = keras.ops.softmax(peer.predict(x, verbose=0))
        probs = keras.ops.convert_to_numpy(probs)
        own = trained.predict(x, verbose=0, output=name)
        np.testing.assert_allclose(own, probs, atol=1e-6)
        np.testing.assert_allclose(each[name], probs, atol=1e-6)
        hits = (probs.argmax(axis=1) == y).mean()
        np.testing.assert_allclose(logs[f"{name}_accuracy"], hits, atol=1e-6)
    history = trained.fit(*data, validation_data=data, verbose=0).history
    assert {"vit_accuracy", "val_vit_accuracy"} <= set(history)
    assert not [name for name in history if "peer_" in name]
    with pytest.raises(ValueError, match=r"`output` must be .*'vit', 'res-n"):
        trained.predict(x, output="peer_0")


def test_names_change_nothing_else(data):
    """The same training, peer by peer, as that of a list."""
    peers = [linear(), mlp()]
    named = dict(zip(("b", "a"), copies(peers), strict=True))
    logs = []
    for given in (peers, named):
        model = compiled(keras_smkd.PeerLearning(given, knowledge="peers"))
        logs.append(
            model.fit(*data, epochs=2, shuffle=False, verbose=0).history
        )
    renamed = {
        name.replace("peer_0", "b").replace("peer_1", "a"): values
        for name, values in logs[0].items()
    }
    assert renamed.keys() == logs[1].keys()
    for name, values in renamed.items():
        np.testing.assert_allclose(values, logs[1][name], rtol=1e-6)


def test_a_list_keeps_the_names_of_its_positions():
    plain = keras_smkd.PeerLearning([linear(), linear()])
    assert plain.peer_names == ("peer_0", "peer_1")
    assert isinstance(plain.get_config()["peers"], list)
    # The same names, given: nothing tells the two apart.
    given = keras_smkd.PeerLearning({"peer_0": linear(), "peer_1": linear()})
    assert given.peer_names == plain.peer_names
    assert isinstance(given.get_config()["peers"], list)


def test_any_mapping_will_do_and_a_head_has_its_own_name():
    peers = collections.OrderedDict(y=deep(), x=deep())
    model = keras_smkd.PeerLearning(
        collections.ChainMap(peers),
        head=keras_smkd.features.FeatureConcatenation("inner"),
    )
    assert set(model.peer_names) == {"x", "y"}
    assert model.learner_names == (*model.peer_names, "head")


def test_files_and_clones_keep_names_and_their_order(trained, data, tmp_path):
    x, y = data
    trained.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = trained.predict(x, verbose=0, output="all")
    clone = keras.models.clone_model(trained)
    clone.set_weights(trained.get_weights())
    for other in (loaded, clone):
        assert other.peer_names == ("vit", "res-net", "b_2")
        kinds = [type(peer).__name__ for peer in other.peers]
        assert kinds == ["Sequential", "Functional", "Sequential"]
        found = other.predict(x, verbose=0, output="all")
        assert found.keys() == expected.keys()
        for name, probs in expected.items():
            np.testing.assert_array_equal(found[name], probs)
    again = loaded.evaluate(x, y, verbose=0, return_dict=True)
    assert again == trained.evaluate(x, y, verbose=0, return_dict=True)
    assert json.loads(loaded.to_json()) == json.loads(trained.to_json())


def test_weights_know_no_names(trained, data, tmp_path):
    """A model of a list takes the weights of one with names."""
    x, _ = data
    trained.save_weights(tmp_path / "model.weights.h5")
    plain = compiled(
        keras_smkd.SelectiveMutualDistillation(
            [mlp(), functional_net(), linear()]
        ),
        [keras.optimizers.Adam(), keras.optimizers.SGD(), "rmsprop"],
    )
    plain.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(
        plain.predict(x, verbose=0, output="peer_1"),
        trained.predict(x, verbose=0, output="res-net"),
    )


def test_exports_have_a_folder_of_each_name(trained, tmp_path):
    pytest.importorskip("tensorflow")
    on_torch = keras.backend.backend() == "torch"
    keras_smkd.export(
        trained,
        tmp_path / "serving",
        what="peers",
        format="torch" if on_torch else "tf_saved_model",
    )
    folders = {p.name for p in (tmp_path / "serving").iterdir() if p.is_dir()}
    assert folders == {"vit", "res-net", "b_2"}
    card = json.loads((tmp_path / "serving" / "model_card.json").read_text())
    assert [row["name"] for row in card["artefacts"]] == list(
        trained.peer_names
    )
    assert [row["peers"] for row in card["artefacts"]] == [
        ["vit"],
        ["res-net"],
        ["b_2"],
    ]
    assert [row["peer"] for row in card["peers"]] == list(trained.peer_names)
    page = (tmp_path / "serving" / "README.md").read_text()
    assert "res-net" in page and "peer_0" not in page


def test_the_best_of_named_peers_is_exported():
    metrics = {"vit_accuracy": 0.25, "b_accuracy": 0.5}
    names = ["vit", "b"]
    assert chosen_artefacts("b", names, None) == {"b": [1]}
    assert chosen_artefacts("best_peer", names, metrics) == {"best_peer": [1]}
    with pytest.raises(ValueError, match="name the peer: what='vit'"):
        chosen_artefacts("best_peer", names, {"loss": 1.0})


@pytest.mark.parametrize(
    "method",
    [
        keras_smkd.methods.dml,
        keras_smkd.methods.kdcl,
        lambda peers: keras_smkd.methods.co_teaching_plus(peers, 0.4),
        lambda peers: keras_smkd.methods.posterior_smkd(peers, num_examples=9),
        lambda peers: keras_smkd.methods.divide_mix(peers, num_examples=9),
    ],
)
def test_methods_take_names(method):
    model = method({"right": linear(), "left": linear()})
    assert model.peer_names == ("right", "left")


def test_a_course_has_the_panels_of_named_peers():
    pytest.importorskip("matplotlib")
    history = keras.callbacks.History()
    history.set_model(keras_smkd.PeerLearning({"a": linear(), "a_b": linear()}))
    history.history = {
        "accuracy": [1.0],
        "a_accuracy": [1.0],
        "val_a_b_accuracy": [1.0],
        "supervised_loss": [2.0],
        "a_b_loss": [2.0],
    }
    figure = keras_smkd.report.plot_history(history)
    panels = {
        axes.get_title(): [line.get_label() for line in axes.lines]
        for axes in figure.axes
    }
    assert panels == {
        "accuracy": ["accuracy", "a_accuracy", "val_a_b_accuracy"],
        "supervised_loss": ["supervised_loss"],
        "loss": ["a_b_loss"],
    }


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ((0, 1), TypeError, "strings as names. Received: the name 0 of type"),
        (("", "b"), ValueError, "begin with a letter. Received: the name ''"),
        (("a", "2b"), ValueError, "begin with a letter.*the name '2b'"),
        (("a", "b c"), ValueError, "digits, '_' and '-' .*the name 'b c'"),
        (("../a", "b"), ValueError, r"digits, '_' and '-' .*'\.\./a'"),
        (("a", "b\n"), ValueError, r"digits, '_' and '-' .*'b\\n'"),
        (("a", "é"), ValueError, "digits, '_' and '-' .*the name 'é'"),
        (("a", "A"), ValueError, r"more than their case.*\['a', 'A'\]"),
        (("a", "loss"), ValueError, "nothing else. Received: the name 'loss'"),
        (("Ensemble", "b"), ValueError, "nothing else.*'Ensemble'"),
        (("a", "head"), ValueError, "nothing else.*name 'head'.*Not free are"),
        (("a", "val_a"), ValueError, "nothing else.*that begin with 'val_'"),
        (("val", "a"), ValueError, "nothing else. Received: the name 'val'"),
        (("peers", "a"), ValueError, "nothing else. Received: the name 'peers"),
        (("a", "peer_3"), ValueError, "'peer_3' at position 1, where 'peer_1'"),
        (("peer_1", "a"), ValueError, "'peer_1' at position 0, where 'peer_0'"),
    ],
)
def test_names_that_cannot_be(names, error, message):
    peers = {name: linear() for name in names}
    with pytest.raises(error, match=f"^`peers` must have .*{message}"):
        keras_smkd.SelectiveMutualDistillation(peers)


def test_messages_call_peers_by_their_names():
    with pytest.raises(TypeError, match=r"peers\['b'\]='resnet' of type str"):
        keras_smkd.PeerLearning({"a": linear(), "b": "resnet"})
    with pytest.raises(ValueError, match=r"for peers\['a'\], .* peers\['b'\]"):
        keras_smkd.PeerLearning({"a": linear(6), "b": linear(7)})
    with pytest.raises(ValueError, match=r"\{\"peers\['a'\]\": \(None, 4\)"):
        keras_smkd.PeerLearning({"a": linear(), "b": linear(classes=5)})
    with pytest.raises(ValueError, match=r"two models or more\. Received: 1 "):
        keras_smkd.SelectiveMutualDistillation({"a": linear()})
    shared = linear()
    with pytest.raises(ValueError, match="the same object more than once"):
        keras_smkd.PeerLearning({"a": shared, "b": shared})
    other = keras.Sequential([keras.Input((6,)), shared.layers[0]])
    with pytest.raises(ValueError, match=r"in peers\['a'\] and peers\['b'\]"):
        keras_smkd.PeerLearning({"a": shared, "b": other})


def test_a_metric_that_makes_one_name_of_two_is_refused():
    model = keras_smkd.PeerLearning({"a": linear(), "selection": linear()})
    with pytest.raises(ValueError, match=r"the name 'a_b_hits' for .* and"):
        keras_smkd.PeerLearning({"a": linear(), "a_b": linear()}).compile(
            "sgd",
            CROSSENTROPY,
            metrics=[
                keras.metrics.SparseCategoricalAccuracy("b_hits"),
                keras.metrics.SparseCategoricalAccuracy("hits"),
            ],
        )
    model.compile(
        "sgd",
        CROSSENTROPY,
        metrics=[keras.metrics.SparseCategoricalAccuracy("rate")],
    )
    selecting = keras_smkd.SelectiveMutualDistillation(
        {"a": linear(), "selection": linear()}
    )
    with pytest.raises(ValueError, match="'selection_rate' for the model's"):
        selecting.compile(
            "sgd",
            CROSSENTROPY,
            metrics=[keras.metrics.SparseCategoricalAccuracy("rate")],
        )
