"""The door to torch: imports it only inside."""

import os
from typing import Any

import numpy.typing as npt

from keras_smkd.data.batches import make_plan
from keras_smkd.data.examples import Examples
from keras_smkd.data.optional import import_optional
from keras_smkd.data.recipes import Augmentation


def make_torch_dataset(
    images: npt.ArrayLike | Examples,
    labels: npt.ArrayLike | None = None,
    *,
    index: npt.ArrayLike | None = None,
    with_index: bool = False,
    num_classes: int | None = None,
    shuffle: bool = False,
    seed: int | None = None,
    augment: str | Augmentation | None = None,
    mean: npt.ArrayLike | None = None,
    std: npt.ArrayLike | None = None,
    cache: str | os.PathLike[str] = "auto",
    shard: tuple[int, int] | None = None,
    channels_first: bool = False,
    initial_epoch: int = 0,
) -> tuple[Any, Any]:
    """Return a map-style dataset for torch's DataLoader, and its sampler.

    Order and augmentation follow from `seed`, the epoch and the example's
    position. The order is that of `make_pipeline`; the augmentation is not,
    as there it follows from the batch. The epoch moves on only when
    `dataset.set_epoch(epoch)` says so, before the loader's pass begins:
    under `fit`, in a callback's `on_epoch_begin`. A loader with persistent
    workers keeps copies of the dataset that do not hear of it.

    Args:
        images: `(examples, ...)`, or `Examples`. See `make_pipeline`, as for
            all that follow.
        labels: `(examples,)` class ids, or `(examples, classes)` one-hot or
            soft; None is for Examples.
        index: `(examples,)` integers, each example's place in the data set.
        with_index: Whether examples carry an index without one being given.
        num_classes: If given, labels are checked to fit it.
        shuffle: Whether each epoch of the sampler has a new order. Needs
            `seed`.
        seed: Integer >= 0.
        augment: An `Augmentation` or the name of one, with neither MixUp
            nor CutMix.
        mean: Number, or one per channel, to subtract.
        std: Number > 0, or one per channel, to divide by.
        cache: Where files are kept once decoded.
        shard: `(index, count)` of a host among several; the sampler's share.
        channels_first: Whether images are (channels, height, width), as
            torch's own layers take them. Keras takes the channels last.
        initial_epoch: Epoch of the first pass.

    Returns:
        `(dataset, sampler)`: a `torch.utils.data.Dataset` of
        `(image, label)`, or `(image, {"label": ..., "index": ...})`, with
        float32 images and int64 (float32 if soft) labels; and a
        `torch.utils.data.Sampler` for `DataLoader(dataset, sampler=sampler)`.

    Raises:
        ImportError: if torch is not installed.
        TypeError: as `make_pipeline` does.
        ValueError: as `make_pipeline` does, or for a recipe that mixes.

    Example:

    ```python
    dataset, sampler = keras_smkd.data.make_torch_dataset(
        train, shuffle=True, seed=0, augment="flip_crop"
    )
    loader = torch.utils.data.DataLoader(dataset, 64, sampler=sampler)
    for epoch in range(10):
        dataset.set_epoch(epoch)
        for images, labels in loader:
            ...
    ```
    """
    import_optional("torch", "make_torch_dataset", "torch")
    from keras_smkd.data.torch_dataset import EpochSampler
    from keras_smkd.data.torch_dataset import TorchDataset

    plan = make_plan(
        images,
        labels,
        batch_size=1,
        index=index,
        with_index=with_index,
        num_classes=num_classes,
        shuffle=shuffle,
        seed=seed,
        augment=augment,
        mean=mean,
        std=std,
        cache=cache,
        shard=shard,
        drop_remainder=False,
        initial_epoch=initial_epoch,
    )
    if plan.augmentation.mixes:
        raise ValueError(
            "`augment` must be without MixUp and CutMix for a dataset of "
            f"single examples. Received: augment={augment!r}."
        )
    if channels_first and len(plan.image_shape) != 3:
        raise ValueError(
            "`images` must be (examples, height, width, channels) for "
            "channels_first=True. Received: images of shape "
            f"{('examples', *plan.image_shape)}."
        )
    dataset = TorchDataset(plan, channels_first)
    return dataset, EpochSampler(dataset)
