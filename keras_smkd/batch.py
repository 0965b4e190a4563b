"""What the parts of the formula see of a batch, and what a source answers."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from keras import ops

from keras_smkd import _checks
from keras_smkd import functional


class _WhenAsked:
    """A field whose value may be a function, called when it is first read."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._key = f"_{name}"

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return None  # The default.
        value = instance.__dict__[self._key]
        return value() if callable(value) else value

    def __set__(self, instance: Any, value: Any) -> None:
        # The copies of a batch share what one of them has asked for.
        instance.__dict__[self._key] = (
            functools.cache(value) if callable(value) else value
        )


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch, as every part of the objective is called with it.

    The model fills the fields in the order in which they stand; one that is
    not filled yet is `None`. Learners are the peers, and the head if there is
    one, last.

    Args:
        x: The inputs, as the peers take them.
        labels: `(batch, classes)`, each example's label as a distribution.
        labelled: `(batch,)`, 0 where an example has no label; `None` where
            all have one.
        index: `(batch,)` int32, each example's place in the data set.
        logits: `(batch, learners, classes)`, with gradient; of learners that
            put out probabilities, their logarithms.
        log_probs: `(batch, learners, classes)`, at temperature 1, with
            gradient.
        features: From the name of a layer (or one name for each peer) to what
            it puts out, one tensor for each peer.
        progress: Scalar in [0, 1], the share of training done.
        training: Whether this is a training step.
        threshold: Scalar, the selection threshold in force.
        knowledge: `(batch, sources, classes)`, log-probabilities at
            temperature 1, no gradient.
        knowledge_logits: `(batch, sources, classes)`, no gradient.
        knowledge_entropy: `(batch, sources)`, in nats, no gradient.
        is_own_knowledge: Whether the knowledge is what the learners predict
            here, one source for each, so that it need not be computed again.
        from_logits: Whether the peers put out logits, or probabilities.
        samples: `(passes, batch, sources, classes)`, log-probabilities of
            several passes, no gradient, from a source that makes them.
        knowledge_features: Inner layers' outputs that a source gives, no
            gradient.
        routes: `(learners, sources)` NumPy array, who learns from whom.
        selected: `(batch, sources)`, 1 where knowledge is passed on, 0 where
            it is not; `None` for all of it.
        losses: `(batch, learners)`, the compiled loss against the target, no
            gradient.

    Example:

    >>> batch = Batch(logits=ops.zeros((1, 2, 2)))
    >>> batch.log_probs[0, 0]
    [-0.6931472, -0.6931472]
    """

    x: Any = None
    labels: _WhenAsked = _WhenAsked()
    labelled: Any = None
    index: Any = None
    logits: Any = None
    log_probs: _WhenAsked = _WhenAsked()
    features: Any = None
    progress: Any = None
    training: bool = False
    threshold: Any = None
    knowledge: _WhenAsked = _WhenAsked()
    knowledge_logits: Any = None
    knowledge_entropy: _WhenAsked = _WhenAsked()
    is_own_knowledge: bool = False
    from_logits: bool = True
    samples: Any = None
    knowledge_features: Any = ()
    routes: Any = None
    selected: Any = None
    losses: _WhenAsked = _WhenAsked()

    def __post_init__(self) -> None:
        # Not by the fields, which would ask.
        given = self.__dict__
        if given["_log_probs"] is None and self.logits is not None:
            log_probs = functools.partial(
                functional.log_probabilities, self.logits
            )
            object.__setattr__(self, "log_probs", log_probs)
        if given["_knowledge"] is None and self.knowledge_logits is not None:
            knowledge = functional.log_probabilities(self.knowledge_logits)
            object.__setattr__(self, "knowledge", ops.stop_gradient(knowledge))

    def filled(self, **fields: Any) -> "Batch":
        """Return the batch with further fields, what is not asked unasked."""
        result = copy.copy(self)
        if "knowledge" in fields:
            fields.setdefault("knowledge_entropy", None)
        for name, value in fields.items():
            object.__setattr__(result, name, value)
        return result

    @property
    def num_learners(self) -> int:
        """How many learners predict, 1 if nothing is known of them."""
        predictions = self.logits if self.logits is not None else self.log_probs
        return 1 if predictions is None else predictions.shape[1]

    def needed(self, field: str, part: Any) -> Any:
        """Return a field, or raise if a part asks for what is not there.

        Args:
            field: The field's name.
            part: The part that asks, for the message.

        Raises:
            ValueError: if it is `None`.
        """
        value = getattr(self, field)
        if value is None:
            raise ValueError(
                f"{type(part).__name__} needs {_SOURCES_OF_FIELDS[field]}. "
                f"`batch.{field}` must be there. Received: a batch without."
            )
        return value


def check_without_head(part: Any, num_learners: int, num_peers: int) -> None:
    """Raise `ValueError` if a part that follows peers gets another learner."""
    if num_learners != num_peers:
        raise ValueError(
            f"every learner of {type(part).__name__} must be one of the "
            f"{num_peers} peers that it follows: it cannot be used with a "
            f"head. Received: {num_learners} learners."
        )


_SOURCES_OF_FIELDS = {
    "x": "the inputs",
    "labels": "labels: give `y`",
    "index": "each example's place: labels {'label': ..., 'index': ...}",
    "log_probs": "predictions",
    "logits": "predictions",
    "features": "outputs of inner layers: a part that has `taps`",
    "progress": "the progress of training",
    "threshold": "a threshold",
    "knowledge": "knowledge: give `knowledge`, such as 'peers'",
    "knowledge_logits": "a source of knowledge that gives logits",
    "samples": "a source of several passes, such as dropout",
    "routes": "knowledge: give `knowledge`, such as 'peers'",
    "losses": "the losses of the labels",
}


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """What a source of knowledge answers for a batch.

    Args:
        logits: `(batch, sources, classes)`, or `None` where there are only
            `log_probs`.
        log_probs: `(batch, sources, classes)`, log-probabilities at
            temperature 1; by default those of the logits.
        routes: `(learners, sources)` NumPy array, entries >= 0: how much
            each learner takes from each source.
        available: `(batch, sources)`, 0 where the source has nothing to say
            yet, else 1; `None` for 1 throughout.
        samples: `(passes, batch, sources, classes)`, log-probabilities of
            several passes, if it makes them.
        features: Inner layers' outputs, if it gives them.

    Raises:
        ValueError: if there are neither logits nor log-probabilities.
    """

    logits: Any = None
    log_probs: Any = None
    routes: Any = None
    available: Any = None
    samples: Any = None
    features: Any = ()

    def __post_init__(self) -> None:
        if self.logits is None and self.log_probs is None:
            raise ValueError(
                "`Knowledge` must have `logits` or `log_probs`. Received: "
                "neither."
            )


@dataclasses.dataclass(frozen=True)
class Correction:
    """What a target answers that also says what there is to be learnt.

    Args:
        labels: `(batch, learners, classes)`, distributions.
        knowledge: Knowledge that takes the place of what the batch had.
    """

    labels: Any
    knowledge: Knowledge


Routes = npt.NDArray[np.float64]


def to_others(num_peers: int) -> Routes:
    """Return the routes from each peer to all others.

    `r = (1 - identity) / (num_peers - 1)`

    Args:
        num_peers: Number of peers, two or more.

    Returns:
        `(num_peers, num_peers)`, rows sum to 1.

    Raises:
        ValueError: if there are fewer than two peers.

    Example:

    >>> to_others(2).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    if num_peers < 2:
        raise ValueError(
            "`num_peers` must be 2 or more, for peers that learn from each "
            f"other. Received: num_peers={num_peers}."
        )
    return (1.0 - np.eye(num_peers)) / (num_peers - 1)


def is_to_others(routes: Routes) -> bool:
    """Return whether routes are those of `to_others`."""
    num_learners, num_sources = routes.shape
    return num_learners == num_sources > 1 and np.array_equal(
        routes, to_others(num_learners)
    )


def to_itself(num_peers: int) -> Routes:
    """Return the routes from each source to the learner of its place.

    Args:
        num_peers: Number of learners, and of sources.

    Returns:
        `(num_peers, num_peers)`, the identity.
    """
    return np.eye(num_peers)


def to_all(num_learners: int, num_sources: int) -> Routes:
    """Return the routes from every source to every learner, `1 / sources`.

    Args:
        num_learners: Number of learners.
        num_sources: Number of sources.

    Returns:
        `(num_learners, num_sources)`, rows sum to 1.
    """
    return np.full((num_learners, num_sources), 1.0 / num_sources)


def routes_by_name(routes: Any, num_learners: int, num_sources: int) -> Routes:
    """Return the routes of a source that has one part for each peer.

    Args:
        routes: `"others"` (from each peer's part to the other peers),
            `"itself"` (to the peer itself), `"all"`, or an array
            `(learners, sources)`.
        num_learners: Number of learners. Those after the peers, such as a
            head, learn nothing from the first two.
        num_sources: Number of peers.

    Raises:
        ValueError: if a name is not known.
    """
    if not isinstance(routes, str):
        return checked_routes(routes, num_learners, num_sources)
    if _checks.one_of("routes", routes, ("others", "itself", "all")) == "all":
        return to_all(num_learners, num_sources)
    known = to_others if routes == "others" else to_itself
    rest = np.zeros((num_learners - num_sources, num_sources))
    return np.concatenate([known(num_sources), rest])


def checked_routes(routes: Any, num_learners: int, num_sources: int) -> Routes:
    """Return routes as a float64 array, or raise if they are none.

    Args:
        routes: Nested list or array.
        num_learners: Number of learners.
        num_sources: Number of sources.

    Raises:
        TypeError: if they are not numbers.
        ValueError: if they have another shape than
            `(num_learners, num_sources)`, or an entry is negative or not
            finite.
    """
    try:
        array = np.array(routes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "`routes` must be an array of numbers. "
            f"Received: routes={routes!r}."
        ) from error
    if array.shape != (num_learners, num_sources):
        raise ValueError(
            f"`routes` must have shape (learners, sources) = "
            f"{(num_learners, num_sources)}. Received: routes of shape "
            f"{array.shape}."
        )
    if not np.all(np.isfinite(array)) or np.any(array < 0):
        raise ValueError(
            "`routes` must be finite and >= 0. "
            f"Received: routes={array.tolist()}."
        )
    return array


def checked_shape(part: Any, argument: str, value: Any, shape: Any) -> Any:
    """Return what a part gave, or raise if its shape is another.

    Args:
        part: The part, for the message.
        argument: The argument that it was given as, for the message.
        value: Tensor that it returned.
        shape: The shape that it must have, as far as it is known.

    Raises:
        ValueError: if the shapes differ.
    """
    found = tuple(getattr(value, "shape", ("no shape",)))
    if _checks.shapes_differ(tuple(shape), found):
        name = getattr(part, "__name__", type(part).__name__)
        raise ValueError(
            f"`{argument}` must give shape {tuple(shape)}. "
            f"Received: shape {found} from {name}."
        )
    return value


Part = Callable[[Batch], Any]
