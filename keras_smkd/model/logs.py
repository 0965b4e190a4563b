"""What training and evaluation report: the objective's parts, the metrics."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


class ObjectiveParts(keras.metrics.Metric):
    """Means over the examples of the objective's parts, all in one variable.

    One update in place of four: on torch, where each costs as much as the
    arithmetic of a small layer, that counts. Its `views` report them.

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
        self.views = [_PartView(self, i) for i in range(len(names))]

    def update_state(self, sums: Sequence[Any], batch_size: Any) -> None:
        """Add a batch: for each name the sum over its examples."""
        if not self.names:
            return
        self.totals.assign_add(
            ops.stack([ops.cast(value, self.dtype) for value in sums])
        )
        self.count.assign_add(batch_size)

    def result(self) -> dict[str, Any]:
        return {}  # The views have it.


class _PartView(keras.metrics.Metric):
    """Reports one of the objective's parts; holds nothing itself."""

    def __init__(self, parts: ObjectiveParts, position: int) -> None:
        super().__init__(name=parts.names[position])
        # Not as an attribute: Keras would take its variables for this one's.
        self._read = lambda: (parts.totals[position], parts.count)

    def update_state(self) -> None:
        """Do nothing: the parts are updated together."""

    def reset_state(self) -> None:
        """Do nothing: the parts are reset together."""

    def result(self) -> Any:
        total, count = self._read()
        return ops.divide_no_nan(total, ops.convert_to_tensor(count))


class Logs:
    """The metrics of a model of peers.

    The parts of the objective come first, then one fresh set of the compiled
    metrics for each of the outputs. The first output keeps the metrics' own
    names (and objects); the others get theirs after the output:
    `peer_0_accuracy`.

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
        kinds = [
            (_metric_list("metrics", metrics), False),
            (_metric_list("weighted_metrics", weighted_metrics), True),
        ]
        # For each output, pairs (metric, whether it is weighted).
        self.by_output: list[list[tuple[Any, bool]]] = []
        for position, output_name in enumerate(output_names):
            prefix = f"{output_name}_" if position else ""
            self.by_output.append(
                [
                    (_fresh_metric(identifier, prefix), weighted)
                    for identifiers, weighted in kinds
                    for identifier in identifiers
                ]
            )

    @property
    def metrics(self) -> list[Any]:
        """All metrics, in the order in which they are reported."""
        return [
            self.parts,
            *self.parts.views,
            *(metric for group in self.by_output for metric, _ in group),
        ]

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


def _fresh_metric(identifier: Any, prefix: str) -> Any:
    if isinstance(identifier, str) and identifier in ("accuracy", "acc"):
        return keras.metrics.MeanMetricWrapper(
            label_accuracy, name=prefix + identifier
        )
    metric = (
        keras.metrics.get(identifier)
        if isinstance(identifier, str)
        else identifier
    )
    if isinstance(metric, keras.Metric):
        if not prefix:
            return metric
        config = {**metric.get_config(), "name": prefix + metric.name}
        return type(metric).from_config(config)
    name = identifier if isinstance(identifier, str) else metric.__name__
    return keras.metrics.MeanMetricWrapper(metric, name=prefix + name)


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
