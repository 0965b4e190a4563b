"""Noisy labels with the clean ones, and how they were made."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_smkd._files import written_whole
from keras_smkd.noise.archives import read_archive
from keras_smkd.noise.arguments import check_label_pair
from keras_smkd.noise.arguments import check_num_classes
from keras_smkd.noise.arguments import dtype_for
from keras_smkd.noise.labels import realized_noise_rate
from keras_smkd.noise.labels import realized_transition_matrix

_VERSION = 1
_KEYS = ("version", "clean_label", "noisy_label", "num_classes", "recipe")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class NoisyLabels:
    """Holds noisy labels, the clean ones and how the noise was made.

    `make_noisy` and its like return it. For labels that come from elsewhere,
    such as human ones, make it from the two arrays.

    Args:
        clean_labels: `(examples,)` integers in [0, num_classes), the labels
            before injection. Copied; int64 if another dtype than one of
            integers that holds all classes was given.
        noisy_labels: `(examples,)` integers in [0, num_classes), the labels
            after injection, in the same order. Copied, likewise.
        num_classes: Number of classes, at least 2.
        recipe: How the labels were made, in values that JSON knows, such as
            `{"kind": "pair_flip", "noise_rate": 0.4, "seed": 0}`. Copied.

    Raises:
        TypeError: if labels are not numbers, `num_classes` is not an integer,
            or `recipe` not a dict with string keys and values that JSON
            knows.
        ValueError: if labels are empty, no class ids, of different lengths or
            outside [0, num_classes), if `num_classes < 2`, or if the recipe
            is nested too deep to be saved.

    Example:

    >>> labels = NoisyLabels([0, 0, 1, 2], [0, 1, 1, 2], num_classes=3)
    >>> labels
    NoisyLabels(4 labels, 3 classes, 25.0 % wrong)
    >>> labels.is_noisy.tolist()
    [False, True, False, False]
    >>> labels.realized_noise_rate
    0.25
    """

    clean_labels: npt.NDArray[Any]
    noisy_labels: npt.NDArray[Any]
    num_classes: int
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        classes = check_num_classes(self.num_classes)
        clean, noisy = check_label_pair(
            self.clean_labels, self.noisy_labels, classes
        )
        # The only way to set an attribute that is frozen.
        for name, value in (
            (
                "clean_labels",
                clean.astype(dtype_for(self.clean_labels, classes)),
            ),
            (
                "noisy_labels",
                noisy.astype(dtype_for(self.noisy_labels, classes)),
            ),
            ("num_classes", classes),
            ("recipe", _check_recipe(self.recipe)),
        ):
            object.__setattr__(self, name, value)

    @property
    def is_noisy(self) -> npt.NDArray[np.bool_]:
        """`(examples,)` booleans: whether the noisy label is wrong."""
        return self.noisy_labels != self.clean_labels

    @property
    def realized_noise_rate(self) -> float:
        """The share of noisy labels that are wrong, in [0, 1]."""
        return realized_noise_rate(self.clean_labels, self.noisy_labels)

    @property
    def realized_transition_matrix(self) -> npt.NDArray[np.float64]:
        """`(num_classes, num_classes)`, counted; needs all clean classes."""
        return realized_transition_matrix(
            self.clean_labels, self.noisy_labels, self.num_classes
        )

    def __len__(self) -> int:
        return len(self.clean_labels)

    def __repr__(self) -> str:
        return (
            f"NoisyLabels({len(self)} labels, {self.num_classes} classes, "
            f"{100 * self.realized_noise_rate:.1f} % wrong"
            f"{_description(self.recipe)})"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the labels and their recipe as an `.npz` file.

        Its arrays are `clean_label` and `noisy_label`, as in the files of
        CIFAR-N, so `data.load_human_labels` reads it, too; further
        `num_classes`, `recipe` as a JSON string, and `version`.

        Args:
            path: The file to write, which ends in `.npz`.

        Raises:
            ValueError: if `path` does not end in `.npz`, or is a folder.
            OSError: if it cannot be written; what was there is as it was.
        """
        file = pathlib.Path(path).expanduser()
        if file.suffix != ".npz":
            # NumPy would add the ending, and the file be another one.
            raise ValueError(
                f"`path` must end in .npz. Received: path={str(path)!r}."
            )
        with written_whole(file) as partial:
            np.savez_compressed(
                partial,
                version=np.int64(_VERSION),
                clean_label=self.clean_labels,
                noisy_label=self.noisy_labels,
                num_classes=np.int64(self.num_classes),
                recipe=np.array(json.dumps(self.recipe)),
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "NoisyLabels":
        """Load what `save` wrote.

        Args:
            path: The `.npz` file. Nothing in it is unpickled.

        Returns:
            `NoisyLabels` with the labels, dtypes and recipe saved.

        Raises:
            FileNotFoundError: if there is no such file.
            TypeError: if its labels are not numbers.
            ValueError: if `save` of this version did not write the file, or
                its labels do not fit each other or the number of classes.
        """
        file = pathlib.Path(path).expanduser()
        if not file.is_file():
            raise FileNotFoundError(
                "`path` must be an existing .npz file. "
                f"Received: path={str(path)!r}."
            )
        _, found = read_archive(file, _KEYS)
        missing = [key for key in _KEYS if key not in found]
        if missing:
            raise ValueError(
                "`path` must be a file that NoisyLabels.save wrote. Received: "
                f"path={str(path)!r}, without {', '.join(missing)}."
            )
        if found["version"].tolist() != _VERSION:
            raise ValueError(
                f"`path` must be a file of version {_VERSION}. Received: "
                f"path={str(path)!r}, version {found['version']}. Another "
                "version of keras_smkd wrote it."
            )
        text = str(found["recipe"])
        try:
            recipe = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                "`path` must be a file whose recipe is JSON. Received: "
                f"path={str(path)!r}, recipe={text[:200]!r}."
            ) from error
        return cls(
            found["clean_label"],
            found["noisy_label"],
            found["num_classes"].tolist(),
            recipe,
        )


def _check_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a copy as JSON gives it back, so that a saved one is equal."""
    if not isinstance(recipe, dict) or not all(
        isinstance(key, str) for key in recipe
    ):
        raise TypeError(
            "`recipe` must be a dict with string keys. "
            f"Received: recipe={recipe!r}."
        )
    try:
        copy: dict[str, Any] = json.loads(json.dumps(recipe, allow_nan=False))
    except RecursionError as error:
        raise ValueError(
            "`recipe` must not be nested as deep as this. "
            f"Received: a recipe with the keys {list(recipe)[:5]}."
        ) from error
    except (TypeError, ValueError) as error:
        raise TypeError(
            "`recipe` must hold only finite numbers, strings, booleans, None, "
            f"lists and dicts. Received: recipe={recipe!r}."
        ) from error
    return copy


def _description(recipe: dict[str, Any]) -> str:
    """Return the recipe in words: `: pair_flip(0.4), seed 0, exact`."""
    if "kind" not in recipe:
        return ""
    rate = f"({recipe['noise_rate']})" if "noise_rate" in recipe else ""
    seed = f", seed {recipe['seed']}" if "seed" in recipe else ""
    exact = ", exact" if recipe.get("exact") else ""
    return f": {recipe['kind']}{rate}{seed}{exact}"
