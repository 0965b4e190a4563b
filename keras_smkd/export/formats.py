"""The formats: what each needs, and where it can be written."""

import importlib.util
from typing import NamedTuple


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
