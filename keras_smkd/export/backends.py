"""Every branch on the backend of this room."""

from typing import Any

import keras

from keras_smkd.export.formats import FORMATS


def knows_texts() -> bool:
    """Return whether models can take strings here: only TensorFlow's can."""
    return keras.backend.backend() == "tensorflow"


def other_backend(format: str, texts: bool, variables: Any) -> str | None:
    """Return the backend under which another process must write a model.

    Args:
        format: A key of `FORMATS`.
        texts: Whether the model takes strings.
        variables: The model's.

    Returns:
        `None` if this process can write it itself.

    Raises:
        ValueError: if the model takes texts, which only a SavedModel can.
    """
    if texts and format != "tf_saved_model":
        raise ValueError(
            "`format` must be 'tf_saved_model' for inputs of texts. "
            f"Received: format={format!r}."
        )
    backends = FORMATS[format].backends
    is_able = keras.backend.backend() in backends
    if not is_able or (texts and not knows_texts()):
        return backends[0]
    # What JAX and torch write on an accelerator, a server without one cannot
    # load.
    return backends[0] if _on_accelerator(variables) else None


def _on_accelerator(variables: Any) -> bool:
    values = [variable.value for variable in variables]
    kinds = {"cpu"}
    if keras.backend.backend() == "torch":
        kinds |= {value.device.type for value in values}
    elif keras.backend.backend() == "jax":
        kinds |= {
            place.platform for value in values for place in value.devices()
        }
    return kinds != {"cpu"}


def must_track() -> bool:
    """Return whether a SavedModel must be told of the weights.

    JAX's function takes them as arguments; TensorFlow finds those that its
    function uses, and would write them twice.
    """
    return keras.backend.backend() == "jax"


def endpoint_options() -> dict[str, Any]:
    """Return what `ExportArchive.add_endpoint` is told besides."""
    if keras.backend.backend() != "jax":
        return {}
    # A server has the hardware that it has, and takes no gradients.
    return {
        "jax2tf_kwargs": {
            "native_serialization_platforms": ("cpu", "cuda"),
            "with_gradient": False,
        }
    }
