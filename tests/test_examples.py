"""The examples, run as a user runs them: a process each."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
BACKEND = keras.backend.backend()
EPOCHS = 3
SMALL = [
    "--train_size=128",
    "--test_size=128",
    f"--epochs={EPOCHS}",
    "--method=smkd_p",
    "--target=proselflc",
]


def command(name, *arguments):
    return [sys.executable, str(ROOT / "examples" / name), *arguments]


def settings(folder):
    """Where and with what environment an example runs."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": BACKEND,
        "PYTHONPATH": str(ROOT),
        # JAX compiles once for all processes of a session.
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "jax"),
    }
    return {"cwd": folder, "env": environment, "text": True}


def run(folder, name, *arguments):
    return subprocess.run(
        command(name, *arguments), capture_output=True, **settings(folder)
    )


def rows(run_dir):
    """Return the lines of a run's log, without what no two runs share."""
    with open(run_dir / "log.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        assert float(line.pop("seconds")) > 0
    return lines


def test_quickstart_compares_four_methods(tmp_path):
    done = run(tmp_path, "quickstart.py", "--epochs=2", "--figure=course.png")
    assert done.returncode == 0, done.stderr
    for method in ("independent", "all knowledge", "SMKD-S", "SMKD-P"):
        (row,) = [x for x in done.stdout.splitlines() if x.startswith(method)]
        assert row.count("(") == 3
    assert (tmp_path / "course.png").read_bytes().startswith(b"\x89PNG")


def refusal(done):
    """Return the sentence with which an example ended."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr.splitlines()[-1]


def test_cifar_without_data_says_what_to_do(tmp_path):
    done = run(tmp_path, "cifar.py", "--data_dir=nothing")
    assert refusal(done).startswith("No prepared data set 'cifar10' in")
    assert "`data_dir`" in refusal(done)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def data_dir(shared_dir):
    folder = shared_dir / "data" / "tfds"
    if not (folder / "cifar10").is_dir():
        pytest.skip("needs CIFAR-10, prepared by TFDS, in shared/data/tfds")
    return f"--data_dir={folder}"


@pytest.fixture(scope="module")
def whole_run(data_dir, tmp_path_factory):
    """A run without interruption: the finished process and its folder."""
    folder = tmp_path_factory.mktemp("cifar")
    done = run(folder, "cifar.py", data_dir, "--run_dir=whole", *SMALL)
    assert done.returncode == 0, done.stderr
    return done, folder / "whole"


def test_cifar_logs_draws_and_prints_the_run(whole_run):
    done, run_dir = whole_run
    assert "128 images of cifar10" in done.stdout
    (row,) = [x for x in done.stdout.splitlines() if x.startswith("smkd_p")]
    assert row.count("(") == 3
    assert {path.name for path in run_dir.iterdir()} == {
        "log.csv",
        "model.keras",
        "run.png",
        "settings.json",
    }
    assert (run_dir / "run.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run_dir / "settings.json").read_text())["seed"] == 0
    log = rows(run_dir)
    assert [line["epoch"] for line in log] == ["0", "1", "2"]
    for name in ("val_peer_1_accuracy", "memorization", "selection_rate"):
        assert 0 <= float(log[-1][name]) <= 1


def test_cifar_killed_and_resumed_ends_as_if_it_had_not_been(
    whole_run, data_dir, tmp_path
):
    arguments = (data_dir, "--run_dir=cut", *SMALL)
    with subprocess.Popen(
        command("cifar.py", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        **settings(tmp_path),
    ) as process:
        # The line tells that the epoch is saved.
        assert any(line.startswith("epoch 1/") for line in process.stdout)
        process.kill()
    done = run(tmp_path, "cifar.py", *arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert "epoch 1/" not in done.stdout
    assert f"epoch {EPOCHS}/{EPOCHS}" in done.stdout
    assert rows(tmp_path / "cut") == rows(whole_run[1])


def test_cifar_resumes_only_the_same_run(whole_run):
    _, run_dir = whole_run
    arguments = (f"--run_dir={run_dir}", *SMALL)
    again = refusal(run(run_dir, "cifar.py", *arguments))
    assert "is not empty: give --resume" in again
    other = run(run_dir, "cifar.py", *arguments, "--resume", "--seed=1")
    assert refusal(other).endswith("differs in seed (0 there, 1 here).")
    nowhere = refusal(run(run_dir, "cifar.py", *SMALL, "--resume"))
    assert nowhere.startswith("--resume needs the folder of the run")
