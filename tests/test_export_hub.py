"""What a model hub gets: the card as a page, and a model by `hf://`."""

import json
import pathlib
import shutil
import types

import keras
import numpy as np
import pytest
from keras.src.saving import saving_lib
from peers import linear

import keras_smkd
from keras_smkd.export import formats
from keras_smkd.export import writers


def smkd(**kwargs):
    return keras_smkd.SelectiveMutualDistillation(
        [linear(), linear()], **kwargs
    )


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Returns `README.md` of an export, in two parts, and the card."""

    def write(model, format, folder, class_names):
        folder.mkdir()

    monkeypatch.setattr(writers, "write", write)
    native = {"torch": "torch"}.get(keras.backend.backend(), "tf_saved_model")
    monkeypatch.setattr(formats, "check_installed", lambda format: None)

    def exported(model=None, **options):
        folder = tmp_path / "serving"
        keras_smkd.export(
            model or smkd(), folder, **{"format": native, **options}
        )
        text = (folder / "README.md").read_text(encoding="utf-8")
        before, front, body = text.split("---\n", 2)
        assert before == ""
        return front, body, json.loads((folder / "model_card.json").read_text())

    return exported


def test_the_page_has_front_matter_that_a_hub_reads(page):
    front, body, card = page(metrics={"accuracy": 0.875, "loss": 0.5})
    matter = dict(line.split(": ", 1) for line in front.splitlines())
    assert {key: json.loads(value) for key, value in matter.items()} == {
        "library_name": "keras_smkd",
        "tags": [
            "keras",
            "classification",
            "noisy-labels",
            "knowledge-distillation",
            card["format"].replace("_", "-"),
        ],
        "metrics": ["accuracy"],
    }
    assert body.startswith("\n# 2 peers that learnt together\n")
    assert "| accuracy | 0.875 |\n| loss | 0.5 |\n" in body
    assert "README.md" in card["files"]


def test_the_page_says_what_the_card_says(page):
    _, body, card = page(
        class_names=["a", "b", "c", "d"], noise={"kind": "by hand"}
    )
    assert f"keras-smkd) {keras_smkd.__version__} on Keras" in body
    for row in card["artefacts"]:
        assert f"| {row['file']} | {', '.join(row['peers'])} |\n" in body
    assert "| inputs | \\[null, 6\\] | float32 |\n" in body
    assert "4 classes, whose names are the lines of `labels.txt`." in body
    # 6 weights for each of 4 classes.
    assert f"| peer_0 | {card['peers'][0]['name']} | Sequential | 24 |" in body
    blocks = [part.split("\n```")[0] for part in body.split("```json\n")[1:]]
    noise, settings = map(json.loads, blocks)
    assert noise == {"kind": "by hand"}
    assert settings == card["distillation"]


def test_the_page_says_what_was_not_given(page):
    front, body, _ = page()
    assert "metrics: []\n" in front
    assert "4 classes, without names." in body
    assert "Nothing was said about noise in the labels." in body
    assert "No metrics were given." in body


def test_names_are_no_markdown_and_no_front_matter(page):
    _, body, _ = page(
        metrics={"a|b": 1.0, "<img src=x>": 2.0, "x\n---\ny": 3.0},
        noise={"kind": "```\n---\n# no heading"},
    )
    assert "| a\\|b | 1.0 |\n" in body
    assert "| \\<img src=x> | 2.0 |\n" in body
    assert "| x --- y | 3.0 |\n" in body
    assert not [line for line in body.splitlines() if line == "# no heading"]
    assert "\n---\n" not in body


class Hub:
    """Stands in for `huggingface_hub`, up to the call of the network."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.calls = []

    def HfApi(self, **library):
        return self

    def create_repo(self, name, exist_ok):
        self.calls.append(("create_repo", name))
        return types.SimpleNamespace(repo_id=name)

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.calls.append(("upload_folder", repo_id))
        shutil.copytree(folder_path, self.folder / repo_id)

    def snapshot_download(self, repo_id, **library):
        self.calls.append(("snapshot_download", repo_id))
        return str(self.folder / repo_id)


def test_a_model_is_saved_to_a_hub_as_keras_does_it(tmp_path, monkeypatch, rng):
    hub = Hub(tmp_path)
    monkeypatch.setattr(saving_lib, "huggingface_hub", hub)
    monkeypatch.chdir(tmp_path)
    model = smkd(target=keras_smkd.targets.TemporalEnsembling(8))
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = rng.normal(size=(8, 6)), rng.integers(0, 4, size=8)
    model.fit(x, y, epochs=2, batch_size=4, verbose=0)
    model.save("hf://somebody/peers")
    assert hub.calls == [
        ("create_repo", "somebody/peers"),
        ("upload_folder", "somebody/peers"),
    ]
    # Nothing is written where the address looks like a path.
    assert [path.name for path in tmp_path.iterdir()] == ["somebody"]
    loaded = keras.saving.load_model("hf://somebody/peers")
    assert hub.calls[2:] == [("snapshot_download", "somebody/peers")]
    assert (loaded.step, loaded.epoch) == (4, 2)
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    # The memory and the optimizers came along: both go on alike.
    for each in (model, loaded):
        each.fit(x, y, initial_epoch=2, epochs=3, shuffle=False, verbose=0)
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
        )


def test_without_the_package_of_the_hub_keras_says_so(monkeypatch):
    monkeypatch.setattr(saving_lib, "huggingface_hub", None)
    with pytest.raises(ImportError, match="install the `huggingface_hub`"):
        smkd().save("hf://somebody/peers")
