"""Kill trainings, go on with them, and compare their ends with whole ones.

    KERAS_BACKEND=jax python benchmarks/kills.py --kills 50
    KERAS_BACKEND=jax python benchmarks/kills.py --ways cifar --data_dir DIR

A training of a few epochs is killed (SIGKILL) and started again by the same
command until it ends. It learns from averaged peers and a teacher. Its last
weights, their averages, optimizers, step, threshold, memory of examples and
states of randomness are then compared, bit for bit, with those of a training
that was left alone. Three ways of going on:

- `backup`: `BackupAndRestore`, with a pipeline of `tf.data`;
- `checkpoint`: `ModelCheckpoint`, `load_model` and `initial_epoch`, with a
  `PipelineSequence`;
- `cifar`: `examples/cifar.py --resume`, with its log, too.

Some kills fall after a random step, or at a random time; the others while a
checkpoint is being written, as soon as its file is there or, by the process's
own hand, at the points of the writing where it hurts most. Exits with 1 if any
two ends differ.

Every start is a fork of a process that has imported all and run nothing: that
saves the seconds that imports take.
"""

import argparse
import builtins
import itertools
import os
import pathlib
import select
import signal
import sys
import tempfile
import time
import traceback

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import h5py
import keras
import killed_runs
import numpy as np
import tensorflow  # noqa: F401

# Until the example of CIFAR-10 trains: our own, and three of its.
CIFAR_LINES = 4
# How the processes die, in turn: after a random step or time, as soon as a
# file is being written, or by themselves at that point of the writing.
DEATHS = {
    "backup": "moment half moved torn writing moment written deleting".split(),
    "checkpoint": "moment half writing moment written moved".split(),
    "cifar": "moment writing".split(),
}
# More lines than a start writes.
MANY = 10_000


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(stage, turn):
    """Have this process kill itself at the `turn`-th coming of a stage."""
    countdown = itertools.count(turn - 1, -1)

    def dying(function, applies, after):
        def call(*args, **kwargs):
            if not applies(*args, **kwargs) or next(countdown) > 0:
                return function(*args, **kwargs)
            if after:
                function(*args, **kwargs)
            die()

        return call

    def is_model(*paths, **_):
        return str(paths[-1]).endswith((".keras", ".weights.h5"))

    if stage == "half":
        h5py.Group.__setitem__ = dying(
            h5py.Group.__setitem__, lambda *_, **__: True, False
        )
    elif stage in ("written", "moved"):
        os.replace = dying(os.replace, is_model, stage == "moved")
    elif stage == "torn":
        builtins.open = dying(
            open,
            lambda path, mode="r", **_: "metadata" in str(path) and mode == "w",
            True,
        )
    elif stage == "deleting":
        os.unlink = dying(os.unlink, lambda *_, **__: True, True)


class Start:
    """One start of a run: a process that can be watched and killed."""

    def __init__(self, way, folder, data_dir, death=None, turn=1):
        self.folder = folder
        self.reader, writer = os.pipe()
        permits, self.permits = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                die_at(death, turn)
                killed_runs.run(way, folder, data_dir, writer, permits)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writer)
        os.close(permits)

    def permit(self, lines):
        """Let the process go on after so many lines."""
        os.write(self.permits, b"." * lines)

    def read(self, lines):
        """Wait until the process has told so many lines, or ended."""
        while lines > 0 and (told := os.read(self.reader, 1)):
            lines -= told == b"\n"

    def wait_for_writing(self):
        """Wait until a file is being written, or was while we slept."""
        while not self.is_writing() and not self.has_told():
            pass

    def has_told(self):
        return bool(select.select([self.reader], [], [], 0)[0])

    def is_writing(self):
        return any(self.folder.glob("**/*.partial"))

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def was_killed(self):
        """Wait for the process; return whether it was killed."""
        self.read(10**9)
        os.close(self.reader)
        os.close(self.permits)
        _, status = os.waitpid(self.pid, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            sys.exit(f"A start in {self.folder} failed.")
        return os.WIFSIGNALED(status)


def kill(start, death, generator, seconds):
    """Kill a start, unless it ends before or is to kill itself."""
    if death == "moment" and seconds:
        start.permit(MANY)
        start.read(CIFAR_LINES)
        time.sleep(generator.uniform(0, seconds))
        start.kill()
    elif death == "moment":
        lines = generator.integers(1, 10)
        # It goes on a little, so that this falls anywhere.
        start.permit(lines + 2)
        start.read(lines)
        start.kill()
    elif death == "writing":
        lines = CIFAR_LINES if seconds else 2 + killed_runs.BATCHES
        start.permit(MANY if seconds else lines)
        start.read(lines)
        start.wait_for_writing()
        start.kill()
    else:
        start.permit(MANY)


def survive(way, kills, folder, data_dir):
    """Return what became of so many kills, and the ends that differ."""
    generator = np.random.default_rng(0)
    began = time.perf_counter()
    whole = folder / "whole"
    whole.mkdir()
    start = Start(way, whole, data_dir)
    start.permit(MANY)
    start.was_killed()
    seconds = time.perf_counter() - began if way == "cifar" else 0
    done = in_writing = runs = 0
    wrong = []
    while done < kills:
        runs += 1
        if runs > 2 * kills + 2:
            sys.exit(f"{runs - 1} runs were not killed {kills} times.")
        run_folder = folder / f"run_{runs}"
        run_folder.mkdir()
        was_killed = True
        while was_killed:
            death = DEATHS[way][done % len(DEATHS[way])]
            if done == kills:
                death = None
            turn = generator.integers(1, 60 if death == "half" else 3)
            start = Start(way, run_folder, data_dir, death, turn)
            kill(start, death, generator, seconds)
            was_killed = start.was_killed()
            done += was_killed
            by_itself = death not in (None, "moment", "writing")
            in_writing += was_killed and (by_itself or start.is_writing())
        wrong += killed_runs.differences(whole, run_folder)
    return done, in_writing, runs, time.perf_counter() - began, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of each way")
    parser.add_argument(
        "--ways",
        nargs="+",
        default=["backup", "checkpoint"],
        choices=list(DEATHS),
    )
    parser.add_argument("--data_dir", help="prepared TFDS data sets, for cifar")
    arguments = parser.parse_args()
    if "cifar" in arguments.ways:
        sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples"))
        import cifar  # noqa: F401
        import keras_cv  # noqa: F401
    backend = keras.backend.backend()
    print(f"{'way':<22}{'kills':>6}{'in writing':>12}{'runs':>6}{'seconds':>9}")
    wrong = []
    for way in arguments.ways:
        with tempfile.TemporaryDirectory() as folder:
            done, in_writing, runs, seconds, found = survive(
                way, arguments.kills, pathlib.Path(folder), arguments.data_dir
            )
        print(
            f"{backend + ' ' + way:<22}{done:>6}{in_writing:>12}{runs:>6}"
            f"{seconds:>9.0f}",
            flush=True,
        )
        wrong += found
    if wrong:
        sys.exit(f"Ends that differ: {', '.join(wrong)}")
    print("All ends are equal, bit for bit, to those of runs left alone.")


if __name__ == "__main__":
    main()
