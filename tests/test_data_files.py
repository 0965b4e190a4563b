"""Images in files: folders, CSV files, decoding, and the cache."""

import itertools
import json
import os

import numpy as np
import pytest

from keras_smkd import data
from keras_smkd.data import files

tf = pytest.importorskip("tensorflow")
Image = pytest.importorskip("PIL.Image")


def write(path, value, size=(4, 4), mode="RGB"):
    """Write an image filled with one value; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode == "L" else (value,) * 3
    Image.new(mode, size, colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three classes, three images each, of four formats; image n is n."""
    root = tmp_path / "set"
    values = itertools.count(10, 10)
    for name in ("cat", "ant", "bee"):
        for file in ("b.png", "a.bmp", "deep/c.gif"):
            write(root / name / file, next(values))
    (root / ".hidden").mkdir()
    (root / "cat" / ".DS_Store").write_text("")
    return root


def filled(examples, **options):
    """Return the images' values, in order, times 255."""
    dataset = data.make_pipeline(examples, batch_size=2, **options)
    values = []
    for x, _ in dataset:
        assert x.shape[1:] == examples.image_shape
        assert np.all(x == x[:, :1, :1, :1])
        values += (x.numpy()[:, 0, 0, 0] * 255).round().astype(int).tolist()
    return values


@pytest.mark.parametrize("cache", ["auto", "none", "memory"])
def test_folder(folder, cache):
    examples = data.load_folder(folder, image_size=(2, 3), verify=True)
    assert examples.class_names == ("ant", "bee", "cat")
    assert examples.num_classes == 3
    assert examples.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert examples.index.tolist() == list(range(9))
    assert examples.are_files
    assert examples.image_shape == (2, 3, 3)
    names = [os.path.basename(path) for path in examples.images]
    assert names == ["a.bmp", "b.png", "c.gif"] * 3
    # ant was written second: b.png, a.bmp, c.gif are 40, 50, 60.
    expected = [50, 40, 60, 80, 70, 90, 20, 10, 30]
    assert filled(examples, cache=cache) == expected
    assert filled(examples.take([8, 0]), cache=cache) == [30, 50]
    batches = data.PipelineSequence(examples, batch_size=9, cache=cache)
    x, y = batches[0]
    assert (x[:, 0, 0, 0] * 255).round().astype(int).tolist() == expected
    assert y.tolist() == examples.labels.tolist()


def test_folder_errors(folder, tmp_path):
    options = {"image_size": (4, 4)}
    with pytest.raises(NotADirectoryError, match="`path` must be an existing"):
        data.load_folder(tmp_path / "none", **options)
    with pytest.raises(ValueError, match=r"two or more.*cat', with 1\."):
        data.load_folder(folder / "cat", **options)
    with pytest.raises(TypeError, match=r"pair \(height, width\).*=8"):
        data.load_folder(folder, image_size=8)
    with pytest.raises(ValueError, match="`image_size` must be an integer >="):
        data.load_folder(folder, image_size=(0, 4))
    with pytest.raises(ValueError, match=r"1, 3 or 4.*channels=2"):
        data.load_folder(folder, channels=2, **options)
    notes = folder / "cat" / "notes.txt"
    notes.write_text("no image")
    with pytest.raises(ValueError, match=r"\.gif files.*cat/notes\.txt'"):
        data.load_folder(folder, **options)
    notes.unlink()
    (folder / "dog").mkdir()
    with pytest.raises(ValueError, match=r"every class.*empty folder '.*dog'"):
        data.load_folder(folder, **options)


def test_corrupt_images_are_named(folder):
    fake = folder / "cat" / "d.jpg"
    fake.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"cat/d\.jpg', which begins with b'<"):
        data.load_folder(folder, image_size=(4, 4))
    fake.write_bytes(b"")
    with pytest.raises(ValueError, match=r"cat/d\.jpg', which begins with b''"):
        data.load_folder(folder, image_size=(4, 4))
    # Right at the beginning, cut off later.
    write(fake, 7, (64, 64))
    fake.write_bytes(fake.read_bytes()[:-200])
    examples = data.load_folder(folder, image_size=(4, 4))
    message = r"intact images.*cat/d\.jpg', which cannot be decoded"
    with pytest.raises(ValueError, match=message):
        data.load_folder(folder, image_size=(4, 4), verify=True)
    # With a cache, before training starts; without, when its turn comes.
    with pytest.raises(ValueError, match=message):
        data.make_pipeline(examples, batch_size=2)
    dataset = data.make_pipeline(examples, batch_size=2, cache="none")
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        list(dataset)
    with pytest.raises(ValueError, match=message):
        list(data.PipelineSequence(examples, batch_size=2, cache="none"))


def test_decoding_cuts_and_resizes(tmp_path):
    # Left and right quarter black: cut off when a square is wanted.
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = [10, 20, 30]
    path = str(tmp_path / "wide.png")
    Image.fromarray(wide).save(path)
    np.testing.assert_array_equal(files.decode(path, (4, 8, 3)), wide)
    square = files.decode(path, (4, 4, 3))
    np.testing.assert_array_equal(square, wide[:, 2:6])
    tall = files.decode(path, (4, 2, 3))
    np.testing.assert_array_equal(tall, wide[:, 3:5])
    grey = files.decode(path, (4, 4, 1))
    assert grey.shape == (4, 4, 1)
    # 0.299 * 10 + 0.587 * 20 + 0.114 * 30
    assert np.all(grey == 18)
    content = (tmp_path / "wide.png").read_bytes()
    np.testing.assert_array_equal(files.decode(content, (4, 4, 3)), square)


def test_cache_in_a_file(folder, tmp_path, monkeypatch):
    examples = data.load_folder(folder, image_size=(2, 2))
    expected = filled(examples, cache="none")
    path = tmp_path / "pixels.npy"
    assert filled(examples, cache=path) == expected
    stored = np.load(path)
    assert stored.shape == (9, 2, 2, 3) and stored.dtype == np.uint8
    decoded = []
    monkeypatch.setattr(
        files, "decode", lambda *a: decoded.append(a) or np.zeros((2, 2, 3))
    )
    # From the file, in another process as well: nothing is decoded.
    assert filled(examples, cache=str(path)) == expected
    assert not decoded
    # Other files: made anew.
    assert filled(examples.take([1, 0]), cache=path) == [0, 0]
    assert len(decoded) == 2
    monkeypatch.undo()
    assert filled(examples, cache=path) == expected
    # A file that has changed.
    write(folder / "ant" / "a.bmp", 99, (5, 5))
    assert filled(examples, cache=path) == [99, *expected[1:]]
    assert "sha256" in json.loads(path.with_suffix(".json").read_text())
    assert not path.with_suffix(".partial").exists()
    with pytest.raises(ValueError, match=r"ends in \.npy.*cache='memry'"):
        data.make_pipeline(examples, batch_size=2, cache="memry")


def test_the_cache_is_chosen_by_size(folder, monkeypatch):
    examples = data.load_folder(folder, image_size=(2, 2))
    arguments = (examples.images, examples.image_shape, "auto")
    assert isinstance(files.open_files(*arguments), np.ndarray)
    monkeypatch.setattr(files, "MEMORY_LIMIT", 9 * 12)
    assert isinstance(files.open_files(*arguments), np.ndarray)
    monkeypatch.setattr(files, "MEMORY_LIMIT", 9 * 12 - 1)
    assert isinstance(files.open_files(*arguments), files.FileReader)


def table(folder, *lines, header="path,label"):
    path = folder / "table.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_csv_with_names(folder):
    path = table(folder, "cat/b.png,cat", "bee/a.bmp,bee", "cat/a.bmp,cat")
    examples = data.load_csv(path, image_size=(2, 2))
    assert examples.class_names == ("bee", "cat")
    assert examples.labels.tolist() == [1, 0, 1]
    assert filled(examples) == [10, 80, 20]
    ordered = data.load_csv(
        path, image_size=(2, 2), class_names=["cat", "bee"], channels=1
    )
    assert ordered.labels.tolist() == [0, 1, 0]
    assert ordered.image_shape == (2, 2, 1)


def test_csv_with_integers(folder, tmp_path):
    path = table(
        tmp_path,
        '7,1,"b.png"',
        "8,0,a.bmp",
        header="other,target,file",
    )
    examples = data.load_csv(
        path,
        image_size=(2, 2),
        root=folder / "cat",
        path_column="file",
        label_column="target",
    )
    assert examples.num_classes == 2
    assert examples.class_names == ()
    assert examples.labels.tolist() == [1, 0]
    assert filled(examples) == [10, 20]


@pytest.mark.parametrize(
    ("lines", "options", "error", "message"),
    [
        (["x.png,1"], {}, FileNotFoundError, r"x\.png', in line 2 of '.*csv'"),
        (["cat/b.png,0", ",1"], {}, FileNotFoundError, "in line 3 of"),
        (["cat/b.png,0", "cat/a.bmp,x"], {}, ValueError, r"'x', in line 3"),
        (["cat/b.png,0", "cat/a.bmp,-1"], {}, ValueError, r"'-1', in line 3"),
        (["cat/b.png,0", "cat/a.bmp,"], {}, ValueError, r"label='', in line 3"),
        (
            ["cat/b.png,0", "cat/a.bmp,99999999999"],
            {},
            ValueError,
            "label='99999999999', in line 3",
        ),
        (
            ["cat/b.png,0", "cat/a.bmp,2"],
            {"num_classes": 2},
            ValueError,
            r"\[0, 2\).*'2', in line 3",
        ),
        (["cat/b.png,0"], {"num_classes": 2}, ValueError, "no example of 1"),
        (
            ["cat/b.png,a", "cat/a.bmp,"],
            {},
            ValueError,
            "name of a class.*label='', in line 3",
        ),
        (
            ["cat/b.png,cta"],
            {"class_names": ["cat", "bee"]},
            ValueError,
            r"'cta', in line 2 of .*\. Did you mean 'cat'\?",
        ),
        (
            ["cat/b.png,cat"],
            {"class_names": ["cat", "bee"]},
            ValueError,
            "no example of 'bee'",
        ),
        ([], {}, ValueError, "a line for each image.*with none"),
        (["cat/b.png,0"], {}, ValueError, "`num_classes` must be an integer"),
        (
            ["cat/b.png,0"],
            {"label_column": "target"},
            ValueError,
            r"`label_column` must be one of 'path', 'label'\..*'target'",
        ),
        (
            ["table.csv,0", "cat/b.png,1"],
            {},
            ValueError,
            r"table\.csv', which begins with b'path,lab'",
        ),
    ],
)
def test_csv_errors(folder, lines, options, error, message):
    path = table(folder, *lines)
    with pytest.raises(error, match=message):
        data.load_csv(path, image_size=(2, 2), **options)


def test_absent_csv(tmp_path):
    with pytest.raises(FileNotFoundError, match="`path` must be an existing"):
        data.load_csv(tmp_path / "none.csv", image_size=(2, 2))
