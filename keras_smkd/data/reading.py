"""The reading of a prepared data set of TensorFlow Datasets."""

import concurrent.futures
import csv
import functools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from keras_smkd._files import replace
from keras_smkd.data import files
from keras_smkd.data.optional import import_optional

_READ_BATCH = 1000


def _dataset(
    builder: Any, split: str, keys: tuple[str, str, bool], decoded: bool
) -> Any:
    tfds = import_optional("tensorflow_datasets", "load_tfds")
    image, label, has_id = keys
    wanted = [image, label, *(["id"] if has_id else [])]
    return builder.as_dataset(
        split=split,
        shuffle_files=False,
        # Whole batches cross into Python: one by one is ten times slower.
        batch_size=_READ_BATCH if decoded else None,
        decoders=tfds.decode.PartialDecoding(
            dict.fromkeys(wanted, True),
            decoders=None if decoded else {image: tfds.decode.SkipDecoding()},
        ),
        read_config=tfds.ReadConfig(try_autocache=False),
    ).as_numpy_iterator()


def read(
    builder: Any,
    split: str,
    keys: tuple[str, str, bool],
    images: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.int32], list[Any]]:
    """Fill `images` with those of one shape; return labels and ids."""
    labels = np.empty(len(images), np.int32)
    ids: list[Any] = []
    start = 0
    for batch in _dataset(builder, split, keys, True):
        stop = start + len(batch[keys[1]])
        images[start:stop] = batch[keys[0]]
        labels[start:stop] = batch[keys[1]]
        ids.extend(batch.get("id", ()))
        start = stop
    return labels, ids


def read_resized(
    builder: Any,
    split: str,
    keys: tuple[str, str, bool],
    images: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.int32], list[Any]]:
    """Fill `images` with resized ones; return labels and ids."""
    labels = np.empty(len(images), np.int32)
    ids: list[Any] = []

    def fill(position: int, content: bytes) -> None:
        name = f"example {position} of {builder.name} {split}"
        images[position] = files.decode(content, images.shape[1:], name)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        # In rounds, or all the stored images would wait in memory.
        for start, batch in _rounds(_dataset(builder, split, keys, False)):
            stop = start + len(batch)
            labels[start:stop] = [example[keys[1]] for example in batch]
            ids.extend(example["id"] for example in batch if keys[2])
            contents = [example[keys[0]] for example in batch]
            for _ in pool.map(fill, range(start, stop), contents):
                pass
    return labels, ids


def _rounds(examples: Iterator[Any]) -> Iterator[tuple[int, list[Any]]]:
    start = 0
    batch: list[Any] = []
    for example in examples:
        batch.append(example)
        if len(batch) == _READ_BATCH:
            yield start, batch
            start += len(batch)
            batch = []
    if batch:
        yield start, batch


def extract(
    builder: Any,
    split: str,
    size: int,
    keys: tuple[str, str, bool],
    folder: pathlib.Path,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32], list[Any]]:
    """Write the stored images to files, once; return paths, labels, ids.

    The list of them comes last, so a folder that has one is whole.
    """
    table = folder / "examples.csv"
    source = [builder.info.full_name, split, *keys[:2], str(size)]
    rows = _read_table(table, source)
    if rows is None:
        if folder.exists() and any(folder.iterdir()):
            logging.info("Writing the images to %s anew.", folder)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for n, example in enumerate(_dataset(builder, split, keys, False)):
            suffix = files.suffix_of(example[keys[0]][:8])
            if suffix is None:
                raise ValueError(
                    "`name` must be a data set of PNG, JPEG, BMP or GIF "
                    f"images. Received: another format, in example {n} of "
                    f"{builder.name} {split}."
                )
            # Folders of ten thousand, which file systems bear.
            file = pathlib.Path(f"{n // 10_000:04d}", f"{n:08d}{suffix}")
            if n % 10_000 == 0:
                (folder / file.parent).mkdir(exist_ok=True)
            (folder / file).write_bytes(example[keys[0]])
            identifier = example["id"].decode() if keys[2] else ""
            rows.append([str(file), str(example[keys[1]]), identifier])
        partial = folder / "partial.csv"
        with partial.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([source, *rows])
        replace(partial, table)
    join = functools.partial(os.path.join, folder)
    return (
        np.array([join(row[0]) for row in rows]),
        np.array([row[1] for row in rows], np.int32),
        [row[2].encode() for row in rows],
    )


def _read_table(
    table: pathlib.Path, source: list[str]
) -> list[list[str]] | None:
    """Return the rows of a list of images, or None if it is not whole.

    Raises:
        ValueError: if it is a list of something else.
    """
    if not table.exists():
        return None
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            found, *rows = csv.reader(stream)
    except (ValueError, csv.Error):
        return None
    if len(found) == len(source) and found != source:
        raise ValueError(
            "`extract_to` must be a folder of its own for each data set and "
            f"split. Received: extract_to={str(table.parent)!r}, which holds "
            f"{found[0]} {found[1]}."
        )
    is_whole = found == source and len(rows) == int(source[-1])
    is_whole = is_whole and all(
        len(row) == 3 and row[1].isdecimal() for row in rows
    )
    return rows if is_whole else None
