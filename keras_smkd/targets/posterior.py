"""Posterior labels: what is known, weighed against what the label says."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_smkd import _checks
from keras_smkd import backends
from keras_smkd import selection as selection_room
from keras_smkd._config import Holder
from keras_smkd.batch import Batch
from keras_smkd.batch import Correction
from keras_smkd.batch import Knowledge
from keras_smkd.batch import to_itself
from keras_smkd.functional.posteriors import aligned
from keras_smkd.functional.posteriors import heard
from keras_smkd.functional.posteriors import imbalance
from keras_smkd.functional.posteriors import posterior
from keras_smkd.functional.posteriors import sharpness

# Examples after which `momentum` of the past is left.
EXAMPLES = 64
# Epochs over which the posteriors are averaged, to find that out.
BALANCE_EPOCHS = 20
# In which share of the examples a learner must predict what it is told, before
# labels are corrected, where `start` is not given in steps.
AGREEMENT = 0.6
# How much of the labels' frequencies the prior follows where they are.
TEMPER = 0.7


@keras.saving.register_keras_serializable(package="keras_smkd")
class PosteriorLabels(Holder):
    """What is known, weighed against what the label says.

    Neither keeps nor drops a label: its say is set by the confusion between
    knowledge and labels, which is measured as training goes. With `k`, the
    mean knowledge on a learner's routes, and the label `y`:

        T      = running P(label | knowledge says c)
        a      = normalise(k * (prior / prevalence)^strength)
        target = normalise(a^gamma * T[:, y])

    `a` also takes the place of the knowledge in the model's second term, so
    that a divergence draws each learner to it. `prevalence` is the running
    mean of `k`: the alignment keeps knowledge from forgetting classes.

    Made for knowledge that is averaged over time and comes from other peers:
    `keras_smkd.knowledge.PastPredictions(n, 0.9, routes="others")`, or
    `AveragedPeers()` where there is no index. Current predictions run away.
    `keras_smkd.methods.posterior_smkd` puts it together. Found by experiment:
    BUILD_NOTES.md says what was tried, and docs/evidence.md what it does.

    Until `start` steps were taken the target is the label, and the knowledge
    has nothing to say; the same holds where no knowledge is heard. With
    `start=None` that is so until learners predict the class that they are
    told in 60 % of the examples, a running mean: networks that learn slowly
    begin later, of whatever batch size and length of training.

    The model remembers `classes * (classes + 3)` numbers. Running means move
    once in each training step, by what all replicas see, with
    `momentum^(batch size / 64)`, so that they do not depend on its size.

    Args:
        num_examples: Number of examples in the data set (in an epoch).
        class_prior: `(classes,)`, how often the true classes come, where that
            is known; only what goes beyond it is sharpened then,
            `target = normalise((a / prior)^gamma * prior * T[:, y])`. By
            default it is found out: data whose mean target keeps within 5 %
            of uniform are taken to be balanced, and others are aligned
            half-way to the labels' frequencies to the power 0.7.
        gamma: How sharp the knowledge is made, > 0: a number, or a function
            of how often each example was seen. By default
            `3 - 2 * exp(-visits / 30)`, which needs no planned length.
        start: Training steps before labels are corrected, at least 0; or
            `None`, to begin when learners agree with what they are told.
        momentum: Share of the past that 64 examples leave in the means, in
            [0, 1).
        selection: Which knowledge counts for the confusion, a part or a name.
            By default the most confident half of each class of a batch.

    Example:

    ```python
    model = keras_smkd.PeerLearning(
        [peer_a, peer_b],
        knowledge=keras_smkd.knowledge.PastPredictions(
            len(x), momentum=0.9, routes="others"
        ),
        target=keras_smkd.targets.PosteriorLabels(len(x)),
    )
    ```
    """

    def __init__(
        self,
        num_examples: int,
        class_prior: Any = None,
        gamma: float | Callable[[Any], Any] | None = None,
        start: int | None = 50,
        momentum: float = 0.98,
        selection: Any = "most_confident_share",
    ) -> None:
        super().__init__()
        self.num_examples = _checks.integer(
            "num_examples", num_examples, minimum=1
        )
        self.class_prior = class_prior
        if class_prior is not None:
            self.class_prior = _checked_prior(class_prior)
        if gamma is not None and not callable(gamma):
            gamma = _checks.number("gamma", gamma, above=0.0)
        self.gamma = gamma
        if start is not None:
            start = _checks.integer("start", start, minimum=0)
        self.start = start
        self.momentum = _checks.fraction("momentum", momentum)
        self.selection = selection_room.get(selection)

    def held(self) -> list[Any]:
        """Return the selection, if there is one."""
        return [] if self.selection is None else [self.selection]

    def prepare(self, peers: Any, num_classes: int) -> None:
        """Make the weights.

        Raises:
            ValueError: if `class_prior` has another number of classes.
        """
        super().prepare(peers, num_classes)
        if self.class_prior is not None and len(self.class_prior) != (
            num_classes
        ):
            raise ValueError(
                f"`class_prior` must have one entry for each of {num_classes} "
                f"classes. Received: {len(self.class_prior)} entries."
            )
        uniform = keras.initializers.Constant(1.0 / num_classes)
        shape = (num_classes,)
        self.steps = self.add_state("steps", (), "int32")
        self.seen = self.add_state("seen", (), "int32")
        self.confusion = self.add_state("confusion", 2 * shape, "float32")
        self.prevalence = self.add_state(
            "prevalence", shape, "float32", uniform
        )
        self.balance = self.add_state("balance", shape, "float32", uniform)
        self.label_counts = self.add_state("label_counts", shape, "float32")
        if self.start is None:
            self.agreement = self.add_state("agreement", (), "float32")
            self.has_begun = self.add_state("has_begun", (), "int32")

    def __call__(self, batch: Batch) -> Correction:
        """Return the posteriors, and the aligned knowledge behind them.

        Args:
            batch: With `labels`, `knowledge` and `routes`. In training the
                running means move.

        Returns:
            `(batch, learners, classes)`, rows sum to 1, and one source for
            each learner, itself.
        """
        known, said = heard(
            ops.stop_gradient(batch.needed("knowledge", self)),
            batch.needed("routes", self),
            batch.selected,
        )
        labels = ops.cast(batch.needed("labels", self), known.dtype)
        if batch.training:
            self._follow(batch, known, said, labels)
        gamma = self._gamma()
        prior, strength = self._prior()
        known = aligned(known, self.prevalence, prior, strength)
        if self.class_prior is None:
            prior = None
        targets = posterior(known, labels, self.confusion, gamma, prior)
        said = ops.logical_and(said, self._is_past_start())
        targets = ops.where(
            ops.expand_dims(said, axis=-1),
            targets,
            ops.expand_dims(labels, axis=1),
        )
        return Correction(
            labels=targets,
            knowledge=Knowledge(
                log_probs=known,
                routes=to_itself(known.shape[1]),
                available=ops.cast(said, known.dtype),
            ),
        )

    def _is_past_start(self) -> Any:
        if self.start is None:
            return ops.convert_to_tensor(self.has_begun) > 0
        return ops.convert_to_tensor(self.steps) > self.start

    def _gamma(self) -> Any:
        visits = ops.cast(self.seen, "float32") / self.num_examples
        if callable(self.gamma):
            return self.gamma(visits)
        return sharpness(visits) if self.gamma is None else self.gamma

    def _prior(self) -> tuple[Any, Any]:
        """Return how often classes are to come, and how strictly."""
        if self.class_prior is not None:
            return ops.convert_to_tensor(self.class_prior, "float32"), 1.0
        balance = ops.convert_to_tensor(self.balance)
        share = imbalance(balance, self.num_examples)
        # A class without a label counts as one with a single label.
        counts = ops.maximum(ops.convert_to_tensor(self.label_counts), 1.0)
        prior = ops.power(counts / ops.sum(counts), TEMPER * share)
        return prior / ops.sum(prior), 1.0 - 0.5 * share

    def _follow(self, batch: Batch, known: Any, said: Any, labels: Any) -> None:
        """Move the running means by what all replicas see of a batch."""
        has_label = ops.ones_like(labels[:, 0]) > 0
        if batch.labelled is not None:
            has_label = ops.cast(batch.labelled, known.dtype) > 0
        is_number = ops.logical_not(ops.any(ops.isnan(known), axis=-1))
        counted = ops.logical_and(
            ops.logical_and(said, is_number),
            ops.expand_dims(has_label, axis=1),
        )
        known, counted, labels, has_label = (
            backends.gather(ops.cast(own, "float32"))
            for own in (known, counted, labels, has_label)
        )
        # What does not count is never among the most confident.
        known = ops.where(
            ops.expand_dims(counted, axis=-1) > 0, known, math.nan
        )
        chosen = counted
        if self.selection is not None:
            passed = self.selection(
                Batch(knowledge=known, progress=batch.progress)
            )
            chosen = counted * ops.cast(passed, counted.dtype)
        size = ops.cast(ops.shape(labels)[0], "float32")
        self.steps.assign_add(1)
        self.seen.assign_add(ops.cast(size, "int32"))
        kept = ops.power(self.momentum, size / EXAMPLES)
        votes = ops.one_hot(
            ops.argmax(known, axis=-1), labels.shape[-1], dtype=labels.dtype
        )
        votes = _sum(votes, chosen, axis=1)
        _move(
            self.confusion,
            kept,
            ops.matmul(ops.transpose(votes), labels),
            ops.sum(chosen),
        )
        _move(
            self.prevalence,
            kept,
            _sum(ops.exp(known), counted, axis=(0, 1)),
            ops.sum(counted),
        )
        targets = posterior(known, labels, self.confusion, self._gamma())
        _move(
            self.balance,
            ops.exp(-size / (BALANCE_EPOCHS * self.num_examples)),
            _sum(targets, counted, axis=(0, 1)),
            ops.sum(counted),
        )
        # Whatever is known of them.
        self.label_counts.assign_add(_sum(labels, has_label, axis=0))
        if self.start is None:
            own = ops.argmax(batch.needed("log_probs", self), axis=-1)
            self._follow_agreement(backends.gather(own), known, counted, kept)

    def _follow_agreement(
        self, own: Any, known: Any, counted: Any, kept: Any
    ) -> None:
        """Move the agreement of learners with what they are told.

        Args:
            own: `(batch, learners)`, the classes that learners predict.
            known: `(batch, learners, classes)`, what they are told.
            counted: `(batch, learners)`, 1 where that counts.
            kept: Scalar, the share of the past that stays.
        """
        agrees = ops.cast(own == ops.argmax(known, axis=-1), counted.dtype)
        total = ops.sum(counted * agrees)
        _move(self.agreement, kept, total, ops.sum(counted))
        agreed = ops.convert_to_tensor(self.agreement) > AGREEMENT
        begun = ops.convert_to_tensor(self.has_begun)
        # Once begun, it goes on.
        self.has_begun.assign(ops.maximum(begun, ops.cast(agreed, "int32")))


def _sum(values: Any, weights: Any, axis: Any) -> Any:
    """Return the weighted sum; what has weight 0 may be anything."""
    weights = ops.expand_dims(weights, axis=-1)
    return ops.sum(ops.where(weights > 0, weights * values, 0.0), axis=axis)


def _move(variable: Any, kept: Any, total: Any, weight: Any) -> None:
    """Move a running mean to `total / weight`, unless nothing has a weight.

    Args:
        variable: `(...)`.
        kept: Scalar in [0, 1], the share of the past that stays.
        total: `(...)`, a weighted sum.
        weight: Scalar, the sum of its weights.
    """
    before = ops.convert_to_tensor(variable)
    mean = total / ops.maximum(weight, 1.0)
    moved = kept * before + (1.0 - kept) * mean
    variable.assign(ops.where(weight > 0, moved, before))


def _checked_prior(prior: Any) -> list[float]:
    """Return the classes' shares as numbers that sum to 1.

    Raises:
        TypeError: if they are no numbers.
        ValueError: if they are not one row of positive, finite numbers that
            sum to 1.
    """
    try:
        array = np.asarray(prior, dtype="float64")
    except (TypeError, ValueError) as error:
        raise TypeError(
            "`class_prior` must be an array of numbers. "
            f"Received: class_prior={prior!r}."
        ) from error
    if (
        array.ndim != 1
        or not np.all(np.isfinite(array))
        or np.any(array <= 0)
        or abs(array.sum() - 1.0) > 1e-3
    ):
        raise ValueError(
            "`class_prior` must be one row of positive numbers that sum to "
            f"1. Received: class_prior={array.tolist()}."
        )
    return [float(share) for share in array / array.sum()]
