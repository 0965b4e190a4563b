"""What peers predict in several passes, each with dropout of its own."""

import inspect
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional
from keras_smkd._config import Configured
from keras_smkd.batch import Batch
from keras_smkd.batch import Knowledge
from keras_smkd.batch import routes_by_name
from keras_smkd.features.recording import graph_of

_DROPOUTS = (
    keras.layers.Dropout,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
)


@keras.saving.register_keras_serializable(package="keras_smkd")
class DropoutPasses(Configured):
    """The mean of several predictions of each peer, made with dropout on.

    `q = (1 / passes) * sum_s p_s`, where each `p_s` is drawn with dropout of
    its own and normalisations in inference mode. The passes themselves are
    the knowledge's `samples`, by which a selection can go:
    `ConfidentKnowledge("mutual_information")`.

    Nothing moves but the seeds of the dropout layers, which are the peers'
    own. All passes are one call of each peer on `passes` copies of the batch,
    in training and in evaluation.

    Args:
        passes: Number of passes, one or more.
        routes: `"others"`, `"itself"`, or an array `(learners, peers)`;
            `None` is `"others"` for two peers or more, `"itself"` for one.

    Raises:
        TypeError: if `passes` is no integer.
        ValueError: if it is below 1; when the model is built, if a peer has
            no dropout layer (or one whose mask is the same for the whole
            batch), or its layers are not known. Dropout inside of other
            layers, such as attention, is not looked at.

    Example:

    ```python
    model = keras_smkd.PeerLearning(
        [peer_a, peer_b],
        knowledge=keras_smkd.knowledge.DropoutPasses(8),
        selection="mutual_information",
    )
    ```

    Reference:
        Gal and Ghahramani, 2016, "Dropout as a Bayesian Approximation".
        https://arxiv.org/abs/1506.02142
    """

    def __init__(self, passes: int = 8, routes: Any = None) -> None:
        self.passes = _checks.integer("passes", passes, minimum=1)
        self.routes = routes
        self._runs: Callable[[], list[Any]] = lambda: []

    def prepare(self, peers: Sequence[keras.Model], num_classes: int) -> None:
        """Make of each peer what calls it with dropout on.

        Args:
            peers: The peers, built.
            num_classes: Number of classes.

        Raises:
            ValueError: if a peer has no dropout layer.
        """
        runs = []
        for i, peer in enumerate(peers):
            run, count = with_dropout(peer)
            if count == 0:
                raise ValueError(
                    "`knowledge` must be of peers with a dropout layer, for "
                    f"{type(self).__name__}. Received: `peers[{i}]`, "
                    f"{peer.name!r}, without one: its passes would all be "
                    "the same."
                )
            runs.append(run)
        # In a closure: as an attribute, the peers' weights would be saved
        # as this part's, too.
        self._runs = lambda: runs

    def __call__(self, batch: Batch) -> Knowledge:
        """Return the mean of the passes, one source for each peer.

        Args:
            batch: With `x` and `from_logits`.
        """
        copies = keras.tree.map_structure(
            lambda value: ops.concatenate([value] * self.passes, axis=0),
            batch.needed("x", self),
        )
        samples = []
        for run in self._runs():
            outputs = ops.stop_gradient(run(copies))
            log_probs = functional.log_probabilities(outputs, batch.from_logits)
            samples.append(
                ops.reshape(log_probs, (self.passes, -1, log_probs.shape[-1]))
            )
        stacked = ops.stop_gradient(ops.stack(samples, axis=2))
        count = len(samples)
        routes = self.routes
        if routes is None:
            routes = "others" if count > 1 else "itself"
        return Knowledge(
            log_probs=functional.mean_of_samples(stacked),
            routes=routes_by_name(routes, batch.num_learners, count),
            samples=stacked,
        )


def with_dropout(peer: keras.Model) -> tuple[keras.Model, int]:
    """Return a model of a peer's own layers, of which only dropout trains.

    Args:
        peer: A functional model, or a `keras.Sequential` that is built. In a
            model that is a layer of it, dropout is on, too.

    Returns:
        A model to be called with the inputs alone, and the number of dropout
        layers in it.

    Raises:
        ValueError: if the peer's layers are not known, or a dropout layer has
            a mask of the whole batch.
    """
    graph = graph_of(peer, "knowledge")
    count = 0

    def calling(layer: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        if isinstance(layer, keras.Model):
            inner, inner_count = with_dropout(layer)
            count += inner_count
            return inner(*args)
        is_dropout = isinstance(layer, _DROPOUTS)
        if is_dropout and (getattr(layer, "noise_shape", None) or [None])[0]:
            raise ValueError(
                "`knowledge` must be of peers whose dropout differs between "
                f"examples. Received: {layer.name!r} of {peer.name!r} with "
                f"noise_shape={layer.noise_shape}. Give None as the first."
            )
        count += is_dropout
        if "training" in inspect.signature(layer.call).parameters:
            kwargs["training"] = is_dropout
        return layer(*args, **kwargs)

    again = keras.models.clone_model(
        graph,
        input_tensors=graph.input,
        clone_function=lambda layer: layer,
        call_function=calling,
    )
    return keras.Model(again.input, again.output, name=peer.name), count
