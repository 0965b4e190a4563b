"""What the table of suspicious labels comes to."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd.report.predictions import gathered
from keras_smkd.report.predictions import predicted_batches
from keras_smkd.report.table import SuspiciousLabels


def noise_rate(table: SuspiciousLabels) -> float:
    """Return the share of the labels that are taken for wrong.

    `noise_rate = mean(selected)`, over the finite predictions.

    Args:
        table: What `suspicious_labels` returned.

    Returns:
        A float in [0, 1].

    Raises:
        TypeError: if `table` is none.
        ValueError: if it has no finite prediction.
    """
    return float(_known(table).selected.mean())


def transition_matrix(
    table: SuspiciousLabels, normalize: bool = True
) -> npt.NDArray[np.float64]:
    """Return how often each class is labelled as each other.

    `T[i, j] = count(class i, label j) / count(class i)`, where the class is
    the suggestion where the label is selected as wrong, else the label.

    Args:
        table: What `suspicious_labels` returned.
        normalize: Whether rows sum to 1. False: examples are counted.

    Returns:
        `(classes, classes)` float64. A class without an example has the row
        of a class whose labels are right, or zeros if examples are counted.

    Raises:
        TypeError: if `table` is none.
        ValueError: if it has no finite prediction.
    """
    known = _known(table)
    counts = np.zeros((table.num_classes, table.num_classes))
    np.add.at(counts, (_classes(known), known.label), 1.0)
    if not _checks.boolean("normalize", normalize):
        return counts
    totals = counts.sum(axis=1, keepdims=True)
    empty = np.eye(table.num_classes)
    return np.where(totals > 0, counts / np.maximum(totals, 1.0), empty)


def corrected_labels(table: SuspiciousLabels) -> npt.NDArray[np.int64]:
    """Return the labels, with the suggestion where one is taken for wrong.

    Args:
        table: What `suspicious_labels` returned.

    Returns:
        `(examples,)` int64, in the order of the data set: that of the index.

    Raises:
        TypeError: if `table` is none.
    """
    check_is_table(table)
    return _classes(table)[np.argsort(table.index, kind="stable")]


def to_cleanlab(
    model: keras.Model,
    x: Any,
    labels: Any = None,
    *,
    batch_size: int = 256,
    from_logits: bool | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Return labels and probabilities as the functions of cleanlab take them.

    The probabilities are those of the trained model for its own training
    examples, not cross-validated: see `suspicious_labels`.

    Args:
        model: Trained `PeerLearning`, or a plain classifier of one output.
        x: Inputs, as `suspicious_labels` takes them.
        labels: Labels, as `suspicious_labels` takes them.
        batch_size: Examples per batch, of arrays and `Examples`.
        from_logits: Whether a plain classifier puts out logits.

    Returns:
        `{"labels": (examples,) int64, "pred_probs": (examples, classes)
        float64}`, in the order of the data set; rows sum to 1.

    Raises:
        TypeError: as `suspicious_labels` does.
        ValueError: as `suspicious_labels` does; or if a prediction is not
            finite.

    Example:

    ```python
    from cleanlab.filter import find_label_issues

    given = keras_smkd.report.to_cleanlab(model, x, labels)
    wrong = find_label_issues(**given, n_jobs=1)  # JAX must not be forked.
    ```
    """
    index, label, probs = gathered(
        [
            (batch.index, batch.label, found)
            for batch, found in predicted_batches(
                model,
                x,
                labels,
                batch_size=batch_size,
                from_logits=from_logits,
            )
        ]
    )
    broken = np.flatnonzero(np.isnan(probs).any(axis=1))
    if broken.size:
        raise ValueError(
            "`model` must predict finite probabilities. Received: "
            f"{broken.size} predictions that are not, the first at index "
            f"{index[broken[0]]}."
        )
    order = np.argsort(index, kind="stable")
    probs = probs[order].astype(np.float64)
    return {
        "labels": label[order],
        "pred_probs": probs / probs.sum(axis=1, keepdims=True),
    }


def check_is_table(table: Any) -> None:
    """Raise unless it is a table of suspicious labels."""
    if not isinstance(table, SuspiciousLabels):
        raise TypeError(
            "`table` must be what `suspicious_labels` returns. "
            f"Received: table of type {type(table).__name__}."
        )


def _known(table: Any) -> SuspiciousLabels:
    """Return the rows of finite predictions."""
    check_is_table(table)
    known: SuspiciousLabels = table[~np.isnan(table.score)]
    if not len(known):
        raise ValueError(
            "`table` must have a finite prediction. Received: a table of "
            f"{len(table)} examples with none."
        )
    return known


def _classes(table: SuspiciousLabels) -> npt.NDArray[np.int64]:
    return np.where(table.selected, table.suggestion, table.label)
