"""The recipes of augmentation, against NumPy and Pillow, and their seeds."""

import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image
from PIL import ImageEnhance
from PIL import ImageOps

from keras_smkd import data
from keras_smkd.data import order
from keras_smkd.data import rand_augment
from keras_smkd.data import recipes

tf = pytest.importorskip("tensorflow")


def generator(seed, epoch, batch, shard=0):
    """Return the generator of a batch, as the documentation has it."""
    key = np.random.SeedSequence(seed, spawn_key=(1, epoch, batch, shard))
    return np.random.default_rng(key)


def order_of_epoch(size, seed, epoch):
    key = np.random.SeedSequence(seed, spawn_key=(0, epoch))
    return np.random.default_rng(key).permutation(size)


def numpy_batches(dataset):
    return [
        (x.numpy(), {k: v.numpy() for k, v in y.items()})
        if isinstance(y, dict)
        else (x.numpy(), y.numpy())
        for x, y in dataset
    ]


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)


LABELS = np.arange(20) % 4


def pipeline(images, **options):
    arguments = {"batch_size": 6, "num_classes": 4, "seed": 3, **options}
    return data.make_pipeline(images, LABELS, **arguments)


def test_names():
    assert recipes.get_augmentation(None) is data.RECIPES["none"]
    assert not data.RECIPES["none"].is_random
    mine = data.Augmentation(mirror=True)
    assert recipes.get_augmentation(mine) is mine
    with pytest.raises(ValueError, match=r"'mixpu'\. Did you mean 'mixup'\?"):
        recipes.get_augmentation("mixpu")
    with pytest.raises(ValueError, match=r"'none', 'flip_crop',.*augment=7\.$"):
        recipes.get_augmentation(7)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"padding": -1}, ValueError, "`padding` must be"),
        ({"padding": 1.0}, TypeError, "`padding` must be an integer"),
        ({"mirror": 1}, TypeError, "`mirror` must be a boolean.*mirror=1"),
        ({"num_ops": -2}, ValueError, "`num_ops` must be"),
        ({"magnitude": 9}, ValueError, r"`magnitude` must be in \[0, 1\]"),
        ({"mixup": -0.1}, ValueError, "`mixup` must be"),
        ({"cutmix": np.inf}, ValueError, "`cutmix` must be"),
        ({"cutmix": 1, "mixup": 1}, ValueError, "must not both be positive"),
    ],
)
def test_augmentation_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        data.Augmentation(**arguments)


def test_flip_crop_is_what_numpy_says(images):
    dataset = pipeline(images, augment="flip_crop", shuffle=True)
    for epoch in range(2):
        places = order_of_epoch(20, 3, epoch)
        for step, (x, y) in enumerate(dataset):
            chosen = places[6 * step : 6 * step + 6]
            np.testing.assert_array_equal(y, LABELS[chosen])
            draw = generator(3, epoch, step)
            n = len(chosen)
            top, left = (
                draw.integers(0, 9, n, "i4"),
                draw.integers(0, 9, n, "i4"),
            )
            mirrored = draw.integers(0, 2, n, "i4")
            for k in range(n):
                padded = np.pad(images[chosen[k]], [(4, 4), (4, 4), (0, 0)])
                expected = padded[top[k] :, left[k] :][:8, :8]
                if mirrored[k]:
                    expected = expected[:, ::-1]
                np.testing.assert_allclose(
                    x[k], expected / 255, rtol=0, atol=1e-6
                )


def test_mixup_is_what_numpy_says(images):
    augment = data.Augmentation(mixup=0.4)
    dataset = pipeline(images, augment=augment, mean=[0.1, 0.2, 0.3], std=0.5)
    for step, (x, y) in enumerate(dataset):
        chosen = slice(6 * step, 6 * step + 6)
        values = (images[chosen] / 255 - [0.1, 0.2, 0.3]) / 0.5
        one_hot = np.eye(4)[LABELS[chosen]]
        draw = generator(3, 0, step)
        partner = draw.permutation(len(values))
        share = draw.beta(0.4, 0.4, len(values))
        assert y.dtype == tf.float32
        for k in range(len(values)):
            other = partner[k]
            expected = share[k] * values[k] + (1 - share[k]) * values[other]
            np.testing.assert_allclose(x[k], expected, rtol=0, atol=1e-5)
            np.testing.assert_allclose(
                y[k],
                share[k] * one_hot[k] + (1 - share[k]) * one_hot[other],
                rtol=0,
                atol=1e-6,
            )
        np.testing.assert_allclose(y.numpy().sum(1), 1.0, rtol=1e-6)


def test_mixup_of_features(rng):
    x = rng.normal(size=(20, 5)).astype(np.float32)
    ((mixed, y),) = pipeline(
        x, batch_size=20, augment=data.Augmentation(mixup=1.0)
    )
    draw = generator(3, 0, 0)
    partner, share = draw.permutation(20), draw.beta(1, 1, 20)[:, None]
    np.testing.assert_allclose(
        mixed, share * x + (1 - share) * x[partner], rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(y.numpy().sum(1), 1.0, rtol=1e-6)


def test_cutmix_labels_are_the_shares_of_the_area():
    # Images filled with their class: the pixels tell what the label must be.
    labels = np.arange(200) % 5
    filled = np.ones((200, 10, 12, 1), np.float32) * labels[:, None, None, None]
    ((x, y),) = data.make_pipeline(
        filled,
        labels,
        num_classes=5,
        batch_size=200,
        seed=0,
        augment=data.Augmentation(cutmix=1.0),
    )
    x, y = x.numpy()[..., 0], y.numpy()
    for k in range(200):
        area = [np.mean(x[k] == label) for label in range(5)]
        np.testing.assert_allclose(y[k], area, rtol=0, atol=1e-6)
        # What comes from the other image is one box.
        foreign = x[k] != labels[k]
        if foreign.any():
            rows = np.flatnonzero(foreign.any(1))
            columns = np.flatnonzero(foreign.any(0))
            assert foreign[rows[0] : rows[-1] + 1][:, columns].all()
            assert len(columns) == columns[-1] - columns[0] + 1
    mixed = y.max(1) < 1
    assert 0.4 < mixed.mean() < 0.9
    # Beta(1, 1) boxes cover half, less what the edges clip.
    assert 0.2 < (1 - y[np.arange(200), labels]).mean() < 0.5


def test_soft_labels_are_mixed_too(images):
    soft = np.full((20, 4), 0.1) + 0.6 * np.eye(4)[LABELS]
    ((_, y),) = data.make_pipeline(
        images, soft, batch_size=20, seed=3, augment=data.Augmentation(mixup=1)
    )
    draw = generator(3, 0, 0)
    partner, share = draw.permutation(20), draw.beta(1, 1, 20)[:, None]
    np.testing.assert_allclose(
        y, share * soft + (1 - share) * soft[partner], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("name", list(data.RECIPES))
def test_same_seeds_same_batches(images, name):
    options = {"augment": name, "shuffle": True}

    def epochs(seed, count=3, **more):
        dataset = pipeline(images, **{**options, "seed": seed, **more})
        return [numpy_batches(dataset) for _ in range(count)]

    def equal(a, b):
        return all(
            np.array_equal(x, v) and np.array_equal(y, w)
            for (x, y), (v, w) in zip(a, b, strict=True)
        )

    first = epochs(3)
    assert not equal(first[0], first[1])
    # Whatever the global seed and the threads, and after a resume.
    tf.random.set_seed(1)
    again = epochs(3, 2, initial_epoch=1, prefetch=False)
    assert all(map(equal, first[1:], again))
    if name != "randaugment":
        assert not equal(first[0], epochs(4, 1)[0])


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("none", 0.50218),
        ("flip_crop", 0.31120),
        ("randaugment", 0.30038),
        ("mixup", 0.26027),
        ("cutmix", 0.29391),
    ],
)
def test_batches_are_the_same_on_every_backend(name, mean):
    # Numbers found once: no backend may give others.
    grid = np.arange(20 * 64 * 3, dtype=np.int64) * 7919 % 256
    dataset = pipeline(
        grid.astype(np.uint8).reshape(20, 8, 8, 3), augment=name, shuffle=True
    )
    (x, y), *_ = numpy_batches(dataset)
    labels = y if y.ndim == 1 else y.argmax(1)
    if name != "mixup" and name != "cutmix":
        assert labels.tolist() == LABELS[order_of_epoch(20, 3, 0)[:6]].tolist()
    assert x.mean() == pytest.approx(mean, abs=2e-5)


def test_out_of_order_is_allowed_on_request(images):
    dataset = pipeline(images, shuffle=True, deterministic=False)
    for _ in range(2):
        labels = np.concatenate([y for _, y in dataset])
        assert sorted(labels) == sorted(LABELS)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_make_the_whole(images, count):
    # Those of `tf.data` have the same: see test_data_torch.
    def epochs(index, **options):
        batches = data.PipelineSequence(
            images,
            LABELS,
            index=np.arange(20),
            batch_size=4,
            shuffle=True,
            seed=2,
            shard=(index, count),
            **options,
        )
        found = []
        for _ in range(2):
            found.append([y["index"].tolist() for _, y in batches])
            batches.on_epoch_end()
        return found

    shards = [epochs(k) for k in range(count)]
    for epoch in range(2):
        seen = [list(itertools.chain(*shard[epoch])) for shard in shards]
        assert sorted(itertools.chain(*seen)) == list(range(20))
        for k in range(count):
            assert seen[k] == order_of_epoch(20, 2, epoch)[k::count].tolist()
    full = [epochs(k, drop_remainder=True)[0] for k in range(count)]
    steps = 20 // count // 4
    assert [len(batches) for batches in full] == [steps] * count
    assert all(len(batch) == 4 for batches in full for batch in batches)


def test_full_batches_are_as_many_on_every_shard():
    # Shares of 4 and 3 examples in batches of 2.
    counts = [order.num_batches(7, 2, True, (k, 2)) for k in range(2)]
    assert counts == [1, 1]
    counts = [order.num_batches(7, 3, False, (k, 2)) for k in range(2)]
    assert counts == [2, 1]


def test_shards_have_draws_of_their_own(rng):
    one = rng.integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    alike = np.repeat(one, 20, axis=0)
    first, second = (
        numpy_batches(pipeline(alike, augment="flip_crop", shard=(k, 2)))[0][0]
        for k in range(2)
    )
    assert np.any(first != second)


@pytest.mark.parametrize(
    ("shard", "error", "message"),
    [
        (3, TypeError, r"pair \(index, count\).*shard=3"),
        ((2, 2), ValueError, r"index < count.*shard=\(2, 2\)"),
        ((0, 0), ValueError, r"`shard\[1\]` must be an integer >= 1"),
        ((0, 21), ValueError, "count <= 20"),
    ],
)
def test_shard_errors(images, shard, error, message):
    with pytest.raises(error, match=message):
        pipeline(images, shard=shard)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "mixup", "num_classes": None}, "`num_classes` must be"),
        ({"augment": "cutmix", "with_index": True}, "`index` must not be"),
        ({"augment": "mixup", "index": range(20)}, "augment='mixup' with an"),
        ({"mean": [0.5, 0.5]}, r"3 channels.*mean=\[0\.5, 0\.5\]"),
        ({"mean": 0.5}, "both None.*std=None"),
        ({"mean": 0.5, "std": [1, 0, 1]}, r"`std` must be > 0.*\[1, 0, 1\]"),
        ({"mean": 0.5, "std": np.nan}, "std=nan"),
    ],
)
def test_errors(images, options, message):
    with pytest.raises(ValueError, match=message):
        pipeline(images, **options)


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("cutmix", (20, 8), np.float32),
        ("randaugment", (20, 8, 8, 3), np.float32),
        ("randaugment", (20, 8, 8, 2), np.uint8),
    ],
)
def test_images_that_do_not_fit(name, shape, dtype):
    with pytest.raises(ValueError, match=rf"for augment='{name}'.*shape"):
        pipeline(np.zeros(shape, dtype), augment=name)


# RandAugment


def by_hand(image, name, signed):
    """Return the image moved, pixel by pixel, and where that is certain."""
    height, width = image.shape[:2]
    moved, certain = np.full_like(image, 128), np.ones((height, width), bool)
    angle = np.radians(30) * signed
    for row, column in itertools.product(range(height), range(width)):
        x, y = column - (width - 1) / 2, row - (height - 1) / 2
        if name == "rotate":
            x, y = (
                x * np.cos(angle) + y * np.sin(angle),
                y * np.cos(angle) - x * np.sin(angle),
            )
        elif name == "shear_x":
            x += 0.3 * signed * y
        elif name == "shear_y":
            y += 0.3 * signed * x
        elif name == "translate_x":
            x += 150 / 331 * width * signed
        elif name == "translate_y":
            y += 150 / 331 * height * signed
        x, y = x + (width - 1) / 2, y + (height - 1) / 2
        # Halves are rounded one way or the other.
        certain[row, column] = all(abs(v % 1 - 0.5) > 1e-3 for v in (x, y))
        x, y = round(x), round(y)
        if 0 <= x < width and 0 <= y < height:
            moved[row, column] = image[y, x]
    return moved, certain


def changed(images, name, sign, magnitude):
    """Return the images after one operation, the same for all."""
    op = np.full((len(images), 1), data.RAND_AUGMENT_OPS.index(name), "i4")
    return rand_augment.apply(images, op, sign * np.ones_like(op), magnitude)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "name", data.RAND_AUGMENT_OPS[data.RAND_AUGMENT_OPS.index("rotate") :]
)
def test_moves_are_those_of_a_loop(rng, name, channels, sign):
    images = rng.integers(0, 256, (2, 30, 31, channels)).astype(np.uint8)
    got = changed(images, name, sign, 0.8)
    for k in range(2):
        expected, certain = by_hand(images[k], name, 0.8 * sign)
        np.testing.assert_array_equal(got[k][certain], expected[certain])
        assert certain.mean() > 0.7


def test_values_are_changed_as_worked_by_hand():
    images = np.array([0, 10, 100, 153, 154, 255], np.uint8)
    images = images.reshape(1, 1, 6, 1).repeat(3, axis=3)
    for name, sign, expected in (
        ("identity", 1, [0, 10, 100, 153, 154, 255]),
        # 8 - 2 bits are kept, and all from 256 * 0.5 on is inverted.
        ("posterize", 1, [0, 8, 100, 152, 152, 252]),
        ("solarize", 1, [0, 10, 100, 102, 101, 0]),
        # Times 1.45 and 0.55, cut off at 255.
        ("brightness", 1, [0, 14, 145, 221, 223, 255]),
        ("brightness", -1, [0, 5, 55, 84, 84, 140]),
        # It is grey already.
        ("color", 1, [0, 10, 100, 153, 154, 255]),
        ("auto_contrast", 1, [0, 10, 100, 153, 154, 255]),
    ):
        got = changed(images, name, sign, 0.5)[0, 0, :, 0]
        # Pillow rounds some tables up and some down.
        assert np.abs(got.astype(int) - expected).max() <= 1, name
    # From its own range to the whole one.
    narrow = np.array([50, 75, 100], np.uint8).reshape(1, 1, 3, 1)
    got = changed(narrow, "auto_contrast", 1, 0.5)[0, 0, :, 0]
    assert np.abs(got.astype(int) - [0, 127, 255]).max() <= 1


def by_pillow(image, name, sign, magnitude):
    """Return the image after one operation of Pillow's."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    factor = 1.0 + 0.9 * sign * magnitude
    changed = {
        "auto_contrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "posterize": lambda: ImageOps.posterize(
            picture, 8 - round(4 * magnitude)
        ),
        "solarize": lambda: ImageOps.solarize(
            picture, round(256 * (1 - magnitude))
        ),
        "brightness": lambda: ImageEnhance.Brightness(picture).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(picture).enhance(factor),
        "color": lambda: ImageEnhance.Color(picture).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(factor),
    }[name]()
    return np.asarray(changed).reshape(image.shape)


@pytest.mark.parametrize("magnitude", [0.0, 0.3, 0.55, 1.0])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", data.RAND_AUGMENT_OPS[1:9])
def test_values_are_changed_as_pillow_does(rng, name, channels, magnitude):
    for images in (
        rng.integers(0, 256, (6, 12, 13, channels)),
        # Narrow, with a value that is most of an image, and of one alone.
        rng.integers(90, 140, (6, 24, 24, channels)),
        rng.choice([7, 200], (6, 20, 20, channels), p=[0.9, 0.1]),
        np.full((2, 5, 5, channels), 77),
        rng.choice([0, 255], (4, 40, 40, channels)),
    ):
        images = images.astype(np.uint8)
        for sign in (-1, 1):
            got = changed(images, name, sign, magnitude)
            for one, image in zip(got, images, strict=True):
                np.testing.assert_array_equal(
                    one, by_pillow(image, name, sign, magnitude)
                )


def test_each_image_has_operations_of_its_own():
    draws = rand_augment.draw(np.random.default_rng(0), 2, 500)
    assert len(set(map(tuple, draws["op"]))) > 150
    assert np.bincount(draws["op"].ravel(), minlength=14).min() > 40
    assert abs(draws["sign"].mean()) < 0.1
    assert set(draws["sign"].ravel()) == {-1, 1}


def test_each_image_gets_what_was_drawn_for_it():
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    names = rand_augment.RAND_AUGMENT_OPS
    op = [[names.index("solarize")], [names.index("identity")]]
    changed = rand_augment.apply(
        images, np.array(op, np.int32), np.ones((2, 1), np.int32), 1.0
    )
    np.testing.assert_array_equal(changed[0], 255 - images[0])
    np.testing.assert_array_equal(changed[1], images[1])


def test_the_strongest_and_the_weakest(images):
    for magnitude in (0.0, 1.0):
        augment = data.Augmentation(num_ops=1, magnitude=magnitude)
        ((x, _),) = pipeline(images, batch_size=20, augment=augment)
        assert x.shape == (20, 8, 8, 3)
        assert 0 <= x.numpy().min() and x.numpy().max() <= 1


def test_the_order_of_recipes():
    described = dataclasses.asdict(data.RECIPES["randaugment"])
    assert described["padding"] == 4 and described["num_ops"] == 2
    # First moved, then changed: the border of 0 is inverted by solarize.
    white = np.full((50, 8, 8, 1), 255, np.uint8)
    augment = data.Augmentation(padding=4, num_ops=1, magnitude=1.0)
    ((x, _),) = data.make_pipeline(
        white, [0] * 50, batch_size=50, seed=0, augment=augment
    )
    draws = recipes.draw(augment, order.batch_generator(0, 0, 0), 50, (8, 8, 1))
    solarized = np.flatnonzero(
        draws["op"][:, 0] == data.RAND_AUGMENT_OPS.index("solarize")
    )
    assert solarized.size
    for k in solarized:
        top, left = draws["top"][k], draws["left"][k]
        padded = np.pad(white[0, :, :, 0], 4)[top : top + 8, left : left + 8]
        np.testing.assert_array_equal(x[k, :, :, 0], (255 - padded) / 255)
