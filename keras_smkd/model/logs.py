"""What training and evaluation report: the objective's parts, the metrics."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


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
    """

    def __init__(
        self, metrics: Any, weighted_metrics: Any, output_names: Sequence[str]
    ):
        self.supervised_loss = keras.metrics.Mean(name="supervised_loss")
        self.distillation_loss = keras.metrics.Mean(name="distillation_loss")
        self.selection_rate = keras.metrics.Mean(name="selection_rate")
        self.threshold = keras.metrics.Mean(name="threshold")
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
            self.supervised_loss,
            self.distillation_loss,
            self.selection_rate,
            self.threshold,
            *(metric for group in self.by_output for metric, _ in group),
        ]

    def record_objective(
        self,
        supervised: Any,
        distillation: Any,
        selected: Any,
        threshold: Any,
        sample_weight: Any,
    ) -> None:
        """Add a batch: `(batch,)` losses, `(batch, peers)` selection."""
        if sample_weight is not None:
            # The factors of the objective, so that the logged parts add up.
            weight = ops.cast(
                ops.reshape(sample_weight, (-1,)), supervised.dtype
            )
            supervised = supervised * weight
            distillation = distillation * weight
        self.supervised_loss.update_state(ops.stop_gradient(supervised))
        self.distillation_loss.update_state(ops.stop_gradient(distillation))
        self.selection_rate.update_state(selected)
        self.threshold.update_state(
            threshold, sample_weight=ops.shape(selected)[0]
        )

    def record_outputs(
        self, labels: Any, outputs: Sequence[Any], sample_weight: Any
    ) -> None:
        """Add a batch: labels, and `(batch, classes)` of each output."""
        for group, output in zip(self.by_output, outputs, strict=True):
            for metric, weighted in group:
                metric.update_state(
                    labels, output, sample_weight if weighted else None
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
