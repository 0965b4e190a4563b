"""Where all chance comes from: the order of an epoch, the draws of a batch.

NumPy only, so that a pipeline of `tf.data` and a `PyDataset` share their orders
and draws, and a dataset for torch the orders. Everything follows from (seed,
epoch, batch), and nothing from a state that moves on.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks

# Keep the orders apart from the draws, whatever the numbers that follow.
_ORDER, _DRAWS = 0, 1


def check_shard(
    shard: tuple[int, int] | None, num_examples: int
) -> tuple[int, int]:
    """Return (index, count), (0, 1) for None, or raise if it is no share."""
    if shard is None:
        return 0, 1
    if not isinstance(shard, tuple | list) or len(shard) != 2:
        raise TypeError(
            f"`shard` must be a pair (index, count). Received: shard={shard!r}."
        )
    index = _checks.integer("shard[0]", shard[0], minimum=0)
    count = _checks.integer("shard[1]", shard[1], minimum=1)
    if index >= count:
        raise ValueError(
            "`shard` must be (index, count) with index < count. "
            f"Received: shard={tuple(shard)!r}."
        )
    if count > num_examples:
        raise ValueError(
            f"`shard` must have a count <= {num_examples}, the number of "
            f"examples. Received: shard={tuple(shard)!r}."
        )
    return index, count


def num_batches(
    num_examples: int,
    batch_size: int,
    drop_remainder: bool,
    shard: tuple[int, int],
) -> int:
    """Return the batches of one epoch of one shard.

    With `drop_remainder`, every shard has as many, or hosts that wait for
    each other at every step would wait for ever after the last of one.
    """
    index, count = shard
    if drop_remainder:
        return num_examples // count // batch_size
    mine = len(range(index, num_examples, count))
    return -(-mine // batch_size)


def epoch_positions(
    num_examples: int,
    *,
    shuffle: bool,
    seed: int | None,
    epoch: int,
    shard: tuple[int, int] = (0, 1),
) -> npt.NDArray[np.int64]:
    """Return the places of an epoch's examples, in the order of their turns.

    A shard takes every `count`-th place of the order that all shards share:
    together they have each example once.
    """
    index, count = shard
    positions = np.arange(num_examples, dtype=np.int64)
    if shuffle:
        key = np.random.SeedSequence(seed, spawn_key=(_ORDER, epoch))
        positions = np.random.default_rng(key).permutation(positions)
    return positions[index::count]


def batch_generator(
    seed: int | None, epoch: int, batch: int, shard: int = 0
) -> np.random.Generator:
    """Return the generator of a batch's draws."""
    key = np.random.SeedSequence(seed, spawn_key=(_DRAWS, epoch, batch, shard))
    return np.random.default_rng(key)


def check_seed(seed: Any, needed: bool) -> int | None:
    """Return the seed, or raise if it is none though there is chance."""
    if seed is not None:
        return _checks.integer("seed", seed, minimum=0)
    if needed:
        raise ValueError(
            "`seed` must be an integer to shuffle or augment. "
            "Received: seed=None."
        )
    return None
