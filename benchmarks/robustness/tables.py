"""The numbers of the tables: mean and spread over seeds, gap recovered."""

import statistics

CEILING = "cross_entropy"
LEGEND = (
    "Accuracies on clean test labels in %, mean ± standard deviation over the "
    "seeds: *peer* is the mean of the peers, *ensemble* their averaged "
    "probabilities. *Last* is the last epoch; *stopped* is the epoch best by "
    "noisy validation labels; *best* is the best epoch, **chosen on the test "
    "labels**, which no one can do. *Gap* is (method - cross entropy on noisy "
    "labels) / (cross entropy on clean labels - cross entropy on noisy labels) "
    "at the last epoch, in %. *Cost* is in epochs of one network, of what a "
    "peer or an ensemble needs."
)


def last(run, name):
    """Return a run's measurement at the last epoch, in %."""
    return 100.0 * run["epochs"][name][-1]


def best(run, name):
    """Return a run's largest measurement, in %."""
    return 100.0 * max(run["epochs"][name])


def stopped(run, output):
    """Return test accuracy where noisy validation accuracy is largest, in %.

    Of equal epochs, the first.

    Args:
        run: A record.
        output: `"peer"` or `"ensemble"`.
    """
    epochs = run["epochs"]
    validation = epochs[f"validation_{output}"]
    return 100.0 * epochs[f"test_{output}"][validation.index(max(validation))]


def mean_and_spread(values):
    """Return `"mean ± standard deviation"`; `"-"` where a value is missing."""
    values = list(values)
    if not values or None in values:
        return "-"
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.1f}"
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}"


def gap_recovered(value, noisy, clean):
    """Return `100 (value - noisy) / (clean - noisy)`.

    `None` where there is hardly a gap, less than one percent point.

    Args:
        value: Accuracy of a method, in %.
        noisy: That of the cross entropy on noisy labels.
        clean: That of the cross entropy on clean labels.
    """
    if clean - noisy < 1.0:
        return None
    return 100.0 * (value - noisy) / (clean - noisy)


def paired_differences(runs, others):
    """Return the last accuracies' differences, seed by seed, of a peer.

    Seeds that only one of the two has are left out.
    """
    values = {run["config"]["seed"]: last(run, "test_peer") for run in others}
    return [
        last(run, "test_peer") - values[run["config"]["seed"]]
        for run in runs
        if run["config"]["seed"] in values
    ]


def costs(run):
    """Return the network-epochs that a peer and the ensemble need."""
    ensemble = run["peers"] * run["config"]["epochs"]
    shares_nothing = run["shares_nothing"]
    return run["config"]["epochs"] if shares_nothing else ensemble, ensemble


def reference(by_noise, noise):
    """Return the cross entropy's last accuracy: at a noise, without noise.

    `None` where there are no such runs.
    """
    found = []
    for name in (noise, "none"):
        runs = by_noise.get(name, {}).get(CEILING, [])
        values = [last(run, "test_peer") for run in runs]
        found.append(statistics.fmean(values) if values else None)
    return found


def mean_gap(runs, output, noisy, clean):
    """Return the gap that the mean over the seeds recovers, as text."""
    if noisy is None or clean is None:
        return "-"
    mean = statistics.fmean(last(run, f"test_{output}") for run in runs)
    gap = gap_recovered(mean, noisy, clean)
    return "-" if gap is None else f"{gap:.0f}"


def over_time(runs, name):
    """Return the mean at the first, middle and last measurement, in %."""
    series = [run["epochs"].get(name) for run in runs]
    if any(values is None for values in series):
        return "-"
    texts = []
    for place in (0, len(series[0]) // 2, -1):
        values = [values[place] for values in series]
        values = [100.0 * value for value in values if value is not None]
        texts.append(f"{statistics.fmean(values):.0f}" if values else "-")
    return " → ".join(texts)


def row(*cells):
    """Return a row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def header(*names):
    """Return the two lines above a table's rows."""
    return [row(*names), "|---" * len(names) + "|"]


def knobs_of(run):
    """Return the chosen knobs as text."""
    return ", ".join(f"{k} {v}" for k, v in run["config"]["knobs"].items())


def of_noise(by_noise, noise, against):
    """Return the lines of one noise: accuracies, then what happened inside.

    Args:
        by_noise: `{noise: {method: [record, ...]}}`.
        noise: Which.
        against: Method of the paired differences.
    """
    by_method = by_noise[noise]
    noisy, clean = reference(by_noise, noise)
    rates = [100.0 * r["noise_rate"] for rs in by_method.values() for r in rs]
    lines = [
        f"## {noise}: {min(rates):.1f} to {max(rates):.1f} % of the labels "
        "wrong",
        "",
        *header(
            "method",
            "seeds",
            "cost: peer, ensemble",
            "last: peer",
            "last: ensemble",
            "stopped: peer",
            "stopped: ensemble",
            "best: peer",
            "best: ensemble",
            "gap: peer",
            "gap: ensemble",
            f"peer - {against}",
        ),
    ]
    for method, runs in by_method.items():
        differences = paired_differences(runs, by_method.get(against, []))
        lines.append(
            row(
                method,
                len(runs),
                ", ".join(map(str, costs(runs[0]))),
                *(
                    mean_and_spread(measure(run) for run in runs)
                    for measure in (
                        lambda run: last(run, "test_peer"),
                        lambda run: last(run, "test_ensemble"),
                        lambda run: stopped(run, "peer"),
                        lambda run: stopped(run, "ensemble"),
                        lambda run: best(run, "test_peer"),
                        lambda run: best(run, "test_ensemble"),
                    )
                ),
                mean_gap(runs, "peer", noisy, clean),
                mean_gap(runs, "ensemble", noisy, clean),
                mean_and_spread(differences),
            )
        )
    lines += [
        "",
        "In %: wrong labels memorised and seen through (the clean label "
        "predicted) by a peer at the last epoch; knowledge selected and the "
        "share of it that is right, labels that a gate drops and the share of "
        "them that are wrong, in the first, middle and last epoch; expected "
        "calibration error.",
        "",
        *header(
            "method",
            "memorised",
            "seen through",
            "selected",
            "right",
            "dropped",
            "wrong",
            "ECE: peer",
            "ECE: ensemble",
            "CPU s",
            "chosen",
        ),
    ]
    for method, runs in by_method.items():
        wrong = [run for run in runs if run["noise_rate"] > 0]
        lines.append(
            row(
                method,
                mean_and_spread(last(r, "memorized_peer") for r in wrong),
                mean_and_spread(last(r, "corrected_peer") for r in wrong),
                over_time(runs, "selection_rate"),
                over_time(runs, "selection_precision"),
                over_time(runs, "gate_rate"),
                over_time(runs, "gate_precision"),
                *(
                    mean_and_spread(
                        None if r[name] is None else 100.0 * r[name]
                        for r in runs
                    )
                    for name in ("ece_peer", "ece_ensemble")
                ),
                f"{statistics.median(r['cpu_seconds'] for r in runs):.1f}",
                knobs_of(runs[0]),
            )
        )
    return lines


def summary(by_noise):
    """Return the lines of the table of all methods at all noises."""
    methods = list(
        dict.fromkeys(name for found in by_noise.values() for name in found)
    )
    lines = [
        LEGEND,
        "",
        "Last epoch, a peer (ensemble), and the gap that a peer recovers:",
        "",
        *header("method", *by_noise),
    ]
    for method in methods:
        cells = []
        for noise, by_method in by_noise.items():
            runs = by_method.get(method)
            if runs is None:
                cells.append("-")
                continue
            peer = mean_and_spread(last(run, "test_peer") for run in runs)
            ensemble = statistics.fmean(
                last(run, "test_ensemble") for run in runs
            )
            gap = mean_gap(runs, "peer", *reference(by_noise, noise))
            cells.append(f"{peer} ({ensemble:.1f}), {gap}")
        lines.append(row(method, *cells))
    return lines
