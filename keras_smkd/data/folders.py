"""Data sets of image files: a folder per class, or a CSV file of paths."""

import csv
import difflib
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from keras_smkd import _checks
from keras_smkd.data import files
from keras_smkd.data.examples import Examples
from keras_smkd.data.examples import check_every_class


def load_folder(
    path: str | os.PathLike[str],
    *,
    image_size: tuple[int, int],
    channels: int = 3,
    verify: bool = False,
) -> Examples:
    """Load a folder that has a subfolder of images for each class.

    Classes are the subfolders in the order of their names; examples come
    class by class, in the order of their paths, subfolders of a class
    included. Names that begin with a dot are passed over. Only the first
    bytes of each file are read; pipelines decode the files.

    Args:
        path: The folder.
        image_size: `(height, width)` to which images are resized
            (bilinearly), after they are cut in the middle to the same
            proportions.
        channels: 1, 3 or 4: grey, RGB or RGBA.
        verify: Whether to decode every file now, to find the broken ones.

    Returns:
        `Examples`, whose images are paths.

    Raises:
        ImportError: if Pillow is not installed and `verify` is True.
        NotADirectoryError: if `path` is no folder.
        TypeError: if `image_size` is no pair of integers.
        ValueError: if there are fewer than two classes, a class has no
            image, or a file is no PNG, JPEG, BMP or GIF image.

    Example:

    ```python
    train = keras_smkd.data.load_folder("flowers", image_size=(64, 64))
    train.class_names  # ('daisy', 'rose', 'tulip')
    ```
    """
    shape = files.check_image_shape(image_size, channels)
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise NotADirectoryError(
            f"`path` must be an existing folder. Received: path={str(path)!r}."
        )
    folders = sorted(
        entry
        for entry in root.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if len(folders) < 2:
        raise ValueError(
            "`path` must be a folder with a subfolder for each of two or more "
            f"classes. Received: path={str(path)!r}, with {len(folders)}."
        )
    paths: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = sorted(
            entry
            for entry in folder.rglob("*")
            if entry.is_file() and not entry.name.startswith(".")
        )
        if not found:
            raise ValueError(
                "`path` must have an image of every class. "
                f"Received: the empty folder {str(folder)!r}."
            )
        for file in found:
            if file.suffix.lower() not in files.SUFFIXES:
                raise ValueError(
                    "`path` must hold .png, .jpg, .jpeg, .bmp or .gif files. "
                    f"Received: the file {str(file)!r}."
                )
        paths += map(str, found)
        labels += [label] * len(found)
    files.check_files(paths, verify=verify)
    return Examples(
        np.array(paths),
        np.array(labels, np.int32),
        np.arange(len(paths)),
        len(folders),
        tuple(folder.name for folder in folders),
        shape,
    )


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
) -> Examples:
    """Load a CSV file with a line for each image: its path and its label.

    The first line names the columns; further columns are passed over. Labels
    are integers, or names of classes: names if `class_names` are given, or if
    the first label is no integer.

    Args:
        path: The CSV file, in UTF-8.
        image_size: See `load_folder`.
        channels: 1, 3 or 4: grey, RGB or RGBA.
        path_column: Name of the column of paths.
        label_column: Name of the column of labels.
        root: Folder to which paths are relative. None: that of the file.
        num_classes: Number of classes of integer labels. None: one more than
            the largest label.
        class_names: Names of the classes, in the order of their labels.
            Empty: the names found, sorted.
        verify: Whether to decode every file now, to find the broken ones.

    Returns:
        `Examples`, in the order of the lines, whose images are paths.

    Raises:
        FileNotFoundError: if there is no such file, or no file at a path in
            it, with the number of the line.
        ImportError: if Pillow is not installed and `verify` is True.
        TypeError: if `image_size` is no pair of integers.
        ValueError: if a column is absent, a label is bad (with the number of
            the line), a class has no example or a file is no image.

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
    base = table.parent if root is None else pathlib.Path(root).expanduser()
    lines, paths, texts = [], [], []
    with table.open(newline="", encoding="utf-8-sig") as stream:
        rows = csv.DictReader(stream)
        for name, column in (
            ("path_column", path_column),
            ("label_column", label_column),
        ):
            _checks.one_of(name, column, rows.fieldnames or ())
        for row in rows:
            place = f"line {rows.line_num} of {str(path)!r}"
            file = base / (row[path_column] or "")
            if not file.is_file():
                raise FileNotFoundError(
                    f"`path` must name existing files. "
                    f"Received: {str(file)!r}, in {place}."
                )
            lines.append(place)
            paths.append(str(file))
            texts.append((row[label_column] or "").strip())
    if not paths:
        raise ValueError(
            "`path` must be a file with a line for each image. "
            f"Received: path={str(path)!r}, with none."
        )
    names = tuple(class_names)
    if not names and not _is_integer(texts[0]):
        # An empty label is no class, and is found below.
        names = tuple(sorted(set(texts) - {""}))
    labels = _read_labels(texts, lines, names, num_classes)
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


def _is_integer(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _read_labels(
    texts: list[str],
    lines: list[str],
    names: tuple[str, ...],
    num_classes: int | None,
) -> np.ndarray:
    places = {name: label for label, name in enumerate(names)}
    labels = np.empty(len(texts), np.int32)
    for k, (text, line) in enumerate(zip(texts, lines, strict=True)):
        if names:
            if text not in places:
                near = difflib.get_close_matches(text, names, n=2)
                hint = (
                    f" Did you mean {' or '.join(map(repr, near))}?"
                    if near
                    else ""
                )
                raise ValueError(
                    "`label` must be the name of a class. "
                    f"Received: label={text!r}, in {line}.{hint}"
                )
            labels[k] = places[text]
            continue
        if (
            not _is_integer(text)
            or int(text) > np.iinfo(np.int32).max
            or (num_classes is not None and int(text) >= num_classes)
        ):
            bound = "" if num_classes is None else f" below {num_classes}"
            raise ValueError(
                f"`label` must be an integer >= 0{bound}. "
                f"Received: label={text!r}, in {line}."
            )
        labels[k] = int(text)
    return labels
