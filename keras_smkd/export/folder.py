"""A folder that appears whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

# What an export is known by.
CARD = "model_card.json"


def target_of(path: str | os.PathLike[str], overwrite: bool) -> pathlib.Path:
    """Return the folder that `path` names, if it may be written.

    Raises:
        FileExistsError: if something is there and `overwrite` is `False`, or
            it is no export.
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
    if not (target / CARD).is_file():
        raise FileExistsError(
            "`path` must be an earlier export, which has a file "
            f"{CARD}, to be overwritten. Received: path={str(path)!r}. "
            "Choose another, or remove it yourself."
        )
    return target


@contextlib.contextmanager
def whole_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Give a folder to fill, which becomes `target` if nothing is raised.

    What was at `target` is there until then, and put back if the last step
    fails.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename.
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=".export-"
    ) as scratch:
        folder = pathlib.Path(scratch, "new")
        folder.mkdir()
        yield folder
        _put_in_place(folder, target)


def _put_in_place(folder: pathlib.Path, target: pathlib.Path) -> None:
    if not target.exists():
        folder.rename(target)
        return
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
