"""The model of peers: forward pass, objective, and what moves with a step."""

import types
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import losses
from keras_smkd.model import averages
from keras_smkd.model import compiling
from keras_smkd.model import labels as labels_module
from keras_smkd.model import memory
from keras_smkd.model import objective
from keras_smkd.model import saving
from keras_smkd.model.logs import Logs
from keras_smkd.model.progress import check_selects
from keras_smkd.model.progress import counted_step
from keras_smkd.selection import ConfidentKnowledge
from keras_smkd.selection import LabelGate

_LABEL_GATE = LabelGate()


@keras.saving.register_keras_serializable(package="keras_smkd")
class SelectiveMutualDistillation(averages.AveragingEnsemble):
    """Peers that learn from labels and, selectively, from each other.

    For peer `i` of `N` on one example, at training progress `t` in [0, 1]:

        L_i = supervised_weight * g_i * l(target_i, p_i)
            + distillation_weight * T^2 / (N - 1)
              * sum_{j != i} s_j * KL(q_j^T || p_i^T)

    `l` is the compiled loss; `target_i` is the label, or its correction by
    `target`; `p^T` is the softmax at temperature `T`; the knowledge `q_j` is
    `p_j`, or with `averaged_knowledge` what peer `j` predicts with averaged
    weights, and carries no gradient; `s_j` in {0, 1} says whether peer `j`'s
    knowledge of this example is selected, by default where its normalised
    entropy (at temperature 1) lies below the threshold in force; `g_i` is 1, or
    what `gate` makes of a label that selected knowledge contradicts. The loss
    is the sum of the peers' `L_i`, averaged over all examples of the batch.
    Threshold 0 trains independent models; without a gate, a threshold above 1
    is deep mutual learning. `gate=None` is the plain form of the paper.

    Args:
        peers: Two or more `keras.Model`s, alike or not, each from the same
            inputs to one output of shape `(batch, classes)`.
        from_logits: Whether the peers put out logits; `False` means
            probabilities. Must agree with the compiled loss.
        target: Label correction `(labels, predictions, progress) -> targets`,
            such as `keras_smkd.targets.ProSelfLC`, or `None`. One that
            remembers examples needs labels `{"label": ..., "index": ...}`.
        selection: `(log_probs, threshold) -> selected`, by default
            `keras_smkd.selection.ConfidentKnowledge()`. Its `threshold` is
            the one in force until a schedule or a caller sets another.
        gate: `(labels, log_probs, selected) -> (batch, peers)` weights of the
            label's own term, by default `keras_smkd.selection.LabelGate()`,
            which drops labels that selected knowledge contradicts; `None` for
            the plain sum of both terms. In training only: in evaluation every
            label counts. Not with a threshold that is above 1 throughout.
        averaged_knowledge: Whether peers learn from each other's weights
            averaged over the steps, by an optimizer with `use_ema=True` and
            its `ema_momentum`. It costs one more forward pass per peer, without
            dropout and with the statistics of inference. Not in evaluation.
        distillation_weight: Weight of the peers' knowledge, >= 0: a number or
            a schedule of it, `progress -> weight`.
        supervised_weight: Weight of the labels, >= 0.
        temperature: `T > 0`, for the exchanged knowledge only.
        total_steps: Optimizer steps in the whole training. By default `fit`
            takes it from the epochs and the length of the data; give it where
            that length is unknown, or for training without `fit`.
        name, **kwargs: As for `keras.Model`.

    Calling the model gives `{"peer_0": outputs, "peer_1": ...}`, the peers'
    own outputs. `predict` gives the ensemble's probabilities.

    Logs of `fit` and `evaluate`, each the mean over the epoch:

    | name | value |
    |---|---|
    | `loss` | sum of the peers' `L_i`, plus their regularisers |
    | `supervised_loss` | sum over the peers of `g_i * l(target_i, p_i)` |
    | `distillation_loss` | sum over the peers of the divergences, with `T^2` |
    | `selection_rate` | share of the knowledge that was selected |
    | `threshold` | threshold in force |
    | `accuracy`, ... | each compiled metric of the ensemble |
    | `peer_0_accuracy`, ... | each compiled metric of each peer |

    Raises:
        TypeError: if a peer is not a `keras.Model`.
        ValueError: if there are fewer than two peers, one appears twice, or
            their inputs or numbers of classes differ; if the threshold is
            above 1 and there is a gate.

    Example:

    ```python
    model = keras_smkd.SelectiveMutualDistillation([peer_a, peer_b])
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(
        x, y, epochs=20,
        callbacks=[keras_smkd.callbacks.ProgressiveThreshold()],
    )
    probabilities = model.predict(x)
    ```

    Reference:
        Li et al., 2023, "SMKD: Selective Mutual Knowledge Distillation",
        IJCNN.
        https://doi.org/10.1109/IJCNN54540.2023.10191991
    """

    def __init__(
        self,
        peers: Sequence[keras.Model],
        from_logits: bool = True,
        target: Callable[..., Any] | None = None,
        selection: Callable[[Any, Any], Any] | None = None,
        distillation_weight: float | Callable[[Any], Any] = 1.0,
        supervised_weight: float = 1.0,
        temperature: float = 1.0,
        total_steps: int | None = None,
        gate: Callable[[Any, Any, Any], Any] | None = _LABEL_GATE,
        averaged_knowledge: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if selection is None:
            selection = ConfidentKnowledge()
        parts = {"target": target, "selection": selection, "gate": gate}
        for argument, part in parts.items():
            if part is not None and not callable(part):
                raise TypeError(
                    f"`{argument}` must be callable. "
                    f"Received: {argument}={part!r}."
                )
        threshold = getattr(selection, "threshold", 0.5)
        check_selects(gate, threshold)
        super().__init__(
            peers,
            from_logits,
            total_steps=total_steps,
            threshold=threshold,
            name=name,
            **kwargs,
        )
        self.target = target
        self.selection = selection
        self.gate = gate
        self.averaged_knowledge = _checks.boolean(
            "averaged_knowledge", averaged_knowledge
        )
        self.distillation_weight = _checks.number_or_schedule(
            "distillation_weight", distillation_weight, minimum=0.0
        )
        self.supervised_weight = _checks.number(
            "supervised_weight", supervised_weight, minimum=0.0
        )
        self.temperature = _checks.number("temperature", temperature, above=0.0)
        # Where a loss with a trainable transition matrix puts its weight.
        self.transition_slack = losses.TransitionSlack()
        self._loss_values: Any = None
        self._logs: Any = None
        self._memory: Any = None
        if all(peer.built for peer in self.peers):
            self.build(None)

    def build(self, input_shape: Any) -> None:
        """Build what is not built yet, and the memory if there is to be one."""
        super().build(input_shape)
        if memory.remembers(self.target) and self._memory is None:
            self._memory = memory.ExampleMemory(
                self, self.target, self.num_peers, self.num_classes
            )

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
            loss: One loss for every peer: a string, a `keras.losses.Loss` or
                a function giving one value per example. A string takes the
                model's `from_logits`; an object must agree with it.
            metrics: List of metrics. Each is kept for the ensemble under its
                own name and for every peer as `peer_0_<name>`; all of them
                see probabilities.
            weighted_metrics: The same, weighted by `sample_weight`.

        Raises:
            ValueError: if the loss contradicts `from_logits`, has no mean
                reduction or ignores a class; if a list of optimizers does not
                fit the peers, or one does not average the weights that
                `averaged_knowledge` needs; if `steps_per_execution > 1` on
                torch.
        """
        kwargs = {
            "run_eagerly": run_eagerly,
            "steps_per_execution": steps_per_execution,
            "jit_compile": jit_compile,
            "auto_scale_loss": auto_scale_loss,
        }
        compiling.check_steps_per_execution(steps_per_execution)
        if self.averaged_knowledge:
            averages.check_keeps_averages(optimizer)
        loss_values = compiling.PerExampleLoss(
            loss, self.from_logits, soft_targets=self.target is not None
        )
        logs = Logs(metrics, weighted_metrics, ["ensemble", *self.peer_names])
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
        if self.built:
            # Restoring a checkpoint needs the optimizer's variables.
            self.optimizer.build(self.trainable_variables)

    def get_compile_config(self) -> dict[str, Any] | None:
        if not self.compiled:
            return None
        return compiling.portable(
            keras.saving.serialize_keras_object(dict(self._compile_arguments))
        )

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))

    def train_step(self, *args: Any) -> Any:
        """Run Keras's own step, with the step counter advancing beside it.

        The objective is in `compute_loss`, of which Keras's step takes the
        gradient; here is what moves once per optimizer step.
        """
        return counted_step(self, super().train_step, args)

    # Objective.

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the sum of the peers' losses, and record its parts."""
        labels = labels_module.labels_of_batch(y, self.num_classes)
        # Keras gives every part of `y` in a dictionary the same weight.
        sample_weight = labels_module.label_of(sample_weight)
        self._loss_values.check_labels(labels, self.num_classes)
        progress = self.progress()
        if training:
            self.update_threshold(progress)
        log_probs = self._log_probabilities(y_pred)
        threshold = ops.convert_to_tensor(self.threshold_variable)
        is_averaged = training and self.averaged_knowledge
        averaged = self.averaged_outputs(x) if is_averaged else {}
        knowledge = ops.stop_gradient(
            self._log_probabilities(averaged) if is_averaged else log_probs
        )
        selected = self.selected_knowledge(y, knowledge, threshold)
        supervised = objective.supervised_values(
            self._loss_values,
            labels,
            self._outputs(y_pred),
            log_probs,
            self._correction(y, log_probs, progress, training),
            self.label_weights(labels, knowledge, selected)
            if training
            else None,
        )
        if self.temperature != 1.0:
            log_probs = self._log_probabilities(y_pred, self.temperature)
            knowledge = (
                self._log_probabilities(averaged, self.temperature)
                if is_averaged
                else log_probs
            )
        distillation = objective.distillation_values(
            log_probs, selected, knowledge, self.temperature
        )
        weight = self.distillation_weight
        if callable(weight):
            weight = ops.cast(weight(progress), distillation.dtype)
        loss = objective.batch_mean(
            self.supervised_weight * supervised + weight * distillation,
            sample_weight,
        )
        for term in self.losses:
            loss = loss + objective.batch_mean(ops.reshape(ops.sum(term), (1,)))
        self._logs.record_objective(
            supervised, distillation, selected, threshold, sample_weight
        )
        return loss

    def selected_knowledge(self, y: Any, log_probs: Any, threshold: Any) -> Any:
        """Return which predictions are passed on as knowledge.

        Calls `selection`. Override it for a selection that needs the labels.

        Args:
            y: The labels, as the training data give them.
            log_probs: `(batch, peers, classes)`, the knowledge at temperature
                1, without gradient.
            threshold: Scalar, the threshold in force.

        Returns:
            `(batch, peers)`, 1 or 0.
        """
        return self.selection(log_probs, threshold)

    def label_weights(self, labels: Any, knowledge: Any, selected: Any) -> Any:
        """Return the weights `g` of the label's own term, `None` for ones.

        Args:
            labels: `(batch,)` integers or `(batch, classes)`.
            knowledge: `(batch, peers, classes)`, log-probabilities at
                temperature 1, without gradient.
            selected: `(batch, peers)`, 1 or 0.

        Returns:
            `(batch, peers)`, no gradient.
        """
        if self.gate is None:
            return None
        labels = labels_module.one_hot(
            labels, knowledge.shape[-1], knowledge.dtype
        )
        return ops.stop_gradient(self.gate(labels, knowledge, selected))

    def _correction(
        self, y: Any, log_probs: Any, progress: Any, training: bool
    ) -> Callable[[int, Any, Any], Any] | None:
        """Return the label correction `(peer, labels, predictions)`."""
        target = self.target
        if target is None:
            return None
        if self._memory is None:
            return lambda i, labels, probs: target(labels, probs, progress)
        probs = ops.exp(log_probs)
        rows = (
            self._memory.visit(memory.index_of_batch(y), probs)
            if training
            else self._memory.blank(probs)
        )
        return lambda i, labels, probs: target(
            labels, probs, progress, rows[:, i]
        )

    # Metrics.

    @property
    def metrics(self) -> list[Any]:
        return super().metrics + (self._logs.metrics if self._logs else [])

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Update the compiled metrics of the ensemble and of every peer."""
        probs = ops.exp(self._log_probabilities(y_pred))
        self._logs.record_outputs(
            labels_module.labels_of_batch(y, self.num_classes),
            [
                ops.mean(probs, axis=1),
                *(probs[:, i] for i in range(self.num_peers)),
            ],
            labels_module.label_of(sample_weight),
        )
        return self.get_metrics_result()

    # Configuration.

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            **saving.format_config(),
            "peers": [serialize(peer) for peer in self.peers],
            "from_logits": self.from_logits,
            "target": serialize(self.target),
            "selection": serialize(self.selection),
            "gate": serialize(self.gate),
            "averaged_knowledge": self.averaged_knowledge,
            "distillation_weight": serialize(self.distillation_weight),
            "supervised_weight": self.supervised_weight,
            "temperature": self.temperature,
            "total_steps": self.given_total_steps,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "SelectiveMutualDistillation":
        config = saving.without_format(config)
        # A file from before there were gates has none.
        config.setdefault("gate", None)
        parts = {"peers", "target", "selection", "gate", "distillation_weight"}
        for part in parts & set(config):
            config[part] = keras.saving.deserialize_keras_object(
                config[part], custom_objects=custom_objects
            )
        return cls(**config)
