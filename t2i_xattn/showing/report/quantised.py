"""Maps in one byte a place, as a page holds them."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 64
"""Places along the longer side of a map, which the page enlarges: as many as the finest sites of
most models have."""


def size_within(size: tuple[int, int], side: int = SIDE) -> tuple[int, int]:
    """Height and width in the proportion of `size`, the longer `side` at most."""
    factor = min(1.0, side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resized(array: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map at another height and width: of a smaller one each place is the mean of what it covers,
    a larger one is enlarged bilinearly."""
    from PIL import Image

    if array.shape == size:
        return array
    smaller = array.shape[0] * array.shape[1] > size[0] * size[1]
    way = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    picture = Image.fromarray(np.ascontiguousarray(array, dtype=np.float32))
    return np.asarray(picture.resize((size[1], size[0]), way), dtype=np.float32)


def quantised(maps: Sequence[NDArray[np.float32]]) -> dict[str, Any]:
    """Several arrays of one shape, each in bytes from its own lowest value (0) to its highest
    (255).

    Args:
        maps: `(…, height, width)`.

    Returns:
        As JSON has it: `height`, `width`, `ranges` (lowest and highest of each), and `data`, the
        bytes of one after the other, compressed by zlib, in base64.
    """
    height, width = maps[0].shape[-2:]
    ranges, parts = [], []
    for each in maps:
        low, high = float(each.min()), float(each.max())
        span = high - low
        scaled = (each - low) / span if span > 0 else np.zeros_like(each)
        parts.append(np.rint(scaled * 255).astype(np.uint8).tobytes())
        ranges.append([low, high])
    data = base64.b64encode(zlib.compress(b"".join(parts), 9)).decode("ascii")
    return {"height": height, "width": width, "ranges": ranges, "data": data}
