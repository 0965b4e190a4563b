"""Pictures of suspicious labels, noise and training, with matplotlib.

Each function returns a figure, which a notebook shows and `savefig` writes;
no window opens, and pyplot's own figures stay as they are.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd.data.optional import import_optional
from keras_smkd.report.shown import headline
from keras_smkd.report.shown import pixels
from keras_smkd.report.summaries import check_is_table
from keras_smkd.report.summaries import transition_matrix
from keras_smkd.report.table import SuspiciousLabels

# From which on cells of a matrix have no numbers: nobody could read them.
_MANY_CLASSES = 25
_WHITE_FROM = 0.6


def _figure(user: str, width: float, height: float) -> Any:
    figures = import_optional("matplotlib.figure", user, "pictures")
    return figures.Figure(figsize=(width, height), layout="constrained")


def plot_suspects(
    table: SuspiciousLabels, rows: int = 4, columns: int = 5
) -> Any:
    """Draw the most suspicious examples, with their labels and suggestions.

    Args:
        table: What `suspicious_labels` returned. It has the images of the 25
            most suspicious; if it has none, since inputs are no images, the
            figure is a table of indices, classes and scores.
        rows: Rows of images, at least 1.
        columns: Columns of images, at least 1.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
        TypeError: if `table` is none, or a number is no integer.
        ValueError: if a number is too small, or the table is empty.
    """
    check_is_table(table)
    rows = _checks.integer("rows", rows, minimum=1)
    columns = _checks.integer("columns", columns, minimum=1)
    if not len(table):
        raise ValueError("`table` must have an example. Received: none.")
    has_image = np.isin(table.index, list(table.images))
    if not has_image.any():
        return _listed(table[: rows * columns])
    shown = table[has_image][: rows * columns]
    rows = -(-len(shown) // columns)
    figure = _figure("plot_suspects", 1.5 * columns, 1.9 * rows + 0.4)
    figure.suptitle(headline(table), fontsize="medium")
    for i, axes in enumerate(
        figure.subplots(rows, columns, squeeze=False).ravel()
    ):
        axes.axis("off")
        if i < len(shown):
            row = shown[i]
            axes.imshow(pixels(table.images[row.index]), cmap="gray")
            axes.set_title(
                f"{table.name_of(row.label)}\n"
                f"\N{RIGHTWARDS ARROW} {table.name_of(row.suggestion)}",
                fontsize="small",
            )
    return figure


def _listed(table: SuspiciousLabels) -> Any:
    figure = _figure("plot_suspects", 6.0, 0.25 * len(table) + 1.0)
    figure.suptitle(headline(table), fontsize="medium")
    axes = figure.subplots()
    axes.axis("off")
    axes.table(
        [
            [
                str(row.index),
                table.name_of(row.label),
                table.name_of(row.suggestion),
                f"{row.score:.3f}",
            ]
            for row in (table[i] for i in range(len(table)))
        ],
        colLabels=["index", "label", "suggestion", "score"],
        loc="center",
    )
    return figure


def plot_noise_matrix(table: SuspiciousLabels) -> Any:
    """Draw which class is labelled as which, in shares of the class.

    Args:
        table: What `suspicious_labels` returned.

    Returns:
        `matplotlib.figure.Figure`, with `transition_matrix(table)`: classes
        in rows, labels in columns.

    Raises:
        ImportError: if matplotlib is not installed.
        TypeError: if `table` is none.
        ValueError: if it has no finite prediction.
    """
    matrix = transition_matrix(table)
    size = len(matrix)
    side = min(10.0, 2.5 + 0.4 * size)
    figure = _figure("plot_noise_matrix", side + 0.8, side)
    axes = figure.subplots()
    image = axes.imshow(matrix, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axes, label="share of the class")
    axes.set_xlabel("label")
    axes.set_ylabel("class, by the model")
    if size <= _MANY_CLASSES:
        names = [table.name_of(k) for k in range(size)]
        axes.set_xticks(range(size), names, rotation=90)
        axes.set_yticks(range(size), names)
        for i, j in np.ndindex(size, size):
            if matrix[i, j] >= 0.005:
                axes.text(
                    j,
                    i,
                    f"{matrix[i, j]:.2f}",
                    ha="center",
                    va="center",
                    fontsize="x-small",
                    color="white" if matrix[i, j] > _WHITE_FROM else "black",
                )
    return figure


def plot_dynamics(
    confidence: npt.ArrayLike,
    variability: npt.ArrayLike,
    selected: npt.ArrayLike | None = None,
) -> Any:
    """Draw the map of a data set: how sure and how steady training was.

    Wrong labels gather where confidence is low and variability, too; examples
    that are learnt at once where confidence is high.

    Args:
        confidence: `(examples,)` in [0, 1], the mean over epochs of the
            probability of the label.
        variability: `(examples,)`, its standard deviation over epochs.
        selected: `(examples,)` booleans, examples to be drawn in another
            colour, such as those whose labels are taken for wrong.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the arrays are not of one length.

    Reference:
        Swayamdipta et al., 2020, "Dataset Cartography: Mapping and Diagnosing
        Datasets with Training Dynamics". https://arxiv.org/abs/2009.10795
    """
    x, y = np.asarray(variability), np.asarray(confidence)
    chosen = np.zeros(y.shape, bool) if selected is None else selected
    chosen = np.asarray(chosen, dtype=bool)
    if y.ndim != 1 or not y.shape == x.shape == chosen.shape:
        raise ValueError(
            "`confidence`, `variability` and `selected` must be of shape "
            f"(examples,), all alike. Received: shapes {y.shape}, {x.shape} "
            f"and {chosen.shape}."
        )
    figure = _figure("plot_dynamics", 6.0, 5.0)
    axes = figure.subplots()
    for part, label in ((~chosen, "others"), (chosen, "selected")):
        axes.scatter(x[part], y[part], s=4, alpha=0.5, label=label)
    if selected is not None:
        axes.legend()
    axes.set_xlabel("variability")
    axes.set_ylabel("confidence in the label")
    axes.set_ylim(-0.02, 1.02)
    return figure


def plot_history(history: Any) -> Any:
    """Draw the course of a training, a panel for each quantity.

    Args:
        history: What `fit` returned, or its `history`: from the name of each
            log to its values, one an epoch. `val_...` joins the panel of the
            same name, and the peers' own metrics theirs; of peers that have
            names, if it is what `fit` returned.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
        TypeError: if `history` is neither.
        ValueError: if it has no logs.
    """
    logs = getattr(history, "history", history)
    if not isinstance(logs, Mapping):
        raise TypeError(
            "`history` must be what `fit` returns, or a dictionary of logs. "
            f"Received: history of type {type(history).__name__}."
        )
    if not logs:
        raise ValueError("`history` must have a log. Received: none.")
    learners = getattr(getattr(history, "model", None), "learner_names", ())
    panels: dict[str, list[str]] = {}
    for name in logs:
        panels.setdefault(_quantity(name, learners), []).append(name)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure("plot_history", 4.0 * columns, 2.6 * rows)
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (quantity, names) in zip(every, panels.items(), strict=False):
        for name in names:
            epochs = np.arange(1, len(logs[name]) + 1)
            axes.plot(epochs, logs[name], label=name)
        axes.set_title(quantity, fontsize="medium")
        axes.set_xlabel("epoch")
        if len(names) > 1:
            axes.legend(fontsize="x-small")
    for axes in every[len(panels) :]:
        axes.axis("off")
    return figure


def _quantity(name: str, learners: Sequence[str]) -> str:
    """Return a log's name without `val_`, and without whose it is."""
    name = name.removeprefix("val_")
    # The longest first: a name may begin as another does.
    for learner in sorted(learners, key=len, reverse=True):
        if name.startswith(f"{learner}_"):
            return name[len(learner) + 1 :]
    head, _, rest = name.partition("_")
    number, _, metric = rest.partition("_")
    if head == "peer" and number.isdigit() and metric:
        return metric
    for learner in ("ensemble_", "averaged_", "head_"):
        name = name.removeprefix(learner)
    return name
