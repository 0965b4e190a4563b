"""Knowledge that keeps the likeliest class and mixes up the others."""

from typing import Any

import keras
from keras import ops

from keras_smkd import functional
from keras_smkd._config import Holder
from keras_smkd.batch import Batch
from keras_smkd.batch import Knowledge


def permuted(log_probs: Any, noise: Any) -> Any:
    """Return distributions with all but the likeliest class permuted.

    Args:
        log_probs: `(..., classes)`.
        noise: `(..., classes)`, numbers >= 0, all different; they give the
            permutation: the k-th class of those that are not the likeliest,
            in order, takes the value of the class with the k-th smallest.

    Returns:
        `(..., classes)`.
    """
    num_classes = log_probs.shape[-1]
    places = ops.arange(num_classes, dtype="int32")
    largest = ops.cast(ops.argmax(log_probs, axis=-1), "int32")
    is_largest = ops.equal(places, ops.expand_dims(largest, axis=-1))
    # The likeliest class comes first in both orders, and so meets itself.
    from_places = ops.argsort(ops.where(is_largest, -1.0, noise), axis=-1)
    in_order = ops.where(is_largest, -1, places)
    to_places = ops.argsort(ops.argsort(in_order, axis=-1), axis=-1)
    mixed = ops.take_along_axis(log_probs, from_places, axis=-1)
    return ops.take_along_axis(mixed, to_places, axis=-1)


@keras.saving.register_keras_serializable(package="keras_smkd")
class PermutedKnowledge(Holder):
    """Another source's knowledge, all but the likeliest class permuted.

    Dark knowledge with permuted predictions (DKPP): what is left of it is how
    sure the source is. Each example has a new permutation at each visit; in
    evaluation nothing is permuted.

    Args:
        source: Part of knowledge, such as `Teacher`.
        seed: Integer, or `None` for a random one.

    Reference:
        Furlanello et al., 2018, "Born-Again Neural Networks", section 3.2.
        https://arxiv.org/abs/1805.04770
    """

    def __init__(self, source: Any, seed: int | None = None) -> None:
        super().__init__()
        if not callable(source) or isinstance(source, type):
            raise TypeError(
                "`source` must be a callable of the batch. "
                f"Received: source={source!r}."
            )
        self.source = source
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def held(self) -> list[Any]:
        """Return what the knowledge is taken from."""
        return [self.source]

    def __call__(self, batch: Batch) -> Knowledge:
        """Return the source's knowledge, permuted in training."""
        given = self.source(batch)
        if not batch.training:
            return given
        log_probs = given.log_probs
        if log_probs is None:
            log_probs = functional.log_probabilities(given.logits)
        noise = keras.random.uniform(
            ops.shape(log_probs), seed=self.seed_generator
        )
        return Knowledge(
            log_probs=permuted(log_probs, noise),
            routes=given.routes,
            available=given.available,
        )
