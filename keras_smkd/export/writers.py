"""A serving model as a file of each format, by Keras's own exporters."""

import contextlib
import os
import pathlib
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

from keras_smkd.export import backends
from keras_smkd.export.formats import FORMATS
from keras_smkd.export.onnx_writer import write_onnx
from keras_smkd.export.serving_model import ServingModel


def write(
    model: ServingModel,
    format: str,
    folder: pathlib.Path,
    class_names: list[str] | None = None,
) -> None:
    """Write an artefact; the running backend must be one of the format's.

    Args:
        model: What to write.
        format: A key of `FORMATS`.
        folder: The artefact's folder, which is made.
        class_names: Names that a SavedModel gives out with the probabilities.
    """
    folder.mkdir()
    with _without_known_warnings():
        if format == "tf_saved_model":
            _write_saved_model(model, str(folder), class_names)
        else:
            path = str(folder / FORMATS[format].file)
            _WRITERS[format](model, path)


def _write_saved_model(
    model: ServingModel, path: str, class_names: list[str] | None
) -> None:
    if backends.must_track():
        _archive(model, class_names, track=True).write_out(path, verbose=False)
        return
    try:
        archive = _archive(model, class_names, track=False)
        archive.write_out(path, verbose=False)
    except AssertionError:
        # Lookup tables must be tracked. The weights are then, too, and on
        # TensorFlow are in the file twice.
        archive = _archive(model, class_names, track=True)
        archive.write_out(path, verbose=False)


def _archive(
    model: ServingModel, class_names: list[str] | None, track: bool
) -> keras.export.ExportArchive:
    archive = keras.export.ExportArchive()
    if track:
        archive.track(model)
    numbers = archive.add_endpoint(
        "serve" if class_names is None else "probabilities",
        model.__call__,
        [model.serving_inputs],
        **backends.endpoint_options(),
    )
    if class_names is not None:
        named = _with_class_name(numbers, model.serving_inputs, class_names)
        archive.add_endpoint("serve", named)
        # Otherwise Keras takes the first endpoint.
        archive.add_endpoint("serving_default", named)
    return archive


def _with_class_name(
    probabilities: Callable[..., Any], inputs: Any, class_names: list[str]
) -> Any:
    """Return a function of TensorFlow that gives the likeliest class, too."""
    import tensorflow as tf

    def serve(inputs: Any) -> dict[str, Any]:
        outputs = probabilities(inputs)
        likeliest = tf.argmax(outputs["probabilities"], axis=-1)
        return {**outputs, "class_name": tf.gather(class_names, likeliest)}

    specs = keras.tree.map_structure(
        lambda spec: tf.TensorSpec(spec.shape, spec.dtype, spec.name), inputs
    )
    function = tf.function(serve, input_signature=[specs], autograph=False)
    function.get_concrete_function()
    return function


def _write_openvino(model: ServingModel, path: str) -> None:
    with _environment(CI="true"):  # Or the converter reports to its makers.
        model.export(
            path,
            format="openvino",
            verbose=False,
            input_signature=[model.serving_inputs],
        )


def _write_litert(model: ServingModel, path: str) -> None:
    import tensorflow as tf

    model.export(
        path,
        format="litert",
        verbose=False,
        input_signature=[model.serving_inputs],
        # Operations of TensorFlow would convert, and not run under LiteRT.
        target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]},
    )


def _write_torch(model: ServingModel, path: str) -> None:
    import torch

    def any_batch(spec: keras.InputSpec) -> dict[int, Any]:
        return {
            axis: torch.export.Dim.DYNAMIC
            for axis, size in enumerate(spec.shape)
            if size is None
        }

    shapes = keras.tree.map_structure(any_batch, model.serving_inputs)
    model.export(
        path,
        format="torch",
        verbose=False,
        input_signature=[model.serving_inputs],
        dynamic_shapes=[(shapes,)],
    )


_WRITERS = {
    "onnx": write_onnx,
    "openvino": _write_openvino,
    "litert": _write_litert,
    "torch": _write_torch,
}


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_known_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # Keras asks NumPy for a name that it has no more.
        warnings.filterwarnings("ignore", "In the future `np.object`")
        # TensorFlow sorts the names of several inputs.
        warnings.filterwarnings("ignore", "The structure of `inputs` doesn't")
        yield
