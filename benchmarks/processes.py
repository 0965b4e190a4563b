"""Compare a training in two processes with the same one in one process.

    KERAS_BACKEND=jax python benchmarks/processes.py

Two peers with two memories of the examples (a target's and knowledge's), with
averages of the peers and a moving threshold, are trained by two processes that
are joined over the network (here, of one machine), and by one that is given
the same batches whole: arrays, and a pipeline that shuffles. On JAX with
`keras.distribution`, on TensorFlow with `MultiWorkerMirroredStrategy`, on torch
with `DistributedDataParallel`.

Printed is the largest difference between either process and the one alone: of
the peers' weights, their averages, the memories, the clock (step and
threshold), the optimizer's state, the logs of `fit` and `evaluate`, and what
`predict` gives (not on JAX, where Keras cannot gather it). Then how much of the
knowledge was selected on average, and how many of the examples are remembered.
Exits with 1 if a difference is above 1e-6.
"""

import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import random
import socket
import subprocess
import sys
import tempfile

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
BACKEND = os.environ["KERAS_BACKEND"]
LARGEST = 1e-6
KINDS = "peers averaged memory clock optimizer logs predicted".split()
# Seconds after which processes wait for each other in vain.
TIMEOUT = 600


def free_ports(count):
    """Return ports that nothing listens on, each another.

    They are none of those that a system gives to who asks for any: between
    this question and the answer of slow processes it could give them away.
    """
    ports = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as own:
            own.bind(("localhost", port))
            if port not in ports:
                ports.append(port)
    return [str(port) for port in ports]


def start(folder, way, world):
    """Start a training in so many processes."""
    ports = free_ports(world)
    command = [sys.executable, str(HERE / "process_run.py"), folder, way]
    return [
        subprocess.Popen(
            [*command, str(rank), *ports],
            # What joins them (Gloo) prints there, in pieces.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        for rank in range(world)
    ]


def wait_for(processes):
    """Wait for all; end them all if one fails, for others may wait for it."""

    def end_of(process):
        _, errors = process.communicate(timeout=TIMEOUT)
        return process.returncode, errors

    with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
        ends = [pool.submit(end_of, process) for process in processes]
        try:
            for end in concurrent.futures.as_completed(ends):
                code, errors = end.result()
                if code:
                    sys.exit(f"{errors}A process ended with {code}.")
        finally:
            for process in processes:
                process.kill()


def ends_of(folder, way, world):
    """Return what each process has ended with: `{name: array}`."""
    ends = [
        dict(np.load(f"{folder}/{way}-{world}-{rank}.npz"))
        for rank in range(world)
    ]
    if BACKEND == "torch":
        # A process logs what it has seen itself.
        for name in ends[0]:
            if name.startswith("logs"):
                mean = np.mean([end[name] for end in ends], axis=0)
                for end in ends:
                    end[name] = mean
    return ends


def differences(one, others):
    """Return the largest difference of each kind that there is."""
    largest = {}
    for other in others:
        if one.keys() != other.keys():
            sys.exit(f"Not in both: {sorted(one.keys() ^ other.keys())}")
        for name, value in one.items():
            difference = np.max(np.abs(np.float64(value) - other[name]))
            if np.isnan(difference):
                difference = np.inf
            kind = name.split()[0]
            largest[kind] = max(largest.get(kind, 0.0), difference)
    return largest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ways = ["arrays", "pipeline"]
    parser.add_argument("--ways", nargs="+", default=ways, choices=ways)
    columns = (*KINDS, "selected", "remembered")
    print(f"{'way':<22}", *(f"{name:>10}" for name in columns))
    wrong = []
    for way in parser.parse_args().ways:
        with tempfile.TemporaryDirectory() as folder:
            wait_for([*start(folder, way, 1), *start(folder, way, 2)])
            (one,) = ends_of(folder, way, 1)
            largest = differences(one, ends_of(folder, way, 2))
        rate = one["logs selection_rate"].mean()
        memories = [one[name] for name in one if name.startswith("memory")]
        remembered = np.mean([memory != 0 for memory in memories])
        print(
            f"{BACKEND + ' ' + way:<22}",
            *(
                f"{largest[kind]:>10.1e}" if kind in largest else f"{'-':>10}"
                for kind in KINDS
            ),
            f"{rate:>10.2f} {remembered:>10.2f}",
            flush=True,
        )
        wrong += [
            f"{kind} of {way}"
            for kind, difference in largest.items()
            if difference > LARGEST
        ]
    if wrong:
        sys.exit(f"They differ by more than {LARGEST}: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
