"""Recipes of augmentation, their draws, and what they do in NumPy.

The draws are NumPy's in every pipeline; the work is done here for those
without TensorFlow, and in `tf_recipes` with its operations.
"""

import dataclasses
import difflib
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd.data import rand_augment

Draws = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Says how images are augmented; the named recipes are some of these.

    The steps come in the order of the arguments. All but the last two work
    on each image by itself.

    Args:
        padding: Pixels >= 0 of zeros on each side, before a crop to the old
            size at a random place. 0: no crop.
        mirror: Whether to mirror left-right with probability 1/2.
        num_ops: Operations of RandAugment, >= 0, drawn for each image with
            replacement. Needs uint8 images of 1 or 3 channels, and Pillow,
            which does them.
        magnitude: Strength of each operation of RandAugment, in [0, 1]; the
            paper's level divided by its largest. See `RAND_AUGMENT_OPS`.
        mixup: Parameter >= 0 of MixUp's Beta distribution. 0: no MixUp.
            With it, an image is `share * image + (1 - share) * other`, with
            `share` from Beta(mixup, mixup), its label likewise, and the other
            one from the same batch.
        cutmix: Parameter >= 0 of CutMix's Beta distribution. 0: no CutMix.
            With it, a box of `1 - share` of the image's area, clipped at the
            edge, comes from another image, and so does the label, by the part
            of the area.

    Raises:
        TypeError: if a number is none, or `mirror` no boolean.
        ValueError: if a number is out of range, or both `mixup` and `cutmix`
            are positive.

    Example:

    >>> Augmentation(padding=4, mirror=True, mixup=0.2)
    Augmentation(padding=4, mirror=True, num_ops=0, magnitude=0.3, \
mixup=0.2, cutmix=0.0)

    Reference:
        Cubuk et al., 2019, "RandAugment: Practical automated data
        augmentation with a reduced search space".
        https://arxiv.org/abs/1909.13719
        Zhang et al., 2017, "mixup: Beyond Empirical Risk Minimization".
        https://arxiv.org/abs/1710.09412
        Yun et al., 2019, "CutMix: Regularization Strategy to Train Strong
        Classifiers with Localizable Features", algorithm A1.
        https://arxiv.org/abs/1905.04899
    """

    padding: int = 0
    mirror: bool = False
    num_ops: int = 0
    magnitude: float = 0.3
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        _checks.integer("padding", self.padding, minimum=0)
        _checks.integer("num_ops", self.num_ops, minimum=0)
        _checks.number("magnitude", self.magnitude, minimum=0.0, maximum=1.0)
        _checks.number("mixup", self.mixup, minimum=0.0)
        _checks.number("cutmix", self.cutmix, minimum=0.0)
        if not isinstance(self.mirror, bool):
            raise TypeError(
                f"`mirror` must be a boolean. Received: mirror={self.mirror!r}."
            )
        if self.mixup and self.cutmix:
            raise ValueError(
                "`mixup` and `cutmix` must not both be positive. Received: "
                f"mixup={self.mixup}, cutmix={self.cutmix}."
            )

    @property
    def moves(self) -> bool:
        """Whether images are cropped or mirrored."""
        return self.padding > 0 or self.mirror

    @property
    def mixes(self) -> bool:
        """Whether examples are mixed, which makes their labels soft."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def is_random(self) -> bool:
        """Whether there is anything to draw."""
        return self.moves or self.num_ops > 0 or self.mixes


RECIPES: dict[str, Augmentation] = {
    "none": Augmentation(),
    "flip_crop": Augmentation(padding=4, mirror=True),
    "randaugment": Augmentation(padding=4, mirror=True, num_ops=2),
    "mixup": Augmentation(padding=4, mirror=True, mixup=0.2),
    "cutmix": Augmentation(padding=4, mirror=True, cutmix=1.0),
}
"""What the names of recipes stand for."""


def get_augmentation(augment: str | Augmentation | None) -> Augmentation:
    """Return the augmentation of a name, or raise and offer near names."""
    if augment is None:
        return RECIPES["none"]
    if isinstance(augment, Augmentation):
        return augment
    if isinstance(augment, str) and augment in RECIPES:
        return RECIPES[augment]
    near = difflib.get_close_matches(str(augment), RECIPES, n=2)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(
        f"`augment` must be one of {', '.join(map(repr, RECIPES))}, or an "
        f"Augmentation. Received: augment={augment!r}.{hint}"
    )


def draw(
    augmentation: Augmentation,
    generator: np.random.Generator,
    count: int,
    shape: tuple[int, ...],
) -> Draws:
    """Return all that chance decides for a batch of `count` images."""
    draws: Draws = {}
    if augmentation.moves:
        span = 2 * augmentation.padding + 1
        draws["top"] = generator.integers(0, span, count, np.int32)
        draws["left"] = generator.integers(0, span, count, np.int32)
        mirrored = generator.integers(0, 2, count, np.int32)
        draws["mirrored"] = mirrored if augmentation.mirror else 0 * mirrored
    if augmentation.num_ops:
        draws.update(rand_augment.draw(generator, augmentation.num_ops, count))
    if augmentation.mixes:
        parameter = augmentation.mixup or augmentation.cutmix
        draws["partner"] = generator.permutation(count).astype(np.int32)
        share = generator.beta(parameter, parameter, count)
        if augmentation.cutmix:
            draws["box"], share = _boxes(generator, share, *shape[:2])
        draws["share"] = share.astype(np.float32)
    return draws


def _boxes(
    generator: np.random.Generator,
    share: npt.NDArray[np.float64],
    height: int,
    width: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """Return boxes (top, bottom, left, right), and what they leave over."""
    edges = []
    for size in (height, width):
        half = (size * np.sqrt(1.0 - share)).astype(np.int64) // 2
        centre = generator.integers(0, size, len(share))
        edges += [np.maximum(centre - half, 0), np.minimum(centre + half, size)]
    top, bottom, left, right = edges
    left_over = 1.0 - (bottom - top) * (right - left) / (height * width)
    return np.stack(edges, axis=1).astype(np.int32), left_over


def move(
    images: npt.NDArray[Any], draws: Draws, padding: int
) -> npt.NDArray[Any]:
    """Return each image padded, cropped and mirrored as drawn."""
    height, width = images.shape[1:3]
    sides = (padding, padding)
    padded = np.pad(images, [(0, 0), sides, sides, (0, 0)])
    rows = draws["top"][:, None] + np.arange(height)
    columns = draws["left"][:, None] + np.arange(width)
    columns = np.where(
        draws["mirrored"][:, None] == 1, columns[:, ::-1], columns
    )
    each = np.arange(len(images))[:, None, None]
    return padded[each, rows[:, :, None], columns[:, None, :]]


def mix(
    images: npt.NDArray[Any], labels: npt.NDArray[Any], draws: Draws
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return images and soft labels mixed with their partners' as drawn."""
    others = images[draws["partner"]]
    share = draws["share"][:, None]
    if "box" in draws:
        top, bottom, left, right = draws["box"].T[:, :, None]
        rows = np.arange(images.shape[1])
        columns = np.arange(images.shape[2])
        inside = ((top <= rows) & (rows < bottom))[:, :, None] & (
            (left <= columns) & (columns < right)
        )[:, None, :]
        images = np.where(inside[..., None], others, images)
    else:
        portion = share.reshape(-1, *[1] * (images.ndim - 1))
        images = portion * images + (1 - portion) * others
    labels = share * labels + (1 - share) * labels[draws["partner"]]
    return images, labels
