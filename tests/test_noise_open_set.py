"""Images replaced by those of another data set."""

import math

import numpy as np
import pytest

from keras_smkd import noise


def images_of(count, start, dtype="uint8"):
    """Images that differ from each other, and say which they are."""
    flat = np.arange(start, start + count, dtype=dtype)
    return np.broadcast_to(flat[:, None, None, None], (count, 2, 2, 1)).copy()


@pytest.mark.parametrize("exact", [False, True])
def test_replaced_images_are_other_ones_and_the_rest_stay(rng, exact):
    images, others = images_of(100, 0), images_of(90, 150)
    before = images.copy()
    labels = rng.integers(0, 4, 100)
    mixed = noise.replace_images(images, labels, others, 0.4, 0, exact)
    np.testing.assert_array_equal(images, before)
    assert mixed.images.dtype == np.uint8
    for n in range(100):
        source = mixed.source[n]
        expected = others[source] if source >= 0 else images[n]
        np.testing.assert_array_equal(mixed.images[n], expected)
    np.testing.assert_array_equal(
        mixed.is_replaced, mixed.images[:, 0, 0, 0] >= 150
    )
    assert mixed.realized_noise_rate == np.mean(mixed.is_replaced)
    used = mixed.source[mixed.is_replaced]
    assert len(set(used.tolist())) == used.size
    # Others come from everywhere, not from the first on, and in no order.
    assert used.max() >= used.size
    assert np.any(np.diff(used) < 0)


def test_exact_replaces_the_same_share_of_every_class():
    labels = np.repeat([5, 7, 9], [10, 20, 5])
    mixed = noise.replace_images(
        images_of(35, 0), labels, images_of(35, 100), 0.5, seed=1, exact=True
    )
    counts = [int(mixed.is_replaced[labels == c].sum()) for c in (5, 7, 9)]
    # Half of 5 is rounded up.
    assert counts == [5, 10, 3]
    assert not mixed.is_replaced[:5].all() and mixed.is_replaced[:10].any()


def test_drawn_share_is_within_four_standard_errors():
    images = np.zeros((20_000, 1), np.uint8)
    mixed = noise.replace_images(
        images, np.zeros(20_000, int), images, 0.3, seed=0
    )
    error = math.sqrt(0.3 * 0.7 / 20_000)
    assert abs(mixed.realized_noise_rate - 0.3) < 4 * error
    assert mixed.realized_noise_rate != 0.3


@pytest.mark.parametrize("exact", [False, True])
def test_rates_of_zero_and_one(exact):
    images, others = images_of(8, 0), images_of(8, 100)
    labels = [0, 1] * 4
    kept = noise.replace_images(images, labels, others, 0.0, 0, exact)
    np.testing.assert_array_equal(kept.images, images)
    assert not kept.is_replaced.any()
    none = noise.replace_images(images, labels, others, 1.0, 0, exact)
    np.testing.assert_array_equal(
        np.sort(none.images, axis=0), np.sort(others, axis=0)
    )
    assert none.is_replaced.all()
    assert repr(none) == "OpenSetImages(8 images, 100.0 % replaced)"


def test_no_global_state_and_seeds_differ():
    images, labels = images_of(50, 0), np.zeros(50, int)
    others = images_of(50, 100)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    drawn = [
        noise.replace_images(images, labels, others, 0.5, seed).source
        for seed in (0, 0, 1)
    ]
    after = np.random.get_state()[1]  # noqa: NPY002
    np.testing.assert_array_equal(after, before)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.any(drawn[0] != drawn[2])


GOOD = {
    "images": np.zeros((4, 2, 2, 1), np.uint8),
    "labels": [0, 0, 1, 1],
    "other_images": np.ones((4, 2, 2, 1), np.uint8),
    "noise_rate": 0.5,
    "seed": 0,
    "exact": True,
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": [0, 1]}, ValueError, "2 labels, 4 images"),
        ({"labels": [0.5] * 4}, ValueError, r"`labels` must be .*=0\.5"),
        ({"labels": list("abcd")}, TypeError, "`labels` must be .*Encode"),
        ({"images": [0, 1, 2, 3]}, ValueError, r"images of shape \(4,\)"),
        ({"images": [["a"]] * 4}, TypeError, "`images` must be integers or"),
        (
            {"other_images": np.ones((4, 3, 3, 1), np.uint8)},
            ValueError,
            r"`other_images` must be images of shape \(2, 2, 1\), dtype uint8",
        ),
        (
            {"other_images": np.ones((4, 2, 2, 1), np.float32)},
            ValueError,
            r"Received: other_images of shape \(2, 2, 1\), dtype float32",
        ),
        (
            {"other_images": np.ones((1, 2, 2, 1), np.uint8)},
            ValueError,
            r"must have at least 2 images.*Received: 1 other_images\.",
        ),
        ({"noise_rate": 50}, ValueError, r"noise_rate=50\. Give a fraction"),
        ({"seed": -1}, ValueError, "`seed` must be an integer >= 0"),
    ],
)
def test_errors(change, error, message):
    noise.replace_images(**GOOD)
    with pytest.raises(error, match=message):
        noise.replace_images(**{**GOOD, **change})
