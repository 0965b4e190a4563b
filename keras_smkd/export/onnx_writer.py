"""ONNX by Keras's exporter, and what tf2onnx needs beside it."""

from typing import Any

import keras
import numpy as np

from keras_smkd.export.serving_model import ServingModel


def write_onnx(model: ServingModel, path: str) -> None:
    """Write an ONNX file, under TensorFlow.

    Raises:
        onnx.checker.ValidationError: if an operation has no counterpart.
    """
    import onnx

    _teach_erfc()
    FrozenModel(model).export(
        path,
        format="onnx",
        verbose=False,
        input_signature=[model.serving_inputs],
    )
    # What tf2onnx cannot convert it logs, and writes all the same.
    onnx.checker.check_model(path, full_check=True)


class FrozenModel(keras.Model):
    """A model of TensorFlow as one plain graph, its weights constants.

    tf2onnx makes further inputs of the tensors that layers hold, such as the
    mean of `Normalization`, and does not look into the functions that Keras
    has XLA compile, such as grouped convolutions.

    Args:
        model: What is to be frozen.
    """

    def __init__(self, model: ServingModel) -> None:
        import tensorflow as tf

        # No public name does it; tf2onnx and OpenVINO use the same.
        from tensorflow.python.framework import convert_to_constants

        super().__init__(autocast=False)

        def run(*tensors: Any) -> Any:
            inputs = keras.tree.pack_sequence_as(model.serving_inputs, tensors)
            return model(inputs)

        specs = [
            tf.TensorSpec(spec.shape, spec.dtype)
            for spec in keras.tree.flatten(model.serving_inputs)
        ]
        # "Eagerly" is here: each function in place, as part of this graph.
        before = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)
        try:
            function = tf.compat.v1.wrap_function(run, specs)
        finally:
            tf.config.run_functions_eagerly(before)
        self.frozen = convert_to_constants.convert_variables_to_constants_v2(
            function, lower_control_flow=False, aggressive_inlining=True
        )
        self.built = True

    def call(self, inputs: Any) -> dict[str, Any]:
        return {"probabilities": self.frozen(*keras.tree.flatten(inputs))[0]}


def _teach_erfc() -> None:
    """Tell tf2onnx of `erfc(x) = 1 - erf(x)`, the exact GELU's operation."""
    from tf2onnx import utils
    from tf2onnx.handler import tf_op

    def erfc(context: Any, node: Any, **kwargs: Any) -> None:
        (output,) = node.output
        shape, dtype = context.get_shape(output), context.get_dtype(output)
        erf = context.make_node("Erf", node.input)
        number = np.ones((), utils.map_onnx_to_numpy_type(dtype))
        one = context.make_const(f"{node.name}/one", number)
        context.remove_node(node.name)
        context.make_node(
            "Sub",
            [one.output[0], erf.output[0]],
            outputs=[output],
            shapes=[shape],
            dtypes=[dtype],
        )

    tf_op("Erfc").register_compat_handler(erfc, 9)
