"""Schedules: the curves, their limits, and their round trip."""

import json
import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_smkd import schedules

PROGRESS = (0.0, 0.1, 0.25, 0.4, 0.5, 0.625, 0.75, 0.9, 1.0)


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


FORMULAS = [
    (schedules.Constant(0.3), lambda t: 0.3),
    (
        schedules.Sigmoid(0.5, 8.0),
        lambda t: 2 * 0.5 * sigmoid(8.0 * (0.5 - t)),
    ),
    (
        schedules.Sigmoid(0.7, -12.0, midpoint=0.25),
        lambda t: 2 * 0.7 * sigmoid(-12.0 * (0.25 - t)),
    ),
    (schedules.Sigmoid(0.0, 8.0), lambda t: 0.0),
    (schedules.Linear(1.0, -3.0), lambda t: 1.0 - 4.0 * t),
    (
        schedules.RampUp(30.0, 0.5),
        lambda t: 30.0 * math.exp(-5 * (1 - min(t / 0.5, 1)) ** 2),
    ),
    (schedules.RampUp(30.0, 1.0), lambda t: 30.0 * math.exp(-5 * (1 - t) ** 2)),
    (schedules.RampUp(30.0, 0.0), lambda t: 30.0),
    (
        schedules.Piecewise([0.25, 0.5], [1.0, 0.1, 0.01]),
        lambda t: 1.0 if t < 0.25 else 0.1 if t < 0.5 else 0.01,
    ),
    (schedules.Piecewise([], [2.0]), lambda t: 2.0),
    (
        schedules.Piecewise([0.0, 1.0], [5.0, 6.0, 7.0]),
        lambda t: 7.0 if t == 1.0 else 6.0,
    ),
]
EACH = pytest.mark.parametrize(
    ("schedule", "formula"), FORMULAS, ids=[repr(s) for s, _ in FORMULAS]
)


@EACH
def test_a_float_gives_the_formula_as_a_float(schedule, formula):
    for t in PROGRESS:
        value = schedule(t)
        assert type(value) is float
        assert value == pytest.approx(formula(t), rel=1e-12, abs=1e-12)


@EACH
def test_an_integer_counts_as_a_float(schedule, formula):
    for t in (0, 1):
        assert type(schedule(t)) is float
        assert schedule(t) == schedule(float(t))


@EACH
def test_a_tensor_gives_the_same_as_a_tensor(schedule, formula):
    for t in PROGRESS:
        value = schedule(ops.convert_to_tensor(t, "float32"))
        assert ops.is_tensor(value)
        assert value.shape == ()
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        np.testing.assert_allclose(
            ops.convert_to_numpy(value), formula(t), rtol=2e-6, atol=1e-6
        )
    values = schedule(ops.convert_to_tensor(PROGRESS, "float32"))
    np.testing.assert_allclose(
        ops.convert_to_numpy(values),
        [formula(t) for t in PROGRESS],
        rtol=2e-6,
        atol=1e-6,
    )


@EACH
@pytest.mark.parametrize("progress", [-0.01, 1.01, 50, math.nan, math.inf])
def test_progress_outside_its_range_is_an_error(schedule, formula, progress):
    with pytest.raises(ValueError, match=r"`progress` must be in \[0, 1\]"):
        schedule(progress)


@EACH
def test_config_round_trip(schedule, formula):
    config = json.loads(
        json.dumps(keras.saving.serialize_keras_object(schedule))
    )
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(schedule)
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert again.get_config() == schedule.get_config()
    assert [again(t) for t in PROGRESS] == [schedule(t) for t in PROGRESS]


def test_equality_and_representation():
    assert schedules.Constant(0.5) != schedules.Constant(0.4)
    assert schedules.Constant(0.5) != 0.5
    assert schedules.Linear(0.0, 1.0) != schedules.RampUp(0.0, 1.0)
    assert repr(schedules.Sigmoid(1, 2)) == (
        "Sigmoid(scale=1.0, sharpness=2.0, midpoint=0.5)"
    )


def test_all_but_a_constant_follow_the_progress():
    assert schedules.Constant(0.5).needs_progress is False
    for schedule, _ in FORMULAS:
        is_constant = isinstance(schedule, schedules.Constant)
        assert schedule.needs_progress is not is_constant


def test_sigmoid_worked_by_hand():
    # sigmoid(log 3) = 3/4.
    schedule = schedules.Sigmoid(0.5, 2 * math.log(3.0))
    assert schedule(0.0) == pytest.approx(0.75)
    assert schedule(0.5) == pytest.approx(0.5)
    assert schedule(1.0) == pytest.approx(0.25)


@pytest.mark.parametrize("midpoint", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sharpness", [-1e6, -8.0, 0.0, 8.0, 1e6])
def test_sigmoid_is_its_scale_at_the_midpoint(sharpness, midpoint):
    assert schedules.Sigmoid(0.4, sharpness, midpoint)(midpoint) == 0.4


def test_the_sign_of_the_sharpness_is_the_direction():
    grid = np.linspace(0.0, 1.0, 21)
    for sharpness, sign in ((8.0, -1), (-8.0, 1)):
        schedule = schedules.Sigmoid(0.5, sharpness)
        assert all(sign * np.diff([schedule(t) for t in grid]) > 0)
    static = schedules.Sigmoid(0.5, 0.0)
    assert {static(t) for t in grid} == {0.5}


def test_the_slope_at_the_midpoint():
    schedule = schedules.Sigmoid(0.6, 8.0, 0.4)
    slope = (schedule(0.4 + 1e-5) - schedule(0.4 - 1e-5)) / 2e-5
    assert slope == pytest.approx(-0.6 * 8.0 / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("sharpness", "ends"), [(1e6, (1.0, 0.0)), (-1e6, (0.0, 1.0))]
)
def test_extreme_sharpness_is_a_step(sharpness, ends):
    schedule = schedules.Sigmoid(0.5, sharpness)
    assert (schedule(0.0), schedule(1.0)) == ends
    values = schedule(ops.convert_to_tensor([0.0, 1.0], "float32"))
    np.testing.assert_array_equal(ops.convert_to_numpy(values), ends)


def test_ramp_up_only_rises_and_then_stays():
    values = [schedules.RampUp(2.0, 0.5)(t) for t in np.linspace(0, 1, 21)]
    assert all(np.diff(values[:11]) > 0)
    assert set(values[10:]) == {2.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.Constant(math.nan), "`value` must be a finite"),
        (lambda: schedules.Sigmoid(-1.0, 1.0), "`scale` must be .* >= 0"),
        (lambda: schedules.Sigmoid(1.0, math.inf), "`sharpness` must be"),
        (
            lambda: schedules.Sigmoid(1.0, 1.0, 1.5),
            r"`midpoint` must be in \[0, 1\]",
        ),
        (lambda: schedules.Linear(0.0, math.nan), "`end` must be"),
        (lambda: schedules.RampUp(1.0, 80), r"`length` must be in \[0, 1\]"),
        (
            lambda: schedules.Piecewise([0.5, 0.5], [1, 2, 3]),
            "`boundaries` must increase",
        ),
        (
            lambda: schedules.Piecewise([30], [1, 2]),
            r"`boundaries` must be in \[0, 1\]",
        ),
        (
            lambda: schedules.Piecewise([0.5], [1.0]),
            "`values` must have one value more than `boundaries`",
        ),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_kinds():
    with pytest.raises(TypeError, match="`value` must be a number"):
        schedules.Constant("0.5")
    with pytest.raises(TypeError, match="`progress` must be a number"):
        schedules.Constant(0.5)(True)
