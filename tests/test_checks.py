"""Checks of arguments: what passes, what fails, and in which words."""

import math

import numpy as np
import pytest

from keras_smkd import _checks


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), np.int64(1)])
def test_number_returns_the_value_as_a_python_float(value):
    result = _checks.number("rate", value, minimum=0.0, maximum=1.0)
    assert type(result) is float
    assert result == value


def test_limits_are_inclusive_and_above_is_not():
    assert _checks.number("rate", 0, minimum=0.0, maximum=1.0) == 0.0
    assert _checks.number("rate", 1, minimum=0.0, maximum=1.0) == 1.0
    smallest = math.ulp(0.0)
    assert _checks.number("rate", smallest, above=0.0) == smallest
    with pytest.raises(ValueError, match="`rate` must be a finite number > 0"):
        _checks.number("rate", 0.0, above=0.0)


@pytest.mark.parametrize(
    ("value", "limits", "requirement"),
    [
        (-0.1, {"minimum": 0.0, "maximum": 1.0}, r"in \[0, 1\]"),
        (1.1, {"minimum": 0.0, "maximum": 1.0}, r"in \[0, 1\]"),
        (0.0, {"above": 0.0, "maximum": 1.0}, r"in \(0, 1\]"),
        (-1, {"minimum": 0.0}, "a finite number >= 0"),
        (2, {"maximum": 1.0}, "a finite number <= 1"),
        (math.nan, {}, "a finite number"),
        (math.inf, {}, "a finite number"),
        (-math.inf, {"maximum": 1.0}, "a finite number <= 1"),
        (math.nan, {"minimum": 0.0, "maximum": 1.0}, r"in \[0, 1\]"),
    ],
)
def test_number_names_the_rule_and_the_value(value, limits, requirement):
    message = rf"^`rate` must be {requirement}\. Received: rate={value!r}\.$"
    with pytest.raises(ValueError, match=message):
        _checks.number("rate", value, **limits)


def test_number_closes_with_the_advice():
    with pytest.raises(ValueError, match=r"rate=40\. Give a fraction\.$"):
        _checks.number("rate", 40, maximum=1.0, advice="Give a fraction.")


@pytest.mark.parametrize("value", [True, "0.5", None, [0.5], 1j])
def test_number_rejects_other_kinds(value):
    with pytest.raises(TypeError, match="`rate` must be a number") as caught:
        _checks.number("rate", value)
    assert f"rate={value!r} of type {type(value).__name__}" in str(caught.value)


@pytest.mark.parametrize("value", [2, np.int32(2)])
def test_integer_returns_a_python_int(value):
    result = _checks.integer("count", value, minimum=2)
    assert type(result) is int
    assert result == 2


def test_integer_rejects_too_small_and_other_kinds():
    with pytest.raises(
        ValueError, match=r"`count` must be an integer >= 2\. .*count=1\."
    ):
        _checks.integer("count", 1, minimum=2)
    for value in (2.0, True, "2", None):
        with pytest.raises(TypeError, match="`count` must be an integer"):
            _checks.integer("count", value, minimum=2)


def test_one_of_lists_the_choices():
    assert _checks.one_of("kind", "b", ("a", "b")) == "b"
    for value in ("c", "", None, 1, ["a"]):
        with pytest.raises(ValueError, match="must be one of 'a', 'b'"):
            _checks.one_of("kind", value, ("a", "b"))


@pytest.mark.parametrize(
    ("shape", "other_shape", "differ"),
    [
        ((2, 3), (2, 3), False),
        ((None, 3), (2, 3), False),
        ((2, 3), (2, None), False),
        ((), (), False),
        ((1, 3), (2, 3), True),
        ((None, 3), (2, 4), True),
        ((3,), (2, 3), True),
    ],
)
def test_shapes_differ_in_what_is_known(shape, other_shape, differ):
    assert _checks.shapes_differ(shape, other_shape) is differ
