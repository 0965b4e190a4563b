"""A Keras model of peers: its doors, its forward pass, its files, its `fit`."""

import contextlib
import functools
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd._config import arguments_of
from keras_smkd._frozen import in_whole_file
from keras_smkd.model import backends
from keras_smkd.model import files
from keras_smkd.model import forward
from keras_smkd.model import labels as labels_module
from keras_smkd.model import peers as peers_module
from keras_smkd.model import progress
from keras_smkd.model import resuming
from keras_smkd.model import summary
from keras_smkd.model.clock import Clock


class PeerModel(keras.Model):
    """Several classifiers of the same inputs, as one model that can resume.

    What they are trained for is said by a subclass, `PeerLearning`, which also
    says what most arguments are.

    Args:
        parts: The parts of the objective, by the names of their arguments.
        threshold: The selection threshold to begin with, or a schedule of it.
        min_peers: How many peers there must be.
    """

    def __init__(
        self,
        peers: peers_module.Peers,
        from_logits: bool,
        head: Any,
        parts: dict[str, Any],
        total_steps: int | None,
        threshold: Any,
        min_peers: int,
        **kwargs: Any,
    ) -> None:
        peers_module.check_peers(peers, min_peers)
        _checks.boolean("from_logits", from_logits)
        super().__init__(**kwargs)
        self.from_logits = from_logits
        # In outputs, logs and exports.
        self.peer_names = peers_module.names_of(peers)
        self.peers = peers_module.models_of(peers)
        self.head = head
        self.clock = Clock(total_steps, threshold)
        self.given_total_steps = total_steps
        # Known once the model is built and compiled; nothing is checked before.
        self.num_classes: Any = None
        self._logs: Any = None
        # Where in a training by `fit` it stands; unknown before the first.
        self.place: files.Place | None = None
        self._was_loaded = False
        self._class_weight: dict[int, float] | None = None
        self._is_prepared = False
        # In closures: Keras would save what it finds behind attributes, for
        # each part under its own name, and lists of them once more.
        parts = {k: part for k, part in parts.items() if part is not None}
        self.parts = lambda: parts
        self._recorders: Callable[[], list[Any]] = lambda: []
        asked = forward.Asked()
        self._asked = lambda: asked

    # Before `__init__` there is nothing to keep, and Keras sets a function.
    _asked: Callable[[], forward.Asked] = staticmethod(forward.Asked)

    def averaged_outputs(self, inputs: Any) -> list[Any]:
        """Return what the peers' averages put out, one for each peer."""
        raise TypeError("`averaged_outputs` must be written by the subclass.")

    def check_thresholds(self, *thresholds: float) -> None:
        """Raise if a part cannot work with a threshold, over the training."""

    @property
    def num_peers(self) -> int:
        """The number of peers."""
        return len(self.peers)

    @property
    def learner_names(self) -> tuple[str, ...]:
        """The names of the peers, and of the head if there is one."""
        return self.peer_names + (() if self.head is None else ("head",))

    @property
    def taps(self) -> tuple[forward.Tap, ...]:
        """The peers' layers that a part looks at, by their names."""
        return forward.taps_of([*self.parts().values(), self.head])

    # Forward pass.

    def build(self, input_shape: Any) -> None:
        """Build what is not built yet: peers, and what the parts need."""
        for peer in self.peers:
            if not peer.built:
                peer.build_from_config({"input_shape": input_shape})
        peers = peers_module.as_given(self.peer_names, self.peers)
        self.num_classes = peers_module.known_num_classes(peers)
        if not self._is_prepared:
            peers_module.check_unshared(peers)
            if self.from_logits:
                peers_module.warn_of_softmax(peers)
            recorders = forward.recorders(self.peers, self.taps)
            self._recorders = lambda: recorders
            parts = {**self.parts(), "head": self.head}
            forward.prepare(parts, self.peers, self.num_classes)
            self._is_prepared = True
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        if self._output == "averaged":
            averages = self.averaged_outputs(inputs)
            return dict(zip(self.peer_names, averages, strict=True))
        found, features = forward.recorded_outputs(
            self._recorders() or self.peers, self.taps, inputs, training
        )
        outputs: dict[str, Any] = dict(zip(self.peer_names, found, strict=True))
        if self.head is not None:
            own = forward.features_of(self.head, features)
            outputs["head"] = self.head(list(own), training=training)
        # A subclassed peer tells the shape of its output only here.
        self.num_classes = peers_module.num_classes_of(outputs)
        looked_at = forward.taps_of(self.parts().values())
        if looked_at:
            outputs["features"] = {tap: features[tap] for tap in looked_at}
        return outputs

    def logits(self, y_pred: dict[str, Any]) -> Any:
        """Return `(batch, learners, classes)` from the learners' outputs."""
        outputs = forward.outputs_of(y_pred, self.learner_names)
        return functional.logits(ops.stack(outputs, axis=1), self.from_logits)

    def log_probs(self, y_pred: dict[str, Any]) -> Any:
        """Return those of the learners, which `compute_loss` may have left."""
        found = y_pred.get("log_probs")
        if found is None:
            found = functional.log_probabilities(self.logits(y_pred))
        return found

    # Doors.

    @functools.wraps(keras.Model.fit)
    def fit(self, *args: Any, **kwargs: Any) -> Any:
        given = arguments_of(keras.Model.fit, self, *args, **kwargs)
        progress.add_line(self, given)
        backends.check_undivided(self, given.get("x"))
        given["validation_data"] = labels_module.checked_validation(
            given.get("validation_data"), self.num_classes
        )
        with (
            self._training(given, self.needs_index),
            resuming.counted_callbacks(
                self,
                given.pop("callbacks"),
                given.get("initial_epoch", 0),
                given.get("x"),
            ) as callbacks,
        ):
            return super().fit(callbacks=callbacks, **given)

    @contextlib.contextmanager
    def _training(
        self, given: dict[str, Any], add_index: bool = False
    ) -> Iterator[None]:
        """Check the arguments of a training in place, and set up for it."""
        y = self._labels(given.get("y"))
        given["y"] = labels_module.with_index(y) if add_index else y
        labels_module.check_index_values(given["y"], self.parts().values())
        before = (self.clock.schedule, self._class_weight)
        self._class_weight = labels_module.checked_class_weight(
            given.pop("class_weight", None),
            given.get("sample_weight"),
            self.num_classes,
        )
        self._build_optimizer()
        try:
            yield
        finally:
            self.clock.schedule, self._class_weight = before

    @functools.wraps(keras.Model.evaluate)
    def evaluate(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        y = self._labels(y)
        given = arguments_of(keras.Model.evaluate, self, x, y, *args, **kwargs)
        progress.add_line(self, given)
        try:
            return super().evaluate(**given)
        finally:
            backends.put_weights_back(self)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
        *,
        output: str = "ensemble",
    ) -> Any:
        """Return class probabilities; as `keras.Model.predict` otherwise.

        It can be called from several threads, one of which works at a time.

        Args:
            output: `"ensemble"` for the mean of the peers' probabilities,
                `"all"` for each peer's own (and the head's), `"averaged"` for
                the mean over the peers' averaged weights, or the name of one
                learner, such as `"peer_0"` (or the name that it was given)
                or `"head"`.

        Returns:
            `(examples, classes)`; for `"all"` a dictionary of these with the
            learners' names as keys: `"peer_0"`, `"peer_1"`, ...
        """
        known = ("ensemble", "all", "averaged", *self.learner_names)
        _checks.one_of("output", output, known)
        with self._asked().asking(output):
            try:
                return super().predict(x, batch_size, verbose, steps, callbacks)
            finally:
                backends.put_weights_back(self)

    @property
    def predict_function(self) -> Any:
        """The compiled function of the output that is asked for."""
        return self._asked().functions.get(self._output)

    @predict_function.setter
    def predict_function(self, value: Any) -> None:
        if value is None:
            self._asked().functions.clear()
        else:
            self._asked().functions[self._output] = value

    @property
    def _output(self) -> str:
        return self._asked().output(backends.is_replicated(self))

    def predict_step(self, *args: Any) -> Any:
        return backends.map_outputs(super().predict_step(*args), self._readout)

    def _readout(self, y_pred: Any) -> Any:
        probs = ops.exp(self.log_probs(y_pred))
        return forward.readout(
            self._output, probs, self.learner_names, self.num_peers
        )

    @functools.wraps(keras.Model.train_on_batch)
    def train_on_batch(
        self, x: Any, y: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        method = keras.Model.train_on_batch
        given = arguments_of(method, self, x, y, *args, **kwargs)
        with self._training(given):
            self.settle_step()
            return super().train_on_batch(**given)

    @functools.wraps(keras.Model.test_on_batch)
    def test_on_batch(
        self, x: Any, y: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        y = self._labels(y)
        return super().test_on_batch(x, y, *args, **kwargs)

    def _labels(self, y: Any) -> Any:
        return labels_module.checked_labels(y, self.num_classes)

    @property
    def needs_index(self) -> bool:
        """Whether a part needs each example's place in the data set."""
        parts = self.parts().values()
        return any(getattr(part, "needs_index", False) for part in parts)

    # Progress.

    @property
    def step(self) -> int:
        """Optimizer steps taken in the current training."""
        return int(ops.convert_to_numpy(self.clock.step))

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps in the whole training, `None` if unknown."""
        return int(ops.convert_to_numpy(self.clock.total_steps)) or None

    @total_steps.setter
    def total_steps(self, value: int) -> None:
        value = _checks.integer("total_steps", value, minimum=1)
        self.given_total_steps = value
        self.clock.total_steps.assign(value)

    @property
    def threshold(self) -> float:
        """The threshold in force; a schedule given to `fit` overwrites it."""
        return float(ops.convert_to_numpy(self.clock.threshold))

    @threshold.setter
    def threshold(self, value: float) -> None:
        value = _checks.number("threshold", value, minimum=0.0)
        self.check_thresholds(value)
        self.clock.threshold.assign(value)

    def set_threshold_schedule(self, schedule: Callable[[Any], Any]) -> None:
        """Let a schedule write the threshold, for the rest of this `fit`.

        It becomes part of the compiled step. `ThresholdSchedule` calls this.

        Args:
            schedule: `progress -> threshold`.

        Raises:
            ValueError: if there is one, or a part cannot work with it.
        """
        self.check_thresholds(*forward.values_of(schedule))
        self.clock.set_schedule(schedule)

    def settle_step(self) -> None:
        """Have the compiled step contain the schedule and weights in force.

        Raises:
            ValueError: if a part follows the progress of training and the
                total steps are unknown.
        """
        self.clock.check_total_steps(
            [self.clock.schedule, *self.parts().values()]
        )
        if not self.clock.is_settled(self._class_weight):
            self.make_train_function(force=True)

    @property
    def epoch(self) -> int:
        """Whole epochs that `fit` has done, for `initial_epoch`."""
        return 0 if self.place is None else self.place.epoch

    def set_epoch(self, epoch: int) -> None:
        """Say that so many whole epochs are done, whatever a file says.

        Not a setter: TensorFlow drops the setting of a value that is there.
        """
        epoch = _checks.integer("epoch", epoch, minimum=0)
        seed = 0 if self.place is None else self.place.torch_seed
        self.place = files.Place(epoch, data_epoch=epoch, torch_seed=seed)

    def take_loaded(self) -> bool:
        """Return whether weights were loaded since this was last asked."""
        was_loaded, self._was_loaded = self._was_loaded, False
        return was_loaded

    summary = summary.summary

    # Files.

    def _build_optimizer(self) -> None:
        # Not in `compile`, after which layers may still be frozen; and before
        # a file is read or written, or its state has no place.
        if self.compiled and self.built and not self.optimizer.built:
            backends.build_optimizer(self)

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: `keras_smkd.export` writes peers and their ensemble."""
        raise ValueError(
            "`export` must be this package's for a model of peers: "
            "`keras_smkd.export(model, path)`. Received: a call of Keras's own."
        )

    def load_weights(self, filepath: Any, **kwargs: Any) -> None:
        """Load as `keras.Model.load_weights` does, of the same parts."""
        self._build_optimizer()
        if not kwargs.get("skip_mismatch"):
            files.check_parts(filepath, self)
        super().load_weights(filepath, **kwargs)

    def save(
        self,
        filepath: Any,
        overwrite: bool = True,
        zipped: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Save as `keras.Model.save` does, a `.keras` file whole or not."""
        self._build_optimizer()
        is_one_file = zipped is not False and str(filepath).endswith(".keras")
        whole = files.whole_file(filepath, overwrite, is_one_file)
        with whole as path, in_whole_file(), backends.saving_alone():
            super().save(path, overwrite=overwrite, zipped=zipped, **kwargs)

    def save_weights(
        self,
        filepath: Any,
        overwrite: bool = True,
        max_shard_size: float | None = None,
    ) -> None:
        """Save as `keras.Model.save_weights` does, one file whole or not."""
        self._build_optimizer()
        is_one_file, space = max_shard_size is None, files.space_of(self)
        whole = files.whole_file(filepath, overwrite, is_one_file, space)
        with whole as path, backends.saving_alone():
            super().save_weights(path, overwrite, max_shard_size)

    def save_own_variables(self, store: Any) -> None:
        """Save the model's own weights, its randomness and its place."""
        super().save_own_variables(store)
        files.write_state(store, self._seed_states(), self)

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` saved.

        Raises:
            ValueError: if another version saved it, in a format of its own.
        """
        rest, self.place = files.read_state(store, self._seed_states())
        super().load_own_variables(rest)
        self._was_loaded = True

    def _seed_states(self) -> list[Any]:
        known = {id(v) for v in (*self.weights, *self.metrics_variables)}
        return [v for v in self.variables if id(v) not in known]

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, **kwargs: Any
    ) -> Iterator[tuple[str, Any]]:
        """Yield every variable's parameter, under a name of its own."""
        return backends.named_parameters(self.variables, prefix)

    def _get_jax_state(self, **kwargs: Any) -> Any:
        state = super()._get_jax_state(**kwargs)
        backends.remember_state(self, state, kwargs)
        return state

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        build = super()._maybe_symbolic_build
        backends.build_symbolically(self, build, *args, **kwargs)
