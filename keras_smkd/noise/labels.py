"""Noisy labels drawn from a transition matrix, and what the draw did."""

import math

import numpy as np
import numpy.typing as npt
from absl import logging

from keras_smkd._labels import class_ids
from keras_smkd.noise.arguments import check_label_pair
from keras_smkd.noise.arguments import check_num_classes
from keras_smkd.noise.arguments import check_seed
from keras_smkd.noise.arguments import dtype_for
from keras_smkd.noise.matrices import check_rows
from keras_smkd.noise.matrices import check_transition_matrix


def corrupt_labels(
    labels: npt.ArrayLike,
    transition_matrix: npt.ArrayLike,
    seed: int,
    exact: bool = False,
) -> npt.NDArray[np.integer]:
    """Draw noisy labels from clean ones.

    `P(noisy[n] = j) = T[labels[n], j]`

    Draw once for a data set and keep the result: labels drawn anew in every
    epoch are another problem, an easier one, since their errors average out.
    The realised noise rate is logged at level INFO with absl.

    Args:
        labels: `(examples,)` integers in [0, classes). Clean.
        transition_matrix: `(classes, classes)`, rows sum to 1.
        seed: Integer >= 0. The same seed gives the same noisy labels.
        exact: If False, each label is drawn by itself, so the realised rate
            varies from seed to seed. If True, the examples of each clean class
            are dealt out in the expected numbers, rounded by the method of
            largest remainders, and the seed only decides which examples flip.
            Equal remainders go to the classes that follow the clean one, in
            cyclic order, so that no class is favoured over all.

    Returns:
        `(examples,)` noisy labels: dtype of `labels` if they are integers of
        one that holds all classes, else int64.

    Raises:
        TypeError: if `labels` are not numbers or `seed` is not an integer.
        ValueError: if `labels` is empty, not whole numbers, not one for each
            example, or has a class that the matrix has not, if the matrix is
            not a transition matrix, or if `seed < 0`.

    Example:

    >>> labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> noisy = corrupt_labels(
    ...     labels, symmetric_excluding_true(0.25, 2), seed=0, exact=True
    ... )
    >>> realized_noise_rate(labels, noisy)
    0.25
    >>> np.bincount(noisy).tolist()
    [4, 4]

    Reference:
        Han et al., 2018, "Co-teaching: Robust Training of Deep Neural
        Networks with Extremely Noisy Labels" (labels drawn one by one).
        https://arxiv.org/abs/1804.06872
    """
    matrix = check_transition_matrix(transition_matrix)
    classes = len(matrix)
    clean = class_ids("labels", labels, classes)
    generator = np.random.default_rng(check_seed(seed))

    noisy = np.empty(clean.size, dtype_for(labels, classes))
    uniform = None if exact else generator.random(clean.size)
    # One group of examples per clean class: as fast as a single flat lookup,
    # and never adds a class id to a probability, which would round it.
    groups = np.split(
        np.argsort(clean, kind="stable"),
        np.cumsum(np.bincount(clean, minlength=classes))[:-1],
    )
    for label, members in enumerate(groups):
        if not members.size:
            continue
        if uniform is None:
            counts = expected_counts(matrix[label], members.size, label)
            drawn = generator.permutation(np.repeat(np.arange(classes), counts))
        else:
            drawn = np.searchsorted(
                _cumulative(matrix[label]), uniform[members], side="right"
            )
        noisy[members] = drawn
    logging.info(
        "Label noise: %.4f of %d labels are wrong.",
        np.mean(noisy != clean),
        clean.size,
    )
    return noisy


def draw_labels(
    probabilities: npt.ArrayLike, seed: int
) -> npt.NDArray[np.int64]:
    """Draw each example's label from a distribution of its own.

    `P(label[n] = j) = probabilities[n, j]`

    With `probabilities = T[labels]` the labels are those of `corrupt_labels`
    for the same seed. There is no exact count to draw by: no two examples
    need share a distribution, so no number of them is the expected one.

    Args:
        probabilities: `(examples, classes)`, in [0, 1], rows sum to 1.
        seed: Integer >= 0. The same seed gives the same labels.

    Returns:
        `(examples,)` int64 in [0, classes).

    Raises:
        TypeError: if `probabilities` are not numbers or `seed` is not an
            integer.
        ValueError: if `probabilities` is not 2-D with an example and at least
            2 classes, has an entry outside [0, 1] or a row that does not sum
            to 1 (up to 1e-6), or if `seed < 0`.

    Example:

    >>> draw_labels([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]] * 3, seed=0).tolist()
    [1, 2, 0, 2, 1, 2]
    """
    try:
        rows = np.asarray(probabilities, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "`probabilities` must be an array of numbers. "
            f"Received: probabilities={probabilities!r}."
        ) from error
    if rows.ndim != 2 or not len(rows) or rows.shape[1] < 2:
        raise ValueError(
            "`probabilities` must be (examples, classes) with at least one "
            "example and 2 classes. "
            f"Received: probabilities of shape {rows.shape}."
        )
    check_rows("probabilities", rows)
    uniform = np.random.default_rng(check_seed(seed)).random(len(rows))
    # As in `_cumulative`: no number is too large for the last class that has
    # a probability.
    last = rows.shape[1] - 1 - np.argmax(rows[:, ::-1] > 0.0, axis=1)
    below = np.cumsum(rows, axis=1) <= uniform[:, None]
    return np.minimum(np.count_nonzero(below, axis=1), last)


def realized_noise_rate(
    clean_labels: npt.ArrayLike, noisy_labels: npt.ArrayLike
) -> float:
    """Return the share of noisy labels that differ from the clean ones.

    `mean_n [noisy_labels[n] != clean_labels[n]]`

    Args:
        clean_labels: `(examples,)` integers.
        noisy_labels: `(examples,)` integers, in the same order.

    Returns:
        A float in [0, 1].

    Raises:
        TypeError: if either holds anything but numbers.
        ValueError: if either is empty or no class ids, or if the lengths
            differ.

    Example:

    >>> realized_noise_rate([0, 1, 2, 2], [0, 1, 2, 1])
    0.25
    """
    clean, noisy = check_label_pair(clean_labels, noisy_labels)
    return float(np.mean(clean != noisy))


def realized_transition_matrix(
    clean_labels: npt.ArrayLike,
    noisy_labels: npt.ArrayLike,
    num_classes: int,
) -> npt.NDArray[np.float64]:
    """Return the transition matrix counted from clean and noisy labels.

    `T[i, j] = #(clean=i and noisy=j) / #(clean=i)`

    Args:
        clean_labels: `(examples,)` integers in [0, num_classes). Every class
            must occur: a row without examples would have to be made up.
        noisy_labels: `(examples,)` integers in [0, num_classes), in the same
            order.
        num_classes: Number of classes, at least 2.

    Returns:
        `(num_classes, num_classes)` float64, rows sum to 1.

    Raises:
        TypeError: if the labels are not numbers or `num_classes` is not an
            integer.
        ValueError: if labels are empty, no class ids, of different lengths or
            outside [0, num_classes), if a class has no example, or if
            `num_classes < 2`.

    Example:

    >>> realized_transition_matrix([0, 0, 1, 1], [0, 1, 1, 1], num_classes=2)
    array([[0.5, 0.5],
           [0. , 1. ]])
    """
    classes = check_num_classes(num_classes)
    clean, noisy = check_label_pair(clean_labels, noisy_labels, classes)
    cells = clean * classes + noisy
    counts = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    totals = counts.sum(axis=1, keepdims=True)
    absent = np.flatnonzero(totals == 0).tolist()
    if absent:
        raise ValueError(
            "`clean_labels` must have an example of every class. "
            f"Received: clean_labels without classes {absent}."
        )
    return counts / totals


def _cumulative(row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the cumulative sums of a row, beyond 1 where it ends.

    Summed in floats a row may end below 1, and a uniform number above that
    would fall past the last class, or on a class of probability 0.
    """
    cumulative = np.cumsum(row)
    cumulative[np.flatnonzero(row)[-1] :] = math.inf
    return cumulative


def expected_counts(
    row: npt.NDArray[np.float64], examples: int, label: int
) -> npt.NDArray[np.int64]:
    """Return whole numbers near `examples * row` that sum to `examples`."""
    expected = examples * row / row.sum()
    counts = np.floor(expected).astype(np.int64)
    # Rounded, so that remainders equal but for the last bit count as equal.
    remainders = np.round(expected - counts, 9)
    distance = (np.arange(len(row)) - label - 1) % len(row)
    order = np.lexsort((distance, -remainders))
    counts[order[: examples - counts.sum()]] += 1
    return counts
