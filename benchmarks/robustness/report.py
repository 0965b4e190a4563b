"""Tables and figures from the lines of runs.

    python benchmarks/robustness/report.py --out runs

Writes `report.md` and the figures beside the lines. Only runs with fresh seeds
are shown, of the trial that did best on the noisy validation labels; methods
that lose stay in.
"""

import json
import pathlib
import statistics
import sys

import records
import tables
from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "runs", "Folder of the lines, runs*.jsonl.")
flags.DEFINE_string("keep", None, "Only pack the lines, into this folder.")
flags.DEFINE_integer("tuning_seed", records.TUNING_SEED, "Of the trials.", 0)
flags.DEFINE_string("against", "independent", "Method of paired differences.")
flags.DEFINE_list("curves", [], "Methods in the figures of epochs; default: 7.")
flags.DEFINE_bool("figures", True, "Whether to draw figures.")

NOISES = ("none", "symmetric", "asymmetric", "pair", "instance", "human")
CURVES = (
    "cross_entropy",
    "independent",
    "all_knowledge",
    "smkd_s",
    "smkd_p_tightening",
    "smkd_p_loosening",
    "oracle",
)


def final_runs(found, tuning_seed):
    """Return the runs with fresh seeds of each chosen trial.

    Args:
        found: Records.
        tuning_seed: Seed of the trials.

    Returns:
        From a problem to `{noise: {method: [record, ...]}}`: noises and
        methods in the order of their tables, records in that of the seeds.
    """
    chosen = records.choose(found, tuning_seed)
    problems = {}
    for record in found:
        config = record["config"]
        if "error" in record or config["seed"] == tuning_seed:
            continue
        problem = records.problem_of(config)
        best = chosen.get((problem, config["noise"], config["method"]))
        if best is None or best["config"]["knobs"] != config["knobs"]:
            continue
        by_method = problems.setdefault(problem, {}).setdefault(
            config["noise"], {}
        )
        by_method.setdefault(config["method"], []).append(record)
    return {
        problem: {
            noise: {
                method: sorted(runs, key=lambda run: run["config"]["seed"])
                for method, runs in sorted(by_method.items(), key=_place)
            }
            for noise, by_method in sorted(by_noise.items(), key=_noise_place)
        }
        for problem, by_noise in sorted(problems.items())
    }


def _place(item):
    method, runs = item
    return runs[-1]["row"], method


def _noise_place(item):
    kind, _, rate = item[0].partition(":")
    return NOISES.index(kind), rate


def trials_of(found, problem, tuning_seed):
    """Return the trials' records, `{(noise, method): [record, ...]}`."""
    trials = {}
    for record in found:
        config = record["config"]
        if "error" in record or config["seed"] != tuning_seed:
            continue
        if records.problem_of(config) == problem:
            place = (config["noise"], config["method"])
            trials.setdefault(place, []).append(record)
    return trials


def numbers_of_trials(trials):
    """Return the line that says how many trials each method had."""
    rows = {}
    for (noise, method), runs in trials.items():
        rows.setdefault(len(runs), []).append(f"{method} at {noise}")
    if len(rows) == 1:
        return f"Every method was tuned by {next(iter(rows))} trials."
    return "**Not every method was tuned by as many trials.** " + " ".join(
        f"{count}: {', '.join(sorted(names))}."
        for count, names in sorted(rows.items())
    )


def rates_at_an_end(by_noise, trials):
    """Return the line that counts the least and the largest learning rates.

    Where one of them is chosen, a better one may lie beyond those tried.
    """
    chosen = []
    for noise, by_method in by_noise.items():
        for method, runs in by_method.items():
            tried = [_rate(trial) for trial in trials[noise, method]]
            chosen.append((_rate(runs[0]), min(tried), max(tried)))
    least = sum(rate == low for rate, low, _ in chosen)
    most = sum(rate == high for rate, _, high in chosen)
    return (
        f"The chosen learning rate is the least of those tried in {least} and "
        f"the largest in {most} of {len(chosen)} rows."
    )


def _rate(run):
    return run["config"]["knobs"]["learning_rate"]


def heading(problem, by_noise, trials):
    """Return the lines that say what was run."""
    config = json.loads(problem)
    runs = [r for m in by_noise.values() for rs in m.values() for r in rs]
    train, validation, test = runs[0]["sizes"]
    versions = sorted(
        {
            ", ".join(f"{k} {v}" for k, v in run["versions"].items())
            for run in runs
        }
    )
    lines = [
        f"# {config['dataset']}, {config['net']}, {config['backend']}",
        "",
        f"{train} examples to train on, {validation} to choose trials by "
        f"(noisy labels), {test} to test on (clean); "
        f"{runs[0]['weights']} weights a peer, {config['epochs']} epochs, "
        f"batch {config['batch_size']}, {config['optimizer']}, "
        f"{config['schedule']} learning rate, augmentation "
        f"{config['augment']}. {'; '.join(versions)}.",
        "",
    ]
    seconds = statistics.median(run["cpu_seconds"] for run in runs)
    return [
        *lines,
        numbers_of_trials(trials),
        "",
        rates_at_an_end(by_noise, trials),
        "",
        f"A run took {seconds:.1f} s of CPU (median).",
    ]


def write_report(folder, found, tuning_seed, against, curves):
    """Write `report.md`, and figures of the given methods, if any."""
    lines = []
    problems = final_runs(found, tuning_seed)
    for number, (problem, by_noise) in enumerate(problems.items()):
        trials = trials_of(found, problem, tuning_seed)
        lines += heading(problem, by_noise, trials)
        lines += ["", *tables.summary(by_noise)]
        for noise, by_method in by_noise.items():
            lines += ["", *tables.of_noise(by_noise, noise, against)]
            if sum(method in by_method for method in curves) > 1:
                import figures

                name = f"epochs-{number}-{noise.replace(':', '-')}.png"
                figures.draw_epochs(by_method, noise, curves, folder / name)
                lines += ["", f"![Over the epochs, {noise}]({name})"]
        lines += [""]
    errors = [record for record in found if "error" in record]
    if errors:
        lines += [f"# {len(errors)} runs failed", ""]
        lines += [
            f"- {records.key_of(r['config'])}: {r['error']}" for r in errors
        ]
    text = "\n".join(lines).rstrip() + "\n"
    (folder / "report.md").write_text(text)
    return text


def main(_):
    folder = pathlib.Path(FLAGS.out)
    found = records.read(records.files(folder))
    if not found:
        sys.exit(f"There are no runs in {folder}: give another --out.")
    if FLAGS.keep is not None:
        records.keep(found, pathlib.Path(FLAGS.keep), FLAGS.tuning_seed)
        return
    curves = tuple(FLAGS.curves or CURVES) if FLAGS.figures else ()
    print(write_report(folder, found, FLAGS.tuning_seed, FLAGS.against, curves))


if __name__ == "__main__":
    app.run(main)
