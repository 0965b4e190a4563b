"""Knowledge and labels, weighed by the confusion between them."""

import math
from typing import Any

import numpy as np
from keras import ops

from keras_smkd.functional.distances import routed
from keras_smkd.functional.probabilities import at_least_float32

# Of the diagonal, and of the uniform distribution, in each row of the matrix.
TRUST, FLOOR = 0.02, 0.01
# From which distance from uniform on the data count as imbalanced.
TOLERANCE = 0.05


def heard(log_probs: Any, routes: Any, selected: Any = None) -> tuple[Any, Any]:
    """Return the mean knowledge on each learner's routes.

    `k_i = sum_j r_ij s_j q_j / sum_j r_ij s_j`

    Args:
        log_probs: `(batch, sources, classes)`, `log q`.
        routes: `(learners, sources)` NumPy array.
        selected: `(batch, sources)`, 1 or 0; `None` for 1 throughout.

    Returns:
        `(batch, learners, classes)`, `log k`, uniform where nothing is heard,
        and `(batch, learners)`, boolean: whether anything is.
    """
    probs = ops.exp(at_least_float32(log_probs))
    passed = ops.ones_like(probs[..., 0])
    if selected is not None:
        passed = ops.cast(selected, probs.dtype)
        # `where`, not a product: 0 times NaN is NaN.
        probs = ops.where(ops.expand_dims(passed, axis=-1) > 0, probs, 0.0)
    weight = routed(passed, routes)
    said = weight > 0
    mean = routed(probs, routes) / ops.expand_dims(
        ops.where(said, weight, 1.0), axis=-1
    )
    mean = ops.where(
        ops.expand_dims(said, axis=-1), mean, 1.0 / probs.shape[-1]
    )
    return ops.log(mean), said


def label_probabilities(confusion: Any) -> Any:
    """Return `P(label | knowledge says c)`, from shares of both.

    `T_c = 0.99 * (J_c + 0.02/C * e_c) / (sum J_c + 0.02/C) + 0.01/C`

    A class that the knowledge has never named keeps its labels.

    Args:
        confusion: `(classes, classes)`, `J`: shares of the examples of which
            the knowledge says the row's class and the label the column's.

    Returns:
        `(classes, classes)`, rows sum to 1.
    """
    confusion = at_least_float32(confusion)
    classes = confusion.shape[-1]
    trusted = confusion + TRUST / classes * ops.eye(
        classes, dtype=confusion.dtype
    )
    rows = trusted / ops.sum(trusted, axis=-1, keepdims=True)
    return (1.0 - FLOOR) * rows + FLOOR / classes


def posterior(
    log_probs: Any, labels: Any, confusion: Any, gamma: Any, prior: Any = None
) -> Any:
    """Return what is known, weighed against what the label says.

    `normalise(k^gamma * T[:, y])`, with `T` of `label_probabilities`; with a
    prior, `normalise((k / prior)^gamma * prior * T[:, y])`, so that what is
    sharpened is the evidence, and not that classes are rare. A label that is
    a distribution counts as a draw from it: `T y` in place of `T[:, y]`.

    Args:
        log_probs: `(batch, learners, classes)`, `log k`.
        labels: `(batch, classes)`, distributions.
        confusion: `(classes, classes)`, as for `label_probabilities`.
        gamma: Scalar > 0.
        prior: `(classes,)`, how often classes come, > 0, or `None`.

    Returns:
        `(batch, learners, classes)`, rows sum to 1.

    Example:

    >>> known = ops.log([[[0.8, 0.2]]])
    >>> posterior(known, [[0.0, 1.0]], [[0.3, 0.2], [0.0, 0.5]], 1.0)
    [[[0.6158, 0.3842]]]
    """
    log_probs = at_least_float32(log_probs)
    table = ops.cast(label_probabilities(confusion), log_probs.dtype)
    labels = ops.cast(labels, log_probs.dtype)
    likelihood = ops.matmul(labels, ops.transpose(table))
    # A row of zeros is a label outside the classes, which says nothing.
    smallest = float(np.finfo(np.float32).tiny)
    log_likelihood = ops.log(ops.maximum(likelihood, smallest))
    gamma = ops.cast(gamma, log_probs.dtype)
    logits = gamma * log_probs + ops.expand_dims(log_likelihood, axis=1)
    if prior is not None:
        prior = ops.cast(ops.convert_to_tensor(prior), log_probs.dtype)
        logits = logits + (1.0 - gamma) * ops.log(prior)
    return ops.softmax(logits, axis=-1)


def aligned(log_probs: Any, prevalence: Any, prior: Any, strength: Any) -> Any:
    """Return knowledge whose classes come as often as they should.

    `a = normalise(k * (prior / prevalence)^strength)`

    Args:
        log_probs: `(..., classes)`, `log k`.
        prevalence: `(classes,)`, the mean of the knowledge, > 0.
        prior: `(classes,)`, how often classes should come, > 0.
        strength: Scalar in [0, 1].

    Returns:
        `(..., classes)`, log-probabilities.

    Example:

    >>> known = ops.log([[0.5, 0.5]])
    >>> ops.exp(aligned(known, [0.8, 0.2], [0.5, 0.5], 1.0))
    [[0.2, 0.8]]
    """
    log_probs = at_least_float32(log_probs)
    ratio = ops.log(ops.convert_to_tensor(prior)) - ops.log(
        ops.convert_to_tensor(prevalence)
    )
    ratio = ops.cast(ratio, log_probs.dtype)
    strength = ops.cast(strength, log_probs.dtype)
    return ops.log_softmax(log_probs + strength * ratio, axis=-1)


def imbalance(balance: Any, num_examples: int) -> Any:
    """Return how imbalanced data are taken to be, in [0, 1].

    `z = clip((TV - 0.05) / 0.05, 0, 1)`, with half the L1 distance `TV` of
    the balance from uniform. Where a finite sample of balanced data is as far
    from it by chance, what is tolerated is that: `0.5 * sqrt(C / examples)` in
    place of 0.05, if it is more.

    Args:
        balance: `(classes,)`, sums to 1.
        num_examples: Number of examples that it is the mean of.

    Returns:
        Scalar.

    Example:

    >>> imbalance(ops.convert_to_tensor([0.55, 0.45]), 10_000)
    0.0
    """
    classes = balance.shape[-1]
    tolerance = max(TOLERANCE, 0.5 * math.sqrt(classes / num_examples))
    distance = 0.5 * ops.sum(ops.abs(balance - 1.0 / classes))
    return ops.clip((distance - tolerance) / tolerance, 0.0, 1.0)


def sharpness(visits: Any) -> Any:
    """Return `3 - 2 * exp(-visits / 30)`, which rises from 1 to 3.

    Args:
        visits: Scalar, how often each example was seen.
    """
    return 3.0 - 2.0 * ops.exp(-visits / 30.0)
