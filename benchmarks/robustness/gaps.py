"""Prints what methods recover at their defaults, from lines of `run.py`.

    python benchmarks/robustness/gaps.py benchmarks/robustness/results/defaults

Rows of untuned runs: test accuracy in % of a peer after the last epoch, mean
and standard deviation over the seeds, in brackets the mean of the best epoch
(which the test labels choose). The gap is
`(method - cross entropy) / (cross entropy on clean labels - cross entropy)`, of
the means. `p` is that of a paired t-test, seed by seed, against `smkd_default`.
"""

import collections
import pathlib
import statistics

import records
import tables
from absl import app
from scipy import stats

AGAINST = "smkd_default"
NOISES = ("symmetric:0.4", "asymmetric:0.4", "pair:0.4", "instance:0.4")


def by_seed(found):
    """Return `{(data set, imbalance): {(noise, method): {seed: record}}}`."""
    groups = collections.defaultdict(lambda: collections.defaultdict(dict))
    for record in found:
        config = record["config"]
        group = (config["dataset"], config.get("imbalance", "none"))
        row = (config["noise"], config["method"])
        groups[group][row][config["seed"]] = record
    return groups


def mean(runs):
    return statistics.fmean(tables.last(r, "test_peer") for r in runs.values())


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


def rows_of(rows):
    """Yield the cells of the table of one data set."""
    clean = mean(rows["none", tables.CEILING])
    methods = list(dict.fromkeys(method for _, method in rows))
    for method in methods:
        gaps = []
        for noise in (*NOISES, "none"):
            runs = rows.get((noise, method))
            if not runs:
                continue
            own = mean(runs)
            gap = ""
            if noise != "none":
                noisy = mean(rows[noise, tables.CEILING])
                gaps.append(100 * (own - noisy) / (clean - noisy))
                gap = f"{gaps[-1]:.0f}"
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
                f"{spread} ({best:.1f})",
                gap,
                p_value(runs, rows.get((noise, AGAINST), {})),
            )
        if len(gaps) == len(NOISES):
            mean_gap = f"{statistics.fmean(gaps):.1f}"
            yield (method, "mean of the four", "", "", "", mean_gap, "")


def table(found):
    """Return the lines of all tables."""
    lines = []
    for (dataset, imbalance), rows in sorted(by_seed(found).items()):
        lines += [f"## {dataset}, imbalance {imbalance}", ""]
        lines += tables.header(
            "method", "noise", "wrong %", "seeds", "last (best)", "gap %", "p"
        )
        lines += [tables.row(*cells) for cells in rows_of(rows)]
        lines += [""]
    return lines


def main(argv):
    folder = pathlib.Path(argv[1])
    found = records.read(records.files(folder))
    print("\n".join(table(found)).rstrip())


if __name__ == "__main__":
    app.run(main)
