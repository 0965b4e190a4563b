"""What every test shares: the backend, its precision, a seeded generator."""

import contextlib
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Two threads on a busy machine make torch fifty times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Torch imported after TensorFlow can crash on a clash of their libraries.
with contextlib.suppress(ImportError):
    import torch  # noqa: F401

import keras
import numpy as np
import pytest

if keras.backend.backend() == "jax":
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture
def rng():
    """A NumPy generator with a fixed seed."""
    return np.random.default_rng(20230618)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(7)


@pytest.fixture(scope="session")
def shared_dir():
    """The folder with golden vectors and real data, or a skip.

    It lies beside the checkout, or where `KERAS_SMKD_SHARED` says.
    """
    root = pathlib.Path(__file__).resolve().parents[1]
    path = pathlib.Path(
        os.environ.get("KERAS_SMKD_SHARED", root.parent / "shared")
    )
    if not path.is_dir():
        pytest.skip(
            "needs the shared folder (golden vectors, CIFAR-10); set "
            "KERAS_SMKD_SHARED to its path"
        )
    return path


@pytest.fixture(scope="session")
def golden_dir(shared_dir):
    """The folder of golden vectors (`KERAS_SMKD_GOLDEN`), or a skip."""
    path = pathlib.Path(
        os.environ.get("KERAS_SMKD_GOLDEN", shared_dir / "golden")
    )
    if not path.is_dir():
        pytest.skip(f"no golden vectors at {path.name}/")
    return path
