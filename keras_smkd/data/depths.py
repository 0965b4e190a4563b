"""Images of any depth as the eight bits per channel that pipelines take."""

from typing import Any

import numpy as np

_EIGHT_BITS = set("1 L LA P PA RGB RGBA RGBX CMYK HSV YCbCr".split())
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
CHANNELS = tuple(_MODES)


def eight_bits(pillow: Any, image: Any, channels: int) -> Any:
    """Return an image of Pillow as grey, RGB or RGBA of eight bits.

    Pillow would cut deeper values off at 255.

    Args:
        pillow: The module `PIL.Image`.
        image: An image of any mode. 16 bits are divided by 257 and rounded.
        channels: 1, 3 or 4. 4 keeps what is transparent, and makes all else
            opaque; 1 and 3 keep the colours as they are stored, even where
            they are transparent.

    Raises:
        ValueError: if the values of its mode have no known range.
    """
    # Earlier versions of Pillow give the 16 bits of a PNG as 32.
    if image.mode in _SIXTEEN_BITS or (image.mode, image.format) == (
        "I",
        "PNG",
    ):
        return _from_sixteen(pillow, image, channels)
    if image.mode not in _EIGHT_BITS:
        raise ValueError(
            f"mode {image.mode!r} has no range that 8 bits stand for"
        )
    if image.mode == "P" and "transparency" in image.info:
        # Or Pillow warns that transparency is lost.
        image = image.convert("RGBA")
    return image.convert(_MODES[channels])


def _from_sixteen(pillow: Any, image: Any, channels: int) -> Any:
    values = np.asarray(image).astype(np.uint32)
    # Rounded: 257 is odd, so there are no halves.
    grey = pillow.fromarray(((values + 128) // 257).astype(np.uint8))
    scaled = grey.convert(_MODES[channels])
    if channels == 4 and "transparency" in image.info:
        hidden = values == image.info["transparency"]
        alpha = np.where(hidden, 0, 255).astype(np.uint8)
        scaled.putalpha(pillow.fromarray(alpha))
    return scaled
