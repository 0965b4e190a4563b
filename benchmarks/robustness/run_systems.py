"""Trains every system of the room `methods` at its defaults, on digits.

    KERAS_BACKEND=jax python benchmarks/robustness/defaults.py \
        --out runs.jsonl --workers 2 > table.md

One line of JSON a run; what has a line is not run again. The table on standard
output, which `docs/methods.md` has, is made of the lines: accuracy on clean
test labels after the last epoch and after the best one (by those labels, so it
cannot be chosen), the mean over the seeds with its standard deviation. Systems
of two peers are read out as their ensemble. Nothing is tuned.
"""

import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import statistics
import sys
import time
import traceback

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import data
import keras
import numpy as np
import pools
import systems
from absl import app
from absl import flags

FLAGS = flags.FLAGS


class TestAccuracy(keras.callbacks.Callback):
    """Measures accuracy on test data after every epoch of a stage."""

    def __init__(self, x, labels):
        super().__init__()
        self.x = x
        self.labels = labels
        self.values = []

    def on_train_begin(self, logs=None):
        self.values = []

    def on_epoch_end(self, epoch, logs=None):
        probs = self.model.predict(self.x, batch_size=512, verbose=0)
        right = probs.argmax(axis=-1) == self.labels
        self.values.append(float(np.mean(right)))


def define_flags():
    """Define the flags: not at import, since other scripts have the same."""
    flags.DEFINE_string("out", "defaults.jsonl", "File of the lines.")
    flags.DEFINE_list("systems", [], "Which; by default all of them.")
    flags.DEFINE_list(
        "noises", ["symmetric:0.4", "asymmetric:0.4"], "Kinds and rates."
    )
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
    flags.DEFINE_integer("epochs", 100, "Epochs of a training.", 1)
    flags.DEFINE_integer("batch_size", 64, "Examples per step.", 1)
    flags.DEFINE_float("learning_rate", 0.001, "Of Adam.", 0.0)
    flags.DEFINE_integer("workers", 1, "Processes.", 1)


def execute(config):
    """Return the record of a run: its configuration and what it measured."""
    split = data.load(
        {
            "dataset": "digits",
            "examples": 0,
            "test_examples": 500,
            "batch_size": config["batch_size"],
            "noise": config["noise"],
            "seed": config["seed"],
        },
        pools.Places(None, None, None),
    )
    start = time.perf_counter()
    keras.utils.clear_session()
    keras.utils.set_random_seed(config["seed"])
    inputs = split.inputs.reshape(len(split.inputs), -1)
    count, _, tests = split.sizes
    watch = TestAccuracy(inputs[-tests:], split.test_labels)
    wrong = float(np.mean(split.noisy_labels != split.clean_labels))
    kind, rate = data.parse_noise(config["noise"])
    setting = systems.Setting(
        x=inputs[:count],
        y=split.noisy_labels,
        # What a user might know, and not what is true to the digit.
        noise_rate=rate if kind == "symmetric" else rate / 2,
        noise=kind,
        epochs=config["epochs"],
        batch_size=config["batch_size"],
        learning_rate=config["learning_rate"],
        watch=watch,
    )
    systems.SYSTEMS[config["system"]](setting)
    return {
        "config": config,
        "wrong": round(wrong, 4),
        "last": watch.values[-1],
        "best": max(watch.values),
        "epochs": len(watch.values),
        "seconds": round(time.perf_counter() - start, 1),
    }


def try_to_execute(config):
    """Return the record of a run, or of its error."""
    try:
        return execute(config)
    except Exception as error:
        traceback.print_exc()
        return {"config": config, "error": f"{type(error).__name__}: {error}"}


def read(path):
    """Return the records that a file has, by their configurations."""
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    return {
        json.dumps(record["config"], sort_keys=True): record
        for record in records
        if "error" not in record
    }


def table(records, names, noises):
    """Return the table, as lines of Markdown."""
    lines = [
        "| system | " + " | ".join(f"{n}, last | best" for n in noises) + " |",
        "|---|" + "---|---|" * len(noises),
    ]
    for name in names:
        cells = [f"`{name}`"]
        for noise in noises:
            found = [
                r
                for r in records
                if r["config"]["system"] == name
                and r["config"]["noise"] == noise
            ]
            for which in ("last", "best"):
                values = [100 * r[which] for r in found]
                cells.append(
                    f"{statistics.mean(values):.1f} ± "
                    f"{statistics.stdev(values):.1f}"
                    if len(values) > 1
                    else "-"
                )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main(_):
    path = pathlib.Path(FLAGS.out)
    names = FLAGS.systems or list(systems.SYSTEMS)
    configs = [
        {
            "system": name,
            "noise": noise,
            "seed": int(seed),
            "epochs": FLAGS.epochs,
            "batch_size": FLAGS.batch_size,
            "learning_rate": FLAGS.learning_rate,
            "backend": keras.backend.backend(),
        }
        for seed in FLAGS.seeds
        for noise in FLAGS.noises
        for name in names
    ]
    done = read(path)
    left = [c for c in configs if json.dumps(c, sort_keys=True) not in done]
    with concurrent.futures.ProcessPoolExecutor(
        FLAGS.workers,
        # A process with threads must not be forked.
        multiprocessing.get_context("spawn"),
    ) as pool:
        for i, record in enumerate(pool.map(try_to_execute, left), start=1):
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{i}/{len(left)}: {record}", file=sys.stderr, flush=True)
    done = read(path)
    records = [
        done[key]
        for key in (json.dumps(c, sort_keys=True) for c in configs)
        if key in done
    ]
    print("\n".join(table(records, names, FLAGS.noises)))


if __name__ == "__main__":
    define_flags()
    app.run(main)
