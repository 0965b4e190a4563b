"""The Python of docs/, and of CONTRIBUTING, is run as a reader would run it.

A block after `<!-- run on NAME -->` runs where NAME is the backend, one after
`<!-- needs NAME -->` where that is installed, one after
`<!-- not run: reason -->` nowhere.
"""

import importlib.util
import pathlib
import re

import keras
import numpy as np
import pytest
import test_readme
from keras import ops
from peers import linear
from sklearn import datasets
from test_readme import ROOT
from thrift import with_torch

import keras_smkd
from keras_smkd import _checks
from keras_smkd import data
from keras_smkd import noise
from keras_smkd._config import Configured
from keras_smkd.losses import base

# What another test runs, and its name.
RUN_IN_TEST_README = {
    "choosing.md": "test_python_of_the_page_on_choosing_runs",
    "serving.md": "test_python_of_the_page_on_serving_runs",
}
RUN_HERE = ("design.md", "devices.md", "resume.md", "suspects.md")
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>.*?) -->\n+)?```python\n(?P<code>.*?)```", re.DOTALL
)


def marked_blocks(page):
    """Return the Python of a page, each block with the comment before it."""
    text = (ROOT / "docs" / page).read_text()
    assert text.count("```python\n") == len(BLOCK.findall(text))
    return [(found["mark"], found["code"]) for found in BLOCK.finditer(text)]


def is_run(mark):
    """Return whether a block with this comment runs on the present backend."""
    if mark is None:
        return True
    needed = re.fullmatch(r"needs (\w+)", mark)
    if needed:
        return importlib.util.find_spec(needed[1]) is not None
    backend = re.fullmatch("run on (tensorflow|jax|torch)", mark)
    assert backend or re.fullmatch(r"not run: \S.*", mark), mark
    return bool(backend) and backend[1] == keras.backend.backend()


def run_page(page, names, replace=()):
    """Run a page's blocks, one after the other, in one namespace."""
    for mark, code in marked_blocks(page):
        for old, new in replace:
            code = code.replace(old, new)
        if is_run(mark):
            exec(compile(code, page, "exec"), names)
    return names


@pytest.fixture
def reader(rng, tmp_path, monkeypatch):
    """What a reader has before a page begins, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    return {
        "keras": keras,
        "keras_smkd": keras_smkd,
        "data": data,
        "make_peer": linear,
        "x": rng.normal(size=(16, 6)).astype("float32"),
        "noisy_labels": rng.integers(0, 4, size=16),
    }


def test_every_page_with_python_is_run():
    pages = {
        path.name
        for path in (ROOT / "docs").glob("*.md")
        if "```python" in path.read_text()
    }
    assert pages == {*RUN_HERE, *RUN_IN_TEST_README}
    for name in RUN_IN_TEST_README.values():
        assert callable(getattr(test_readme, name))
    for page in RUN_IN_TEST_README:
        assert all(mark is None for mark, _ in marked_blocks(page))


@with_torch
def test_a_part_can_be_written_as_the_page_on_the_design_says(reader):
    names = run_page("design.md", reader)
    batch = keras_smkd.Batch(
        labels=ops.convert_to_tensor([[0.0, 1.0], [1.0, 0.0]]),
        log_probs=ops.log(
            ops.convert_to_tensor(
                [[[0.36, 0.64], [0.75, 0.25]], [[0.36, 0.64], [0.25, 0.75]]]
            )
        ),
    )
    for gate, expected in (
        (names["half_where_they_disagree"], [[0.5, 0.5], [0.5, 0.5]]),
        (names["LikelyLabels"](0.5), [[0.8, 0.5], [0.6, 0.5]]),
    ):
        np.testing.assert_allclose(
            ops.convert_to_numpy(gate(batch)), expected, rtol=1e-6
        )
    assert names["model"].step == 2


@with_torch
def test_a_training_goes_on_as_the_page_on_resuming_says(reader):
    pytest.importorskip("tensorflow", reason="makes a tf.data pipeline")
    model = reader["model"] = keras_smkd.SelectiveMutualDistillation(
        [linear(), linear()]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    reader["train"] = data.from_arrays(
        reader["x"], reader["noisy_labels"], num_classes=4
    )
    # Where the second way begins: after two of the epochs.
    model.fit(reader["x"], reader["noisy_labels"], epochs=2, verbose=0)
    model.save("model.keras")
    names = run_page("resume.md", reader, [("epochs=100", "epochs=4")])
    assert names["model"] is not model
    for trained in (model, names["model"]):
        assert (trained.epoch, trained.step, trained.total_steps) == (4, 4, 4)
    assert keras.saving.load_model("model.keras").epoch == 4


def test_peers_are_distributed_as_the_page_on_devices_says(reader):
    """On what there is, one device as a rule; test_devices has two."""
    if keras.backend.backend() == "tensorflow":
        reader["tf"] = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow", reason="makes a tf.data pipeline")
    reader["train"] = data.make_pipeline(
        reader["x"], reader["noisy_labels"], batch_size=8
    )
    try:
        names = run_page("devices.md", reader, [("epochs=20", "epochs=2")])
    finally:
        if keras.backend.backend() == "jax":
            keras.distribution.set_distribution(None)
    if keras.backend.backend() != "torch":  # It has a script, examples/ddp.py.
        assert names["model"].step == 4


@with_torch
def test_wrong_labels_are_found_as_the_page_on_suspects_says(reader, capsys):
    pytest.importorskip("matplotlib")
    x, clean_labels = datasets.load_digits(return_X_y=True)
    images = (x[:300].reshape(-1, 8, 8, 1) / 16.0).astype("float32")
    noisy = noise.make_noisy(
        clean_labels[:300],
        "symmetric_excluding_true",
        0.3,
        num_classes=10,
        seed=0,
    )

    def make_peer():
        return keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(32, activation="relu"),
                keras.layers.Dense(10),
            ]
        )

    model = keras_smkd.SelectiveMutualDistillation([make_peer(), make_peer()])
    model.compile(
        keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy"
    )
    model.fit(images, noisy.noisy_labels, epochs=25, verbose=0)
    reader |= {
        "model": model,
        "images": images,
        "noisy_labels": noisy.noisy_labels,
        "make_peer": make_peer,
    }
    names = run_page("suspects.md", reader)
    suspects = names["suspects"]
    is_wrong = (noisy.noisy_labels != clean_labels[:300])[suspects.index]
    assert is_wrong[:60].mean() > 0.9
    assert f"{suspects.selected.sum()} of 300 labels" in capsys.readouterr().out
    is_right = names["corrected"] == clean_labels[:300]
    assert is_right.mean() > 1 - is_wrong.mean() + 0.1
    for name in ("suspects.csv", "suspects.png", "noise_matrix.png"):
        assert pathlib.Path(name).stat().st_size > 1000
    if "is_issue" in names:
        assert names["is_issue"][suspects.index][:60].mean() > 0.8
    if "issues" in names:
        assert names["issues"]["is_label_issue"].sum() > 60


@with_torch
def test_parts_can_be_made_as_contributing_says():
    names = {
        "Batch": keras_smkd.Batch,
        "Configured": Configured,
        "_checks": _checks,
        "base": base,
        "corrected_targets": keras_smkd.targets.corrected_targets,
        "keras": keras,
        "np": np,
        "ops": ops,
    }
    for block in test_readme.blocks("python", "CONTRIBUTING.md"):
        exec(block, names)
    tests = [name for name in names if name.startswith("test_")]
    assert len(tests) == 3
    for name in tests:
        names[name]()
    # The gate in a model, and from its configuration.
    gate = names["LabelProbability"](2.0)
    assert gate.from_config(gate.get_config()) == gate
    model = keras_smkd.PeerLearning([linear()], gate=gate)
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    x, y = np.eye(4, 6, dtype="float32"), np.arange(4)
    loss = model.fit(x, y, batch_size=4, verbose=0).history["loss"]
    p = ops.convert_to_numpy(ops.softmax(model.peers[0](x)))[y, y]
    np.testing.assert_allclose(loss, [-np.mean(p**2 * np.log(p))], rtol=1e-5)


@pytest.mark.parametrize(
    "page",
    [*RUN_HERE, "evidence.md", "methods.md"],
)
def test_links_lead_to_files(page):
    text = (ROOT / "docs" / page).read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / "docs" / link).exists(), link


@pytest.mark.parametrize("page", ["README.md", "docs/design.md"])
def test_files_that_the_pages_name_are_there(page):
    text = (ROOT / page).read_text()
    rooms = re.findall(r"`((?:[a-z_]+/)+|(?:[a-z_]+/)*[a-z_]+\.py)`", text)
    assert len(rooms) >= 10
    for room in rooms:
        inside = (ROOT / "keras_smkd" / room, ROOT / room)
        assert any(path.exists() for path in inside), room


# The reference list of the paper on SMKD: its systems, networks and data.
REFERENCES = """
    Arazo 2019, Ba 2014, Bossard 2014, Bucila 2006, Chen 2019, Chung 2020,
    Deng 2009, Furlanello 2018, Gal 2016, Guo 2020, Han 2018, He 2016,
    Hinton 2015, Jiang 2018, Kim 2019, Krizhevsky 2009, Laine 2017, Ma 2020,
    Patrini 2017, Pereyra 2017, Reed 2015, Romero 2015, Szegedy 2016,
    Tanaka 2018, Tarvainen 2017, Wang 2019, Wang 2021, Wu 2021, Xia 2019,
    Xia 2020, Xia 2021, Xu 2019, Yao 2020, Yu 2019, Yuan 2020, Zhang 2018,
    Zhang and Sabuncu 2018
"""


def rows_of_methods():
    """Return the cells of the tables of references, row by row."""
    text = (ROOT / "docs" / "methods.md").read_text()
    rows = re.findall(r"^\| (\w.*?), (\d{4}), (.*?) \|(.*)\|$", text, re.M)
    return [(name, year, code) for name, year, _, code in rows]


def test_the_page_on_methods_names_each_reference():
    found = {
        re.sub(" (et al.|and (?!Sabuncu).*)", "", name) + f" {year}"
        for name, year, _ in rows_of_methods()
    }
    expected = {name.strip() for name in REFERENCES.split(",")}
    assert len(expected) == 37
    # Beyond the list.
    assert found - expected == {"Liu 2020", "Li 2020"}
    assert expected - found == set()


def test_the_page_on_methods_has_every_function_and_no_other():
    text = (ROOT / "docs" / "methods.md").read_text()
    named = set(re.findall(r"methods\.(\w+)", text)) - {"md"}
    functions = {name for name in keras_smkd.methods.__all__ if name.islower()}
    # What `incv` begins with.
    assert named == functions - {"iterative_cross_validation"}
    for dotted in re.findall(r"`keras_smkd\.([\w.]+)", text):
        found = keras_smkd
        for name in dotted.split("."):
            found = getattr(found, name)
