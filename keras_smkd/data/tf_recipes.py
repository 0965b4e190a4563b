"""What the recipes do, for `tf.data`."""

from typing import Any

from keras_smkd.data import rand_augment
from keras_smkd.data.recipes import Augmentation


def augment(
    tf: Any, augmentation: Augmentation, images: Any, draws: dict[str, Any]
) -> Any:
    """Return images after all that works on one image by itself."""
    if augmentation.moves:
        images = _move(tf, images, draws, augmentation.padding)
    if augmentation.num_ops:
        shape = images.shape
        images = tf.numpy_function(
            lambda images, op, sign: rand_augment.apply(
                images, op, sign, augmentation.magnitude
            ),
            [images, draws["op"], draws["sign"]],
            tf.uint8,
        )
        images.set_shape(shape)
    return images


def _move(tf: Any, images: Any, draws: dict[str, Any], padding: int) -> Any:
    """Return each image padded, cropped and mirrored as drawn."""
    height, width = images.shape[1:3]
    rows = draws["top"][:, None] + tf.range(height)
    columns = draws["left"][:, None] + tf.range(width)
    columns = tf.where(
        draws["mirrored"][:, None] == 1, columns[:, ::-1], columns
    )
    sides = [padding, padding]
    padded = tf.pad(images, [[0, 0], sides, sides, [0, 0]])
    cropped = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(cropped, columns, axis=2, batch_dims=1)


def mix(tf: Any, images: Any, labels: Any, draws: dict[str, Any]) -> Any:
    """Return images and soft labels mixed with their partners' as drawn."""
    others = tf.gather(images, draws["partner"])
    share = draws["share"][:, None]
    if "box" in draws:
        top, bottom, left, right = (draws["box"][:, k, None] for k in range(4))
        rows = tf.range(images.shape[1])
        columns = tf.range(images.shape[2])
        inside = ((top <= rows) & (rows < bottom))[:, :, None] & (
            (left <= columns) & (columns < right)
        )[:, None, :]
        images = tf.where(inside[..., None], others, images)
    else:
        portion = tf.reshape(share, (-1, *[1] * (images.shape.rank - 1)))
        images = portion * images + (1 - portion) * others
    partners = tf.gather(labels, draws["partner"])
    return images, share * labels + (1 - share) * partners
