"""Clean and noisy examples told apart by a Gaussian mixture of losses."""

import warnings

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd.estimators import arguments
from keras_smkd.noise.arguments import check_seed


def gaussian_mixture_posterior(
    losses: npt.ArrayLike,
    seed: int,
    max_iterations: int = 10,
    tolerance: float = 1e-2,
    minimum_variance: float = 5e-4,
) -> npt.NDArray[np.float64]:
    """Return the posterior of the noisy component of a Gaussian mixture.

    Two Gaussians are fitted by EM to
    `x = (loss - min(losses)) / (max(losses) - min(losses))`; the noisy
    component is the one of the larger mean. Needs scikit-learn.

    A wide noisy component also covers the smallest losses, so the posterior
    need not grow with the loss everywhere.

    Args:
        losses: `(examples,)`, at least 2 and not all equal. Not changed.
        seed: Integer >= 0, for the start of the EM by k-means. The same seed
            gives the same posterior.
        max_iterations: Integer >= 1. Stopping there is no error.
        tolerance: EM ends when the mean log likelihood gains less, >= 0.
        minimum_variance: Added to each component's variance, >= 0. For 0,
            components may collapse onto equal losses.

    Returns:
        `(examples,)` float64 in [0, 1]: P(noisy | loss). The posterior of
        the clean component, which DivideMix calls w, is 1 minus it.

    Raises:
        ImportError: if scikit-learn is not installed.
        TypeError: if an argument is not of its kind.
        ValueError: if `losses` are not 1-D, fewer than 2, not finite or all
            equal, or if another argument is out of range.

    Example:

    >>> losses = [0.1, 0.2, 0.15, 0.1, 2.9, 3.0]
    >>> gaussian_mixture_posterior(losses, seed=0).round(2).tolist()
    [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]

    Reference:
        Li et al., 2020, "DivideMix: Learning with Noisy Labels as
        Semi-supervised Learning" (defaults: authors' code).
        https://arxiv.org/abs/2002.07394
    """
    values = arguments.vector("losses", losses)
    seed = check_seed(seed)
    max_iterations = _checks.integer(
        "max_iterations", max_iterations, minimum=1
    )
    tolerance = _checks.number("tolerance", tolerance, minimum=0.0)
    minimum_variance = _checks.number(
        "minimum_variance", minimum_variance, minimum=0.0
    )
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise ValueError(
            "`losses` must hold at least two different values. "
            f"Received: {values.size} losses, all {low:g}."
        )
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise ImportError(
            "`gaussian_mixture_posterior` needs scikit-learn. "
            "Install it with: pip install scikit-learn"
        ) from error

    column = ((values - low) / (high - low))[:, np.newaxis]
    mixture = GaussianMixture(
        n_components=2,
        max_iter=max_iterations,
        tol=tolerance,
        reg_covar=minimum_variance,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # The method stops after ten iterations by design.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(column)
    noisy = int(mixture.means_.ravel().argmax())
    return np.asarray(mixture.predict_proba(column)[:, noisy], np.float64)
