"""Copies of a metric, each with variables of its own."""

import copy
import types
from typing import Any

import keras
import numpy as np
from keras import ops


def renamed(metric: Any, name: str) -> Any:
    """Return a metric, given another name."""
    metric.name = name
    return metric


def copy_of(argument: str, metric: Any, name: str) -> Any:
    """Return a metric like one of the user's, with variables of its own.

    Not from its configuration, if another way is open: many metrics have none
    for their arguments, or for their function.
    """
    try:
        copied = _twin(metric, {})
    except Exception:
        try:
            copied = type(metric).from_config(metric.get_config())
        except Exception as error:
            raise ValueError(
                f"`{argument}` must be metrics that can be copied, for each "
                f"peer has its own. Received: {metric!r}, which can be neither "
                "copied nor made from its configuration "
                f"({type(error).__name__}: {error}). Give its class a "
                "`get_config` with all arguments, or give a function."
            ) from error
    copied.reset_state()
    return renamed(copied, name)


def _twin(metric: Any, copies: dict[int, Any]) -> Any:
    """Return a copy of a metric with fresh variables and metrics inside.

    Args:
        metric: Whose class may take any arguments: it isn't called.
        copies: From an object's id to its copy; added to.
    """
    twin = object.__new__(type(metric))
    keras.metrics.Metric.__init__(twin, name=metric.name, dtype=metric.dtype)
    copies[id(metric)] = twin
    for variable in metric.variables:
        _copied(variable, copies)
    of_keras = set(vars(twin))
    for attribute, value in vars(metric).items():
        if attribute not in of_keras:
            setattr(twin, attribute, _copied(value, copies))
    if len(twin.variables) != len(metric.variables):
        raise TypeError(f"{metric!r} has variables in unknown places.")
    return twin


def _copied(value: Any, copies: dict[int, Any]) -> Any:
    if id(value) not in copies:
        copies[id(value)] = _fresh_copy(value, copies)
    return copies[id(value)]


def _fresh_copy(value: Any, copies: dict[int, Any]) -> Any:
    if isinstance(value, keras.Variable):
        return keras.Variable(
            # NumPy may give a view of the variable itself.
            np.array(ops.convert_to_numpy(value)),
            dtype=value.dtype,
            trainable=value.trainable,
            aggregation=value.aggregation,
            synchronization=value.synchronization,
            name=value.name,
        )
    if isinstance(value, keras.Metric):
        return _twin(value, copies)
    # Keras's own containers are subclasses, and track what is in them.
    kind = type(value).__base__ if hasattr(value, "tracker") else type(value)
    if kind is dict:
        return {key: _copied(item, copies) for key, item in value.items()}
    if kind in (list, tuple, set):
        return kind(_copied(item, copies) for item in value)
    if isinstance(value, types.MethodType):
        # A method of the metric itself becomes the copy's.
        owner = copies.get(id(value.__self__), value.__self__)
        return types.MethodType(value.__func__, owner)
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        if any(id(content) in copies for content in cells):
            raise TypeError(f"{value!r} is bound to one metric.")
        return value
    if isinstance(value, (types.ModuleType, keras.Layer, keras.Loss)):
        return value
    return copy.deepcopy(value, copies)
