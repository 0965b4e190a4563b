"""Data sets of image files in folders, one for each class."""

import os
import pathlib

import numpy as np

from keras_smkd.data import files
from keras_smkd.data.examples import Examples


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

    Pixels have 8 bits per channel. Grey of 16 bits is divided by 257 and
    rounded; of 16-bit colours Pillow keeps the upper byte. Palettes (P, PA)
    are looked up. With 4 channels, transparency (of LA, RGBA, PA and of
    palettes) becomes alpha, 255 where there is none; with 1 and 3 it is left
    out, and the colours are those stored, not laid on a background. Of
    several frames the first counts. An image whose values have no known range
    (modes F, and I of anything but PNG) is an error.

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
