"""Ensembles of the learners as the one source that teaches them all.

Each is a callable of a `keras_smkd.batch.Batch` that gives a
`keras_smkd.batch.Knowledge` of a single source, on the routes
`to_all(learners, 1)`. All learners of the batch are in the ensemble, which are
the peers, and the head as well where the model has one, unless a class says
otherwise. The logits of a learner that puts out probabilities are its
log-probabilities. The method's own divergence is `KullbackLeibler` with a
temperature of 2 or more.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_smkd import _checks
from keras_smkd._config import Configured
from keras_smkd._config import StatefulPart
from keras_smkd.batch import Batch
from keras_smkd.batch import Knowledge
from keras_smkd.batch import to_all
from keras_smkd.functional import ensembles


@keras.saving.register_keras_serializable(package="keras_smkd")
class NaiveEnsemble(Configured):
    """Teach what the learner that is closest to the label says.

    `t = z_i` with the `i` of the smallest cross entropy with the label, per
    example; of several such, the first. A learner whose logits of the example
    are not finite is passed over. Nothing is taught where there is no label.

    Example:

    >>> logits = ops.convert_to_tensor([[[1.0, 0.0], [3.0, 0.0]]])
    >>> labels = ops.convert_to_tensor([[1.0, 0.0]])
    >>> NaiveEnsemble()(Batch(logits=logits, labels=labels)).logits
    [[[3.0, 0.0]]]

    Reference:
        Guo et al., 2020, "Online Knowledge Distillation via Collaborative
        Learning", CVPR, KDCL-Naive.
    """

    def __call__(self, batch: Batch) -> Knowledge:
        """Return one source of `(batch, 1, classes)` logits, no gradient.

        Raises:
            ValueError: if the batch has no labels or no predictions.
        """
        logits = _logits(batch, self)
        labels = batch.needed("labels", self)
        taught = ensembles.naive_ensemble(logits, labels)
        return _knowledge(taught, logits, _is_labelled(batch, taught))


@keras.saving.register_keras_serializable(package="keras_smkd")
class MinLogitEnsemble(Configured):
    """Teach the smallest distance of each class's logit from the label's.

    `t_k = min_i (z_ik - z_iy)`, and `sum_c y_c z_ic` for `z_iy` with a soft
    label. The label is at least as likely as every learner has it. A learner
    whose logits of the example are not finite is passed over. Nothing is
    taught where there is no label.

    Example:

    >>> logits = ops.convert_to_tensor([[[1.0, 0.0], [3.0, 0.0]]])
    >>> labels = ops.convert_to_tensor([[1.0, 0.0]])
    >>> MinLogitEnsemble()(Batch(logits=logits, labels=labels)).logits
    [[[0.0, -3.0]]]

    Reference:
        Guo et al., 2020, "Online Knowledge Distillation via Collaborative
        Learning", CVPR, KDCL-MinLogit.
    """

    def __call__(self, batch: Batch) -> Knowledge:
        """Return one source of `(batch, 1, classes)` logits, no gradient.

        Raises:
            ValueError: if the batch has no labels or no predictions.
        """
        logits = _logits(batch, self)
        labels = batch.needed("labels", self)
        taught = ensembles.min_logit_ensemble(logits, labels)
        return _knowledge(taught, logits, _is_labelled(batch, taught))


@keras.saving.register_keras_serializable(package="keras_smkd")
class LinearEnsemble(Configured):
    """Teach the mean of the logits whose weights fit the batch's labels best.

    `t = sum_i a_i z_i`, `a_i >= 0`, `sum_i a_i = 1`, with the `a` of the
    smallest mean cross entropy with the labels over the batch. It is solved
    anew for each batch, inside the compiled step, to 1e-5 nats in 20 steps
    (see `functional.ensembles.linear_weights`). Examples without a label do
    not count for the weights and are taught all the same. Of a learner whose
    logits of an example are not finite, the weight falls to the others there.

    On several devices each solves for the examples that it sees.

    Args:
        steps: Number of Newton steps, 1 or more.

    Example:

    >>> logits = ops.convert_to_tensor([[[1.0, 0.0], [3.0, 0.0]]])
    >>> labels = ops.convert_to_tensor([[1.0, 0.0]])
    >>> LinearEnsemble()(Batch(logits=logits, labels=labels)).logits
    [[[3.0, 0.0]]]

    Reference:
        Guo et al., 2020, "Online Knowledge Distillation via Collaborative
        Learning", CVPR, KDCL-Linear.
    """

    def __init__(self, steps: int = 20) -> None:
        self.steps = _checks.integer("steps", steps, minimum=1)

    def __call__(self, batch: Batch) -> Knowledge:
        """Return one source of `(batch, 1, classes)` logits, no gradient.

        Raises:
            ValueError: if the batch has no labels or no predictions.
        """
        logits = _logits(batch, self)
        weights = ensembles.linear_weights(
            logits, batch.needed("labels", self), batch.labelled, self.steps
        )
        return _knowledge(ensembles.weighted_logits(logits, weights), logits)


@keras.saving.register_keras_serializable(package="keras_smkd")
class GeneralEnsemble(StatefulPart):
    """Teach the mean of the peers' logits with weights from validation data.

    `t = sum_i w_i z_i`, `w = C^-1 1 / (1^T C^-1 1)`, where `C` is the matrix
    of the correlations of the peers' errors. The weights are state of the
    model, saved with it. `keras_smkd.callbacks.MeasureEnsemble` measures them
    after each epoch; until then, and without it, they are equal, and the
    ensemble is the plain mean of the peers' logits. They may be negative.

    Only the peers are in it: a head learns from it and is not asked. Labels
    are not needed. Of a peer whose logits of an example are not finite, the
    weight falls to the others there.

    Args:
        dtype: Of the weights, as for `keras.layers.Layer`.

    Example:

    >>> ensemble = GeneralEnsemble()
    >>> ensemble.prepare(peers=[None, None], num_classes=2)
    >>> batch = Batch(logits=ops.convert_to_tensor([[[1.0, 0], [3.0, 0]]]))
    >>> ensemble(batch).logits
    [[[2.0, 0.0]]]

    Reference:
        Guo et al., 2020, "Online Knowledge Distillation via Collaborative
        Learning", CVPR, KDCL-General.
    """

    def __init__(self, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.peer_weights: Any = None

    def prepare(self, peers: Any, num_classes: int) -> None:
        """Make the weights, equal ones.

        Args:
            peers: The model's peers, of which only the number counts.
            num_classes: Number of classes; it does not count.
        """
        num_peers = len(peers)
        self.peer_weights = self.add_state(
            "peer_weights",
            (num_peers,),
            self.variable_dtype,
            keras.initializers.Constant(1.0 / num_peers),
        )

    def set_peer_weights(self, weights: Any) -> None:
        """Replace the weights, between two epochs.

        Args:
            weights: `(peers,)`, finite, with the sum 1.

        Raises:
            ValueError: if they are not that, or `prepare` was not called yet.
        """
        current = self._prepared()
        array = np.asarray(weights, dtype=np.float64)
        shape = tuple(current.shape)
        if (
            array.shape != shape
            or not np.isfinite(array).all()
            or abs(array.sum() - 1.0) > 1e-5 * max(1.0, np.abs(array).max())
        ):
            raise ValueError(
                f"`weights` must be finite, of shape {shape} and with the sum "
                f"1. Received: weights={array.tolist()}."
            )
        current.assign(array)

    def __call__(self, batch: Batch) -> Knowledge:
        """Return one source of `(batch, 1, classes)` logits, no gradient.

        Raises:
            ValueError: if the batch has no predictions, or fewer learners than
                there are peers, or `prepare` was not called yet.
        """
        logits = _logits(batch, self)
        weights = self._prepared()
        num_peers = weights.shape[0]
        if logits.shape[1] < num_peers:
            raise ValueError(
                "`batch.logits` must have shape (batch, learners, classes) "
                f"with {num_peers} learners or more, one for each peer. "
                f"Received: batch.logits.shape={tuple(logits.shape)}."
            )
        taught = ensembles.weighted_logits(
            logits[:, :num_peers], ops.convert_to_tensor(weights)
        )
        return _knowledge(taught, logits)

    def _prepared(self) -> Any:
        if self.peer_weights is None:
            raise ValueError(
                "`GeneralEnsemble` must be prepared for the peers, as a model "
                "does that is given it as `knowledge`. Received: one that is "
                "not."
            )
        return self.peer_weights


def _logits(batch: Batch, part: Any) -> Any:
    # Log-probabilities are logits, too.
    found = batch.logits
    return batch.needed("log_probs", part) if found is None else found


def _is_labelled(batch: Batch, taught: Any) -> Any:
    if batch.labelled is None:
        return None
    labelled = ops.convert_to_tensor(batch.labelled)
    return ops.expand_dims(ops.cast(labelled, taught.dtype), axis=1)


def _knowledge(taught: Any, logits: Any, available: Any = None) -> Knowledge:
    return Knowledge(
        logits=ops.expand_dims(taught, axis=1),
        routes=to_all(logits.shape[1], 1),
        available=available,
    )
