"""Labels that people gave, from files."""

import os
import pathlib
import zipfile

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks


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
        TypeError: if the array holds anything but integers.
        ValueError: if the file is no `.npz`, has no such key, or the array
            is not 1-D or has another length.

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
    if not zipfile.is_zipfile(file):
        raise ValueError(
            f"`path` must be a file in .npz format. Received: path={path!r}."
        )
    with np.load(file, allow_pickle=False) as archive:
        _checks.one_of("name", name, archive.files)
        labels = archive[name]
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"`{name}` in the file must be integers. "
            f"Received: {name} of dtype {labels.dtype}."
        )
    if labels.ndim != 1:
        raise ValueError(
            f"`{name}` in the file must be 1-D. "
            f"Received: {name} of shape {labels.shape}."
        )
    if num_examples is not None and len(labels) != num_examples:
        raise ValueError(
            f"`{name}` in the file must have {num_examples} labels, one for "
            f"each example. Received: {len(labels)} labels."
        )
    return labels.astype(np.int32)
