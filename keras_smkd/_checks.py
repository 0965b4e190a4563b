"""Checks of arguments, and the words in which they fail.

Every check returns the value that it was given, so that a constructor can
check and store on one line.
"""

import math
import numbers
from collections.abc import Collection
from collections.abc import Sequence
from typing import Any


def number(
    name: str,
    value: Any,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    above: float | None = None,
    advice: str = "",
) -> float:
    """Return `value` as a float, or raise if it is not a number in range.

    Args:
        name: The argument's name, for the message.
        value: What the caller gave.
        minimum: Smallest allowed value.
        maximum: Largest allowed value.
        above: If given, `value` must be strictly larger than this; it takes
            the place of `minimum`.
        advice: A closing sentence that says what to do instead.

    Raises:
        TypeError: if `value` is not a real number.
        ValueError: if `value` is NaN, infinite or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a number. "
            f"Received: {name}={value!r} of type {type(value).__name__}."
        )
    result = float(value)
    low = minimum if above is None else above
    inside = (result >= low if above is None else result > low) and (
        result <= maximum
    )
    if not math.isfinite(result) or not inside:
        raise ValueError(
            f"`{name}` must be {_range(low, maximum, above is not None)}. "
            f"Received: {name}={value!r}.{' ' + advice if advice else ''}"
        )
    return result


def _range(low: float, high: float, strict: bool) -> str:
    if math.isfinite(low) and math.isfinite(high):
        return f"in {'(' if strict else '['}{low:g}, {high:g}]"
    if math.isfinite(low):
        return f"a finite number {'>' if strict else '>='} {low:g}"
    if math.isfinite(high):
        return f"a finite number <= {high:g}"
    return "a finite number"


def fraction(name: str, value: Any, *, advice: str = "") -> float:
    """Return `value` as a float, or raise if it is not in [0, 1)."""
    result = number(name, value)
    if not 0.0 <= result < 1.0:
        raise ValueError(
            f"`{name}` must be in [0, 1). "
            f"Received: {name}={value!r}.{' ' + advice if advice else ''}"
        )
    return result


def fraction_or_schedule(name: str, value: Any, *, advice: str = "") -> Any:
    """Return a number in [0, 1) as a float, or a schedule of such numbers.

    Args:
        name: The argument's name, for the message.
        value: Number, or `progress -> number`; it is tried at five places.
        advice: A closing sentence that says what to do instead.

    Raises:
        TypeError: if it is neither.
        ValueError: if a value is out of range.
    """
    if not callable(value):
        return fraction(name, value, advice=advice)
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        fraction(f"{name}({progress})", float(value(progress)), advice=advice)
    return value


def number_or_schedule(name: str, value: Any, *, minimum: float) -> Any:
    """Return a number as a float, or a schedule whose values are in range.

    Args:
        name: The argument's name, for the message.
        value: Number, or `progress -> number`; it is tried at five places.
        minimum: Smallest allowed value.

    Raises:
        TypeError: if it is neither.
        ValueError: if a value is not finite or too small.
    """
    if not callable(value):
        return number(name, value, minimum=minimum)
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        number(f"{name}({progress})", float(value(progress)), minimum=minimum)
    return value


def integer(name: str, value: Any, *, minimum: int) -> int:
    """Return `value` as an int, or raise if it is not one or too small."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"`{name}` must be an integer. "
            f"Received: {name}={value!r} of type {type(value).__name__}."
        )
    if value < minimum:
        raise ValueError(
            f"`{name}` must be an integer >= {minimum}. "
            f"Received: {name}={value!r}."
        )
    return int(value)


def boolean(name: str, value: Any) -> bool:
    """Return `value`, or raise if it is neither `True` nor `False`."""
    if not isinstance(value, bool):
        raise TypeError(
            f"`{name}` must be True or False. Received: {name}={value!r}."
        )
    return value


def one_of(name: str, value: Any, allowed: Collection[str]) -> str:
    """Return `value`, or raise if it is not one of the `allowed` strings."""
    if not isinstance(value, str) or value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(
            f"`{name}` must be one of {choices}. Received: {name}={value!r}."
        )
    return value


def shapes_differ(
    shape: Sequence[int | None], other_shape: Sequence[int | None]
) -> bool:
    """Return whether two shapes differ in what is known of them.

    Args:
        shape: Sizes, `None` for a size that is not known yet.
        other_shape: The same.
    """
    return len(shape) != len(other_shape) or any(
        a is not None and b is not None and a != b
        for a, b in zip(shape, other_shape, strict=True)
    )
