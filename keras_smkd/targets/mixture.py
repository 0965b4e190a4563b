"""Label correction by how probably each label is wrong.

How probable that is comes from a mixture of two distributions that is fitted
to the losses of all examples, between the epochs, by
`keras_smkd.callbacks.FitMixture`.
"""

import math
from typing import Any

import keras
import numpy.typing as npt
from keras import ops

from keras_smkd import _checks
from keras_smkd import backends
from keras_smkd._config import StatefulPart
from keras_smkd.batch import Batch
from keras_smkd.batch import check_without_head
from keras_smkd.targets.blending import corrected_targets
from keras_smkd.targets.blending import likeliest


class MixtureTarget(StatefulPart):
    """Base of the targets that know how probably each label is wrong.

    The weight `posterior` is `(num_examples, peers)`, by each peer's losses.
    It is 0 in the beginning: every label is right.

    Args:
        num_examples: Number of examples in the data set, above every index.
    """

    needs_index = True

    def __init__(self, num_examples: int) -> None:
        super().__init__()
        self.num_examples = _checks.integer(
            "num_examples", num_examples, minimum=1
        )

    def prepare(self, peers: Any, num_classes: int) -> None:
        """Make the weight, zeros."""
        self.posterior = self.add_state(
            "posterior", (self.num_examples, len(peers)), "float32"
        )

    def set_posterior(self, posterior: npt.NDArray[Any]) -> None:
        """Set the probabilities of the first examples; the others keep theirs.

        Args:
            posterior: `(examples, peers)`, in [0, 1], of the examples with
                the indices 0, 1, ...; at most `num_examples`.
        """
        whole = ops.convert_to_numpy(self.posterior).copy()
        whole[: len(posterior)] = posterior
        self.posterior.assign(whole)

    def posterior_of(self, batch: Batch) -> Any:
        """Return how probably the labels of a batch are wrong.

        Args:
            batch: With `log_probs`, and in training `index`.

        Returns:
            `(batch, peers)`; 0 in evaluation, and NaN for a place that the
            data set does not have.

        Raises:
            ValueError: if there is a learner that is no peer.
        """
        log_probs = batch.needed("log_probs", self)
        check_without_head(self, log_probs.shape[1], self.posterior.shape[1])
        if not batch.training:
            return ops.zeros_like(log_probs[..., 0])
        index = batch.needed("index", self)
        inside = ops.logical_and(index >= 0, index < self.num_examples)
        rows = backends.read_rows(self.posterior, ops.where(inside, index, 0))
        return ops.where(ops.expand_dims(inside, axis=1), rows, math.nan)


@keras.saving.register_keras_serializable(package="keras_smkd")
class MixtureBootstrapping(MixtureTarget):
    """Dynamic bootstrapping: the less a label is to be trusted, the less of it.

    `targets = (1 - B) * labels + B * one_hot(argmax_k p_k)`, or
    `(1 - B) * labels + B * p` if not `hard`

    `B` is how probably the example's label is wrong (the posterior of the
    noisy component of a mixture), by the peer's own losses. It is 0, and
    labels stay, until `keras_smkd.callbacks.FitMixture` sets it. The other
    half of the method is the loss to compile with it,
    `keras_smkd.losses.JointOptimization(alpha=1, beta=0)`, which adds the
    paper's penalty against predicting few classes.

    Departures: the paper's prediction is of the image as it is, in inference
    mode; here it is the training step's own. `B` is of the last epoch's end,
    where the authors renew it with the losses of each batch. Their examples
    are mixed with each other (mixup), which examples with an index are not.

    The model remembers `num_examples * peers` numbers.

    Args:
        num_examples: Number of examples in the data set, above every index.
        hard: Whether the predicted class stands for the prediction.

    Example:

    >>> target = MixtureBootstrapping(num_examples=2)
    >>> target.prepare(peers=[None], num_classes=2)
    >>> target.set_posterior(np.array([[0.25], [1.0]]))
    >>> target(
    ...     Batch(
    ...         labels=[[1.0, 0.0]],
    ...         log_probs=ops.log([[[0.4, 0.6]]]),
    ...         index=np.array([0]),
    ...         training=True,
    ...     )
    ... )
    [[[0.75, 0.25]]]

    Reference:
        Arazo et al., 2019, "Unsupervised Label Noise Modeling and Loss
        Correction", section 3.2. https://arxiv.org/abs/1904.11238
    """

    def __init__(self, num_examples: int, hard: bool = True) -> None:
        super().__init__(num_examples)
        self.hard = _checks.boolean("hard", hard)

    def __call__(self, batch: Batch) -> Any:
        """Return the corrected targets.

        Args:
            batch: With `labels`, `log_probs`, and in training `index`.

        Returns:
            `(batch, learners, classes)`, rows sum to 1, no gradient.
        """
        predictions = ops.exp(batch.needed("log_probs", self))
        if self.hard:
            predictions = likeliest(predictions)
        return corrected_targets(
            batch.needed("labels", self), predictions, self.posterior_of(batch)
        )
