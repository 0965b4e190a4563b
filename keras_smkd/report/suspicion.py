"""Which labels are wrong: what a trained model thinks of each."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd import estimators
from keras_smkd.data.examples import Examples
from keras_smkd.report.predictions import gathered
from keras_smkd.report.predictions import num_classes_of
from keras_smkd.report.predictions import predicted_batches
from keras_smkd.report.shown import is_image
from keras_smkd.report.table import SuspiciousLabels

RULES = ("disagreement", "beta_mixture", "gaussian_mixture")
# Images that a table keeps, of the most suspicious examples.
MOST_IMAGES = 25


def margins(
    probs: npt.ArrayLike, labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[Any]]:
    """Return what else a label may be, and how probable it and that are.

    `suggestion = argmax_k p_k`, the label itself where none is more probable;
    `p_label`; `p_other = max_{k != label} p_k`.

    Args:
        probs: `(examples, classes)` probabilities, NaN in whole rows.
        labels: `(examples,)` class ids.

    Returns:
        `(suggestion, p_label, p_other)`, each `(examples,)`. Where a row is
        NaN, -1 and NaN.

    Example:

    >>> margins([[0.2, 0.7, 0.1]], np.array([0]))[0].tolist()
    [1]
    """
    others = np.array(probs)
    rows = np.arange(len(others))
    p_label = others[rows, labels]
    others[rows, labels] = -np.inf
    other = others.argmax(axis=1)
    p_other = others[rows, other]
    suggestion = np.where(p_label >= p_other, labels, other)
    is_known = np.isfinite(p_label)
    return (
        np.where(is_known, suggestion, -1),
        p_label,
        np.where(is_known, p_other, np.nan),
    )


def suspicious_labels(
    model: keras.Model,
    x: Any,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    sample: int | None = None,
    *,
    rule: str = "disagreement",
    batch_size: int = 256,
    from_logits: bool | None = None,
    seed: int = 0,
) -> SuspiciousLabels:
    """Return the labels in a table, those that are probably wrong first.

    `score = max_{k != label} p_k - p_label`, of the probabilities p that the
    trained model predicts for the examples that it was trained on; for peers,
    of their ensemble. Peers that drop contradicted labels, the default, learn
    few of the wrong ones by heart, so that a training example's own label
    need not be held out. (With `gate=None` they learn more.)

    The examples are read once, batch by batch, and none of them is kept but
    the images of the 25 most suspicious; 33 bytes an example are.

    Args:
        model: Trained `PeerLearning`, or a plain classifier of one output.
        x: Inputs as `fit` takes them: arrays (also a dictionary or list of
            them), `Examples` (with pixels in [0, 1]; if the model was
            trained on others, give the pipeline), a `keras.utils.PyDataset`,
            a `tf.data.Dataset`, a torch `DataLoader`, or any other iterable
            of batches that ends.
        labels: `(examples,)` or `(examples, 1)` class ids, or one-hot rows,
            as trained on. `None` where `x` has them.
        class_names: One string for each class. `None`: those of `Examples`,
            or none.
        sample: How many examples to look at, drawn at random without
            replacement, of arrays and `Examples`. `None` for all.
        rule: Which labels are selected as wrong, without being told how many
            there are: `"disagreement"`, where another class is more probable
            than the label; `"beta_mixture"` and `"gaussian_mixture"`, where a
            mixture of two distributions (`estimators`), fitted to the
            cross entropies, has the label rather in the component of large
            ones (the second needs scikit-learn).
        batch_size: Examples per batch, of arrays and `Examples`.
        from_logits: Whether a plain classifier puts out logits. `None`: as
            the loss says that it was compiled with, else no.
        seed: Integer >= 0, of the sample and of the Gaussian mixture.

    Returns:
        `SuspiciousLabels`. Its index is that of the batches if they have one
        (`Examples`: the canonical one), else the place in the order in which
        examples come. Its `probability` that a label is wrong is
        `1 - p_label`, or the mixture's.

    Raises:
        TypeError: if `model` is no `keras.Model`, or labels are not numbers.
        ValueError: if `model` has not been trained or does not put out class
            probabilities; if labels are missing, too many or too few, no
            class ids, or not those of the batches; if two examples have the
            same index; if names are not one for each class; or if another
            argument is out of range.

    Warns:
        UserWarning: if a prediction is not finite. Such an example is last in
            the table, and not selected.

    Example:

    ```python
    model.fit(x, labels, epochs=30)
    suspects = keras_smkd.report.suspicious_labels(model, x, labels)
    print(suspects)  # the ten most suspicious
    suspects.to_csv("suspects.csv")
    ```
    """
    rule = _checks.one_of("rule", rule, RULES)
    seed = _checks.integer("seed", seed, minimum=0)
    if class_names is None and isinstance(x, Examples):
        class_names = x.class_names
    names = tuple(map(str, class_names or ()))
    num_classes = num_classes_of(model)
    _check_names(names, num_classes)
    found: list[tuple[npt.NDArray[Any], ...]] = []
    images: dict[int, tuple[float, npt.NDArray[Any]]] = {}
    for batch, probs in predicted_batches(
        model,
        x,
        labels,
        batch_size=batch_size,
        from_logits=from_logits,
        sample=sample,
        seed=seed,
    ):
        num_classes = probs.shape[1]
        columns = margins(probs, batch.label)
        found.append((batch.index, batch.label, *columns))
        _keep_images(images, batch.index, batch.x, columns[2] - columns[1])
    index, label, suggestion, p_label, p_other = gathered(found)
    _check_names(names, num_classes)
    score = p_other - p_label
    probability, selected = _judged(rule, p_label, score, seed)
    # The largest first, then in the order of the data; NaN last.
    order = np.lexsort((index, -score))
    return SuspiciousLabels(
        index=index[order],
        label=label[order],
        suggestion=suggestion[order],
        score=score[order],
        probability=probability[order],
        selected=selected[order],
        num_classes=int(num_classes or 0),
        class_names=names,
        paths=_paths_of(x, index[order]),
        images={key: image for key, (_, image) in images.items()},
    )


def _paths_of(
    x: Any, index: npt.NDArray[np.int64]
) -> npt.NDArray[np.str_] | None:
    """Return the files of the examples with these indices, if they are."""
    if not isinstance(x, Examples) or not x.are_files:
        return None
    order = np.argsort(x.index)
    return x.images[order[np.searchsorted(x.index, index, sorter=order)]]


def _check_names(names: tuple[str, ...], num_classes: int | None) -> None:
    if names and num_classes is not None and len(names) != num_classes:
        raise ValueError(
            f"`class_names` must be one for each class, {num_classes}. "
            f"Received: {len(names)} names."
        )


def _keep_images(
    images: dict[int, tuple[float, npt.NDArray[Any]]],
    index: npt.NDArray[np.int64],
    x: Any,
    score: npt.NDArray[Any],
) -> None:
    """Keep the images of the most suspicious examples that were seen."""
    if not hasattr(x, "shape") or not is_image(tuple(x.shape[1:])):
        return
    for k in np.argsort(-score, kind="stable")[:MOST_IMAGES]:
        if np.isfinite(score[k]):
            images[int(index[k])] = (float(score[k]), np.array(x[k]))
    by_score = sorted(images, key=lambda key: (-images[key][0], key))
    for key in by_score[MOST_IMAGES:]:
        del images[key]


def _judged(
    rule: str,
    p_label: npt.NDArray[np.float32],
    score: npt.NDArray[np.float32],
    seed: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return how probably each label is wrong, and whether it is selected."""
    is_known = np.isfinite(score)
    if not is_known.all():
        broken = np.flatnonzero(~is_known)
        warnings.warn(
            f"`model` predicts what is not finite for {broken.size} of "
            f"{score.size} examples, the first at place {broken[0]}: they "
            "are last in the table.",
            stacklevel=3,
        )
    if rule == "disagreement":
        return np.float32(1.0) - p_label, is_known & (score > 0.0)
    probability = np.full(score.shape, np.nan, np.float32)
    # What float32 cannot tell from 0 counts as the smallest that it can.
    known = np.maximum(p_label[is_known], np.finfo(np.float32).tiny)
    losses = -np.log(known.astype(np.float64))
    if rule == "gaussian_mixture":
        posterior = estimators.gaussian_mixture_posterior(losses, seed)
    else:
        mixture = estimators.fit_beta_mixture(losses)
        posterior = mixture.posterior_noisy(losses, lookup_points=10_000)
    probability[is_known] = posterior
    return probability, is_known & (probability > 0.5)
