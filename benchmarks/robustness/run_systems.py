"""Trains every system of the room `methods` on digits: as it is, and tuned.

    KERAS_BACKEND=jax python benchmarks/robustness/run_systems.py \
        --out runs --workers 2 > table.md

First with the defaults and fresh seeds; then every system gets as many trials
with a seed of their own, the best by the noisy validation labels is chosen and
trained with the fresh seeds. One line of JSON a run; what has a line is not run
again. The table on standard output, which `docs/methods.md` has, is made of the
lines; `--table` runs nothing before it, and `--keep FOLDER` packs the lines.

Accuracy is that on clean test labels after the last epoch, and after the best
one by those labels, which cannot be chosen: the mean over the seeds with its
standard deviation. Systems of two peers are read out as their ensemble.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import statistics
import sys
import time
import traceback

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import data
import keras
import numpy as np
import pools
import records
import systems
import training
import trials
from absl import app
from absl import flags

FLAGS = flags.FLAGS
DEFAULT_RATE = 0.001
NOISES = ("symmetric:0.4", "asymmetric:0.4")


class Accuracies(keras.callbacks.Callback):
    """Measures accuracy on held-out data after every epoch of a stage.

    Args:
        x: Inputs, those of validation first.
        validation_labels: Their labels, some of them wrong.
        test_labels: Clean labels of the rest.
    """

    def __init__(self, x, validation_labels, test_labels):
        super().__init__()
        self.x = x
        self.labels = np.concatenate([validation_labels, test_labels])
        self.count = len(validation_labels)
        self.epochs = {}

    def on_train_begin(self, logs=None):
        self.epochs = {"validation_ensemble": [], "test_ensemble": []}

    def on_epoch_end(self, epoch, logs=None):
        probs = self.model.predict(self.x, batch_size=512, verbose=0)
        right = probs.argmax(axis=-1) == self.labels
        parts = (right[: self.count], right[self.count :])
        for values, part in zip(self.epochs.values(), parts, strict=True):
            values.append(round(float(np.mean(part)), 6))


def define_flags():
    """Define the flags: not at import, since other scripts have the same."""
    flags.DEFINE_string("out", "runs", "Folder of the lines, runs*.jsonl.")
    flags.DEFINE_list("systems", [], "Which; by default all of them.")
    flags.DEFINE_list("noises", list(NOISES), "Kinds and rates.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Fresh seeds.")
    flags.DEFINE_integer("trials", 8, "Trials of a system.", 1)
    flags.DEFINE_integer("epochs", 100, "Epochs of a training.", 1)
    flags.DEFINE_integer("batch_size", 64, "Examples per step.", 1)
    flags.DEFINE_integer("workers", 1, "Processes.", 1)
    flags.DEFINE_string("compile_cache", None, "Folder of JAX's compilations.")
    flags.DEFINE_bool("table", False, "Only make the table of what is there.")
    flags.DEFINE_string("keep", None, "Folder to pack the lines into.")


def execute(config):
    """Return the record of a run: its configuration and what it measured."""
    split = data.load(
        {**config, "examples": 0, "test_examples": 500, "fresh_test": True},
        pools.Places(None, None, None),
    )
    start = time.perf_counter()
    keras.utils.clear_session()
    keras.utils.set_random_seed(config["seed"])
    inputs = split.inputs.reshape(len(split.inputs), -1)
    count = split.sizes[0]
    watch = Accuracies(
        inputs[count:], split.validation_labels, split.test_labels
    )
    kind, rate = data.parse_noise(config["noise"])
    knobs = dict(config["knobs"])
    setting = systems.Setting(
        x=inputs[:count],
        y=split.noisy_labels,
        # What a user might know, and not what is true to the digit.
        noise_rate=rate if kind == "symmetric" else rate / 2,
        noise=kind,
        epochs=config["epochs"],
        batch_size=config["batch_size"],
        learning_rate=knobs.pop("learning_rate"),
        watch=watch,
        knobs=knobs,
    )
    systems.SYSTEMS[config["method"]](setting)
    wrong = float(np.mean(split.noisy_labels != split.clean_labels))
    return {
        "config": config,
        "noise_rate": round(wrong, 4),
        "epochs": watch.epochs,
        "seconds": round(time.perf_counter() - start, 1),
    }


def try_to_execute(config):
    """Return the record of a run, or of its error."""
    try:
        return execute(config)
    except Exception as error:
        traceback.print_exc()
        return {"config": config, "error": f"{type(error).__name__}: {error}"}


def score(record):
    """Return by what trials are chosen: the ensemble on noisy labels."""
    values = record["epochs"]["validation_ensemble"]
    return statistics.mean(values[-records.CHOICE_EPOCHS :])


def untuned(problems, seeds):
    """Return the configurations of problems at the defaults."""
    knobs = {"learning_rate": DEFAULT_RATE}
    return [
        {**problem, "knobs": knobs, "seed": seed}
        for problem in problems
        for seed in seeds
    ]


def tried(problem, count):
    """Return the configurations of the trials of a problem."""
    drawn = trials.draw_trials(
        systems.KNOBS.get(problem["method"], {}),
        count,
        trials.LEARNING_RATES["adam"],
    )
    seed = records.TUNING_SEED
    return [{**problem, "knobs": knobs, "seed": seed} for knobs in drawn]


def tuned(problems, seeds, count, done):
    """Return the configurations of the best trials, with fresh seeds.

    Problems of which trials are missing are left out.
    """
    found = {records.key_of(r["config"]): r for r in done if "error" not in r}
    configs = []
    for problem in problems:
        keys = [records.key_of(trial) for trial in tried(problem, count)]
        if all(key in found for key in keys):
            best = max((found[key] for key in keys), key=score)
            knobs = best["config"]["knobs"]
            configs += [
                {**problem, "knobs": knobs, "seed": seed} for seed in seeds
            ]
    return configs


def execute_all(configs, path):
    """Run the configurations, and append each record as it comes."""
    with concurrent.futures.ProcessPoolExecutor(
        FLAGS.workers,
        # A process with threads must not be forked.
        multiprocessing.get_context("spawn"),
        training.settle,
        (FLAGS.compile_cache,),
    ) as pool:
        for i, record in enumerate(pool.map(try_to_execute, configs), start=1):
            records.append(path, record)
            config = record["config"]
            outcome = record.get("error") or f"{record['seconds']} s"
            print(
                f"{i}/{len(configs)}: {config['method']} {config['noise']} "
                f"{config['knobs']} seed {config['seed']}: {outcome}",
                file=sys.stderr,
                flush=True,
            )


def table(done, as_they_are, chosen):
    """Return the table of accuracies, as lines of Markdown.

    Args:
        done: Records.
        as_they_are: Configurations at the defaults.
        chosen: Configurations of the best trials.
    """
    found = {records.key_of(r["config"]): r for r in done if "error" not in r}

    def cell(configs, name, noise, read):
        keys = [
            records.key_of(config)
            for config in configs
            if (config["method"], config["noise"]) == (name, noise)
        ]
        accuracies = [
            100 * read(found[key]["epochs"]["test_ensemble"])
            for key in keys
            if key in found
        ]
        if len(accuracies) < 2:
            return "-"
        spread = statistics.stdev(accuracies)
        return f"{statistics.mean(accuracies):.1f} ± {spread:.1f}"

    def last(values):
        return values[-1]

    noises = list(dict.fromkeys(config["noise"] for config in as_they_are))
    header = [f"{noise}, last | best | tuned, last" for noise in noises]
    lines = [
        "| system | " + " | ".join(header) + " |",
        "|---|" + "---|---|---|" * len(noises),
    ]
    for name in dict.fromkeys(config["method"] for config in as_they_are):
        cells = [f"`{name}`"]
        for noise in noises:
            cells += [
                cell(as_they_are, name, noise, last),
                cell(as_they_are, name, noise, max),
                cell(chosen, name, noise, last),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main(_):
    folder = pathlib.Path(FLAGS.out)
    seeds = [int(seed) for seed in FLAGS.seeds]
    problems = [
        {
            "dataset": "digits",
            "method": name,
            "noise": noise,
            "epochs": FLAGS.epochs,
            "batch_size": FLAGS.batch_size,
            "backend": keras.backend.backend(),
        }
        for noise in FLAGS.noises
        for name in FLAGS.systems or systems.SYSTEMS
    ]
    count = FLAGS.trials
    phases = {
        "at the defaults": lambda done: untuned(problems, seeds),
        "trials": lambda done: [
            trial for problem in problems for trial in tried(problem, count)
        ],
        "tuned": lambda done: tuned(problems, seeds, count, done),
    }
    for phase, make_configs in phases.items():
        done = records.read(records.files(folder))
        left = records.left_to_run(make_configs(done), done, 0, 1)
        if left and not FLAGS.table:
            print(f"{phase}: {len(left)} runs left.", file=sys.stderr)
            execute_all(left, folder / "runs.jsonl")
    done = records.read(records.files(folder))
    chosen = tuned(problems, seeds, count, done)
    print("\n".join(table(done, untuned(problems, seeds), chosen)))
    if FLAGS.keep:
        records.keep(done, pathlib.Path(FLAGS.keep))


if __name__ == "__main__":
    define_flags()
    app.run(main)
