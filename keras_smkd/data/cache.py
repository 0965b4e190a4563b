"""The pixels of files that were decoded once, kept in a file."""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from keras_smkd._files import check_space
from keras_smkd._files import naming_full_disk
from keras_smkd._files import replace

# Changes with what decoding makes of a file.
_VERSION = 2
_KEYS = {"shape", "sha256"}


def open_cache(
    file: pathlib.Path,
    paths: npt.NDArray[Any],
    image_shape: tuple[int, ...],
    decode_into: Callable[[npt.NDArray[np.uint8]], None],
) -> npt.NDArray[np.uint8]:
    """Return the pixels in a file, which is made if it is stale or broken.

    Args:
        file: The `.npy` file. Its note, a `.json` beside it, says of which
            files it is.
        paths: `(examples,)` strings, the image files.
        image_shape: (height, width, channels).
        decode_into: Fills an array with the pixels of the files.

    Raises:
        ValueError: if there is a file that is no cache.
    """
    shape = (len(paths), *image_shape)
    described = {
        "version": _VERSION,
        "shape": list(image_shape),
        "sha256": _digest(paths),
    }
    note = file.with_suffix(".json")
    known = _read_note(file, note)
    if known == described:
        pixels = _read_pixels(file, shape)
        if pixels is not None:
            return pixels
    if known is not None:
        logging.info(
            "The cache %s is broken or of other files: made anew.", file
        )
    partial = file.with_suffix(".partial")
    with naming_full_disk(file):
        filled = _new_pixels(partial, shape)
        decode_into(filled)
        filled.flush()
        del filled
        # Whole or not at all. The note says so last, for it vouches for the
        # file; until then it marks what lies there as ours.
        _write_note(note, {**described, "sha256": None})
        replace(partial, file)
        _write_note(note, described)
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _new_pixels(file: pathlib.Path, shape: tuple[int, ...]) -> Any:
    """Return a new array in a file, for which there is space."""
    # Its pages are taken when they are written to, where a full disk would
    # kill the process.
    check_space(str(file.parent), math.prod(shape))
    return np.lib.format.open_memmap(file, "w+", np.dtype(np.uint8), shape)


def _read_note(file: pathlib.Path, note: pathlib.Path) -> dict[str, Any] | None:
    """Return the note, `{}` if it is broken, None if there is no cache yet."""
    if not note.is_file():
        if file.exists():
            raise ValueError(
                "`cache` must be a new file, or a cache with its note beside "
                f"it. Received: cache={str(file)!r}, without {note.name}. "
                "Remove it or choose another."
            )
        return None
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or not _KEYS <= found.keys():
        raise ValueError(
            "`cache` must be a path beside which its note can be written. "
            f"Received: cache={str(file)!r}, with {note.name} of another "
            "kind. Choose another."
        )
    return found


def _read_pixels(
    file: pathlib.Path, shape: tuple[int, ...]
) -> npt.NDArray[np.uint8] | None:
    """Return the pixels, or None if the file has not got them all."""
    if not file.is_file():
        return None
    try:
        pixels = np.load(file, mmap_mode="r", allow_pickle=False)
    # Which of a dozen exceptions a broken file causes is its own choice.
    except Exception as error:
        logging.info("The cache %s cannot be read: %s", file, error)
        return None
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        return None
    return pixels if pixels.shape == shape else None


def _write_note(note: pathlib.Path, described: dict[str, Any]) -> None:
    partial = note.with_suffix(".json-partial")
    partial.write_text(json.dumps(described), encoding="utf-8")
    replace(partial, note)


def _digest(paths: npt.NDArray[Any]) -> str:
    """Return a hash of the files' names, sizes and times of change."""
    digest = hashlib.sha256()
    for path in paths:
        status = os.stat(path)
        digest.update(
            f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode()
        )
    return digest.hexdigest()
