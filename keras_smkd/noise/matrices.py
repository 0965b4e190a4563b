"""Transition matrices: `T[i, j] = P(noisy=j | clean=i)`, rows sum to 1."""

import numpy as np
import numpy.typing as npt

from keras_smkd.noise.arguments import check_noise_rate
from keras_smkd.noise.arguments import check_num_classes


def symmetric_excluding_true(
    noise_rate: float, num_classes: int
) -> npt.NDArray[np.float64]:
    """Return the matrix that flips to each other class alike.

    `T[i, i] = 1 - noise_rate`,
    `T[i, j] = noise_rate / (num_classes - 1)` for `j != i`.

    The share of wrong labels is `noise_rate`. This is what is meant by
    symmetric noise where nothing else is said.

    Args:
        noise_rate: Chance that a label is wrong, in [0, 1]. 0 gives the
            identity; 1 leaves no label right.
        num_classes: Number of classes, at least 2.

    Returns:
        `(num_classes, num_classes)` float64, rows sum to 1.

    Raises:
        TypeError: if `noise_rate` is not a number or `num_classes` not an
            integer.
        ValueError: if `noise_rate` is outside [0, 1] or `num_classes < 2`.

    Example:

    >>> symmetric_excluding_true(0.4, num_classes=3)
    array([[0.6, 0.2, 0.2],
           [0.2, 0.6, 0.2],
           [0.2, 0.2, 0.6]])

    Reference:
        Patrini et al., 2017, "Making Deep Neural Networks Robust to Label
        Noise: a Loss Correction Approach". https://arxiv.org/abs/1609.03683
    """
    rate = check_noise_rate(noise_rate)
    classes = check_num_classes(num_classes)
    matrix = np.full((classes, classes), rate / (classes - 1))
    np.fill_diagonal(matrix, 1.0 - rate)
    return matrix


def symmetric_including_true(
    noise_rate: float, num_classes: int
) -> npt.NDArray[np.float64]:
    """Return the matrix that replaces labels by a class drawn from all.

    `T = (1 - noise_rate) * I + noise_rate / num_classes`

    The class drawn may be the true one, so the share of wrong labels is not
    `noise_rate` but `noise_rate * (num_classes - 1) / num_classes`. For 10
    classes, 0.4 here makes 0.36 wrong; `symmetric_excluding_true` makes 0.4.

    Args:
        noise_rate: Chance that a label is drawn anew, in [0, 1]. 0 gives the
            identity; 1 makes labels independent of the classes.
        num_classes: Number of classes, at least 2.

    Returns:
        `(num_classes, num_classes)` float64, rows sum to 1.

    Raises:
        TypeError: if `noise_rate` is not a number or `num_classes` not an
            integer.
        ValueError: if `noise_rate` is outside [0, 1] or `num_classes < 2`.

    Example:

    >>> symmetric_including_true(0.4, num_classes=4)
    array([[0.7, 0.1, 0.1, 0.1],
           [0.1, 0.7, 0.1, 0.1],
           [0.1, 0.1, 0.7, 0.1],
           [0.1, 0.1, 0.1, 0.7]])

    Reference:
        Tanaka et al., 2018, "Joint Optimization Framework for Learning with
        Noisy Labels". https://arxiv.org/abs/1803.11364
    """
    rate = check_noise_rate(noise_rate)
    classes = check_num_classes(num_classes)
    return (1.0 - rate) * np.eye(classes) + rate / classes


def pair_flip(noise_rate: float, num_classes: int) -> npt.NDArray[np.float64]:
    """Return the matrix that flips each class to the next one, cyclically.

    `T[i, i] = 1 - noise_rate`,
    `T[i, (i + 1) mod num_classes] = noise_rate`.

    The share of wrong labels is `noise_rate`. From 0.5 on, a wrong class is
    as frequent as the true one, and nothing in the labels tells them apart.

    Args:
        noise_rate: Chance that a label is wrong, in [0, 1]. 0 gives the
            identity.
        num_classes: Number of classes, at least 2.

    Returns:
        `(num_classes, num_classes)` float64, rows sum to 1.

    Raises:
        TypeError: if `noise_rate` is not a number or `num_classes` not an
            integer.
        ValueError: if `noise_rate` is outside [0, 1] or `num_classes < 2`.

    Example:

    >>> pair_flip(0.25, num_classes=3)
    array([[0.75, 0.25, 0.  ],
           [0.  , 0.75, 0.25],
           [0.25, 0.  , 0.75]])

    Reference:
        Han et al., 2018, "Co-teaching: Robust Training of Deep Neural
        Networks with Extremely Noisy Labels".
        https://arxiv.org/abs/1804.06872
    """
    rate = check_noise_rate(noise_rate)
    classes = check_num_classes(num_classes)
    matrix = np.zeros((classes, classes))
    rows = np.arange(classes)
    matrix[rows, rows] = 1.0 - rate
    matrix[rows, (rows + 1) % classes] = rate
    return matrix


def check_transition_matrix(
    transition_matrix: npt.ArrayLike, num_classes: int | None = None
) -> npt.NDArray[np.float64]:
    """Return the transition matrix as float64, or raise if it is not one.

    Required: `T[i, j]` in [0, 1] and `sum_j T[i, j] = 1`, up to 1e-6.

    Args:
        transition_matrix: `(classes, classes)`, rows are clean classes.
        num_classes: If given, the number of classes that there must be.

    Returns:
        A new `(classes, classes)` float64 array with the same values.

    Raises:
        TypeError: if the entries are not numbers.
        ValueError: if the matrix is not square, has fewer than 2 classes or
            another number than `num_classes`, has an entry outside [0, 1],
            or a row that does not sum to 1.

    Example:

    >>> check_transition_matrix([[1, 0], [0.5, 0.5]])
    array([[1. , 0. ],
           [0.5, 0.5]])
    """
    try:
        matrix = np.array(transition_matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "`transition_matrix` must be a square array of numbers. "
            f"Received: transition_matrix={transition_matrix!r}."
        ) from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            "`transition_matrix` must be square. "
            f"Received: transition_matrix of shape {matrix.shape}."
        )
    classes = (
        check_num_classes(num_classes) if num_classes is not None else None
    )
    if classes is not None and matrix.shape[0] != classes:
        raise ValueError(
            f"`transition_matrix` must have shape ({classes}, {classes}). "
            f"Received: transition_matrix of shape {matrix.shape}."
        )
    if matrix.shape[0] < 2:
        raise ValueError(
            "`transition_matrix` must have at least 2 classes. "
            f"Received: transition_matrix of shape {matrix.shape}."
        )
    check_rows("transition_matrix", matrix)
    return matrix


def check_rows(name: str, rows: npt.NDArray[np.float64]) -> None:
    """Raise if the rows of a 2-D array are not probability distributions."""
    # The comparison is false for NaN, which must not pass.
    outside = np.argwhere(~((rows >= 0.0) & (rows <= 1.0 + 1e-6)))
    if outside.size:
        row, column = outside[0].tolist()
        raise ValueError(
            f"`{name}` must have entries in [0, 1]. "
            f"Received: {name}[{row}, {column}]={rows[row, column]}."
        )
    sums = rows.sum(axis=1)
    unequal = np.flatnonzero(np.abs(sums - 1.0) > 1e-6)
    if unequal.size:
        row = int(unequal[0])
        transposed = np.allclose(rows.sum(axis=0), 1.0, rtol=0, atol=1e-6)
        raise ValueError(
            f"`{name}` must have rows that sum to 1. "
            f"Received: row {row} of {name} sums to {sums[row]:.7g}."
            + (" Its columns do: transpose it." if transposed else "")
        )
