"""How long `import keras_smkd` takes beyond `import keras`, and what it loads.

    python benchmarks/speed/import_time.py [--json FILE]

Every import is in a process of its own, and these alternate. The milliseconds
are those of `import keras_smkd` once keras is there, and, for comparison, of
`import keras`. A framework that only our import has loaded would be named.
"""

import json
import os
import statistics
import subprocess
import sys

import measuring

PROGRAM = """
import json, sys, time
start = time.perf_counter()
import keras
middle = time.perf_counter()
before = {name.partition(".")[0] for name in sys.modules}
import keras_smkd
end = time.perf_counter()
after = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([middle - start, end - middle, sorted(after - before)]))
"""
BACKENDS = ("tensorflow", "jax", "torch")


def run(backend):
    """Return the seconds of both imports, and what the second one loaded."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def main():
    parser = measuring.parser(__doc__, rounds=11)
    arguments = parser.parse_args()
    table = measuring.Table(
        {
            "backend": ("backend", 12, "s"),
            "keras_ms": ("keras ms", 10, ".0f"),
            "smkd_ms": ("keras_smkd ms", 15, ".1f"),
            "loaded": ("  top-level modules loaded", 40, "s"),
        }
    )
    for backend in BACKENDS:
        run(backend)  # Writes the byte code.
    found = {backend: [] for backend in BACKENDS}
    for _ in range(arguments.rounds):
        for backend in BACKENDS:
            found[backend].append(run(backend))
    for backend, runs in found.items():
        table.add(
            backend=backend,
            keras_ms=1000 * statistics.median(run[0] for run in runs),
            smkd_ms=1000 * statistics.median(run[1] for run in runs),
            loaded="  " + ", ".join(runs[0][2]),
        )
    table.write(arguments.json, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
