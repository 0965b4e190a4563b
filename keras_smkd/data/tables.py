"""Data sets of image files that a CSV file lists."""

import csv
import difflib
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd.data import files
from keras_smkd.data.examples import Examples
from keras_smkd.data.examples import check_every_class

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def load_csv(
    path: str | os.PathLike[str],
    *,
    image_size: tuple[int, int],
    channels: int = 3,
    path_column: str = "path",
    label_column: str = "label",
    root: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] = (),
    verify: bool = False,
    allow_outside_root: bool = False,
) -> Examples:
    """Load a CSV file with a line for each image: its path and its label.

    The first line names the columns; further columns are passed over. Labels
    are class ids if they all are numbers, which must then be whole: `2` and
    `2.0` are class 2. They are names of classes if `class_names` are given,
    or if none is a number.

    Args:
        path: The CSV file, in UTF-8.
        image_size: See `load_folder`.
        channels: 1, 3 or 4: grey, RGB or RGBA.
        path_column: Name of the column of paths.
        label_column: Name of the column of labels.
        root: Folder to which paths are relative. None: that of the file.
        num_classes: Number of classes, where labels are class ids. None: one
            more than the largest label.
        class_names: Names of the classes, in the order of their labels.
            Empty: the names found, sorted.
        verify: Whether to decode every file now, to find the broken ones.
        allow_outside_root: Whether paths may leave the root: by `..`, by
            being absolute, or by a link that they follow.

    Returns:
        `Examples`, in the order of the lines, whose images are paths.

    Raises:
        FileNotFoundError: if there is no such file, or no file at a path in
            it, with the number of the line.
        ImportError: if Pillow is not installed and `verify` is True.
        TypeError: if `image_size` is no pair of integers.
        ValueError: if the file is no CSV file in UTF-8, a column is absent, a
            path leaves the root or a label is bad (with the number of the
            line), a class has no example or a file is no image.

    Example:

    ```python
    # path,label
    # images/17.png,cat
    # images/18.png,dog
    train = keras_smkd.data.load_csv("train.csv", image_size=(64, 64))
    train.class_names  # ('cat', 'dog')
    ```
    """
    shape = files.check_image_shape(image_size, channels)
    table = pathlib.Path(path).expanduser()
    if not table.is_file():
        raise FileNotFoundError(
            "`path` must be an existing CSV file. "
            f"Received: path={str(path)!r}."
        )
    if num_classes is not None:
        _checks.integer("num_classes", num_classes, minimum=2)
    _checks.boolean("allow_outside_root", allow_outside_root)
    base = table.parent if root is None else pathlib.Path(root).expanduser()
    inside = None if allow_outside_root else base.resolve()
    lines, paths, texts = [], [], []
    for place, name, text in _read_rows(table, path_column, label_column):
        file = base / name
        if "\0" in name:
            raise ValueError(
                f"`path` must name files. Received: {name!r}, in {place}."
            )
        if inside and not file.resolve().is_relative_to(inside):
            raise ValueError(
                f"`path` must name files inside the root {str(base)!r}. "
                f"Received: {name!r}, in {place}. Give `root`, or "
                "allow_outside_root=True if you trust the file."
            )
        if not file.is_file():
            raise FileNotFoundError(
                f"`path` must name existing files. "
                f"Received: {str(file)!r}, in {place}."
            )
        lines.append(place)
        paths.append(str(file))
        texts.append(text)
    if not paths:
        raise ValueError(
            "`path` must be a file with a line for each image. "
            f"Received: path={str(path)!r}, with none."
        )
    names = tuple(class_names)
    if not names and not any(map(_NUMBER.fullmatch, texts)):
        # An empty label is no class, and is found below.
        names = tuple(sorted(set(texts) - {""}))
    if names:
        labels = _labels_of_names(texts, lines, names)
    else:
        labels = _labels_of_numbers(texts, lines, num_classes)
    num_classes = len(names) or num_classes or int(labels.max()) + 1
    _checks.integer("num_classes", num_classes, minimum=2)
    check_every_class(labels, num_classes, names)
    files.check_files(paths, verify=verify)
    return Examples(
        np.array(paths),
        labels,
        np.arange(len(paths)),
        num_classes,
        names,
        shape,
    )


def _read_rows(
    table: pathlib.Path, path_column: str, label_column: str
) -> list[tuple[str, str, str]]:
    """Return (place, path, label) of each line after the first."""
    found = []
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            for row in rows:
                found.append((rows.line_num, row))
            columns = rows.fieldnames or ()
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(
            "`path` must be a CSV file in UTF-8. "
            f"Received: path={str(table)!r}, which cannot be read: {error}."
        ) from error
    _checks.one_of("path_column", path_column, columns)
    _checks.one_of("label_column", label_column, columns)
    return [
        (
            f"line {number} of {str(table)!r}",
            row[path_column] or "",
            (row[label_column] or "").strip(),
        )
        for number, row in found
    ]


def _labels_of_names(
    texts: list[str], lines: list[str], names: tuple[str, ...]
) -> npt.NDArray[np.int32]:
    places = {name: label for label, name in enumerate(names)}
    for text, line in zip(texts, lines, strict=True):
        if text not in places:
            near = difflib.get_close_matches(text, names, n=2)
            hint = (
                f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            )
            raise ValueError(
                "`label` must be the name of a class. "
                f"Received: label={text!r}, in {line}.{hint}"
            )
    return np.array([places[text] for text in texts], np.int32)


def _labels_of_numbers(
    texts: list[str], lines: list[str], num_classes: int | None
) -> npt.NDArray[np.int32]:
    limit = 2**31 if num_classes is None else num_classes
    bound = "2**31" if num_classes is None else num_classes
    labels = np.empty(len(texts), np.int32)
    for k, (text, line) in enumerate(zip(texts, lines, strict=True)):
        number = float(text) if _NUMBER.fullmatch(text) else -1.0
        if not (0 <= number < limit and number == int(number)):
            raise ValueError(
                f"`label` must be a whole number in [0, {bound}), as other "
                f"labels are numbers. Received: label={text!r}, in {line}. "
                "Give `class_names` if labels are names."
            )
        labels[k] = int(number)
    return labels
