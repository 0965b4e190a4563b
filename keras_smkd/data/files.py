"""Image files: the check of them, their decoding, and where pixels are kept."""

import concurrent.futures
import io
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_smkd import _checks
from keras_smkd.data import depths
from keras_smkd.data.cache import open_cache
from keras_smkd.data.optional import import_optional

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif"}
_FIRST_BYTES = {
    b"\x89PNG\r\n\x1a\n": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"GIF87a": ".gif",
    b"GIF89a": ".gif",
    b"BM": ".bmp",
}
# Of all that Pillow reads, those of the suffixes.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF")
_BLOCK = 256
MEMORY_LIMIT = 2 * 2**30
"""Bytes up to which decoded files are kept in memory, unless told otherwise."""


def check_image_shape(
    image_size: Sequence[int], channels: int
) -> tuple[int, int, int]:
    """Return (height, width, channels), or raise if it is no shape."""
    if not isinstance(image_size, tuple | list) or len(image_size) != 2:
        raise TypeError(
            "`image_size` must be a pair (height, width). "
            f"Received: image_size={image_size!r}."
        )
    height, width = (
        _checks.integer("image_size", side, minimum=1) for side in image_size
    )
    if channels not in depths.CHANNELS:
        raise ValueError(
            f"`channels` must be 1, 3 or 4. Received: channels={channels!r}."
        )
    return height, width, channels


def suffix_of(content: bytes) -> str | None:
    """Return the suffix of the format that the first bytes tell, or None."""
    for start, suffix in _FIRST_BYTES.items():
        if content.startswith(start):
            return suffix
    return None


def check_files(paths: Sequence[str], *, verify: bool) -> None:
    """Raise and name the file, if one does not begin as an image does.

    Args:
        paths: The files.
        verify: Whether to decode each whole file, too.
    """
    for path in paths:
        with open(path, "rb") as file:
            start = file.read(8)
        if suffix_of(start) is None:
            raise ValueError(
                "`path` must hold PNG, JPEG, BMP or GIF images. "
                f"Received: the file {path!r}, which begins with {start!r}."
            )
    if verify:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            # The result is not needed, its exceptions are.
            for _ in pool.map(lambda path: decode(path, (1, 1, 3)), paths):
                pass


def decode(
    source: str | bytes, shape: tuple[int, ...], name: str = ""
) -> npt.NDArray[np.uint8]:
    """Return the pixels of an image, cut to the proportions and resized.

    See `load_folder` for what becomes of depth, transparency and palette.

    Args:
        source: The path of a file, or its content.
        shape: (height, width, channels) to return.
        name: What to call the image in an error; by default, the path.
    """
    pillow = import_optional("PIL.Image", "decode", "images")
    height, width, channels = shape
    try:
        with pillow.open(
            io.BytesIO(source) if isinstance(source, bytes) else source,
            formats=_FORMATS,
        ) as image:
            pixels = depths.eight_bits(pillow, image, channels)
    # Which of a dozen exceptions a broken file causes is its own choice.
    except Exception as error:
        raise ValueError(
            "`images` must be intact images of a known depth. "
            f"Received: {name or source!r}, which cannot be decoded: {error}."
        ) from error
    if pixels.size != (width, height):
        # The largest box in the middle that has the proportions.
        scale = min(pixels.width / width, pixels.height / height)
        left = (pixels.width - scale * width) / 2
        top = (pixels.height - scale * height) / 2
        box = (left, top, pixels.width - left, pixels.height - top)
        pixels = pixels.resize((width, height), pillow.BILINEAR, box)
    return np.asarray(pixels, np.uint8).reshape(shape)


class FileReader:
    """Reads images by their positions in a list of files."""

    def __init__(
        self, paths: npt.NDArray[Any], image_shape: tuple[int, ...]
    ) -> None:
        self.paths = paths
        self.shape = image_shape

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, positions: Any) -> npt.NDArray[np.uint8]:
        images = np.empty((len(positions), *self.shape), np.uint8)
        for k, position in enumerate(positions):
            images[k] = decode(str(self.paths[position]), self.shape)
        return images


def open_files(
    paths: npt.NDArray[Any],
    image_shape: tuple[int, ...],
    cache: str | os.PathLike[str],
) -> npt.NDArray[np.uint8] | FileReader:
    """Return the images, decoded now or as they are needed.

    Args:
        paths: `(examples,)` strings.
        image_shape: (height, width, channels).
        cache: `"auto"`, `"memory"`, `"none"`, or the path of an `.npy` file.
    """
    reader = FileReader(paths, image_shape)
    size = len(paths) * int(np.prod(image_shape))
    if cache == "auto":
        cache = "memory" if size <= MEMORY_LIMIT else "none"
    if cache == "none":
        return reader
    if cache == "memory":
        pixels = np.empty((len(paths), *image_shape), np.uint8)
        _decode_all(reader, pixels)
        return pixels
    file = pathlib.Path(cache).expanduser()
    if file.suffix != ".npy":
        raise ValueError(
            "`cache` must be 'auto', 'memory', 'none' or a path that ends in "
            f".npy. Received: cache={str(cache)!r}."
        )
    return open_cache(
        file, paths, image_shape, lambda pixels: _decode_all(reader, pixels)
    )


def _decode_all(reader: FileReader, pixels: npt.NDArray[np.uint8]) -> None:
    def block(start: int) -> None:
        stop = min(start + _BLOCK, len(reader))
        pixels[start:stop] = reader[range(start, stop)]

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for _ in pool.map(block, range(0, len(reader), _BLOCK)):
            pass
