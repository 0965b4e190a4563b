"""What a step of the recipe costs, against one of plain SMKD.

    KERAS_BACKEND=jax python benchmarks/speed/recipe.py [--json FILE]

Two peers of each network are trained on the same arrays. They take turns; shown
are the median in ms a step, and of the ratio to `smkd` in each round the median
and its quartiles. `MiB` is what is remembered of examples and of weights,
beside the peers and the optimizer.

- `smkd`: the paper's form, no gate;
- `smkd, gate`: `SelectiveMutualDistillation` with its defaults;
- `posterior`: `methods.posterior_smkd` with its defaults, which remember every
  class of every example;
- `posterior, top 8`: of `PastPredictions(top=8, dtype="float16")`, where there
  are more classes than eight;
- `posterior, averages`: of `AveragedPeers`, which need no index and a second
  pass.

The third network has a thousand classes, of random images: of it, the times and
the memory are to be read.
"""

import os
import statistics

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measuring
import numpy as np
from step_time import BATCH
from step_time import NETWORKS
from step_time import compiled

import keras_smkd
from keras_smkd import knowledge
from keras_smkd import methods

STEPS = 40
EXAMPLES = STEPS * BATCH


def wide():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(1000),
        ]
    )


def posterior(source=None):
    return lambda peers: methods.posterior_smkd(
        peers, EXAMPLES, knowledge=source and source()
    )


SYSTEMS = {
    "smkd": lambda peers: keras_smkd.SelectiveMutualDistillation(
        peers, gate=None
    ),
    "smkd, gate": keras_smkd.SelectiveMutualDistillation,
    "posterior": posterior(),
    "posterior, top 8": posterior(
        lambda: knowledge.PastPredictions(
            EXAMPLES, 0.9, "others", dtype="float16", top=8
        )
    ),
    "posterior, averages": posterior(knowledge.AveragedPeers),
}


def epochs_of(make, network, data):
    """Return a model, and a function that trains it for one epoch."""
    model = compiled(make([network(), network()]))
    return model, measuring.epoch_timer(model, *data, BATCH)


def remembered(model):
    """Return the bytes of all that is no peer's and no optimizer's."""
    own = {id(v) for peer in model.peers for v in peer.variables}
    return sum(
        np.prod(v.shape) * np.dtype(v.dtype).itemsize
        for v in model.variables
        if id(v) not in own
    )


def main():
    parser = measuring.parser(__doc__, rounds=15)
    networks = {**NETWORKS, "wide": wide}
    parser.add_argument(
        "--networks", nargs="+", default=list(networks), choices=list(networks)
    )
    arguments = parser.parse_args()
    table = measuring.Table(
        {
            "backend": ("backend", 12, "s"),
            "network": ("network", 9, "s"),
            "system": ("system", 22, "s"),
            "ms": ("ms a step", 10, ".2f"),
            "ratio": ("ratio", 8, ".3f"),
            "low": ("25 %", 8, ".3f"),
            "high": ("75 %", 8, ".3f"),
            "memory": ("MiB", 9, ".2f"),
        }
    )
    generator = np.random.default_rng(0)
    x = generator.normal(size=(EXAMPLES, 28, 28, 1)).astype("float32")
    for name in arguments.networks:
        network = networks[name]
        num_classes = network().output_shape[-1]
        data = x, generator.integers(0, num_classes, EXAMPLES)
        models, epochs = {}, {}
        for system, make in SYSTEMS.items():
            models[system], epochs[system] = epochs_of(make, network, data)
        seconds = measuring.time_in_rounds(epochs, arguments.rounds)
        for system, own in seconds.items():
            low, middle, high = measuring.quartiles_of_ratio(
                own, seconds["smkd"]
            )
            table.add(
                backend=keras.backend.backend(),
                network=name,
                system=system,
                ms=1000 * statistics.median(own) / STEPS,
                ratio=middle,
                low=low,
                high=high,
                memory=remembered(models[system]) / 2**20,
            )
    table.write(arguments.json, steps=STEPS, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
