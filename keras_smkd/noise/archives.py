"""The reading of `.npz` files that others wrote.

`np.load` believes what a file says of itself: it sets aside the memory that a
header asks for, and lets out whatever its parsers raise.
"""

import math
import pathlib
import zipfile
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_archive(
    file: pathlib.Path, names: Collection[str] | None = None
) -> tuple[list[str], dict[str, npt.NDArray[Any]]]:
    """Return the names in an `.npz` file, and the arrays of some of them.

    Args:
        file: The file. Nothing in it is unpickled.
        names: Of which arrays; those that the file has not are left out.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if the file, or an array asked for, is broken.
    """
    with file.open("rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                entries = {
                    entry.filename.removesuffix(".npy"): entry
                    for entry in archive.infolist()
                }
                arrays = {
                    name: _read_array(archive, entries[name])
                    for name in names or ()
                    if name in entries
                }
        # Which of a dozen exceptions a broken file causes is its own choice.
        except Exception as error:
            raise ValueError(
                "`path` must be an intact .npz file without pickled objects. "
                f"Received: path={str(file)!r}, which cannot be read: "
                f"{type(error).__name__}: {str(error)[:200]}"
            ) from error
    return list(entries), arrays


def _read_array(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo
) -> npt.NDArray[Any]:
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADER_READERS:
            raise ValueError(f"an array of version {version}.")
        shape, is_fortran, dtype = _HEADER_READERS[version](stream)
        if dtype.hasobject:
            raise ValueError("an array of objects.")
        size = math.prod(shape) * dtype.itemsize
        # Before there is memory for it.
        if min(shape, default=0) < 0 or stream.tell() + size != entry.file_size:
            raise ValueError(
                f"an array of {shape} {dtype} in {entry.file_size} bytes."
            )
        content = stream.read()
    flat = np.frombuffer(content, dtype, count=math.prod(shape))
    return flat.reshape(shape, order="F" if is_fortran else "C")
