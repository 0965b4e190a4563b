"""RandAugment: draws in NumPy, operations by Pillow, image by image.

Each image has operations of its own, as in the paper.
"""

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

_ENHANCED = ("brightness", "contrast", "color", "sharpness")
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
    pillow = import_optional("PIL.Image", "RandAugment", "images")
    result = np.empty_like(images)
    for n, image in enumerate(images):
        picture = pillow.fromarray(
            image[..., 0] if image.shape[-1] == 1 else image
        )
        for k, direction in zip(op[n], sign[n], strict=True):
            picture = _changed(
                picture, RAND_AUGMENT_OPS[k], float(direction), magnitude
            )
        result[n] = np.asarray(picture).reshape(image.shape)
    return result


def _changed(picture: Any, name: str, sign: float, magnitude: float) -> Any:
    """Return a picture after one operation."""
    from PIL import ImageEnhance
    from PIL import ImageOps

    if name == "identity":
        return picture
    if name == "auto_contrast":
        return ImageOps.autocontrast(picture)
    if name == "equalize":
        return ImageOps.equalize(picture)
    if name == "posterize":
        return ImageOps.posterize(picture, 8 - round(4 * magnitude))
    if name == "solarize":
        return ImageOps.solarize(picture, round(256 * (1 - magnitude)))
    if name in _ENHANCED:
        enhancer = getattr(ImageEnhance, name.capitalize())(picture)
        return enhancer.enhance(1.0 + 0.9 * sign * magnitude)
    return _moved(picture, name, sign * magnitude)


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
