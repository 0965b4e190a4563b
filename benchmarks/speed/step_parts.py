"""What schedules, memory and metrics add to a step, and what they must not.

    KERAS_BACKEND=jax python benchmarks/speed/step_parts.py [--json FILE]

Two convolutional peers are fitted with a static threshold and no metric, and
again with one thing more; shown is the share by which a warm epoch is longer.
A metric is kept for the ensemble and for both peers. The target that needs the
memory of examples is compared with one that does the same but forgets.

Then a fit of three epochs is watched: how often the objective is traced (run,
on torch, which compiles nothing), and, on JAX, how often the host reads an
array of the device, in fits of as many epochs but twice the steps. What is
read at every step would be read more often in the longer one.
"""

import os
import statistics

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measuring
import numpy as np
from keras import layers
from keras import ops
from step_time import SecondEpoch

import keras_smkd
from keras_smkd import callbacks
from keras_smkd import metrics
from keras_smkd import targets

BATCH = 128
STEPS = 12
NUM_CLASSES = 10


def network():
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(NUM_CLASSES),
        ]
    )


def forgetful(batch):
    """Correct as `TemporalEnsembling` does, by the predictions of now."""
    predictions = ops.stop_gradient(ops.exp(batch.log_probs))
    return targets.corrected_targets(batch.labels, predictions, batch.progress)


class Counted(keras_smkd.SelectiveMutualDistillation):
    """Counts how often Python runs through the objective."""

    traces = 0

    def compute_loss(self, *args, **kwargs):
        self.traces += 1
        return super().compute_loss(*args, **kwargs)


def make_data(steps):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(steps * BATCH, 32, 32, 3)).astype("float32")
    y = generator.integers(0, NUM_CLASSES, len(x))
    return x, {"label": y, "index": np.arange(len(x))}


def make_model(compiled_metrics=(), target=None):
    model = Counted([network() for _ in range(2)], target=target, gate=None)
    model.compile(
        keras.optimizers.Adam(1e-3),
        "sparse_categorical_crossentropy",
        metrics=list(compiled_metrics),
    )
    return model


def fit(model, data, schedule, epochs=2, extra=()):
    model.fit(
        *data,
        batch_size=BATCH,
        epochs=epochs,
        verbose=0,
        callbacks=[schedule, *extra],
    )


def fitting(data, schedule=None, **kwargs):
    model = make_model(**kwargs)
    schedule = schedule or callbacks.StaticThreshold(0.5)

    def seconds():
        timer = SecondEpoch()
        fit(model, data, schedule, extra=[timer])
        return timer.seconds

    return seconds


def host_reads(steps):
    """Return how often a fit reads an array of JAX on the host."""
    from jax._src import array

    model, data = make_model(["accuracy"]), make_data(steps)
    schedule = callbacks.ProgressiveThreshold(sharpness=-8.0)
    fit(model, data, schedule)
    original = array.ArrayImpl._value
    reads = 0

    def counted(self):
        nonlocal reads
        reads += 1
        return original.fget(self)

    array.ArrayImpl._value = property(counted)
    try:
        fit(model, data, schedule, epochs=3)
    finally:
        array.ArrayImpl._value = original
    return reads


def main():
    arguments = measuring.parser(__doc__, rounds=9).parse_args()
    backend = keras.backend.backend()
    data = make_data(STEPS)
    examples = len(data[0])
    parts = {
        "static": fitting(data),
        "progressive threshold": fitting(
            data, callbacks.ProgressiveThreshold(sharpness=-8.0)
        ),
        "forgetful target": fitting(data, target=forgetful),
        "target with memory": fitting(
            data, target=targets.TemporalEnsembling(examples)
        ),
        "accuracy": fitting(data, compiled_metrics=["accuracy"]),
        "expected calibration error": fitting(
            data, compiled_metrics=[metrics.ExpectedCalibrationError()]
        ),
    }
    seconds = measuring.time_in_rounds(parts, arguments.rounds)
    table = measuring.Table(
        {
            "part": ("part", 30, "s"),
            "against": ("against", 20, "s"),
            "more": ("more, %", 9, ".2f"),
            "step_ms": ("ms/step", 9, ".2f"),
        }
    )
    for part in parts:
        against = (
            "forgetful target" if part == "target with memory" else "static"
        )
        table.add(
            backend=backend,
            part=part,
            against=against,
            more=100 * (measuring.ratio(seconds[part], seconds[against]) - 1),
            step_ms=1000 * statistics.median(seconds[part]) / STEPS,
        )
    model = make_model(["accuracy"])
    fit(model, data, callbacks.ProgressiveThreshold(), epochs=3)
    watched = {"steps": 3 * STEPS, "objective_traced": model.traces}
    print(f"\nobjective traced: {model.traces} times in {3 * STEPS} steps")
    if backend == "jax":
        watched["host_reads"] = {
            str(3 * steps): host_reads(steps) for steps in (STEPS, 2 * STEPS)
        }
        for steps, reads in watched["host_reads"].items():
            print(f"arrays read by the host: {reads} in {steps} steps")
    table.write(arguments.json, rounds=arguments.rounds, watched=watched)


if __name__ == "__main__":
    main()
