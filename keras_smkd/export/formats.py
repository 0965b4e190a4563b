"""The formats: what each needs, and where it can be written."""

import importlib.util
from typing import NamedTuple

import keras

from keras_smkd.export.serving_model import ServingModel
from keras_smkd.export.serving_model import takes_texts


class Format(NamedTuple):
    """What a format needs.

    Attributes:
        file: The file to load, inside the artefact's folder.
        backends: Those that write it for batches of any size, best first.
        packages: What must be installed to write it.
        extra: Our extra that installs them.
    """

    file: str
    backends: tuple[str, ...]
    packages: tuple[str, ...]
    extra: str


FORMATS = {
    "tf_saved_model": Format(
        "saved_model.pb", ("tensorflow", "jax"), ("tensorflow",), "tensorflow"
    ),
    "onnx": Format(
        "model.onnx",
        ("tensorflow",),
        ("tensorflow", "onnx", "tf2onnx"),
        "serving",
    ),
    "openvino": Format(
        "model.xml", ("tensorflow",), ("tensorflow", "openvino"), "serving"
    ),
    "litert": Format(
        "model.tflite", ("tensorflow",), ("tensorflow",), "tensorflow"
    ),
    "torch": Format("model.pt2", ("torch",), ("torch",), "torch"),
}


# Their converters or runtimes do not know every half precision.
FLOAT32_ONLY = ("onnx", "openvino", "litert")


def missing_packages(format: str) -> list[str]:
    """Return the packages that the format needs and that are not there."""
    return [
        package
        for package in FORMATS[format].packages
        if importlib.util.find_spec(package) is None
    ]


def formats_here() -> list[str]:
    """Return the formats whose packages are installed."""
    return [name for name in FORMATS if not missing_packages(name)]


def check_installed(format: str) -> None:
    """Raise unless all that `format` needs is installed.

    Raises:
        ImportError: names what is missing, the extra that brings it, and the
            formats that do work here.
    """
    missing = missing_packages(format)
    if missing:
        raise ImportError(
            f"`format` {format!r} needs {', '.join(missing)}, which cannot be "
            "imported. Install it with "
            f'`pip install "keras-smkd[{FORMATS[format].extra}]"`. Formats '
            f"that can be written here: {formats_here()}."
        )


def other_backend(format: str, model: ServingModel) -> str | None:
    """Return the backend under which another process must write `model`.

    Returns:
        `None` if this process can write it itself.

    Raises:
        ValueError: if the model takes texts, which only a SavedModel can.
    """
    texts = takes_texts(model.serving_inputs)
    if texts and format != "tf_saved_model":
        raise ValueError(
            "`format` must be 'tf_saved_model' for inputs of texts. "
            f"Received: format={format!r}."
        )
    backend = keras.backend.backend()
    backends = FORMATS[format].backends
    if backend not in backends or (texts and backend != "tensorflow"):
        return backends[0]
    # What JAX and torch write on an accelerator, a server without one cannot
    # load.
    return backends[0] if _on_accelerator(model) else None


def _on_accelerator(model: ServingModel) -> bool:
    values = [variable.value for variable in model.variables]
    kinds = {"cpu"}
    if keras.backend.backend() == "torch":
        kinds |= {value.device.type for value in values}
    elif keras.backend.backend() == "jax":
        kinds |= {
            place.platform for value in values for place in value.devices()
        }
    return kinds != {"cpu"}
