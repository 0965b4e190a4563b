"""One of the processes that `processes.py` starts, and what it trains.

    python process_run.py FOLDER WAY RANK PORT...

There are as many processes as ports; one alone is not distributed.
"""

import contextlib
import json
import os
import pathlib
import sys

import keras
import numpy as np

import keras_smkd
from keras_smkd import callbacks
from keras_smkd import data
from keras_smkd import knowledge

BACKEND = keras.backend.backend()
STEPS, BATCH, EPOCHS = 10, 32, 3
EXAMPLES, CLASSES = STEPS * BATCH, 4


def join(rank, ports):
    """Join the other processes; return the scope that a model is made in."""
    world = len(ports)
    if world == 1:
        return contextlib.nullcontext()
    if BACKEND == "jax":
        import jax

        # CPUs only; what joins GPUs needs no setting.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize(f"localhost:{ports[0]}", world, rank)
        distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        keras.distribution.set_distribution(distribution)
        return contextlib.nullcontext()
    if BACKEND == "tensorflow":
        import tensorflow as tf

        cluster = {"worker": [f"localhost:{port}" for port in ports]}
        task = {"type": "worker", "index": rank}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        return tf.distribute.MultiWorkerMirroredStrategy().scope()
    from torch import distributed

    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=ports[0])
    distributed.init_process_group("gloo", rank=rank, world_size=world)
    return contextlib.nullcontext()


def make_peer(width):
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(width, "tanh", kernel_regularizer="l2"),
            keras.layers.Dense(CLASSES),
        ]
    )


def make_model(world):
    keras.utils.set_random_seed(0)
    model_class = keras_smkd.SelectiveMutualDistillation
    through_torch = BACKEND == "torch" and world > 1
    if through_torch:
        sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples"))
        import ddp

        model_class = ddp.DistributedPeers
    model = model_class(
        [make_peer(8), make_peer(12)],
        target=keras_smkd.targets.TemporalEnsembling(EXAMPLES),
        selection=keras_smkd.selection.ConfidentKnowledge(),
        gate=keras_smkd.gates.LabelGate(0.5),
        knowledge=knowledge.Several(
            [
                knowledge.PeerPredictions(),
                knowledge.AveragedPeers(0.9),
                knowledge.PastPredictions(EXAMPLES, momentum=0.8),
            ]
        ),
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    if through_torch:
        model.distribute()
    return model


def make_data(way, rank, count):
    """Return one of `count` parts of the data, as arguments of `fit`."""
    generator = np.random.default_rng(0)
    x = generator.normal(0.0, 2.0, (EXAMPLES, 6)).astype("float32")
    y = generator.integers(0, CLASSES, EXAMPLES)
    batch_size = BATCH // count
    if way == "pipeline":
        make = data.make_pipeline
        if BACKEND == "torch":  # TensorFlow need not be there.
            make = data.PipelineSequence
        train = make(
            x,
            y,
            batch_size=batch_size,
            with_index=True,
            shuffle=True,
            seed=0,
            shard=(rank, count),
        )
        return {"x": train}
    # A part of each batch.
    places = np.arange(EXAMPLES).reshape(STEPS, count, batch_size)[:, rank]
    places = places.reshape(-1)
    labels = {"label": y[places], "index": places}
    return {"x": x[places], "y": labels, "batch_size": batch_size}


def kind_of(variable):
    """Return what a weight of the model is of."""
    for kind in ("clock", "averaged", "memory"):
        if kind in variable.path:
            return kind
    return "peers"


def train(folder, scope, way, rank, world):
    """Return all that a training ends with: `{kind and name: array}`."""
    # TensorFlow's strategy divides the whole data among the processes.
    part = (0, 1) if BACKEND == "tensorflow" else (rank, world)
    given = make_data(way, *part)
    with scope:
        model = make_model(world)
    history = model.fit(
        **given,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[callbacks.ProgressiveThreshold(0.8, 0.5)],
    ).history
    if rank == 0:
        # One process alone: the others must not be needed.
        model.save_weights(f"{folder}/{way}-{world}.weights.h5")
    evaluated = model.evaluate(**given, verbose=0, return_dict=True)
    predicted = {}
    if BACKEND != "jax":  # Keras gives none of several processes the whole.
        inputs = make_data("arrays", 0, 1)["x"]
        predicted["predicted"] = model.predict(inputs, BATCH, verbose=0)
    variables = [(kind_of(v), v) for v in model.weights]
    variables += [("optimizer", v) for v in model.optimizer.variables]
    return {
        **{
            f"{kind} {i}": keras.ops.convert_to_numpy(variable)
            for i, (kind, variable) in enumerate(variables)
        },
        **predicted,
        **{f"logs {name}": value for name, value in history.items()},
        **{f"logs test {name}": value for name, value in evaluated.items()},
    }


def main():
    folder, way, rank, *ports = sys.argv[1:]
    scope = join(int(rank), ports)
    end = train(folder, scope, way, int(rank), len(ports))
    np.savez(f"{folder}/{way}-{len(ports)}-{rank}.npz", **end)


if __name__ == "__main__":
    main()
