"""Serve an exported model with TensorFlow alone: no Keras, no keras_smkd.

    python examples/serve.py serving/ensemble batch.npy

`serving/ensemble` is what `keras_smkd.export(model, "serving")` writes, and
`batch.npy` holds an array of raw inputs, the batch on its first axis. Prints
a line of JSON for each example: what TensorFlow Serving would answer.
"""

import argparse
import json

import numpy as np
import tensorflow as tf


def predict(folder, batch):
    """Return a dict for each example of `batch`: its outputs by name."""
    served = tf.saved_model.load(folder)
    signature = served.signatures["serving_default"]
    # The inputs' names, types and shapes are part of the file.
    ((name, spec),) = signature.structured_input_signature[1].items()
    outputs = signature(**{name: tf.constant(batch, spec.dtype)})
    rows = [{} for _ in batch]
    for key in sorted(outputs):
        for row, value in zip(rows, outputs[key].numpy().tolist(), strict=True):
            # TensorFlow's strings are bytes.
            row[key] = value.decode() if isinstance(value, bytes) else value
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="A SavedModel's folder.")
    parser.add_argument("batch", help="An .npy file of raw inputs.")
    arguments = parser.parse_args()
    batch = np.load(arguments.batch, allow_pickle=False)
    for row in predict(arguments.folder, batch):
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
