"""Transition matrices estimated from predictions or from clean labels.

In all of them `T[i, j] = P(noisy=j | clean=i)`.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd.estimators import arguments
from keras_smkd.noise.arguments import check_label_pair
from keras_smkd.noise.arguments import check_labels
from keras_smkd.noise.arguments import check_num_classes
from keras_smkd.noise.labels import realized_transition_matrix


def anchor_transition_matrix(
    predictions: npt.ArrayLike, percentile: float | None = None
) -> npt.NDArray[np.float64]:
    """Return the transition matrix read off the anchor points.

    `T[i] = predictions[n_i]`, `n_i = argmax_n predictions[n, i]`

    An anchor point of class i is an example that surely belongs to it; what
    a network fitted to noisy labels predicts there is row i. The example with
    the largest probability of class i is taken for one. The network must
    predict noisy labels well, and every class must have an anchor point.

    Args:
        predictions: `(examples, classes)`, rows sum to 1: probabilities of
            the noisy classes. Not changed.
        percentile: If given, in (0, 100]: examples whose probability of class
            i is at or above this percentile of its column (an actual value
            of the column, the next higher one) are no candidates for row i,
            being outliers. The authors use 97 for CIFAR-10 and none for
            CIFAR-100. None keeps all; 100 leaves out the largest only.

    Returns:
        `(classes, classes)` float64, rows normalised to sum to 1.

    Raises:
        TypeError: if `predictions` or `percentile` are not numbers.
        ValueError: if `predictions` are not distributions, if `percentile`
            is out of range, or if it leaves no candidate for a class.

    Example:

    >>> predictions = [[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]]
    >>> anchor_transition_matrix(predictions)
    array([[0.75 , 0.25 ],
           [0.125, 0.875]])
    >>> anchor_transition_matrix(predictions, percentile=97)
    array([[0.5, 0.5],
           [0.5, 0.5]])

    Reference:
        Patrini et al., 2017, "Making Deep Neural Networks Robust to Label
        Noise: a Loss Correction Approach". https://arxiv.org/abs/1609.03683
    """
    probs = arguments.distributions("predictions", predictions)
    candidates = probs.copy()
    if percentile is not None:
        percentile = _checks.number(
            "percentile", percentile, above=0.0, maximum=100.0
        )
        bounds = np.percentile(probs, percentile, axis=0, method="higher")
        candidates[probs >= bounds] = -np.inf
        without = np.flatnonzero((probs >= bounds).all(axis=0))
        if without.size:
            raise ValueError(
                "`percentile` must leave an example for every class. "
                f"Received: percentile={percentile:g}, which leaves none for "
                f"classes {without.tolist()}. Give more examples, or None."
            )
    rows = probs[candidates.argmax(axis=0)]
    return rows / rows.sum(axis=1, keepdims=True)


def intermediate_transition_matrix(
    predictions: npt.ArrayLike,
    noisy_labels: npt.ArrayLike,
    empty_rows: Literal["raise", "zeros"] = "raise",
) -> npt.NDArray[np.float64]:
    """Return the transition matrix from predicted classes to noisy labels.

    `S[a, b] = #(predicted=a and noisy=b) / #(predicted=a)`

    The second factor of the dual estimate (T_spadesuit in the paper), a
    matter of counting. `predicted` is the class of the largest probability,
    the first one of equals.

    Args:
        predictions: `(examples, classes)`, rows sum to 1: probabilities of
            the noisy classes.
        noisy_labels: `(examples,)` integers in [0, classes), in the same
            order.
        empty_rows: What to do where a class is never predicted, so that
            nothing is known of its row. `"raise"` refuses; `"zeros"` leaves
            the row zero, as the authors do: the result is then no transition
            matrix.

    Returns:
        `(classes, classes)` float64. Rows sum to 1, or to 0 if they are
        empty and `empty_rows="zeros"`.

    Raises:
        TypeError: if `predictions` are not numbers, or labels not integers.
        ValueError: if `predictions` are not distributions, if labels are not
            1-D, out of range or of another number, if `empty_rows` is
            neither, or if it is `"raise"` and a class is never predicted.

    Example:

    >>> predictions = [[0.75, 0.25], [0.5, 0.5], [0.125, 0.875], [0.25, 0.75]]
    >>> intermediate_transition_matrix(predictions, [0, 1, 1, 1])
    array([[0.5, 0.5],
           [0. , 1. ]])

    Reference:
        Yao et al., 2020, "Dual T: Reducing Estimation Error for Transition
        Matrix in Label-noise Learning". https://arxiv.org/abs/2006.07805
    """
    probs = arguments.distributions("predictions", predictions)
    _checks.one_of("empty_rows", empty_rows, ("raise", "zeros"))
    classes = probs.shape[1]
    noisy = check_labels("noisy_labels", noisy_labels, classes)
    if noisy.size != len(probs):
        raise ValueError(
            "`noisy_labels` must be as many as the rows of `predictions`. "
            f"Received: {noisy.size} noisy_labels, {len(probs)} rows."
        )
    counts = _counts(probs.argmax(axis=1), noisy, classes)
    totals = counts.sum(axis=1, keepdims=True)
    empty = np.flatnonzero(totals == 0).tolist()
    if empty and empty_rows == "raise":
        raise ValueError(
            "`predictions` must predict every class at least once. Received: "
            f"predictions that never predict classes {empty}. Give more "
            "examples, or empty_rows='zeros' for rows of zeros."
        )
    return counts / np.maximum(totals, 1)


def dual_t_transition_matrix(
    predictions: npt.ArrayLike,
    noisy_labels: npt.ArrayLike,
    percentile: float | None = None,
    empty_rows: Literal["raise", "zeros"] = "raise",
) -> npt.NDArray[np.float64]:
    """Return the dual estimate of the transition matrix.

    `T = A @ S`, with `A = anchor_transition_matrix(predictions)` from clean
    to predicted classes (T_clubsuit) and
    `S = intermediate_transition_matrix(predictions, noisy_labels)` from
    predicted classes to noisy labels (T_spadesuit).

    The class that a network predicts is put between the clean and the noisy
    one. S is counted and A is easier to estimate than T itself, most of all
    where predictions are far from the shares of the noisy labels. A network
    that predicts clean classes with certainty has `A = I`.

    Args:
        predictions: `(examples, classes)`, rows sum to 1: probabilities of
            the noisy classes. Not changed.
        noisy_labels: `(examples,)` integers in [0, classes), in the same
            order.
        percentile: None or in (0, 100], for the anchor points. The authors
            use 97 for CIFAR and none for Clothing1M.
        empty_rows: What to do where a class is never predicted. `"raise"`
            refuses. `"zeros"` takes zeros for its row of S, as the authors
            do: each row of T then misses what A gives that class.

    Returns:
        `(classes, classes)` float64. Rows sum to 1, or to less than 1 where
        `empty_rows="zeros"` was needed.

    Raises:
        TypeError: if `predictions` or `percentile` are not numbers, or labels
            not integers.
        ValueError: if `predictions` are not distributions, if labels are not
            1-D, out of range or of another number, if `percentile` is out of
            range or leaves no candidate for a class, if `empty_rows` is
            neither, or if it is `"raise"` and a class is never predicted.

    Example:

    >>> predictions = [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    >>> dual_t_transition_matrix(predictions, [0, 1, 1, 1])
    array([[0.5, 0.5],
           [0. , 1. ]])

    Reference:
        Yao et al., 2020, "Dual T: Reducing Estimation Error for Transition
        Matrix in Label-noise Learning". https://arxiv.org/abs/2006.07805
    """
    anchors = anchor_transition_matrix(predictions, percentile)
    return anchors @ intermediate_transition_matrix(
        predictions, noisy_labels, empty_rows
    )


def clean_set_transition_matrix(
    clean_labels: npt.ArrayLike,
    noisy_labels: npt.ArrayLike,
    num_classes: int,
    smoothing: float = 0.0,
) -> npt.NDArray[np.float64]:
    """Return the transition matrix counted on a small clean set.

    `T[i, j] = (#(clean=i and noisy=j) + smoothing)
    / (#(clean=i) + num_classes * smoothing)`

    Args:
        clean_labels: `(examples,)` integers in [0, num_classes).
        noisy_labels: `(examples,)` integers in [0, num_classes), in the same
            order.
        num_classes: Number of classes, at least 2.
        smoothing: Count added to every cell, >= 0. 0 is
            `keras_smkd.noise.realized_transition_matrix`. With few examples
            of a class, a positive one keeps flips that were not seen
            possible; a class without examples then has equal chances.

    Returns:
        `(num_classes, num_classes)` float64, rows sum to 1.

    Raises:
        TypeError: if labels or `num_classes` are not integers, or
            `smoothing` is not a number.
        ValueError: if labels are empty, not 1-D, of different lengths or
            outside [0, num_classes), if `num_classes < 2`, if
            `smoothing < 0`, or if it is 0 and a class has no example.

    Example:

    >>> clean_set_transition_matrix([0, 0, 1], [0, 1, 1], 2, smoothing=1.0)
    array([[0.5       , 0.5       ],
           [0.33333333, 0.66666667]])

    Reference:
        Hendrycks et al., 2018, "Using Trusted Data to Train Deep Networks on
        Labels Corrupted by Severe Noise" (trusted data; theirs averages
        predictions, this counts labels). https://arxiv.org/abs/1802.05300
    """
    smoothing = _checks.number("smoothing", smoothing, minimum=0.0)
    if smoothing == 0.0:
        return realized_transition_matrix(
            clean_labels, noisy_labels, num_classes
        )
    classes = check_num_classes(num_classes)
    clean, noisy = check_label_pair(clean_labels, noisy_labels, classes)
    counts = _counts(clean, noisy, classes) + smoothing
    return counts / counts.sum(axis=1, keepdims=True)


def _counts(
    rows: npt.NDArray[np.integer],
    columns: npt.NDArray[np.integer],
    classes: int,
) -> npt.NDArray[np.int64]:
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return counts
