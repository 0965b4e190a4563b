"""What the objective costs where there are many classes.

    KERAS_BACKEND=jax python benchmarks/speed/large_classes.py [--json FILE]

From the logits of two peers (four and eight in the last rows): the peers' cross
entropy alone, and with confident knowledge selected and passed on; values and
gradients, compiled where the backend compiles. `ms` and `MiB` are those of the
cross entropy; the ratios are those of the whole objective to it, and `more ms`
is the difference. Memory is the most by which a process of its own grows,
logits and gradients included.

Then the largest tensor that comes up in the whole objective, of any
operation, in logits (batch x peers x classes): a tensor of every pair of peers
would be as many as there are peers.
"""

import math
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measuring
import numpy as np
from keras import ops

from keras_smkd import Batch
from keras_smkd import functional
from keras_smkd.selection import ConfidentKnowledge

BACKEND = keras.backend.backend()
SIZES = [
    (num_classes, batch, 2)
    for num_classes in (10, 100, 1_000, 21_841)
    for batch in (128, 1_024)
] + [(1_000, 128, 4), (1_000, 128, 8), (21_841, 128, 4)]


def cross_entropy(logits, labels):
    values = [
        keras.losses.sparse_categorical_crossentropy(
            labels, logits[:, i], from_logits=True
        )
        for i in range(logits.shape[1])
    ]
    return ops.mean(sum(values))


def whole(logits, labels):
    log_probs = functional.log_probabilities(logits)
    selected = ConfidentKnowledge()(Batch(knowledge=log_probs, threshold=0.9))
    divergences = functional.mutual_distillation(log_probs, selected)
    return cross_entropy(logits, labels) + ops.mean(ops.sum(divergences, 1))


OBJECTIVES = {"cross entropy": cross_entropy, "whole": whole}


def with_gradient(objective):
    """Return `(logits, labels) -> (value, gradient)`, compiled if possible."""
    if BACKEND == "jax":
        import jax

        return jax.jit(jax.value_and_grad(objective))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function(jit_compile=True)
        def function(logits, labels):
            with tf.GradientTape() as tape:
                tape.watch(logits)
                value = objective(logits, labels)
            return value, tape.gradient(value, logits)

        return function

    def function(logits, labels):
        logits = logits.detach().requires_grad_()
        value = objective(logits, labels)
        value.backward()
        return value, logits.grad

    return function


def make_batch(num_classes, batch, num_peers):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(batch, num_peers, num_classes))
    labels = generator.integers(0, num_classes, batch)
    return (
        ops.convert_to_tensor(logits.astype("float32")),
        ops.convert_to_tensor(labels.astype("int32")),
    )


def seconds_of(function, arguments, calls):
    start = time.perf_counter()
    for _ in range(calls):
        value, gradient = function(*arguments)
        float(value)
        float(gradient[0, 0, 0])
    return (time.perf_counter() - start) / calls


def measure(size, rounds):
    arguments = make_batch(*size)
    calls = max(1, 10_000_000 // math.prod(size))
    calls = min(calls, 100)
    functions = {
        name: with_gradient(objective) for name, objective in OBJECTIVES.items()
    }
    for function in functions.values():
        seconds_of(function, arguments, 1)
    parts = {
        name: lambda function=function: seconds_of(function, arguments, calls)
        for name, function in functions.items()
    }
    seconds = measuring.time_in_rounds(parts, rounds)
    alone = 1000 * statistics.median(seconds["cross entropy"])
    whole_to_alone = measuring.ratio(seconds["whole"], seconds["cross entropy"])
    return {
        "ms": alone,
        "more_ms": alone * (whole_to_alone - 1.0),
        "time": whole_to_alone,
    }


def memory_of(name, size):
    sizes = ":".join(map(str, size))
    command = [sys.executable, __file__, f"--grow={name}:{sizes}"]
    done = subprocess.run(command, capture_output=True, check=True)
    return float(done.stdout)


def print_growth(name, *size):
    function = with_gradient(OBJECTIVES[name])
    seconds_of(function, make_batch(10, 8, 2), 1)

    def run():
        seconds_of(function, make_batch(*map(int, size)), 1)

    print(measuring.peak_memory(run))


def largest_tensor(objective, arguments):
    """Return the most elements of any tensor, forward and backward."""
    if BACKEND == "jax":
        import jax

        jaxpr = jax.make_jaxpr(jax.value_and_grad(objective))(*arguments)
        return max(_sizes_in_jaxpr(jaxpr.jaxpr))
    if BACKEND == "tensorflow":
        function = with_gradient(objective).get_concrete_function(*arguments)
        graphs = [function.graph, *_inner_graphs(function.graph)]
        return max(
            math.prod(output.shape)
            for graph in graphs
            for operation in graph.get_operations()
            for output in operation.outputs
            if output.shape.is_fully_defined()
        )
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in keras.tree.flatten(result):
                if ops.is_tensor(tensor):
                    self.elements = max(self.elements, tensor.numel())
            return result

    with Largest() as largest:
        with_gradient(objective)(*arguments)
    return largest.elements


def _sizes_in_jaxpr(jaxpr):
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield math.prod(variable.aval.shape)
        for value in keras.tree.flatten(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _sizes_in_jaxpr(inner)


def _inner_graphs(graph):
    for name in graph._functions:
        inner = getattr(graph._functions[name], "graph", None)
        if inner is not None:
            yield inner
            yield from _inner_graphs(inner)


def main():
    parser = measuring.parser(__doc__, rounds=7)
    parser.add_argument("--grow", help="measure the memory of this process")
    arguments = parser.parse_args()
    if arguments.grow:
        return print_growth(*arguments.grow.split(":"))
    table = measuring.Table(
        {
            "backend": ("backend", 12, "s"),
            "classes": ("classes", 8, "d"),
            "batch": ("batch", 7, "d"),
            "peers": ("peers", 7, "d"),
            "ms": ("ms", 10, ".3f"),
            "more_ms": ("more ms", 10, ".3f"),
            "time": ("time", 8, ".2f"),
            "mib": ("MiB", 9, ".1f"),
            "memory": ("memory", 8, ".2f"),
            "largest": ("largest", 9, ".2f"),
        }
    )
    for size in SIZES:
        # Smaller ones are lost in what a process grows by anyhow.
        is_large = math.prod(size) >= 1_000_000
        memory = (
            {name: memory_of(name, size) for name in OBJECTIVES}
            if is_large
            else {}
        )
        table.add(
            backend=BACKEND,
            classes=size[0],
            batch=size[1],
            peers=size[2],
            **measure(size, arguments.rounds),
            mib=memory["cross entropy"] / 2**20 if is_large else None,
            memory=(
                memory["whole"] / memory["cross entropy"] if is_large else None
            ),
            largest=largest_tensor(whole, make_batch(*size)) / math.prod(size),
        )
    table.write(arguments.json, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
