"""Runs methods over a whole grid of knobs, with fresh seeds; prints the means.

    KERAS_BACKEND=jax python benchmarks/robustness/grid.py --out grid \
        --dataset digits --noises symmetric:0.4 \
        --methods smkd_p_loosening_gate \
        --grid '{"learning_rate": [0.001, 0.002], "distillation_weight": [1, 9],
            "scale": [0.5], "gate_agreement": [false]}'

Trials vary several knobs at once; here one can see what each does. The test
labels choose nothing: every cell is shown. Lines and flags are those of
`run.py`; with `--list` nothing is run, and what there is is shown.
"""

import itertools
import json
import pathlib
import sys

import pools
import records
import run
import tables
from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("grid", None, "JSON: from knobs to lists of values.")


def grid_configs(grid):
    """Return `{(noise, method, knobs as JSON): configurations by seed}`."""
    common = run.common_config()
    cells = {}
    for noise, method in run.comparisons():
        if method not in FLAGS.methods or noise not in FLAGS.noises:
            continue
        for values in itertools.product(*grid.values()):
            knobs = dict(zip(grid, values, strict=True))
            cells[noise, method, json.dumps(knobs)] = [
                {
                    **common,
                    "noise": noise,
                    "method": method,
                    "knobs": knobs,
                    "seed": int(seed),
                }
                for seed in FLAGS.seeds
            ]
    return cells


def main(_):
    if FLAGS.grid is None or not FLAGS.methods or not FLAGS.noises:
        sys.exit("Give --grid, --methods and --noises.")
    folder = pathlib.Path(FLAGS.out)
    places = pools.Places(FLAGS.data_dir, FLAGS.human_labels, FLAGS.fashion_dir)
    cells = grid_configs(json.loads(FLAGS.grid))
    configs = [config for cell in cells.values() for config in cell]
    done = records.read(records.files(folder))
    left = records.left_to_run(configs, done, 0, 1)
    if not FLAGS.list:
        run.execute_all(left, places, folder / "runs.jsonl")
    found = {
        records.key_of(record["config"]): record
        for record in records.read(records.files(folder))
        if "error" not in record
    }
    print(*tables.header("noise", "method", "knobs", "last: peer"), sep="\n")
    for (noise, method, knobs), cell in cells.items():
        runs = [found.get(records.key_of(config)) for config in cell]
        accuracy = tables.mean_and_spread(
            tables.last(record, "test_peer") for record in runs if record
        )
        print(tables.row(noise, method, knobs, accuracy))


if __name__ == "__main__":
    app.run(main)
