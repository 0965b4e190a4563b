"""Noise rates, estimated, and the shares of examples to drop for them."""

import math

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd.estimators import arguments
from keras_smkd.noise.arguments import check_noise_rate
from keras_smkd.noise.arguments import check_num_classes
from keras_smkd.noise.matrices import check_transition_matrix


def matrix_noise_rate(
    transition_matrix: npt.ArrayLike,
    class_shares: npt.ArrayLike | None = None,
) -> float:
    """Return the share of wrong labels that a transition matrix makes.

    `noise_rate = 1 - sum_i class_shares[i] * T[i, i]`

    Args:
        transition_matrix: `(classes, classes)`, rows sum to 1.
        class_shares: `(classes,)`, >= 0, sum 1: shares of the clean classes.
            None means that all are alike.

    Returns:
        A float in [0, 1]. 0 for the identity.

    Raises:
        TypeError: if either holds anything but numbers.
        ValueError: if the matrix is not a transition matrix, or the shares
            are not one per class, negative, or do not sum to 1 up to 1e-6.

    Example:

    >>> matrix = [[1.0, 0.0], [0.5, 0.5]]
    >>> matrix_noise_rate(matrix)
    0.25
    >>> matrix_noise_rate(matrix, class_shares=[0.75, 0.25])
    0.125

    Reference:
        Yao et al., 2020, "Dual T: Reducing Estimation Error for Transition
        Matrix in Label-noise Learning" (with equal shares, in the authors'
        code). https://arxiv.org/abs/2006.07805
    """
    diagonal = check_transition_matrix(transition_matrix).diagonal()
    if class_shares is None:
        shares = np.full(diagonal.size, 1.0 / diagonal.size)
    else:
        shares = arguments.vector("class_shares", class_shares, minimum=0.0)
        if shares.size != diagonal.size:
            raise ValueError(
                f"`class_shares` must be one per class, {diagonal.size}. "
                f"Received: class_shares of shape {shares.shape}."
            )
        if abs(shares.sum() - 1.0) > 1e-6:
            raise ValueError(
                "`class_shares` must sum to 1. "
                f"Received: class_shares that sum to {shares.sum():.7g}."
            )
    # Rounding may take it a bit below 0.
    return max(0.0, 1.0 - float(shares @ diagonal))


def agreement_noise_rate(
    agreement: float,
    num_classes: int,
    top: int = 1,
    step: float | None = None,
) -> float:
    """Return the noise rate that explains a held-out agreement with labels.

    The smallest e with
    `(1 - e)^2 + e^2 / (num_classes / top - 1) = agreement`

    A network fitted to symmetric noise of rate e predicts held-out labels
    with the noise that it was taught. Prediction and label then agree where
    both are right, or both are wrong in the same way. Agreement falls with e
    from 1 down to `top / num_classes`, which it reaches at
    `e = 1 - top / num_classes`: labels then say nothing.

    Args:
        agreement: Share of held-out examples whose noisy label is the
            predicted class, or among the `top` most likely ones, in
            [top / num_classes, 1]. No rate explains less (1e-6 less is taken
            for rounding).
        num_classes: Number of classes, at least 2.
        top: How many of the most likely classes count as predicted, in
            [1, num_classes).
        step: None solves the equation. A number in (0, 1) takes the first of
            step, 2 step, 3 step, ... whose agreement is not larger, the
            authors' search with 0.001: their published runs depend on it.
            Never 0, then.

    Returns:
        A float in [0, 1 - top / num_classes], or up to one step more.

    Raises:
        TypeError: if an argument is not a number, or `num_classes` or `top`
            not an integer.
        ValueError: if an argument is out of range. An agreement below
            `top / num_classes` is not limited: other noise than symmetric
            noise, or a failed training, has caused it.

    Example:

    >>> round(agreement_noise_rate(0.5, num_classes=10), 6)
    0.3
    >>> round(agreement_noise_rate(0.95, num_classes=10), 6)
    0.025357
    >>> round(agreement_noise_rate(0.95, num_classes=10, step=0.001), 6)
    0.026

    Reference:
        Chen et al., 2019, "Understanding and Utilizing Deep Neural Networks
        Trained with Noisy Labels". https://arxiv.org/abs/1905.05040
    """
    classes = check_num_classes(num_classes)
    top = _checks.integer("top", top, minimum=1)
    if top >= classes:
        raise ValueError(
            f"`top` must be smaller than `num_classes`, {classes}. "
            f"Received: top={top}."
        )
    agreement = _checks.number("agreement", agreement, minimum=0.0, maximum=1.0)
    lowest = top / classes
    if agreement < lowest - 1e-6:
        raise ValueError(
            f"`agreement` must be at least top / num_classes = {lowest:g}: no "
            "rate of symmetric noise explains less. "
            f"Received: agreement={agreement:g}."
        )
    highest = 1.0 - lowest
    left = max(0.0, 1.0 - (1.0 - agreement) / highest)
    rate = highest * (1.0 - math.sqrt(left))
    if step is None:
        return rate
    step = _checks.number("step", step, above=0.0)
    if step >= 1.0:
        raise ValueError(f"`step` must be in (0, 1). Received: step={step}.")
    # A root on the grid stays there when an agreement that was rounded, to
    # float32 even, puts it a little above.
    return step * max(1, math.ceil(rate / step - 1e-4))


def discard_ratio(noise_rate: float, maximum: float = 2.0) -> float:
    """Return how many examples to discard, per example selected.

    `discard_ratio = min(maximum, noise_rate / (1 - noise_rate))`

    In every iteration INCV selects the held-out examples whose label is the
    predicted one, and removes this many times as many of the largest loss.

    Args:
        noise_rate: Estimated chance that a label is wrong, in [0, 1].
        maximum: Largest ratio, >= 0; it also stands for the infinite one of
            `noise_rate = 1`.

    Returns:
        A float in [0, maximum]. 0 where `noise_rate` is 0.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if an argument is out of range.

    Example:

    >>> discard_ratio(0.2), discard_ratio(0.8)
    (0.25, 2.0)

    Reference:
        Chen et al., 2019, "Understanding and Utilizing Deep Neural Networks
        Trained with Noisy Labels" (authors' code).
        https://arxiv.org/abs/1905.05040
    """
    rate = check_noise_rate(noise_rate)
    maximum = _checks.number("maximum", maximum, minimum=0.0)
    return min(maximum, rate / (1.0 - rate)) if rate < 1.0 else maximum
