"""Exports: every format run by its own runtime, and what must not happen."""

import ast
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from peers import functional_net
from peers import linear
from peers import mlp

import keras_smkd
from keras_smkd.export import backends
from keras_smkd.export import formats
from keras_smkd.export import process
from keras_smkd.export import serving_model
from keras_smkd.export import writers
from keras_smkd.export.arguments import chosen_artefacts

BACKEND = keras.backend.backend()
ROOT = pathlib.Path(__file__).resolve().parents[1]
# What the running backend writes itself; other processes are tried once for
# each backend, and all of them by benchmarks/export_matrix.py.
NATIVE = {
    "tensorflow": ["tf_saved_model", "onnx", "openvino", "litert"],
    "jax": ["tf_saved_model"],
    "torch": ["torch"],
}[BACKEND]
# SavedModels are in the fixture `saved_models`.
OTHERS = [name for name in NATIVE if name != "tf_saved_model"]
NAMES = ["apple", "Birne", "Käse", "été"]
SIZES = (1, 2, 9)

pytestmark = [
    # Raised inside runtimes and by what they are built with.
    pytest.mark.filterwarnings("ignore:builtin type .*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*TreeSpec.*:FutureWarning"),
]


def matrix():
    """The benchmark, for its functions that run an artefact."""
    path = ROOT / "benchmarks" / "export_matrix.py"
    spec = importlib.util.spec_from_file_location("export_matrix", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUNTIMES = {
    "tf_saved_model": ["tensorflow"],
    "onnx": ["tf2onnx", "onnxruntime"],
    "openvino": ["openvino"],
    "litert": ["ai_edge_litert"],
    "torch": ["torch"],
}


def needs(format):
    for package in [*formats.FORMATS[format].packages, *RUNTIMES[format]]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}, for the format {format}")


def smkd(*peers, **kwargs):
    return keras_smkd.SelectiveMutualDistillation(
        peers or [linear(), linear()], **kwargs
    )


@pytest.fixture
def written(monkeypatch):
    """Stand-ins for the writers: `{artefact: model}` of what was asked for."""
    found = {}

    def write(model, format, folder, class_names):
        folder.mkdir()
        (folder / "stand-in").write_text(format)
        found[folder.name] = model

    def write_elsewhere(models, format, folder, class_names, backend):
        for name, model in models.items():
            write(model, format, folder / name, class_names)

    monkeypatch.setattr(formats, "missing_packages", lambda format: [])
    monkeypatch.setattr(writers, "write", write)
    monkeypatch.setattr(process, "write_elsewhere", write_elsewhere)
    return found


@pytest.fixture(scope="module")
def trained():
    """Two peers after an epoch, raw inputs, and what serving must give."""
    keras.utils.set_random_seed(7)
    rng = np.random.default_rng(11)
    raw = rng.integers(0, 256, size=(9, 6)).astype("uint8")
    x, y = raw.astype("float32") / 255, rng.integers(0, 4, size=9)
    model = smkd(
        mlp(), functional_net(), target=keras_smkd.targets.LabelSmoothing(0.1)
    )
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(x, y, verbose=0)
    expected = model.predict(x, verbose=0, output="all")
    expected["ensemble"] = model.predict(x, verbose=0)
    return types.SimpleNamespace(
        model=model,
        raw=raw,
        expected=expected,
        metrics=model.evaluate(x, y, verbose=0, return_dict=True),
    )


def scaling():
    return keras.Sequential(
        [keras.Input((6,), dtype="uint8"), keras.layers.Rescaling(1 / 255)]
    )


def check(format, folder, name, trained):
    batches = [{"inputs": trained.raw[:size]} for size in SIZES]
    outputs = matrix().run_artefact(format, folder / name, batches)
    for output, size in zip(outputs, SIZES, strict=True):
        assert output.shape == (size, 4)
        np.testing.assert_allclose(
            output, trained.expected[name][:size], rtol=0, atol=1e-6
        )


@pytest.fixture(scope="module")
def saved_models(trained, tmp_path_factory):
    """The folder of an export with everything that can be given."""
    pytest.importorskip("tensorflow")
    parent = tmp_path_factory.mktemp("deep")
    keras_smkd.export(
        trained.model,
        parent / "serving",
        preprocessing=scaling(),
        class_names=NAMES,
        metrics=trained.metrics,
        noise={"kind": "pair_flip", "noise_rate": 0.4, "seed": 0},
    )
    assert os.listdir(parent) == ["serving"]
    return parent / "serving"


def test_saved_models_agree_with_predict(saved_models, trained):
    for name in ("peer_0", "peer_1", "ensemble"):
        check("tf_saved_model", saved_models, name, trained)


BLOCK = """
import runpy, sys
for name in ("keras", "tf_keras", "keras_smkd", "jax"):
    sys.modules[name] = None  # Importing it raises.
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_example_serves_where_keras_cannot_be_imported(
    saved_models, trained, tmp_path
):
    np.save(tmp_path / "batch.npy", trained.raw)
    script = str(ROOT / "examples" / "serve.py")
    done = subprocess.run(
        [
            *(sys.executable, "-c", BLOCK, script),
            *(str(saved_models / "ensemble"), str(tmp_path / "batch.npy")),
        ],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    expected = trained.expected["ensemble"]
    np.testing.assert_allclose(
        [row["probabilities"] for row in rows], expected, rtol=0, atol=1e-6
    )
    assert [row["class_name"] for row in rows] == [
        NAMES[i] for i in expected.argmax(axis=1)
    ]


def test_card_and_labels_say_what_was_exported(saved_models, trained):
    assert sorted(os.listdir(saved_models)) == [
        "README.md",
        "ensemble",
        "labels.txt",
        "model_card.json",
        "peer_0",
        "peer_1",
    ]
    labels = (saved_models / "labels.txt").read_bytes()
    assert labels == "apple\nBirne\nKäse\nété\n".encode()
    text = (saved_models / "model_card.json").read_text(encoding="utf-8")
    assert "été" in text
    card = json.loads(text)
    settings = card.pop("distillation")
    assert settings["temperature"] == 1.0
    assert settings["target"]["class_name"] == "LabelSmoothing"
    assert "peers" not in settings
    metrics = card.pop("metrics")
    assert metrics == pytest.approx(trained.metrics)
    listed = card.pop("files")
    assert {name for name in listed if not name.endswith("/")} == set(
        files_in(saved_models)
    )
    assert {"ensemble/", "peer_1/variables/", "model_card.json"} < set(listed)
    assert card == {
        "package": "keras_smkd",
        "package_version": keras_smkd.__version__,
        "keras_version": keras.__version__,
        "backend": BACKEND,
        "written_by": "jax" if BACKEND == "jax" else "tensorflow",
        "format": "tf_saved_model",
        "artefacts": [
            {
                "name": name,
                "file": f"{name}/saved_model.pb",
                "peers": peers,
            }
            for name, peers in (
                ("peer_0", ["peer_0"]),
                ("peer_1", ["peer_1"]),
                ("ensemble", ["peer_0", "peer_1"]),
            )
        ],
        "inputs": [{"name": "inputs", "shape": [None, 6], "dtype": "uint8"}],
        "outputs": [
            {"name": "probabilities", "shape": [None, 4], "dtype": "float32"},
            {"name": "class_name", "shape": [None], "dtype": "string"},
        ],
        "preprocessing": "Sequential",
        "num_classes": 4,
        "class_names": NAMES,
        "peers": [
            {
                "peer": "peer_0",
                "name": trained.model.peers[0].name,
                "class": "Sequential",
                # 6 * 8 + 8, four for each of 8 normalised, 8 * 4 + 4.
                "parameters": 124,
            },
            {
                "peer": "peer_1",
                "name": trained.model.peers[1].name,
                "class": "Functional",
                # 6 * 6 + 6, 6 * 4 + 4.
                "parameters": 70,
            },
        ],
        "steps": 1,
        "threshold": 0.5,
        "noise": {"kind": "pair_flip", "noise_rate": 0.4, "seed": 0},
    }


def test_a_normalisation_of_given_numbers_is_exported(trained, tmp_path):
    """It makes tensors when it is built, not weights."""
    format = NATIVE[0]
    needs(format)
    # To raw / 255, within rounding.
    normalisation = keras.layers.Normalization(
        mean=[0.0] * 6, variance=[255.0**2] * 6
    )
    keras_smkd.export(
        trained.model,
        tmp_path / "serving",
        what="ensemble",
        format=format,
        preprocessing=normalisation,
    )
    batch = {"inputs": trained.raw[:9].astype("float32")}
    (output,) = matrix().run_artefact(
        format, tmp_path / "serving" / "ensemble", [batch]
    )
    np.testing.assert_allclose(
        output, trained.expected["ensemble"][:9], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("format", OTHERS)
def test_other_formats_agree_with_predict(format, trained, tmp_path):
    needs(format)
    folder = tmp_path / "serving"
    keras_smkd.export(
        trained.model,
        folder,
        format=format,
        preprocessing=scaling(),
        class_names=NAMES,
    )
    for name in ("peer_0", "peer_1", "ensemble"):
        check(format, folder, name, trained)
    assert (folder / "labels.txt").is_file()
    card = json.loads((folder / "model_card.json").read_text("utf-8"))
    assert card["written_by"] == BACKEND
    assert [output["name"] for output in card["outputs"]] == ["probabilities"]
    for artefact in card["artefacts"]:
        assert (folder / artefact["file"]).is_file()


CUSTOM = """
import keras

@keras.saving.register_keras_serializable(package="test")
class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs
"""


@pytest.mark.skipif(BACKEND != "jax", reason="tried once, where time is")
def test_another_process_writes_what_this_backend_cannot(
    tmp_path, monkeypatch, rng
):
    needs("torch")
    (tmp_path / "custom_layers.py").write_text(CUSTOM)
    monkeypatch.syspath_prepend(tmp_path)
    import custom_layers

    doubled = keras.Sequential(
        [
            keras.Input((6,)),
            custom_layers.Doubled(),
            keras.layers.Dense(4),
        ]
    )
    model = smkd(doubled, mlp())
    folder = tmp_path / "serving"
    keras_smkd.export(model, folder, what="ensemble", format="torch")
    x = rng.normal(size=(9, 6)).astype("float32")
    batches = [{"inputs": x[:size]} for size in SIZES]
    run_artefact = matrix().run_artefact
    outputs = run_artefact("torch", folder / "ensemble", batches)
    expected = model.predict(x, verbose=0)
    for output, size in zip(outputs, SIZES, strict=True):
        np.testing.assert_allclose(output, expected[:size], rtol=0, atol=1e-6)


@pytest.mark.parametrize("format", NATIVE)
def test_several_inputs_keep_their_names(format, rng, tmp_path):
    needs(format)

    def two_inputs():
        left = keras.Input((3,), name="left")
        right = keras.Input((2,), name="a_right")
        both = keras.layers.concatenate([left, right])
        outputs = keras.layers.Dense(4)(both)
        return keras.Model({"left": left, "a_right": right}, outputs)

    model = smkd(two_inputs(), two_inputs())
    x = {
        "left": rng.normal(size=(5, 3)).astype("float32"),
        "a_right": rng.normal(size=(5, 2)).astype("float32"),
    }
    keras_smkd.export(
        model, tmp_path / "serving", what="ensemble", format=format
    )
    run_artefact = matrix().run_artefact
    batches = [x, {name: value[:1] for name, value in x.items()}]
    five, one = run_artefact(format, tmp_path / "serving" / "ensemble", batches)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(five, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(one, expected[:1], rtol=0, atol=1e-6)


# What is in the artefact.


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the graph is TensorFlow's")
def test_preprocessing_is_in_the_ensemble_once(saved_models):
    import tensorflow as tf

    served = tf.saved_model.load(saved_models / "ensemble")
    graph = served.signatures["probabilities"].graph.as_graph_def()
    nodes = [n for f in graph.library.function for n in f.node_def]
    # Two signatures have a copy of the call, and the peers a MatMul per layer.
    by_function = [
        [node.op for node in function.node_def]
        for function in graph.library.function
        if any(node.op == "MatMul" for node in function.node_def)
    ]
    assert nodes
    for ops in by_function:
        assert ops.count("MatMul") == 4
        assert ops.count("Cast") == 1


@pytest.mark.skipif(BACKEND != "torch", reason="the graph is torch's")
def test_preprocessing_is_in_the_program_once(trained, tmp_path):
    import torch

    keras_smkd.export(
        trained.model,
        tmp_path / "serving",
        what="ensemble",
        format="torch",
        preprocessing=scaling(),
    )
    program = torch.export.load(tmp_path / "serving" / "ensemble" / "model.pt2")
    types_of = [
        (node.args[0].meta["val"].dtype, node.meta["val"].dtype)
        for node in program.graph.nodes
        if "aten.to.dtype" in str(node.target)
    ]
    assert types_of.count((torch.uint8, torch.float32)) == 1


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras does it there alone")
def test_weights_are_in_a_saved_model_once(tmp_path):
    model = smkd(mlp(width=500), mlp(width=500))
    keras_smkd.export(model, tmp_path / "serving", what="ensemble")
    folder = tmp_path / "serving" / "ensemble" / "variables"
    size = sum(file.stat().st_size for file in folder.iterdir())
    # The step and the threshold are not in it.
    weights = sum(peer.count_params() for peer in model.peers)
    assert weights * 4 <= size < weights * 4 * 1.5


@pytest.mark.skipif(BACKEND != "tensorflow", reason="needs no other process")
def test_saved_model_takes_texts(tmp_path):
    words = keras.layers.TextVectorization(output_sequence_length=3)
    words.adapt(["the cat sat", "the dog ran"])
    text = keras.Input((), dtype="string")

    def peer():
        return keras.Sequential(
            [
                keras.Input((3,), dtype="int64"),
                keras.layers.Embedding(9, 4),
                keras.layers.Flatten(),
                keras.layers.Dense(3),
            ]
        )

    model = smkd(peer(), peer())
    keras_smkd.export(
        model,
        tmp_path / "serving",
        what="ensemble",
        preprocessing=keras.Model(text, words(text)),
    )
    texts = np.array(["a cat ran", "dog"])
    (output,) = matrix().run_artefact(
        "tf_saved_model",
        tmp_path / "serving" / "ensemble",
        [{"inputs": texts}],
    )
    expected = model.predict(np.asarray(words(texts)), verbose=0)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-6)


def awkward():
    """What tf2onnx needs help with: GELU, loops, held tensors, groups."""
    scale = keras.layers.Normalization(mean=1.0, variance=4.0)
    inputs = keras.Input((6, 8))
    hidden = keras.layers.Conv1D(8, 3, groups=4)(scale(inputs))
    hidden = keras.layers.LSTM(5)(keras.activations.gelu(hidden))
    return keras.Model(inputs, keras.layers.Dense(4)(hidden))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow writes ONNX")
def test_onnx_of_awkward_layers(rng, tmp_path):
    needs("onnx")
    model = smkd(awkward(), awkward())
    folder = tmp_path / "serving"
    keras_smkd.export(model, folder, what="ensemble", format="onnx")
    x = rng.normal(size=(3, 6, 8)).astype("float32")
    run_artefact = matrix().run_artefact
    (output,) = run_artefact("onnx", folder / "ensemble", [{"inputs": x}])
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow writes ONNX")
def test_onnx_that_no_runtime_would_take_is_an_error(tmp_path):
    needs("onnx")

    def peer():
        inputs = keras.Input((6,))
        hidden = keras.ops.erfinv(keras.ops.tanh(inputs))
        return keras.Model(inputs, keras.layers.Dense(4)(hidden))

    with pytest.raises(RuntimeError, match=r"(?s)'onnx'.*tf_saved_mo.*Erfinv"):
        keras_smkd.export(
            smkd(peer(), peer()), tmp_path / "serving", format="onnx"
        )
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow writes LiteRT")
def test_operations_that_litert_cannot_run_are_an_error(tmp_path):
    def peer():
        # A loop over a list of tensors.
        layers = [keras.Input((6, 2)), keras.layers.LSTM(3)]
        return keras.Sequential([*layers, keras.layers.Dense(4)])

    with pytest.raises(RuntimeError, match=r"'litert'.*'tf_saved_model'"):
        keras_smkd.export(
            smkd(peer(), peer()),
            tmp_path / "serving",
            what="peer_0",
            format="litert",
        )
    assert os.listdir(tmp_path) == []


def test_mixed_precision_becomes_float32_where_it_must(rng):
    def peer():
        layers = [
            keras.Input((6,)),
            keras.layers.Normalization(mean=0.5, variance=2.0),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(4),
        ]
        return keras.Sequential(layers)

    plain = peer()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = peer()
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(plain.get_weights())
    inputs = serving_model.raw_inputs([plain])
    served = [
        serving_model.ServingModel([net], True, inputs)
        for net in (plain, mixed)
    ]
    assert serving_model.in_float32(served[0]) is served[0]
    copy = serving_model.in_float32(served[1])
    x = rng.normal(size=(5, 6)).astype("float32")
    expected, half, full = (
        keras.ops.convert_to_numpy(net(x)["probabilities"])
        for net in (*served, copy)
    )
    assert np.abs(half - expected).max() > 1e-4
    np.testing.assert_allclose(full, expected, rtol=0, atol=1e-6)
    assert mixed.layers[1].compute_dtype == "bfloat16"


# What may be asked for.


@pytest.mark.parametrize(
    ("what", "artefacts"),
    [
        (
            "all",
            {
                "peer_0": [0],
                "peer_1": [1],
                "peer_2": [2],
                "ensemble": [0, 1, 2],
            },
        ),
        ("peers", {"peer_0": [0], "peer_1": [1], "peer_2": [2]}),
        ("ensemble", {"ensemble": [0, 1, 2]}),
        ("peer_1", {"peer_1": [1]}),
        ("best_peer", {"best_peer": [1]}),
    ],
)
def test_what_chooses_the_artefacts(what, artefacts):
    names = ["peer_0", "peer_1", "peer_2"]
    # The first of the best two.
    metrics = {"accuracy": 0.9, "peer_0_accuracy": 0.5}
    metrics |= {"peer_1_accuracy": 0.75, "peer_2_accuracy": 0.75}
    assert chosen_artefacts(what, names, metrics) == artefacts


def test_best_peer_is_written_and_named_in_the_card(trained, tmp_path, written):
    keras_smkd.export(
        trained.model,
        tmp_path / "serving",
        what="best_peer",
        metrics={"peer_0_acc": 0.25, "peer_1_acc": np.float32(0.5)},
    )
    assert written.keys() == {"best_peer"}
    assert written["best_peer"].peers == [trained.model.peers[1]]
    card = json.loads((tmp_path / "serving" / "model_card.json").read_text())
    assert card["artefacts"][0]["peers"] == ["peer_1"]
    assert card["metrics"] == {"peer_0_acc": 0.25, "peer_1_acc": 0.5}


def unfitting():
    return keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(2.0)])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"what": "both"}, ValueError, "`what` must be one of 'all'.*'both'"),
        ({"what": "peer_2"}, ValueError, "`what` must be .*'peer_1'.*'peer_2'"),
        ({"format": "pb"}, ValueError, "`format` must be .*'litert'.*'pb'"),
        (
            {"what": "best_peer"},
            ValueError,
            "`metrics` must hold .*Received: m",
        ),
        (
            {"what": "best_peer", "metrics": {"peer_1_accuracy": 0.5}},
            ValueError,
            "`metrics` must hold the accuracy.*without peer_0_accuracy",
        ),
        (
            {"what": "best_peer", "metrics": {"loss": 0.5}},
            ValueError,
            r"names \['loss'\].*name the peer: what='peer_0'",
        ),
        (
            {"metrics": {"loss": float("nan")}},
            ValueError,
            r"`metrics\['loss'\]` must be a finite number.*nan",
        ),
        ({"metrics": [0.5]}, TypeError, "`metrics` must be a dict from names"),
        ({"metrics": {"loss": "1"}}, TypeError, "must be a number.*type str"),
        (
            {"noise": {"rate": float("inf")}},
            TypeError,
            "`noise` must hold only finite numbers.*inf",
        ),
        ({"noise": "40 %"}, TypeError, "`noise` must be a dict.*recipe.*str"),
        ({"class_names": "abcd"}, TypeError, "`class_names` must be a list of"),
        (
            {"class_names": [1, 2, 3, 4]},
            TypeError,
            "`class_names` must be a li",
        ),
        (
            {"class_names": ["a", "b"]},
            ValueError,
            "`class_names` must be 4 different names.*Received: 2 names",
        ),
        (
            {"class_names": ["a", "b", "c", "a"]},
            ValueError,
            "must be 4 different names.*4 names, 3 of them different",
        ),
        (
            {"class_names": ["a", "b", "c", "d\n/e"]},
            ValueError,
            r"must each be one line of text.*'d\\n/e'",
        ),
        (
            {"class_names": ["a", "b", "c", "\ud800"]},
            ValueError,
            "one line of text, which UTF-8 can hold",
        ),
        (
            {"preprocessing": lambda x: x},
            TypeError,
            "`preprocessing` must be a Keras layer or model.*function",
        ),
        (
            {"preprocessing": unfitting},
            ValueError,
            r"(?s)`preprocessing` must turn the raw inputs.*\[None, 3\]",
        ),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    arguments, error, message, tmp_path, written
):
    if arguments.get("preprocessing") is unfitting:
        arguments = {"preprocessing": unfitting()}
    with pytest.raises(error, match=message):
        keras_smkd.export(smkd(), tmp_path / "serving", **arguments)
    assert not written
    assert os.listdir(tmp_path) == []


def test_models_that_cannot_be_exported_are_refused(tmp_path, written):
    with pytest.raises(TypeError, match="`model` must be a `keras_smkd"):
        keras_smkd.export(linear(), tmp_path / "serving")

    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="a peer that knows its input shape"):
        keras_smkd.export(
            smkd(Subclassed(), Subclassed()), tmp_path / "serving"
        )
    assert os.listdir(tmp_path) == []


def test_missing_packages_are_named_and_the_formats_that_work(
    tmp_path, monkeypatch
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: (
            None if name in ("tensorflow", "tf2onnx") else found(name, *rest)
        ),
    )
    message = (
        r"(?s)`format` 'onnx' needs tensorflow,.*tf2onnx.*"
        r'pip install "keras-smkd\[serving\]".*'
        + (r"\['torch'\]" if found("torch") else r"\[\]")
    )
    with pytest.raises(ImportError, match=message):
        keras_smkd.export(smkd(), tmp_path / "serving", format="onnx")
    with pytest.raises(ImportError, match=r"keras-smkd\[tensorflow\]"):
        keras_smkd.export(smkd(), tmp_path / "serving")
    assert os.listdir(tmp_path) == []


def test_texts_are_for_saved_models_by_tensorflow():
    assert backends.other_backend("tf_saved_model", True, []) == (
        None if BACKEND == "tensorflow" else "tensorflow"
    )
    with pytest.raises(
        ValueError, match=r"'tf_saved_model' for .* texts.*onnx"
    ):
        backends.other_backend("onnx", True, [])


def test_what_lies_on_an_accelerator_is_written_by_another_process():
    value = types.SimpleNamespace(
        device=types.SimpleNamespace(type="cuda"),
        devices=lambda: [types.SimpleNamespace(platform="gpu")],
    )
    variables = [types.SimpleNamespace(value=value)]
    expected = {
        "tensorflow": (None, "torch"),
        "jax": ("tensorflow", "torch"),
        "torch": ("tensorflow", "torch"),
    }[BACKEND]
    assert expected == tuple(
        backends.other_backend(format, False, variables)
        for format in ("tf_saved_model", "torch")
    )


# What another process needs.


def test_objects_of_the_running_script_are_refused(monkeypatch):
    class OnlyHere(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    peer = keras.Sequential([keras.Input((6,)), OnlyHere()])
    assert process.custom_modules([peer]) == ["test_export"]
    monkeypatch.setattr(OnlyHere, "__module__", "__main__")
    with pytest.raises(ValueError, match="move them into a module"):
        process.custom_modules([peer])


def test_what_another_process_said_is_in_the_error(tmp_path, monkeypatch):
    def run(command, env, **kwargs):
        assert env["KERAS_BACKEND"] != BACKEND
        assert env["CUDA_VISIBLE_DEVICES"] == "-1"
        return types.SimpleNamespace(returncode=1, stderr="no such layer")

    monkeypatch.setattr(formats, "missing_packages", lambda format: [])
    monkeypatch.setattr(process.subprocess, "run", run)
    other = "onnx" if BACKEND == "torch" else "torch"
    with pytest.raises(
        RuntimeError, match=f"(?s)format '{other}'.*process und.*no such layer"
    ):
        keras_smkd.export(smkd(), tmp_path / "serving", format=other)
    assert os.listdir(tmp_path) == []


# Files.


def files_in(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_names_of_models_lead_nowhere(tmp_path, written):
    for name in ("../peer", "a/b"):
        with pytest.raises(ValueError, match="cannot contain character `/`"):
            linear_named(name)
    # Torch refuses the dots.
    name = "peer" if BACKEND == "torch" else ".."
    keras_smkd.export(
        smkd(linear_named(name), linear_named(name)),
        tmp_path / "serving",
        class_names=["../a", "/b", "..", "C:\\c"],
    )
    assert os.listdir(tmp_path) == ["serving"]
    assert sorted(files_in(tmp_path / "serving")) == [
        "README.md",
        "ensemble/stand-in",
        "labels.txt",
        "model_card.json",
        "peer_0/stand-in",
        "peer_1/stand-in",
    ]


def linear_named(name):
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(4)], name=name
    )


# Security.

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}


def unsafe_lines(source):
    """Return what in Python's text could run code that comes from a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        if any(name.split(".")[0] in UNSAFE_MODULES for name in names):
            found.append((node.lineno, "import"))
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if (
            called in UNSAFE_CALLS
            or (called == "np.load" and given.get("allow_pickle") != "False")
            or called == "torch.load"
            or given.get("allow_pickle") == "True"
            or given.get("safe_mode") == "False"
            or called.endswith("enable_unsafe_deserialization")
        ):
            found.append((node.lineno, called))
    return found


def test_nothing_in_the_package_runs_code_from_a_file():
    files = sorted((ROOT / "keras_smkd").rglob("*.py"))
    assert len(files) > 50
    for file in [*files, ROOT / "examples" / "serve.py"]:
        assert unsafe_lines(file.read_text("utf-8")) == [], file


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "keras.saving.load_model(path, safe_mode=False)",
        "keras.config.enable_unsafe_deserialization()",
    ],
)
def test_unsafe_lines_are_found(line):
    assert [number for number, _ in unsafe_lines("x = 1\n" + line)] == [2]
    assert unsafe_lines("np.load(path, allow_pickle=False)") == []
