"""The division of examples into parts."""

import numpy as np

from keras_smkd import _checks
from keras_smkd.data.examples import Examples


def split(
    examples: Examples,
    fraction: float,
    *,
    seed: int,
    stratified: bool = True,
) -> tuple[Examples, Examples]:
    """Return the examples in two parts, drawn at random.

    Both keep the order, the index and the noise of the whole. The second is a
    validation set as users have one, with noisy labels, if there is noise;
    its `without_noise()` is one with clean labels.

    Args:
        examples: What to split.
        fraction: Share of the second part, in (0, 1); it has
            `round(fraction * examples)` examples.
        seed: Integer >= 0. The same seed gives the same parts.
        stratified: Whether the second part has its share of each class, by
            the labels of training: the noisy ones, as a user knows no others.
            What rounding leaves over goes to the classes that lost most.

    Returns:
        `(rest, part)`, two `Examples`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if `fraction` is not in (0, 1), or one part is empty.

    Example:

    >>> examples = from_arrays(np.zeros((10, 8, 8, 1)), [0] * 4 + [1] * 6)
    >>> train, validation = split(examples, 0.5, seed=0)
    >>> validation.labels.tolist()
    [0, 0, 1, 1, 1]
    """
    if not isinstance(examples, Examples):
        raise TypeError(
            "`examples` must be Examples. "
            f"Received: examples of type {type(examples).__name__}."
        )
    _checks.number("fraction", fraction, above=0.0, maximum=1.0)
    seed = _checks.integer("seed", seed, minimum=0)
    count = round(fraction * len(examples))
    if not 0 < count < len(examples):
        raise ValueError(
            "`fraction` must leave an example in each part. Received: "
            f"fraction={fraction}, for {len(examples)} examples."
        )
    order = np.random.default_rng(seed).permutation(len(examples))
    if stratified:
        # NumPy 1 counts no unsigned integers of 64 bits.
        labels = examples.training_labels.astype(np.int64)
        sizes = np.bincount(labels, minlength=examples.num_classes)
        shares = sizes * count / len(examples)
        counts = np.floor(shares).astype(np.int64)
        lost = np.argsort(counts - shares, kind="stable")
        counts[lost[: count - counts.sum()]] += 1
        chosen = np.concatenate(
            [
                order[labels[order] == k][: counts[k]]
                for k in range(examples.num_classes)
            ]
        )
    else:
        chosen = order[:count]
    held = np.zeros(len(examples), bool)
    held[chosen] = True
    return examples.take(np.flatnonzero(~held)), examples.take(
        np.flatnonzero(held)
    )
