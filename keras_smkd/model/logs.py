"""What training and evaluation report: the objective's parts, the metrics."""

import re
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
from keras import ops

from keras_smkd.model import copies


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

    def result(self) -> Any:
        """Return the mean of each name, `(names,)`."""
        return ops.divide_no_nan(self.totals, ops.convert_to_tensor(self.count))


class Accuracies(keras.metrics.Metric):
    """The accuracy of each output, all in one variable; `views` report them.

    Args:
        num_outputs: How many there are.
    """

    def __init__(self, num_outputs: int) -> None:
        super().__init__(name="accuracies")
        self.totals = self.add_variable(
            shape=(num_outputs,), initializer="zeros", name="totals"
        )
        self.count = self.add_variable(
            shape=(), initializer="zeros", name="count"
        )

    def update_state(
        self, labels: Any, probs: Any, sample_weight: Any = None
    ) -> None:
        """Add a batch.

        Args:
            labels: `(batch,)`, or `(batch, classes)`, of which the largest
                counts.
            probs: `(batch, outputs, classes)`.
            sample_weight: `(batch,)`, or `None` for ones.
        """
        if len(labels.shape) == 2:
            labels = ops.argmax(labels, axis=-1)
        top = ops.cast(ops.argmax(probs, axis=-1), labels.dtype)
        right = ops.cast(top == ops.expand_dims(labels, axis=1), self.dtype)
        count = ops.cast(ops.shape(right)[0], self.dtype)
        if sample_weight is not None:
            weight = ops.cast(ops.reshape(sample_weight, (-1,)), self.dtype)
            right = right * ops.expand_dims(weight, axis=1)
            count = ops.sum(weight)
        self.totals.assign_add(ops.sum(right, axis=0))
        self.count.assign_add(count)

    def result(self) -> Any:
        """Return the accuracies, `(outputs,)`."""
        return ops.divide_no_nan(self.totals, ops.convert_to_tensor(self.count))


class _View(keras.metrics.Metric):
    """Reports one value of another metric, under a name of its own.

    Keras pairs each metric's name with one value, so what has several values
    is reported by as many views. The first holds the metric, so that Keras
    finds its variables, and once only.

    Args:
        name: Of the value.
        held: The metric, in the first view of it.
        read: Its `result`.
        key: Of the value in it, `None` if it is the value.
    """

    def __init__(
        self, name: str, held: Any, read: Callable[[], Any], key: Any
    ) -> None:
        super().__init__(name=name)
        self.held = held
        # A function, since Keras would take an attribute's variables for its.
        self.read = read
        self.key = key

    def update_state(self) -> None:
        """Do nothing: who holds the metric updates it."""

    def reset_state(self) -> None:
        """Reset the metric, if it is held."""
        if self.held is not None:
            self.held.reset_state()

    def result(self) -> Any:
        return self.value_in(self.read())

    def value_in(self, values: Any) -> Any:
        """Return the value of this view in what the metric reports."""
        return values if self.key is None else values[self.key]


def _views(
    metric: Any, names: Sequence[str], keys: Sequence[Any]
) -> list[_View]:
    """Return a view for each name, of the value with its key."""
    return [
        _View(name, None if i else metric, metric.result, key)
        for i, (name, key) in enumerate(zip(names, keys, strict=True))
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
        compiled = _compiled_metrics(
            metrics, weighted_metrics, len(output_names)
        )
        # All metrics, in the order in which they are reported: one name and
        # one value each.
        self.metrics: list[Any] = [
            *_views(self.parts, names, range(len(names)))
        ]
        # Pairs (metric, whether it is weighted): of all outputs at once, and
        # for each output.
        self.of_all = [
            (one.metric, one.weighted)
            for one in compiled
            if isinstance(one.metric, Accuracies)
        ]
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
                if isinstance(one.metric, Accuracies):
                    self.metrics.append(one.view(reported[0], position))
                    continue
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

    def results(self, metrics: Sequence[Any]) -> dict[str, Any]:
        """Return what metrics report, the values of one metric read once.

        Args:
            metrics: These ones, and others.
        """
        read: dict[Any, Any] = {}
        results: dict[str, Any] = {}
        for metric in metrics:
            if isinstance(metric, _View):
                if metric.read not in read:
                    read[metric.read] = metric.read()
                results[metric.name] = metric.value_in(read[metric.read])
                continue
            value = metric.result()
            if not isinstance(value, dict):
                value = {metric.name: value}
            results |= value
        return results

    def record_outputs(
        self,
        labels: Any,
        log_probs: Any,
        num_peers: int,
        sample_weight: Any,
        labelled: Any = None,
    ) -> None:
        """Add a batch of labels, and what the learners say of it.

        Args:
            labels: `(batch,)` or `(batch, classes)`.
            log_probs: `(batch, learners, classes)`, the peers first.
            num_peers: How many are in the ensemble.
            sample_weight: `(batch,)`, or `None`.
            labelled: `(batch,)`, 0 where there is no label: such an example
                has weight 0. `None` for 1 throughout.
        """
        probs = ops.exp(log_probs)
        ensemble = ops.mean(probs[:, :num_peers], axis=1, keepdims=True)
        outputs = ops.concatenate([ensemble, probs], axis=1)
        weights = (labelled, sample_weight)
        if labelled is not None and sample_weight is not None:
            sample_weight = ops.cast(sample_weight, labelled.dtype)
            weights = (labelled, labelled * ops.reshape(sample_weight, (-1,)))
        elif labelled is not None:
            weights = (labelled, labelled)
        for metric, weighted in self.of_all:
            metric.update_state(labels, outputs, weights[int(weighted)])
        for i, group in enumerate(self.by_output):
            for metric, weighted in group:
                metric.update_state(
                    labels, outputs[:, i], weights[int(weighted)]
                )


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
            return [*_views(metric, names, self.keys)]
        if metric.name == names[0]:
            return [metric]
        # An object of the user's, whose name is not ours to change.
        return [*_views(metric, names, [None])]

    def view(self, name: str, position: int) -> _View:
        """Return what reports the value of one output, where it has all."""
        held = None if position else self.metric
        return _View(name, held, self.metric.result, position)


def _compiled_metrics(
    metrics: Any, weighted_metrics: Any, num_outputs: int
) -> list[_CompiledMetric]:
    compiled: list[_CompiledMetric] = []
    for argument, weighted, identifiers in (
        ("metrics", False, metrics),
        ("weighted_metrics", True, weighted_metrics),
    ):
        unweighted = {name for one in compiled for name in one.names}
        for given in _metric_list(argument, identifiers):
            name, make = _maker(argument, given, num_outputs)
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


def _maker(
    argument: str, given: Any, num_outputs: int
) -> tuple[str, Callable[[str], Any]]:
    """Return a metric's name, and a function from a name to a fresh one."""
    if isinstance(given, keras.Metric):
        return given.name, lambda name: copies.copy_of(argument, given, name)
    if isinstance(given, str) and given.lower() in ("accuracy", "acc"):
        return given.lower(), lambda name: Accuracies(num_outputs)
    if isinstance(given, (str, type)):
        # Keras numbers an object that is given no name, within the process.
        name = given if isinstance(given, str) else given.__name__
        return _snake_case(name), lambda name: copies.renamed(
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
