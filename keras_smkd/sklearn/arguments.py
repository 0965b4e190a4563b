"""What `fit` is given, checked, and as the model wants it."""

import copy
import dataclasses
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_smkd import _checks


@dataclasses.dataclass(frozen=True)
class Checked:
    """What is made of an estimator's arguments for one training.

    Args:
        optimizer: A new one.
        loss: Name or object.
        callbacks: Of `fit`.
        verbose: As Keras knows it.
    """

    optimizer: keras.optimizers.Optimizer
    loss: Any
    callbacks: list[keras.callbacks.Callback]
    verbose: Any


def checked(estimator: Any) -> Checked:
    """Return what is made of an estimator's arguments, or raise.

    Objects are copied: a training may leave something in them, which neither
    the next one nor a clone shall have.

    Args:
        estimator: It keeps each argument in the attribute of the same name.

    Raises:
        TypeError: if one is of a wrong kind.
        ValueError: if one is out of range.
    """
    if estimator.build_peer is not None and not callable(estimator.build_peer):
        raise TypeError(
            "`build_peer` must be a function `(input_shape, num_classes) -> "
            "keras.Model`, or None. "
            f"Received: build_peer={estimator.build_peer!r}."
        )
    _checks.integer("num_peers", estimator.num_peers, minimum=2)
    _checks.integer("epochs", estimator.epochs, minimum=1)
    _checks.integer("batch_size", estimator.batch_size, minimum=1)
    if not callable(estimator.method):
        raise TypeError(
            "`method` must be a function `(peers, num_examples) -> "
            "keras_smkd.PeerLearning`, such as `methods.posterior_smkd`. "
            f"Received: method={estimator.method!r}."
        )
    return Checked(
        optimizer=_optimizer(estimator.optimizer, estimator.learning_rate),
        loss=copy.deepcopy(estimator.loss),
        callbacks=_callbacks(estimator.callbacks),
        verbose=_verbose(estimator.verbose),
    )


def _optimizer(optimizer: Any, learning_rate: Any) -> Any:
    schedule = keras.optimizers.schedules.LearningRateSchedule
    if not isinstance(learning_rate, schedule):
        learning_rate = _checks.number(
            "learning_rate", learning_rate, above=0.0
        )
    rule = (
        "`optimizer` must be the name of a Keras optimizer, or a callable of "
        "the learning rate that returns one, such as `keras.optimizers.AdamW`."
    )
    if isinstance(optimizer, str):
        try:
            kind: Any = type(keras.optimizers.get(optimizer))
        except ValueError as error:
            raise ValueError(
                f"{rule} Received: optimizer={optimizer!r}."
            ) from error
    elif callable(optimizer):
        kind = optimizer
    else:
        raise TypeError(f"{rule} Received: optimizer={optimizer!r}.")
    made = kind(copy.deepcopy(learning_rate))
    if not isinstance(made, keras.optimizers.Optimizer):
        raise TypeError(
            f"{rule} Received: optimizer={optimizer!r}, which returned "
            f"{made!r}."
        )
    return made


def _callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    if callbacks is None:
        return []
    if not isinstance(callbacks, (list, tuple)) or not all(
        isinstance(callback, keras.callbacks.Callback) for callback in callbacks
    ):
        raise TypeError(
            "`callbacks` must be a list of `keras.callbacks.Callback`s, or "
            f"None. Received: callbacks={callbacks!r}."
        )
    return [copy.deepcopy(callback) for callback in callbacks]


def _verbose(verbose: Any) -> Any:
    if verbose == "auto":
        return verbose
    if verbose not in (0, 1, 2):
        raise ValueError(
            "`verbose` must be 0, 1, 2 or 'auto'. "
            f"Received: verbose={verbose!r}."
        )
    return int(verbose)


def plain_labels(labels: Any) -> Any:
    """Return labels as an array, of numbers if all are numbers.

    Columns of tables can hold numbers as Python's objects.

    Args:
        labels: As `fit` got them.

    Raises:
        ValueError: if one is missing, or they are no array.
    """
    if labels is None:
        return None
    try:
        values = np.asarray(labels)
    except ValueError as error:
        raise ValueError(
            "`y` must be of shape (examples,), one label for each example. "
            f"Received: labels that are no array: {error}."
        ) from error
    if values.dtype.kind != "O":
        return values
    objects = values.ravel().tolist()
    for k, value in enumerate(objects):
        if _is_missing(value):
            raise ValueError(
                "`y` must have a label for each example. "
                f"Received: y[{k}]={value!r}."
            )
    if all(isinstance(value, (bool, int, float)) for value in objects):
        return np.array(objects).reshape(values.shape)
    return values


def _is_missing(value: Any) -> bool:
    # NaN differs from itself, and pandas' NA says neither yes nor no.
    try:
        return value is None or not value == value
    except TypeError:
        return True
    except ValueError:  # An array among them, which is none for a reason.
        return False


def classes_and_ids(
    labels: npt.NDArray[Any],
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """Return the classes, sorted, and each label's place among them.

    Args:
        labels: `(examples,)`.

    Raises:
        TypeError: if they cannot be sorted.
        ValueError: if there is one class only.
    """
    try:
        classes, ids = np.unique(labels, return_inverse=True)
    except TypeError as error:
        kinds = ", ".join(sorted({type(v).__name__ for v in labels}))
        raise TypeError(
            "`y` must be labels of one kind, which can be sorted. "
            f"Received: labels of types {kinds}."
        ) from error
    if len(classes) < 2:
        raise ValueError(
            "`y` must hold two classes or more. "
            f"Received: one class, {classes.tolist()[0]!r}."
        )
    return classes, ids.astype("int32")


def checked_weights(
    sample_weight: Any, ids: npt.NDArray[Any]
) -> npt.NDArray[np.float64] | None:
    """Return the weights of examples, or raise.

    Args:
        sample_weight: `(examples,)` numbers >= 0, or `None`.
        ids: `(examples,)` class ids.

    Raises:
        TypeError: if they are no numbers.
        ValueError: if their shape does not fit, one is negative or not finite,
            or fewer than two classes have one above zero.
    """
    if sample_weight is None:
        return None
    try:
        weights = np.asarray(sample_weight).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "`sample_weight` must be numbers. "
            f"Received: sample_weight={sample_weight!r}."
        ) from error
    if weights.shape != ids.shape:
        raise ValueError(
            "`sample_weight` must be of shape (examples,), one weight for each "
            f"example. Received: shape={weights.shape} for {len(ids)} examples."
        )
    # The comparison is false for NaN, which must not pass.
    wrong = np.flatnonzero(~((weights >= 0) & (weights < np.inf)))
    if wrong.size:
        k = wrong[0]
        raise ValueError(
            "`sample_weight` must be finite and >= 0. "
            f"Received: sample_weight[{k}]={weights[k]}."
        )
    left = len(np.unique(ids[weights > 0]))
    if left < 2:
        raise ValueError(
            "`sample_weight` must be above zero for examples of two classes or "
            f"more. Received: weights that are zero for all classes but {left}."
        )
    return weights
