"""Rules that weigh examples by their loss, as in MentorNet."""

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd.estimators import arguments


def self_paced_weights(
    loss_differences: npt.ArrayLike,
) -> npt.NDArray[np.float64]:
    """Return weight 1 for examples of small loss, 0 for the others.

    `v = [d <= 0]`

    Args:
        loss_differences: `(examples,)`, the loss of each example minus the
            reference loss, which in MentorNet is the moving average of a
            percentile of the loss (d).

    Returns:
        `(examples,)` float64, 0 or 1.

    Raises:
        TypeError: if `loss_differences` are not numbers.
        ValueError: if they are not 1-D, empty or not finite.

    Example:

    >>> self_paced_weights([-0.5, 0.0, 0.5])
    array([1., 1., 0.])

    Reference:
        Jiang et al., 2018, "MentorNet: Learning Data-Driven Curriculum for
        Very Deep Neural Networks on Corrupted Labels".
        https://arxiv.org/abs/1712.05055
    """
    differences = arguments.vector("loss_differences", loss_differences)
    return (differences <= 0.0).astype(np.float64)


def linear_weights(
    loss_differences: npt.ArrayLike, gamma: float = 1.0
) -> npt.NDArray[np.float64]:
    """Return weights that fall from 1 to 0 as the loss grows.

    `v = min(max(1 - d / gamma, 0), 1)`

    Args:
        loss_differences: `(examples,)`, the loss of each example minus the
            reference loss (d).
        gamma: Difference at which the weight reaches 0, > 0. Towards 0 the
            weights become those of `self_paced_weights`.

    Returns:
        `(examples,)` float64 in [0, 1].

    Raises:
        TypeError: if an argument is not numbers.
        ValueError: if `loss_differences` are not 1-D, empty or not finite,
            or if `gamma <= 0`.

    Example:

    >>> linear_weights([-0.5, 0.25, 3.0])
    array([1.  , 0.75, 0.  ])

    Reference:
        Jiang et al., 2018, "MentorNet: Learning Data-Driven Curriculum for
        Very Deep Neural Networks on Corrupted Labels".
        https://arxiv.org/abs/1712.05055
    """
    differences = arguments.vector("loss_differences", loss_differences)
    gamma = _checks.number("gamma", gamma, above=0.0)
    return np.clip(1.0 - differences / gamma, 0.0, 1.0)


def hard_example_weights(
    loss_differences: npt.ArrayLike,
) -> npt.NDArray[np.float64]:
    """Return weight 1 for examples of large loss, 0 for the others.

    `v = [d >= 0]`, hard-example mining: the opposite of what noise asks for.

    Args:
        loss_differences: `(examples,)`, the loss of each example minus the
            reference loss (d).

    Returns:
        `(examples,)` float64, 0 or 1.

    Raises:
        TypeError: if `loss_differences` are not numbers.
        ValueError: if they are not 1-D, empty or not finite.

    Example:

    >>> hard_example_weights([-0.5, 0.0, 0.5])
    array([0., 1., 1.])

    Reference:
        Jiang et al., 2018, "MentorNet: Learning Data-Driven Curriculum for
        Very Deep Neural Networks on Corrupted Labels".
        https://arxiv.org/abs/1712.05055
    """
    differences = arguments.vector("loss_differences", loss_differences)
    return (differences >= 0.0).astype(np.float64)


def focal_weights(
    losses: npt.ArrayLike, gamma: float = 2.0
) -> npt.NDArray[np.float64]:
    """Return the weights of the focal loss.

    `v = (1 - exp(-loss))^gamma`, which for the cross entropy is
    `(1 - p)^gamma` with the probability p of the label.

    Args:
        losses: `(examples,)`, >= 0.
        gamma: Exponent, > 0. Towards 0 all weights become 1, but for losses
            of 0.

    Returns:
        `(examples,)` float64 in [0, 1]; 0 for a loss of 0.

    Raises:
        TypeError: if an argument is not numbers.
        ValueError: if `losses` are not 1-D, empty, negative or not finite,
            or if `gamma <= 0`.

    Example:

    >>> focal_weights(np.log([1.0, 2.0, 10.0])).round(4)
    array([0.  , 0.25, 0.81])

    Reference:
        Lin et al., 2017, "Focal Loss for Dense Object Detection".
        https://arxiv.org/abs/1708.02002
    """
    values = arguments.vector("losses", losses, minimum=0.0)
    gamma = _checks.number("gamma", gamma, above=0.0)
    return (-np.expm1(-values)) ** gamma


def mentornet_pd_weights(
    loss_differences: npt.ArrayLike,
    progress: float | npt.ArrayLike,
    gamma: float = 1.0,
    warmup: float = 0.18,
    linear_start: float = 0.9,
) -> npt.NDArray[np.float64]:
    """Return the weights of the predefined MentorNet, MentorNet PD.

    `v = 1` while `progress <= warmup`, `linear_weights(d, gamma)` from
    `progress >= linear_start` on, `self_paced_weights(d)` between. Warm-up
    goes first where the two overlap.

    The authors count progress in whole percents, rounded down, so that their
    warm-up ends just before 0.19; give `np.floor(100 * progress) / 100` for
    that.

    Args:
        loss_differences: `(examples,)`, the loss of each example minus the
            reference loss (d).
        progress: Share of training that is done, in [0, 1]; one for all, or
            `(examples,)`.
        gamma: Difference at which the linear weight reaches 0, > 0.
        warmup: Progress up to which all weights are 1, in [0, 1].
        linear_start: Progress from which weights are linear, in [0, 1].

    Returns:
        `(examples,)` float64 in [0, 1].

    Raises:
        TypeError: if an argument is not numbers.
        ValueError: if `loss_differences` are not 1-D, empty or not finite, if
            `progress` is neither one number nor one per example, or if an
            argument is out of range.

    Example:

    >>> differences = [-0.5, 0.25]
    >>> [mentornet_pd_weights(differences, t).tolist() for t in (0.1, 0.5, 1)]
    [[1.0, 1.0], [1.0, 0.0], [1.0, 0.75]]

    Reference:
        Jiang et al., 2018, "MentorNet: Learning Data-Driven Curriculum for
        Very Deep Neural Networks on Corrupted Labels" (thresholds: authors'
        code). https://arxiv.org/abs/1712.05055
    """
    differences = arguments.vector("loss_differences", loss_differences)
    warmup = _checks.number("warmup", warmup, minimum=0.0, maximum=1.0)
    linear_start = _checks.number(
        "linear_start", linear_start, minimum=0.0, maximum=1.0
    )
    done = arguments.vector("progress", np.atleast_1d(progress), minimum=0.0)
    if done.max() > 1.0:
        raise ValueError(
            "`progress` must be in [0, 1]. "
            f"Received: progress={done.max()}. "
            "Give a fraction, not a percentage."
        )
    if done.size not in (1, differences.size):
        raise ValueError(
            "`progress` must be one number, or one per example, "
            f"{differences.size}. "
            f"Received: progress of shape {done.shape}."
        )
    late = np.where(
        done >= linear_start,
        linear_weights(differences, gamma),
        self_paced_weights(differences),
    )
    return np.where(done <= warmup, 1.0, late)
