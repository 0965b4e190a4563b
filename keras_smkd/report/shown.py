"""How a table of suspicious labels looks, as text and in a notebook."""

import base64
import html
import importlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt

COLUMNS = ("index", "label", "suggestion", "score", "probability", "selected")
MOST_ROWS = 10
_THUMBNAIL = 64  # Pixels.


def headline(table: Any) -> str:
    """Return a sentence that says how many labels are suspected."""
    count = int(table.selected.sum())
    share = count / max(len(table), 1)
    broken = int(np.isnan(table.score).sum())
    return f"{count:,} of {len(table):,} labels are suspected ({share:.1%})" + (
        f"; {broken:,} predictions are not finite" if broken else ""
    )


def _cells(table: Any) -> list[tuple[str, ...]]:
    return [
        (
            str(row.index),
            table.name_of(row.label),
            table.name_of(row.suggestion),
            f"{row.score:.3f}",
            f"{row.probability:.3f}",
            "yes" if row.selected else "no",
        )
        for row in (table[i] for i in range(min(len(table), MOST_ROWS)))
    ]


def as_text(table: Any) -> str:
    """Return the headline and the first rows, in columns."""
    rows = [COLUMNS, *_cells(table)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(
            # Numbers to the right, names to the left.
            cell.ljust(width) if k in (1, 2) else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([headline(table), *lines])


def as_html(table: Any) -> str:
    """Return the headline and the first rows, with their images if there are.

    Images need Pillow; without it there are none.
    """
    pictures = [
        _tag(table.images[index]) if index in table.images else ""
        for index in table.index[:MOST_ROWS].tolist()
    ]
    header = list(COLUMNS)
    rows = [list(map(html.escape, cells)) for cells in _cells(table)]
    if any(pictures):
        header.insert(0, "image")
        rows = [
            [picture, *row] for picture, row in zip(pictures, rows, strict=True)
        ]
    lines = [
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
        for row in rows
    ]
    top = "".join(f"<th>{name}</th>" for name in header)
    return (
        f"<p>{html.escape(headline(table))}</p>"
        f"<table><tr>{top}</tr>{''.join(lines)}</table>"
    )


def _tag(image: npt.NDArray[Any]) -> str:
    try:
        pillow = importlib.import_module("PIL.Image")
    except ImportError:
        return ""
    file = io.BytesIO()
    picture = pillow.fromarray(pixels(image))
    scale = max(1, _THUMBNAIL // max(picture.size))
    picture = picture.resize(
        (picture.width * scale, picture.height * scale), pillow.NEAREST
    )
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    picture.save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img alt="" src="data:image/png;base64,{data}">'


def is_image(shape: tuple[int, ...]) -> bool:
    """Return whether an input of this shape is an image, channels last."""
    return len(shape) in (2, 3) and (len(shape) == 2 or shape[2] in (1, 3))


def pixels(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return an image as uint8, `(height, width)` or `(height, width, 3)`.

    Floats are stretched from their smallest value to their largest, since
    nobody knows how they were normalised.
    """
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.dtype == np.uint8:
        return image
    values = np.nan_to_num(image.astype(np.float64))
    low, high = values.min(), values.max()
    stretched = (values - low) / (high - low if high > low else 1.0)
    return np.round(255.0 * stretched).astype(np.uint8)
