"""Figures of what happens over the epochs."""

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PANELS = {
    "test_peer": "test accuracy of a peer",
    "memorized_peer": "wrong labels memorised",
    "selection_rate": "knowledge selected",
    "selection_precision": "selected knowledge that is right",
}


def draw_epochs(by_method, noise, methods, path):
    """Draw mean and range over the seeds, a panel for each measurement.

    Args:
        by_method: `{method: [record, ...]}`.
        noise: The noise, for the title.
        methods: Which methods to draw; those without runs are left out.
        path: The file to write.
    """
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), sharex=True)
    for axis, (name, title) in zip(axes.flat, PANELS.items(), strict=True):
        for number, method in enumerate(methods):
            runs = by_method.get(method, [])
            if not runs or any(name not in run["epochs"] for run in runs):
                continue
            values = 100.0 * np.array(
                [run["epochs"][name] for run in runs], dtype=float
            )
            if np.isnan(values).all():
                continue
            epochs = runs[0]["epochs"]["epoch"]
            shown = np.ma.masked_invalid(values)
            color = f"C{number}"
            axis.plot(epochs, shown.mean(axis=0), color=color, label=method)
            axis.fill_between(
                epochs,
                shown.min(axis=0),
                shown.max(axis=0),
                color=color,
                alpha=0.15,
                linewidth=0,
            )
        axis.set_title(f"{title}, %")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4)
    figure.suptitle(noise)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(path, dpi=75)
    plt.close(figure)
