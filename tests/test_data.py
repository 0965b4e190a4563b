"""Loading of data sets and of human labels."""

import numpy as np
import pytest

from keras_smkd import data
from keras_smkd import noise

tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")


def store(folder, name, features, columns):
    """Write a small data set as TFDS does, to be read back by its name."""
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": tf.data.Dataset.from_tensor_slices(columns)},
        data_dir=folder,
    )


@pytest.fixture(scope="module")
def tiny_sets(tmp_path_factory):
    """Sets of twelve images; image n is filled with n."""
    folder = tmp_path_factory.mktemp("tfds")
    image = tfds.features.Image(shape=(2, 2, 1), encoding_format="png")
    label = tfds.features.ClassLabel(num_classes=3)
    filled = np.arange(12, dtype=np.uint8)[:, None, None, None]
    images = np.tile(filled, (1, 2, 2, 1))
    pair = {"image": images, "label": np.arange(12) % 3}
    features = {"image": image, "label": label}
    text = tfds.features.Text()
    store(folder, "tiny_plain", features, pair)
    store(
        folder,
        "tiny_id",
        {**features, "id": text},
        {**pair, "id": [f"train_{n:03d}" for n in range(12)]},
    )
    store(
        folder,
        "tiny_repeated_id",
        {**features, "id": text},
        {**pair, "id": [f"part{n // 6}_{n % 6}" for n in range(12)]},
    )
    store(folder, "tiny_unlabelled", {"image": image}, {"image": images})
    store(
        folder,
        "tiny_regression",
        {"image": image, "label": tfds.features.Scalar(dtype=np.float32)},
        {"image": images, "label": np.zeros(12, np.float32)},
    )
    names = tfds.features.ClassLabel(names=["dark", "light"])
    store(
        folder,
        "tiny_named",
        {"image": image, "label": names, "coarse": label},
        {
            "image": images,
            "label": (np.arange(12) >= 6).astype(int),
            "coarse": np.arange(12) % 3,
        },
    )
    store(
        folder,
        "tiny_ragged",
        {**features, "image": tfds.features.Image(shape=(None, None, 1))},
        pair,
    )
    return folder


@pytest.fixture(scope="module")
def cifar10(shared_dir):
    folder = shared_dir / "data" / "tfds"
    if not (folder / "cifar10").is_dir():
        pytest.skip("needs CIFAR-10 as TFDS stores it")
    return data.load_tfds("cifar10", data_dir=folder)


@pytest.fixture(scope="module")
def human_file(shared_dir):
    path = shared_dir / "data" / "cifar10n" / "CIFAR-10_human.npz"
    if not path.is_file():
        pytest.skip("needs the human labels of CIFAR-10")
    return path


def test_cifar10_is_whole_and_in_canonical_order(cifar10):
    assert cifar10.images.shape == (50_000, 32, 32, 3)
    assert cifar10.images.dtype == np.uint8
    assert cifar10.labels.dtype == np.int32
    assert cifar10.num_classes == 10
    np.testing.assert_array_equal(cifar10.index, np.arange(50_000))
    np.testing.assert_array_equal(np.bincount(cifar10.labels), [5000] * 10)
    # frog, truck, truck, deer, automobile: the first of data_batch_1.
    assert cifar10.labels[:5].tolist() == [6, 9, 9, 4, 1]


def test_images_move_with_their_labels(cifar10, shared_dir):
    part = data.load_tfds(
        "cifar10", "train[:300]", data_dir=shared_dir / "data" / "tfds"
    )
    assert np.all(np.diff(part.index) > 0)
    assert part.index[-1] > 300
    np.testing.assert_array_equal(part.images, cifar10.images[part.index])
    np.testing.assert_array_equal(part.labels, cifar10.labels[part.index])


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("clean_label", 0.0),
        ("aggre_label", 0.0901),
        ("random_label1", 0.1723),
        ("random_label2", 0.1812),
        ("random_label3", 0.1764),
        ("worse_label", 0.4021),
    ],
)
def test_human_labels_align_with_cifar10(cifar10, human_file, name, rate):
    labels = data.load_human_labels(human_file, name)
    assert labels.dtype == np.int32
    realized = noise.realized_noise_rate(cifar10.labels, labels[cifar10.index])
    assert realized == pytest.approx(rate, abs=5e-5)


def test_order_follows_the_ids(tiny_sets):
    examples = data.load_tfds("tiny_id", data_dir=str(tiny_sets))
    assert examples.index.tolist() == list(range(12))
    assert examples.images[:, 0, 0, 0].tolist() == list(range(12))
    assert examples.labels.tolist() == [0, 1, 2] * 4
    assert examples.num_classes == 3
    # TFDS shuffles as it writes, or this test would prove nothing.
    plain = data.load_tfds("tiny_plain", data_dir=tiny_sets)
    assert plain.images[:, 0, 0, 0].tolist() != list(range(12))


@pytest.mark.parametrize("name", ["tiny_plain", "tiny_repeated_id"])
def test_without_ids_of_use_the_index_is_the_position(tiny_sets, name):
    examples = data.load_tfds(name, data_dir=tiny_sets, download=True)
    assert examples.index.tolist() == list(range(12))
    values = examples.images[:, 0, 0, 0]
    assert sorted(values.tolist()) == list(range(12))
    np.testing.assert_array_equal(examples.labels, values % 3)


def test_images_of_any_shape_are_resized(tiny_sets):
    examples = data.load_tfds(
        "tiny_ragged", data_dir=tiny_sets, image_size=(3, 4)
    )
    assert examples.images.shape == (12, 3, 4, 1)
    assert examples.images.dtype == np.uint8
    assert examples.class_names == ("0", "1", "2")
    values = examples.images[:, 0, 0, 0]
    assert sorted(values.tolist()) == list(range(12))
    np.testing.assert_array_equal(examples.labels, values % 3)
    np.testing.assert_array_equal(
        examples.images, np.tile(values[:, None, None, None], (1, 3, 4, 1))
    )


@pytest.mark.parametrize("name", ["tiny_id", "tiny_ragged"])
def test_images_are_extracted_once(tiny_sets, tmp_path, monkeypatch, name):
    options = {"data_dir": tiny_sets, "image_size": (3, 3)}
    folder = tmp_path / "files"
    examples = data.load_tfds(name, extract_to=folder, **options)
    assert examples.are_files and examples.image_shape == (3, 3, 1)
    inside = data.load_tfds(name, **options)
    np.testing.assert_array_equal(examples.labels, inside.labels)
    np.testing.assert_array_equal(examples.index, inside.index)
    batches = data.PipelineSequence(examples, batch_size=12, cache="none")
    np.testing.assert_allclose(batches[0][0] * 255, inside.images, rtol=1e-6)
    stored = {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}
    assert len(stored) == 12
    again = data.load_tfds(name, extract_to=str(folder), **options)
    assert again.images.tolist() == examples.images.tolist()
    np.testing.assert_array_equal(again.labels, examples.labels)
    np.testing.assert_array_equal(again.index, examples.index)
    assert all(file.stat().st_mtime_ns == t for file, t in stored.items())
    with pytest.raises(ValueError, match=r"own for each.*which holds .* train"):
        data.load_tfds(
            "tiny_plain", "train[:5]", extract_to=folder, data_dir=tiny_sets
        )
    # Broken off before its list was written, or with a broken list: anew.
    table = folder / "examples.csv"
    whole = table.read_bytes()
    table.chmod(0o640)
    for content in (
        None,
        b"",
        whole[:-20],
        whole[:10],
        b"\xff\xfe",
        whole[:50],
    ):
        if content is None:
            table.unlink()
        else:
            table.write_bytes(content)
        again = data.load_tfds(name, extract_to=folder, **options)
        assert again.images.tolist() == examples.images.tolist()
        np.testing.assert_array_equal(again.labels, examples.labels)
        assert table.read_bytes() == whole
        table.chmod(0o640)
    table.write_bytes(whole[:-20])
    data.load_tfds(name, extract_to=folder, **options)
    assert table.stat().st_mode & 0o777 == 0o640


def test_images_of_sixteen_bits_are_scaled_when_resized(tmp_path):
    deep = np.arange(12, dtype=np.uint16)[:, None, None, None] * 5000
    deep = np.tile(deep, (1, 2, 2, 1))
    kinds = {"tiny_deep": deep, "tiny_floats": deep.astype(np.float32)}
    for name, images in kinds.items():
        image = tfds.features.Image(
            shape=(2, 2, 1), dtype=images.dtype, encoding_format="png"
        )
        label = tfds.features.ClassLabel(num_classes=3)
        store(
            tmp_path,
            name,
            {"image": image, "label": label, "id": tfds.features.Text()},
            {
                "image": images,
                "label": np.arange(12) % 3,
                "id": [str(n) for n in range(12)],
            },
        )
    options = {"data_dir": tmp_path, "image_size": (2, 2)}
    examples = data.load_tfds("tiny_deep", **options)
    assert examples.images.dtype == np.uint8
    np.testing.assert_array_equal(examples.images, np.round(deep / 257))
    stored = data.load_tfds(
        "tiny_deep", data_dir=tmp_path, extract_to=tmp_path / "files"
    )
    x, _ = data.PipelineSequence(stored, batch_size=12)[0]
    np.testing.assert_allclose(x, deep / 65535, atol=2e-3)
    for more in ({}, {"extract_to": tmp_path / "more"}):
        with pytest.raises(ValueError, match=r"of 8 or 16 bits.*float32"):
            data.load_tfds("tiny_floats", **options, **more)


def test_corrupt_stored_images_are_named(tiny_sets, monkeypatch):
    decode = data.files.decode

    def broken(source, shape, name=""):
        return decode(source[:40], shape, name)

    monkeypatch.setattr(data.files, "decode", broken)
    with pytest.raises(ValueError, match="example 0 of tiny_ragged train', w"):
        data.load_tfds("tiny_ragged", data_dir=tiny_sets, image_size=(2, 2))


def test_too_large_for_memory(tiny_sets):
    # 12 images of 2 x 2.
    data.load_tfds("tiny_id", data_dir=tiny_sets, memory_limit=48)
    with pytest.raises(ValueError, match=r"`memory_limit` must be >= 48.*=47"):
        data.load_tfds("tiny_id", data_dir=tiny_sets, memory_limit=47)
    with pytest.raises(ValueError, match=r">= 108.*extract_to"):
        data.load_tfds(
            "tiny_ragged", data_dir=tiny_sets, image_size=(3, 3), memory_limit=9
        )


def test_other_features(tiny_sets):
    examples = data.load_tfds("tiny_named", data_dir=tiny_sets)
    assert examples.class_names == ("dark", "light")
    values = examples.images[:, 0, 0, 0]
    np.testing.assert_array_equal(examples.labels, values >= 6)
    coarse = data.load_tfds(
        "tiny_named", data_dir=tiny_sets, label_key="coarse"
    )
    assert coarse.num_classes == 3
    np.testing.assert_array_equal(coarse.labels, values % 3)
    with pytest.raises(ValueError, match=r"'image' and 'fine'\. Received"):
        data.load_tfds("tiny_named", data_dir=tiny_sets, label_key="fine")


def test_load_tfds_errors(tiny_sets, tmp_path):
    with pytest.raises(ValueError, match=r"'cifar01'\. Did you mean 'cifar10'"):
        data.load_tfds("cifar01", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"'zzzzzz'\. tfds\.list_builders"):
        data.load_tfds("zzzzzz", data_dir=tmp_path)
    with pytest.raises(
        FileNotFoundError,
        match=r"^No prepared data set 'cifar10' in .*: pass as `data_dir` "
        r"the folder that holds it, or pass download=True\.$",
    ):
        data.load_tfds("cifar10", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"`split`.*'train'.*split='val'"):
        data.load_tfds("tiny_id", "val", data_dir=tiny_sets)
    with pytest.raises(TypeError, match="`name` must be a string"):
        data.load_tfds(None)
    with pytest.raises(TypeError, match="`split` must be a string"):
        data.load_tfds("tiny_id", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny_unlabelled", r"'image' and 'label'.*with features 'image'\."),
        ("tiny_regression", r"one class label per example.*'tiny_regression'"),
        ("tiny_ragged", r"`image_size`.*'tiny_ragged'.*\(None, None, 1\)"),
    ],
)
def test_data_sets_that_do_not_fit(tiny_sets, name, message):
    with pytest.raises(ValueError, match=message):
        data.load_tfds(name, data_dir=tiny_sets)


def test_human_label_errors(tmp_path):
    path = tmp_path / "labels.npz"
    np.savez(
        path,
        good=np.arange(3),
        real=np.ones(3),
        square=np.eye(2, dtype=int),
        pickled=np.array([{}], dtype=object),
    )
    assert data.load_human_labels(str(path), "good").tolist() == [0, 1, 2]
    with pytest.raises(
        ValueError, match=r"one of 'good', 'real', .*name='worse_label'"
    ):
        data.load_human_labels(path, "worse_label")
    assert data.load_human_labels(path, "real").tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"`square` must be .*\(2, 2\)"):
        data.load_human_labels(path, "square")
    with pytest.raises(ValueError, match=r"without pickled.*array of objects"):
        data.load_human_labels(path, "pickled")
    with pytest.raises(FileNotFoundError, match=r"existing \.npz file"):
        data.load_human_labels(tmp_path / "none.npz", "good")
    np.save(tmp_path / "array.npy", np.arange(3))
    with pytest.raises(ValueError, match=r"an intact \.npz file"):
        data.load_human_labels(tmp_path / "array.npy", "good")


@pytest.mark.parametrize("source", ["set", "arrays"])
def test_noisy_labels_stay_with_their_images(tiny_sets, source):
    examples = data.load_tfds("tiny_id", data_dir=tiny_sets)
    if source == "arrays":
        examples = data.from_arrays(examples.images, examples.labels)
    labels = noise.make_noisy(
        examples.labels, "pair_flip", 0.5, num_classes=3, seed=2, exact=True
    )
    examples = examples.with_noise(labels)
    assert examples.noise is labels
    assert examples.noise.realized_noise_rate == 0.5
    train = data.make_pipeline(
        examples, batch_size=5, with_index=True, shuffle=True, seed=1
    )
    for _ in range(2):
        count = 0
        for x, y in train:
            np.testing.assert_array_equal(
                y["label"], labels.noisy_labels[y["index"].numpy()]
            )
            np.testing.assert_allclose(x[:, 0, 0, 0] * 255, y["index"])
            count += len(x)
        assert count == 12
