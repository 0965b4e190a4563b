"""What training N peers together costs, against N models trained apart.

    KERAS_BACKEND=jax python benchmarks/speed/step_time.py [--json FILE]

The same network is fitted as 2, 4 and 8 peers of one model, and as many times
as a plain `keras.Model`, on the same data. Shown are ratios, together / apart:

- `warm`: an epoch after the first, from its first step to its last;
- `own`: the same, with an optimizer for each peer;
- `first`: `fit` of one step by models that are new, which compiles;
- `memory`: the most by which a process of its own grows while it fits steps
  of 2,048 examples. Apart is as many times what one plain model takes;
- `term`: the share of a warm epoch that the knowledge takes: one minus the
  ratio without it (weight 0, its maths left out) to with it.
"""

import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measuring
import numpy as np
from keras import layers

import keras_smkd
from keras_smkd import callbacks

BATCH = 128
# In small batches, what a process grows by anyhow is most of it.
LARGE_BATCH = 2048
NUM_CLASSES = 10


def mlp():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dense(512, activation="relu"),
            layers.Dense(NUM_CLASSES),
        ]
    )


def conv():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(NUM_CLASSES),
        ]
    )


NETWORKS = {"mlp": mlp, "conv": conv}


def compiled(model, optimizers=1):
    """Compile a plain model or one of peers, in the same words."""
    adam = [keras.optimizers.Adam(1e-3) for _ in range(optimizers)]
    loss = "sparse_categorical_crossentropy"
    if not isinstance(model, keras_smkd.SelectiveMutualDistillation):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        adam if optimizers > 1 else adam[0], loss, metrics=["accuracy"]
    )
    return model


def together(network, num_peers, optimizers=1):
    model = keras_smkd.SelectiveMutualDistillation(
        [network() for _ in range(num_peers)], gate=None
    )
    return compiled(model, optimizers)


def no_divergence(batch):
    """Stands for the divergences where everything else is to be timed."""
    return 0.0 * keras.ops.stop_gradient(batch.log_probs[..., 0])


class SecondEpoch(keras.callbacks.Callback):
    """Times the second epoch; what a fit begins with is in the first."""

    def on_epoch_end(self, epoch, logs=None):
        for value in logs.values():
            float(value)  # Waits for the device.
        now = time.perf_counter()
        if epoch == 1:
            self.seconds = now - self.last
        self.last = now


def fit(model, data, epochs, extra=(), batch=BATCH):
    x, y = data
    threshold = (
        [callbacks.ProgressiveThreshold(sharpness=-8.0)]
        if hasattr(model, "peers")
        else []
    )
    model.fit(
        x,
        y,
        batch_size=None if y is None else batch,
        epochs=epochs,
        shuffle=y is not None,
        verbose=0,
        callbacks=[*threshold, *extra],
    )


def warm_seconds(models, data):
    seconds = 0.0
    for model in models:
        timer = SecondEpoch()
        fit(model, data, 2, [timer])
        seconds += timer.seconds
    return seconds


def first_seconds(make_models, data):
    seconds = 0.0
    for model in make_models():
        start = time.perf_counter()
        fit(model, data, 1)
        seconds += time.perf_counter() - start
    return seconds


def make_data(kind, steps):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(steps * BATCH, 28, 28, 1)).astype("float32")
    y = generator.integers(0, NUM_CLASSES, len(x))
    if kind == "numpy":
        return x, y
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    return dataset.shuffle(len(x)).batch(BATCH).prefetch(2), None


def memory_of(network, num_peers):
    """Return by how much a process grows that fits, in bytes."""
    command = [sys.executable, __file__, f"--grow={network}:{num_peers}"]
    done = subprocess.run(command, capture_output=True, check=True)
    return float(done.stdout)


def print_growth(network, num_peers):
    """Print by how much this process grows; one plain model for 1 peer."""
    small = make_data("numpy", 1)
    data = make_data("numpy", 2 * LARGE_BATCH // BATCH)
    # What the backend loads and keeps, whatever it trains.
    fit(compiled(mlp()), small, 1)

    def train():
        model = (
            compiled(NETWORKS[network]())
            if num_peers == 1
            else together(NETWORKS[network], num_peers)
        )
        fit(model, data, 1, batch=LARGE_BATCH)

    print(measuring.peak_memory(train))


def measure(name, kind, num_peers, steps, rounds):
    """Return the ratios of times of one configuration."""
    network = NETWORKS[name]
    data = make_data(kind, steps)
    step = make_data(kind, 1)
    model = together(network, num_peers)
    own = together(network, num_peers, num_peers)
    models = [compiled(network()) for _ in range(num_peers)]
    # Everything but the divergences from each other.
    bare = compiled(
        keras_smkd.PeerLearning(
            [network() for _ in range(num_peers)],
            knowledge="peers",
            selection="entropy",
            divergence=no_divergence,
            distillation_weight=0.0,
            total_steps=1,
        )
    )
    warm = measuring.time_in_rounds(
        {
            "apart": lambda: warm_seconds(models, data),
            "together": lambda: warm_seconds([model], data),
            "own": lambda: warm_seconds([own], data),
            "bare": lambda: warm_seconds([bare], data),
        },
        rounds,
    )
    first = measuring.time_in_rounds(
        {
            "apart": lambda: first_seconds(
                lambda: (compiled(network()) for _ in range(num_peers)), step
            ),
            "together": lambda: first_seconds(
                lambda: [together(network, num_peers)], step
            ),
        },
        max(1, rounds // 2),
    )
    return {
        "warm": measuring.ratio(warm["together"], warm["apart"]),
        "own": measuring.ratio(warm["own"], warm["apart"]),
        "first": measuring.ratio(first["together"], first["apart"]),
        "term": 100 * (1 - measuring.ratio(warm["bare"], warm["together"])),
        "step_ms": 1000 * statistics.median(warm["together"]) / steps,
    }


def main():
    parser = measuring.parser(__doc__, rounds=5)
    parser.add_argument("--steps", type=int, default=12, help="per epoch")
    parser.add_argument("--peers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--data", nargs="+", default=["numpy", "tf.data"])
    parser.add_argument("--grow", help="measure the memory of this process")
    arguments = parser.parse_args()
    if arguments.grow:
        name, num_peers = arguments.grow.split(":")
        return print_growth(name, int(num_peers))
    table = measuring.Table(
        {
            "backend": ("backend", 12, "s"),
            "network": ("network", 9, "s"),
            "data": ("data", 9, "s"),
            "peers": ("peers", 6, "d"),
            "warm": ("warm", 8, ".3f"),
            "own": ("own", 8, ".3f"),
            "first": ("first", 8, ".2f"),
            "memory": ("memory", 8, ".2f"),
            "term": ("term %", 8, ".1f"),
            "step_ms": ("ms/step", 9, ".2f"),
        }
    )
    for name in arguments.networks:
        alone = memory_of(name, 1)
        for kind in arguments.data:
            for num_peers in arguments.peers:
                memory = (
                    memory_of(name, num_peers) / (num_peers * alone)
                    if kind == arguments.data[0]
                    else None
                )
                table.add(
                    backend=keras.backend.backend(),
                    network=name,
                    data=kind,
                    peers=num_peers,
                    memory=memory,
                    **measure(
                        name,
                        kind,
                        num_peers,
                        arguments.steps,
                        arguments.rounds,
                    ),
                )
    table.write(arguments.json, steps=arguments.steps, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
