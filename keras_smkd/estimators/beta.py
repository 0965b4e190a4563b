"""Clean and noisy examples told apart by a beta mixture of losses."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd.estimators import arguments
from keras_smkd.estimators.mixture import MINIMUM_RANGE
from keras_smkd.estimators.mixture import TINY
from keras_smkd.estimators.mixture import BetaMixture
from keras_smkd.estimators.mixture import pair


def fit_beta_mixture(
    losses: npt.ArrayLike,
    max_iterations: int = 10,
    alphas: Sequence[float] = (1.0, 2.0),
    betas: Sequence[float] = (2.0, 1.0),
    weights: Sequence[float] = (0.5, 0.5),
    percentiles: Sequence[float] = (5.0, 95.0),
) -> BetaMixture:
    """Return a beta mixture fitted to losses by EM.

    Losses beyond the two percentiles are left out, the others normalised by
    them (`BetaMixture.normalized`) and clipped to [1e-4, 1 - 1e-4]. Each
    iteration computes responsibilities r, with weighted densities of at least
    1e-12, and then for either component the weighted mean m and variance s of
    the x, s at least 1e-9: `alpha = m * (m * (1 - m) / s - 1)`,
    `beta = alpha * (1 - m) / m`, `weight = mean(r)`.

    Args:
        losses: `(examples,)`, finite. Not changed.
        max_iterations: Number of EM iterations, integer >= 1.
        alphas: Where the EM starts, clean and noisy component, > 0.
        betas: The same, second parameter.
        weights: The same, shares, > 0, sum 1.
        percentiles: The lower and the upper one, in [0, 100].

    Returns:
        A `BetaMixture`; its first component, the clean one, has the smaller
        mean.

    Raises:
        TypeError: if an argument is not of its kind.
        ValueError: if `losses` are not 1-D or not finite, if they hold no two
            different values between the percentiles or differ by 1e-5 or
            less there, or if another argument is out of range.

    Example:

    >>> losses = np.r_[np.linspace(0.0, 1.0, 70), np.linspace(2.0, 6.0, 30)]
    >>> mixture = fit_beta_mixture(losses)
    >>> [round(share, 2) for share in mixture.weights]
    [0.7, 0.3]

    Reference:
        Arazo et al., 2019, "Unsupervised Label Noise Modeling and Loss
        Correction". https://arxiv.org/abs/1904.11238
    """
    values = arguments.vector("losses", losses)
    max_iterations = _checks.integer(
        "max_iterations", max_iterations, minimum=1
    )
    bounds = [
        _checks.number("percentiles", item, minimum=0.0, maximum=100.0)
        for item in percentiles
    ]
    if len(bounds) != 2 or bounds[0] >= bounds[1]:
        raise ValueError(
            "`percentiles` must be two that increase. "
            f"Received: percentiles={percentiles!r}."
        )
    low, high = np.percentile(values, bounds).tolist()
    kept = values[(values >= low) & (values <= high)]
    if kept.size < 2 or kept.min() == kept.max() or high - low <= MINIMUM_RANGE:
        raise ValueError(
            "`losses` must hold at least two different values between the "
            f"percentiles {bounds[0]:g} and {bounds[1]:g}, which must differ "
            f"by more than {MINIMUM_RANGE:g}. Received: {values.size} losses "
            f"from {values.min():g} to {values.max():g}, {kept.size} of them "
            f"from {low:g} to {high:g}."
        )
    mixture = BetaMixture(
        pair("alphas", alphas),
        pair("betas", betas),
        pair("weights", weights),
        low,
        high,
    )
    # Densities are 0 or infinite at 0 and 1.
    x = np.clip(mixture.normalized(kept), 1e-4, 1.0 - 1e-4)
    for _ in range(max_iterations):
        mixture = _em_step(mixture, x)
    return _ordered(mixture)


def beta_mixture_posterior(
    losses: npt.ArrayLike,
    max_iterations: int = 10,
    lookup_points: int | None = None,
) -> npt.NDArray[np.float64]:
    """Return the posterior of the noisy component of a beta mixture.

    `fit_beta_mixture(losses).posterior_noisy(losses)`

    Args:
        losses: `(examples,)`, finite. Not changed.
        max_iterations: Number of EM iterations, integer >= 1.
        lookup_points: None computes the posterior at each loss, by the
            formula; with much noise, it may call the largest losses clean. An
            integer >= 2 reads it from a table that never falls beyond its
            maximum, as the authors do with 100, on which published numbers
            depend; more points are more exact.

    Returns:
        `(examples,)` float64 in [0, 1]: P(noisy | loss).

    Raises:
        TypeError: if an argument is not of its kind.
        ValueError: if `losses` are not 1-D or not finite, if they hold no two
            different values between their percentiles 5 and 95 or differ by
            1e-5 or less there, or if another argument is out of range.

    Example:

    >>> losses = np.r_[np.linspace(0.0, 1.0, 70), np.linspace(2.0, 6.0, 30)]
    >>> posterior = beta_mixture_posterior(losses)
    >>> (posterior > 0.5).sum().tolist()
    30

    Reference:
        Arazo et al., 2019, "Unsupervised Label Noise Modeling and Loss
        Correction". https://arxiv.org/abs/1904.11238
    """
    mixture = fit_beta_mixture(losses, max_iterations)
    return mixture.posterior_noisy(losses, lookup_points)


def _em_step(mixture: BetaMixture, x: npt.NDArray[np.float64]) -> BetaMixture:
    densities = np.maximum(np.exp(mixture.log_densities(x)), TINY)
    shares = densities / densities.sum(axis=0)
    totals = shares.sum(axis=1)
    means = shares @ x / totals
    variances = (shares * (x - means[:, np.newaxis]) ** 2).sum(axis=1) / totals
    # A component that ends on losses all equal would have infinite densities.
    variances = np.maximum(variances, 1e-9)
    alphas = means * (means * (1.0 - means) / variances - 1.0)
    betas = alphas * (1.0 - means) / means
    return dataclasses.replace(
        mixture,
        alphas=pair("alphas", alphas.tolist()),
        betas=pair("betas", betas.tolist()),
        weights=pair("weights", (totals / totals.sum()).tolist()),
    )


def _ordered(mixture: BetaMixture) -> BetaMixture:
    """Return the mixture with the component of the smaller mean first."""
    clean, noisy = (
        alpha / (alpha + beta)
        for alpha, beta in zip(mixture.alphas, mixture.betas, strict=True)
    )
    if clean <= noisy:
        return mixture
    return dataclasses.replace(
        mixture,
        alphas=mixture.alphas[::-1],
        betas=mixture.betas[::-1],
        weights=mixture.weights[::-1],
    )
