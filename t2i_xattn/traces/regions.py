"""Regions: masks and boxes made from heat maps, and how well they fit a true one.

Plain functions on arrays `(height, width)`. Rows come first everywhere, as in the arrays; boxes are
in fractions of the picture.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.errors import UserError

Mask = NDArray[np.bool_]


class Box(NamedTuple):
    """A box in fractions of the picture, 0 to 1: what edits and losses take."""

    top: float
    left: float
    bottom: float
    right: float

    def pixels(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in the pixels of a picture, as `Image.crop` takes them."""
        top, left, bottom, right = self
        return (
            round(left * width),
            round(top * height),
            round(right * width),
            round(bottom * height),
        )


def threshold(array: NDArray[Any], level: float | Literal["otsu"] = 0.5) -> Mask:
    """The pixels at or above a level between the lowest and the highest value.

    Args:
        array: a heat map `(height, width)`.
        level: 0 for the lowest value of this map, 1 for its highest; 0.5, the default, is halfway.
            It is relative, since shares differ a lot from word to word. Or `"otsu"`: the level that
            parts the values best.

    Returns:
        A mask. Empty if the map is the same everywhere, since then it names no region.

    Raises:
        UserError: if the level is neither `"otsu"` nor from 0 to 1.
    """
    if isinstance(level, str):
        if level != "otsu":
            raise UserError(f"expected a threshold from 0 to 1 or 'otsu', but came {level!r}")
        cut = otsu(array)
    elif 0 <= level <= 1:
        lowest, highest = float(array.min()), float(array.max())
        cut = lowest + level * (highest - lowest)
    else:
        raise UserError(f"expected a threshold from 0 to 1 or 'otsu', but came {level}")
    if array.min() == array.max():
        return np.zeros(array.shape, dtype=bool)
    # The sum above may be rounded to just beyond the highest value.
    mask: Mask = array >= min(cut, float(array.max()))
    return mask


def otsu(array: NDArray[Any], bins: int = 256) -> float:
    """The level that parts the values into two classes with the least variance inside them.

    Otsu 1979, "A Threshold Selection Method from Gray-Level Histograms", over a histogram between
    the lowest and the highest value.
    """
    counts, edges = np.histogram(array, bins=bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts)[:-1], np.cumsum(counts[::-1])[::-1][1:]
    mass = counts * centres
    sum_below, sum_above = np.cumsum(mass)[:-1], np.cumsum(mass[::-1])[::-1][1:]
    # Least variance within is most variance between: w₀ w₁ (μ₀ − μ₁)².
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sum_below / below - sum_above / above) ** 2
    return float(edges[1:-1][np.nan_to_num(between).argmax()])


def largest_component(mask: Mask) -> Mask:
    """The largest part whose pixels touch by a side or a corner; empty if the mask is."""
    # Here, since scipy takes a while and not every use of a heat map needs it.
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count == 0:
        return np.zeros_like(mask, dtype=bool)
    sizes = np.bincount(labels.ravel())[1:]
    largest: Mask = labels == sizes.argmax() + 1
    return largest


def bounding_box(mask: Mask) -> Box | None:
    """The smallest box around a mask, or None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    height, width = mask.shape
    return Box(
        float(rows[0] / height),
        float(columns[0] / width),
        float((rows[-1] + 1) / height),
        float((columns[-1] + 1) / width),
    )


def peak(array: NDArray[Any]) -> tuple[int, int]:
    """Row and column of the highest value; the first in reading order of several."""
    row, column = np.unravel_index(int(array.argmax()), array.shape)
    return int(row), int(column)


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks, 0 to 1; 0 if both are empty.

    Raises:
        UserError: if their sizes differ.
    """
    _check_sizes(a, b)
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 0.0


def pointing_hit(array: NDArray[Any], mask: Mask) -> bool:
    """The pointing game: whether the map's peak falls into the mask.

    Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop" (arXiv 1608.00507),
    without their tolerance of 15 pixels.

    Raises:
        UserError: if their sizes differ.
    """
    _check_sizes(array, mask)
    return bool(mask[peak(array)])


def _check_sizes(a: NDArray[Any], b: NDArray[Any]) -> None:
    if a.shape != b.shape:
        raise UserError(
            f"expected two arrays of the same height and width, but came {a.shape} and {b.shape}; "
            "resize one of them to the picture"
        )
