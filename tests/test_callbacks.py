"""Threshold schedules: their values, and what they refuse.

How they act inside `fit` is tested with the model.
"""

import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_smkd
from keras_smkd import callbacks
from keras_smkd import schedules


@pytest.fixture
def model():
    peers = [
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        for _ in range(2)
    ]
    model = keras_smkd.SelectiveMutualDistillation(peers)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


class Custom(callbacks.ThresholdSchedule):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def value(self, progress):
        return self.function(progress)


def test_static_threshold_is_its_value():
    schedule = callbacks.StaticThreshold(0.3)
    assert schedule.needs_progress is False
    for progress in (0.0, 0.5, 1.0):
        assert schedule.value(progress) == 0.3
        tensor = schedule.value(ops.convert_to_tensor(progress, "float32"))
        assert ops.is_tensor(tensor)
        assert float(ops.convert_to_numpy(tensor)) == pytest.approx(0.3)


@pytest.mark.parametrize("sharpness", [-8.0, 0.0, 8.0])
@pytest.mark.parametrize("midpoint", [0.25, 0.5])
def test_progressive_threshold_is_the_formula(sharpness, midpoint):
    schedule = callbacks.ProgressiveThreshold(0.6, sharpness, midpoint)
    assert schedule.needs_progress is True
    assert (schedule.scale, schedule.sharpness, schedule.midpoint) == (
        0.6,
        sharpness,
        midpoint,
    )
    for progress in (0.0, 0.25, 0.7, 1.0):
        expected = 2 * 0.6 / (1 + math.exp(-sharpness * (midpoint - progress)))
        assert schedule.value(progress) == pytest.approx(expected, rel=1e-12)
        tensor = schedule.value(ops.convert_to_tensor(progress, "float32"))
        assert ops.is_tensor(tensor)
        assert float(ops.convert_to_numpy(tensor)) == pytest.approx(
            expected, rel=1e-5
        )


def test_a_progressive_threshold_loosens_by_default():
    schedule = callbacks.ProgressiveThreshold()
    found = [round(schedule.value(t), 3) for t in (0.0, 0.5, 1.0)]
    assert found == [0.018, 0.5, 0.982]


def test_the_base_class_asks_for_a_value():
    schedule = callbacks.ThresholdSchedule()
    assert schedule.needs_progress is True
    with pytest.raises(
        TypeError, match=r"`schedule` must be given, or `value` be written by"
    ):
        schedule.value(0.5)


@pytest.mark.parametrize(
    ("given", "formula"),
    [
        (schedules.Linear(0.25, 0.75), lambda t: 0.25 + 0.5 * t),
        (lambda t: 0.5 * t * t, lambda t: 0.5 * t * t),
    ],
)
def test_any_schedule_can_be_the_threshold(model, given, formula):
    schedule = callbacks.ThresholdSchedule(given)
    assert schedule.needs_progress is True
    for progress in (0.0, 0.25, 1.0):
        assert schedule(progress) == schedule.value(progress)
        assert schedule(progress) == pytest.approx(formula(progress))
    x = np.ones((4, 3), "float32")
    y = np.array([0, 1, 0, 1])
    model.fit(x, y, batch_size=1, epochs=2, verbose=0, callbacks=[schedule])
    # That of the last of eight steps.
    assert model.threshold == pytest.approx(formula(7 / 8))


def test_a_constant_schedule_needs_no_progress():
    schedule = callbacks.ThresholdSchedule(schedules.Constant(0.5))
    assert schedule.needs_progress is False


@pytest.mark.parametrize("schedule", [0.5, "entropy", [0.1, 0.2]])
def test_a_schedule_must_be_callable(schedule):
    with pytest.raises(
        TypeError, match="`schedule` must be a callable from progress"
    ):
        callbacks.ThresholdSchedule(schedule)


@pytest.mark.parametrize("threshold", [math.nan, math.inf, -0.1])
def test_wrong_thresholds(threshold):
    with pytest.raises(ValueError, match=r"`threshold` must be .* >= 0"):
        callbacks.StaticThreshold(threshold)
    with pytest.raises(ValueError, match=r"`scale` must be .* >= 0"):
        callbacks.ProgressiveThreshold(scale=threshold)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`sharpness` must be a finite"):
        callbacks.ProgressiveThreshold(sharpness=math.inf)
    with pytest.raises(ValueError, match=r"`midpoint` must be in \[0, 1\]"):
        callbacks.ProgressiveThreshold(midpoint=2)
    with pytest.raises(TypeError, match="`threshold` must be a number"):
        callbacks.StaticThreshold("0.5")


@pytest.mark.parametrize(
    ("function", "received"),
    [
        (lambda t: math.nan, r"value\(0.0\)=nan"),
        (lambda t: -1.0, r"value\(0.0\)=-1.0"),
        (lambda t: math.inf, r"value\(0.0\)=inf"),
        (lambda t: 0.5 - t, r"value\(0.75\)=-0.25"),
        (lambda t: ops.convert_to_tensor(-2.0), r"value\(0.0\)=-2.0"),
    ],
)
def test_a_wrong_value_stops_fit_before_it_trains(model, function, received):
    x = np.ones((4, 3), "float32")
    y = np.array([0, 1, 0, 1])
    before = [np.array(w) for w in model.get_weights()]
    with pytest.raises(
        ValueError, match=f"must give finite .*>= 0.*{received} from Custom"
    ):
        model.fit(x, y, verbose=0, callbacks=[Custom(function)])
    assert model.step == 0
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_value_that_is_right_is_taken(model):
    schedule = Custom(lambda t: 1.0 - 0.5 * t)
    schedule.set_model(model)
    schedule.on_train_begin()


@pytest.mark.parametrize(
    "schedule",
    [callbacks.StaticThreshold(), callbacks.ProgressiveThreshold()],
    ids=lambda schedule: type(schedule).__name__,
)
def test_another_model_is_refused(schedule):
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    schedule.set_model(other)
    with pytest.raises(
        TypeError, match=r"needs a `keras_smkd\.PeerLearning.*type Sequential"
    ):
        schedule.on_train_begin()
