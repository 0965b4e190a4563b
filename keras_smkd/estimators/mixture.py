"""A mixture of two beta distributions over losses: clean and noisy."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd.estimators import arguments

TINY = 1e-12
# Losses are normalised from `low + 1e-5` on, so `high` must be above that.
MINIMUM_RANGE = 1e-5


def pair(name: str, values: Sequence[float]) -> tuple[float, float]:
    """Return the numbers of the two components, or raise."""
    given = tuple(_checks.number(name, item, above=0.0) for item in values)
    if len(given) != 2:
        raise ValueError(
            f"`{name}` must be two numbers, for the clean and the noisy "
            f"component. Received: {name}={values!r}."
        )
    return given[0], given[1]


@dataclasses.dataclass(frozen=True)
class BetaMixture:
    """Two beta components over normalised losses: clean, noisy.

    `p(x) = weights[0] * Beta(x; alphas[0], betas[0])
    + weights[1] * Beta(x; alphas[1], betas[1])`

    What `fit_beta_mixture` returns. Kept by itself, since M-correction fits
    it to the losses of one epoch and asks it about those of the next.

    Args:
        alphas: First parameter of each component, > 0.
        betas: Second parameter of each component, > 0.
        weights: Shares of the components, > 0, sum 1.
        low: Loss that is normalised to 0, but for 1e-5.
        high: Loss that is normalised to 1, but for 1e-6. Larger than `low`
            by more than 1e-5.

    Raises:
        TypeError: if an argument is not of numbers.
        ValueError: if an argument is out of range.

    Example:

    >>> mixture = BetaMixture((1, 2), (2, 1), (0.5, 0.5), low=0.0, high=4.0)
    >>> mixture.posterior_noisy([1.0, 2.0, 3.0]).round(4).tolist()
    [0.25, 0.5, 0.75]

    Reference:
        Arazo et al., 2019, "Unsupervised Label Noise Modeling and Loss
        Correction". https://arxiv.org/abs/1904.11238
    """

    alphas: tuple[float, float]
    betas: tuple[float, float]
    weights: tuple[float, float]
    low: float
    high: float

    def __post_init__(self) -> None:
        for name in ("alphas", "betas", "weights"):
            object.__setattr__(self, name, pair(name, getattr(self, name)))
        if abs(sum(self.weights) - 1.0) > 1e-6:
            raise ValueError(
                f"`weights` must sum to 1. Received: weights={self.weights}."
            )
        _checks.number("low", self.low)
        _checks.number("high", self.high)
        if not self.high - self.low > MINIMUM_RANGE:
            raise ValueError(
                "`high` must be larger than `low` by more than "
                f"{MINIMUM_RANGE:g}. "
                f"Received: high={self.high}, low={self.low}."
            )

    def normalized(self, losses: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return losses mapped to (0, 1).

        `x = (loss - low - 1e-5) / (high - low - 1e-5 + 1e-6)`, with 0.001 in
        place of all that is <= 0, and 0.999 of all that is >= 1.

        Args:
            losses: `(examples,)`, finite.

        Returns:
            `(examples,)` float64.

        Raises:
            TypeError: if `losses` are not numbers.
            ValueError: if they are not 1-D, empty or not finite.
        """
        low = self.low + MINIMUM_RANGE
        x = (arguments.vector("losses", losses) - low) / (
            self.high - low + 1e-6
        )
        x[x >= 1.0] = 0.999
        x[x <= 0.0] = 0.001
        return x

    def posterior_noisy(
        self,
        losses: npt.ArrayLike,
        lookup_points: int | None = None,
        margin: float = 0.0,
    ) -> npt.NDArray[np.float64]:
        """Return the posterior of the noisy component, P(noisy | loss).

        `weights[1] * Beta_1(x) / p(x)`, which falls again for the largest
        losses where the clean component has the heavier end: if `betas[0]`
        is below `betas[1]`, as it often is with much noise, the very largest
        losses pass for clean. A table mends that.

        Args:
            losses: `(examples,)`, finite.
            lookup_points: None computes it at each loss. An integer >= 2
                reads it from `lookup_table`, at `int(lookup_points * x)`,
                where it is kept from falling. The authors take 100; the
                first bin, read at x = 1e-12, then holds the smallest losses,
                and may call them all noisy. More points make it narrower.
            margin: Posteriors are kept in [margin, 1 - margin], in [0, 0.5];
                the authors' 1e-4 keeps a bit of either target.

        Returns:
            `(examples,)` float64.

        Raises:
            TypeError: if `losses` or `margin` are not numbers, or
                `lookup_points` not an integer.
            ValueError: if `losses` are not 1-D, empty or not finite, or if
                another argument is out of range.
        """
        margin = _checks.number("margin", margin, minimum=0.0, maximum=0.5)
        x = self.normalized(losses)
        if lookup_points is None:
            clean, noisy = self.log_densities(x)
            posterior = np.exp(-np.logaddexp(0.0, clean - noisy))
        else:
            lookup_points = _checks.integer(
                "lookup_points", lookup_points, minimum=2
            )
            table = self.lookup_table(lookup_points)
            posterior = table[(lookup_points * x).astype(np.int64)]
        return np.clip(posterior, margin, 1.0 - margin)

    def lookup_table(self, points: int = 100) -> npt.NDArray[np.float64]:
        """Return the posterior on a grid, flat from its maximum on.

        The posterior need not grow with the loss: it falls again where the
        clean component has the heavier end. The authors keep it at its
        maximum there. 1e-12 is added to the density that it is divided by.

        Args:
            points: Number of grid points from 0 to 1, both 1e-12 inside;
                integer >= 2.

        Returns:
            `(points,)` float64.

        Raises:
            TypeError: if `points` is not an integer.
            ValueError: if `points < 2`.
        """
        points = _checks.integer("points", points, minimum=2)
        grid = np.linspace(TINY, 1.0 - TINY, points)
        densities = np.exp(self.log_densities(grid))
        table = densities[1] / (densities.sum(axis=0) + TINY)
        table[table.argmax() :] = table.max()
        return table

    def log_densities(
        self, x: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Return `(2, examples)`, the log of each weighted density."""
        return np.stack(
            [
                math.log(weight)
                + math.lgamma(alpha + beta)
                - math.lgamma(alpha)
                - math.lgamma(beta)
                + (alpha - 1.0) * np.log(x)
                + (beta - 1.0) * np.log1p(-x)
                for alpha, beta, weight in zip(
                    self.alphas, self.betas, self.weights, strict=True
                )
            ]
        )
