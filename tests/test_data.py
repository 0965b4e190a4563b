"""Loading of data sets and labels, and the pipelines made of them."""

import gc
import itertools
import sys

import keras
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


# load_tfds, load_human_labels


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


# make_pipeline


def numbered(count, **options):
    """Return a pipeline of `count` examples, each of them its own number."""
    numbers = np.arange(count)
    images = np.tile(
        numbers.astype(np.float32)[:, None, None, None], (1, 3, 3, 1)
    )
    return data.make_pipeline(
        images, numbers, index=numbers + 100, **{"batch_size": 4, **options}
    )


def epoch_of(dataset):
    """Return the examples' numbers of one pass, batch by batch."""
    batches = []
    for images, y in dataset:
        np.testing.assert_array_equal(images[:, 0, 0, 0], y["label"])
        np.testing.assert_array_equal(y["index"], y["label"] + 100)
        batches.append(y["label"].numpy().tolist())
    return batches


def order_of(dataset):
    return list(itertools.chain.from_iterable(epoch_of(dataset)))


def test_plain_pipeline_keeps_the_order():
    dataset = numbered(10)
    assert len(dataset) == 3
    expected = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert epoch_of(dataset) == expected
    assert epoch_of(dataset) == expected
    dropped = numbered(10, drop_remainder=True)
    assert len(dropped) == 2
    assert epoch_of(dropped) == expected[:2]


@pytest.mark.parametrize(
    ("prefetch", "drop_remainder"), [(True, False), (False, True)]
)
def test_shuffled_epochs_are_new_orders_of_all(prefetch, drop_remainder):
    options = {
        "shuffle": True,
        "seed": 5,
        "prefetch": prefetch,
        "drop_remainder": drop_remainder,
    }
    dataset = numbered(30, **options)
    assert len(dataset) == (7 if drop_remainder else 8)
    epochs = [order_of(dataset) for _ in range(3)]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == (28 if drop_remainder else 30)
        assert epoch != sorted(epoch)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]

    tf.random.set_seed(123)
    again = numbered(30, **options)
    gc.collect()
    assert [order_of(again) for _ in range(3)] == epochs
    other = numbered(30, **{**options, "seed": 6})
    assert order_of(other) != epochs[0]
    resumed = numbered(30, initial_epoch=2, **options)
    assert order_of(resumed) == epochs[2]


@pytest.mark.parametrize("prefetch", [True, False])
def test_epoch_left_early_is_begun_again(prefetch):
    options = {"shuffle": True, "seed": 5, "prefetch": prefetch}
    whole = numbered(40, **options)
    first, second = epoch_of(whole), epoch_of(whole)
    dataset = numbered(40, **options)
    for taken in (1, 2, 9):
        assert epoch_of(dataset.take(taken)) == first[:taken]
    assert epoch_of(dataset) == first
    assert epoch_of(dataset) == second


def test_fit_trains_on_the_same_epochs_on_every_backend():
    # A model that adds its inputs up and learns nothing tells the order.
    model = keras.Sequential(
        [
            keras.layers.Flatten(),
            keras.layers.Dense(1, kernel_initializer="ones"),
        ]
    )
    seen = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(round(logs["first"] * (batch + 1)))

    def first(y_true, y_pred):
        return y_pred[:, 0]

    model.compile(keras.optimizers.SGD(0.0), loss="mse", metrics=[first])
    numbers = np.arange(12)
    images = numbers.astype(np.float32)[:, None]
    options = {"batch_size": 1, "shuffle": True, "seed": 8}
    dataset = data.make_pipeline(images, numbers, **options)
    model.fit(dataset, epochs=2, callbacks=[Record()], verbose=0, shuffle=False)
    expected = []
    again = data.make_pipeline(images, numbers, **options)
    for _ in range(2):
        expected.extend(np.cumsum([int(y[0]) for _, y in again]).tolist())
    assert seen == expected


def test_images_are_scaled_and_cast():
    stored = np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1)
    (x, y), *_ = data.make_pipeline(stored, [0, 1, 2], batch_size=3)
    assert (x.dtype, y.dtype) == (tf.float32, tf.int32)
    np.testing.assert_allclose(x.numpy().ravel(), [0.0, 0.2, 1.0], rtol=1e-6)
    floats = np.array([[-3.0], [0.5], [300.0]])
    (x, _), *_ = data.make_pipeline(floats, [0, 1, 2], batch_size=3)
    assert x.dtype == tf.float32
    np.testing.assert_array_equal(x, floats)


def test_soft_labels_pass_through():
    soft = np.array([[0.9, 0.1], [0.25, 0.75]])
    ((_, y),) = data.make_pipeline(
        np.zeros((2, 4)), soft, batch_size=2, num_classes=2
    )
    assert y.dtype == tf.float32
    np.testing.assert_allclose(y, soft, rtol=1e-6)
    ((_, y),) = data.make_pipeline(
        np.zeros((2, 4)), np.eye(2, dtype=int), batch_size=2
    )
    np.testing.assert_array_equal(y, np.eye(2))


def windows(image):
    """Return all crops of the padded image, mirrored and not, by name."""
    height, width, _ = image.shape
    padded = np.pad(image, [(4, 4), (4, 4), (0, 0)])
    found = {}
    for top in range(9):
        for left in range(9):
            crop = padded[top : top + height, left : left + width]
            found[crop.tobytes()] = (top, left, False)
            found[crop[:, ::-1].tobytes()] = (top, left, True)
    return found


def test_flip_crop_makes_only_windows_of_the_padded_image(rng):
    # Values from 1 on, so that every window that holds any of them differs.
    images = 1 + np.arange(2 * 5 * 6 * 2, dtype=np.float32)
    images = rng.permutation(images).reshape(2, 5, 6, 2)
    dataset = data.make_pipeline(
        np.tile(images, (400, 1, 1, 1)),
        np.tile([0, 1], 400),
        batch_size=100,
        augment="flip_crop",
        seed=0,
    )
    allowed = [windows(image) for image in images]
    seen = [[], []]
    for x, y in dataset:
        assert x.shape[1:] == (5, 6, 2)
        for image, label in zip(x.numpy(), y.numpy(), strict=True):
            seen[label].append(allowed[label][image.tobytes()])
    for places in seen:
        tops, lefts, mirrored = np.array(places).T
        # 400 draws miss one of 9 places with a chance of 3e-21, and the
        # share of mirrored images has a standard error of 0.025.
        assert set(tops) == set(lefts) == set(range(9))
        assert abs(np.mean(mirrored) - 0.5) < 0.1
        # Each image has draws of its own.
        assert len(set(places)) > 100


def test_augmentation_follows_seed_and_epoch(rng):
    images = rng.integers(0, 256, (32, 6, 6, 3)).astype(np.uint8)
    options = {"batch_size": 8, "augment": "flip_crop", "shuffle": True}

    def epochs(seed):
        dataset = data.make_pipeline(images, range(32), seed=seed, **options)
        return [np.concatenate([x for x, _ in dataset]) for _ in range(2)]

    first = epochs(3)
    tf.random.set_seed(99)
    np.testing.assert_array_equal(first, epochs(3))
    assert np.any(first[0] != epochs(4)[0])
    # Without shuffling, only the augmentation can make epochs differ.
    options["shuffle"] = False
    ordered = epochs(3)
    assert np.any(ordered[0] != ordered[1])
    assert np.all(first[0] >= 0.0) and 0.9 < first[0].max() <= 1.0


@pytest.mark.parametrize("augment", [None, "flip_crop"])
def test_fit_learns_on_the_running_backend(rng, augment):
    labels = rng.integers(0, 2, 64)
    images = np.zeros((64, 8, 8, 1), np.uint8)
    images[labels == 1] = 255
    dataset = data.make_pipeline(
        images, labels, batch_size=16, shuffle=True, seed=0, augment=augment
    )
    model = keras.Sequential(
        [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    )
    model.compile(
        keras.optimizers.SGD(0.5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    test = data.make_pipeline(images, labels, batch_size=16)
    history = model.fit(
        dataset, validation_data=test, epochs=20, verbose=0, shuffle=False
    )
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert history.history["val_accuracy"][-1] == 1.0


IMAGES = np.zeros((4, 2, 2, 1), np.float32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": IMAGES[:0]}, ValueError, r"at least one.*\(0, 2, 2, 1\)"),
        ({"images": np.zeros(4)}, ValueError, r"`images`.*shape \(4,\)"),
        ({"images": IMAGES.astype(int)}, TypeError, "uint8 or floating point"),
        ({"labels": [0, 1, 2]}, ValueError, "3 labels, 4 images"),
        ({"labels": [0.0, 0.5, 1, 0]}, ValueError, r"`labels`.*\[1\]=0\.5"),
        ({"labels": list("abca")}, TypeError, "`labels`.*<U1.*np.unique"),
        ({"labels": [[[0]]] * 4}, ValueError, r"shape \(4, 1, 1\)"),
        ({"labels": np.ones((4, 2))}, ValueError, "row 0 of labels sums to 2"),
        (
            {"labels": [1, 2, 3, 3], "num_classes": 3},
            ValueError,
            r"from 1 to 3\. Class ids begin with 0",
        ),
        ({"num_classes": 2}, ValueError, r"in \[0, 2\).*from 0 to 2"),
        ({"labels": [0, 1, 2, -1], "num_classes": 3}, ValueError, "from -1"),
        (
            {"labels": np.eye(4), "num_classes": 3},
            ValueError,
            r"shape \(examples, 3\),.*labels of shape \(4, 4\)",
        ),
        ({"num_classes": 1}, ValueError, "`num_classes` must be an integer >="),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an integer >= 1"),
        ({"batch_size": 2.0}, TypeError, "`batch_size` must be an integer"),
        (
            {"batch_size": 5, "drop_remainder": True},
            ValueError,
            "`batch_size` must be <= 4",
        ),
        (
            {"augment": "mixpu", "seed": 0},
            ValueError,
            r"`augment` must be one of 'none', .*'mixpu'\. Did you mean",
        ),
        (
            {"augment": "flip_crop", "seed": 0, "images": np.zeros((4, 8))},
            ValueError,
            r"for augment='flip_crop'.*'examples', 8\)",
        ),
        ({"augment": "flip_crop"}, ValueError, "`seed`.*seed=None"),
        ({"shuffle": True}, ValueError, "`seed` must be an integer to shuffle"),
        ({"shuffle": True, "seed": -1}, ValueError, "`seed`.*seed=-1"),
        ({"seed": 1.5}, TypeError, "`seed` must be an integer"),
        ({"initial_epoch": -1}, ValueError, "`initial_epoch` must be"),
        ({"index": [0, 1]}, ValueError, r"each of 4 examples.*\(2,\)"),
        ({"index": np.ones(4)}, TypeError, "`index` must be integers"),
        ({"index": [0, 1, 2, -3]}, ValueError, "index from -3 to 2"),
        ({"index": [0, 1, 2, 2**31]}, ValueError, "to 2147483648"),
    ],
)
def test_pipeline_errors(change, error, message):
    arguments = {
        "images": IMAGES,
        "labels": [0, 1, 2, 0],
        "batch_size": 2,
        **change,
    }
    with pytest.raises(error, match=message):
        data.make_pipeline(**arguments)


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("tensorflow", lambda: data.make_pipeline([[0.0]], [0], batch_size=1)),
        ("tensorflow_datasets", lambda: data.load_tfds("cifar10")),
    ],
)
def test_absent_packages_are_named(monkeypatch, module, call):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ImportError, match=rf'{module},.*pip install "keras-smkd\[data\]"'
    ):
        call()


# noisy_pipeline


@pytest.mark.parametrize("source", ["examples", "pair", "attached"])
def test_noisy_pipeline_from_every_source(tiny_sets, source):
    examples = data.load_tfds("tiny_id", data_dir=tiny_sets)
    labels = noise.make_noisy(
        examples.labels, "pair_flip", 0.5, num_classes=3, seed=2, exact=True
    )
    arguments = {
        "examples": (examples, labels),
        "pair": ((examples.images, examples.labels), labels),
        "attached": (examples.with_noise(labels),),
    }
    train = data.noisy_pipeline(
        *arguments[source],
        batch_size=5,
        with_index=True,
        shuffle=True,
        seed=1,
    )
    assert train.labels is labels
    assert train.labels.realized_noise_rate == 0.5
    for _ in range(2):
        count = 0
        for x, y in train.dataset:
            np.testing.assert_array_equal(
                y["label"], labels.noisy_labels[y["index"].numpy()]
            )
            np.testing.assert_allclose(x[:, 0, 0, 0] * 255, y["index"])
            count += len(x)
        assert count == 12


def test_validation_is_noisy_or_clean_and_the_test_set_clean():
    images = np.arange(60, dtype=np.uint8)[:, None, None, None]
    whole = data.from_arrays(images, np.arange(60) % 3)
    labels = noise.make_noisy(
        whole.labels, "symmetric_excluding_true", 0.5, num_classes=3, seed=0
    )
    train, held = data.split(whole.with_noise(labels), 0.25, seed=7)
    seen = {}
    for name, examples in (
        ("train", train),
        ("noisy", held),
        ("clean", held.without_noise()),
        ("test", whole),
    ):
        dataset = data.make_pipeline(examples, batch_size=8, with_index=True)
        for x, y in dataset:
            # The index is the canonical one, after the split as before.
            np.testing.assert_array_equal(
                (x[:, 0, 0, 0] * 255).numpy().round(), y["index"]
            )
            seen.setdefault(name, []).extend(
                zip(y["index"].numpy(), y["label"].numpy(), strict=True)
            )
    assert len(seen["train"]) == 45 and len(seen["noisy"]) == 15
    for name, expected in (
        ("train", labels.noisy_labels),
        ("noisy", labels.noisy_labels),
        ("clean", labels.clean_labels),
        ("test", labels.clean_labels),
    ):
        assert all(expected[index] == label for index, label in seen[name])
    assert seen["noisy"] != seen["clean"]


def test_human_labels_in_a_pipeline(tmp_path):
    given = np.array([1, 1, 0, 0, 1, 0])
    np.savez(tmp_path / "human.npz", worse_label=given)
    human = data.load_human_labels(tmp_path / "human.npz", "worse_label", 6)
    examples = data.from_arrays(np.zeros((6, 2, 2, 1)), [0, 1, 0, 1, 0, 1])
    train = data.noisy_pipeline(examples, human, batch_size=6)
    ((_, y),) = train.dataset
    assert y.numpy().tolist() == given.tolist()
    assert train.labels.realized_noise_rate == 4 / 6
    with pytest.raises(ValueError, match=r"must have 5 labels.*6 labels"):
        data.load_human_labels(tmp_path / "human.npz", "worse_label", 5)


def test_noise_does_not_depend_on_the_pipeline_seed():
    clean = np.arange(50) % 5
    labels = noise.make_noisy(
        clean, "symmetric_excluding_true", 0.4, num_classes=5, seed=3
    )
    pair = (np.zeros((50, 2, 2, 1)), clean)
    seen = []
    for seed in (0, 1):
        train = data.noisy_pipeline(
            pair,
            labels,
            batch_size=10,
            shuffle=True,
            seed=seed,
            with_index=True,
        )
        found = {}
        for _, y in train.dataset:
            found.update(
                zip(y["index"].numpy(), y["label"].numpy(), strict=True)
            )
        seen.append(found)
    assert seen[0] == seen[1] == dict(enumerate(labels.noisy_labels))
    assert list(seen[0]) != list(seen[1])


def test_noisy_pipeline_errors():
    labels = noise.NoisyLabels([0, 1, 0, 1], [1, 1, 0, 1], 2)
    with pytest.raises(TypeError, match=r"`source` must be Ex.*ndarray"):
        data.noisy_pipeline(IMAGES, labels, batch_size=2)
    with pytest.raises(ValueError, match=r"without noise.*labels=None"):
        data.noisy_pipeline((IMAGES, [0, 1, 0, 1]), batch_size=2)
    with pytest.raises(ValueError, match="4 images"):
        data.noisy_pipeline((IMAGES, [0, 1]), labels, batch_size=2)
    with pytest.raises(ValueError, match="1 that differ"):
        data.noisy_pipeline((IMAGES, [0, 1, 0, 0]), labels, batch_size=2)
    with pytest.raises(ValueError, match="`seed` must be an integer"):
        data.noisy_pipeline(
            (IMAGES, [0, 1, 0, 1]), labels, shuffle=True, batch_size=2
        )
