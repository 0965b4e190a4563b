"""What an export replaces, and what it leaves alone."""

import json
import os
import pathlib

import pytest
from peers import linear

import keras_smkd
from keras_smkd.export import formats
from keras_smkd.export import process
from keras_smkd.export import writers


@pytest.fixture(autouse=True)
def _written(monkeypatch):
    """Stand-ins for the writers: a file and a folder for each artefact."""

    def write(model, format, folder, class_names):
        (folder / "deep" / "empty").mkdir(parents=True)
        (folder / "deep" / "weights").write_text("1")
        (folder / "stand-in").write_text(format)

    def write_elsewhere(models, format, folder, class_names, backend):
        for name, model in models.items():
            write(model, format, folder / name, class_names)

    monkeypatch.setattr(formats, "missing_packages", lambda format: [])
    monkeypatch.setattr(writers, "write", write)
    monkeypatch.setattr(process, "write_elsewhere", write_elsewhere)


def smkd():
    return keras_smkd.SelectiveMutualDistillation([linear(), linear()])


def export(path, **options):
    options = {"what": "ensemble", "overwrite": True, **options}
    keras_smkd.export(smkd(), path, **options)


def files_in(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def card_of(path):
    return json.loads((path / "model_card.json").read_text("utf-8"))


def test_the_card_lists_files_and_folders(tmp_path):
    export(tmp_path / "e", class_names=list("abcd"))
    assert card_of(tmp_path / "e")["files"] == [
        "README.md",
        "ensemble/",
        "ensemble/deep/",
        "ensemble/deep/empty/",
        "ensemble/deep/weights",
        "ensemble/stand-in",
        "labels.txt",
        "model_card.json",
    ]
    # What has gone since is no obstacle.
    (tmp_path / "e" / "labels.txt").unlink()
    export(tmp_path / "e", what="peers")
    assert sorted(os.listdir(tmp_path / "e")) == [
        "README.md",
        "model_card.json",
        "peer_0",
        "peer_1",
    ]


@pytest.mark.parametrize(
    "card",
    [
        '{"model_details": {"name": "made by another toolkit"}}',
        '{"package": "another", "files": ["model_card.json", "thesis.txt"]}',
        '{"package": "keras_smkd"}',
        '{"package": "keras_smkd", "files": 3}',
        '{"package": "keras_smkd", "files": [["thesis.txt"]]}',
        "[1, 2]",
        "null",
        "",
        "{bad",
        "[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_card_that_is_not_ours_protects_its_folder(tmp_path, card):
    path = tmp_path / "project"
    path.mkdir()
    card = card if isinstance(card, bytes) else card.encode()
    (path / "model_card.json").write_bytes(card)
    (path / "thesis.txt").write_text("precious")
    before = files_in(tmp_path)
    with pytest.raises(
        FileExistsError,
        match=r"`path` must be an earlier .*project', which has no model_card",
    ):
        export(path)
    assert files_in(tmp_path) == before
    assert os.listdir(tmp_path) == ["project"]


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "ensemble/notes.txt", "ensemble/deep/n", "data/", "0/1/"],
)
def test_a_foreign_file_protects_the_export(tmp_path, name):
    path = tmp_path / "serving"
    export(path)
    if name.endswith("/"):
        (path / name).mkdir(parents=True)
    else:
        (path / name).write_text("precious")
    before = files_in(tmp_path)
    found = "0/" if name == "0/1/" else name
    with pytest.raises(
        FileExistsError, match=rf"serving', where '{found}' is not of the exp"
    ):
        export(path, what="peers")
    assert files_in(tmp_path) == before
    assert (path / name).exists()


def test_a_link_in_an_export_protects_it(tmp_path):
    export(tmp_path / "serving")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "x").write_text("kept")
    (tmp_path / "serving" / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError, match="where 'link/' is not of the"):
        export(tmp_path / "serving")
    assert (tmp_path / "precious" / "x").read_text() == "kept"


def test_a_file_that_comes_while_an_export_is_written(tmp_path, monkeypatch):
    path = tmp_path / "serving"
    export(path)
    write = writers.write

    def write_and_disturb(model, format, folder, class_names):
        write(model, format, folder, class_names)
        (path / "notes.txt").write_text("precious")

    def elsewhere(models, format, folder, class_names, backend):
        for name, model in models.items():
            write_and_disturb(model, format, folder / name, class_names)

    monkeypatch.setattr(writers, "write", write_and_disturb)
    monkeypatch.setattr(process, "write_elsewhere", elsewhere)
    before = files_in(path)
    with pytest.raises(FileExistsError, match=r"where 'notes\.txt' is not of"):
        export(path, what="peers")
    assert files_in(path) == {**before, "notes.txt": b"precious"}
    assert os.listdir(tmp_path) == ["serving"]


def test_a_file_is_no_earlier_export(tmp_path):
    path = tmp_path / "serving"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="`path` must be an earlier exp"):
        export(path)
    assert path.read_text() == "precious"


def test_permissions_are_kept(tmp_path):
    path = tmp_path / "serving"
    export(path)
    modes = {
        ".": 0o750,
        "model_card.json": 0o640,
        "ensemble": 0o710,
        "ensemble/deep/weights": 0o600,
    }
    for name, mode in modes.items():
        (path / name).chmod(mode)
    export(path, format="onnx")
    assert card_of(path)["format"] == "onnx"
    assert {
        name: (path / name).stat().st_mode & 0o777 for name in modes
    } == modes
    assert sorted(os.listdir(tmp_path)) == ["serving"]


def test_export_replaces_only_exports_and_only_if_asked(tmp_path):
    path = tmp_path / "serving"
    path.mkdir()
    (path / "precious").write_text("kept")
    with pytest.raises(FileExistsError, match="`path` must not exist yet"):
        keras_smkd.export(smkd(), path)
    with pytest.raises(FileExistsError, match="`path` must be an earlier expo"):
        keras_smkd.export(smkd(), path, overwrite=True)
    assert files_in(tmp_path) == {"serving/precious": b"kept"}
    path = tmp_path / "export"
    keras_smkd.export(smkd(), path)
    with pytest.raises(FileExistsError, match="`path` must not exist yet"):
        keras_smkd.export(smkd(), path, what="ensemble")
    assert (path / "peer_0").is_dir()
    keras_smkd.export(smkd(), path, what="ensemble", overwrite=True)
    assert sorted(os.listdir(path)) == [
        "README.md",
        "ensemble",
        "model_card.json",
    ]
    assert sorted(os.listdir(tmp_path)) == ["export", "serving"]


def test_export_through_a_link_replaces_what_it_leads_to(tmp_path):
    keras_smkd.export(smkd(), tmp_path / "first")
    (tmp_path / "current").symlink_to(tmp_path / "first")
    keras_smkd.export(
        smkd(), tmp_path / "x" / ".." / "current", what="peers", overwrite=True
    )
    assert sorted(os.listdir(tmp_path / "first")) == [
        "README.md",
        "model_card.json",
        "peer_0",
        "peer_1",
    ]
    assert (tmp_path / "current").is_symlink()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failed_export_changes_nothing(overwrite, tmp_path, monkeypatch):
    path = tmp_path / "serving"
    if overwrite:
        keras_smkd.export(smkd(), path)
    before = files_in(tmp_path)
    write = writers.write

    def fails_at_the_second(model, format, folder, class_names):
        write(model, format, folder, class_names)
        if folder.name == "peer_1":
            raise OSError("disk full")

    def elsewhere(models, format, folder, class_names, backend):
        for name, model in models.items():
            fails_at_the_second(model, format, folder / name, class_names)

    monkeypatch.setattr(writers, "write", fails_at_the_second)
    monkeypatch.setattr(process, "write_elsewhere", elsewhere)
    with pytest.raises(RuntimeError, match=r"could not be writt.*disk full"):
        keras_smkd.export(smkd(), path, overwrite=overwrite)
    assert files_in(tmp_path) == before
    assert os.listdir(tmp_path) == (["serving"] if overwrite else [])


def test_the_earlier_export_is_back_if_the_last_step_fails(
    tmp_path, monkeypatch
):
    path = tmp_path / "serving"
    keras_smkd.export(smkd(), path)
    before = files_in(tmp_path)
    rename = pathlib.Path.rename

    def no_place_for_the_new(self, target):
        if self.name == "new":
            raise OSError("device busy")
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", no_place_for_the_new)
    with pytest.raises(OSError, match="device busy"):
        keras_smkd.export(smkd(), path, what="ensemble", overwrite=True)
    assert files_in(tmp_path) == before
    assert os.listdir(tmp_path) == ["serving"]

    def nothing_comes_back(self, target):
        if ".export-" in str(self):
            raise OSError("device busy")
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", nothing_comes_back)
    with pytest.raises(OSError, match="device busy"):
        keras_smkd.export(smkd(), path, what="ensemble", overwrite=True)
    (aside,) = os.listdir(tmp_path)
    assert files_in(tmp_path / aside) == before
