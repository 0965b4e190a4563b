"""Tunes and trains every method at every noise; one line of JSON a run.

    KERAS_BACKEND=jax python benchmarks/robustness/run.py --out runs \
        --dataset digits --workers 2
    python benchmarks/robustness/report.py --out runs

First every method gets the same number of trials with one seed, and the best
by the noisy validation labels is chosen; then it is trained with fresh seeds.
What is in the file already is not run again: interrupt it, start it again, add
methods or seeds. `--list` counts the runs that are left and starts none.
"""

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import pathlib
import sys
import time
import traceback

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if os.environ["KERAS_BACKEND"] == "torch":
    # Before TensorFlow: the other order can crash.
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401

import data
import keras
import methods
import pools
import records
import training
import trials
from absl import app
from absl import flags

# For two CPU cores; the flags of the same names overrule.
DEFAULTS = {
    "digits": {
        "examples": 0,
        "test_examples": 500,
        "net": "mlp_256",
        "epochs": 100,
        "batch_size": 64,
        "measure_every": 1,
    },
    "fashion": {
        "examples": 3600,
        "test_examples": 1000,
        "net": "mlp_256",
        "epochs": 50,
        "batch_size": 128,
        "measure_every": 1,
    },
    "cifar10": {
        "examples": 5000,
        "test_examples": 2000,
        "net": "patch_32",
        "epochs": 30,
        "batch_size": 64,
        "measure_every": 3,
    },
    **{
        name: {
            "examples": 0,
            "test_examples": 0,
            "net": "mlp_256",
            "epochs": 50,
            "batch_size": 128,
            "measure_every": 1,
        }
        for name in ("pairs20", "pairs100")
    },
}
NOISES = (
    "none",
    "symmetric:0.2",
    "symmetric:0.4",
    "symmetric:0.6",
    "asymmetric:0.4",
    "pair:0.4",
    "instance:0.4",
)
HUMAN_NOISES = ("human:worst", "human:aggregate")
CEILING = "cross_entropy"

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "runs", "Folder of the lines, runs*.jsonl.")
flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data sets.")
flags.DEFINE_string("human_labels", None, "CIFAR-10N's labels, an .npz file.")
flags.DEFINE_string("fashion_dir", None, "Folder of Fashion-MNIST's idx files.")
flags.DEFINE_string("cifar_dir", None, "Folder of CIFAR-10's binary files.")
# What is compared.
flags.DEFINE_list("methods", [], "Methods; by default all of them.")
flags.DEFINE_list("noises", [], "Such as pair:0.4,human:worst; default: all.")
flags.DEFINE_enum("phase", "all", ["tune", "final", "all"], "Which runs.")
flags.DEFINE_integer("trials", 8, "Trials of each method.", 1)
flags.DEFINE_integer("tuning_seed", records.TUNING_SEED, "Their seed.", 0)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Fresh seeds of the chosen trial.")
flags.DEFINE_list("learning_rates", [], "To try; default: by the optimizer.")
# What is trained. None: as DEFAULTS has it.
flags.DEFINE_enum("dataset", "digits", list(DEFAULTS), "Data set.")
flags.DEFINE_integer("examples", None, "Examples but for a test set's; 0: all.")
flags.DEFINE_alias("fashion_examples", "examples")
flags.DEFINE_integer("test_examples", None, "Test examples; 0: all there are.")
flags.DEFINE_string("net", None, "Network, see networks.py; a+b: by turns.")
flags.DEFINE_integer("epochs", None, "Epochs of every run.")
flags.DEFINE_integer("peers", 2, "Peers, where there are several.", 2)
flags.DEFINE_integer("batch_size", None, "Examples per step.", 1)
flags.DEFINE_enum("optimizer", "adam", ["adam", "sgd"], "Optimizer.")
flags.DEFINE_enum("schedule", "constant", ["constant", "cosine"], "Its rate.")
flags.DEFINE_float("weight_decay", 0.0, "Of the optimizer.", 0.0)
flags.DEFINE_enum("augment", "none", ["none", "flip_crop"], "Augmentation.")
flags.DEFINE_integer("measure_every", None, "Epochs between measurements.", 1)
flags.DEFINE_string(
    "imbalance", "none", "none, or such as half:0.3 or long_tailed:10."
)
flags.DEFINE_float(
    "validation_fraction",
    data.VALIDATION_FRACTION,
    "Of the examples; 0 where nothing is chosen.",
    0.0,
    0.9,
)
flags.DEFINE_string("policy", "float32", "Dtype policy, as mixed_bfloat16.")
flags.DEFINE_bool("fresh_test", True, "Whether seeds draw the test examples.")
# How it is run.
flags.DEFINE_integer("workers", 1, "Processes.", 1)
flags.DEFINE_string("shard", "0/1", "i/n: every n-th run, from the i-th.")
flags.DEFINE_string("compile_cache", None, "Folder of JAX's compilations.")
flags.DEFINE_string(
    "backups", None, "Folder from which a run that was cut short goes on."
)
flags.DEFINE_string("again", None, "A line's config, as JSON: run only that.")
flags.DEFINE_bool("list", False, "Count the runs that are left; run none.")


def common_config():
    """Return what all runs have in common."""
    config = {
        name: getattr(FLAGS, name)
        for name in (
            "dataset",
            "peers",
            "optimizer",
            "schedule",
            "weight_decay",
            "augment",
        )
    }
    # Lines without them are of balanced data, and of one test set for all;
    # without those further down, of the flags' defaults.
    if FLAGS.imbalance != "none":
        config["imbalance"] = FLAGS.imbalance
    if FLAGS.fresh_test:
        config["fresh_test"] = True
    for name in ("validation_fraction", "policy"):
        if getattr(FLAGS, name) != FLAGS[name].default:
            config[name] = getattr(FLAGS, name)
    for name, value in DEFAULTS[FLAGS.dataset].items():
        given = getattr(FLAGS, name)
        config[name] = value if given is None else given
    return {**config, "backend": keras.backend.backend()}


def comparisons():
    """Return the pairs `(noise, method)`, that of the ceiling first."""
    data.parse_imbalance(FLAGS.imbalance)
    noises = FLAGS.noises or [*NOISES]
    if not FLAGS.noises and FLAGS.human_labels:
        noises += HUMAN_NOISES
    for noise in noises:
        data.parse_noise(noise)
    names = FLAGS.methods or list(methods.METHODS)
    for name in names:
        if name not in methods.METHODS:
            sys.exit(
                f"There is no method {name!r}; there are "
                f"{', '.join(methods.METHODS)}."
            )
    pairs = [("none", CEILING)]
    pairs += [(noise, name) for noise in noises for name in names]
    return list(dict.fromkeys(pairs))


def trial_configs(common):
    """Return the configurations of the trials."""
    rates = tuple(float(rate) for rate in FLAGS.learning_rates)
    rates = rates or trials.LEARNING_RATES[FLAGS.optimizer]
    return [
        {
            **common,
            "noise": noise,
            "method": name,
            "knobs": knobs,
            "seed": FLAGS.tuning_seed,
        }
        for noise, name in comparisons()
        for knobs in trials.draw_trials(
            methods.METHODS[name].knobs, FLAGS.trials, rates
        )
    ]


def final_configs(common, done):
    """Return the configurations with fresh seeds, of what has been tuned."""
    seeds = [int(seed) for seed in FLAGS.seeds]
    if FLAGS.tuning_seed in seeds:
        sys.exit(f"--seeds must be fresh, without {FLAGS.tuning_seed}.")
    # Of the trials that these flags name, if there are others.
    tried = {records.key_of(config) for config in trial_configs(common)}
    best = records.choose(
        [r for r in done if records.key_of(r["config"]) in tried],
        FLAGS.tuning_seed,
    )
    return [
        {**record["config"], "seed": seed}
        for record in best.values()
        for seed in seeds
    ]


def try_to_execute(config, places, backups):
    """Return the record of a run, or of its error."""
    try:
        return training.execute(config, places, backups)
    except Exception as error:
        traceback.print_exc()
        return {"config": config, "error": f"{type(error).__name__}: {error}"}


def execute_all(configs, places, path):
    """Run the configurations, and append each record as it comes."""
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        if FLAGS.workers == 1:
            training.settle(FLAGS.compile_cache)
            results = (
                try_to_execute(config, places, FLAGS.backups)
                for config in configs
            )
        else:
            pool = stack.enter_context(
                concurrent.futures.ProcessPoolExecutor(
                    FLAGS.workers,
                    # A process with threads must not be forked.
                    multiprocessing.get_context("spawn"),
                    training.settle,
                    (FLAGS.compile_cache,),
                )
            )
            futures = [
                pool.submit(try_to_execute, config, places, FLAGS.backups)
                for config in configs
            ]
            stack.callback(pool.shutdown, cancel_futures=True)
            results = (
                future.result()
                for future in concurrent.futures.as_completed(futures)
            )
        for number, record in enumerate(results, start=1):
            records.append(path, record)
            minutes = (time.perf_counter() - start) / 60
            print(
                f"{number}/{len(configs)} in {minutes:.1f} min: "
                f"{describe(record)}",
                flush=True,
            )


def describe(record):
    """Return a record in a line."""
    config = record["config"]
    text = (
        f"{config['dataset']} {config['noise']} {config['method']} "
        f"{config['knobs']} seed {config['seed']}: "
    )
    if "error" in record:
        return text + record["error"].splitlines()[0]
    epochs = record["epochs"]
    return text + (
        f"test {100 * epochs['test_ensemble'][-1]:.1f} %, "
        f"{record['seconds']:.1f} s"
    )


def main(_):
    folder = pathlib.Path(FLAGS.out)
    shard = [int(number) for number in FLAGS.shard.split("/")]
    places = pools.Places(
        FLAGS.data_dir, FLAGS.human_labels, FLAGS.fashion_dir, FLAGS.cifar_dir
    )
    if FLAGS.again is not None:
        training.settle(FLAGS.compile_cache)
        config = json.loads(FLAGS.again)
        print(json.dumps(training.execute(config, places)))
        return
    common = common_config()
    phases = {
        "tune": lambda done: trial_configs(common),
        "final": lambda done: final_configs(common, done),
    }
    for phase, make_configs in phases.items():
        if FLAGS.phase not in (phase, "all"):
            continue
        done = records.read(records.files(folder))
        configs = make_configs(done)
        left = records.left_to_run(configs, done, *shard)
        print(f"{phase}: {len(configs)} runs, {len(left)} left to run here.")
        if not FLAGS.list:
            execute_all(left, places, folder / "runs.jsonl")


if __name__ == "__main__":
    app.run(main)
