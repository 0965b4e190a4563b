"""Files that are cut, damaged or made to hurt: named, and never believed."""

import io
import json
import os
import pickle
import stat
import struct
import zipfile

import numpy as np
import pytest

from keras_smkd import data
from keras_smkd import noise
from keras_smkd.data import cache as cache_module
from keras_smkd.data import files

Image = pytest.importorskip("PIL.Image")


def npy(values=(0, 1), **header):
    """Return an array as NumPy saves it, or with another header."""
    values = np.asarray(values)
    if not header:
        stream = io.BytesIO()
        np.save(stream, values)
        return stream.getvalue()
    described = {
        "descr": values.dtype.str,
        "fortran_order": False,
        "shape": values.shape,
        **header,
    }
    return with_header(repr(described), values.tobytes())


def with_header(text, content=b"", version=b"\x01\x00"):
    text = text.encode().ljust(117) + b"\n"
    return (
        b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + content
    )


def archive(entry, method=zipfile.ZIP_STORED, name="clean_label"):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as made:
        made.writestr(f"{name}.npy", entry)
    return bytearray(stream.getvalue())


def damaged():
    content = archive(npy(np.arange(1000)), zipfile.ZIP_DEFLATED)
    content[100:140] = b"\xff" * 40
    return content


def flipped():
    content = archive(npy(np.arange(1000)))
    content[1000] ^= 1
    return content


def encrypted():
    content = archive(npy())
    # The flag of encryption, where the entry begins and in the list of them.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return content


def unknown_method():
    content = archive(npy())
    content[8] = 99
    content[content.index(b"PK\x01\x02") + 10] = 99
    return content


NPZ = {
    "no array": archive(b"notnpy"),
    "empty entry": archive(b""),
    "only magic": archive(b"\x93NUMPY\x01\x00"),
    "7 TiB": archive(npy(shape=(10**12,))),
    "half there": archive(npy(shape=(4,))),
    "too much": archive(npy(shape=(1,))),
    "negative": archive(npy(shape=(-1,))),
    "negative twice": archive(npy(shape=(-1, -2))),
    "overflow": archive(npy(shape=(2**62, 4))),
    "objects": archive(npy(descr="|O")),
    "pickled": archive(npy(descr="|O")[:128] + pickle.dumps([1, 2])),
    "no dtype": archive(npy(descr="<i0")),
    "nested header": archive(with_header("(" * 4000)),
    "no dictionary": archive(with_header("[1, 2]")),
    "other version": archive(with_header("{}", version=b"\x09\x00")),
    "damaged": damaged(),
    "flipped bit": flipped(),
    "encrypted": encrypted(),
    "unknown method": unknown_method(),
    "cut": archive(npy())[:-30],
    "no archive": bytearray(b"no archive at all"),
    "empty": bytearray(),
    "pickle": bytearray(pickle.dumps({"clean_label": [0, 1]})),
}


@pytest.mark.parametrize("kind", NPZ)
def test_broken_archives_are_named(tmp_path, kind):
    path = tmp_path / "labels.npz"
    path.write_bytes(NPZ[kind])
    for load in (
        lambda: data.load_human_labels(path, "clean_label"),
        lambda: noise.NoisyLabels.load(path),
    ):
        with pytest.raises(
            ValueError, match=r"`path` must be an intact .npz.*labels\.npz'"
        ):
            load()


def test_a_header_is_checked_before_memory_is_set_aside(tmp_path):
    path = tmp_path / "labels.npz"
    path.write_bytes(archive(npy(shape=(10**12,))))
    with pytest.raises(ValueError, match=r"\(1000000000000,\) int64 in 144 by"):
        data.load_human_labels(path, "clean_label")


def test_intact_archives_are_read(tmp_path):
    path = tmp_path / "labels.npz"
    for values in (
        np.arange(1000),
        np.arange(6, dtype=">i2")[::2],
        np.asfortranarray([[0], [1]]),
    ):
        for save in (np.savez, np.savez_compressed):
            save(path, other=[object()], clean_label=values)
            found = data.load_human_labels(path, "clean_label")
            assert found.tolist() == values.ravel().tolist()


def saved(recipe):
    stream = io.BytesIO()
    np.savez(
        stream,
        version=1,
        clean_label=[0, 1],
        noisy_label=[1, 1],
        num_classes=2,
        recipe=recipe,
    )
    return stream.getvalue()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("[" * 100_000, r"whose recipe is JSON.*labels\.npz"),
        ('{"a":' * 100_000, r"whose recipe is JSON.*labels\.npz"),
        ("1" * 10_000, r"whose recipe is JSON.*labels\.npz"),
    ],
)
def test_hostile_recipes_are_named_and_not_repeated(tmp_path, recipe, message):
    path = tmp_path / "labels.npz"
    path.write_bytes(saved(recipe))
    with pytest.raises(ValueError, match=message) as caught:
        noise.NoisyLabels.load(path)
    assert len(str(caught.value)) < 1000


def test_recipes_nested_too_deep():
    recipe = {"kind": "mine"}
    for _ in range(100_000):
        recipe = {"a": recipe}
    with pytest.raises(ValueError, match="`recipe` must not be nested"):
        noise.NoisyLabels([0, 1], [0, 1], 2, recipe)
    while recipe:
        # Or freeing it takes as deep a recursion.
        recipe = recipe.pop("a", None)


# Caches of pixels


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(("a", "a", "b", "b")):
        path = tmp_path / "set" / name / f"{k}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 10 * k).save(path)
    return tmp_path / "set"


def values_of(folder, cache):
    examples = data.load_folder(folder, image_size=(4, 4), channels=1)
    x, _ = data.PipelineSequence(examples, batch_size=4, cache=cache)[0]
    assert x.shape == (4, 4, 4, 1)
    assert (x == x[:, :1, :1]).all()
    return (x[:, 0, 0, 0] * 255).round().astype(int).tolist()


def rewrite(cache, change):
    np.save(cache, change(np.load(cache)))


CACHES = {
    "fewer images": lambda c: rewrite(c, lambda x: x[:1]),
    "more images": lambda c: rewrite(c, lambda x: x[[0, 1, 2, 3, 3]]),
    "other shape": lambda c: rewrite(c, lambda x: x.reshape(4, 2, 8, 1)),
    "other dtype": lambda c: rewrite(c, lambda x: x.astype("float64")),
    "signed": lambda c: rewrite(c, lambda x: x.astype("int8")),
    "objects": lambda c: c.write_bytes(
        npy(np.zeros((4, 4, 4, 1), "u1"), descr="|O")
    ),
    "cut": lambda c: c.write_bytes(c.read_bytes()[:-1]),
    "only a header": lambda c: c.write_bytes(c.read_bytes()[:128]),
    "cut header": lambda c: c.write_bytes(c.read_bytes()[:50]),
    "empty": lambda c: c.write_bytes(b""),
    "nested header": lambda c: c.write_bytes(with_header("(" * 4000)),
    "no array": lambda c: c.write_bytes(b"<html>not found</html>"),
    "an archive": lambda c: c.write_bytes(archive(npy())),
    "gone": lambda c: c.unlink(),
    "note cut": lambda c: c.with_suffix(".json").write_text("{bad"),
    "note empty": lambda c: c.with_suffix(".json").write_text(""),
    "note nested": lambda c: c.with_suffix(".json").write_text("[" * 10**5),
    "note in no UTF-8": lambda c: c.with_suffix(".json").write_bytes(b"\xff{"),
    "note of another version": lambda c: c.with_suffix(".json").write_text(
        c.with_suffix(".json")
        .read_text()
        .replace('"version": 2', '"version": 1')
    ),
}


@pytest.mark.parametrize("kind", CACHES)
def test_broken_caches_are_made_anew(folder, tmp_path, monkeypatch, kind):
    cache = tmp_path / "pixels.npy"
    assert values_of(folder, cache) == [0, 10, 20, 30]
    CACHES[kind](cache)
    decoded = []
    decode = files.decode
    monkeypatch.setattr(
        files, "decode", lambda *a: decoded.append(a) or decode(*a)
    )
    assert values_of(folder, cache) == [0, 10, 20, 30]
    assert len(decoded) == 4
    assert values_of(folder, cache) == [0, 10, 20, 30]
    assert len(decoded) == 4
    assert np.load(cache).shape == (4, 4, 4, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "pixels.json",
        "pixels.npy",
        "set",
    ]


def test_a_cache_knows_files_by_their_time_of_change(folder, tmp_path):
    cache = tmp_path / "pixels.npy"
    path = folder / "a" / "0.bmp"
    os.utime(path, ns=(10**18, 10**18))
    size = path.stat().st_size
    assert values_of(folder, cache) == [0, 10, 20, 30]
    Image.new("L", (4, 4), 99).save(path)
    os.utime(path, ns=(10**18, 10**18 + 1000))
    assert path.stat().st_size == size
    assert values_of(folder, cache) == [99, 10, 20, 30]


@pytest.mark.parametrize("stops_at", ["decoding", "npy", "json"])
def test_a_cache_that_was_not_finished_is_not_believed(
    folder, tmp_path, monkeypatch, stops_at
):
    cache = tmp_path / "pixels.npy"
    assert values_of(folder, cache) == [0, 10, 20, 30]
    Image.new("L", (5, 5), 99).save(folder / "a" / "0.bmp")
    replace = os.replace

    def stop(*arguments):
        raise KeyboardInterrupt

    def replace_some(new, old):
        # The note that vouches for the file is the last of two.
        is_last = str(old).endswith("json") and np.load(cache).max() == 99
        if str(old).endswith("npy") if stops_at == "npy" else is_last:
            stop()
        replace(new, old)

    with monkeypatch.context() as patch:
        if stops_at == "decoding":
            patch.setattr(files, "decode", stop)
        else:
            patch.setattr(cache_module.os, "replace", replace_some)
        with pytest.raises(KeyboardInterrupt):
            values_of(folder, cache)
    assert values_of(folder, cache) == [99, 10, 20, 30]


def test_files_that_are_no_caches_are_left_alone(folder, tmp_path):
    mine = tmp_path / "mine.npy"
    np.save(mine, np.arange(3))
    with pytest.raises(
        ValueError, match=r"mine\.npy', without mine\.json\. Re"
    ):
        values_of(folder, mine)
    assert np.load(mine).tolist() == [0, 1, 2]
    note = tmp_path / "other.json"
    for content in ({"epochs": 3}, [1, 2]):
        note.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"with other\.json of another ki"):
            values_of(folder, tmp_path / "other.npy")
        assert json.loads(note.read_text()) == content
    assert not (tmp_path / "other.npy").exists()


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_replaced_files_keep_their_permissions(folder, tmp_path):
    cache = tmp_path / "pixels.npy"
    values_of(folder, cache)
    note = cache.with_suffix(".json")
    cache.chmod(0o640)
    note.chmod(0o660)
    Image.new("L", (5, 5), 99).save(folder / "a" / "0.bmp")
    assert values_of(folder, cache) == [99, 10, 20, 30]
    assert (mode_of(cache), mode_of(note)) == (0o640, 0o660)
    labels = noise.NoisyLabels([0, 1], [0, 1], 2)
    path = tmp_path / "labels.npz"
    labels.save(path)
    path.chmod(0o600)
    labels.save(path)
    assert mode_of(path) == 0o600


def test_broken_images_of_every_cut(tmp_path):
    for suffix in ("png", "jpg", "gif", "bmp"):
        path = tmp_path / f"x.{suffix}"
        generator = np.random.default_rng(0)
        pixels = generator.integers(0, 256, (24, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
        whole = path.read_bytes()
        broken = 0
        for start in range(0, len(whole), 7):
            changed = bytearray(whole)
            changed[start : start + 5] = b"\xff\x00\xff\x7f\x80"
            for content in (bytes(changed), whole[:start]):
                try:
                    found = files.decode(content, (4, 4, 3), f"x.{suffix}")
                    assert found.shape == (4, 4, 3)
                except ValueError as error:
                    assert f"'x.{suffix}', which cannot be" in str(error)
                    broken += 1
        assert broken > 10
