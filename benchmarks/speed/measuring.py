"""Time things against each other, and say on which machine.

A script's timings are ratios within one run: its parts are timed in turn,
round after round, so that a slow moment of the machine meets all of them.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time

PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy")


def time_in_rounds(parts, rounds):
    """Return `{name: [seconds of each round]}`.

    Args:
        parts: `{name: function}`; each times itself and returns seconds.
        rounds: How often. Every other one goes backwards.
    """
    seconds = {name: [] for name in parts}
    for i in range(rounds):
        for name in reversed(parts) if i % 2 else parts:
            seconds[name].append(parts[name]())
    return seconds


def epoch_timer(model, x, y, batch_size):
    """Return a function that trains for one epoch and returns its seconds.

    One epoch, which compiles, is over.
    """

    def epoch():
        start = time.perf_counter()
        model.fit(x, y, batch_size=batch_size, verbose=0)
        return time.perf_counter() - start

    epoch()
    return epoch


def ratio(seconds, other_seconds):
    """Return the median over the rounds of one part against another."""
    return statistics.median(
        a / b for a, b in zip(seconds, other_seconds, strict=True)
    )


def quartiles_of_ratio(seconds, other_seconds):
    """Return the quartiles over the rounds of one part against another."""
    ratios = [a / b for a, b in zip(seconds, other_seconds, strict=True)]
    return statistics.quantiles(ratios, n=4, method="inclusive")


def peak_memory(function):
    """Return by how many bytes the process grew at its highest.

    Linux only: the peak is reset there before `function` runs.
    """
    before = _memory("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    function()
    return _memory("VmHWM") - before


def _memory(field):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"`field` must be in /proc/self/status. Received: {field}")


def machine():
    """Return what the numbers depend on, as strings."""
    found = {
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "processor": platform.processor() or platform.machine(),
    }
    details = pathlib.Path("/proc/cpuinfo")
    if details.exists():
        for line in details.read_text().splitlines():
            if line.startswith("model name"):
                found["processor"] = line.split(":")[1].strip()
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def parser(documentation, rounds):
    """Return a parser with what every script here takes."""
    result = argparse.ArgumentParser(
        description=documentation.splitlines()[0],
        epilog=documentation.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "--rounds", type=int, default=rounds, help="of timings in turn"
    )
    result.add_argument("--json", type=pathlib.Path, help="file to write")
    return result


class Table:
    """Rows that are printed as they come, and written as JSON in the end.

    Args:
        columns: `{key: (header, width, format)}`.
    """

    def __init__(self, columns):
        self.columns = columns
        self.rows = []
        details = ", ".join(f"{k} {v}" for k, v in machine().items())
        print(f"{details}\n")
        print(
            "".join(
                f"{header:<{width}}" if kind == "s" else f"{header:>{width}}"
                for header, width, kind in columns.values()
            ),
            flush=True,
        )

    def add(self, **row):
        """Print a row; a value that is `None` is shown as a dash."""
        cells = []
        for key, (_, width, kind) in self.columns.items():
            value = row.get(key)
            cell = "-" if value is None else format(value, kind)
            cells.append(
                f"{cell:<{width}}" if kind == "s" else f"{cell:>{width}}"
            )
        print("".join(cells), flush=True)
        self.rows.append(row)

    def write(self, path, **settings):
        """Write rows, machine and settings, if there is a path."""
        if path:
            report = {"machine": machine(), **settings, "rows": self.rows}
            path.write_text(json.dumps(report, indent=2) + "\n")
