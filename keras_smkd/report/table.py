"""The table of labels, the most suspicious first."""

import csv
import dataclasses
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_smkd._files import written_whole
from keras_smkd.report import shown
from keras_smkd.report.shown import COLUMNS

# Rows that are written at a time, so that a large table needs no second copy.
_ROWS = 65536


@dataclasses.dataclass(frozen=True)
class Suspect:
    """One row of the table."""

    index: int
    label: int
    suggestion: int
    score: float
    probability: float
    selected: bool


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SuspiciousLabels:
    """Labels and how suspicious they are, the most suspicious first.

    `suspicious_labels` returns it. It has a length; `table[i]` is a row,
    `table[:10]`, a mask or positions give a part. Printing it shows the first
    ten, a notebook with their images.

    Args:
        index: `(examples,)` int64, each example's place in the data set.
        label: `(examples,)` int64, the label that it has.
        suggestion: `(examples,)` int64, the most probable class: the label
            itself where none is more probable, -1 where the prediction is
            not finite.
        score: `(examples,)` float32 in [-1, 1], how much more probable other
            classes are than the label: 1 minus twice its probability, or, by
            a rule that leaves the label without a say, the largest
            probability of another class minus that of the label. NaN, and
            last, where the prediction is not finite.
        probability: `(examples,)` float32 in [0, 1], that the label is wrong.
        selected: `(examples,)` booleans, whether the label is taken for wrong.
        num_classes: Number of classes.
        class_names: `(num_classes,)` strings, or empty.
        paths: `(examples,)` strings, the files of the examples, or `None`.
        images: From the index of each of the most suspicious examples to its
            image; empty if inputs are no images.
    """

    index: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    suggestion: npt.NDArray[np.int64]
    score: npt.NDArray[np.float32]
    probability: npt.NDArray[np.float32]
    selected: npt.NDArray[np.bool_]
    num_classes: int
    class_names: tuple[str, ...] = ()
    paths: npt.NDArray[np.str_] | None = None
    images: dict[int, npt.NDArray[Any]] = dataclasses.field(
        default_factory=dict
    )

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Any) -> Any:
        columns = {name: getattr(self, name) for name in COLUMNS}
        if isinstance(key, (int, np.integer)):
            return Suspect(*(column[key].item() for column in columns.values()))
        part = {name: column[key] for name, column in columns.items()}
        if self.paths is not None:
            part["paths"] = self.paths[key]
        return dataclasses.replace(self, **part)

    def name_of(self, class_id: int) -> str:
        """Return a class's name, its number if it has none."""
        if class_id < 0:
            return "none"
        return self.class_names[class_id] if self.class_names else str(class_id)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table as a CSV file, whole or not at all.

        Its columns are the attributes of that name, the names of both classes
        (`label_name`, `suggestion_name`) if there are any, and the files
        (`path`) if examples are files.

        Args:
            path: Where to. A file that is there is replaced.

        Raises:
            ValueError: if it is the path of a folder.
            OSError: if there is no space.
        """
        with (
            written_whole(path) as partial,
            open(partial, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(self._columns())
            for start in range(0, len(self), _ROWS):
                columns = self[start : start + _ROWS]._columns()
                for name in ("score", "probability"):
                    # As short as float32 can be told apart.
                    columns[name] = [f"{v:.8g}" for v in columns[name].tolist()]
                writer.writerows(
                    zip(
                        *(
                            column.tolist()
                            if isinstance(column, np.ndarray)
                            else column
                            for column in columns.values()
                        ),
                        strict=True,
                    )
                )

    def _columns(self) -> dict[str, Any]:
        """Return the columns of a file, by name."""
        columns: dict[str, Any] = {
            name: getattr(self, name) for name in COLUMNS
        }
        if self.class_names:
            for name in ("label", "suggestion"):
                columns[f"{name}_name"] = [
                    self.name_of(k) for k in columns[name].tolist()
                ]
        if self.paths is not None:
            columns["path"] = self.paths
        return columns

    def to_pandas(self) -> Any:
        """Return the table as a `pandas.DataFrame`, columns as in `to_csv`.

        Raises:
            ImportError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "`to_pandas` needs pandas. Install it with: pip install pandas"
            ) from error
        return pandas.DataFrame(self._columns())

    def __repr__(self) -> str:
        return shown.as_text(self)

    def _repr_html_(self) -> str:
        return shown.as_html(self)
