"""Words that compete for the places of a picture, and the connected parts of what they get.

Plain functions on arrays; see `traces.segmentation`, which holds the arguments against what they
are to be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.traces.regions import Mask

VOID = 255
"""The label of a place that is left undecided, as in PASCAL VOC."""


def min_max_or_zeros(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map from 0 at its lowest place to 1 at its highest, as fp32.

    What is the same everywhere is 0: it names no region.
    """
    wide = array.astype(np.float64)
    span = wide.max() - wide.min()
    scaled = (wide - wide.min()) / span if span > 0 else np.zeros_like(wide)
    return scaled.astype(np.float32)


def labels_of(
    maps: NDArray[np.float32], cuts: Sequence[float], words: int, undecided: float = 0.0
) -> NDArray[np.uint8]:
    """The number of the word that has each place.

    Args:
        maps: `(words and background, height, width)`, each from 0 to 1.
        cuts: for each map, the value that a place needs.
        words: how many of the maps are of words; the others are of the background.
        undecided: how far below its cut a word's map leaves a place of nobody's undecided.

    Returns:
        uint8 `(height, width)`: 0 the background, 1 the first word …, `VOID` undecided.
    """
    levels = np.asarray(cuts, dtype=np.float32)[:, None, None]
    # A map that is 0 everywhere names nothing, whatever the cut.
    above = (maps >= levels) & (maps > 0)
    taken = above.any(axis=0)
    # Of equal ones the first has the place.
    numbers = np.where(above, maps, -1).argmax(axis=0) + 1
    labels = np.where(taken & (numbers <= words), numbers, 0).astype(np.uint8)
    if undecided > 0:
        near = (maps >= levels - np.float32(undecided)) & (maps > 0)
        labels[near[:words].any(axis=0) & ~taken] = VOID
    return labels


def remove_small(labels: NDArray[np.uint8], words: int, least: float) -> None:
    """Gives connected parts of fewer than `least` pixels to the background, in place."""
    for number in range(1, words + 1):
        parts, sizes = connected_parts(labels == number)
        small = sizes < least
        small[0] = False
        labels[small[parts]] = 0


def connected_parts(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The number of the part at each place, 0 outside the mask, and the pixels of each number.

    Pixels are connected by a side or a corner.
    """
    # Here, since scipy takes a while and not every use of a heat map needs it.
    from scipy import ndimage

    parts, count = ndimage.label(mask, structure=np.ones((3, 3)))
    return parts, np.bincount(parts.ravel(), minlength=count + 1)
