"""CSV files: what their labels are, and which files their paths may name."""

import numpy as np
import pytest

from keras_smkd import data

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    for path in (root / "a.png", root / "deep" / "b.png", tmp_path / "out.png"):
        Image.new("L", (2, 2), 7).save(path)
    return root


def load(folder, labels, path="a.png", **options):
    table = folder / "table.csv"
    lines = [f"{path},{label}\n" for label in labels]
    table.write_text("path,label\n" + "".join(lines), encoding="utf-8")
    return data.load_csv(table, image_size=(2, 2), **options)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["0", "1", "2"], [0, 1, 2]),
        (["0.0", "2.0", "1.0"], [0, 2, 1]),
        (["2.", "1e0", "+0"], [2, 1, 0]),
        (["02", "1", "0"], [2, 1, 0]),
        ([f"{k}.0" for k in range(11)], list(range(11))),
    ],
)
def test_whole_numbers_are_class_ids(folder, labels, expected):
    examples = load(folder, labels)
    assert examples.labels.tolist() == expected
    assert examples.labels.dtype == np.int32
    assert examples.class_names == ()
    assert examples.num_classes == max(expected) + 1


def test_texts_are_classes_in_the_order_of_their_names(folder):
    examples = load(folder, ["dog", " cat", "nan", "dog"])
    assert examples.class_names == ("cat", "dog", "nan")
    assert examples.labels.tolist() == [1, 0, 2, 1]
    # Numbers are names if it is said that labels are.
    examples = load(folder, ["10", "9"], class_names=["9", "10"])
    assert examples.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (["0", "0.5", "1"], r"label='0\.5', in line 3"),
        (["-1", "0", "1"], "label='-1', in line 2"),
        (["0", "1", "-1"], "label='-1', in line 4"),
        (["cat", "0", "1"], "label='cat', in line 2"),
        (["0", "1", "cat"], "label='cat', in line 4"),
        (["0", "", "1"], "label='', in line 3"),
        (["0", "nan", "1"], "label='nan', in line 3"),
        (["0", "1e999", "1"], "label='1e999', in line 3"),
        (["0", "1_0", "1"], "label='1_0', in line 3"),
    ],
)
def test_numbers_and_others_do_not_mix(folder, labels, line):
    with pytest.raises(
        ValueError, match=rf"`label` must be a whole number in .*{line} of .*"
    ):
        load(folder, labels)


def test_paths_stay_inside_the_root(folder, tmp_path):
    for path in ("deep/b.png", "deep/../a.png", str(folder / "a.png")):
        assert len(load(folder, "01", path)) == 2
    (folder / "link").symlink_to(tmp_path)
    (folder / "image.png").symlink_to(tmp_path / "out.png")
    outside = ("../out.png", str(tmp_path / "out.png"), "image.png")
    for path in (*outside, "link/out.png", "../absent.png"):
        with pytest.raises(
            ValueError,
            match=rf"inside the root '.*'{path}', in line 2 of .*table\.csv'",
        ):
            load(folder, "01", path)
        if "absent" not in path:
            examples = load(folder, "01", path, allow_outside_root=True)
            assert examples.images[0] == str(folder / path)
    with pytest.raises(ValueError, match=r"root '.*deep'.*'\.\./a\.png'"):
        load(folder, "01", "../a.png", root=folder / "deep")
    assert len(load(folder, "01", "root/a.png", root=tmp_path)) == 2
    with pytest.raises(TypeError, match="`allow_outside_root` must be True or"):
        load(folder, "01", allow_outside_root="yes")


def test_a_root_behind_a_link(folder, tmp_path):
    (tmp_path / "linked").symlink_to(folder)
    assert len(load(tmp_path / "linked", "01")) == 2


def test_files_that_are_no_tables(folder):
    table = folder / "table.csv"
    for content in (
        b"path,label\n\xff.png,0\n",
        b'path,label\n"%b' % (b"x" * 2**18),
    ):
        table.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"UTF-8\. Received: .*table\.csv'"
        ):
            data.load_csv(table, image_size=(2, 2))
    with pytest.raises(ValueError, match=r"name files\. .*x00.*, in line 2 of"):
        load(folder, "01", "a\0.png")
