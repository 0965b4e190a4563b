"""Batches and epochs of a plan as datasets of `tf.data`."""

from typing import Any

import numpy as np

from keras_smkd import _checks
from keras_smkd.data import tf_recipes
from keras_smkd.data.batches import Plan


def batch_maker(tf: Any, plan: Plan) -> Any:
    """Return a function from positions and draws to a batch of tensors."""
    columns = {"label": tf.constant(plan.labels)}
    if plan.index is not None:
        columns["index"] = tf.constant(plan.index)
    # Files, and arrays that a file backs, are not to be copied into memory.
    in_memory = type(plan.images) is np.ndarray
    pixels = tf.constant(plan.images) if in_memory else None

    def read(positions: Any) -> Any:
        return np.asarray(plan.images[positions])

    def batch_at(positions: Any, draws: dict[str, Any]) -> Any:
        if in_memory:
            x = tf.gather(pixels, positions)
        else:
            x = tf.numpy_function(read, [positions], plan.dtype)
            x.set_shape((None, *plan.image_shape))
        x = tf_recipes.augment(tf, plan.augmentation, x, draws)
        if plan.dtype == np.uint8:
            x = tf.cast(x, tf.float32) / 255.0
        if plan.statistics:
            x = (x - plan.statistics[0]) / plan.statistics[1]
        y = {name: tf.gather(v, positions) for name, v in columns.items()}
        if plan.augmentation.mixes:
            if y["label"].dtype == tf.int32:
                y["label"] = tf.one_hot(y["label"], plan.num_classes)
            x, y["label"] = tf_recipes.mix(tf, x, y["label"], draws)
        return x, (y if "index" in y else y["label"])

    return batch_at


def random_epochs(
    tf: Any, plan: Plan, batch_at: Any, options: dict[str, Any]
) -> Any:
    """Return the dataset that orders and augments each epoch anew.

    `Dataset.shuffle` would serve but for two things: its order also depends
    on TensorFlow's global seed, and every iterator ever begun moves it on.
    """
    steps = plan.num_batches
    next_epoch = tf.Variable(
        plan.initial_epoch, dtype=tf.int64, trainable=False
    )
    draw = _draw_maker(tf, plan)
    # AutoGraph would take half a second to find nothing to convert.
    plain = tf.autograph.experimental.do_not_convert

    @plain
    def batches_of(epoch: Any) -> Any:
        positions = tf.numpy_function(
            lambda epoch: plan.positions(int(epoch)), [epoch], tf.int64
        )
        positions.set_shape((None,))
        batches = tf.data.Dataset.from_tensor_slices(positions)
        batches = batches.batch(plan.batch_size).enumerate()
        return batches.map(lambda step, positions: (epoch, step, positions))

    @plain
    def prepare(epoch: Any, step: Any, positions: Any) -> Any:
        return epoch, step, batch_at(positions, draw(epoch, step, positions))

    @plain
    def hand_out(epoch: Any, step: Any, batch: Any) -> Any:
        done = epoch + tf.cast(tf.equal(step, steps - 1), tf.int64)
        next_epoch.assign(tf.maximum(next_epoch, done))
        return batch

    dataset = tf.data.Dataset.from_tensors(0)
    dataset = dataset.map(plain(lambda _: next_epoch.read_value()))
    dataset = dataset.flat_map(batches_of)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    dataset = dataset.map(prepare, **options)
    if options["num_parallel_calls"] is not None:
        dataset = dataset.prefetch(tf.data.AUTOTUNE)
    # After the prefetching, so that it counts batches taken, not prepared.
    dataset = dataset.map(hand_out)

    def set_epoch(epoch: int) -> None:
        next_epoch.assign(_checks.integer("epoch", epoch, minimum=0))

    # As a `PipelineSequence` has them; `fit` says where a resumed run stands.
    dataset.epoch = next_epoch
    dataset.set_epoch = set_epoch
    return dataset


def _draw_maker(tf: Any, plan: Plan) -> Any:
    """Return a function from epoch, step and positions to tensors of draws."""
    spec = plan.draw(0, 0, plan.batch_size)

    def draw_arrays(epoch: Any, step: Any, count: Any) -> Any:
        return tuple(plan.draw(int(epoch), int(step), int(count)).values())

    def draw(epoch: Any, step: Any, positions: Any) -> dict[str, Any]:
        if not spec:
            return {}
        tensors = tf.numpy_function(
            draw_arrays,
            [epoch, step, tf.size(positions)],
            [array.dtype for array in spec.values()],
        )
        for array, tensor in zip(spec.values(), tensors, strict=True):
            tensor.set_shape((None, *array.shape[1:]))
        return dict(zip(spec, tensors, strict=True))

    return draw
