"""Labels that people gave, from files."""

import os
import pathlib

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd._labels import class_ids
from keras_smkd.noise.archives import read_archive


def load_human_labels(
    path: str | os.PathLike[str],
    name: str,
    num_examples: int | None = None,
) -> npt.NDArray[np.int32]:
    """Load one set of human labels from an `.npz` file.

    The files of CIFAR-N, saved as `.npz`, hold `clean_label`, `aggre_label`,
    `random_label1` to `random_label3` and `worse_label` for CIFAR-10, in the
    canonical order that `load_tfds` restores.

    Args:
        path: The `.npz` file. Nothing in it is unpickled.
        name: Key of the labels in the file.
        num_examples: If given, how many labels there must be: the size of
            the data set.

    Returns:
        `(examples,)` int32.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if the array holds anything but numbers.
        ValueError: if the file is no intact `.npz`, has no such key, or the
            array holds no class ids or has another length.

    Example:

    ```python
    train = keras_smkd.data.load_tfds("cifar10")
    worse = keras_smkd.data.load_human_labels(PATH, "worse_label")
    keras_smkd.noise.realized_noise_rate(
        train.labels, worse[train.index]
    )  # 0.40208
    ```

    Reference:
        Wei et al., 2022, "Learning with Noisy Labels Revisited: A Study
        Using Real-World Human Annotations". https://arxiv.org/abs/2110.12088
    """
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(
            f"`path` must be an existing .npz file. Received: path={path!r}."
        )
    names, arrays = read_archive(file, [name])
    _checks.one_of("name", name, names)
    labels = class_ids(name, arrays[name])
    if num_examples is not None and len(labels) != num_examples:
        raise ValueError(
            f"`{name}` in the file must have {num_examples} labels, one for "
            f"each example. Received: {len(labels)} labels."
        )
    return labels.astype(np.int32)
