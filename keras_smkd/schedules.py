"""Schedules: from the progress of training to a value.

A schedule is a callable without state. `progress` is the share of training
that is done, in [0, 1]. Given as a Python number it returns a Python float;
given as a tensor it returns a tensor, and can be compiled into the step.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd._config import Configured


class _Schedule(Configured):
    """Base of the schedules, which all follow the progress."""

    needs_progress = True


@keras.saving.register_keras_serializable(package="keras_smkd")
class Constant(_Schedule):
    """The same value throughout: `value(t) = value`.

    Args:
        value: A finite number.

    Example:

    >>> Constant(0.5)(0.9)
    0.5
    """

    needs_progress = False

    def __init__(self, value: float) -> None:
        self.value = _checks.number("value", value)

    def __call__(self, progress: Any) -> Any:
        return self.value + 0.0 * _checked(progress)


@keras.saving.register_keras_serializable(package="keras_smkd")
class Sigmoid(_Schedule):
    """The generic threshold of selective mutual knowledge distillation.

    `value(t) = 2 * scale * sigmoid(sharpness * (midpoint - t))`

    `sharpness = 0` is static at `scale`. A positive sharpness falls from
    almost `2 * scale` to almost 0 (a threshold that tightens), a negative one
    rises (a threshold that loosens). At `t = midpoint` it is `scale` always.

    Args:
        scale: Value at the midpoint, >= 0.
        sharpness: How fast the value changes there; the slope at the
            midpoint is `-scale * sharpness / 2` per unit of progress.
        midpoint: Progress at which the value is `scale`, in [0, 1].

    Example:

    >>> schedule = Sigmoid(scale=0.5, sharpness=8.0)
    >>> [round(schedule(t), 3) for t in (0.0, 0.5, 1.0)]
    [0.982, 0.5, 0.018]

    Reference:
        Wang et al., 2021, "ProSelfLC": the shape, which its global trust has. https://arxiv.org/abs/2005.03788
    """

    def __init__(
        self, scale: float, sharpness: float, midpoint: float = 0.5
    ) -> None:
        self.scale = _checks.number("scale", scale, minimum=0.0)
        self.sharpness = _checks.number("sharpness", sharpness)
        self.midpoint = _checks.number(
            "midpoint", midpoint, minimum=0.0, maximum=1.0
        )

    def __call__(self, progress: Any) -> Any:
        distance = self.midpoint - _checked(progress)
        return 2.0 * self.scale * _sigmoid(self.sharpness * distance)


@keras.saving.register_keras_serializable(package="keras_smkd")
class Linear(_Schedule):
    """A straight line: `value(t) = start + (end - start) * t`.

    Args:
        start: Value at progress 0.
        end: Value at progress 1.

    Example:

    >>> Linear(0.0, 4.0)(0.25)
    1.0
    """

    def __init__(self, start: float, end: float) -> None:
        self.start = _checks.number("start", start)
        self.end = _checks.number("end", end)

    def __call__(self, progress: Any) -> Any:
        return self.start + (self.end - self.start) * _checked(progress)


@keras.saving.register_keras_serializable(package="keras_smkd")
class RampUp(_Schedule):
    """The Gaussian ramp-up of consistency methods, then a constant.

    `value(t) = end * exp(-5 * (1 - min(t / length, 1))^2)`

    Args:
        end: Value from the end of the ramp on.
        length: Length of the ramp as a share of training, in [0, 1]; 0 is no
            ramp.

    Example:

    >>> [round(RampUp(1.0, 0.5)(t), 4) for t in (0.0, 0.25, 0.5, 1.0)]
    [0.0067, 0.2865, 1.0, 1.0]

    Reference:
        Laine and Aila, 2017, "Temporal Ensembling for Semi-Supervised
        Learning", section 3.1. https://arxiv.org/abs/1610.02242
    """

    def __init__(self, end: float, length: float) -> None:
        self.end = _checks.number("end", end)
        self.length = _checks.number("length", length, minimum=0.0, maximum=1.0)

    def __call__(self, progress: Any) -> Any:
        progress = _checked(progress)
        if self.length == 0.0:
            return self.end + 0.0 * progress
        left = 1.0 - _at_most_one(progress / self.length)
        return self.end * _exp(-5.0 * left * left)


@keras.saving.register_keras_serializable(package="keras_smkd")
class Piecewise(_Schedule):
    """Constant pieces: `values[k]` from `boundaries[k - 1]` on.

    Args:
        boundaries: Increasing progress values in [0, 1].
        values: One value more than there are boundaries.

    Example:

    >>> schedule = Piecewise([0.5], [1.0, 0.1])
    >>> schedule(0.25), schedule(0.5)
    (1.0, 0.1)
    """

    def __init__(
        self, boundaries: Sequence[float], values: Sequence[float]
    ) -> None:
        self.boundaries = [
            _checks.number("boundaries", item, minimum=0.0, maximum=1.0)
            for item in boundaries
        ]
        self.values = [_checks.number("values", item) for item in values]
        if any(a >= b for a, b in itertools.pairwise(self.boundaries)):
            raise ValueError(
                "`boundaries` must increase. "
                f"Received: boundaries={self.boundaries}."
            )
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                "`values` must have one value more than `boundaries`. "
                f"Received: boundaries={self.boundaries}, "
                f"values={self.values}."
            )

    def __call__(self, progress: Any) -> Any:
        progress = _checked(progress)
        if isinstance(progress, float):
            return self.values[sum(progress >= b for b in self.boundaries)]
        piece = sum(
            (ops.cast(progress >= b, "int32") for b in self.boundaries),
            start=ops.zeros_like(progress, dtype="int32"),
        )
        return ops.take(ops.cast(self.values, progress.dtype), piece)


@keras.saving.register_keras_serializable(package="keras_smkd")
class ForgetRate(_Schedule):
    """The share of examples that Co-teaching drops, which grows and stays.

    With `e = t * epochs`, the epochs done, and `T_k = ramp * epochs`:

        value(t) = min(rate * e^exponent / T_k, rate)            "paper"
        value(t) = rate^exponent * e / (T_k - 1)  while e < T_k  "code"
                   rate                           afterwards

    The paper's form needs no `epochs` while the exponent is 1, where it is a
    straight line. The code's counts whole epochs from 0 (the authors' counter
    is at 1 in their first epoch of training) and whole `T_k`. It ends one
    epoch earlier, and jumps there unless the exponent is 1.

    Args:
        rate: Share dropped in the end (tau), in [0, 1): the noise rate, or a
            guess of it.
        ramp: Length of the ramp as a share of training, in [0, 1]; 0 is no
            ramp. The paper's is 10 epochs of 200.
        exponent: Curvature of the ramp (c), > 0.
        form: `"paper"`, or `"code"` for the ramp with which the published
            accuracies were measured.
        epochs: Epochs in the whole training, for form `"code"` and for other
            exponents than 1.

    Example:

    >>> schedule = ForgetRate(0.4, ramp=0.1)
    >>> [round(schedule(t), 3) for t in (0.0, 0.05, 0.1, 1.0)]
    [0.0, 0.2, 0.4, 0.4]

    Reference:
        Han et al., 2018, "Co-teaching: Robust Training of Deep Neural
        Networks with Extremely Noisy Labels", section 4 and the authors'
        code. https://arxiv.org/abs/1804.06872
    """

    def __init__(
        self,
        rate: float,
        ramp: float = 10 / 200,
        exponent: float = 1.0,
        form: str = "paper",
        epochs: int | None = None,
    ) -> None:
        advice = "Give a fraction, not a percentage."
        self.rate = _checks.fraction("rate", rate, advice=advice)
        self.ramp = _checks.number("ramp", ramp, minimum=0.0, maximum=1.0)
        self.exponent = _checks.number("exponent", exponent, above=0.0)
        self.form = _checks.one_of("form", form, ("paper", "code"))
        if epochs is not None:
            epochs = _checks.integer("epochs", epochs, minimum=1)
        elif form == "code" or self.exponent != 1.0:
            raise ValueError(
                "`epochs` must be given for a rate that goes by whole epochs "
                "or their power. Received: epochs=None with form="
                f"{form!r} and exponent={exponent}."
            )
        self.epochs = epochs

    def __call__(self, progress: Any) -> Any:
        progress = _checked(progress)
        if self.ramp == 0.0:
            return self.rate + 0.0 * progress
        epochs = self.epochs or 1
        if self.form == "paper":
            done = (progress * epochs) ** self.exponent
            return self.rate * _at_most_one(done / (self.ramp * epochs))
        # A step's progress may be a little less than the epoch that it begins.
        done = _floor(progress * epochs + 1e-4)
        length = round(self.ramp * epochs)
        rising = self.rate**self.exponent * done / max(length - 1, 1)
        if isinstance(done, float):
            return rising if done < length else self.rate
        return ops.where(done < length, rising, self.rate)


def _checked(progress: Any) -> Any:
    if isinstance(progress, (int, float)):
        return _checks.number("progress", progress, minimum=0.0, maximum=1.0)
    return ops.convert_to_tensor(progress)


def _sigmoid(x: Any) -> Any:
    if not isinstance(x, float):
        return ops.sigmoid(x)
    # Of the two equal forms, the one whose exponential cannot overflow.
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    return math.exp(x) / (1.0 + math.exp(x))


def _exp(x: Any) -> Any:
    return math.exp(x) if isinstance(x, float) else ops.exp(x)


def _at_most_one(x: Any) -> Any:
    return min(x, 1.0) if isinstance(x, float) else ops.minimum(x, 1.0)


def _floor(x: Any) -> Any:
    return float(math.floor(x)) if isinstance(x, float) else ops.floor(x)
