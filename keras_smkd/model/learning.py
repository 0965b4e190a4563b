"""The formula: what peers learn from labels, and from what is known."""

import types
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import divergences
from keras_smkd import gates
from keras_smkd import knowledge as knowledge_room
from keras_smkd import losses
from keras_smkd import observers
from keras_smkd import selection as selection_room
from keras_smkd import targets
from keras_smkd._config import argument_names
from keras_smkd._config import part_of
from keras_smkd._config import serialized_arguments
from keras_smkd.batch import Batch
from keras_smkd.model import backends
from keras_smkd.model import compiling
from keras_smkd.model import files
from keras_smkd.model import forward
from keras_smkd.model import labels as labels_module
from keras_smkd.model import objective
from keras_smkd.model import peer_model
from keras_smkd.model import peers as peers_module
from keras_smkd.model import reduction
from keras_smkd.model.logs import Logs


@keras.saving.register_keras_serializable(package="keras_smkd")
class PeerLearning(peer_model.PeerModel):
    """One peer or more that learn from labels and from other knowledge.

    For learner `i` (a peer, or the head) and sources of knowledge `k`, on one
    example, at training progress `t` in [0, 1]:

        L_i = supervised_weight * g_i * l(target_i, p_i)
            + distillation_weight(t) * c * sum_k r_ik * s_k * D(q_k, p_i)
            + feature loss

    `l` is the compiled loss. Each other letter is a part, a callable of a
    `keras_smkd.batch.Batch`, that can be swapped. The loss is the sum of the
    learners' `L_i` (and of the feature loss), averaged over all examples of
    the batch.

    | part | says | gives |
    |---|---|---|
    | `knowledge` | who knows, and whom they teach | `q`, `r` |
    | `selection` | which knowledge passes | `(batch, sources)`, `s` |
    | `divergence` | how both are compared | `(batch, learners)`, factor `c` |
    | `target` | what the label is corrected to | `(batch, learners, classes)` |
    | `gate` | how much each label counts | `(batch, learners)`, `g` |
    | `head` | one more classifier, on features of all peers | a learner |
    | `feature_loss` | what inner layers are compared with | `(batch,)` |

    Gate and target act in training only: in evaluation every label counts as
    it is. Without `knowledge` the peers are independent.

    Args:
        peers: One or more `keras.Model`s, alike or not, each from the same
            inputs to one output of shape `(batch, classes)`: a list, or a
            dictionary by names of letters, digits, `_` and `-`, which then
            stand in place of `peer_0`, `peer_1`, ... everywhere.
        from_logits: Whether the peers (and the head) put out logits; `False`
            means probabilities. Must agree with the compiled loss.
        knowledge: Part of `keras_smkd.knowledge`, its name or `None`.
        selection: Part of `keras_smkd.selection`, its name, or `None` for all
            knowledge.
        divergence: Part of `keras_smkd.divergences`, or its name.
        target: Part of `keras_smkd.targets`, its name or `None`.
        gate: Part of `keras_smkd.gates`, its name or `None`.
        head: Layer `(features, training) -> (batch, classes)` whose `taps` are
            names of layers of the peers, or `None`.
        feature_loss: Callable of the batch, `-> (batch,)`, or `None`.
        observer: Callable of the batch that adds nothing to the loss, such as
            `observers.ExampleDynamics`, or `None`; called in every step.
        distillation_weight: Weight of the knowledge, >= 0: a number or a
            schedule of it, `progress -> weight`.
        supervised_weight: Weight of the labels, >= 0. With 0, data need none.
        total_steps: Optimizer steps in the whole training. By default `fit`
            takes it from the epochs and the length of the data; give it where
            that length is unknown, or for training without `fit`.
        name, **kwargs: As for `keras.Model`.

    Labels are `(batch,)` class ids or `(batch, classes)` distributions, or a
    dictionary of them: `label`; `index`, each example's place in the data set,
    for parts with a memory, which `fit` supplies for arrays; `labelled`, 0 for
    an example without a label, which counts in the mean all the same.

    Calling the model gives `{"peer_0": outputs, "peer_1": ...}`, and `"head"`
    if there is one. `predict` gives the ensemble's probabilities.

    Logs of `fit` and `evaluate`, each the mean over the epoch (all in the
    history; `loss` and the ensemble's metrics are printed):

    | name | value |
    |---|---|
    | `loss` | sum of the learners' `L_i`, plus their regularisers |
    | `supervised_loss` | sum of `g_i * l(target_i, p_i)`; if labels count |
    | `distillation_loss` | sum of the divergences, with `c`; with `knowledge` |
    | `selection_rate` | share of the knowledge selected; with a selection |
    | `threshold` | threshold in force; with a selection |
    | `feature_loss` | with a feature loss |
    | `accuracy`, ... | each compiled metric of the ensemble |
    | `peer_0_accuracy`, ... | each compiled metric of each learner |

    Raises:
        TypeError: if a peer is not a `keras.Model`, or a part not callable.
        ValueError: if there is no peer, one appears twice, or their inputs or
            numbers of classes differ; if a peer's name is not free, a part's
            not known, a part is given that nothing would ask, or nothing
            teaches.

    Example:

    ```python
    model = keras_smkd.PeerLearning(
        [peer_a, peer_b], knowledge="peers", selection="entropy"
    )
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(x, y, epochs=20)
    probabilities = model.predict(x)
    ```
    """

    # Annotated and not set: torch would find a `None` of the class in place
    # of a layer of the object.
    knowledge: Any
    selection: Any
    divergence: Any
    target: Any
    gate: Any
    feature_loss: Any
    observer: Any

    _min_peers = 1

    def __init__(
        self,
        peers: peers_module.Peers,
        from_logits: bool = True,
        knowledge: Any = None,
        selection: Any = None,
        divergence: Any = "kullback_leibler",
        target: Any = None,
        gate: Any = None,
        head: Any = None,
        feature_loss: Any = None,
        distillation_weight: float | Callable[[Any], Any] = 1.0,
        supervised_weight: float = 1.0,
        total_steps: int | None = None,
        observer: Any = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        knowledge = knowledge_room.get(knowledge)
        selection = selection_room.get(selection)
        gate = gates.get(gate)
        objective.check_head(head, from_logits)
        parts = {
            "knowledge": knowledge,
            "selection": selection,
            "divergence": divergences.get(divergence),
            "target": targets.get(target),
            "gate": gate,
            "feature_loss": part_of("feature_loss", feature_loss, {}),
            "observer": observers.get(observer),
        }
        weight = _checks.number_or_schedule(
            "distillation_weight", distillation_weight, minimum=0.0
        )
        supervised_weight = _checks.number(
            "supervised_weight", supervised_weight, minimum=0.0
        )
        objective.check_teaching(
            knowledge, selection, feature_loss, supervised_weight
        )
        threshold = getattr(selection, "threshold", 0.5)
        super().__init__(
            peers,
            from_logits,
            head,
            {
                **parts,
                "distillation_weight": weight if callable(weight) else None,
            },
            total_steps,
            threshold,
            self._min_peers,
            name=name,
            **kwargs,
        )
        for argument, part in parts.items():
            setattr(self, argument, part)
        self.distillation_weight = weight
        self.supervised_weight = supervised_weight
        # Where a loss with a trainable transition matrix puts its weight.
        self.transition_slack = losses.TransitionSlack()
        self._loss_values: Any = None
        if all(peer.built for peer in self.peers):
            self.build(None)
        self.check_thresholds(*forward.values_of(threshold))

    # Training.

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        *,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: Any = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Configure training; as `keras.Model.compile`, with these differences.

        Args:
            optimizer: One optimizer for all peers, or a list of one per peer.
                With one optimizer, clipping by the global norm couples the
                peers; every rule that works per variable does not.
            loss: One loss for every learner: a string, a `keras.losses.Loss`
                or a function giving one value per example. A string takes the
                model's `from_logits`; an object must agree with it. `None` if
                `supervised_weight` is 0.
            metrics: List of metrics. Each is kept for the ensemble under its
                own name and for every learner as `peer_0_<name>`; all of them
                see probabilities.
            weighted_metrics: The same, weighted by `sample_weight`.

        Raises:
            ValueError: if the loss contradicts `from_logits`, has no mean
                reduction or ignores a class; if a list of optimizers does not
                fit the peers; if `steps_per_execution > 1` on torch.
        """
        kwargs = {
            "run_eagerly": run_eagerly,
            "steps_per_execution": steps_per_execution,
            "jit_compile": jit_compile,
            "auto_scale_loss": auto_scale_loss,
        }
        backends.check_steps_per_execution(steps_per_execution)
        loss_values = None
        if loss is not None or self.supervised_weight > 0:
            loss_values = compiling.PerExampleLoss(
                loss, self.from_logits, soft_targets=self.target is not None
            )
        logs = Logs(
            metrics,
            weighted_metrics,
            ["ensemble", *self.learner_names],
            supervised=self.supervised_weight > 0,
            distillation=self.knowledge is not None,
            selection=self.selection is not None,
            feature_loss=self.feature_loss is not None,
        )
        super().compile(
            compiling.optimizer_for_peers(optimizer, self.peers), **kwargs
        )
        self.loss = loss
        self._loss_values = loss_values
        self._logs = logs
        # Not a plain dictionary: Keras would track the metrics inside it.
        self._compile_arguments = types.MappingProxyType(
            {
                "optimizer": optimizer,
                "loss": loss,
                "metrics": metrics,
                "weighted_metrics": weighted_metrics,
                **kwargs,
            }
        )
        # The weight of an earlier loss is let go.
        self.transition_slack.clear()
        if isinstance(loss, losses.TransitionRevision):
            loss.attach(self)

    def get_compile_config(self) -> dict[str, Any] | None:
        if not self.compiled:
            return None
        return compiling.portable(
            keras.saving.serialize_keras_object(dict(self._compile_arguments))
        )

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        self._build_optimizer()

    def train_step(self, *args: Any) -> Any:
        """Run Keras's step of `compute_loss`, and what moves with it.

        That is the step counter, and the parts that follow the optimizer.
        """
        return backends.run_step(
            self, super().train_step, args, self._weighed, self._after_step
        )

    def test_step(self, *args: Any) -> Any:
        return backends.reducible(self, super().test_step(*args))

    def _weighed(self, data: Any) -> Any:
        if self._class_weight is None:
            return data
        return labels_module.weighed(data, self._class_weight, self.num_classes)

    def _after_step(self, taken: Any) -> None:
        step = self.clock.advance(taken)
        for part in self.parts().values():
            after_step = getattr(part, "after_step", None)
            if after_step is not None:
                after_step(taken, step)

    # Objective.

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the sum of the learners' losses, and record its parts.

        It leaves the log-probabilities in `y_pred`, for `compute_metrics`.
        """
        # Keras gives every part of `y` in a dictionary the same weight.
        logits = self.logits(y_pred)
        sample_weight = reduction.example_weights(
            labels_module.label_of(sample_weight), logits.shape[0]
        )
        progress = self.clock.progress()
        if training:
            self.clock.follow(progress)
        batch = Batch(
            x=x,
            logits=logits,
            features=y_pred.get("features"),
            progress=progress,
            training=training,
            threshold=ops.convert_to_tensor(self.clock.threshold),
            from_logits=self.from_logits,
        )
        labels = labels_module.labels_of_batch(y, self.num_classes)
        batch = objective.with_labels(batch, y, labels, self.needs_index)
        if self.knowledge is not None:
            batch = objective.with_knowledge(
                batch, self.knowledge, self.selection
            )
        if self.observer is not None:
            self.observer(batch)
        selected = batch.selected
        supervised, batch = objective.supervised_values(
            batch,
            labels,
            forward.outputs_of(y_pred, self.learner_names),
            self._loss_values if self.supervised_weight > 0 else None,
            self.target,
            self.gate,
        )
        total = self.supervised_weight * supervised
        terms = {"supervised_loss": supervised}
        if self.knowledge is not None:
            distillation = objective.distillation_values(batch, self.divergence)
            weight = objective.weight_of(self.distillation_weight, batch)
            total = total + weight * distillation
            terms["distillation_loss"] = distillation
        if self.feature_loss is not None:
            of_features = objective.feature_values(batch, self.feature_loss)
            total = total + of_features
            terms["feature_loss"] = of_features
        loss = reduction.batch_mean(total, sample_weight)
        for term in self.losses:
            loss = loss + reduction.batch_mean(ops.reshape(ops.sum(term), (1,)))
        self._logs.record_objective(
            terms, selected, batch.threshold, sample_weight
        )
        y_pred["log_probs"] = ops.stop_gradient(batch.log_probs)
        return loss

    def check_thresholds(self, *thresholds: float) -> None:
        """Raise if the gate cannot work with the thresholds of a training."""
        check = getattr(self.gate, "check_thresholds", None)
        if check is not None:
            check(self.selection, thresholds, self.num_classes)

    def averaged_outputs(self, inputs: Any) -> list[Any]:
        """Return what the peers' averages put out, one for each peer."""
        return self.averaged_peers().outputs(inputs)

    def averaged_peers(self) -> knowledge_room.AveragedPeers:
        """Return the part with the averaged weights; an error if none."""
        return knowledge_room.find(knowledge_room.AveragedPeers, self.knowledge)

    # Metrics.

    @property
    def metrics(self) -> list[Any]:
        return super().metrics + (self._logs.metrics if self._logs else [])

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Update the compiled metrics of the ensemble and of every learner."""
        labels = labels_module.labels_of_batch(y, self.num_classes)
        if labels is not None:
            self._logs.record_outputs(
                labels,
                self.log_probs(y_pred),
                self.num_peers,
                labels_module.label_of(sample_weight),
                labels_module.labelled_of_batch(y),
            )
        return self.get_metrics_result()

    def get_metrics_result(self) -> dict[str, Any]:
        return self._logs.results(self.metrics)

    # Configuration.

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            **files.format_config(),
            **serialized_arguments(self, without=("peers", "total_steps")),
            "peers": serialize(
                peers_module.as_given(self.peer_names, self.peers)
            ),
            "total_steps": self.given_total_steps,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "PeerLearning":
        config = files.without_format(config)
        for name in set(argument_names(cls)) & set(config):
            config[name] = keras.saving.deserialize_keras_object(
                config[name], custom_objects=custom_objects
            )
        return cls(**config)
