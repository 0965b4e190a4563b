"""Examples for torch's DataLoader, without TensorFlow.

Imports torch, so it is imported only when such a dataset is made.
"""

from typing import Any

import numpy as np
import torch

from keras_smkd import _checks
from keras_smkd.data import order
from keras_smkd.data import recipes
from keras_smkd.data.batches import Plan


class TorchDataset(torch.utils.data.Dataset[Any]):
    """Hands out single examples by position; see `make_torch_dataset`."""

    def __init__(self, plan: Plan, channels_first: bool) -> None:
        self._plan = plan
        self._channels_first = channels_first
        self.epoch = plan.initial_epoch

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch it is: augmentation follows from it."""
        self.epoch = _checks.integer("epoch", epoch, minimum=0)

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, position: int) -> Any:
        if not 0 <= position < len(self):
            raise IndexError(
                f"`position` must be in [0, {len(self)}). "
                f"Received: position={position}."
            )
        position = int(position)
        plan = self._plan
        # The same for an example whichever host's share it is in.
        generator = order.batch_generator(plan.seed, self.epoch, position)
        draws = recipes.draw(plan.augmentation, generator, 1, plan.image_shape)
        x, y = plan.batch([position], draws)
        image = x[0]
        if self._channels_first:
            image = np.moveaxis(image, -1, 0)
        image = torch.from_numpy(np.ascontiguousarray(image))
        if isinstance(y, dict):
            return image, {name: _example(v) for name, v in y.items()}
        return image, _example(y)


class EpochSampler(torch.utils.data.Sampler[int]):
    """Gives the order of the dataset's epoch, or a host's share of it."""

    def __init__(self, dataset: TorchDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset._plan.positions(0))

    def __iter__(self) -> Any:
        plan = self._dataset._plan
        return iter(plan.positions(self._dataset.epoch).tolist())


def _example(values: Any) -> Any:
    """Return the only example's label or index; integers as torch's own."""
    tensor = torch.from_numpy(values)[0]
    return tensor if tensor.is_floating_point() else tensor.long()
