"""What training and evaluation report: the objective's parts, the metrics."""

import copy
import functools
import re
import types
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from keras import ops


class ObjectiveParts(keras.metrics.Metric):
    """Means over the examples of the objective's parts, all in one variable.

    One update in place of four: on torch, where each costs as much as the
    arithmetic of a small layer, that counts. `views` report them.

    Args:
        names: Of what is reported.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(name="objective_parts")
        self.names = list(names)
        self.totals = self.add_variable(
            shape=(len(names),), initializer="zeros", name="totals"
        )
        self.count = self.add_variable(
            shape=(), initializer="zeros", name="count"
        )

    def update_state(self, sums: Sequence[Any], batch_size: Any) -> None:
        """Add a batch: for each name the sum over its examples."""
        if not self.names:
            return
        self.totals.assign_add(
            ops.stack([ops.cast(value, self.dtype) for value in sums])
        )
        self.count.assign_add(batch_size)

    def result(self) -> list[Any]:
        """Return the mean of each name."""
        return [self.mean(i) for i in range(len(self.names))]

    def mean(self, position: int) -> Any:
        """Return the mean of the name at this position."""
        return ops.divide_no_nan(
            self.totals[position], ops.convert_to_tensor(self.count)
        )


class _View(keras.metrics.Metric):
    """Reports one value of another metric, under a name of its own.

    Keras pairs each metric's name with one value, so what has several values
    is reported by as many views. The first holds the metric, so that Keras
    finds its variables, and once only.
    """

    def __init__(self, name: str, held: Any, read: Callable[[], Any]) -> None:
        super().__init__(name=name)
        self.held = held
        # A function, since Keras would take an attribute's variables for its.
        self._read = read

    def update_state(self) -> None:
        """Do nothing: who holds the metric updates it."""

    def reset_state(self) -> None:
        """Reset the metric, if it is held."""
        if self.held is not None:
            self.held.reset_state()

    def result(self) -> Any:
        return self._read()


def _views(
    metric: Any, names: Sequence[str], read: Callable[[int], Any]
) -> list[_View]:
    """Return a view for each name, of what `read` gives for its position."""
    return [
        _View(name, None if i else metric, functools.partial(read, i))
        for i, name in enumerate(names)
    ]


class Logs:
    """The metrics of a model of peers.

    The parts of the objective come first, then one fresh set of the compiled
    metrics for each of the outputs. The first output keeps the metrics' own
    names (and objects); the others get theirs after the output:
    `peer_0_accuracy`. As in Keras, a weighted metric with the name of one of
    `metrics` becomes `weighted_accuracy`.

    Args:
        metrics: List of metrics (strings, functions, `keras.metrics.Metric`),
            or `None`.
        weighted_metrics: The same, for metrics weighted by `sample_weight`.
        output_names: Names of the outputs.
        supervised: Whether labels have a weight.
        distillation: Whether there is knowledge.
        selection: Whether it is selected from.
        feature_loss: Whether there is a loss of inner layers.
    """

    def __init__(
        self,
        metrics: Any,
        weighted_metrics: Any,
        output_names: Sequence[str],
        supervised: bool,
        distillation: bool,
        selection: bool,
        feature_loss: bool,
    ):
        names = ["supervised_loss"] if supervised else []
        names += ["distillation_loss"] if distillation else []
        names += ["selection_rate", "threshold"] if selection else []
        names += ["feature_loss"] if feature_loss else []
        self.parts = ObjectiveParts(names)
        owners: dict[str, Any] = dict.fromkeys(("loss", *names))
        compiled = _compiled_metrics(metrics, weighted_metrics)
        # All metrics, in the order in which they are reported: one name and
        # one value each.
        self.metrics: list[Any] = [*_views(self.parts, names, self.parts.mean)]
        # For each output, pairs (metric, whether it is weighted).
        self.by_output: list[list[tuple[Any, bool]]] = []
        # What a line of progress has no room for.
        self.details = set(names)
        for position, output_name in enumerate(output_names):
            prefix = f"{output_name}_" if position else ""
            group = []
            for one in compiled:
                reported = [prefix + name for name in one.names]
                for name in reported:
                    _check_name(name, owners, one)
                if position:
                    self.details.update(reported)
                metric = one.make(reported[0]) if position else one.metric
                group.append((metric, one.weighted))
                self.metrics += one.reports(metric, reported)
            self.by_output.append(group)

    def record_objective(
        self,
        terms: dict[str, Any],
        selected: Any,
        threshold: Any,
        sample_weight: Any,
    ) -> None:
        """Add a batch.

        Args:
            terms: From a log's name to `(batch,)` values.
            selected: `(batch, sources)`, or `None`.
            threshold: Scalar.
            sample_weight: `(batch,)`, or `None`.
        """
        parts = self.parts
        sums: dict[str, Any] = {}
        for name, values in terms.items():
            if sample_weight is not None:
                # The factors of the objective, so that the parts add up.
                values = values * ops.cast(
                    ops.reshape(sample_weight, (-1,)), values.dtype
                )
            sums[name] = ops.sum(ops.stop_gradient(values))
        batch_size = ops.cast(
            ops.shape(terms["supervised_loss"])[0], parts.dtype
        )
        if "selection_rate" in parts.names:
            sums["selection_rate"] = ops.sum(selected) / selected.shape[1]
            sums["threshold"] = threshold * batch_size
        parts.update_state([sums[name] for name in parts.names], batch_size)

    def record_outputs(
        self,
        labels: Any,
        outputs: Sequence[Any],
        sample_weight: Any,
        labelled: Any = None,
    ) -> None:
        """Add a batch: labels, and `(batch, classes)` of each output.

        An example that has no label (`labelled` 0) has weight 0.
        """
        weights = (labelled, sample_weight)
        if labelled is not None and sample_weight is not None:
            sample_weight = ops.cast(sample_weight, labelled.dtype)
            weights = (labelled, labelled * ops.reshape(sample_weight, (-1,)))
        elif labelled is not None:
            weights = (labelled, labelled)
        for group, output in zip(self.by_output, outputs, strict=True):
            for metric, weighted in group:
                metric.update_state(labels, output, weights[int(weighted)])


def _metric_list(argument: str, metrics: Any) -> list[Any]:
    if metrics is None:
        return []
    if not isinstance(metrics, (list, tuple)):
        raise ValueError(
            f"`{argument}` must be a list; each metric is kept for the "
            f"ensemble and for every peer. Received: {argument}={metrics!r}."
        )
    return list(metrics)


class _CompiledMetric(NamedTuple):
    """One of the metrics given to `compile`."""

    given: Any
    weighted: bool
    metric: Any  # The ensemble's.
    make: Callable[[str], Any]  # From a name to a fresh one.
    keys: list[Any]  # Of its results, if they are dictionaries.
    names: list[str]  # Of what it reports of the ensemble.

    def reports(self, metric: Any, names: list[str]) -> list[Any]:
        """Return what reports the values of a metric, each under its name."""
        if self.keys:
            return _views(
                metric, names, lambda i: metric.result()[self.keys[i]]
            )
        if metric.name == names[0]:
            return [metric]
        # An object of the user's, whose name is not ours to change.
        return _views(metric, names, lambda _: metric.result())


def _compiled_metrics(
    metrics: Any, weighted_metrics: Any
) -> list[_CompiledMetric]:
    compiled: list[_CompiledMetric] = []
    for argument, weighted, identifiers in (
        ("metrics", False, metrics),
        ("weighted_metrics", True, weighted_metrics),
    ):
        unweighted = {name for one in compiled for name in one.names}
        for given in _metric_list(argument, identifiers):
            name, make = _maker(argument, given)
            used = any(given is one.given for one in compiled)
            keeps = isinstance(given, keras.Metric) and not used
            metric = given if keeps else make(name)
            keys = _result_keys(metric)
            names = [str(key) for key in keys] or [name]
            if weighted and not unweighted.isdisjoint(names):
                names = [f"weighted_{name}" for name in names]
                if not keeps:
                    metric.name = names[0]
            compiled.append(
                _CompiledMetric(given, weighted, metric, make, keys, names)
            )
    return compiled


def _check_name(
    name: str, owners: dict[str, Any], metric: _CompiledMetric
) -> None:
    """Add a name to those in use; an error if it is among them."""
    if name in owners:
        owner = owners[name]
        other = "the model's own log"
        if owner is not None:
            other = repr(owner.given)
        raise ValueError(
            "`metrics` must have different names. Received: the name "
            f"{name!r} for {other} and for {metric.given!r}. Give an object "
            "with another `name`."
        )
    owners[name] = metric


def _result_keys(metric: Any) -> list[Any]:
    """Return the keys of a metric's results, if they are dictionaries."""
    if type(metric).__module__.startswith("keras."):
        return []  # Those of Keras give a tensor.
    try:
        result = metric.result()
    except Exception:  # Some have none before their first batch.
        return []
    return list(result) if isinstance(result, dict) else []


def _maker(argument: str, given: Any) -> tuple[str, Callable[[str], Any]]:
    """Return a metric's name, and a function from a name to a fresh one."""
    if isinstance(given, keras.Metric):
        return given.name, lambda name: _copy_of(argument, given, name)
    if isinstance(given, str) and given.lower() in ("accuracy", "acc"):
        return given.lower(), lambda name: keras.metrics.MeanMetricWrapper(
            label_accuracy, name=name
        )
    if isinstance(given, (str, type)):
        # Keras numbers an object that is given no name, within the process.
        name = given if isinstance(given, str) else given.__name__
        return _snake_case(name), lambda name: _renamed(
            keras.metrics.get(given), name
        )
    if not callable(given):
        raise ValueError(
            f"`{argument}` must be a list of strings, functions or "
            f"`keras.metrics.Metric`s. Received: {given!r} in it."
        )
    own = getattr(given, "__name__", type(given).__name__)
    return getattr(
        given, "name", _snake_case(own)
    ), lambda name: keras.metrics.MeanMetricWrapper(given, name=name)


def _snake_case(name: str) -> str:
    """Return a name in the form that Keras gives to names of its objects."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _renamed(metric: Any, name: str) -> Any:
    metric.name = name
    return metric


def _copy_of(argument: str, metric: Any, name: str) -> Any:
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
    return _renamed(copied, name)


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


@keras.saving.register_keras_serializable(package="keras_smkd")
def label_accuracy(y_true: Any, y_pred: Any) -> Any:
    """Return 1 where the most probable class is the label's, else 0.

    Args:
        y_true: Labels: integers `(batch,)` or `(batch, 1)`, or one-hot or
            soft `(batch, classes)`, of which the largest counts.
        y_pred: `(batch, classes)`.

    Returns:
        `(batch,)`, 0 or 1.
    """
    if len(y_true.shape) == 2 and y_true.shape[-1] != 1:
        return keras.metrics.categorical_accuracy(y_true, y_pred)
    return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)
