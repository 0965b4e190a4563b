"""What runs on torch alone: where steps are compiled, each takes seconds.

`KERAS_SMKD_ALL=1 pytest` runs all of it on every backend.
"""

import os

import keras
import pytest

IS_THRIFTY = (
    keras.backend.backend() != "torch" and "KERAS_SMKD_ALL" not in os.environ
)
with_torch = pytest.mark.skipif(
    IS_THRIFTY,
    reason="runs with the tests of torch; set KERAS_SMKD_ALL to run it here",
)


def cases(every, few):
    """Return the values of a parameter: all of them, or a few."""
    every = list(every)
    assert set(few) <= set(every)
    return list(few) if IS_THRIFTY else every
