"""Which labels are wrong: what a trained model thinks of each."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_smkd import _checks
from keras_smkd import estimators
from keras_smkd.data.examples import Examples
from keras_smkd.functional.posteriors import label_probabilities
from keras_smkd.report.predictions import gathered
from keras_smkd.report.predictions import num_classes_of
from keras_smkd.report.predictions import predicted_batches
from keras_smkd.report.shown import is_image
from keras_smkd.report.table import SuspiciousLabels

RULES = ("posterior", "disagreement", "beta_mixture", "gaussian_mixture")
# Images that a table keeps, of the most suspicious examples.
MOST_IMAGES = 25
# Classes that are weighed against a label, and the sharpness of predictions.
MOST_CLASSES = 5
GAMMA = 2.0


def likeliest(
    probs: npt.ArrayLike, count: int = MOST_CLASSES
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return the most probable classes, the first one first.

    Args:
        probs: `(examples, classes)` probabilities, NaN in whole rows.
        count: How many, of all that there are at most.

    Returns:
        Classes and their probabilities, `(examples, count)`; of equal ones
        the smaller class first.

    Example:

    >>> likeliest([[0.2, 0.7, 0.1]], 2)[0].tolist()
    [[1, 0]]
    """
    given = np.asarray(probs, np.float32)
    count = min(count, given.shape[1])
    found = np.argpartition(-given, count - 1, axis=1)[:, :count]
    found.sort(axis=1)
    order = np.argsort(
        -np.take_along_axis(given, found, axis=1), axis=1, kind="stable"
    )
    found = np.take_along_axis(found, order, axis=1)
    return (
        found.astype(np.int32),
        np.take_along_axis(given, found, axis=1),
    )


def weighed(
    classes: npt.NDArray[np.int32],
    probs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    p_label: npt.NDArray[np.float32],
    num_classes: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return what predictions become where the label has its say, too.

    `q_c = p_c^2 * T[c, label] / sum`, with `T[c, y]`, the share of the label
    `y` among the examples of which `c` is predicted, of the surer half of
    them: `functional.posteriors.label_probabilities`.

    Args:
        classes: `(examples, k)`, the most probable ones.
        probs: `(examples, k)`, their probabilities, no NaN.
        labels: `(examples,)` class ids.
        p_label: `(examples,)`, the probability of each label.
        num_classes: Number of classes.

    Returns:
        `q` of these classes, `(examples, k)`, and of the label,
        `(examples,)`. Other classes count as 0.
    """
    top = classes[:, 0]
    by_class = np.lexsort((-probs[:, 0], top))
    counts = np.bincount(top, minlength=num_classes)
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(top), np.int64)
    rank[by_class] = np.arange(len(top)) - starts[top[by_class]]
    surer = 2 * rank < counts[top]
    confusion = np.zeros((num_classes, num_classes), np.float32)
    np.add.at(confusion, (top[surer], labels[surer]), 1.0)
    confusion /= max(1, int(surer.sum()))
    table = ops.convert_to_numpy(label_probabilities(confusion))
    weights = probs**GAMMA * table[classes, labels[:, None]]
    own = p_label**GAMMA * table[labels, labels]
    is_label = classes == labels[:, None]
    total = weights.sum(axis=1) + np.where(is_label.any(axis=1), 0.0, own)
    return weights / total[:, None], own / total


def margins(
    classes: npt.NDArray[np.int32],
    probs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    p_label: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return what else a label may be, and how probable that is.

    Args:
        classes, probs, labels, p_label: As for `weighed`; two classes or
            more.

    Returns:
        The most probable class, the label itself where none is more probable,
        and `max_{k != label} p_k`, each `(examples,)`.
    """
    others = np.where(classes == labels[:, None], -np.inf, probs)
    best = others.argmax(axis=1)[:, None]
    p_other = np.take_along_axis(others, best, axis=1)[:, 0]
    other = np.take_along_axis(classes, best, axis=1)[:, 0]
    return np.where(p_label >= p_other, labels, other), p_other


def suspicious_labels(
    model: keras.Model,
    x: Any,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    sample: int | None = None,
    *,
    rule: str = "posterior",
    batch_size: int = 256,
    from_logits: bool | None = None,
    seed: int = 0,
) -> SuspiciousLabels:
    """Return the labels in a table, those that are probably wrong first.

    They are judged by the probabilities `p` that the trained model predicts
    for the examples that it was trained on; for peers, of their ensemble.
    Peers that drop contradicted labels, or weigh them, learn few of the wrong
    ones by heart, so that a training example's own label need not be held
    out. (With `gate=None` they learn more.)

    A prediction may err, too, and a label says something: both are weighed by
    the confusion between them. With `T[c, y]`, the share of the label `y`
    among the examples of which the model says `c`, by the surer half of them:

        q_c = p_c^2 * T[c, label] / sum      (of the five likeliest classes)
        probability = 1 - q_label            that the label is wrong
        score = 1 - 2 * q_label

    The examples are read once, batch by batch, and none of them is kept but
    the images of the 25 most suspicious; 60 bytes an example are.

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
        rule: How labels are judged, and which of them selected as wrong,
            without being told how many there are: `"posterior"`, as above,
            where another class has a larger `q` than the label. The others
            leave the label without a say, with the score
            `max_{k != label} p_k - p_label`: `"disagreement"`, where another
            class is more probable than the label; `"beta_mixture"` and
            `"gaussian_mixture"`, where a mixture of two distributions
            (`estimators`), fitted to the cross entropies, has the label
            rather in the component of large ones (the second needs
            scikit-learn).
        batch_size: Examples per batch, of arrays and `Examples`.
        from_logits: Whether a plain classifier puts out logits. `None`: as
            the loss says that it was compiled with, else no.
        seed: Integer >= 0, of the sample and of the Gaussian mixture.

    Returns:
        `SuspiciousLabels`. Its index is that of the batches if they have one
        (`Examples`: the canonical one), else the place in the order in which
        examples come. Its `probability` that a label is wrong is
        `1 - q_label`, `1 - p_label`, or the mixture's.

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
        p_label = probs[np.arange(len(probs)), batch.label]
        found.append((batch.index, batch.label, *likeliest(probs), p_label))
        _keep_images(images, batch.index, batch.x, p_label)
    index, label, classes, probs, p_label = gathered(found)
    _check_names(names, num_classes)
    is_known = np.isfinite(p_label)
    _warn_of_unknown(is_known)
    judged = _filled(
        _judged(
            rule,
            classes[is_known],
            probs[is_known],
            label[is_known],
            p_label[is_known],
            int(num_classes or 0),
            seed,
        ),
        is_known,
    )
    # The most suspicious first, then in the order of the data; NaN last.
    order = np.lexsort((index, judged.order))
    shown = [key for key in index[order].tolist() if key in images]
    return SuspiciousLabels(
        index=index[order],
        label=label[order],
        suggestion=judged.suggestion[order],
        score=judged.score[order],
        probability=judged.probability[order],
        selected=judged.selected[order],
        num_classes=int(num_classes or 0),
        class_names=names,
        paths=_paths_of(x, index[order]),
        images={key: images[key][1] for key in shown[:MOST_IMAGES]},
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
    p_label: npt.NDArray[Any],
) -> None:
    """Keep the images of those whose labels are the least probable yet.

    More than are shown: the order may change once all has been seen.
    """
    if not hasattr(x, "shape") or not is_image(tuple(x.shape[1:])):
        return
    most = 4 * MOST_IMAGES
    for k in np.argsort(p_label, kind="stable")[:most]:
        if np.isfinite(p_label[k]):
            images[int(index[k])] = (float(p_label[k]), np.array(x[k]))
    in_order = sorted(images, key=lambda key: (images[key][0], key))
    for key in in_order[most:]:
        del images[key]


@dataclasses.dataclass
class _Judgments:
    """What is said of each example; of those that are not known, nothing."""

    suggestion: npt.NDArray[np.int64]
    score: npt.NDArray[np.float32]
    probability: npt.NDArray[np.float32]
    selected: npt.NDArray[np.bool_]
    # The most suspicious has the least; a score may have rounded to 1.
    order: npt.NDArray[np.float32]


def _judged(
    rule: str,
    classes: npt.NDArray[np.int32],
    probs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    p_label: npt.NDArray[np.float32],
    num_classes: int,
    seed: int,
) -> _Judgments:
    """Return what a rule says of examples, whose predictions are finite."""
    has_say = rule == "posterior"
    if has_say:
        probs, p_label = weighed(classes, probs, labels, p_label, num_classes)
    suggestion, p_other = margins(classes, probs, labels, p_label)
    score = 1.0 - 2.0 * p_label if has_say else p_other - p_label
    order = p_label if has_say else -score
    if rule in ("posterior", "disagreement"):
        probability, selected = 1.0 - p_label, p_other > p_label
        return _Judgments(suggestion, score, probability, selected, order)
    # What float32 cannot tell from 0 counts as the smallest that it can.
    smallest = np.finfo(np.float32).tiny
    losses = -np.log(np.maximum(p_label, smallest).astype(np.float64))
    if rule == "gaussian_mixture":
        probability = estimators.gaussian_mixture_posterior(losses, seed)
    else:
        mixture = estimators.fit_beta_mixture(losses)
        probability = mixture.posterior_noisy(losses, lookup_points=10_000)
    probability = probability.astype(np.float32)
    return _Judgments(suggestion, score, probability, probability > 0.5, order)


def _filled(judged: _Judgments, is_known: npt.NDArray[np.bool_]) -> _Judgments:
    """Return judgments of all examples, from those of the known ones."""

    def column(values: Any, otherwise: Any) -> Any:
        result = np.full(is_known.shape, otherwise, values.dtype)
        result[is_known] = values
        return result

    return _Judgments(
        column(judged.suggestion, -1),
        column(judged.score, np.nan),
        column(judged.probability, np.nan),
        column(judged.selected, False),
        column(judged.order, np.nan),
    )


def _warn_of_unknown(is_known: npt.NDArray[np.bool_]) -> None:
    broken = np.flatnonzero(~is_known)
    if broken.size:
        warnings.warn(
            f"`model` predicts what is not finite for {broken.size} of "
            f"{is_known.size} examples, the first at place {broken[0]}: they "
            "are last in the table.",
            stacklevel=3,
        )
