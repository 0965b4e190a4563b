"""The maths once more as naive loops in float64, and a gradient."""

import math

import keras
import numpy as np
from keras import ops


def gradient(function, x):
    """Return the gradient of a scalar function of one array, as an array."""
    backend = keras.backend.backend()
    x = ops.convert_to_tensor(x)
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        result = tape.gradient(
            value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
    elif backend == "jax":
        import jax

        result = jax.grad(function)(x)
    else:
        x = x.detach().clone().requires_grad_()
        value = function(x)
        result = ops.zeros_like(x)
        if value.requires_grad:
            value.backward()
            result = result if x.grad is None else x.grad
    return np.array(ops.convert_to_numpy(result))


def numpy_of(value):
    return np.array(ops.convert_to_numpy(value))


def naive_log_softmax(logits, temperature=1.0):
    result = np.empty(np.shape(logits), "float64")
    for index in np.ndindex(result.shape[:-1]):
        row = [float(z) / temperature for z in logits[index]]
        top = max(row)
        total = sum(math.exp(z - top) for z in row)
        result[index] = [z - top - math.log(total) for z in row]
    return result


def naive_entropy(probs):
    return -sum(p * math.log(p) for p in probs if p > 0)


def naive_uncertainty(probs, measure):
    if measure == "entropy":
        return naive_entropy(probs) / math.log(len(probs))
    second, first = sorted(probs)[-2:]
    if measure == "probability":
        return 1.0 - first
    return 1.0 - (first - second)


def naive_kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def naive_mutual_distillation(probs, selected):
    batch, peers, _ = probs.shape
    result = np.zeros((batch, peers))
    for n in range(batch):
        for i in range(peers):
            for j in range(peers):
                if j != i and selected[n, j]:
                    result[n, i] += naive_kl(probs[n, j], probs[n, i])
    return result / (peers - 1)
