"""Labels in every form, at every door of the room of data."""

import numpy as np
import pytest

from keras_smkd import data
from keras_smkd import noise

IDS = np.arange(20) % 4
IMAGES = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones(
    (1, 4, 4, 1), np.uint8
)


class Column:
    """A column of a table: it knows `__array__` and little else."""

    def __array__(self, dtype=None, copy=None):
        return np.array(IDS, dtype)


FORMS = {
    "uint8": IDS.astype("uint8"),
    "int8": IDS.astype("int8"),
    "uint64": IDS.astype("uint64"),
    "floats": IDS.astype("float32"),
    "column": IDS[:, None],
    "column of bytes": IDS.astype("uint8")[:, None],
    "column of floats": IDS.astype("float64")[:, None],
    "objects": IDS.astype(object),
    "table": Column(),
    "list": IDS.tolist(),
}


def sequence(labels, **options):
    batches = data.PipelineSequence(IMAGES, labels, batch_size=20, **options)
    return batches[0]


def pipeline(labels, **options):
    pytest.importorskip("tensorflow")
    ((x, y),) = data.make_pipeline(IMAGES, labels, batch_size=20, **options)
    return x.numpy(), y.numpy()


def loader(labels, **options):
    pytest.importorskip("torch")
    dataset, _ = data.make_torch_dataset(IMAGES, labels, **options)
    return tuple(
        np.stack([np.asarray(dataset[k][part]) for k in range(20)])
        for part in (0, 1)
    )


@pytest.mark.parametrize("make", [sequence, pipeline, loader])
@pytest.mark.parametrize("form", FORMS)
def test_pipelines_give_class_ids(make, form):
    for num_classes in (None, 4):
        _, y = make(FORMS[form], num_classes=num_classes)
        assert y.dtype == (np.int64 if make is loader else np.int32)
        assert y.tolist() == IDS.tolist()


@pytest.mark.parametrize("make", [sequence, pipeline])
@pytest.mark.parametrize("augment", ["mixup", "cutmix"])
@pytest.mark.parametrize("form", FORMS)
def test_class_ids_are_mixed_as_distributions(make, augment, form):
    options = {"augment": augment, "seed": 3, "num_classes": 4}
    x, y = make(np.eye(4)[IDS], **options)
    found_x, found_y = make(FORMS[form], **options)
    assert found_y.shape == (20, 4) and found_y.dtype == np.float32
    assert (found_y.max(axis=1) < 1).any()
    np.testing.assert_array_equal(found_x, x)
    np.testing.assert_array_equal(found_y, y)
    with pytest.raises(ValueError, match="`num_classes` must be given to mix"):
        make(FORMS[form], augment=augment, seed=3)


@pytest.mark.parametrize("form", FORMS)
def test_examples_have_class_ids(form):
    examples = data.from_arrays(IMAGES, FORMS[form])
    assert examples.labels.dtype == np.int32
    assert examples.labels.tolist() == IDS.tolist()
    assert examples.num_classes == 4
    made = data.Examples(IMAGES, FORMS[form], np.arange(20), 4)
    assert made.labels.dtype == np.int32
    assert made.labels.tolist() == IDS.tolist()
    noisy = examples.with_noise(FORMS[form])
    assert noisy.training_labels.tolist() == IDS.tolist()
    _, held = data.split(noisy, 0.2, seed=0)
    assert np.bincount(held.training_labels).tolist() == [1, 1, 1, 1]
    injected = noise.make_noisy(
        FORMS[form], "pair_flip", 0.5, num_classes=4, seed=0
    )
    noisy = examples.with_noise(injected)
    assert noisy.noise is injected
    rest, held = data.split(noisy, 0.2, seed=0)
    for part, size in ((rest, 16), (held, 4)):
        expected = injected.noisy_labels[part.index]
        assert len(part) == size
        assert part.training_labels.tolist() == expected.tolist()


@pytest.mark.parametrize("form", ["uint8", "floats", "column of bytes"])
def test_human_labels_are_class_ids(tmp_path, form):
    np.savez(tmp_path / "human.npz", worse_label=FORMS[form])
    found = data.load_human_labels(tmp_path / "human.npz", "worse_label", 20)
    assert found.dtype == np.int32 and found.tolist() == IDS.tolist()


@pytest.mark.parametrize(
    ("dtype", "classes"), [("uint8", 256), ("uint8", 300), ("int8", 128)]
)
def test_narrow_integers_of_many_classes(dtype, classes):
    highest = np.iinfo(dtype).max
    labels = np.full(20, highest, dtype)
    for make in (sequence, pipeline, loader):
        _, y = make(labels, num_classes=classes)
        assert y.tolist() == [highest] * 20
    _, y = sequence(labels, num_classes=classes, augment="mixup", seed=0)
    assert y.shape == (20, classes)
    np.testing.assert_allclose(y[:, highest], 1.0, rtol=1e-6)


BAD = [
    (IDS + 1, ValueError, "labels from 1 to 4. Class ids begin with 0"),
    (IDS - 1, ValueError, "labels from -1 to 2"),
    (IDS / 2, ValueError, r"labels\[1\]=0\.5"),
    (np.where(IDS == 3, np.nan, IDS), ValueError, r"labels\[3\]=nan"),
    (np.array(list("abcd") * 5), TypeError, "<U1. Encode names as class ids"),
    (np.array(list("abcd") * 5, object), TypeError, "'a' of type str. Encode"),
]


def examples(labels, num_classes):
    return data.from_arrays(IMAGES, labels, num_classes=num_classes)


def made_examples(labels, num_classes):
    return data.Examples(IMAGES, labels, np.arange(20), num_classes)


def with_noise(labels, num_classes):
    return data.from_arrays(IMAGES, IDS).with_noise(labels)


@pytest.mark.parametrize(
    "make", [sequence, pipeline, loader, examples, made_examples, with_noise]
)
@pytest.mark.parametrize(("labels", "error", "received"), BAD)
def test_what_is_no_label_is_refused(make, labels, error, received):
    with pytest.raises(
        error, match=rf"^`labels` must be class ids, .*Received: .*{received}"
    ):
        make(labels, num_classes=4)
