"""Files that are written whole or not at all."""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

# No space, no quota left, larger than a file may be.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def written_whole(
    path: Any, argument: str = "path", space: int = 0
) -> Iterator[str]:
    """Give a path to write a file to, and move the file when it is whole.

    It is written in a folder beside its place, named after it and ending in
    `.partial`; what a killed process left there goes when it is next written.
    A file that was there is replaced, and its permissions are kept.

    Args:
        path: Where it shall be in the end.
        argument: The argument's name, for the messages.
        space: Bytes that there must be room for before it is written: HDF5
            can take the whole process down on a full disk.

    Raises:
        ValueError: if a folder is there, or a file where the folder is to be.
        OSError: if there is no space; it names the file.
    """
    place = os.path.realpath(path)
    if os.path.isdir(place):
        raise ValueError(
            f"`{argument}` must be the path of a file. "
            f"Received: {argument}={str(path)!r}, a folder."
        )
    folder = f"{place}.partial"
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ValueError(
            f"`{argument}` must be a path beside which a folder can be made. "
            f"Received: {argument}={str(path)!r}, beside which there is a file "
            f"{os.path.basename(folder)!r}. Remove it."
        )
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with naming_full_disk(place):
            os.mkdir(folder)
            check_space(folder, space)
            partial = os.path.join(folder, os.path.basename(path))
            yield partial
            # Or the name could reach the disk before the content, on power
            # loss.
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            replace(partial, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_space(folder: str, space: int) -> None:
    """Raise `OSError` if so many bytes cannot be written into a folder."""
    if space and hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=folder) as ballast:
            os.posix_fallocate(ballast.fileno(), 0, space)


def replace(new: str | pathlib.Path, old: str | pathlib.Path) -> None:
    """Put a file in the place of another, whose permissions it takes."""
    if os.path.exists(old):
        shutil.copymode(old, new)
    os.replace(new, old)


@contextlib.contextmanager
def naming_full_disk(path: Any) -> Iterator[None]:
    """Have an error of a full disk say what was being written.

    Raises:
        OSError: in the place of the error, with the path.
    """
    try:
        yield
    except Exception as error:
        # HDF5 and TensorFlow tell it in words alone.
        reasons = [
            number
            for number in _NO_SPACE
            if getattr(error, "errno", None) == number
            or os.strerror(number) in str(error)
        ]
        if not reasons:
            raise
        raise OSError(
            reasons[0],
            f"{os.strerror(reasons[0])}; what was there is as it was",
            str(path),
        ) from error
