"""Several sources of knowledge, side by side."""

from collections.abc import Sequence
from typing import Any
from typing import TypeVar

import keras
import numpy as np
from keras import ops

from keras_smkd import functional
from keras_smkd._config import Holder
from keras_smkd._config import checked_parts
from keras_smkd._config import parts_of
from keras_smkd.batch import Batch
from keras_smkd.batch import Knowledge

Kind = TypeVar("Kind")


@keras.saving.register_keras_serializable(package="keras_smkd")
class Several(Holder):
    """The knowledge of several parts, each with its own routes.

    The sources of the parts stand one after the other, and so do the columns
    of their routes: what a learner takes from one part does not depend on the
    others.

    Args:
        sources: List of parts of knowledge, two or more.

    Example:

    >>> both = Several([PeerPredictions(), PeerPredictions("itself")])
    >>> both(Batch(logits=ops.zeros((1, 2, 3)))).routes.tolist()
    [[0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]]

    Reference:
        Wu and Gong, 2021, "Peer Collaborative Learning for Online Knowledge
        Distillation": two sources. https://arxiv.org/abs/2006.04147
    """

    def __init__(self, sources: Sequence[Any]) -> None:
        super().__init__()
        self.sources = checked_parts("sources", sources)

    def held(self) -> list[Any]:
        """Return the sources."""
        return list(self.sources)

    def __call__(self, batch: Batch) -> Knowledge:
        """Return the knowledge of all sources."""
        answers = [source(batch) for source in self.sources]
        log_probs = [
            functional.log_probabilities(answer.logits)
            if answer.log_probs is None
            else answer.log_probs
            for answer in answers
        ]
        logits = [
            own if answer.logits is None else answer.logits
            for answer, own in zip(answers, log_probs, strict=True)
        ]
        available = None
        if any(answer.available is not None for answer in answers):
            available = ops.concatenate(
                [
                    ops.ones_like(own[..., 0])
                    if answer.available is None
                    else answer.available
                    for answer, own in zip(answers, log_probs, strict=True)
                ],
                axis=1,
            )
        return Knowledge(
            logits=ops.concatenate(logits, axis=1),
            log_probs=ops.concatenate(log_probs, axis=1),
            routes=np.concatenate(
                [answer.routes for answer in answers], axis=1
            ),
            available=available,
            features=tuple(
                feature for answer in answers for feature in answer.features
            ),
        )


def find(kind: type[Kind], knowledge: Any) -> Kind:
    """Return the part of a kind in a model's knowledge.

    Args:
        kind: Class of the part.
        knowledge: Part, `Several` of them, or `None`.

    Raises:
        ValueError: if there is none.
    """
    for part in parts_of(knowledge):
        if isinstance(part, kind):
            return part
    raise ValueError(
        f"`knowledge` must be or hold a `{kind.__name__}`. "
        f"Received: knowledge={knowledge!r}."
    )
