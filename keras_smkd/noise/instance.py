"""Noise that depends on the input: a label distribution for each example."""

import statistics
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd._labels import class_ids
from keras_smkd.noise.arguments import check_inputs
from keras_smkd.noise.arguments import check_noise_rate
from keras_smkd.noise.arguments import check_num_classes
from keras_smkd.noise.arguments import check_seed

# Examples whose features are held in float64 at once.
_CHUNK = 1024
_FLIP_RATES, _PROJECTIONS = range(2)


def instance_dependent_probabilities(
    features: npt.ArrayLike,
    labels: npt.ArrayLike,
    projections: npt.ArrayLike,
    flip_rates: npt.ArrayLike,
    scale: float = 1.0,
) -> npt.NDArray[np.float64]:
    """Return each example's distribution of noisy labels, given all chances.

    `scores[n] = scale * features[n] @ projections[labels[n]]`, with the score
    of the clean label set to minus infinity, and (q the flip rates)

    `P[n] = q[n] * softmax(scores[n])`, `P[n, labels[n]] = 1 - q[n]`.

    So `flip_rates` say how probably a label is wrong, and the features which
    wrong class it then is. `draw_instance_dependent_probabilities` draws
    projections and flip rates as the paper does.

    Args:
        features: `(examples, ...)` numbers, flattened to `(examples, D)`.
        labels: `(examples,)` integers in [0, classes). Clean.
        projections: `(classes, D, classes)`, one matrix per clean class (W).
        flip_rates: `(examples,)` in [0, 1] (q).
        scale: Factor of the features, at least 0. 0 makes all wrong classes
            alike; the larger, the more certain the wrong class is.

    Returns:
        `(examples, classes)` float64, rows sum to 1.

    Raises:
        TypeError: if an argument is not of numbers.
        ValueError: if lengths or shapes disagree, a label is no class, a flip
            rate is outside [0, 1], `scale < 0`, or a score is not finite.

    Example:

    >>> projections = np.zeros((3, 2, 3))
    >>> projections[0, 0] = [0.0, 1.0, 2.0]
    >>> probabilities = instance_dependent_probabilities(
    ...     [[1.0, 5.0], [1.0, 5.0]], [0, 1], projections, [0.4, 0.2]
    ... )
    >>> probabilities.round(4)
    array([[0.6   , 0.1076, 0.2924],
           [0.1   , 0.8   , 0.1   ]])

    Reference:
        Xia et al., 2020, "Part-dependent Label Noise: Towards
        Instance-dependent Label Noise" (formula of the authors' code).
        https://arxiv.org/abs/2006.07836
    """
    weights = np.asarray(projections)
    if (
        weights.dtype.kind not in "iuf"
        or weights.ndim != 3
        or weights.shape[0] != weights.shape[2]
        or weights.shape[0] < 2
    ):
        raise ValueError(
            "`projections` must be numbers of shape (classes, D, classes). "
            f"Received: projections of shape {weights.shape}, dtype "
            f"{weights.dtype}."
        )
    clean = class_ids("labels", labels, len(weights))
    inputs = check_inputs("features", features, clean).reshape(clean.size, -1)
    if inputs.shape[1] != weights.shape[1]:
        raise ValueError(
            f"`projections` must have shape (classes, {inputs.shape[1]}, "
            "classes), for as many features. "
            f"Received: projections of shape {weights.shape}."
        )
    rates = np.asarray(flip_rates)
    if rates.dtype.kind not in "iuf" or rates.shape != clean.shape:
        raise ValueError(
            "`flip_rates` must be one number for each label. Received: "
            f"flip_rates of shape {rates.shape}, dtype {rates.dtype}; "
            f"{clean.size} labels."
        )
    if not np.all((rates >= 0) & (rates <= 1)):
        raise ValueError(
            "`flip_rates` must be in [0, 1]. "
            f"Received: flip_rates from {rates.min()} to {rates.max()}."
        )
    return _probabilities(
        inputs,
        clean,
        len(weights),
        lambda label: weights[label],
        rates.astype(np.float64),
        _checks.number("scale", scale, minimum=0.0),
    )


def draw_instance_dependent_probabilities(
    features: npt.ArrayLike,
    labels: npt.ArrayLike,
    noise_rate: float,
    *,
    num_classes: int,
    seed: int,
    std: float = 0.1,
    scale: float = 1.0,
) -> npt.NDArray[np.float64]:
    """Draw each example's distribution of noisy labels.

    `q[n] ~ Normal(noise_rate, std)`, truncated to [0, 1];
    `W[c] ~ Normal(0, 1)` of shape `(D, classes)` for each clean class c;
    then `instance_dependent_probabilities(features, labels, W, q, scale)`.

    Scaling the inputs changes the noise. The scores of an example are normal
    with standard deviation `scale * ||features[n]||`:

    - `scale=1`, the default, on raw pixels in 0..255 is the authors' setting.
      For CIFAR-10 the deviation is about 7,300: softmax is one-hot, and each
      image has one wrong class.
    - Pixels in [0, 1], or `scale=1/255`, make it about 29: nearly the same,
      with 96 % of the flips going to the likeliest wrong class of the image.
    - `scale=1/7300` on raw pixels makes it about 1, and every wrong class
      gets a share. Far below that, noise is symmetric.

    Pixels are never negative, so the images of a class have a large part of
    their scores in common: of CIFAR-10's airplanes, 99 % have the same wrong
    class, of the median class 67 %. Subtract the mean from the features for
    wrong classes that differ more from image to image.

    Truncation moves the mean of the flip rates away from the ends: with the
    default `std`, a `noise_rate` of 0.1 gives 0.129 on average, 0.2 gives
    0.206 and 0.4 gives 0.400. At the ends themselves flip rates do not vary:
    0 flips no label and 1 flips all.

    Each class's projection and the flip rates have generators of their own,
    made from the seed, so no more than one projection is in memory. Results
    are the same for a data set in uint8 and in floats of the same values.

    Args:
        features: `(examples, ...)` numbers, flattened to `(examples, D)`.
        labels: `(examples,)` integers in [0, num_classes). Clean.
        noise_rate: Mean of the flip rates before truncation, in [0, 1].
        num_classes: Number of classes, at least 2.
        seed: Integer >= 0. The same seed gives the same probabilities.
        std: Standard deviation of the flip rates before truncation, at least
            0. 0 gives all examples the same.
        scale: Factor of the features, at least 0.

    Returns:
        `(examples, num_classes)` float64, rows sum to 1.

    Raises:
        TypeError: if `num_classes` or `seed` are not integers, or another
            argument is not of numbers.
        ValueError: if `features` and `labels` differ in length, a label is no
            class, a score is not finite, or a number is out of range.

    Example:

    >>> features = [[0.0, 2.0], [1.0, 0.0], [3.0, 1.0]]
    >>> probabilities = draw_instance_dependent_probabilities(
    ...     features, [0, 1, 1], 0.4, num_classes=3, seed=0
    ... )
    >>> (1 - probabilities[[0, 1, 2], [0, 1, 1]]).round(2).tolist()
    [0.56, 0.35, 0.46]

    Reference:
        Xia et al., 2020, "Part-dependent Label Noise: Towards
        Instance-dependent Label Noise" (formula of the authors' code).
        https://arxiv.org/abs/2006.07836
    """
    classes = check_num_classes(num_classes)
    clean = class_ids("labels", labels, classes)
    inputs = check_inputs("features", features, clean).reshape(clean.size, -1)
    rate = check_noise_rate(noise_rate)
    std = _checks.number("std", std, minimum=0.0)
    scale = _checks.number("scale", scale, minimum=0.0)
    seed = check_seed(seed)

    levels = _generator(seed, _FLIP_RATES).random(clean.size)
    shape = (inputs.shape[1], classes)
    return _probabilities(
        inputs,
        clean,
        classes,
        lambda label: _generator(seed, _PROJECTIONS, label).standard_normal(
            shape
        ),
        truncated_normal_quantiles(
            levels, rate, 0.0 if rate in (0.0, 1.0) else std
        ),
        scale,
    )


def truncated_normal_quantiles(
    levels: npt.NDArray[np.float64], mean: float, std: float
) -> npt.NDArray[np.float64]:
    """Return quantiles of a normal distribution truncated to [0, 1].

    `mean + std * Phi^-1(Phi(a) + levels * (Phi(b) - Phi(a)))` with
    `a = -mean / std` and `b = (1 - mean) / std`.

    Args:
        levels: Probabilities in [0, 1].
        mean: Mean before truncation, in [0, 1].
        std: Standard deviation before truncation. 0 makes all equal `mean`.
    """
    if std == 0.0:
        return np.full(levels.shape, mean)
    normal = statistics.NormalDist()
    low, high = normal.cdf(-mean / std), normal.cdf((1.0 - mean) / std)
    # The inverse has no value at 0 and 1, which rounding may reach.
    inside = np.clip(low + levels * (high - low), 1e-300, 1.0 - 2.0**-53)
    values = np.array([normal.inv_cdf(level) for level in inside.tolist()])
    return np.clip(mean + std * values, 0.0, 1.0)


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _probabilities(
    features: npt.NDArray[np.generic],
    labels: npt.NDArray[np.integer],
    num_classes: int,
    projection: Callable[[int], npt.NDArray[np.generic]],
    flip_rates: npt.NDArray[np.float64],
    scale: float,
) -> npt.NDArray[np.float64]:
    result = np.empty((labels.size, num_classes))
    for label in np.unique(labels).tolist():
        weights = projection(label).astype(np.float64, copy=False)
        members = np.flatnonzero(labels == label)
        for start in range(0, members.size, _CHUNK):
            rows = members[start : start + _CHUNK]
            with np.errstate(over="ignore", invalid="ignore"):
                scores = scale * (features[rows].astype(np.float64) @ weights)
            bad = rows[~np.isfinite(scores).all(axis=1)]
            if bad.size:
                raise ValueError(
                    "`features` must give finite scores. Received: features, "
                    f"projection and scale={scale} that at example {bad[0]} "
                    "do not."
                )
            scores[:, label] = -np.inf
            scores -= scores.max(axis=1, keepdims=True)
            shares = np.exp(scores)
            shares *= flip_rates[rows, None] / shares.sum(axis=1, keepdims=True)
            shares[:, label] = 1.0 - flip_rates[rows]
            result[rows] = shares
    return result
