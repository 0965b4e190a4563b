"""The class probabilities that a classifier predicts, batch by batch."""

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_smkd import functional
from keras_smkd.model.peer_model import PeerModel
from keras_smkd.report.streams import LabelledBatch
from keras_smkd.report.streams import labelled_batches


def num_classes_of(model: keras.Model) -> int | None:
    """Return how many classes a classifier has, `None` if it does not say."""
    if isinstance(model, PeerModel):
        return model.num_classes
    shape = getattr(model, "output_shape", None)
    return shape[-1] if isinstance(shape, tuple) and shape else None


def check_is_fitted(model: Any) -> None:
    """Raise unless a model is a classifier that has been trained.

    Raises:
        TypeError: if it is no `keras.Model`.
        ValueError: if it has not been trained.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a keras.Model. "
            f"Received: model={model!r} of type {type(model).__name__}."
        )
    if isinstance(model, PeerModel):
        was_trained = model.place is not None or model.step > 0
    else:
        steps = getattr(getattr(model, "optimizer", None), "iterations", None)
        was_trained = model.built and (
            steps is None or int(keras.ops.convert_to_numpy(steps)) > 0
        )
    if not was_trained:
        raise ValueError(
            "`model` must be fitted. Received: a model that has not taken a "
            "step. Call `fit`, or load a model that was; a plain model whose "
            "weights come from elsewhere must not be compiled."
        )


def predicted_batches(
    model: keras.Model,
    x: Any,
    labels: Any,
    *,
    batch_size: int,
    from_logits: bool | None = None,
    sample: int | None = None,
    seed: int = 0,
) -> Iterator[tuple[LabelledBatch, npt.NDArray[np.float32]]]:
    """Yield all examples with their labels and what a model predicts.

    Args:
        model: Trained peers, or a plain classifier.
        from_logits: As for `predictor`.
        x, labels, batch_size, sample, seed: As for `labelled_batches`.

    Raises:
        TypeError: as `check_is_fitted` and `labelled_batches` do.
        ValueError: as these and `predictor` do.
    """
    check_is_fitted(model)
    predict = predictor(model, from_logits)
    for batch in labelled_batches(
        x, labels, num_classes_of(model), batch_size, sample, seed
    ):
        yield batch, predict(batch.x)


def gathered(found: list[tuple[Any, ...]]) -> list[npt.NDArray[Any]]:
    """Return columns of all batches, the first of which is the index.

    Args:
        found: Of each batch, `(examples,)` or longer arrays.

    Raises:
        ValueError: if there are none, or an example is there twice.
    """
    if not found:
        raise ValueError("`x` must have an example. Received: no batches.")
    columns = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    values, counts = np.unique(columns[0], return_counts=True)
    if len(values) < len(columns[0]):
        raise ValueError(
            "`x` must have each example once. Received: index "
            f"{values[counts.argmax()]} {counts.max()} times."
        )
    return columns


def predictor(
    model: keras.Model, from_logits: bool | None
) -> Callable[[Any], npt.NDArray[np.float32]]:
    """Return what gives the probabilities of a batch, in NumPy.

    Args:
        model: Peers, whose ensemble predicts, or a plain classifier.
        from_logits: Whether a plain classifier puts out logits. `None`: what
            the loss that it was compiled with says; without that, what it
            puts out must be probabilities.

    Returns:
        From inputs to `(batch, classes)`, float32; where a prediction is not
        finite, NaN in the whole row.
    """
    is_peers = isinstance(model, PeerModel)
    if from_logits is None and not is_peers:
        from_logits = getattr(getattr(model, "loss", None), "from_logits", None)

    def predict(x: Any) -> npt.NDArray[np.float32]:
        outputs = model.predict_on_batch(x)
        if not hasattr(outputs, "shape") or len(outputs.shape) != 2:
            raise ValueError(
                "`model` must put out (examples, classes). Received: outputs "
                f"of {_shapes(outputs)}."
            )
        probs = np.asarray(outputs, dtype=np.float32)
        if probs.shape[1] < 2:
            raise ValueError(
                "`model` must have two classes or more. Received: outputs of "
                f"shape {probs.shape}."
            )
        is_finite: Any = np.isfinite(probs).all(axis=1, keepdims=True)
        if from_logits and not is_peers:
            log_probs = functional.log_probabilities(probs)
            probs = np.exp(keras.ops.convert_to_numpy(log_probs))
        elif not is_peers:
            _check_probabilities(probs[is_finite[:, 0]])
        return np.where(is_finite, probs, np.float32(np.nan))

    return predict


def _shapes(outputs: Any) -> str:
    leaves = keras.tree.flatten(outputs)
    shapes = [tuple(getattr(leaf, "shape", ())) for leaf in leaves]
    return f"shape {shapes[0]}" if len(shapes) == 1 else f"shapes {shapes}"


def _check_probabilities(probs: npt.NDArray[np.float32]) -> None:
    sums = probs.sum(axis=1)
    broken = np.flatnonzero((probs < 0).any(axis=1) | (np.abs(sums - 1) > 0.01))
    if broken.size:
        raise ValueError(
            "`from_logits` must be True for a model that puts out logits. "
            "Received: outputs that are no probabilities: they sum to "
            f"{sums[broken[0]]:g}, or are negative."
        )
