"""The gate that weighs labels by how sure a teacher is of anything."""

from typing import Any

import keras
from keras import ops

from keras_smkd import functional
from keras_smkd._config import Configured
from keras_smkd.batch import Batch


@keras.saving.register_keras_serializable(package="keras_smkd")
class TeacherConfidence(Configured):
    """Weigh each label by the largest probability of the knowledge.

    `g = max_c q_c / mean over the batch of max_c q_c`, the same for every
    learner, so that the mean of `g * l` over the batch is the paper's sum
    with weights that sum to 1: confidence-weighted by teacher max (CWTM).

    With several sources, `max_c q_c` is the mean of theirs. It knows nothing
    of the label: what the teacher finds easy counts more. Under several
    replicas each takes the mean over what it sees.

    Example:

    >>> knowledge = ops.log([[[0.9, 0.1]], [[0.3, 0.7]]])
    >>> TeacherConfidence()(Batch(knowledge=knowledge))
    [[1.125], [0.875]]

    Reference:
        Furlanello et al., 2018, "Born-Again Neural Networks", section 3.2.
        https://arxiv.org/abs/1805.04770
    """

    def __call__(self, batch: Batch) -> Any:
        """Return the weight of each example's label for each learner.

        Args:
            batch: With `knowledge`.

        Returns:
            `(batch, learners)`, >= 0, no gradient, mean 1 over the batch.
        """
        knowledge = ops.stop_gradient(
            functional.at_least_float32(batch.needed("knowledge", self))
        )
        largest = ops.mean(ops.exp(ops.max(knowledge, axis=-1)), axis=1)
        weights = ops.expand_dims(largest / ops.mean(largest), axis=1)
        return ops.repeat(weights, batch.num_learners, axis=1)
