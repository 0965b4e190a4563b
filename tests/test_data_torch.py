"""Batches without TensorFlow: for `fit` on any backend, and for torch."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_smkd
from keras_smkd import data
from keras_smkd import noise

LABELS = np.arange(20) % 4


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", list(data.RECIPES))
def test_batches_are_those_of_the_pipeline(images, name):
    pytest.importorskip("tensorflow")
    options = {
        "batch_size": 6,
        "num_classes": 4,
        "seed": 3,
        "shuffle": True,
        "augment": name,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.1, 0.2, 0.3],
        "shard": (1, 2),
        "initial_epoch": 1,
        "with_index": name in ("none", "flip_crop"),
    }
    batches = data.PipelineSequence(images, LABELS, **options)
    dataset = data.make_pipeline(images, LABELS, **options)
    for epoch in (1, 2):
        assert batches.epoch == epoch
        assert len(batches) == len(dataset) == 2
        for (x, y), (v, w) in zip(batches, dataset, strict=True):
            assert x.dtype == np.float32
            np.testing.assert_allclose(x, v, rtol=0, atol=1e-5)
            if options["with_index"]:
                np.testing.assert_array_equal(y["index"], w["index"])
                np.testing.assert_array_equal(y["label"], w["label"])
            else:
                np.testing.assert_allclose(y, w, rtol=0, atol=1e-6)
        batches.on_epoch_end()


def epoch_of(batches):
    return np.concatenate([y for _, y in batches]).tolist()


def test_epochs_count_when_their_last_batch_is_handed_out():
    numbers = np.arange(20)
    options = {"batch_size": 4, "shuffle": True, "seed": 1}
    batches = data.PipelineSequence(numbers[:, None] * 1.0, numbers, **options)
    first = epoch_of(batches)
    assert sorted(first) == list(range(20))
    assert epoch_of(batches) == first
    batches.on_epoch_end()
    second = epoch_of(batches)
    assert sorted(second) == list(range(20)) and second != first
    batches.on_epoch_end()
    # What `fit` does before it starts, on one backend or another.
    batches.on_epoch_end()
    batches.on_epoch_begin()
    batches[0], batches[1]
    batches.on_epoch_end()
    assert batches.epoch == 2
    again = data.PipelineSequence(
        numbers[:, None] * 1.0, numbers, initial_epoch=2, **options
    )
    assert epoch_of(again) == epoch_of(batches)
    again.epoch = 0
    assert epoch_of(again) == first


def test_fit_trains_on_the_right_epochs():
    # A model that learns nothing and adds its inputs up tells the order.
    model = keras.Sequential([keras.layers.Dense(1, kernel_initializer="ones")])
    seen = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(round(logs["first"] * (batch + 1)))

    def first(y_true, y_pred):
        return y_pred[:, 0]

    model.compile(keras.optimizers.SGD(0.0), loss="mse", metrics=[first])
    numbers = np.arange(24)
    options = {"batch_size": 1, "shuffle": True, "seed": 8}
    inputs = numbers[:, None].astype(np.float32)

    def make(**more):
        return data.PipelineSequence(inputs, numbers, **options, **more)

    fit = {"callbacks": [Record()], "verbose": 0, "shuffle": False}
    model.fit(
        make(),
        epochs=3,
        validation_data=make(),
        **fit,
    )
    # Resumed, without the three epochs before.
    model.fit(make(initial_epoch=3), epochs=5, initial_epoch=3, **fit)
    expected = []
    for epoch in range(5):
        order = epoch_of(make(initial_epoch=epoch))
        expected += np.cumsum(order).tolist()
    assert seen == expected


def test_sequence_errors(images):
    options = {"batch_size": 4, "seed": 0}
    with pytest.raises(ValueError, match="Did you mean 'flip_crop'"):
        data.PipelineSequence(images, LABELS, augment="flipcrop", **options)
    with pytest.raises(TypeError, match="`labels` must be given unless"):
        data.PipelineSequence(images, **options)
    batches = data.PipelineSequence(images, LABELS, **options)
    with pytest.raises(IndexError, match=r"`index` must be < 5.*index=5"):
        batches[5]
    with pytest.raises(ValueError, match="`epoch` must be"):
        batches.epoch = -1


def test_torch_loader(images):
    torch = pytest.importorskip("torch")
    examples = data.from_arrays(images, LABELS, index=np.arange(20) + 50)
    made = noise.make_noisy(LABELS, "pair_flip", 0.5, num_classes=4, seed=0)
    dataset, sampler = data.make_torch_dataset(
        examples.with_noise(made),
        shuffle=True,
        seed=3,
        with_index=True,
        channels_first=True,
    )
    assert isinstance(dataset, torch.utils.data.Dataset)
    assert len(dataset) == len(sampler) == 20
    loader = torch.utils.data.DataLoader(dataset, 6, sampler=sampler)
    orders = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        seen = []
        for x, y in loader:
            assert x.dtype == torch.float32 and x.shape[1:] == (3, 8, 8)
            assert y["label"].dtype == y["index"].dtype == torch.int64
            chosen = y["index"].numpy() - 50
            np.testing.assert_allclose(
                np.moveaxis(x.numpy(), 1, -1), images[chosen] / 255, atol=1e-6
            )
            np.testing.assert_array_equal(y["label"], made.noisy_labels[chosen])
            seen += chosen.tolist()
        orders.append(seen)
    assert orders[0] != orders[1]
    # The order of the other pipelines.
    batches = data.PipelineSequence(
        images, np.arange(20), batch_size=6, shuffle=True, seed=3
    )
    assert epoch_of(batches) == orders[0]


def test_torch_augmentation_follows_seed_and_epoch(images):
    pytest.importorskip("torch")
    options = {"augment": "flip_crop", "seed": 1}
    first, _ = data.make_torch_dataset(images, LABELS, **options)
    again, sampler = data.make_torch_dataset(
        images, LABELS, shard=(1, 3), **options
    )
    assert list(sampler) == list(range(1, 20, 3))

    def whole(dataset):
        return np.stack([dataset[k][0].numpy() for k in range(20)])

    one = whole(first)
    assert one.shape == (20, 8, 8, 3)
    np.testing.assert_array_equal(one, whole(again))
    first.set_epoch(1)
    assert np.any(whole(first) != one)
    later, _ = data.make_torch_dataset(
        images, LABELS, initial_epoch=1, **options
    )
    np.testing.assert_array_equal(whole(first), whole(later))
    with pytest.raises(IndexError, match=r"in \[0, 20\).*position=20"):
        first[20]


def test_torch_errors(images):
    pytest.importorskip("torch")
    for name in ("mixup", "cutmix"):
        with pytest.raises(ValueError, match=f"single examples.*'{name}'"):
            data.make_torch_dataset(
                images, LABELS, augment=name, seed=0, num_classes=4
            )
    with pytest.raises(ValueError, match=r"channels_first=True.*\(.*192\)"):
        data.make_torch_dataset(
            images.reshape(20, -1), LABELS, channels_first=True
        )


def test_without_torch_it_says_what_to_install(images, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        ImportError, match=r'torch,.*pip install "keras-smkd\[torch\]"'
    ):
        data.make_torch_dataset(images, LABELS)


WITHOUT_TENSORFLOW = """
import sys
import numpy as np
import keras
from PIL import Image
from keras_smkd import data, noise

folder = sys.argv[1]
images = np.zeros((12, 8, 8, 3), np.uint8)
examples = data.from_arrays(images, np.arange(12) % 3)
labels = noise.make_noisy(
    examples.labels, "pair_flip", 0.5, num_classes=3, seed=0
)
train, held = data.split(examples.with_noise(labels), 0.25, seed=0)
batches = data.PipelineSequence(
    train, batch_size=2, shuffle=True, seed=0, augment="flip_crop"
)
files = data.PipelineSequence(
    data.load_folder(folder, image_size=(8, 8)), batch_size=2, cache="none"
)
model = keras.Sequential(
    [keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
)
model.compile(loss="sparse_categorical_crossentropy")
model.fit(batches, epochs=2, verbose=0, shuffle=False)
model.evaluate(files, verbose=0)
if keras.backend.backend() == "torch":
    import torch

    dataset, sampler = data.make_torch_dataset(
        train, shuffle=True, seed=0, augment="flip_crop"
    )
    model.fit(
        torch.utils.data.DataLoader(dataset, 2, sampler=sampler), verbose=0
    )
print("tensorflow" in sys.modules, "tensorflow_datasets" in sys.modules)
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_no_tensorflow_is_needed(backend, tmp_path):
    if keras.backend.backend() != backend:
        pytest.skip(f"runs once, with the tests of {backend}")
    image = pytest.importorskip("PIL.Image")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image.new("RGB", (9, 9)).save(tmp_path / name / "0.png")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, str(tmp_path)],
        cwd=pathlib.Path(keras_smkd.__file__).parents[1],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False False"
