"""Break the package on purpose, and count what the tests notice.

    KERAS_BACKEND=torch python benchmarks/mutants/run.py
    python benchmarks/mutants/run.py --only losses --json losses.json
    python benchmarks/mutants/run.py --shard 1/4

Each break of `breaks/*.txt` is made by itself in a copy of the repository, and
the tests that should notice it are run there, in a process of their own. One
that fails has caught the break. Before that, all of these tests must pass in
the copy as it is. Exits with 1 if a break survives and has no reason to.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import breaks
from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("only", "", "Breaks whose file or words match a pattern.")
flags.DEFINE_string("shard", "1/1", "Which part of the breaks, of how many.")
flags.DEFINE_string("json", None, "Where to write all results to.")
flags.DEFINE_integer("timeout", 300, "Seconds after which tests have failed.")

LEFT_OUT = (".*", "__pycache__", "results", "build", "dist")
# Of pytest: tests failed, or could not even be imported.
FAILED = (1, 2)


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


def run_tests(folder, tests, *options, timeout=None):
    """Return pytest's exit status and output, `None` after the timeout."""
    environment = {
        "KERAS_BACKEND": "torch",
        "KERAS_SMKD_SHARED": str(breaks.ROOT.parent / "shared"),
        "OMP_NUM_THREADS": "1",
        **os.environ,
        "PYTHONPATH": str(folder),
        # Files that were compiled are those of the package as it is.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, *options, *tests],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout + done.stderr


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
    if status not in (None, 0, *FAILED):
        raise RuntimeError(
            f"{item.what}: pytest ended with {status}.\n{output}"
        )
    if status == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.M)
    return failed[1] if failed else f"timeout of {FLAGS.timeout} s"


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
    print(f"\n{number} of {len(results)} caught, {share:.1f} %")
    for result in survivors:
        print(f"- {result['file']}: {result['what']}")
        print(f"  {result['reason'] or 'No reason: a test is missing.'}")
    if FLAGS.json:
        with open(FLAGS.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    sys.exit(any(not result["reason"] for result in survivors))


if __name__ == "__main__":
    app.run(main)
