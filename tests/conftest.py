"""What every test shares: the backend, its precision, a seeded generator."""

import atexit
import contextlib
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Two threads on a busy machine make torch fifty times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Many tests compile the same small models, some in processes of their own: JAX
# need not do it each time.
if os.environ["KERAS_BACKEND"] == "jax":
    cache = tempfile.mkdtemp(prefix="jax-cache-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Torch imported after TensorFlow can crash on a clash of their libraries.
with contextlib.suppress(ImportError):
    import torch  # noqa: F401

import keras
import numpy as np
import pytest

if keras.backend.backend() == "jax":
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    # Most of the time goes into the compilation of steps that run a few times.
    # Tests in processes of their own run what users run.
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def rng():
    """A NumPy generator with a fixed seed."""
    return np.random.default_rng(20230618)


@pytest.fixture(autouse=True)
def _beginning():
    keras.utils.set_random_seed(7)
    # Whatever the test before has set.
    keras.config.set_dtype_policy("float32")


def shared_folder():
    root = pathlib.Path(__file__).resolve().parents[1]
    return pathlib.Path(
        os.environ.get("KERAS_SMKD_SHARED", root.parent / "shared")
    )


@pytest.fixture(scope="session")
def shared_dir():
    """The folder with golden vectors and real data, or a skip.

    It lies beside the checkout, or where `KERAS_SMKD_SHARED` says.
    """
    path = shared_folder()
    if not path.is_dir():
        pytest.skip(
            "needs the shared folder (golden vectors, CIFAR-10); set "
            "KERAS_SMKD_SHARED to its path"
        )
    return path


@pytest.fixture(scope="session")
def golden_dir():
    """The folder of golden vectors, or a skip.

    It is what `KERAS_SMKD_GOLDEN` says, by default `golden` in the shared
    folder.
    """
    path = pathlib.Path(
        os.environ.get("KERAS_SMKD_GOLDEN", shared_folder() / "golden")
    )
    if not path.is_dir():
        pytest.skip(
            "needs the golden vectors; set KERAS_SMKD_GOLDEN to their folder"
        )
    return path
