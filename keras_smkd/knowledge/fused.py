"""Knowledge of the fused classifier, and of the peers for it."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_smkd import _checks
from keras_smkd._config import Configured
from keras_smkd.batch import Batch
from keras_smkd.batch import Knowledge


@keras.saving.register_keras_serializable(package="keras_smkd")
class FusedClassifier(Configured):
    """Peers learn from the head, and the head from the peers' ensemble.

    The learners are `n` peers with logits `z_1 ... z_n`, then the head with
    `z_f`. Sources are `z_f`, for each peer, and the mean
    `(z_1 + ... + z_n) / n`, for the head. With `KullbackLeibler(3.0)` and two
    peers, the second term is, after Kim et al.,

    `T^2 * [KL(z_f || z_1) + KL(z_f || z_2) + KL((z_1 + z_2) / 2 || z_f)]`

    of the distributions at `T = 3`. With `to_head=False` it is what Wu and
    Gong have the peers learn from their ensemble.

    Args:
        to_peers: Whether the peers learn from the head.
        to_head: Whether the head learns from the peers.

    Raises:
        TypeError: if one is not a `bool`.
        ValueError: if both are `False`; in a call, if there is no head.

    Example:

    >>> batch = Batch(
    ...     logits=ops.convert_to_tensor([[[1.0, 0.0], [3.0, 0.0], [5.0, 0.0]]])
    ... )
    >>> knowledge = FusedClassifier()(batch)
    >>> knowledge.logits
    [[[5.0, 0.0], [2.0, 0.0]]]
    >>> knowledge.routes.tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]

    Reference:
        Kim et al., 2019, "Feature Fusion for Online Mutual Knowledge
        Distillation", section 3. https://arxiv.org/abs/1904.09058

        Wu and Gong, 2021, "Peer Collaborative Learning for Online Knowledge
        Distillation", section 3. https://arxiv.org/abs/2006.04147
    """

    def __init__(self, to_peers: bool = True, to_head: bool = True) -> None:
        self.to_peers = _checks.boolean("to_peers", to_peers)
        self.to_head = _checks.boolean("to_head", to_head)
        if not (to_peers or to_head):
            raise ValueError(
                "`to_peers` or `to_head` must be True. Received: both False."
            )
        self._num_peers: int | None = None

    def prepare(self, peers: Any, num_classes: int) -> None:
        """Count the peers, so that a missing head is seen.

        Args:
            peers: The model's peers. They are not kept.
            num_classes: Number of classes.
        """
        self._num_peers = len(peers)

    def __call__(self, batch: Batch) -> Knowledge:
        """Return the knowledge of `(batch, sources, classes)`, no gradient.

        Raises:
            ValueError: if there are not as many learners as peers and a head.
        """
        logits = batch.logits
        if logits is None:
            # Log-probabilities are logits, too, and so is their mean.
            logits = batch.needed("log_probs", self)
        num_learners = logits.shape[1]
        num_peers = max(
            1, num_learners - 1 if self._num_peers is None else self._num_peers
        )
        if num_learners != num_peers + 1:
            raise ValueError(
                "`knowledge` must be of a model with a head, for "
                f"{type(self).__name__}. Received: {num_learners} learners, "
                f"{num_peers} of them peers. Give `head`, such as "
                "`features.FeatureFusion(tap)`."
            )
        logits = ops.stop_gradient(logits)
        sources, routes = [], []
        if self.to_peers:
            sources.append(logits[:, -1])
            routes.append([1.0] * num_peers + [0.0])
        if self.to_head:
            sources.append(ops.mean(logits[:, :-1], axis=1))
            routes.append([0.0] * num_peers + [1.0])
        return Knowledge(
            logits=ops.stack(sources, axis=1), routes=np.array(routes).T
        )
