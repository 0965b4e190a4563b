"""How long it takes to make labels noisy, and in how much memory.

    python benchmarks/noise.py [--repeats 5] [--json noise.json]

Each kind of noise is drawn for 50,000 labels: those of a matrix should take
less than 50 ms, those that depend on inputs of 3,072 features (images of
CIFAR) less than 10 s and 1 GiB beyond the inputs. Times are medians over the
repeats; memory is the peak of what NumPy allocates, in a run of its own.
NumPy only: no backend is used, and no data set.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import time
import tracemalloc

import numpy as np

from keras_smkd import noise

EXAMPLES = 50_000
IMAGE_SHAPE = (32, 32, 3)
NUM_CLASSES = {"asymmetric_cifar100": 100, "asymmetric_cifar100_blocks": 100}


def median_seconds(function, repeats):
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peak_bytes(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def cases(examples):
    """Yield `(name, function)`; inputs are made before the function runs."""
    generator = np.random.default_rng(0)
    labels = {
        classes: generator.integers(0, classes, examples)
        for classes in (10, 100)
    }
    for kind in noise.KINDS:
        classes = NUM_CLASSES.get(kind, 10)
        for exact in (False, True):
            yield (
                f"{kind}, {classes} classes{', exact' if exact else ''}",
                lambda kind=kind, classes=classes, exact=exact: (
                    noise.make_noisy(
                        labels[classes],
                        kind,
                        0.4,
                        num_classes=classes,
                        seed=0,
                        exact=exact,
                    )
                ),
            )
    images = generator.integers(0, 256, (examples, *IMAGE_SHAPE), np.uint8)
    for dtype in ("uint8", "float32"):
        for classes in (10, 100):
            features = images.astype(dtype, copy=False)
            yield (
                f"instance_dependent, {classes} classes, {dtype}",
                lambda classes=classes, features=features: (
                    noise.make_noisy_by_instance(
                        labels[classes],
                        features,
                        0.4,
                        num_classes=classes,
                        seed=0,
                    )
                ),
            )
    yield (
        "replace_images, uint8",
        lambda: noise.replace_images(images, labels[10], images, 0.4, seed=0),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="timed runs")
    parser.add_argument(
        "--examples", type=int, default=EXAMPLES, help="labels to make noisy"
    )
    parser.add_argument("--json", type=pathlib.Path, help="file to write")
    arguments = parser.parse_args()
    if arguments.repeats < 1 or arguments.examples < 1:
        parser.error("--repeats and --examples must be at least 1")
    print(
        f"{arguments.examples} labels, median of {arguments.repeats}, NumPy "
        f"{np.__version__}, {os.cpu_count()} cores\n\n"
        f"{'noise':<44}{'ms':>10}{'peak MiB':>10}"
    )
    rows = []
    for name, function in cases(arguments.examples):
        milliseconds = 1000 * median_seconds(function, arguments.repeats)
        mebibytes = peak_bytes(function) / 2**20
        print(f"{name:<44}{milliseconds:>10.1f}{mebibytes:>10.1f}", flush=True)
        rows.append({"noise": name, "ms": milliseconds, "peak_mib": mebibytes})
    if arguments.json:
        report = {
            "examples": arguments.examples,
            "repeats": arguments.repeats,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "results": rows,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
