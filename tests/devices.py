"""Trains on one device and on two, and prints how far the results differ.

Run as a process of its own, since devices are made before anything else. On
torch it is started twice, by torchrun. The two virtual devices are the CPU.
"""

import contextlib
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import keras
import numpy as np
from peers import functional_net
from peers import linear

import keras_smkd

BACKEND = keras.backend.backend()
STEPS, BATCH, EPOCHS = 10, 32, 2
SIZE = STEPS * BATCH


def train(model_class, places, weights=None, start=lambda model: None):
    """Return the first weights, the last ones, and the logs."""
    rng = np.random.default_rng(0)
    x = rng.normal(0.0, 2.0, (SIZE, 6)).astype("float32")
    y = rng.integers(0, 4, SIZE)
    x, y = x[places], y[places]
    model = model_class(
        [linear(kernel_regularizer="l2"), functional_net()],
        target=keras_smkd.targets.PosteriorLabels(SIZE, start=3),
        selection=keras_smkd.selection.ConfidentKnowledge(),
        gate=keras_smkd.gates.LabelGate(0.5),
        knowledge=keras_smkd.knowledge.Several(
            [
                keras_smkd.knowledge.PeerPredictions(),
                keras_smkd.knowledge.AveragedPeers(0.8),
                keras_smkd.knowledge.PastPredictions(SIZE),
            ]
        ),
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    if weights is not None:
        model.set_weights(weights)
    first = model.get_weights()
    start(model)
    history = model.fit(
        x,
        {"label": y, "index": places},
        batch_size=BATCH * len(places) // SIZE,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[keras_smkd.callbacks.ProgressiveThreshold(0.8, 0.5)],
    )
    named = {
        f"{i} {variable.path}": np.array(value, "float64")
        for i, (variable, value) in enumerate(
            zip(model.weights, model.get_weights(), strict=True)
        )
    }
    shown = rng.normal(0.0, 2.0, (BATCH, 6)).astype("float32")
    predictions = model.predict(shown, verbose=0, output="all")
    for output in ("ensemble", "averaged"):
        predictions[output] = model.predict(shown, verbose=0, output=output)
    for name, values in predictions.items():
        named[f"prediction of {name}"] = np.array(values, "float64")
    return first, named, history.history


def tensorflow_devices(first):
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        result = train(
            keras_smkd.SelectiveMutualDistillation, np.arange(SIZE), first
        )
    return strategy.num_replicas_in_sync, result


def jax_devices(first):
    import jax

    keras.distribution.set_distribution(keras.distribution.DataParallel())
    result = train(
        keras_smkd.SelectiveMutualDistillation, np.arange(SIZE), first
    )
    return len(jax.devices()), result


def torch_devices(first):
    import ddp
    import torch
    from torch import distributed

    distributed.init_process_group("gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    # Each batch's first half is for one process, its second for the other.
    places = np.arange(SIZE).reshape(STEPS, world, -1)[:, rank].reshape(-1)
    first, weights, logs = train(
        ddp.DistributedPeers, places, first, lambda model: model.distribute()
    )
    # A process logs what it has seen itself.
    for values in logs.values():
        both = torch.tensor(values)
        distributed.all_reduce(both)
        values[:] = (both / world).tolist()
    distributed.destroy_process_group()
    return world, (first, weights, logs)


def main():
    context = contextlib.nullcontext()
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * 2,
        )
    if BACKEND == "jax":
        import jax

        context = jax.default_matmul_precision("highest")
    with context:
        first, weights, logs = train(
            keras_smkd.SelectiveMutualDistillation, np.arange(SIZE)
        )
        devices, (_, others, other_logs) = globals()[f"{BACKEND}_devices"](
            first
        )
    remembered = next(k for k in weights if k.endswith("memory"))
    report = {
        "devices": devices,
        "selection_rate": logs["selection_rate"],
        "remembered": float((weights[remembered] != 0).mean()),
        "weights": {
            name: float(np.abs(value - other).max())
            for (name, value), other in zip(
                weights.items(), others.values(), strict=True
            )
        },
        "logs": {
            name: float(np.abs(np.subtract(values, other_logs[name])).max())
            for name, values in logs.items()
        },
    }
    if os.environ.get("RANK", "0") == "0":
        print("REPORT", json.dumps(report))


if __name__ == "__main__":
    main()
