"""The examples of a data set."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd._labels import class_ids
from keras_smkd.data import inputs
from keras_smkd.noise import NoisyLabels


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """Holds the examples of a data set, with an index that stays theirs.

    The functions `load_...` and `from_arrays` return it.

    Args:
        images: `(examples, height, width, channels)`, dtype as stored (uint8
            for nearly all data sets); or `(examples,)` strings, the paths of
            files that pipelines decode.
        labels: `(examples,)` int32, as the data set gives them.
        index: `(examples,)` int64, each example's canonical index in its
            data set; `human_labels[index]` aligns a file of labels.
        num_classes: Number of classes that the data set has.
        class_names: `(num_classes,)` strings, or empty if not known.
        image_shape: `(height, width, channels)` to which files are decoded.
            None: that of the array.
        noise: The noisy labels, in the order of the examples, whose clean
            labels are `labels`. None: there is no noise. See `with_noise`.

    Example:

    >>> examples = from_arrays(np.zeros((4, 8, 8, 1), "uint8"), [0, 1, 1, 0])
    >>> examples
    Examples(4 images of 8 x 8 x 1 in memory, 2 classes)
    >>> examples.take([3, 1]).index.tolist()
    [3, 1]
    """

    images: npt.NDArray[Any]
    labels: npt.NDArray[np.int32]
    index: npt.NDArray[np.int64]
    num_classes: int
    class_names: tuple[str, ...] = ()
    image_shape: tuple[int, ...] | None = None
    noise: NoisyLabels | None = None

    def __post_init__(self) -> None:
        ids = class_ids("labels", self.labels, self.num_classes)
        # The only way to set an attribute that is frozen.
        object.__setattr__(self, "labels", ids.astype(np.int32))
        if self.image_shape is None:
            object.__setattr__(self, "image_shape", self.images.shape[1:])

    @property
    def are_files(self) -> bool:
        """Whether the images are files yet to be decoded."""
        return self.images.dtype.kind == "U"

    @property
    def training_labels(self) -> npt.NDArray[Any]:
        """`(examples,)` integers: the noisy labels, or `labels` if none."""
        return self.labels if self.noise is None else self.noise.noisy_labels

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.image_shape or ()))
        place = "files" if self.are_files else "memory"
        noise = "" if self.noise is None else f", {self.noise!r}"
        return (
            f"Examples({len(self)} images of {size} in {place}, "
            f"{self.num_classes} classes{noise})"
        )

    def take(self, positions: npt.ArrayLike) -> "Examples":
        """Return the examples at these positions, with labels and index.

        Args:
            positions: `(n,)` integers in [0, examples), in any order.

        Raises:
            IndexError: if a position is out of range.
            TypeError: if positions are not integers.
            ValueError: if there are none.
        """
        chosen = np.asarray(positions)
        if chosen.ndim != 1 or not chosen.size:
            raise ValueError(
                "`positions` must be 1-D with at least one position. "
                f"Received: positions of shape {chosen.shape}."
            )
        if chosen.dtype.kind not in "iu":
            raise TypeError(
                "`positions` must be integers. "
                f"Received: positions of dtype {chosen.dtype}."
            )
        if chosen.min() < 0 or chosen.max() >= len(self):
            raise IndexError(
                f"`positions` must be in [0, {len(self)}). Received: "
                f"positions from {chosen.min()} to {chosen.max()}."
            )
        noise = self.noise
        if noise is not None:
            noise = NoisyLabels(
                noise.clean_labels[chosen],
                noise.noisy_labels[chosen],
                noise.num_classes,
                # The whole's recipe would make other labels of a part.
                {"kind": "part", "of": noise.recipe},
            )
        return dataclasses.replace(
            self,
            images=self.images[chosen],
            labels=self.labels[chosen],
            index=self.index[chosen],
            noise=noise,
        )

    def with_noise(self, labels: NoisyLabels | npt.ArrayLike) -> "Examples":
        """Return the examples with these noisy labels, in place of any others.

        Args:
            labels: `NoisyLabels` made of `self.labels`; or integers that come
                from elsewhere, such as human labels, one for each canonical
                index: example n has `labels[index[n]]`.

        Raises:
            TypeError: if labels are not numbers.
            ValueError: if they are no class ids, there are too few or too
                many, the clean labels are not those of the examples, or
                classes do not fit.
        """
        if not isinstance(labels, NoisyLabels):
            ids = class_ids("labels", labels, self.num_classes)
            labels = NoisyLabels(
                self.labels,
                self._at_index(ids),
                self.num_classes,
                {"kind": "given"},
            )
        elif len(labels) != len(self):
            raise ValueError(
                f"`labels` must be {len(self)}, one for each example. "
                f"Received: {len(labels)} labels. Make them noisy before the "
                "split."
            )
        if labels.num_classes != self.num_classes:
            raise ValueError(
                f"`labels` must have {self.num_classes} classes. "
                f"Received: labels of {labels.num_classes} classes."
            )
        differing = np.flatnonzero(labels.clean_labels != self.labels)
        if differing.size:
            raise ValueError(
                "`labels` must have the examples' labels as clean_labels. "
                f"Received: {differing.size} that differ, the first at "
                f"position {differing[0]}."
            )
        return dataclasses.replace(self, noise=labels)

    def without_noise(self) -> "Examples":
        """Return the examples with their clean labels only."""
        return dataclasses.replace(self, noise=None)

    def _at_index(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        last = int(self.index.max())
        # A whole set knows how many labels there must be; a part does not.
        whole = np.array_equal(np.sort(self.index), np.arange(len(self)))
        if len(labels) != len(self) if whole else len(labels) <= last:
            raise ValueError(
                "`labels` must be one for each canonical index: "
                f"{'' if whole else 'at least '}{last + 1}. "
                f"Received: labels of shape {labels.shape}."
            )
        return labels[self.index]


def from_arrays(
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    num_classes: int | None = None,
    class_names: tuple[str, ...] | list[str] = (),
    index: npt.ArrayLike | None = None,
) -> Examples:
    """Return examples made of arrays.

    Args:
        images: `(examples, ...)`, uint8 or floating point.
        labels: `(examples,)` or `(examples, 1)` integers in
            [0, num_classes), or floats that are whole numbers. Each class
            must have an example.
        num_classes: Number of classes, at least 2. None: the number of
            `class_names`, or else one more than the largest label.
        class_names: `(num_classes,)` strings, or empty.
        index: `(examples,)` integers >= 0, no two alike: each example's
            canonical index. None: its position.

    Returns:
        `Examples`.

    Raises:
        TypeError: if an array is of the wrong kind, as labels are that are
            texts.
        ValueError: if lengths differ, labels are no class ids or out of
            range, or a class has no example.

    Example:

    >>> from_arrays(np.zeros((2, 8, 8, 1), "uint8"), [1, 0])
    Examples(2 images of 8 x 8 x 1 in memory, 2 classes)
    """
    pixels = inputs.check_images(images)
    names = tuple(map(str, class_names))
    if num_classes is None:
        num_classes = len(names) or int(class_ids("labels", labels).max()) + 1
    _checks.integer("num_classes", num_classes, minimum=2)
    array = class_ids("labels", labels, num_classes).astype(np.int32)
    if len(array) != len(pixels):
        raise ValueError(
            "`labels` must be as long as `images`. "
            f"Received: {len(array)} labels, {len(pixels)} images."
        )
    if names and len(names) != num_classes:
        raise ValueError(
            f"`class_names` must be {num_classes}, one per class. "
            f"Received: {len(names)} class_names."
        )
    check_every_class(array, num_classes, names)
    places = inputs.check_index(
        np.arange(len(array)) if index is None else index, len(array)
    )
    unique, counts = np.unique(places, return_counts=True)
    if len(unique) < len(places):
        raise ValueError(
            "`index` must have no number twice. "
            f"Received: {unique[counts.argmax()]}, {counts.max()} times."
        )
    return Examples(pixels, array, places.astype(np.int64), num_classes, names)


def check_every_class(
    labels: npt.NDArray[Any], num_classes: int, names: tuple[str, ...]
) -> None:
    """Raise if a class has no example."""
    counts = np.bincount(labels, minlength=num_classes)
    empty = [names[k] if names else int(k) for k in np.flatnonzero(counts == 0)]
    if empty:
        raise ValueError(
            "`labels` must have an example of every class. Received: no "
            f"example of {', '.join(map(repr, empty[:5]))}"
            f"{' and others' if len(empty) > 5 else ''}."
        )
