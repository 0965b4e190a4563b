"""Every branch on the backend of memories, and of what is seeded from outside.

`keras.ops` copies a whole weight to change a few rows of it, which costs more
than the rest of the step; JAX does it in place when it compiles. And JAX
compiles one program for all devices, which sees the whole batch, while under
TensorFlow's strategies, and in processes of torch, each replica sees its own
part of it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops


def read_rows(variable: Any, index: Any) -> Any:
    """Return rows of a weight.

    Args:
        variable: `(rows, ...)`.
        index: `(batch,)` int32, each in range.

    Returns:
        `(batch, ...)`.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Not from a tensor of the variable: to change it would copy it then.
        return tf.gather(variable.value, index)
    return rows_of(ops.convert_to_tensor(variable), index)


def rows_of(values: Any, index: Any) -> Any:
    """Return rows of a tensor.

    `keras.ops.take` first turns places from the end into others, in several
    operations on torch.

    Args:
        values: `(rows, ...)`.
        index: `(batch,)` integers, each in range.

    Returns:
        `(batch, ...)`.
    """
    if keras.backend.backend() == "torch":
        return values[index]
    return ops.take(values, index, axis=0)


def write_rows(variable: Any, index: Any, rows: Any) -> None:
    """Set rows of a weight, in place where that is possible."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        variable.value.scatter_update(tf.IndexedSlices(rows, index))
    elif backend == "torch":
        variable.value.data[index] = rows
    else:
        values = ops.convert_to_tensor(variable)
        index = ops.expand_dims(index, axis=1)
        variable.assign(ops.scatter_update(values, index, rows))


def gather(values: Any) -> Any:
    """Return the values of all replicas, one after the other.

    Args:
        values: `(batch, ...)`, of this replica.

    Returns:
        `(replicas * batch, ...)`, the same on every replica; `values` where
        there is only one.

    Raises:
        ValueError: if the batches of torch's processes differ in size.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return values
        gathered = context.all_gather(values, axis=0)
        # It forgets the sizes of the other axes.
        return tf.ensure_shape(gathered, [None, *values.shape[1:]])
    if backend == "torch":
        import torch

        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            return _gather_processes(values)
    return values


def _gather_processes(values: Any) -> Any:
    import torch

    count = torch.distributed.get_world_size()
    size = torch.tensor(len(values), device=values.device)
    sizes = [torch.empty_like(size) for _ in range(count)]
    torch.distributed.all_gather(sizes, size)
    if len({int(size) for size in sizes}) > 1:
        raise ValueError(
            "The batches of all processes must have the same size, for a part "
            "that remembers examples. Received: batches of "
            f"{[int(size) for size in sizes]} examples. Give every process "
            "the same number of examples, and a batch size that divides it."
        )
    parts = [torch.empty_like(values) for _ in range(count)]
    torch.distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


@contextlib.contextmanager
def own_generator(seed: int) -> Iterator[None]:
    """Have torch's generator begin with a seed, and put it back at the end.

    The other backends draw from seeds that are weights of the model.

    Args:
        seed: Integer >= 0.
    """
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
