"""A model as bytes: Keras's own file, which a state can hold."""

import pathlib
import tempfile
from typing import Any

import keras

_NAME = "model.keras"


def archive(model: keras.Model) -> bytes:
    """Return what Keras writes of a model, the bytes of a `.keras` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / _NAME
        model.save(path)
        return path.read_bytes()


def model_of(content: bytes) -> Any:
    """Return the model in the bytes of a `.keras` file.

    Args:
        content: As `archive` gave them.

    Raises:
        ValueError: as `keras.saving.load_model` does, for layers that are not
            registered with Keras, or code inside the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / _NAME
        path.write_bytes(content)
        return keras.saving.load_model(path)
