"""RandAugment: draws in NumPy, and the operations in TensorFlow.

Each image has operations of its own, as in the paper. Operations of one kind
are done together, for those images of a batch that have one of them: looking
up values in a table per channel, blending with a grey or with a smoothed
image, and moving pixels.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

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

_FILL = 128.0
_BRIGHTNESS = RAND_AUGMENT_OPS.index("brightness")
_COLOR = RAND_AUGMENT_OPS.index("color")
_SHARPNESS = RAND_AUGMENT_OPS.index("sharpness")


def draw(
    generator: np.random.Generator,
    num_ops: int,
    magnitude: float,
    count: int,
    shape: tuple[int, ...],
) -> dict[str, npt.NDArray[Any]]:
    """Return which operations each image has, and how strong they are.

    `op` is `(num_ops, count)`; `factor` holds the factors of blends, 1 where
    there are none; `transform` is `(num_ops, count, 8)`, as TensorFlow takes
    projective transforms, and the identity where nothing moves.
    """
    size = (num_ops, count)
    op = generator.integers(0, len(RAND_AUGMENT_OPS), size, np.int32)
    signed = magnitude * generator.choice([-1.0, 1.0], size)
    blends = (op >= _BRIGHTNESS) & (op <= _SHARPNESS)
    return {
        "op": op,
        "factor": np.where(blends, 1.0 + 0.9 * signed, 1.0).astype(np.float32),
        "transform": _transforms(op, signed, *shape[:2]),
    }


def _transforms(
    op: npt.NDArray[np.int32],
    signed: npt.NDArray[np.float64],
    height: int,
    width: int,
) -> npt.NDArray[np.float32]:
    """Return `[a, b, c, d, e, f, 0, 0]`: the source of (x, y).

    It is `(a x + b y + c, d x + e y + f)`. Rotation and shear leave the
    centre where it is.
    """
    name = np.array(RAND_AUGMENT_OPS)[op]
    angle = np.where(name == "rotate", np.radians(30.0) * signed, 0.0)
    a = e = np.cos(angle)
    b = np.sin(angle) + np.where(name == "shear_x", 0.3 * signed, 0.0)
    d = -np.sin(angle) + np.where(name == "shear_y", 0.3 * signed, 0.0)
    x, y = (width - 1) / 2, (height - 1) / 2
    c, f = x - a * x - b * y, y - d * x - e * y
    c += np.where(name == "translate_x", 150 / 331 * width * signed, 0.0)
    f += np.where(name == "translate_y", 150 / 331 * height * signed, 0.0)
    zero = np.zeros_like(a)
    return np.stack([a, b, c, d, e, f, zero, zero], -1).astype(np.float32)


def apply(
    tf: Any, images: Any, draws: dict[str, Any], num_ops: int, magnitude: float
) -> Any:
    """Return uint8 images after the operations that were drawn."""

    def look_up(images: Any, op: Any, factor: Any) -> Any:
        return _look_up(tf, images, op, factor, magnitude)

    def color(images: Any, factor: Any) -> Any:
        return _blend(tf, _grey(tf, images), images, factor)

    def sharpen(images: Any, factor: Any) -> Any:
        return _blend(tf, _smooth(tf, images), images, factor)

    def move(images: Any, transform: Any) -> Any:
        return _move(tf, images, transform)

    for k in range(num_ops):
        op, factor = draws["op"][k], draws["factor"][k]
        for chosen, change, arguments in (
            ((op > 0) & (op < _COLOR), look_up, (op, factor)),
            (op == _COLOR, color, (factor,)),
            (op == _SHARPNESS, sharpen, (factor,)),
            (op > _SHARPNESS, move, (draws["transform"][k],)),
        ):
            places = tf.where(chosen)
            parts = [tf.gather(v, places[:, 0]) for v in (images, *arguments)]
            images = tf.tensor_scatter_nd_update(images, places, change(*parts))
    return images


def _move(tf: Any, images: Any, transform: Any) -> Any:
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transform,
        output_shape=images.shape[1:3],
        fill_value=_FILL,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )


def _grey(tf: Any, images: Any) -> Any:
    """Return `(batch, height, width, 1)` int32, as Pillow makes it grey."""
    values = tf.cast(images, tf.int32)
    if images.shape[-1] == 1:
        return values
    weights = tf.constant([19595, 38470, 7471])
    total = tf.reduce_sum(values * weights, -1, keepdims=True)
    return (total + 0x8000) // 0x10000


def _look_up(
    tf: Any, images: Any, op: Any, factor: Any, magnitude: float
) -> Any:
    """Return images after the operations that are tables of values."""
    height, width, channels = images.shape[1:]
    pixels = height * width
    batch = tf.shape(images)[0]
    value = tf.range(256)
    # All tables are (batch, channels, 256), or broadcast to it.
    flat = tf.reshape(images, (batch, pixels, channels))
    row = tf.range(batch * channels)[None, :] * 256
    row = tf.reshape(row, (batch, 1, channels))
    counts = tf.math.bincount(
        tf.reshape(tf.cast(flat, tf.int32) + row, [-1]),
        minlength=batch * channels * 256,
        maxlength=batch * channels * 256,
    )
    counts = tf.reshape(counts, (batch, channels, 256))

    low = tf.cast(tf.reduce_min(flat, axis=1), tf.float32)[..., None]
    high = tf.cast(tf.reduce_max(flat, axis=1), tf.float32)[..., None]
    stretched = (tf.cast(value, tf.float32) - low) * tf.math.divide_no_nan(
        255.0, high - low
    )
    stretched = tf.where(
        high > low,
        tf.cast(tf.clip_by_value(stretched, 0, 255), tf.int32),
        value,
    )

    largest = tf.cast(high[..., 0], tf.int32)
    last = tf.gather(counts, largest, batch_dims=2)[..., None]
    step = (pixels - last) // 255
    below = tf.cumsum(counts, axis=-1, exclusive=True)
    equalized = (below + step // 2) // tf.maximum(step, 1)
    equalized = tf.where(step > 0, tf.minimum(equalized, 255), value)

    bits = 8 - round(4 * magnitude)
    bound = round(256 * (1 - magnitude))
    mean = tf.reduce_mean(
        tf.cast(_grey(tf, images), tf.float64), axis=(1, 2, 3), keepdims=True
    )
    mean = tf.floor(tf.cast(mean, tf.float32)[..., 0] + 0.5)
    strength = factor[:, None, None]

    def towards(start: Any) -> Any:
        moved = start + strength * (tf.cast(value, tf.float32) - start)
        return tf.cast(tf.clip_by_value(moved, 0, 255), tf.int32)

    tables = {
        "auto_contrast": stretched,
        "equalize": equalized,
        "posterize": value // 2 ** (8 - bits) * 2 ** (8 - bits),
        "solarize": tf.where(value < bound, value, 255 - value),
        "brightness": towards(0.0),
        "contrast": towards(mean),
    }
    table = tf.broadcast_to(value, (batch, channels, 256))
    for name, values in tables.items():
        drawn = op == RAND_AUGMENT_OPS.index(name)
        table = tf.where(drawn[:, None, None], values, table)
    table = tf.cast(tf.reshape(table, [-1]), tf.uint8)
    changed = tf.gather(table, tf.cast(flat, tf.int32) + row)
    return tf.reshape(changed, tf.shape(images))


def _smooth(tf: Any, images: Any) -> Any:
    """Return the images smoothed; as in Pillow, all but their border."""
    values = tf.cast(images, tf.float32)
    height, width = images.shape[1:3]
    inside = values[:, 1:-1, 1:-1]
    # Nine shifted images, of which the middle one counts five times.
    rows = sum(values[:, k : height - 2 + k] for k in range(3))
    total = sum(rows[:, :, k : width - 2 + k] for k in range(3)) + 4.0 * inside
    smooth = tf.floor(total / 13.0 + 0.5)
    border = [[0, 0], [1, 1], [1, 1], [0, 0]]
    return values + tf.pad(smooth - inside, border)


def _blend(tf: Any, start: Any, images: Any, factor: Any) -> Any:
    """Return images moved away from `start`, or towards it."""
    start = tf.cast(start, tf.float32)
    strength = factor[:, None, None, None]
    values = start + strength * (tf.cast(images, tf.float32) - start)
    return tf.cast(tf.clip_by_value(values, 0, 255), tf.uint8)
