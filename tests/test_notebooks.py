"""The notebooks: stored as they were executed, and executed here once more.

Each has one cell tagged `parameters`, of constants only. A test puts smaller
ones in their place, and runs the cells in order in one namespace.
"""

import ast
import json
import re
import tempfile

import numpy as np
import pytest
from test_readme import ROOT
from thrift import with_torch

from keras_smkd import targets

FOLDER = ROOT / "examples"
ALL = ("images", "table", "texts")
# Of the constants of a notebook: enough to see that every cell does its work,
# and that some label is suspected.
SMALL = {
    "images": {"EPOCHS": 4, "TRAIN_SIZE": 200},
    "table": {"EPOCHS": 2, "TRAIN_SIZE": 100},
    "texts": {"EPOCHS": 15, "TRAIN_SIZE": 1000},
}
NUM_CLASSES = {"images": 10, "table": 2, "texts": 6}
BATCH_SIZE = {"images": 32, "table": 32, "texts": 64}
MOST_BYTES = 300_000


def cells_of(name):
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    return json.loads(text)["cells"]


def code_of(name):
    return [cell for cell in cells_of(name) if cell["cell_type"] == "code"]


def with_parameters(source, values):
    """Return the source of constants with other values for some of them."""
    lines = []
    for node in ast.parse(source).body:
        (target,) = node.targets
        value = values.get(target.id, ast.literal_eval(node.value))
        lines.append(f"{target.id} = {value!r}")
    assert set(values) <= {line.split()[0] for line in lines}
    return "\n".join(lines)


def run(name, **values):
    """Run the code of a notebook with these parameters; return its names."""
    names = {"__name__": "__main__"}
    for cell in code_of(name):
        source = "".join(cell["source"])
        if "parameters" in cell["metadata"].get("tags", ()):
            source = with_parameters(source, values)
        exec(compile(source, f"{name}.ipynb", "exec"), names)
    return names


def test_these_are_all_the_notebooks():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_notebook_is_stored_as_executed_whole_and_in_order(name):
    code = code_of(name)
    counts = [cell["execution_count"] for cell in code]
    assert counts == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    kinds = {output["output_type"] for output in outputs}
    assert "error" not in kinds
    assert {out.get("name", "stdout") for out in outputs} == {"stdout"}
    text = "".join("".join(output.get("text", ())) for output in outputs)
    assert "same as the model: True" in text
    assert "Warning" not in text
    # The list, as a notebook shows it.
    (shown,) = [
        "".join(output["data"]["text/html"])
        for output in outputs
        if "text/html" in output.get("data", {})
    ]
    assert "labels are suspected" in shown
    assert ("<img" in shown) == (name == "images")
    assert (FOLDER / f"{name}.ipynb").stat().st_size < MOST_BYTES


@pytest.mark.parametrize("name", ALL)
def test_notebook_has_one_cell_of_parameters(name):
    tagged = [
        "".join(cell["source"])
        for cell in code_of(name)
        if "parameters" in cell["metadata"].get("tags", ())
    ]
    assert len(tagged) == 1
    assert with_parameters(tagged[0], {}) == tagged[0]
    assert "EPOCHS = 3\n" in with_parameters(tagged[0], {"EPOCHS": 3})
    with pytest.raises(AssertionError):
        with_parameters(tagged[0], {"EPOCH": 3})


def test_only_one_notebook_shows_the_plain_form():
    found = {
        name: sum("gate=None" in "".join(c["source"]) for c in code_of(name))
        for name in ALL
    }
    assert found == {"images": 1, "table": 0, "texts": 0}


@pytest.mark.parametrize("name", ALL)
def test_links_lead_to_files(name):
    text = "\n".join(
        "".join(cell["source"])
        for cell in cells_of(name)
        if cell["cell_type"] == "markdown"
    )
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert links
    for link in links:
        assert (FOLDER / link).exists(), link


@with_torch
@pytest.mark.parametrize("name", ALL)
def test_notebook_goes_from_noisy_labels_to_an_export(
    name, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("tensorflow", reason="loads a SavedModel")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = run(name, **SMALL[name])
    pyplot.close("all")
    folder = names["folder"]
    size, epochs = SMALL[name]["TRAIN_SIZE"], SMALL[name]["EPOCHS"]
    suspects, clean_labels = names["suspects"], names["clean_labels"]

    # Every example is in the list once, and selected ones are corrected.
    assert len(suspects) == size
    assert sorted(suspects.index) == list(range(size))
    assert len((folder / "suspects.csv").read_text().splitlines()) == size + 1
    given = np.empty(size, int)
    given[suspects.index] = suspects.label
    np.testing.assert_array_equal(
        given != names["corrected"],
        suspects.selected[np.argsort(suspects.index)],
    )
    np.testing.assert_array_equal(given != clean_labels, names["is_wrong"])
    assert 0 < names["is_wrong"].mean() < 0.5
    assert names["average_precision"] > names["is_wrong"].mean()

    # Each training was whole, and on the labels that it should be on.
    assert all(len(curve) == epochs for curve in names["curves"].values())
    assert list(names["curves"])[:4] == [
        "one network",
        "independent peers",
        "posterior_smkd",
        "on corrected labels",
    ]
    independent = names["independent"]
    assert independent.knowledge is independent.target is None
    for model in (names["peers"], names["model"]):
        assert isinstance(model.target, targets.PosteriorLabels)
        assert model.target.num_examples == size
        assert model.gate is None
    for model in (independent, names["peers"], names["model"]):
        assert model.step == epochs * -(-size // BATCH_SIZE[name])

    # What is served is what was trained.
    assert {path.name for path in (folder / "export").iterdir()} == {
        "README.md",
        "ensemble",
        "labels.txt",
        "model_card.json",
        "peer_0",
        "peer_1",
    }
    served = names["served_predictions"]
    assert served.shape[1] == NUM_CLASSES[name]
    np.testing.assert_allclose(
        served,
        names["model"].predict(names["test_x"], verbose=0),
        atol=1e-5,
    )
    labels = (folder / "export" / "labels.txt").read_text().split()
    assert names["answer"]["class_name"].numpy().astype(str).tolist() == [
        labels[k] for k in served.argmax(axis=1)
    ]
    printed = capsys.readouterr().out
    assert "same as the model: True" in printed
    assert f"{suspects.selected.mean():.1%} estimated" in printed
