"""What a step of plain SMKD takes, before and after a change.

    git worktree add PATH REVISION
    KERAS_BACKEND=jax python benchmarks/speed/before_after.py --before PATH

The same peers are trained on the same arrays by two checkouts, each in a
process of its own that stays alive. Their epochs take turns, so that both see
the same machine: one trains while the other waits. The first epoch of each,
which compiles, is not counted. The threshold is progressive; `gate` says
whether labels are gated, as they are by default.

Shown are the medians over the rounds, in ms a step, and of the ratio after /
before of each round its median and its quartiles. The same checkout on both
sides (`--before .`) shows how far from 1 the machine alone can bring it.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measuring
import numpy as np
from absl import app
from absl import flags
from absl import logging
from keras import layers

import keras_smkd
from keras_smkd import callbacks

BATCH = 128
NUM_CLASSES = 10
HERE = pathlib.Path(__file__).resolve().parents[2]

FLAGS = flags.FLAGS
flags.DEFINE_string("before", "", "Checkout of the earlier revision.")
flags.DEFINE_string("after", str(HERE), "Checkout of the later one.")
flags.DEFINE_integer("rounds", 15, "Epochs of each side.", lower_bound=2)
flags.DEFINE_integer("steps", 24, "Steps of an epoch.", lower_bound=1)
flags.DEFINE_multi_integer("peers", [2, 4], "Numbers of peers.")
flags.DEFINE_multi_enum("networks", ["mlp", "conv"], ["mlp", "conv"], "Peers.")
flags.DEFINE_string("json", "", "Where to write the table as JSON.")
flags.DEFINE_string("serve", "", "Network, peers and gate: for itself.")


def mlp():
    return [
        layers.Flatten(),
        layers.Dense(512, activation="relu"),
        layers.Dense(512, activation="relu"),
        layers.Dense(NUM_CLASSES),
    ]


def conv():
    return [
        layers.Conv2D(16, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(NUM_CLASSES),
    ]


NETWORKS = {"mlp": mlp, "conv": conv}


class Turns(keras.callbacks.Callback):
    """Begins an epoch when told to on standard input; tells its seconds."""

    def on_epoch_begin(self, epoch, logs=None):
        if not sys.stdin.readline():
            sys.exit()  # The other end is gone.
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        for value in logs.values():
            float(value)  # Waits for the device.
        print(json.dumps(time.perf_counter() - self.start), flush=True)


def check_package():
    """Raise if the package is not that of the checkout that was asked for."""
    package = pathlib.Path(keras_smkd.__file__).resolve().parents[1]
    if package != pathlib.Path(os.environ["PYTHONPATH"]):
        raise ImportError(
            f"the package must be that of {os.environ['PYTHONPATH']}. "
            f"Received: that of {package}."
        )


def serve(network, num_peers, gate):
    """Fit, an epoch for each line on standard input."""
    check_package()
    peers = [
        keras.Sequential([keras.Input((28, 28, 1)), *NETWORKS[network]()])
        for _ in range(int(num_peers))
    ]
    model = keras_smkd.SelectiveMutualDistillation(
        peers, **({} if gate == "yes" else {"gate": None})
    )
    model.compile(
        keras.optimizers.Adam(1e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    generator = np.random.default_rng(0)
    x = generator.normal(size=(FLAGS.steps * BATCH, 28, 28, 1))
    y = generator.integers(0, NUM_CLASSES, len(x))
    model.fit(
        x.astype("float32"),
        y,
        batch_size=BATCH,
        epochs=1 + FLAGS.rounds,
        verbose=0,
        callbacks=[callbacks.ProgressiveThreshold(), Turns()],
    )


class Side:
    """A process that trains an epoch when it is told to."""

    def __init__(self, checkout, *setting):
        checkout = pathlib.Path(checkout).resolve()
        if not (checkout / "keras_smkd" / "__init__.py").is_file():
            raise app.UsageError(
                f"a checkout must have the package. Received: {checkout}"
            )
        self.process = subprocess.Popen(
            [
                sys.executable,
                __file__,
                f"--serve={','.join(map(str, setting))}",
                f"--steps={FLAGS.steps}",
                f"--rounds={FLAGS.rounds}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            text=True,
        )

    def seconds(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("A side ended before its last epoch: see above.")
        return json.loads(line)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(*setting):
    """Return the row of one setting: times of a step, and their ratio."""
    sides = {
        name: Side(checkout, *setting)
        for name, checkout in (("before", FLAGS.before), ("after", FLAGS.after))
    }
    try:
        for side in sides.values():
            side.seconds()
        seconds = measuring.time_in_rounds(
            {name: side.seconds for name, side in sides.items()},
            FLAGS.rounds,
        )
    finally:
        for side in sides.values():
            side.end()
    low, middle, high = measuring.quartiles_of_ratio(
        seconds["after"], seconds["before"]
    )
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
    if FLAGS.serve:
        return serve(*FLAGS.serve.split(","))
    if not FLAGS.before:
        raise app.UsageError("give --before, a checkout.")
    table = measuring.Table(
        {
            "backend": ("backend", 12, "s"),
            "network": ("network", 9, "s"),
            "peers": ("peers", 6, "d"),
            "gate": ("  gate", 8, "s"),
            "before": ("before ms", 11, ".2f"),
            "after": ("after ms", 11, ".2f"),
            "ratio": ("ratio", 8, ".3f"),
            "low": ("25 %", 8, ".3f"),
            "high": ("75 %", 8, ".3f"),
        }
    )
    for network in FLAGS.networks:
        for num_peers in FLAGS.peers:
            for gate in ("yes", "no"):
                table.add(
                    backend=keras.backend.backend(),
                    network=network,
                    peers=num_peers,
                    gate=f"  {gate}",
                    **measure(network, num_peers, gate),
                )
    table.write(
        pathlib.Path(FLAGS.json) if FLAGS.json else None,
        steps=FLAGS.steps,
        rounds=FLAGS.rounds,
    )


if __name__ == "__main__":
    app.run(main)
