"""The Python of the pages is run as a reader would run it, top to bottom."""

import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from thrift import with_torch

import keras_smkd
from keras_smkd import noise

ROOT = pathlib.Path(__file__).resolve().parents[1]


def blocks(language, page="README.md"):
    text = (ROOT / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def run(code, folder):
    """Run Python that chooses a backend, with ours; return what it prints."""
    choice = 'os.environ["KERAS_BACKEND"] = "tensorflow"'
    assert code.count(choice) == 1
    backend = keras.backend.backend()
    code = code.replace(choice, choice.replace("tensorflow", backend))
    if backend == "torch":
        code = "import torch\n" + code
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_python_of_readme_runs(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("tensorflow")  # For the export.
    code = "\n".join(blocks("python"))
    code += "\nprint(probabilities.shape, sorted(each), model.step)"
    # 26 batches of 64 in the one epoch of the last fit.
    closing = "(1797, 10) ['peer_0', 'peer_1'] 26"
    assert run(code, tmp_path)[-1] == closing
    assert sorted(os.listdir(tmp_path / "serving")) == [
        "README.md",
        "ensemble",
        "model_card.json",
        "peer_0",
        "peer_1",
    ]


@with_torch
def test_python_of_the_page_on_choosing_runs(tmp_path):
    pytest.importorskip("sklearn")
    # It goes on where README's quickstart ends.
    pages = [blocks("python")[0], *blocks("python", "docs/choosing.md")]
    code = "\n".join(pages).replace("epochs=60", "epochs=1")
    code += "\nprint(model.step, matrix.shape, loss.name)"
    assert run(code, tmp_path)[-1] == "57 (10, 10) forward_correction"


@pytest.mark.filterwarnings("ignore:builtin type .*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*TreeSpec.*:FutureWarning")
def test_python_of_the_page_on_serving_runs(tmp_path, monkeypatch, rng):
    """Runs what the backend writes itself, with models that need no training.

    The rest is the same calls under another backend.
    """
    written_here = {
        "tensorflow": ("tensorflow", "onnx", "openvino", "litert"),
        "jax": ("tensorflow",),
        "torch": ("torch",),
    }[keras.backend.backend()]
    monkeypatch.chdir(tmp_path)
    names = {
        "keras": keras,
        "keras_smkd": keras_smkd,
        "noisy": noise.NoisyLabels([0, 1], [0, 0], 10, {"kind": "by hand"}),
        "noisy_labels": rng.integers(0, 10, size=8),
        "x": (rng.integers(0, 17, size=(8, 64)) / 16).astype("float32"),
        "model": keras_smkd.SelectiveMutualDistillation(
            [
                keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
                for _ in range(2)
            ]
        ),
    }
    names["model"].compile("adam", "sparse_categorical_crossentropy")
    expected = names["model"].predict(names["x"][:3], verbose=0)
    first, *others = blocks("python", "docs/serving.md")
    assert len(others) == 5
    for block in others:
        package = re.match(r"(?:import|from) (\w+)", block).group(1)
        if not any(name in package for name in written_here):
            continue
        pytest.importorskip(package)
        exec(first + block if package == "tensorflow" else block, names)
        answer = names.pop("probabilities")
        answer = answer.detach() if package == "torch" else answer
        # OpenVINO computes in bfloat16 where the processor does.
        np.testing.assert_allclose(np.asarray(answer), expected, atol=1e-2)


def test_commands_name_files_and_extras_that_there_are():
    commands = "\n".join(blocks("bash"))
    for script in re.findall(r"python (\S+\.py)", commands):
        assert (ROOT / script).is_file(), script
    metadata = (ROOT / "pyproject.toml").read_text()
    for extras in re.findall(r'-e "\.\[(.*?)\]"', commands):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", metadata, re.MULTILINE), extra


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "BUILD_NOTES.md",
        "benchmarks/RESULTS.md",
        "docs/choosing.md",
        "docs/serving.md",
    ],
)
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert ((ROOT / page).parent / link).exists(), link
