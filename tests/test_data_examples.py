"""Examples made of arrays, their noise, and their division into parts."""

import numpy as np
import pytest

from keras_smkd import data
from keras_smkd import noise

IMAGES = np.zeros((6, 2, 2, 1), np.uint8)
LABELS = [0, 1, 2, 2, 1, 0]


def numbered(labels, **options):
    """Return examples whose image n is filled with n."""
    filled = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return data.from_arrays(np.tile(filled, (1, 2, 2, 1)), labels, **options)


def test_from_arrays():
    examples = data.from_arrays(
        IMAGES, LABELS, class_names=["a", "b", "c"], index=[9, 8, 7, 3, 2, 1]
    )
    assert examples.num_classes == 3
    assert examples.class_names == ("a", "b", "c")
    assert examples.labels.dtype == np.int32
    assert examples.index.tolist() == [9, 8, 7, 3, 2, 1]
    assert examples.image_shape == (2, 2, 1)
    assert not examples.are_files
    assert len(examples) == 6
    assert examples.training_labels is examples.labels
    assert data.from_arrays(IMAGES, LABELS).index.tolist() == list(range(6))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_classes": 2}, ValueError, r"in \[0, 2\).*from 0 to 2"),
        ({"num_classes": 5}, ValueError, r"every class.*no example of 3, 4\."),
        (
            {"class_names": list("abcd")},
            ValueError,
            r"every class.*no example of 'd'\.",
        ),
        (
            {"class_names": ["a"], "num_classes": 3},
            ValueError,
            "`class_names` must be 3.*Received: 1 class_names",
        ),
        ({"labels": np.eye(6)}, ValueError, r"`labels`.*shape \(6, 6\)"),
        ({"labels": LABELS[:5]}, ValueError, "5 labels, 6 images"),
        ({"index": [0, 1, 2, 3, 4, 4]}, ValueError, "twice.*4, 2 times"),
        ({"index": [0, 1]}, ValueError, r"each of 6 examples.*\(2,\)"),
        ({"images": np.array(["x.png"] * 6)}, TypeError, "`images` must be"),
    ],
)
def test_from_arrays_errors(change, error, message):
    arguments = {"images": IMAGES, "labels": LABELS, **change}
    if "images" in change:
        # Files without the shape to decode them to: found by the pipeline.
        with pytest.raises(error, match=message):
            data.PipelineSequence(**arguments, batch_size=1)
        return
    with pytest.raises(error, match=message):
        data.from_arrays(**arguments)


def test_take_keeps_all_together():
    examples = numbered(LABELS, index=[10, 11, 12, 13, 14, 15])
    noisy = noise.NoisyLabels(LABELS, [2, 1, 0, 2, 1, 0], 3, {"kind": "mine"})
    part = examples.with_noise(noisy).take([4, 0, 2])
    assert part.images[:, 0, 0, 0].tolist() == [4, 0, 2]
    assert part.labels.tolist() == [1, 0, 2]
    assert part.index.tolist() == [14, 10, 12]
    assert part.training_labels.tolist() == [1, 2, 0]
    assert part.noise.clean_labels.tolist() == [1, 0, 2]
    assert part.noise.recipe == {"kind": "part", "of": {"kind": "mine"}}
    assert part.without_noise().training_labels.tolist() == [1, 0, 2]
    with pytest.raises(IndexError, match=r"in \[0, 6\).*from 1 to 6"):
        examples.take([1, 6])
    with pytest.raises(IndexError, match="from -1 to 2"):
        examples.take([-1, 2])
    with pytest.raises(TypeError, match="`positions` must be integers"):
        examples.take([0.5])
    with pytest.raises(ValueError, match=r"`positions`.*shape \(0,\)"):
        examples.take([])


def test_given_labels_align_by_index():
    examples = numbered([0, 1, 1], index=[5, 0, 2])
    given = np.array([1, 0, 0, 1, 1, 0])
    noisy = examples.with_noise(given)
    assert noisy.training_labels.tolist() == [0, 1, 0]
    assert noisy.noise.clean_labels.tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match=r"at least 6.*shape \(5,\)"):
        examples.with_noise(given[:5])
    # A whole set knows how many there must be.
    for wrong in (given, given[:2]):
        with pytest.raises(ValueError, match=r"canonical index: 3\..*shape"):
            numbered([0, 1, 1]).with_noise(wrong)
    with pytest.raises(ValueError, match=r"`labels`.*from 1 to 2"):
        numbered([0, 1, 1]).with_noise([1, 1, 2])


def test_with_noise_errors():
    examples = numbered(LABELS)
    made = noise.make_noisy(LABELS, "pair_flip", 0.5, num_classes=3, seed=0)
    assert examples.with_noise(made).noise is made
    with pytest.raises(ValueError, match=r"4, one for each.*before the split"):
        examples.take([0, 1, 2, 3]).with_noise(made)
    with pytest.raises(ValueError, match=r"3 classes.*of 4 classes"):
        examples.with_noise(noise.NoisyLabels(LABELS, LABELS, 4))
    other = noise.NoisyLabels([0, 1, 0, 2, 1, 1], LABELS, 3)
    with pytest.raises(ValueError, match=r"2 that differ.*position 2"):
        examples.with_noise(other)


@pytest.mark.parametrize("stratified", [True, False])
def test_split_is_a_seeded_division(stratified):
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    noisy = noise.make_noisy(
        labels, "pair_flip", 0.4, num_classes=3, seed=1, exact=True
    )
    examples = numbered(labels, index=1000 + np.arange(100))
    examples = examples.with_noise(noisy)
    options = {"stratified": stratified}
    train, held = data.split(examples, 0.3, seed=4, **options)
    assert (len(train), len(held)) == (70, 30)
    both = np.concatenate([train.index, held.index])
    np.testing.assert_array_equal(np.sort(both), examples.index)
    for part in (train, held):
        assert np.all(np.diff(part.index) > 0)
        places = part.index - 1000
        np.testing.assert_array_equal(part.images[:, 0, 0, 0], places)
        np.testing.assert_array_equal(part.labels, labels[places])
        # What a user's validation set has: the noisy labels, not others.
        np.testing.assert_array_equal(
            part.training_labels, noisy.noisy_labels[places]
        )
        assert part.noise.is_noisy.any()
    again = data.split(examples, 0.3, seed=4, **options)[1]
    np.testing.assert_array_equal(again.index, held.index)
    other = data.split(examples, 0.3, seed=5, **options)[1]
    assert np.any(other.index != held.index)
    if stratified:
        counts = np.bincount(noisy.noisy_labels)
        got = np.bincount(held.training_labels)
        assert np.abs(got - 0.3 * counts).max() < 1
        # By the noisy labels: the clean ones are not known outside tests.
        clean = data.split(examples.without_noise(), 0.3, seed=4)[1]
        assert np.bincount(clean.labels).tolist() == [15, 9, 6]


def test_stratified_rounding():
    # Shares 1.5, 1.5, 1.0 of 4: one of the halves is rounded up.
    examples = numbered([0] * 3 + [1] * 3 + [2] * 2)
    _, held = data.split(examples, 0.5, seed=0)
    counts = np.bincount(held.labels).tolist()
    assert counts in ([2, 1, 1], [1, 2, 1])


def test_split_errors():
    examples = numbered(LABELS)
    with pytest.raises(TypeError, match=r"`examples` must be Examples.*tuple"):
        data.split((IMAGES, LABELS), 0.5, seed=0)
    for fraction in (0.0, 1.5):
        with pytest.raises(ValueError, match="`fraction` must be in"):
            data.split(examples, fraction, seed=0)
    for fraction in (0.01, 1.0):
        with pytest.raises(ValueError, match=r"example in each part.*for 6"):
            data.split(examples, fraction, seed=0)
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        data.split(examples, 0.5, seed=None)
