"""Prints what methods recover at their defaults, from lines of `run.py`.

    python benchmarks/robustness/gaps.py benchmarks/robustness/results/defaults
    python benchmarks/robustness/gaps.py --compared_with posterior FOLDER
    python benchmarks/robustness/gaps.py --figure gaps.png FOLDER

Rows of untuned runs: test accuracy in % of a peer after the last epoch, mean
and standard deviation over the seeds, in brackets the mean of the best epoch
(which the test labels choose), then half of the mean's 95 % confidence interval
by Student's t. The gap is
`(method - cross entropy) / (cross entropy on clean labels - cross entropy)`, of
the means. `below` counts the seeds that end below cross entropy with the same
seed: those that collapsed are among them. `p` is that of a paired t-test, seed
by seed, against `smkd_default` or the method of `--compared_with`.

The figure has the gaps of balanced data with all four kinds of noise, with
intervals of the same kind: of the method's own accuracy, while those of cross
entropy are taken as they are.
"""

import collections
import pathlib
import statistics

import matplotlib
import records
import tables
from absl import app
from absl import flags
from scipy import stats

matplotlib.use("Agg")
from matplotlib import pyplot as plt

flags.DEFINE_string("compared_with", "smkd_default", "What p is against.")
flags.DEFINE_string("figure", None, "File to draw the gaps to.")
# What is drawn, and what it is called there.
DRAWN = {
    "posterior": "posterior labels",
    "smkd_default": "SMKD-P, gate",
    "dml": "deep mutual learning",
    "early_learning": "early learning",
    "divide_mix": "DivideMix's labels",
    "svc_pruned": "support vectors, pruned",
    "knn_pruned": "10 neighbours, pruned",
}
NOISES = ("symmetric:0.4", "asymmetric:0.4", "pair:0.4", "instance:0.4")


def group_of(config):
    """Return what the runs of a table have in common, in words."""
    name, examples = config["dataset"], config["examples"]
    count = f"{examples} examples" if examples else "all examples"
    # Those of one data set may differ; the other data have `mlp_256`.
    if name == "cifar10":
        count = f"{count}, {config['net']}"
    imbalance = config.get("imbalance", "none")
    return f"{name} ({count}), imbalance {imbalance}"


def by_seed(found):
    """Return `{group: {(noise, method): {seed: record}}}`."""
    groups = collections.defaultdict(lambda: collections.defaultdict(dict))
    for record in found:
        config = record["config"]
        row = (config["noise"], config["method"])
        groups[group_of(config)][row][config["seed"]] = record
    return groups


def mean(runs):
    return statistics.fmean(tables.last(r, "test_peer") for r in runs.values())


def half_interval(runs):
    """Return half of the 95 % confidence interval of the mean, in %."""
    values = [tables.last(r, "test_peer") for r in runs.values()]
    error = statistics.stdev(values) / len(values) ** 0.5
    return float(stats.t.ppf(0.975, len(values) - 1)) * error


def count_below(runs, others):
    """Return how many seeds end below the same seed of others."""
    return sum(
        tables.last(runs[seed], "test_peer")
        < tables.last(others[seed], "test_peer")
        for seed in set(runs) & set(others)
    )


def p_value(runs, others):
    """Return the p of a paired t-test as text, "" where there is none."""
    seeds = sorted(set(runs) & set(others))
    if runs is others or len(seeds) < 2:
        return ""
    values = [
        [tables.last(own[seed], "test_peer") for seed in seeds]
        for own in (runs, others)
    ]
    return f"{stats.ttest_rel(*values).pvalue:.3f}"


def rows_of(rows, against):
    """Yield the cells of the table of one data set."""
    clean = mean(rows["none", tables.CEILING])
    methods = dict.fromkeys(method for _, method in rows)
    others = {noise for noise, _ in rows} - {*NOISES, "none"}
    for method in methods:
        gaps = {}
        for noise in (*NOISES, *sorted(others), "none"):
            runs = rows.get((noise, method))
            if not runs:
                continue
            own = mean(runs)
            gap = ""
            if noise != "none":
                noisy = mean(rows[noise, tables.CEILING])
                gaps[noise] = 100 * (own - noisy) / (clean - noisy)
                gap = f"{gaps[noise]:.0f}"
            best = statistics.fmean(
                tables.best(r, "test_peer") for r in runs.values()
            )
            rate = statistics.fmean(r["noise_rate"] for r in runs.values())
            spread = tables.mean_and_spread(
                tables.last(r, "test_peer") for r in runs.values()
            )
            yield (
                method,
                noise,
                f"{100 * rate:.1f}",
                str(len(runs)),
                str(count_below(runs, rows[noise, tables.CEILING])),
                f"{spread} ({best:.1f})",
                f"{half_interval(runs):.1f}" if len(runs) > 1 else "",
                gap,
                p_value(runs, rows.get((noise, against), {})),
            )
        if gaps.keys() >= set(NOISES):
            four = statistics.fmean(gaps[noise] for noise in NOISES)
            mean_gap = f"{four:.1f}"
            yield (method, "mean of the four", *[""] * 5, mean_gap, "")


def table(found, against="smkd_default"):
    """Return the lines of all tables."""
    lines = []
    for group, rows in sorted(by_seed(found).items()):
        lines += [f"## {group}", ""]
        lines += tables.header(
            "method",
            "noise",
            "wrong %",
            "seeds",
            "below",
            "last (best)",
            "± 95 %",
            "gap %",
            "p",
        )
        lines += [tables.row(*cells) for cells in rows_of(rows, against)]
        lines += [""]
    return lines


def draw(found):
    """Return a figure of the gaps: a panel a data set, a mark a method."""
    groups = {
        group.removesuffix(", imbalance none"): rows
        for group, rows in sorted(by_seed(found).items())
        if group.endswith("none")
        and all((noise, tables.CEILING) in rows for noise in NOISES)
    }
    figure, axes = plt.subplots(
        1,
        len(groups),
        figsize=(2 + 4 * len(groups), 3.6),
        sharey=True,
        squeeze=False,
    )
    for axis, (group, rows) in zip(axes[0], groups.items(), strict=True):
        clean = mean(rows["none", tables.CEILING])
        for number, (method, title) in enumerate(DRAWN.items()):
            if (NOISES[0], method) not in rows:
                continue
            points = []
            for place, noise in enumerate(NOISES):
                runs = rows[noise, method]
                noisy = mean(rows[noise, tables.CEILING])
                share = 100 / (clean - noisy)
                points.append(
                    (
                        place + 0.12 * (number - (len(DRAWN) - 1) / 2),
                        share * (mean(runs) - noisy),
                        share * half_interval(runs),
                    )
                )
            places, gaps, intervals = zip(*points, strict=True)
            axis.errorbar(
                places,
                gaps,
                intervals,
                fmt="o",
                capsize=3,
                color=f"C{number}",
                label=title,
            )
        axis.axhline(0.0, color="black", linewidth=0.8)
        axis.axhline(100.0, color="black", linewidth=0.8)
        axis.set_xticks(
            range(len(NOISES)), [n.partition(":")[0] for n in NOISES]
        )
        axis.set_xlim(-0.5, len(NOISES) - 0.5)
        axis.set_title(group)
        axis.set_ylim(-60, 120)
    axes[0, 0].set_ylabel("share of the gap recovered, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(DRAWN))
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return figure


def main(argv):
    folder = pathlib.Path(argv[1])
    found = records.read(records.files(folder))
    if flags.FLAGS.figure:
        draw(found).savefig(flags.FLAGS.figure, dpi=80)
        return
    print("\n".join(table(found, flags.FLAGS.compared_with)).rstrip())


if __name__ == "__main__":
    app.run(main)
