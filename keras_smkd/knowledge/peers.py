"""What the peers predict themselves, and what their averages predict."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd._config import Configured
from keras_smkd._config import StatefulPart
from keras_smkd.batch import Batch
from keras_smkd.batch import Knowledge
from keras_smkd.batch import routes_by_name


@keras.saving.register_keras_serializable(package="keras_smkd")
class PeerPredictions(Configured):
    """Each learner's own predictions, by default for all others.

    `q_k = p_k`: with everything selected, deep mutual learning.

    Args:
        routes: `"others"`, or an array `(learners, learners)`, entries >= 0.

    Example:

    >>> batch = Batch(logits=ops.zeros((1, 2, 3)))
    >>> PeerPredictions()(batch).routes.tolist()
    [[0.0, 1.0], [1.0, 0.0]]

    Reference:
        Zhang et al., 2018, "Deep Mutual Learning".
        https://arxiv.org/abs/1706.00384
    """

    def __init__(self, routes: Any = "others") -> None:
        self.routes = routes

    def __call__(self, batch: Batch) -> Knowledge:
        """Return the predictions of the batch, one source for each learner.

        Args:
            batch: With `logits`, or `log_probs` alone.
        """
        count = batch.num_learners
        return Knowledge(
            logits=batch.logits,
            log_probs=batch.needed("log_probs", self),
            routes=routes_by_name(self.routes, count, count),
        )


def averaged(average: Any, value: Any, momentum: float, step: Any) -> Any:
    """Return a running average after a step, its momentum growing at first.

    `average <- a * average + (1 - a) * value`,
    `a = min(1 - 1 / (step + 1), momentum)`

    Args:
        average: Tensor.
        value: Tensor of the same shape.
        momentum: In [0, 1).
        step: Scalar, the steps taken, 1 after the first.

    Returns:
        Tensor of the same shape, dtype of `average`.

    Reference:
        Tarvainen and Valpola, 2017, "Mean teachers are better role models":
        the authors' code. https://arxiv.org/abs/1703.01780
    """
    dtype = average.dtype
    grown = 1.0 - 1.0 / (ops.cast(step, dtype) + 1.0)
    largest = ops.full_like(grown, momentum)
    # Not `minimum`, which makes float64 into float32 on torch.
    share = ops.where(grown < largest, grown, largest)
    return share * average + (1.0 - share) * ops.cast(value, dtype)


@keras.saving.register_keras_serializable(package="keras_smkd")
class AveragedPeers(StatefulPart):
    """What each peer predicts with its weights averaged over the steps.

    After each optimizer step `k`, counted from 1, for every weight and every
    statistic of batch normalisation:

        average <- a * average + (1 - a) * weight,
        a = min(1 - 1 / (k + 1), momentum)

    The averages are float32 weights of this part. They begin at the weights
    that the peers have when the model is built; `reset` begins them anew. They
    predict in inference mode (no dropout, averaged statistics), which costs
    one more forward pass per peer.

    Args:
        momentum: In [0, 1).
        routes: `"others"` (SMKD, PCL), `"itself"` (Mean Teacher), or an array
            `(learners, peers)`; `None` is `"others"` for two peers or more
            and `"itself"` for one.

    Reference:
        Tarvainen and Valpola, 2017, "Mean teachers are better role models",
        section 2. https://arxiv.org/abs/1703.01780
    """

    def __init__(self, momentum: float = 0.999, routes: Any = None) -> None:
        super().__init__()
        self.momentum = _checks.fraction("momentum", momentum)
        self.routes = routes

    def prepare(self, peers: Sequence[keras.Model], num_classes: int) -> None:
        """Make the averages, equal to the peers' weights."""
        averages: list[dict[int, Any]] = []
        for i, peer in enumerate(peers):
            averages.append({})
            for j, variable in enumerate(peer.weights):
                if not _is_averaged(variable):
                    continue
                averages[i][id(variable)] = self.add_state(
                    f"peer_{i}_{j}", variable.shape, "float32"
                )
        # In a closure: as an attribute, the peers' weights would be this
        # part's, too.
        self._pairs = lambda: list(zip(peers, averages, strict=True))
        self.reset()

    def reset(self) -> None:
        """Begin the averages anew, at the peers' present weights."""
        for peer, averages in self._pairs():
            for variable in peer.weights:
                if id(variable) in averages:
                    # By way of NumPy: JAX would keep one array for both, and
                    # cannot give that away twice.
                    averages[id(variable)].assign(
                        np.array(ops.convert_to_numpy(variable), "float32")
                    )

    def __call__(self, batch: Batch) -> Knowledge:
        """Return what the averages predict, one source for each peer.

        Args:
            batch: With `x` and `from_logits`.
        """
        outputs = [
            functional.at_least_float32(output)
            for output in self.outputs(batch.needed("x", self))
        ]
        logits = functional.logits(
            ops.stack(outputs, axis=1), batch.from_logits
        )
        count = logits.shape[1]
        routes = self.routes
        if routes is None:
            routes = "others" if count > 1 else "itself"
        return Knowledge(
            logits=ops.stop_gradient(logits),
            routes=routes_by_name(routes, batch.num_learners, count),
        )

    def outputs(self, inputs: Any) -> list[Any]:
        """Return what the averages put out in inference.

        Args:
            inputs: As for the peers.

        Returns:
            For each peer `(batch, classes)`, logits or probabilities as the
            peers put out, no gradient.
        """
        results = []
        for peer, averages in self._pairs():
            # All of the peer's variables: one that is not given keeps what is
            # stored in it, which in a step on JAX is nothing.
            trainable, other = (
                [
                    ops.convert_to_tensor(averages.get(id(variable), variable))
                    for variable in variables
                ]
                for variables in (
                    peer.trainable_variables,
                    peer.non_trainable_variables,
                )
            )
            output, _ = peer.stateless_call(
                trainable, other, inputs, training=False
            )
            results.append(ops.stop_gradient(output))
        return results

    def values_of(self, peer: keras.Model) -> list[Any]:
        """Return a peer's weights with the averages in their place.

        Returns:
            NumPy arrays, in the order of `peer.weights`.
        """
        for own, averages in self._pairs():
            if own is peer:
                return [
                    ops.convert_to_numpy(averages.get(id(variable), variable))
                    for variable in peer.weights
                ]
        raise ValueError(
            "`peer` must be one of the peers that are averaged. "
            f"Received: peer={peer!r}."
        )

    def after_step(self, taken: Any, step: Any) -> None:
        """Move the averages, if the step was taken.

        Args:
            taken: Scalar, 0 where accumulation or loss scaling skipped it.
            step: Scalar, the steps taken, 1 after the first.
        """
        for peer, averages in self._pairs():
            for variable in peer.weights:
                if id(variable) not in averages:
                    continue
                average = averages[id(variable)]
                before = ops.convert_to_tensor(average)
                after = averaged(
                    before,
                    ops.convert_to_tensor(variable),
                    self.momentum,
                    ops.maximum(step, 1),
                )
                average.assign(ops.where(taken > 0, after, before))


def _is_averaged(variable: Any) -> bool:
    return keras.backend.standardize_dtype(variable.dtype).startswith(
        ("float", "bfloat")
    )
