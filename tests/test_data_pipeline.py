"""Pipelines of `tf.data`, from examples to batches."""

import gc
import itertools
import sys

import keras
import numpy as np
import pytest

from keras_smkd import data
from keras_smkd import noise

tf = pytest.importorskip("tensorflow")


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


def test_an_iterator_that_lags_behind_turns_no_epoch_back():
    dataset = numbered(40, shuffle=True, seed=5, prefetch=False)
    slow = iter(dataset)
    next(slow)
    epochs = [epoch_of(dataset) for _ in range(2)]
    assert epochs[0] != epochs[1]
    next(slow)
    assert int(dataset.epoch) == 2


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
    train = examples.with_noise(human)
    ((_, y),) = data.make_pipeline(train, batch_size=6)
    assert y.numpy().tolist() == given.tolist()
    assert train.noise.realized_noise_rate == 4 / 6
    with pytest.raises(ValueError, match=r"must have 5 labels.*6 labels"):
        data.load_human_labels(tmp_path / "human.npz", "worse_label", 5)


def test_noise_does_not_depend_on_the_pipeline_seed():
    clean = np.arange(50) % 5
    labels = noise.make_noisy(
        clean, "symmetric_excluding_true", 0.4, num_classes=5, seed=3
    )
    examples = data.from_arrays(np.zeros((50, 2, 2, 1)), clean)
    examples = examples.with_noise(labels)
    seen = []
    for seed in (0, 1):
        train = data.make_pipeline(
            examples, batch_size=10, shuffle=True, seed=seed, with_index=True
        )
        found = {}
        for _, y in train:
            found.update(
                zip(y["index"].numpy(), y["label"].numpy(), strict=True)
            )
        seen.append(found)
    assert seen[0] == seen[1] == dict(enumerate(labels.noisy_labels))
    assert list(seen[0]) != list(seen[1])
