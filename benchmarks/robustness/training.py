"""One run: from a configuration to a record that tells all about it."""

import hashlib
import importlib.metadata
import json
import math
import pathlib
import time
from typing import Any

import data
import keras
import methods
import networks
import numpy as np
import pools
import records
from absl import logging
from keras import ops

import keras_smkd
from keras_smkd import functional
from keras_smkd import metrics
from keras_smkd.batch import to_others

# Examples in one forward pass, for the measurements.
CHUNK = 4096
# Examples in one selection, for the measurements.
SELECTION_CHUNK = 1024


def settle(cache: str | None) -> None:
    """Prepare a process for runs; JAX keeps compilations in `cache`."""
    logging.set_verbosity(logging.WARNING)
    if cache and keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class Measurements(keras.callbacks.Callback):
    """Measures after every so many epochs, and after the last.

    All of it is from one forward pass over all examples, without training, by
    a model that stacks the peers' probabilities.

    Args:
        reader: From inputs to `(batch, peers, classes)` probabilities.
        split: `data.Split`.
        every: Epochs between measurements.
        path: File that keeps them, for a run that goes on from a backup.
    """

    def __init__(
        self,
        reader: keras.Model,
        split: Any,
        every: int,
        path: pathlib.Path | None = None,
    ) -> None:
        super().__init__()
        self.reader = reader
        self.split = split
        self.every = every
        self.path = path
        self.epochs: dict[str, list[Any]] = {}
        self.seconds: list[float] = []
        # Probabilities of the test examples, when measured last.
        self.test: Any = None
        train, validation, _ = split.sizes
        self._bounds = [train, train + validation]
        self._chunks, self._count = equal_chunks(split.inputs, CHUNK)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if len(self.seconds) != epoch:
            self._go_on_from(epoch)
        self._start = time.perf_counter()

    def _go_on_from(self, epoch: int) -> None:
        """Take what was measured up to an epoch that a backup restored."""
        kept = json.loads(self.path.read_text())
        self.seconds = kept["seconds"][:epoch]
        count = sum(done <= epoch for done in kept["epochs"].get("epoch", []))
        self.epochs = {k: v[:count] for k, v in kept["epochs"].items()}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params["epochs"]:
            values = {"epoch": epoch + 1, "loss": logs["loss"]}
            values |= self.measure(self.model)
            for name in ("selection_rate", "threshold"):
                if name in logs:
                    values[name] = logs[name]
            for name, value in values.items():
                self.epochs.setdefault(name, []).append(_plain(value))
        self.seconds.append(time.perf_counter() - self._start)
        if self.path is not None:
            kept = {"epochs": self.epochs, "seconds": self.seconds}
            # Moved to its place, so that it is whole whenever it is there.
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(kept))
            part.replace(self.path)

    def predict(self) -> list[Any]:
        """Return the probabilities of training, validation and test examples.

        Each `(examples, peers, classes)`.
        """
        probs = np.concatenate(
            [self.reader.predict_on_batch(chunk) for chunk in self._chunks]
        )
        return np.split(probs[: self._count], self._bounds)

    def measure(self, model: keras.Model) -> dict[str, float]:
        """Return the measurements of the model as it is."""
        split = self.split
        train, validation, test = self.predict()
        self.test = test
        wrong = split.noisy_labels != split.clean_labels
        values = {}
        for name, labels, probs in (
            ("test", split.test_labels, test),
            ("validation", split.validation_labels, validation),
            # Of the wrong labels: learnt by heart, and seen through.
            ("memorized", split.noisy_labels[wrong], train[wrong]),
            ("corrected", split.clean_labels[wrong], train[wrong]),
        ):
            values[f"{name}_ensemble"] = accuracy(labels, probs.mean(axis=1))
            values[f"{name}_peer"] = accuracy(labels[:, None], probs)
        if getattr(model, "selection", None) is not None:
            values |= self._exchange(model, train)
        return values

    def _exchange(self, model: Any, probs: Any) -> dict[str, float]:
        """Return how much of what is selected, and gated, is right to be.

        Where examples are ranked among each other, it is among these chunks
        here, which are larger than the batches of training.
        """
        noisy, clean = self.split.noisy_labels, self.split.clean_labels
        parts = -(-len(probs) // SELECTION_CHUNK)
        found = []
        for index in np.array_split(np.arange(len(probs)), parts):
            labels = keras.ops.one_hot(noisy[index], probs.shape[-1])
            batch = keras_smkd.Batch(
                labels=labels,
                index=ops.convert_to_tensor(index, "int32"),
                log_probs=functional.log_probabilities(
                    probs[index], from_logits=False
                ),
                threshold=ops.convert_to_tensor(model.threshold, "float32"),
            )
            batch = batch.filled(
                knowledge=batch.log_probs, routes=to_others(probs.shape[1])
            )
            selected = model.selection(batch)
            kept = ops.ones_like(selected)
            if model.gate is not None:
                kept = model.gate(batch.filled(selected=selected))
            found.append([ops.convert_to_numpy(x) for x in (selected, kept)])
        selected, kept = (np.concatenate(x) for x in zip(*found, strict=True))
        right = probs.argmax(axis=-1) == clean[:, None]
        wrong = np.broadcast_to((noisy != clean)[:, None], kept.shape)
        values = {"selection_precision": share(right, selected)}
        if model.gate is not None:
            values["gate_rate"] = float((1.0 - kept).mean())
            values["gate_precision"] = share(wrong, 1.0 - kept)
        return values


def share(true: Any, weights: Any) -> float:
    """Return the weighted share that is true, NaN where no weight is."""
    total = weights.sum()
    return float((true * weights).sum() / total) if total else math.nan


def accuracy(labels: Any, probs: Any) -> float:
    """Return the share of labels that are the most probable class.

    NaN where there are none.
    """
    right = probs.argmax(axis=-1) == labels
    return float(right.mean()) if right.size else math.nan


def equal_chunks(inputs: Any, largest: int) -> tuple[list[Any], int]:
    """Return the inputs in chunks of one size, padded, and how many they are.

    One size compiles once.
    """
    count = len(inputs)
    size = -(-count // -(-count // largest))
    missing = -count % size
    padded = np.concatenate([inputs, inputs[:1].repeat(missing, axis=0)])
    return np.split(padded, len(padded) // size), count


def calibration_error(labels: Any, probs: Any) -> float:
    """Return the expected calibration error, with 15 bins."""
    metric = metrics.ExpectedCalibrationError()
    metric.update_state(labels, probs)
    return float(ops.convert_to_numpy(metric.result()))


def make_reader(peers: list[keras.Model]) -> keras.Model:
    """Return the peers as one model of `(batch, peers, classes)` probabilities.

    It shares their weights.
    """
    inputs = keras.Input(peers[0].input_shape[1:])
    probs = [ops.softmax(peer(inputs)) for peer in peers]
    return keras.Model(inputs, ops.stack(probs, axis=1))


def make_optimizer(config: dict[str, Any], steps: int, extra: Any) -> Any:
    """Return the optimizer of a configuration, for so many steps."""
    rate = config["knobs"]["learning_rate"]
    if config["schedule"] == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    if config["weight_decay"]:
        extra = {**extra, "weight_decay": config["weight_decay"]}
    if config["optimizer"] == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9, **extra)
    return keras.optimizers.Adam(rate, **extra)


def execute(
    config: dict[str, Any], places: pools.Places, backups: str | None = None
) -> dict[str, Any]:
    """Train as a configuration says; return the record of the run.

    Args:
        config: As `run.py` makes it; all that the run depends on.
        places: Where the data sets are.
        backups: Folder to go on from, if the run was cut short, and to keep
            what that takes. The seconds are of the epochs that were done.
    """
    split = data.load(config, places)
    cpu_start = time.process_time()
    keras.utils.clear_session()
    keras.config.set_dtype_policy(config.get("policy", "float32"))
    keras.utils.set_random_seed(config["seed"])
    method, knobs = methods.METHODS[config["method"]], config["knobs"]
    shape = split.inputs.shape[1:]
    names = config["net"].split("+")
    num_peers = 1 if method.is_single else method.num_peers or config["peers"]
    peers = [
        networks.make_network(names[i % len(names)], shape, split.num_classes)
        for i in range(num_peers)
    ]
    model = method.make_model(peers, knobs, split.clean_labels)
    steps = config["epochs"] * split.sizes[0] // config["batch_size"]
    model.compile(
        make_optimizer(config, steps, method.optimizer(knobs)),
        method.loss(knobs),
    )
    folder = None
    if backups is not None:
        key = records.key_of(config).encode()
        folder = pathlib.Path(backups, hashlib.sha256(key).hexdigest()[:16])
        folder.mkdir(parents=True, exist_ok=True)
    measurements = Measurements(
        make_reader(peers),
        split,
        config["measure_every"],
        folder and folder / "measurements.json",
    )
    acting = [
        *method.make_callbacks(knobs, split, config["epochs"]),
        measurements,
    ]
    if folder:
        acting.append(keras.callbacks.BackupAndRestore(folder / "weights"))
    examples = _training_data(config, split, method.is_single)
    if method.is_single and folder and config["augment"] != "none":
        # Our own models tell them by themselves.
        tell = examples["x"].set_epoch
        acting.append(
            keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, logs: tell(epoch)
            )
        )
    model.fit(
        **examples,
        epochs=config["epochs"],
        verbose=0,
        callbacks=acting,
    )
    # Not predicted anew: after averaged weights have been swapped in, Keras
    # leaves a model on JAX that cannot.
    test, labels = measurements.test, split.test_labels
    return {
        "config": config,
        # Where the table has the method.
        "row": list(methods.METHODS).index(config["method"]),
        "versions": _versions(),
        "noise": split.recipe,
        "noise_rate": float(np.mean(split.noisy_labels != split.clean_labels)),
        "sizes": list(split.sizes),
        "peers": num_peers,
        "shares_nothing": method.is_single or method.shares_nothing,
        "weights": peers[0].count_params(),
        "epochs": measurements.epochs,
        "test_of_each_peer": [
            accuracy(labels, test[:, i]) for i in range(num_peers)
        ],
        "ece_ensemble": _plain(calibration_error(labels, test.mean(axis=1))),
        "ece_peer": _plain(
            np.mean(
                [
                    calibration_error(labels, test[:, i])
                    for i in range(num_peers)
                ]
            )
        ),
        "seconds": round(sum(measurements.seconds), 3),
        "cpu_seconds": round(time.process_time() - cpu_start, 3),
        "seconds_of_first_epoch": round(measurements.seconds[0], 3),
    }


def _training_data(
    config: dict[str, Any], split: Any, is_single: bool
) -> dict[str, Any]:
    """Return the arguments of `fit` that bring the examples."""
    count, batch_size = split.sizes[0], config["batch_size"]
    images, labels = split.inputs[:count], split.noisy_labels
    index = np.arange(count, dtype="int32")
    if config["augment"] == "none":
        y = labels if is_single else {"label": labels, "index": index}
        return {"x": images, "y": y, "batch_size": batch_size}
    sequence = keras_smkd.data.PipelineSequence(
        images,
        labels,
        index=None if is_single else index,
        batch_size=batch_size,
        shuffle=True,
        seed=config["seed"],
        augment=config["augment"],
    )
    return {"x": sequence, "shuffle": False}


def _versions() -> dict[str, str]:
    backend = keras.backend.backend()
    return {
        "keras_smkd": keras_smkd.__version__,
        "keras": keras.__version__,
        "backend": backend,
        backend: importlib.metadata.version(backend),
        "numpy": np.__version__,
    }


def _plain(value: Any) -> float | int | None:
    """Return a number that JSON knows, `None` for what is not finite."""
    if isinstance(value, int):
        return value
    value = float(value)
    return round(value, 5) if math.isfinite(value) else None
