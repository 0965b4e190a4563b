"""README's Python is run as a reader would run it, from top to bottom."""

import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def blocks(language):
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_python_blocks_run(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("tensorflow")  # For the export.
    code = "\n".join(blocks("python"))
    choice = 'os.environ["KERAS_BACKEND"] = "tensorflow"'
    assert code.count(choice) == 1
    backend = keras.backend.backend()
    code = code.replace(choice, choice.replace("tensorflow", backend))
    code += "\nprint(probabilities.shape, sorted(each), model.step)"
    if backend == "torch":
        code = "import torch\n" + code
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # 57 batches of 32 in the one epoch of the last fit.
    closing = "(1797, 10) ['peer_0', 'peer_1'] 57"
    assert done.stdout.splitlines()[-1] == closing
    assert sorted(os.listdir(tmp_path / "serving")) == [
        "ensemble",
        "peer_0",
        "peer_1",
    ]


def test_commands_name_files_and_extras_that_there_are():
    commands = "\n".join(blocks("bash"))
    for script in re.findall(r"python (\S+\.py)", commands):
        assert (ROOT / script).is_file(), script
    metadata = (ROOT / "pyproject.toml").read_text()
    for extras in re.findall(r'-e "\.\[(.*?)\]"', commands):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", metadata, re.MULTILINE), extra


def test_links_lead_to_files():
    text = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / link).exists(), link


def test_notebook_is_executed_whole_and_in_order():
    text = (ROOT / "examples" / "noisy_labels.ipynb").read_text()
    cells = json.loads(text)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in code]
    assert counts == list(range(1, len(code) + 1))
    kinds = {out["output_type"] for cell in code for out in cell["outputs"]}
    assert "error" not in kinds
    assert "display_data" in kinds
    for cell in code:
        compile("".join(cell["source"]), "noisy_labels.ipynb", "exec")
