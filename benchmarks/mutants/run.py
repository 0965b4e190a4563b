"""Break the package on purpose, and count what the tests notice.

    KERAS_BACKEND=torch python benchmarks/mutants/run.py
    python benchmarks/mutants/run.py --only losses --json losses.json
    python benchmarks/mutants/run.py --shard 1/4

Each break of `breaks/*.txt` is made by itself in a copy of the repository, and
the tests that should notice it are run there, in a process of their own. One
that fails has caught the break. Before that, all of these tests must pass in
the copy as it is. Exits with 1 if a break survives and has no reason to.

Every process is a fork of this one, which has imported all but the package:
that saves the seconds that imports take.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import time

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

with contextlib.suppress(ImportError):
    import torch  # noqa: F401
with contextlib.suppress(ImportError):
    import tensorflow  # noqa: F401

import breaks
import keras  # noqa: F401
import pytest
from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("only", "", "Breaks whose file or words match a pattern.")
flags.DEFINE_string("shard", "1/1", "Which part of the breaks, of how many.")
flags.DEFINE_string("json", None, "Where to write all results to.")
flags.DEFINE_integer("timeout", 300, "Seconds after which tests have failed.")

LEFT_OUT = (".*", "__pycache__", "results", "build", "dist")
# Of pytest: tests failed, or could not even be imported.
FAILED = (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)


def chosen(only, shard):
    """Return the breaks that match a pattern, and of these a part."""
    part, parts = map(int, shard.split("/"))
    if not 1 <= part <= parts:
        raise ValueError(f"`shard` must be i/n, i from 1. Received: {shard}.")
    found = [
        item
        for item in breaks.read_all()
        if re.search(only, f"{item.file} {item.what}")
    ]
    return found[part - 1 :: parts]


def run_tests(folder, tests, *options, timeout=0):
    """Return pytest's exit status, or minus what killed it, and its output."""
    output = folder / "output.txt"
    child = os.fork()
    if not child:
        try:
            _become_pytest(folder, tests, options, timeout, output)
        finally:
            os._exit(100)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), output.read_text(errors="replace")


def _become_pytest(folder, tests, options, timeout, output):
    os.chdir(folder)
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    signal.alarm(timeout)
    # Files that were compiled are those of the package as it is.
    sys.dont_write_bytecode = timeout > 0
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = str(folder)
    shared = str(breaks.ROOT.parent / "shared")
    os.environ.setdefault("KERAS_SMKD_SHARED", shared)
    command = ["-q", "-p", "no:cacheprovider", *options, *tests]
    status = pytest.main(command)
    sys.stdout.flush()
    os._exit(status)


def caught_by(folder, item):
    """Return the test that a break makes fail, `None` if none does."""
    path = folder / item.file
    source = path.read_text(encoding="utf-8")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text(item.apply(source), encoding="utf-8")
    try:
        status, output = run_tests(
            folder, item.tests, "-x", timeout=FLAGS.timeout
        )
    finally:
        path.write_text(source, encoding="utf-8")
        os.utime(path, ns=times)
    if status == 0:
        return None
    if status < 0:
        # Of the timeout, or of a library that crashed.
        return f"the process, which died of signal {-status}"
    if status not in FAILED:
        raise RuntimeError(
            f"{item.what}: pytest ended with {status}.\n{output}"
        )
    return re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.M)[1]


def check(folder, items):
    """Raise unless every break fits, and its tests pass without it."""
    for item in items:
        source = (folder / item.file).read_text(encoding="utf-8")
        if item.count(source) != 1:
            raise ValueError(f"{item.what}: {item.count(source)} places fit.")
    tests = dict.fromkeys(test for item in items for test in item.tests)
    status, output = run_tests(folder, tests)
    if status != 0:
        raise RuntimeError(f"Tests fail without a break.\n{output[-5000:]}")


def main(_):
    items = chosen(FLAGS.only, FLAGS.shard)
    results = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        folder = pathlib.Path(scratch, "copy")
        shutil.copytree(
            breaks.ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT)
        )
        start = time.monotonic()
        check(folder, items)
        print(f"all tests pass, {time.monotonic() - start:.0f} s", flush=True)
        for item in items:
            start = time.monotonic()
            test = caught_by(folder, item)
            seconds = round(time.monotonic() - start, 1)
            word = "caught" if test else "SURVIVED"
            print(f"{word:8} {seconds:5} s  {item.file}: {item.what}")
            sys.stdout.flush()
            results.append(
                {
                    "file": item.file,
                    "what": item.what,
                    "caught_by": test,
                    "seconds": seconds,
                    "reason": item.reason,
                }
            )
    survivors = [result for result in results if not result["caught_by"]]
    number = len(results) - len(survivors)
    share = 100 * number / max(1, len(results))
    seconds = sum(result["seconds"] for result in results)
    print(
        f"\n{number} of {len(results)} caught, {share:.1f} %, {seconds:.0f} s"
    )
    for result in survivors:
        print(f"- {result['file']}: {result['what']}")
        print(f"  {result['reason'] or 'No reason: a test is missing.'}")
    if FLAGS.json:
        with open(FLAGS.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    sys.exit(any(not result["reason"] for result in survivors))


if __name__ == "__main__":
    app.run(main)
