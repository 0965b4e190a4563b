"""Two devices give what one gives: a process each, or two of them on torch."""

import json
import os
import pathlib
import subprocess
import sys

import keras

CHILD = pathlib.Path(__file__).with_name("devices.py")


def test_two_devices_equal_one():
    backend = keras.backend.backend()
    launch = [sys.executable]
    if backend == "torch":
        launch += ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
        launch += ["--master_port", "0", "--standalone"]
    done = subprocess.run(
        [*launch, str(CHILD)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [x for x in done.stdout.splitlines() if x.startswith("REPORT")]
    report = json.loads(line.removeprefix("REPORT"))
    assert report["devices"] == 2
    # It is a run in which there was something to get wrong.
    assert all(0.05 < rate < 0.95 for rate in report["selection_rate"])
    assert report["remembered"] == 1.0
    # Of the parts: two averages, a memory, the means of the target.
    assert len(report["weights"]) == 15 + 3 + 6
    for name, difference in report["weights"].items():
        assert difference <= 1e-6, name
    assert len(report["logs"]) == 8
    for name, difference in report["logs"].items():
        assert difference <= 1e-6, name
