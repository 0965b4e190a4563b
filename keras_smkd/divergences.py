"""Divergences: how a learner is compared with the knowledge it gets.

A divergence is a callable of a `keras_smkd.batch.Batch` that gives
`(batch, learners)`: for learner `i`, `sum_k r_ik * s_k * D(q_k, p_i)` over
the sources `k`, with the routes `r` and the selection `s` of the batch. Its
attribute `factor`, 1 if there is none, multiplies the sum over the learners.
The temperature belongs to the comparison.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd._config import Configured
from keras_smkd._config import part_of
from keras_smkd.batch import Batch
from keras_smkd.batch import is_to_others

# Above it, the fast form of the Kullback-Leibler divergence loses digits.
_HIGH_TEMPERATURE = 10.0

# Of early-learning regularisation, from the authors' code.
LOWEST_PROBABILITY = 1e-4


@keras.saving.register_keras_serializable(package="keras_smkd")
class KullbackLeibler(Configured):
    """The Kullback-Leibler divergence, at a temperature.

    `D(q, p) = KL(q^T || p^T)`, and the sum over the learners times `T^2`.
    `q^T` and `p^T` are the distributions at temperature `T`. The factor `T^2`
    keeps the gradient's size when the temperature changes, as Hinton et al.
    have it; FitNets and others leave it out.

    Args:
        temperature: `T > 0`.
        scaled: Whether to multiply by `T^2`.

    Example:

    >>> batch = Batch(
    ...     log_probs=ops.log([[[0.25, 0.75]]]),
    ...     knowledge=ops.log([[[0.5, 0.5]]]),
    ...     routes=np.ones((1, 1)),
    ... )
    >>> KullbackLeibler()(batch)
    [[0.143841]]

    Reference:
        Hinton et al., 2015, "Distilling the Knowledge in a Neural Network",
        section 2. https://arxiv.org/abs/1503.02531
    """

    def __init__(self, temperature: float = 1.0, scaled: bool = True) -> None:
        self.temperature = _checks.number("temperature", temperature, above=0.0)
        self.scaled = _checks.boolean("scaled", scaled)

    @property
    def factor(self) -> float:
        """`T^2`, or 1 if not scaled."""
        return self.temperature**2 if self.scaled else 1.0

    def __call__(self, batch: Batch) -> Any:
        """Return `(batch, learners)`, in nats."""
        routes = batch.needed("routes", self)
        if self.temperature > _HIGH_TEMPERATURE:
            logits = _logits(batch, self)
            knowledge = _knowledge_logits(batch, self)
            return pairwise(
                batch,
                knowledge,
                logits,
                lambda known, own: functional.kl_of_close_logits(
                    known, own, self.temperature
                ),
            )
        log_probs, knowledge = self._log_probabilities(batch)
        if is_to_others(routes):
            selected = batch.selected
            if selected is None:
                selected = ops.ones_like(log_probs[..., 0])
            return functional.mutual_distillation(
                log_probs,
                selected,
                knowledge,
                batch.knowledge_entropy if self.temperature == 1.0 else None,
            )
        return functional.routed_divergence(
            log_probs, knowledge, routes, batch.selected
        )

    def _log_probabilities(self, batch: Batch) -> tuple[Any, Any]:
        if self.temperature == 1.0:
            return (
                batch.needed("log_probs", self),
                batch.needed("knowledge", self),
            )
        log_probs = functional.log_probabilities(
            _logits(batch, self), temperature=self.temperature
        )
        if batch.is_own_knowledge:
            return log_probs, log_probs
        return log_probs, functional.log_probabilities(
            _knowledge_logits(batch, self), temperature=self.temperature
        )


@keras.saving.register_keras_serializable(package="keras_smkd")
class SquaredError(Configured):
    """The mean squared error of probabilities.

    `D(q, p) = 1/classes * sum_c (q_c - p_c)^2`. The consistency cost of Mean
    Teacher and of Temporal Ensembling.

    Example:

    >>> batch = Batch(
    ...     log_probs=ops.log([[[0.25, 0.75]]]),
    ...     knowledge=ops.log([[[0.5, 0.5]]]),
    ...     routes=np.ones((1, 1)),
    ... )
    >>> SquaredError()(batch)
    [[0.0625]]

    Reference:
        Tarvainen and Valpola, 2017, "Mean teachers are better role models",
        section 2. https://arxiv.org/abs/1703.01780
    """

    factor = 1.0

    def __call__(self, batch: Batch) -> Any:
        """Return `(batch, learners)`."""
        batch.needed("routes", self)
        probs = ops.exp(batch.needed("log_probs", self))
        knowledge = ops.exp(batch.needed("knowledge", self))
        return pairwise(
            batch,
            knowledge,
            probs,
            # Not `mean`, which on torch makes float64 into float32.
            lambda known, own: (
                ops.sum(ops.square(known - own), axis=-1) / probs.shape[-1]
            ),
        )


@keras.saving.register_keras_serializable(package="keras_smkd")
class LogitSquaredError(Configured):
    """The squared error of logits.

    `D(q, p) = 1/2 * sum_c (z_c(q) - z_c(p))^2`. The regression of a teacher's
    logits. Of knowledge that is averaged, or of peers that put out
    probabilities, the logits are log-probabilities.

    Example:

    >>> batch = Batch(
    ...     logits=ops.convert_to_tensor([[[1.0, 3.0]]]),
    ...     knowledge_logits=ops.convert_to_tensor([[[0.0, 1.0]]]),
    ...     routes=np.ones((1, 1)),
    ... )
    >>> LogitSquaredError()(batch)
    [[2.5]]

    Reference:
        Ba and Caruana, 2014, "Do Deep Nets Really Need to be Deep?", eq. 1.
        https://arxiv.org/abs/1312.6184
    """

    factor = 1.0

    def __call__(self, batch: Batch) -> Any:
        """Return `(batch, learners)`."""
        batch.needed("routes", self)
        logits = _logits(batch, self)
        knowledge = _knowledge_logits(batch, self)
        return pairwise(
            batch,
            knowledge,
            logits,
            lambda known, own: 0.5 * ops.sum(ops.square(known - own), axis=-1),
        )


@keras.saving.register_keras_serializable(package="keras_smkd")
class EarlyLearning(Configured):
    """The regulariser of early-learning regularisation.

    `D(q, p) = log(1 - sum_c q_c p_c)`

    It is 0 where `q` and `p` share no class, and below 0 elsewhere; its
    gradient draws `p` to the class that `q` is sure of, and holds it there
    against a wrong label. As in the authors' code, `p` is clipped to
    [1e-4, 1 - 1e-4], which keeps the divergence at log(1e-4) or above and
    ends its gradient there; the paper does not clip. Give it a
    `keras_smkd.knowledge.EarlyPredictions`.

    Example:

    >>> batch = Batch(
    ...     log_probs=ops.log([[[0.25, 0.75]]]),
    ...     knowledge=ops.log([[[0.5, 0.5]]]),
    ...     routes=np.ones((1, 1)),
    ... )
    >>> EarlyLearning()(batch)
    [[-0.693147]]

    Reference:
        Liu et al., 2020, "Early-Learning Regularization Prevents Memorization
        of Noisy Labels". https://arxiv.org/abs/2007.00151
    """

    factor = 1.0

    def __call__(self, batch: Batch) -> Any:
        """Return `(batch, learners)`, at most 0."""
        batch.needed("routes", self)
        probs = ops.clip(
            ops.exp(batch.needed("log_probs", self)),
            LOWEST_PROBABILITY,
            1.0 - LOWEST_PROBABILITY,
        )
        knowledge = ops.exp(batch.needed("knowledge", self))
        return pairwise(
            batch,
            knowledge,
            probs,
            lambda known, own: ops.log(1.0 - ops.sum(known * own, axis=-1)),
        )


def pairwise(
    batch: Batch,
    knowledge: Any,
    learners: Any,
    distance: Callable[[Any, Any], Any],
) -> Any:
    """Return the sums of a distance over each learner's routes.

    `D_i = sum_k r_ik * s_k * distance(knowledge_k, learners_i)`

    Args:
        batch: With `routes` and `selected`.
        knowledge: `(batch, sources, classes)`.
        learners: `(batch, learners, classes)`.
        distance: From two `(batch, classes)` to `(batch,)`.

    Returns:
        `(batch, learners)`. What is not selected adds exactly zero, to the
        value and to the gradient, even if it is not finite.
    """
    learners = functional.at_least_float32(learners)
    knowledge = functional.at_least_float32(knowledge)
    passed = None
    if batch.selected is not None:
        passed = ops.cast(batch.selected, learners.dtype) > 0
        # Before the distance: the gradient of what `where` drops is 0 times
        # its slope, and NaN if that is not finite.
        knowledge = ops.where(ops.expand_dims(passed, axis=-1), knowledge, 0.0)
    columns = []
    for i, row in enumerate(batch.routes):
        total = ops.zeros_like(learners[:, i, 0])
        for k in np.flatnonzero(row):
            value = distance(knowledge[:, int(k)], learners[:, i])
            if passed is not None:
                value = ops.where(passed[:, int(k)], value, 0.0)
            total = total + float(row[k]) * value
        columns.append(total)
    return ops.stack(columns, axis=1)


def _logits(batch: Batch, part: Any) -> Any:
    # Log-probabilities are logits, too.
    found = batch.logits
    return batch.needed("log_probs", part) if found is None else found


def _knowledge_logits(batch: Batch, part: Any) -> Any:
    found = batch.knowledge_logits
    return batch.needed("knowledge", part) if found is None else found


KNOWN = {
    "kullback_leibler": KullbackLeibler,
    "squared_error": SquaredError,
    "logit_squared_error": LogitSquaredError,
    "early_learning": EarlyLearning,
}


def get(divergence: Any) -> Any:
    """Return a divergence from its name or from itself.

    Args:
        divergence: `"early_learning"`, `"kullback_leibler"`,
            `"logit_squared_error"`, `"squared_error"`, or a callable of the
            batch.

    Raises:
        ValueError: if a name is not known.
        TypeError: if it is neither.
    """
    return part_of("divergence", divergence, KNOWN, allow_none=False)
