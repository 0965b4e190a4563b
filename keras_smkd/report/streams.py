"""Examples with their labels, batch by batch, from whatever holds them."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd._labels import hard_labels
from keras_smkd.data.examples import Examples
from keras_smkd.data.pydataset import PipelineSequence
from keras_smkd.model.labels import label_of


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledBatch:
    """Some examples: places in the data set, inputs, class ids."""

    index: npt.NDArray[np.int64]
    x: Any
    label: npt.NDArray[np.int64]


def labelled_batches(
    x: Any,
    labels: Any,
    num_classes: int | None,
    batch_size: int,
    sample: int | None = None,
    seed: int = 0,
) -> Iterator[LabelledBatch]:
    """Yield all examples with their labels, or a sample of them.

    Args:
        x: Arrays (also a dictionary, list or tuple of them), `Examples`, a
            `keras.utils.PyDataset`, or what is iterated over once, such as a
            `tf.data.Dataset`: batches `(x, y)`, `(x, y, weights)`, or `x`.
        labels: `(examples,)` class ids or one-hot rows; `None` where `x` has
            them itself.
        num_classes: Number of classes, `None` if it is not known.
        batch_size: Examples per batch, of arrays and `Examples`.
        sample: How many examples, drawn without replacement, of arrays and
            `Examples`. `None` for all.
        seed: Of the sample.

    Yields:
        Batches. Examples whose `labelled` is 0 are left out.

    Raises:
        TypeError: if labels are not numbers.
        ValueError: if labels are missing, are not as many as the examples, are
            not those of the batches, or not class ids; or if the examples
            come in an order that nobody knows.
    """
    batch_size = _checks.integer("batch_size", batch_size, minimum=1)
    if isinstance(x, Examples) or _are_arrays(x):
        return _of_arrays(x, labels, num_classes, batch_size, sample, seed)
    if sample is not None:
        raise ValueError(
            "`sample` must be None for examples that come in batches. "
            f"Received: sample={sample!r} with x of type {type(x).__name__}."
        )
    return _of_batches(x, labels, num_classes)


def _are_arrays(x: Any) -> bool:
    if isinstance(x, (dict, list, tuple)):
        leaves = keras.tree.flatten(x)
        return bool(leaves) and all(hasattr(leaf, "shape") for leaf in leaves)
    return hasattr(x, "shape") and hasattr(x, "__getitem__")


def _of_arrays(
    x: Any,
    labels: Any,
    num_classes: int | None,
    batch_size: int,
    sample: int | None,
    seed: int,
) -> Iterator[LabelledBatch]:
    if labels is None:
        if not isinstance(x, Examples):
            raise ValueError(
                "`labels` must be given unless `x` has labels itself. "
                f"Received: labels=None with x of type {type(x).__name__}."
            )
        labels = x.training_labels
    ids = hard_labels("labels", label_of(labels), num_classes)
    sizes = (
        {len(x)}
        if isinstance(x, Examples)
        else {len(leaf) for leaf in keras.tree.flatten(x)}
    )
    if sizes != {len(ids)}:
        raise ValueError(
            "`labels` must be one for each example. Received: "
            f"{len(ids)} labels for {', '.join(map(str, sorted(sizes)))} "
            "examples."
        )
    positions = np.arange(len(ids))
    if sample is not None:
        sample = _checks.integer("sample", sample, minimum=1)
        if sample > len(ids):
            raise ValueError(
                f"`sample` must be at most the number of examples, {len(ids)}. "
                f"Received: sample={sample}."
            )
        generator = np.random.default_rng(seed)
        positions = np.sort(generator.choice(len(ids), sample, replace=False))
    return _chosen(x, ids, positions, batch_size)


def _chosen(
    x: Any,
    ids: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
    batch_size: int,
) -> Iterator[LabelledBatch]:
    chunks = np.split(
        positions, np.arange(batch_size, len(positions), batch_size)
    )
    if not isinstance(x, Examples):
        for chunk in chunks:
            inputs = keras.tree.map_structure(
                lambda leaf, at=chunk: _rows(leaf, at), x
            )
            yield LabelledBatch(chunk, inputs, ids[chunk])
        return
    part = x if len(positions) == len(x) else x.take(positions)
    read = PipelineSequence(part, batch_size=batch_size, cache="none")
    for number, chunk in enumerate(chunks):
        yield LabelledBatch(x.index[chunk], read[number][0], ids[chunk])


def _rows(leaf: Any, positions: npt.NDArray[np.int64]) -> Any:
    if positions[-1] - positions[0] + 1 == len(positions):
        # A slice: of a file that is mapped, only this is read.
        rows = slice(int(positions[0]), int(positions[-1]) + 1)
        leaf = leaf.iloc[rows] if hasattr(leaf, "iloc") else leaf[rows]
        return np.asarray(leaf)
    leaf = leaf.iloc[positions] if hasattr(leaf, "iloc") else leaf[positions]
    return np.asarray(leaf)


def _of_batches(
    data: Any, labels: Any, num_classes: int | None
) -> Iterator[LabelledBatch]:
    given = None
    if labels is not None:
        given = hard_labels("labels", label_of(labels), num_classes)
    if getattr(data, "order_is_known", True) is False:
        raise ValueError(
            "`x` must have an index, or its examples in the order of the data "
            "set. Received: a pipeline that shuffles, without an index. Make "
            "it with `with_index=True` or `shuffle=False`."
        )
    return _with_labels(_each(data), given, num_classes)


def _each(data: Any) -> Iterator[Any]:
    if isinstance(data, keras.utils.PyDataset):
        # Those of Keras are not made to be iterated over.
        return (data[number] for number in range(len(data)))
    # Of a data set of TensorFlow: it repeats, for ever.
    if hasattr(data, "cardinality") and int(data.cardinality()) == -1:
        raise ValueError(
            "`x` must end. Received: a data set that is repeated for ever. "
            "Leave out `repeat`."
        )
    return iter(data)


def _with_labels(
    batches: Iterator[Any],
    given: npt.NDArray[np.int64] | None,
    num_classes: int | None,
) -> Iterator[LabelledBatch]:
    seen = 0
    for batch in batches:
        batch = tuple(batch) if isinstance(batch, list) else batch
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        x, y = keras.tree.map_structure(_array, (x, y))
        size = len(keras.tree.flatten(x)[0])
        own = y if isinstance(y, dict) else {"label": y}
        label, index = label_of(own), own.get("index")
        if index is None:
            index = np.arange(seen, seen + size)
            seen += size
        index = index.reshape(-1).astype(np.int64)
        if own.get("labelled") is not None:
            has = own["labelled"].reshape(-1) > 0
            x, label, index = keras.tree.map_structure(
                lambda values, has=has: values[has], (x, label, index)
            )
        if len(index):
            yield LabelledBatch(
                index, x, _labels_at(index, label, given, num_classes)
            )
    # What has an index may be a part of the data set.
    if given is not None and 0 < seen < len(given):
        raise ValueError(
            "`labels` must be one for each example. Received: "
            f"{len(given)} labels for {seen} examples."
        )


def _array(value: Any) -> Any:
    return None if value is None else np.asarray(value)


def _labels_at(
    index: npt.NDArray[np.int64],
    label: Any,
    given: npt.NDArray[np.int64] | None,
    num_classes: int | None,
) -> npt.NDArray[np.int64]:
    """Return a batch's class ids: the given ones, its own, which must agree."""
    own = None
    if label is not None:
        own = hard_labels("x's labels", label, num_classes)
        if given is None:
            return own
    elif given is None:
        raise ValueError(
            "`labels` must be given unless `x` has labels itself. "
            "Received: labels=None with batches that have none."
        )
    if index.min() < 0 or index.max() >= len(given):
        raise ValueError(
            "`labels` must be one for each example. Received: "
            f"{len(given)} labels for an example at place {index.max()}."
        )
    if own is not None and not np.array_equal(own, given[index]):
        first = np.flatnonzero(own != given[index])[0]
        raise ValueError(
            "`labels` must be those of the batches, in the order of the data "
            f"set. Received: labels[{index[first]}]={given[index[first]]} "
            f"where the batch has {own[first]}. Leave `labels` out, or give "
            "the batches an index."
        )
    return given[index]
