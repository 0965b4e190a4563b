"""Draws that follow from a seed, and leave no trace."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np

from keras_smkd import backends


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have what is drawn inside follow from a seed, and nothing outside.

    Keras takes the seeds of initial weights and of dropout from Python's
    generator. Those of Python, NumPy and (where it is the backend) torch are
    put back at the end. Keras's own and TensorFlow's are left alone: a state
    of these cannot be read.

    Args:
        seed: Integer in [0, 2**32).
    """
    of_python = random.getstate()
    of_numpy = np.random.get_state()  # noqa: NPY002
    with backends.own_generator(seed):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002
