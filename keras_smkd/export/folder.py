"""A folder that appears whole or not at all, and replaces only its own kind."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from keras_smkd._files import naming_full_disk

# What an export is known by: its package, and the list of what is in it.
CARD = "model_card.json"
PACKAGE = "keras_smkd"


def target_of(path: str | os.PathLike[str], overwrite: bool) -> pathlib.Path:
    """Return the folder that `path` names, if it may be written.

    Raises:
        FileExistsError: if something is there and `overwrite` is `False`, or
            it is no export, or more than an export.
    """
    # Links and `..` are followed here, so that what is replaced is a folder
    # beside which there can be another.
    target = pathlib.Path(path).expanduser().resolve()
    if not target.exists():
        return target
    if not overwrite:
        raise FileExistsError(
            f"`path` must not exist yet. Received: path={str(path)!r}. "
            "Choose another, or give `overwrite=True`."
        )
    check_replaceable(target)
    return target


def check_replaceable(target: pathlib.Path) -> None:
    """Raise if a folder is not exactly what the card in it lists, or less.

    Raises:
        FileExistsError: if it has no card of ours, or the card no list, or
            the folder a file that is not in the list.
    """
    reason = ""
    listed = _listed(target / CARD)
    if listed is None:
        reason = f"which has no {CARD} of {PACKAGE} that lists its files"
    else:
        foreign = [name for name in names_in(target) if name not in listed]
        if foreign:
            reason = f"where {foreign[0]!r} is not of the export"
    if reason:
        raise FileExistsError(
            "`path` must be an earlier export and nothing else, to be "
            f"overwritten. Received: path={str(target)!r}, {reason}. "
            "Choose another, or remove it yourself."
        )


def names_in(folder: pathlib.Path) -> list[str]:
    """Return what is in a folder at any depth, sorted: `a/` and `a/b.txt`.

    Links are not followed.
    """
    names = []
    for parent, folders, files in os.walk(folder):
        place = pathlib.Path(parent).relative_to(folder)
        names += [(place / name).as_posix() + "/" for name in folders]
        names += [(place / name).as_posix() for name in files]
    return sorted(names)


def _listed(card: pathlib.Path) -> set[Any] | None:
    """Return the names that a card lists, or None if it is none of ours."""
    try:
        found = json.loads(card.read_text(encoding="utf-8"))
        is_ours = found["package"] == PACKAGE
        return set(found["files"]) if is_ours else None
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return None


@contextlib.contextmanager
def whole_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Give a folder to fill, which becomes `target` if nothing is raised.

    What was at `target` is there until then, and put back if the last step
    fails.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename.
    with (
        naming_full_disk(target),
        tempfile.TemporaryDirectory(
            dir=target.parent, prefix=".export-"
        ) as scratch,
    ):
        folder = pathlib.Path(scratch, "new")
        folder.mkdir()
        yield folder
        _put_in_place(folder, target)


def _put_in_place(folder: pathlib.Path, target: pathlib.Path) -> None:
    if not target.exists():
        folder.rename(target)
        return
    # Writing takes a while, in which files may have come.
    check_replaceable(target)
    _copy_permissions(target, folder)
    # Not in the scratch folder, which is removed whatever happens.
    aside = pathlib.Path(
        tempfile.mkdtemp(dir=target.parent, prefix=".export-old-")
    )
    earlier = target.rename(aside / target.name)
    try:
        folder.rename(target)
    except BaseException as error:
        error.add_note(f"The earlier export was moved to {earlier}.")
        earlier.rename(target)
        aside.rmdir()
        error.add_note("It is back in its place.")
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _copy_permissions(old: pathlib.Path, new: pathlib.Path) -> None:
    # The inner ones first: what is made read-only is not gone into again.
    for name in [*reversed(names_in(new)), "."]:
        if (old / name).exists():
            shutil.copymode(old / name, new / name)
