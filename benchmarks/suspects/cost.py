"""What it costs to find wrong labels, as a share of the training.

    KERAS_BACKEND=jax python benchmarks/suspects/cost.py [--json FILE]

- `dynamics`: an epoch of two peers that keep `observers.ExampleDynamics`,
  against an epoch of two that do not, on the same arrays with an index. They
  take turns; shown are medians in ms a step, and of the ratio of each round its
  median and its quartiles.
- `report`: `report.suspicious_labels` and its CSV file of the same examples,
  against `--epochs` epochs of the training. The first report, which compiles
  the prediction, counts; the epochs are those after the first.
"""

import os
import pathlib
import statistics
import sys
import tempfile
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Its networks, data and turns.
sys.path.append(str(pathlib.Path(__file__).parents[1] / "speed"))

import keras
import measuring
from absl import app
from absl import flags
from absl import logging
from step_time import BATCH
from step_time import NETWORKS
from step_time import compiled
from step_time import make_data

import keras_smkd
from keras_smkd import observers
from keras_smkd import report

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 15, "Timings in turn.", lower_bound=2)
flags.DEFINE_integer("steps", 40, "Steps of an epoch.", lower_bound=1)
flags.DEFINE_integer("epochs", 20, "Epochs of a training.", lower_bound=1)
flags.DEFINE_multi_enum("networks", list(NETWORKS), list(NETWORKS), "Peers.")
flags.DEFINE_string("json", "", "Where to write the table as JSON.")


def epochs_of(network, data, observer=None):
    """Return a model, and a function that trains it for one epoch."""
    model = keras_smkd.SelectiveMutualDistillation(
        [network(), network()], observer=observer
    )
    compiled(model)
    return model, measuring.epoch_timer(model, *data, BATCH)


def cost_of_report(model, data):
    """Return the seconds of a report of all training examples."""
    x, y = data
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        table = report.suspicious_labels(model, x, y)
        table.to_csv(pathlib.Path(folder, "suspects.csv"))
        return time.perf_counter() - start


def measure(network, data):
    """Return the row of a network."""
    model, plain = epochs_of(network, data)
    _, observed = epochs_of(
        network, data, observers.ExampleDynamics(len(data[0]))
    )
    seconds = measuring.time_in_rounds(
        {"with": observed, "without": plain}, FLAGS.rounds
    )
    low, middle, high = measuring.quartiles_of_ratio(
        seconds["with"], seconds["without"]
    )
    epoch = statistics.median(seconds["without"])
    spent = cost_of_report(model, data)
    return {
        "with": 1000 * statistics.median(seconds["with"]) / FLAGS.steps,
        "without": 1000 * epoch / FLAGS.steps,
        "ratio": middle,
        "low": low,
        "high": high,
        "report": spent,
        "training": FLAGS.epochs * epoch,
        "share": 100 * spent / (FLAGS.epochs * epoch),
    }


def main(_):
    logging.set_verbosity(logging.WARNING)
    table = measuring.Table(
        {
            "backend": ("backend", 12, "s"),
            "network": ("network", 9, "s"),
            "with": ("with ms", 10, ".2f"),
            "without": ("without ms", 12, ".2f"),
            "ratio": ("ratio", 8, ".3f"),
            "low": ("25 %", 8, ".3f"),
            "high": ("75 %", 8, ".3f"),
            "report": ("report s", 10, ".2f"),
            "training": ("training s", 12, ".2f"),
            "share": ("share %", 9, ".1f"),
        }
    )
    data = make_data("numpy", FLAGS.steps)
    for name in FLAGS.networks:
        table.add(
            backend=keras.backend.backend(),
            network=name,
            **measure(NETWORKS[name], data),
        )
    table.write(
        pathlib.Path(FLAGS.json) if FLAGS.json else None,
        steps=FLAGS.steps,
        rounds=FLAGS.rounds,
        epochs=FLAGS.epochs,
    )


if __name__ == "__main__":
    app.run(main)
