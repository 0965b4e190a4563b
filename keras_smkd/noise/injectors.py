"""Noisy labels of every kind in one call, with how they were made."""

import hashlib

import numpy as np
import numpy.typing as npt
from absl import logging

from keras_smkd import _checks
from keras_smkd._labels import class_ids
from keras_smkd.noise import cifar
from keras_smkd.noise import matrices
from keras_smkd.noise.arguments import check_num_classes
from keras_smkd.noise.arguments import dtype_for
from keras_smkd.noise.instance import draw_instance_dependent_probabilities
from keras_smkd.noise.labels import corrupt_labels
from keras_smkd.noise.labels import draw_labels
from keras_smkd.noise.result import NoisyLabels

_ANY_NUM_CLASSES = {
    "symmetric_excluding_true": matrices.symmetric_excluding_true,
    "symmetric_including_true": matrices.symmetric_including_true,
    "pair_flip": matrices.pair_flip,
}
_FIXED_NUM_CLASSES = {
    "asymmetric_cifar10": (cifar.asymmetric_cifar10, 10),
    "asymmetric_cifar100": (cifar.asymmetric_cifar100, 100),
    "asymmetric_cifar100_blocks": (cifar.asymmetric_cifar100_blocks, 100),
}

KINDS: tuple[str, ...] = (*_ANY_NUM_CLASSES, *_FIXED_NUM_CLASSES)
"""The kinds that `make_noisy` knows: names of functions of this room."""


def make_noisy(
    labels: npt.ArrayLike,
    kind: str,
    noise_rate: float,
    *,
    num_classes: int,
    seed: int,
    exact: bool = False,
) -> NoisyLabels:
    """Return noisy labels of a named kind, with the clean ones.

    `corrupt_labels(labels, T, seed, exact)`, where `T` is the matrix that the
    function of the name `kind` returns. What `noise_rate` means is the
    kind's affair: `symmetric_including_true` makes fewer labels wrong, and
    `asymmetric_cifar10` half as many; the result says how many it made.

    The result's `recipe` holds the arguments after `labels`, so
    `make_noisy(labels, **recipe)` makes the same labels again.

    Args:
        labels: `(examples,)` integers in [0, num_classes). Clean.
        kind: One of `KINDS`, the names of this room's matrices.
        noise_rate: The matrix's argument, in [0, 1].
        num_classes: Number of classes, at least 2; what the kind has, if it
            is one for a certain data set.
        seed: Integer >= 0. The same seed gives the same noisy labels.
        exact: Whether to draw by count; see `corrupt_labels`.

    Returns:
        `NoisyLabels`; noisy labels have the dtype of `labels`, or int64 as
        `corrupt_labels` says.

    Raises:
        TypeError: if `labels` or `noise_rate` are not numbers, or
            `num_classes` or `seed` not integers.
        ValueError: if `kind` is unknown or has another number of classes, or
            whatever `corrupt_labels` raises.

    Example:

    >>> make_noisy(
    ...     [0, 0, 0, 0, 1, 1, 1, 1],
    ...     "symmetric_excluding_true",
    ...     0.25,
    ...     num_classes=2,
    ...     seed=0,
    ...     exact=True,
    ... )
    NoisyLabels(8 labels, 2 classes, 25.0 % wrong: \
symmetric_excluding_true(0.25), seed 0, exact)
    """
    _checks.one_of("kind", kind, KINDS)
    classes = check_num_classes(num_classes)
    if kind in _ANY_NUM_CLASSES:
        matrix = _ANY_NUM_CLASSES[kind](noise_rate, classes)
    else:
        build, required = _FIXED_NUM_CLASSES[kind]
        if classes != required:
            raise ValueError(
                f"`num_classes` must be {required} for kind={kind!r}. "
                f"Received: num_classes={num_classes}."
            )
        matrix = build(noise_rate)
    noisy = corrupt_labels(labels, matrix, seed, exact)
    recipe = {
        "kind": kind,
        "noise_rate": float(noise_rate),
        "num_classes": classes,
        "seed": int(seed),
        "exact": bool(exact),
    }
    return NoisyLabels(np.asarray(labels), noisy, classes, recipe)


def make_noisy_by_matrix(
    labels: npt.ArrayLike,
    transition_matrix: npt.ArrayLike,
    *,
    seed: int,
    exact: bool = False,
    name: str = "transition_matrix",
) -> NoisyLabels:
    """Return noisy labels drawn from any transition matrix.

    `corrupt_labels(labels, transition_matrix, seed, exact)`. The result's
    `recipe` holds the name, the seed, `exact`, and the SHA-256 of the matrix
    (float64, little endian, row by row), which tells whether a matrix at
    hand is the same.

    Args:
        labels: `(examples,)` integers in [0, classes). Clean.
        transition_matrix: `(classes, classes)`, rows sum to 1.
        seed: Integer >= 0. The same seed gives the same noisy labels.
        exact: Whether to draw by count; see `corrupt_labels`.
        name: What to call the noise in the recipe.

    Returns:
        `NoisyLabels`; noisy labels have the dtype of `labels`, or int64 as
        `corrupt_labels` says.

    Raises:
        TypeError: if `labels` or the matrix are not of numbers, `seed` is not
            an integer, or `name` not a string.
        ValueError: whatever `corrupt_labels` raises.

    Example:

    >>> make_noisy_by_matrix([0, 1, 1, 1], [[0, 1], [0, 1]], seed=0)
    NoisyLabels(4 labels, 2 classes, 25.0 % wrong: transition_matrix, seed 0)
    """
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a string. Received: name={name!r}.")
    matrix = matrices.check_transition_matrix(transition_matrix)
    noisy = corrupt_labels(labels, matrix, seed, exact)
    recipe = {
        "kind": name,
        "sha256": hashlib.sha256(matrix.astype("<f8").tobytes()).hexdigest(),
        "seed": int(seed),
        "exact": bool(exact),
    }
    return NoisyLabels(np.asarray(labels), noisy, len(matrix), recipe)


def make_noisy_by_instance(
    labels: npt.ArrayLike,
    features: npt.ArrayLike,
    noise_rate: float,
    *,
    num_classes: int,
    seed: int,
    std: float = 0.1,
    scale: float = 1.0,
) -> NoisyLabels:
    """Return noisy labels that depend on the inputs.

    `draw_labels(P, seed)` with `P` of `draw_instance_dependent_probabilities`
    for the same seed. Raw pixels in 0..255 and `scale=1` are the authors'
    setting; see there what the scale of the inputs does. The result's
    `recipe` holds the kind, `"instance_dependent"`, and the arguments after
    `features`.

    There is no `exact`: each example flips at a rate of its own, so no count
    is the expected one. The realised rate varies with the seed, by about
    0.002 for 50,000 labels.

    Args:
        labels: `(examples,)` integers in [0, num_classes). Clean.
        features: `(examples, ...)` numbers, flattened: images, or what a
            network makes of them.
        noise_rate: Mean of the flip rates before truncation, in [0, 1].
        num_classes: Number of classes, at least 2.
        seed: Integer >= 0. The same seed gives the same noisy labels.
        std: Standard deviation of the flip rates before truncation.
        scale: Factor of the features.

    Returns:
        `NoisyLabels`; noisy labels have the dtype of `labels`, or int64 as
        `corrupt_labels` says.

    Raises:
        TypeError: if `num_classes` or `seed` are not integers, or another
            argument is not of numbers.
        ValueError: whatever `draw_instance_dependent_probabilities` raises.

    Example:

    >>> features = np.eye(4)
    >>> noisy = make_noisy_by_instance(
    ...     [0, 0, 1, 1], features, 0.4, num_classes=3, seed=1
    ... )
    >>> noisy.recipe["kind"], noisy.recipe["std"], noisy.recipe["scale"]
    ('instance_dependent', 0.1, 1.0)

    Reference:
        Xia et al., 2020, "Part-dependent Label Noise: Towards
        Instance-dependent Label Noise". https://arxiv.org/abs/2006.07836
    """
    classes = check_num_classes(num_classes)
    clean = class_ids("labels", labels, classes)
    probabilities = draw_instance_dependent_probabilities(
        features,
        clean,
        noise_rate,
        num_classes=classes,
        seed=seed,
        std=std,
        scale=scale,
    )
    recipe = {
        "kind": "instance_dependent",
        "noise_rate": float(noise_rate),
        "num_classes": classes,
        "seed": int(seed),
        "std": float(std),
        "scale": float(scale),
    }
    noisy = draw_labels(probabilities, seed)
    result = NoisyLabels(
        np.asarray(labels),
        noisy.astype(dtype_for(labels, classes)),
        classes,
        recipe,
    )
    logging.info("Label noise: %s.", result)
    return result
