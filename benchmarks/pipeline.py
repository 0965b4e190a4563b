"""How fast the CIFAR-10 pipelines are, and how much memory they take.

    python benchmarks/pipeline.py --data_dir ~/datasets [--json pipeline.json]

Three questions. Does noise cost anything while training (goal: within 2 %)?
How many images a second does each recipe give, beside a bare `tf.data` read of
the same TFDS records, and beside what two small networks take in `fit` here?
What is the peak memory of a process that loads CIFAR-10 and runs an epoch?

Rounds are interleaved: every pipeline gives some batches in each, so that a
busy moment of the machine meets all alike. Ratios are medians of the ratios
within a round.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_smkd
from keras_smkd import data
from keras_smkd import noise

BATCH = 128


def seconds_of(batches, count):
    """Return the seconds of `count` batches after a few to warm up."""
    iterator = iter(batches)
    for _ in range(10):
        next(iterator)
    start = time.perf_counter()
    for _ in range(count):
        next(iterator)
    return time.perf_counter() - start


def interleaved(pipelines, count, rounds):
    """Return `{name: [images per second of each round]}`."""
    rates = {name: [] for name in pipelines}
    for turn in range(rounds):
        # Each is first, last and between others in turn.
        names = list(pipelines)
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            rates[name].append(
                BATCH * count / seconds_of(pipelines[name], count)
            )
    return rates


def ratio(rates, name, other):
    pairs = zip(rates[name], rates[other], strict=True)
    return statistics.median(a / b for a, b in pairs)


def noise_ratios(noisy, clean, count, pairs):
    """Return medians over pairs: of the rates, and of the CPU times.

    CPU time is what other work on the machine disturbs least.
    """
    walls, cpus = [], []
    for turn in range(pairs):
        taken = {}
        # Whichever comes first may find the machine warmer or colder.
        for name in ("noisy", "clean") if turn % 2 else ("clean", "noisy"):
            start = time.process_time()
            pipeline = noisy if name == "noisy" else clean
            seconds = seconds_of(pipeline, count)
            taken[name] = seconds, time.process_time() - start
        walls.append(taken["clean"][0] / taken["noisy"][0])
        cpus.append(taken["noisy"][1] / taken["clean"][1])
    return statistics.median(walls), statistics.median(cpus)


def make_pipelines(examples, noisy):
    options = {"batch_size": BATCH, "shuffle": True, "seed": 0}
    pipelines = {}
    for recipe in data.RECIPES:
        pipelines[recipe] = data.make_pipeline(noisy, augment=recipe, **options)
        if recipe in ("none", "flip_crop"):
            pipelines[f"{recipe}, clean labels"] = data.make_pipeline(
                examples, augment=recipe, **options
            )
    pipelines["flip_crop, PipelineSequence"] = data.PipelineSequence(
        noisy, augment="flip_crop", **options
    )
    return pipelines


def bare_read(data_dir):
    """Return TFDS's records, decoded and batched, and nothing else."""
    builder = tfds.builder("cifar10", data_dir=data_dir)
    dataset = builder.as_dataset(
        "train",
        as_supervised=True,
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    return dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE)


def make_peer():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )


def consumption(pipeline, steps):
    """Return images per second that two small peers take in `fit`."""
    model = keras_smkd.SelectiveMutualDistillation(
        peers=[make_peer(), make_peer()], from_logits=True
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    take = pipeline.take(steps)
    seconds = []

    class Stopwatch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            seconds.append(time.perf_counter() - self.start)

    model.fit(take, epochs=4, verbose=0, shuffle=False, callbacks=[Stopwatch()])
    # The first epoch compiles.
    return BATCH * steps / statistics.median(seconds[1:])


MEMORY = {
    "imports only": "",
    "load_tfds": "examples = data.load_tfds('cifar10', data_dir=root)",
    "load_tfds, make_pipeline, one epoch": """
examples = data.load_tfds('cifar10', data_dir=root)
for batch in data.make_pipeline(
    examples, batch_size=128, shuffle=True, seed=0, augment='flip_crop'
):
    pass
""",
}


def peak_mebibytes(statements, data_dir):
    """Return the peak of resident memory of a process of its own."""
    program = (
        "import resource, sys\n"
        "import tensorflow, tensorflow_datasets\n"
        "from keras_smkd import data\n"
        "root = sys.argv[1] or None\n"
        f"{statements}\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, data_dir or ""],
        capture_output=True,
        text=True,
        check=True,
    )
    peak = int(done.stdout.splitlines()[-1])
    # Kibibytes on Linux, bytes on macOS.
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data_dir", help="folder of prepared TFDS data sets")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved")
    parser.add_argument("--batches", type=int, default=60, help="in a round")
    parser.add_argument("--pairs", type=int, default=31, help="for the noise")
    parser.add_argument("--json", type=pathlib.Path, help="file to write")
    arguments = parser.parse_args()
    if (
        min(arguments.rounds, arguments.pairs) < 1
        or not 1 <= arguments.batches <= 300
    ):
        parser.error(
            "--rounds and --pairs must be at least 1, --batches in [1, 300]"
        )
    # Before the data is loaded here, so that the machine has the memory.
    memory = {
        name: peak_mebibytes(statements, arguments.data_dir)
        for name, statements in MEMORY.items()
    }
    examples = data.load_tfds("cifar10", data_dir=arguments.data_dir)
    labels = noise.make_noisy(
        examples.labels,
        "symmetric_excluding_true",
        0.4,
        num_classes=10,
        seed=0,
    )
    pipelines = make_pipelines(examples, examples.with_noise(labels))
    pipelines["bare read"] = bare_read(arguments.data_dir)
    rates = interleaved(pipelines, arguments.batches, arguments.rounds)
    fit = consumption(pipelines["flip_crop"], arguments.batches)
    print(
        f"CIFAR-10, batches of {BATCH}, {arguments.rounds} rounds of "
        f"{arguments.batches}, TensorFlow {tf.__version__}, NumPy "
        f"{np.__version__}, {os.cpu_count()} cores\n\n"
        f"{'pipeline':<32}{'images/s':>10}{'/ bare read':>13}{'/ fit':>8}"
    )
    rows = []
    for name in pipelines:
        rate = statistics.median(rates[name])
        beside = ratio(rates, name, "bare read")
        print(f"{name:<32}{rate:>10.0f}{beside:>13.2f}{rate / fit:>8.2f}")
        rows.append(
            {
                "pipeline": name,
                "images_per_second": rate,
                "to_bare_read": beside,
                "to_fit": rate / fit,
            }
        )
    print(f"{'two small peers in fit':<32}{fit:>10.0f}\n")
    costs = {
        recipe: noise_ratios(
            pipelines[recipe],
            pipelines[f"{recipe}, clean labels"],
            arguments.batches,
            arguments.pairs,
        )
        for recipe in ("none", "flip_crop")
    }
    for recipe, (wall, cpu) in costs.items():
        print(
            f"{recipe}: noisy / clean labels {wall:.3f} in images/s, "
            f"{cpu:.3f} in CPU time"
        )
    print(f"\n{'peak memory of a process':<40}{'MiB':>8}")
    for name, mebibytes in memory.items():
        print(f"{name:<40}{mebibytes:>8.0f}")
    if arguments.json:
        report = {
            "batch_size": BATCH,
            "rounds": arguments.rounds,
            "batches": arguments.batches,
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "results": rows,
            "fit_images_per_second": fit,
            "noisy_to_clean": {
                recipe: {"images_per_second": wall, "cpu_time": cpu}
                for recipe, (wall, cpu) in costs.items()
            },
            "peak_mib": memory,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
