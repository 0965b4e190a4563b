"""RandAugment: draws in NumPy, operations by Pillow.

Each image has operations of its own, as in the paper.
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_smkd.data.optional import import_optional

RAND_AUGMENT_OPS: tuple[str, ...] = (
    "identity",
    "auto_contrast",
    "equalize",
    "posterize",  # Keeps 8 - 4 * magnitude bits, rounded.
    "solarize",  # Inverts values from 256 * (1 - magnitude) on.
    "brightness",  # These four: factor 1 +- 0.9 * magnitude.
    "contrast",
    "color",
    "sharpness",
    "rotate",  # +- 30 degrees * magnitude.
    "shear_x",  # +- 0.3 * magnitude.
    "shear_y",
    "translate_x",  # +- 150 / 331 of the width * magnitude.
    "translate_y",
)
"""The operations of the paper, with identity, at their usual largest sizes."""

_GREY = 128


def draw(
    generator: np.random.Generator, num_ops: int, count: int
) -> dict[str, npt.NDArray[np.int32]]:
    """Return which operations each image has, and which way they go.

    `op` is `(count, num_ops)`, a place in `RAND_AUGMENT_OPS`; `sign` is of the
    same shape, -1 or 1.
    """
    size = (count, num_ops)
    return {
        "op": generator.integers(0, len(RAND_AUGMENT_OPS), size, np.int32),
        "sign": generator.choice(np.array([-1, 1], np.int32), size),
    }


def apply(
    images: npt.NDArray[np.uint8],
    op: npt.NDArray[np.int32],
    sign: npt.NDArray[np.int32],
    magnitude: float,
) -> npt.NDArray[np.uint8]:
    """Return images after the operations that were drawn.

    Args:
        images: `(batch, height, width, channels)` uint8, 1 or 3 channels.
        op: `(batch, num_ops)`, places in `RAND_AUGMENT_OPS`.
        sign: `(batch, num_ops)`, -1 or 1.
        magnitude: In [0, 1].

    Returns:
        `(batch, height, width, channels)` uint8.
    """
    import_optional("PIL.Image", "RandAugment", "images")
    result = images.copy()
    for k in range(op.shape[1]):
        # All images at once that get the same operation.
        for place, direction in {*zip(op[:, k], sign[:, k], strict=True)}:
            chosen = (op[:, k] == place) & (sign[:, k] == direction)
            result[chosen] = _changed(
                result[chosen],
                RAND_AUGMENT_OPS[place],
                float(direction),
                magnitude,
            )
    return result


def _changed(
    images: npt.NDArray[np.uint8], name: str, sign: float, magnitude: float
) -> npt.NDArray[np.uint8]:
    """Return images after one operation.

    As Pillow has it; what goes value by value is looked up in tables that
    Pillow makes.
    """
    if name == "identity":
        return images
    if name in ("auto_contrast", "equalize"):
        make = _stretching if name == "auto_contrast" else _equalizing
        rows = np.arange(len(images) * images.shape[-1])
        rows = rows.reshape(len(images), 1, 1, -1)
        return _looked_up(make(_channels(images)), rows, images)
    if name in ("posterize", "solarize"):
        return _table(name, magnitude).take(images)
    factor = 1.0 + 0.9 * sign * magnitude
    if name == "brightness":
        return _blending(factor)[0].take(images)
    if name == "color":
        return _looked_up(_blending(factor), _grey(images)[..., None], images)
    if name == "contrast":
        mean = _grey(images).mean(axis=(1, 2), keepdims=True) + 0.5
        rows = mean.astype("uint8")[..., None]
        return _looked_up(_blending(factor), rows, images)
    result = np.empty_like(images)
    for n, image in enumerate(images):
        picture = _picture(image)
        if name == "sharpness":
            from PIL import ImageEnhance

            picture = ImageEnhance.Sharpness(picture).enhance(factor)
        else:
            picture = _moved(picture, name, sign * magnitude)
        result[n] = np.asarray(picture).reshape(image.shape)
    return result


def _picture(image: npt.NDArray[np.uint8]) -> Any:
    """Return a picture of `(height, width, 1 or 3)`."""
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _grey(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return `(batch, height, width)`, how bright images are."""
    tall = _picture(images.reshape(-1, *images.shape[2:])).convert("L")
    return np.asarray(tall).reshape(images.shape[:3])


@functools.lru_cache(maxsize=16)
def _table(name: str, magnitude: float) -> npt.NDArray[np.uint8]:
    """Return what becomes of each value, `(256,)`."""
    from PIL import ImageOps

    values = _picture(np.arange(256, dtype="uint8").reshape(1, 256, 1))
    if name == "posterize":
        values = ImageOps.posterize(values, 8 - round(4 * magnitude))
    else:
        values = ImageOps.solarize(values, round(256 * (1 - magnitude)))
    return np.array(values)[0]


@functools.lru_cache(maxsize=16)
def _blending(factor: float) -> npt.NDArray[np.uint8]:
    """Return what becomes of each value by its background's.

    `(256, 256)`: `background + factor * (value - background)`.
    """
    from PIL import Image

    values = np.broadcast_to(np.arange(256, dtype="uint8"), (256, 256))
    background, value = (
        _picture(np.ascontiguousarray(x)[..., None]) for x in (values.T, values)
    )
    return np.array(Image.blend(background, value, factor))


def _looked_up(
    tables: npt.NDArray[np.uint8],
    rows: npt.NDArray[Any],
    images: npt.NDArray[np.uint8],
) -> npt.NDArray[np.uint8]:
    """Return values looked up in rows of tables.

    Args:
        tables: `(..., 256)`.
        rows: Which of all rows, an array that broadcasts with the images.
        images: `(batch, height, width, channels)`.
    """
    # Much faster than two arrays as an index.
    return tables.ravel().take(256 * rows.astype("int64") + images)


def _channels(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return `(batch, channels, pixels)`, over which NumPy is fast."""
    flat = images.reshape(len(images), -1, images.shape[-1])
    return np.ascontiguousarray(flat.transpose(0, 2, 1))


def _stretching(channels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return tables that stretch each channel's values over all of them."""
    least = channels.min(axis=-1, keepdims=True).astype("float64")
    most = channels.max(axis=-1, keepdims=True).astype("float64")
    scale = 255.0 / np.where(most > least, most - least, 255.0)
    values = np.arange(256) * scale - np.where(most > least, least, 0.0) * scale
    return np.clip(np.trunc(values), 0, 255).astype("uint8")


def _equalizing(channels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return tables that make each channel's values equally frequent."""
    batch, count, pixels = channels.shape
    rows = np.arange(batch * count).reshape(batch, count, 1)
    counts = np.bincount(
        (256 * rows + channels).ravel(), minlength=256 * batch * count
    ).reshape(batch, count, 256)
    largest = channels.max(axis=-1, keepdims=True).astype("int64")
    step = (pixels - np.take_along_axis(counts, largest, axis=-1)) // 255
    before = np.cumsum(counts, axis=-1) - counts
    tables = (step // 2 + before) // np.maximum(step, 1)
    tables = np.where(step > 0, tables, np.arange(256))
    return np.minimum(tables, 255).astype("uint8")


def _moved(picture: Any, name: str, amount: float) -> Any:
    """Return a picture rotated, sheared or shifted about its centre."""
    grey = _GREY if picture.mode == "L" else (_GREY,) * 3
    if name == "rotate":
        return picture.rotate(-30.0 * amount, fillcolor=grey)
    width, height = picture.size
    # The source of (x, y) is (a x + b y + c, d x + e y + f).
    a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
    if name == "shear_x":
        b = 0.3 * amount
        c = -b * height / 2
    elif name == "shear_y":
        d = 0.3 * amount
        f = -d * width / 2
    elif name == "translate_x":
        c = 150 / 331 * width * amount
    else:
        f = 150 / 331 * height * amount
    from PIL import Image

    return picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        (a, b, c, d, e, f),
        fillcolor=grey,
    )
