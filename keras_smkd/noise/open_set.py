"""Open-set noise: inputs that belong to none of the classes."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_smkd._labels import class_ids
from keras_smkd.noise.arguments import check_inputs
from keras_smkd.noise.arguments import check_noise_rate
from keras_smkd.noise.arguments import check_seed
from keras_smkd.noise.labels import expected_counts


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class OpenSetImages:
    """Holds images of which some come from another data set.

    Args:
        images: `(examples, ...)`, in the order of the labels.
        source: `(examples,)` int64: the index in the other data set where the
            image was replaced, -1 where it was not.
    """

    images: npt.NDArray[Any]
    source: npt.NDArray[np.int64]

    @property
    def is_replaced(self) -> npt.NDArray[np.bool_]:
        """`(examples,)` booleans: whether the image was replaced."""
        return self.source >= 0

    @property
    def realized_noise_rate(self) -> float:
        """The share of images that were replaced, in [0, 1]."""
        return float(np.mean(self.is_replaced))

    def __repr__(self) -> str:
        return (
            f"OpenSetImages({len(self.images)} images, "
            f"{100 * self.realized_noise_rate:.1f} % replaced)"
        )


def replace_images(
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    other_images: npt.ArrayLike,
    noise_rate: float,
    seed: int,
    exact: bool = False,
) -> OpenSetImages:
    """Replace a share of the images by images of another data set.

    `images[n] = other_images[source[n]]` with chance `noise_rate`.

    The labels stay, so those of the replaced images are wrong, and no class
    would be right. Every other image serves once at most. Draw once for a
    data set and keep the result.

    Args:
        images: `(examples, ...)` numbers. Left as they are: the result has a
            copy.
        labels: `(examples,)` integers. For `exact` only, and checked anyway.
        other_images: `(others, ...)`, shape of an image and dtype as
            `images`, at least as many as are to be replaced. Their classes
            should not be among those of the labels.
        noise_rate: Chance that an image is replaced, in [0, 1].
        seed: Integer >= 0. The same seed gives the same images.
        exact: If False, each image is drawn by itself, so the realised rate
            varies from seed to seed. If True, of each class the expected
            number is replaced, rounded, halves up.

    Returns:
        `OpenSetImages`: `images`, `source`, and what follows from it,
        `is_replaced` and `realized_noise_rate`.

    Raises:
        TypeError: if the images or `labels` are not numbers, or `seed` is not
            an integer.
        ValueError: if `images` and `labels` differ in length, `images` and
            `other_images` in shape or dtype, if there are too few other
            images, or if a number is out of range.

    Example:

    >>> images, other_images = np.zeros((6, 2)), np.ones((9, 2))
    >>> mixed = replace_images(
    ...     images, [0, 0, 0, 0, 1, 1], other_images, 0.5, seed=0, exact=True
    ... )
    >>> mixed
    OpenSetImages(6 images, 50.0 % replaced)
    >>> mixed.images[:, 0].tolist()
    [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]

    Reference:
        Wang et al., 2018, "Iterative Learning with Open-set Noisy Labels".
        https://arxiv.org/abs/1804.00092
    """
    clean = class_ids("labels", labels)
    kept = check_inputs("images", images, clean)
    others = check_inputs("other_images", other_images)
    if others.shape[1:] != kept.shape[1:] or others.dtype != kept.dtype:
        raise ValueError(
            f"`other_images` must be images of shape {kept.shape[1:]}, dtype "
            f"{kept.dtype}, as `images`. Received: other_images of shape "
            f"{others.shape[1:]}, dtype {others.dtype}."
        )
    rate = check_noise_rate(noise_rate)
    generator = np.random.default_rng(check_seed(seed))

    if exact:
        replaced = np.zeros(clean.size, bool)
        for label in np.unique(clean):
            members = np.flatnonzero(clean == label)
            _, count = expected_counts(
                np.array([1.0 - rate, rate]), members.size, 0
            )
            replaced[generator.permutation(members)[:count]] = True
    else:
        replaced = generator.random(clean.size) < rate
    places = np.flatnonzero(replaced)
    if places.size > len(others):
        raise ValueError(
            f"`other_images` must have at least {places.size} images, one for "
            "each that is replaced. "
            f"Received: {len(others)} other_images."
        )
    source = np.full(clean.size, -1, np.int64)
    source[places] = generator.permutation(len(others))[: places.size]
    mixed = kept.copy()
    mixed[places] = others[source[places]]
    return OpenSetImages(mixed, source)
