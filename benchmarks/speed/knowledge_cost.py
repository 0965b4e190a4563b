"""What knowledge costs, against the forward passes that it cannot do without.

    KERAS_BACKEND=jax python benchmarks/speed/knowledge_cost.py [--json FILE]

Two ratios, each of whole calls on the same arrays, compiled before:

- `teacher`: `fit` of a peer with a frozen teacher, against `fit` of the peer
  alone plus `predict` of the teacher;
- `averages`: `fit` of two peers that learn from their averaged weights,
  against `fit` of two that learn from each other plus one more forward pass of
  both, `predict`. The averages also move in each step, which is in the first.

Teacher and peers are the same network. Shown are the medians over the rounds,
in ms a step, and of the ratio of each round its median and its quartiles.
`predict` also hands its outputs over, which knowledge need not.
"""

import os
import pathlib
import statistics
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

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
from keras_smkd import divergences
from keras_smkd import knowledge

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 15, "Timings in turn.", lower_bound=2)
flags.DEFINE_integer("steps", 24, "Steps of a call.", lower_bound=1)
flags.DEFINE_multi_enum("networks", list(NETWORKS), list(NETWORKS), "Peers.")
flags.DEFINE_string("json", "", "Where to write the table as JSON.")


def teacher_calls(network, data):
    """Return the calls with a teacher, without, and of the teacher itself."""
    teacher = network()
    taught = keras_smkd.PeerLearning(
        [network()],
        knowledge=knowledge.Teacher(teacher),
        divergence=divergences.KullbackLeibler(),
    )
    alone = keras_smkd.PeerLearning([network()])
    return {
        "with": fit(taught, data),
        "without": fit(alone, data),
        "forward": predict(teacher, data),
    }


def averages_calls(network, data):
    """Return the same with averaged weights, without, and of both peers."""
    averaged, plain = (
        keras_smkd.SelectiveMutualDistillation(
            [network(), network()], knowledge=source
        )
        for source in (knowledge.AveragedPeers(), knowledge.PeerPredictions())
    )
    return {
        "with": fit(averaged, data),
        "without": fit(plain, data),
        "forward": predict(plain, data, output="all"),
    }


CALLS = {"teacher": teacher_calls, "averages": averages_calls}


def fit(model, data):
    compiled(model)
    return timed(lambda: model.fit(*data, batch_size=BATCH, verbose=0))


def predict(model, data, **kwargs):
    return timed(
        lambda: model.predict(data[0], batch_size=BATCH, verbose=0, **kwargs)
    )


def timed(call):
    """Return a function that calls, and returns the seconds it took."""

    def seconds():
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return seconds


def measure(calls):
    """Return the times of a step with knowledge and without, and the ratio."""
    for call in calls.values():
        call()
    seconds = measuring.time_in_rounds(calls, FLAGS.rounds)
    expected = [
        fitted + forward
        for fitted, forward in zip(
            seconds["without"], seconds["forward"], strict=True
        )
    ]
    low, middle, high = measuring.quartiles_of_ratio(seconds["with"], expected)
    return {
        **{
            name: 1000 * statistics.median(values) / FLAGS.steps
            for name, values in seconds.items()
        },
        "ratio": middle,
        "low": low,
        "high": high,
    }


def main(_):
    logging.set_verbosity(logging.WARNING)
    table = measuring.Table(
        {
            "backend": ("backend", 12, "s"),
            "network": ("network", 9, "s"),
            "knowledge": ("knowledge", 11, "s"),
            "with": ("with ms", 10, ".2f"),
            "without": ("without ms", 12, ".2f"),
            "forward": ("forward ms", 12, ".2f"),
            "ratio": ("ratio", 8, ".3f"),
            "low": ("25 %", 8, ".3f"),
            "high": ("75 %", 8, ".3f"),
        }
    )
    data = make_data("numpy", FLAGS.steps)
    for name in FLAGS.networks:
        for source, calls in CALLS.items():
            table.add(
                backend=keras.backend.backend(),
                network=name,
                knowledge=source,
                **measure(calls(NETWORKS[name], data)),
            )
    table.write(
        pathlib.Path(FLAGS.json) if FLAGS.json else None,
        steps=FLAGS.steps,
        rounds=FLAGS.rounds,
    )


if __name__ == "__main__":
    app.run(main)
