"""Files while the disk is full: what was there is whole, the error says where.

A limit on the size of files stands for the disk: the system calls that write
fail in the same way.
"""

import contextlib
import errno
import os
import stat

import keras
import numpy as np
import pytest
from peers import linear

import keras_smkd
from keras_smkd import noise
from keras_smkd._files import written_whole
from keras_smkd.data import cache

resource = pytest.importorskip("resource", reason="limits are POSIX's")


@contextlib.contextmanager
def files_up_to(size):
    """Let no file become larger than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def model_of_peers():
    model = keras_smkd.PeerLearning([linear(), linear()], knowledge="peers")
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def noisy_labels():
    labels = np.random.default_rng(0).integers(0, 10, 1000)
    return noise.make_noisy(labels, "pair_flip", 0.4, num_classes=10, seed=0)


# From a test's name to the file's name and what writes it.
WRITERS = {
    "model": ("model.keras", lambda: model_of_peers().save),
    "weights": ("model.weights.h5", lambda: model_of_peers().save_weights),
    "labels": ("labels.npz", lambda: noisy_labels().save),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_survives_a_full_disk_at_every_write(name, tmp_path):
    file_name, make = WRITERS[name]
    path, write = tmp_path / file_name, make()
    write(path)
    whole = path.read_bytes()
    path.chmod(0o640)
    refused = 0
    for size in (0, 1, *(len(whole) * k // 8 for k in range(1, 8))):
        with files_up_to(size):
            try:
                write(path)
            except OSError as error:
                refused += 1
                assert path.name in str(error)
                assert "as it was" in str(error)
        assert path.read_bytes() == whole
        assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert refused == 9
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_cache_has_its_space_before_it_is_filled(tmp_path):
    path = tmp_path / "pixels.npy"
    source = tmp_path / "image"
    source.write_bytes(b"")
    filled = []
    arguments = (path, np.array([str(source)]), (64, 64, 3), filled.append)
    with files_up_to(4096), pytest.raises(OSError, match=r"pixels\.npy"):
        cache.open_cache(*arguments)
    assert filled == []
    assert [found.name for found in tmp_path.iterdir()] == ["image"]
    assert cache.open_cache(*arguments).shape == (1, 64, 64, 3)


def test_an_export_survives_a_full_disk(tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("other backends write it by TensorFlow in a process")
    model = model_of_peers()
    target = tmp_path / "serving"
    keras_smkd.export(model, target, what="ensemble")
    before = {
        file.relative_to(target): file.read_bytes()
        for file in target.rglob("*")
        if file.is_file()
    }
    with files_up_to(100), pytest.raises(OSError, match="serving"):
        keras_smkd.export(model, target, what="ensemble", overwrite=True)
    after = {
        file.relative_to(target): file.read_bytes()
        for file in target.rglob("*")
        if file.is_file()
    }
    assert after == before
    assert [found.name for found in tmp_path.iterdir()] == ["serving"]


# What is in the way.


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_in_the_place_of_the_file_is_refused(name, tmp_path):
    file_name, make = WRITERS[name]
    (tmp_path / file_name).mkdir()
    (tmp_path / file_name / "kept").write_text("")
    with pytest.raises(ValueError, match="must be the path of a file"):
        make()(tmp_path / file_name)
    assert (tmp_path / file_name / "kept").exists()


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_where_the_folder_is_to_be_is_refused(name, tmp_path):
    file_name, make = WRITERS[name]
    stale = tmp_path / f"{file_name}.partial"
    stale.write_text("somebody's")
    with pytest.raises(ValueError, match="Remove it"):
        make()(tmp_path / file_name)
    assert stale.read_text() == "somebody's"


def test_a_folder_that_a_killed_process_left_goes(tmp_path):
    left = tmp_path / "file.partial"
    left.mkdir()
    (left / "half").write_text("")
    with written_whole(tmp_path / "file") as partial:
        with open(partial, "w") as file:
            file.write("whole")
    assert (tmp_path / "file").read_text() == "whole"
    assert not left.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_told_in_words_is_an_error_of_the_file(number, tmp_path):
    path = tmp_path / "model.keras"
    with pytest.raises(OSError, match="as it was") as found:
        with written_whole(path):
            raise RuntimeError(f"Unable to write: {os.strerror(number)}.")
    assert (found.value.errno, found.value.filename) == (number, str(path))


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(KeyError), written_whole(tmp_path / "file"):
        raise KeyError("another")
    assert list(tmp_path.iterdir()) == []
