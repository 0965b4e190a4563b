"""The command: from files with wrong labels to the list of them."""

import csv
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from absl import flags
from sklearn import datasets
from thrift import with_torch

from keras_smkd import __main__ as command

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")
RESULTS = [
    "class_names.txt",
    "corrected_labels.csv",
    "history.png",
    "model.keras",
    "noise_matrix.png",
    "report.csv",
    "suspects.png",
]
SIZE = 200


@pytest.fixture
def digits():
    """Images, labels of which every fifth is wrong, and where."""
    x, y = datasets.load_digits(n_class=3, return_X_y=True)
    images = (x[:SIZE] * 15.9).astype("uint8").reshape(-1, 8, 8)
    is_wrong = np.arange(SIZE) % 5 == 0
    labels = np.where(is_wrong, (y[:SIZE] + 1) % 3, y[:SIZE])
    return images, labels, is_wrong


def make_folder(root, images, labels):
    from PIL import Image

    for k, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / f"digit {label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{k}.png")


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(name, **values):
    """Run a command in this process, with these flags."""
    options = flags.FlagValues()
    command.define_flags(options)
    options(["keras_smkd"])
    for flag, value in {"progress_bar": False, **values}.items():
        setattr(options, flag, value)
    command.main(["keras_smkd", name], options)


@with_torch
def test_a_folder_becomes_a_list_of_suspects(digits, tmp_path, capsys):
    images, labels, is_wrong = digits
    make_folder(tmp_path / "images", images, labels)
    given = {
        "folder": str(tmp_path / "images"),
        "out": str(tmp_path / "results"),
        "image_size": 8,
        "channels": "1",
        "epochs": 12,
        "batch_size": 20,
    }
    run("train", **given)
    results = tmp_path / "results"
    assert sorted(os.listdir(results)) == RESULTS
    shown = capsys.readouterr().out
    assert "epoch 1 of 12 done, " in shown and "epoch 12 of" not in shown
    assert f"of {SIZE} labels are suspected" in shown
    number = lambda row: int(pathlib.Path(row["path"]).stem)  # noqa: E731
    report = rows_of(results / "report.csv")
    assert sorted(map(number, report)) == list(range(SIZE))
    first = [is_wrong[number(row)] for row in report[:30]]
    assert np.mean(first) > 0.5
    names = (results / "class_names.txt").read_text().splitlines()
    assert names == ["digit 0", "digit 1", "digit 2"]
    by_number = {number(row): row for row in report}
    for row in rows_of(results / "corrected_labels.csv"):
        there = by_number[number(row)]
        assert row["was"] == f"digit {labels[number(row)]}"
        selected = there["selected"] == "True"
        assert (
            row["label"]
            == there["suggestion_name" if selected else "label_name"]
        )
    model = keras.saving.load_model(results / "model.keras")
    assert (model.epoch, model.num_peers) == (12, 2)
    # What is there is not replaced unless asked for.
    before = (results / "report.csv").read_bytes()
    with pytest.raises(SystemExit, match="must be a folder without results"):
        run("train", **given)
    run("train", **{**given, "epochs": 1}, overwrite=True)
    assert (results / "report.csv").read_bytes() != before
    assert sorted(os.listdir(results)) == RESULTS


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="test_export has what others write",
)
def test_arrays_and_their_model_for_serving(digits, tmp_path):
    tf = pytest.importorskip("tensorflow")
    images, labels, _ = digits
    np.savez(tmp_path / "digits.npz", x=images, y=labels)
    run(
        "train",
        npz=str(tmp_path / "digits.npz"),
        out=str(tmp_path),
        epochs=1,
        peers=3,
    )
    report = rows_of(tmp_path / "report.csv")
    assert {int(row["index"]) for row in report} == set(range(SIZE))
    corrected = rows_of(tmp_path / "corrected_labels.csv")
    assert [int(row["index"]) for row in corrected] == list(range(SIZE))
    assert [int(row["was"]) for row in corrected] == labels.tolist()
    path = str(tmp_path / "serving")
    run("export", model=str(tmp_path / "model.keras"), out=path)
    assert {"ensemble", "peer_0", "peer_1", "peer_2"} < set(os.listdir(path))
    assert pathlib.Path(path, "labels.txt").read_text().split() == list("012")
    served = tf.saved_model.load(f"{path}/ensemble").signatures[
        "serving_default"
    ](inputs=tf.constant(images[:4, :, :, None]))["probabilities"]
    model = keras.saving.load_model(tmp_path / "model.keras")
    expected = model.predict(images[:4, :, :, None] / 255.0, verbose=0)
    np.testing.assert_allclose(served.numpy(), expected, atol=1e-5)


@with_torch
def test_a_csv_file_names_the_images(digits, tmp_path):
    images, labels, _ = digits
    make_folder(tmp_path, images, labels)
    lines = [
        f"digit {label}/{k}.png,{'abc'[label]}"
        for k, label in enumerate(labels)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *lines]))
    out = tmp_path / "out"
    run("train", csv=str(tmp_path / "labels.csv"), out=str(out), epochs=1)
    assert (out / "class_names.txt").read_text() == "a\nb\nc\n"
    assert {row["label_name"] for row in rows_of(out / "report.csv")} == set(
        "abc"
    )


def wrong_folder(tmp_path):
    """A folder of two classes, one of whose images is cut."""
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pixels = np.arange(1024, dtype="uint8").reshape(32, 32)
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
    file = tmp_path / "b" / "0.png"
    file.write_bytes(file.read_bytes()[:-40])


def one_class(tmp_path):
    wrong_folder(tmp_path)
    for file in (tmp_path / "b").iterdir():
        file.unlink()
    (tmp_path / "b").rmdir()


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (wrong_folder, {"folder": "."}, r"b/0\.png"),
        (one_class, {"folder": "."}, "two or more classes"),
        (None, {"folder": "nowhere"}, "must be an existing folder"),
        (None, {}, "one of --folder, --csv and --npz. Received: none"),
        (None, {"npz": "a", "csv": "b"}, "Received: --csv, --npz"),
        (None, {"npz": "nothing.npz"}, "`--npz` must be a file"),
        (
            lambda path: np.savez(path / "x.npz", pictures=[1], y=[0]),
            {"npz": "x.npz"},
            "images and labels, or x and y. Received: pictures, y",
        ),
        (
            lambda path: (path / "x.npz").write_bytes(b"PK no"),
            {"npz": "x.npz"},
            "must be an intact .npz file",
        ),
        (
            lambda path: (path / "x.csv").write_text("path,name\na.png,b\n"),
            {"csv": "x.csv"},
            "label",
        ),
        (None, {"folder": ".", "out": None}, "`--out` must be given"),
        (
            lambda path: (path / "taken").write_text(""),
            {"folder": ".", "out": "taken"},
            "`--out` must be a folder. Received: taken, a file",
        ),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(
    make, given, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if make is not None:
        make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        run("train", **{"out": "results", **given})
    assert sorted(tmp_path.rglob("*")) == before


def test_pictures_are_missed_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit, match=r"keras-smkd\[pictures\]"):
        run("train", folder="nowhere", out=str(tmp_path / "results"))
    assert not (tmp_path / "results").exists()


def test_wrong_models_to_export(tmp_path):
    with pytest.raises(SystemExit, match="`--model` and `--out` must be given"):
        run("export", out=str(tmp_path))
    with pytest.raises(SystemExit, match="`--model` must be a file of `train`"):
        run("export", out=str(tmp_path), model=str(tmp_path / "no.keras"))


@with_torch
def test_its_help_and_an_unknown_command():
    for arguments, word in ((["--help"], "--image_size"), (["fly"], "one of")):
        done = subprocess.run(
            [sys.executable, "-m", "keras_smkd", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == 1
        assert word in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (20, "less than a minute left"),
        (119, "about 2 min left"),
        (3540, "about 59 min left"),
        (3660, "about 1 h 1 min left"),
    ],
)
def test_what_remains_is_said_in_words(seconds, words):
    assert command.remaining(seconds) == words


@with_torch
def test_a_network_of_keras_cv_needs_no_download_and_no_keras_cv_to_load(
    tmp_path, monkeypatch
):
    pytest.importorskip("keras_cv")
    peer = command.make_peer("resnet18", (32, 32, 3), 3)
    assert peer.output_shape == (None, 3)
    # 11.2 million weights, as the network of that name without its head.
    assert 11.1e6 < peer.count_params() < 11.3e6
    layers = {type(layer).__module__ for layer in peer.layers[1].layers}
    assert all(name.startswith("keras.") for name in layers), layers
