"""Transition matrices that flip classes of CIFAR to ones they resemble."""

import numpy as np
import numpy.typing as npt

from keras_smkd.noise.arguments import check_noise_rate
from keras_smkd.noise.matrices import pair_flip

_CIFAR10_FLIPS = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}

# In the order of the coarse labels; fine labels are alphabetical over all.
_CIFAR100_SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": (
        "camel cattle chimpanzee elephant kangaroo"
    ),
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
_COARSE_LABELS = {
    name: coarse
    for coarse, names in enumerate(_CIFAR100_SUPERCLASSES.values())
    for name in names.split()
}

CIFAR100_COARSE_LABELS: tuple[int, ...] = tuple(
    _COARSE_LABELS[name] for name in sorted(_COARSE_LABELS)
)
"""The superclass of each of the 100 classes: `[fine label] -> coarse label`."""


def asymmetric_cifar10(noise_rate: float) -> npt.NDArray[np.float64]:
    """Return the matrix that flips CIFAR-10 classes to ones they resemble.

    `T[i, i] = 1 - noise_rate`, `T[i, flip(i)] = noise_rate` for five classes:
    truck (9) -> automobile (1), bird (2) -> airplane (0),
    deer (4) -> horse (7), cat (3) -> dog (5) and dog (5) -> cat (3).
    The other five keep their labels.

    Half of the classes are touched, so the share of wrong labels in the whole
    of CIFAR-10 is `noise_rate / 2`.

    Args:
        noise_rate: Chance that a label of one of the five classes is wrong,
            in [0, 1]. 0 gives the identity.

    Returns:
        `(10, 10)` float64, rows sum to 1.

    Raises:
        TypeError: if `noise_rate` is not a number.
        ValueError: if `noise_rate` is outside [0, 1].

    Example:

    >>> matrix = asymmetric_cifar10(0.4)
    >>> matrix[9].tolist()
    [0.0, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.6]
    >>> round(float(1 - matrix.diagonal().mean()), 3)
    0.2

    Reference:
        Patrini et al., 2017, "Making Deep Neural Networks Robust to Label
        Noise: a Loss Correction Approach". https://arxiv.org/abs/1609.03683
    """
    rate = check_noise_rate(noise_rate)
    matrix = np.eye(10)
    for clean, noisy in _CIFAR10_FLIPS.items():
        matrix[clean, clean] = 1.0 - rate
        matrix[clean, noisy] = rate
    return matrix


def asymmetric_cifar100(noise_rate: float) -> npt.NDArray[np.float64]:
    """Return the matrix that flips CIFAR-100 classes within superclasses.

    `T[i, i] = 1 - noise_rate`, `T[i, next(i)] = noise_rate`, where `next(i)`
    is the class that follows `i` among the five of its superclass, in the
    order of labels and cyclically: beaver (4) -> dolphin (30) -> otter (55)
    -> seal (72) -> whale (95) -> beaver (4).

    The superclasses are those that CIFAR-100 defines. Labels are expected as
    it has them, alphabetical by class name. Much published code takes the
    labels 5g to 5g + 4 for a superclass, which they are not:
    `asymmetric_cifar100_blocks` is the matrix of those results.

    The share of wrong labels is `noise_rate`. From 0.5 on, a wrong class is
    as frequent as the true one, and nothing in the labels tells them apart.

    Args:
        noise_rate: Chance that a label is wrong, in [0, 1]. 0 gives the
            identity.

    Returns:
        `(100, 100)` float64, rows sum to 1.

    Raises:
        TypeError: if `noise_rate` is not a number.
        ValueError: if `noise_rate` is outside [0, 1].

    Example:

    >>> matrix = asymmetric_cifar100(0.4)
    >>> [np.flatnonzero(matrix[i]).tolist() for i in (4, 30, 95)]
    [[4, 30], [30, 55], [4, 95]]
    >>> float(matrix[95, 4])
    0.4

    Reference:
        Patrini et al., 2017, "Making Deep Neural Networks Robust to Label
        Noise: a Loss Correction Approach". https://arxiv.org/abs/1609.03683
    """
    return _flip_within(np.array(CIFAR100_COARSE_LABELS), noise_rate)


def asymmetric_cifar100_blocks(noise_rate: float) -> npt.NDArray[np.float64]:
    """Return the matrix that flips within blocks of five labels.

    `T[i, i] = 1 - noise_rate`, `T[i, next(i)] = noise_rate`, where `next(i)`
    is the class that follows `i` in its block 5g to 5g + 4, cyclically:
    0 -> 1 -> 2 -> 3 -> 4 -> 0, 5 -> 6 and so on.

    To compare with published tables. Their code takes the blocks for the
    superclasses of CIFAR-100, but its labels are alphabetical: the first
    block is apple, aquarium fish, baby, bear and beaver. Wrong classes hence
    hardly resemble the true ones, and the noise is easier to see through than
    that of `asymmetric_cifar100`.

    The share of wrong labels is `noise_rate`.

    Args:
        noise_rate: Chance that a label is wrong, in [0, 1]. 0 gives the
            identity.

    Returns:
        `(100, 100)` float64, rows sum to 1.

    Raises:
        TypeError: if `noise_rate` is not a number.
        ValueError: if `noise_rate` is outside [0, 1].

    Example:

    >>> matrix = asymmetric_cifar100_blocks(0.4)
    >>> [np.flatnonzero(matrix[i]).tolist() for i in (0, 4, 5)]
    [[0, 1], [0, 4], [5, 6]]

    Reference:
        Patrini et al., 2017, "Making Deep Neural Networks Robust to Label
        Noise: a Loss Correction Approach" (the authors' code).
        https://arxiv.org/abs/1609.03683
    """
    return _flip_within(np.arange(100) // 5, noise_rate)


def _flip_within(
    groups: npt.NDArray[np.int64], noise_rate: float
) -> npt.NDArray[np.float64]:
    """Return the matrix that flips each class to the next of its group."""
    matrix = np.zeros((groups.size, groups.size))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        matrix[np.ix_(members, members)] = pair_flip(noise_rate, members.size)
    return matrix
