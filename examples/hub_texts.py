"""Texts with wrong labels: classifiers of KerasHub that teach each other.

    KERAS_BACKEND=jax python examples/hub_texts.py --csv reviews.csv \
        --presets bert_tiny_en_uncased,bert_small_en_uncased

`--csv` has a line of titles, and columns `text` and `label`. A preset is a
folder that `save_to_preset` made, or a name under which KerasHub finds one in
the network; all must have the same tokenizer, since peers see the same inputs.
The labels that are probably wrong go to suspects.csv in `--run_dir`, the most
suspicious first, and the trained model to model.keras.

It needs KerasHub: `pip install -e ".[hub]"`.
"""

import contextlib
import csv
import os
import pathlib
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Before TensorFlow: the other order can crash.
with contextlib.suppress(ImportError):
    import torch  # noqa: F401

import keras
import keras_hub
import numpy as np
from absl import app
from absl import flags

from keras_smkd import methods
from keras_smkd import report

FLAGS = flags.FLAGS
flags.DEFINE_string("csv", None, "Texts and their labels.", required=True)
flags.DEFINE_list("presets", None, "One for each peer.", required=True)
flags.DEFINE_string("run_dir", "texts", "Folder to write to.")
flags.DEFINE_integer("sequence_length", 128, "Tokens of a text.", 2)
flags.DEFINE_integer("epochs", 3, "Epochs.", 1)
flags.DEFINE_integer("batch_size", 32, "Texts per step.", 1)
flags.DEFINE_float("learning_rate", 5e-5, "Where the cosine begins.", 0.0)
flags.DEFINE_enum(
    "policy",
    "float32",
    ["float32", "mixed_bfloat16", "mixed_float16"],
    "What layers compute in.",
)
flags.DEFINE_integer("seed", 0, "Seed of order and new weights.", 0)


def read(path):
    """Return texts, their labels as class ids, and the classes' names."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"text", "label"} <= rows[0].keys():
        sys.exit("--csv needs columns `text` and `label`, and lines.")
    names, labels = np.unique(
        [row["label"] for row in rows], return_inverse=True
    )
    return [row["text"] for row in rows], labels.astype("int32"), names.tolist()


def tokenized(texts):
    """Return what KerasHub's classifiers look at, as arrays."""
    preprocessor = keras_hub.models.TextClassifierPreprocessor.from_preset(
        FLAGS.presets[0], sequence_length=FLAGS.sequence_length
    )
    inputs = preprocessor(texts)
    return {name: keras.ops.convert_to_numpy(x) for name, x in inputs.items()}


def make_peer(preset, num_classes):
    """Return a preset's classifier of logits, its last layer new."""
    classifier = keras_hub.models.TextClassifier.from_preset(
        preset, num_classes=num_classes, preprocessor=None, dtype=FLAGS.policy
    )
    # Without what KerasHub compiles by itself, which nobody uses here.
    return keras.Model(classifier.input, classifier.output)


def main(_):
    keras.utils.set_random_seed(FLAGS.seed)
    texts, labels, names = read(FLAGS.csv)
    x = tokenized(texts)
    model = methods.posterior_smkd(
        [make_peer(preset, len(names)) for preset in FLAGS.presets],
        num_examples=len(labels),
    )
    steps = FLAGS.epochs * -(-len(labels) // FLAGS.batch_size)
    decay = keras.optimizers.schedules.CosineDecay(FLAGS.learning_rate, steps)
    model.compile(
        keras.optimizers.AdamW(decay),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        x, labels, batch_size=FLAGS.batch_size, epochs=FLAGS.epochs, verbose=2
    )
    folder = pathlib.Path(FLAGS.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.keras")
    suspects = report.suspicious_labels(model, x, labels, class_names=names)
    suspects.to_csv(folder / "suspects.csv")
    print(suspects)


if __name__ == "__main__":
    app.run(main)
