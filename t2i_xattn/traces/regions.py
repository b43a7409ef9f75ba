"""Regions: masks and boxes made from heat maps, and how well they fit a true one.

Plain functions on arrays `(height, width)`. Rows come first everywhere, as in the arrays; boxes are
in fractions of the picture.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.errors import UserError, shown
from t2i_xattn.traces.asked import is_whole

Mask = NDArray[np.bool_]


_LONGEST = 1_000_000
"""Pixels on a side."""


class Box(NamedTuple):
    """A box in fractions of the picture, 0 to 1: what edits and losses take."""

    top: float
    left: float
    bottom: float
    right: float

    def pixels(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in the pixels of a picture, as `Image.crop` takes them.

        Raises:
            UserError: if the box has no numbers, or the picture no height and width.
        """
        top, left, bottom, right = self
        if not all(is_whole(side) and 0 < side <= _LONGEST for side in (height, width)):
            raise UserError(
                "expected the height and width of a picture in pixels, but came "
                f"{shown((height, width))}; give box.pixels(image.height, image.width)"
            )
        if not all(is_number(side) and abs(side) <= _LONGEST for side in self):
            raise UserError(
                f"expected a box (top, left, bottom, right) of numbers, but came {shown(self)}; "
                "give fractions of the picture, 0 to 1"
            )
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
        UserError: if the level is neither `"otsu"` nor from 0 to 1, or `array` is no map.
    """
    array = checked_map(array)
    if isinstance(level, str):
        if level != "otsu":
            raise UserError(f"expected a threshold from 0 to 1 or 'otsu', but came {shown(level)}")
        cut = otsu(array)
    elif is_number(level) and 0 <= level <= 1:
        lowest, highest = float(array.min()), float(array.max())
        cut = lowest + level * (highest - lowest)
    else:
        raise UserError(f"expected a threshold from 0 to 1 or 'otsu', but came {shown(level)}")
    if array.min() == array.max():
        return np.zeros(array.shape, dtype=bool)
    # The sum above may be rounded to just beyond the highest value.
    mask: Mask = array >= min(cut, float(array.max()))
    return mask


def otsu(array: NDArray[Any], bins: int = 256) -> float:
    """The level that parts the values into two classes with the least variance inside them.

    Otsu 1979, "A Threshold Selection Method from Gray-Level Histograms", over a histogram between
    the lowest and the highest value. Of a map that is the same everywhere, its value.

    Raises:
        UserError: if `array` is no map, or `bins` no number of bins.
    """
    if not is_whole(bins) or not 2 <= bins <= _MOST_BINS:
        raise UserError(
            f"expected bins= from 2 to {_MOST_BINS}, but came {shown(bins)}; 256 suit most maps"
        )
    array = checked_map(array).astype(np.float64)
    lowest, span = float(array.min()), float(array.max()) - float(array.min())
    if span == 0:
        return lowest
    # From 0 to 1, since a bin may be narrower than what numbers of this size tell apart.
    counts, edges = np.histogram((array - lowest) / span, bins=bins, range=(0, 1))
    centres = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts)[:-1], np.cumsum(counts[::-1])[::-1][1:]
    mass = counts * centres
    sum_below, sum_above = np.cumsum(mass)[:-1], np.cumsum(mass[::-1])[::-1][1:]
    # Least variance within is most variance between: w₀ w₁ (μ₀ − μ₁)².
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sum_below / below - sum_above / above) ** 2
    return lowest + span * float(edges[1:-1][np.nan_to_num(between).argmax()])


def largest_component(mask: Mask) -> Mask:
    """The largest part whose pixels touch by a side or a corner; empty if the mask is.

    Raises:
        UserError: if it is no mask.
    """
    mask = checked_mask(mask)
    # Here, since scipy takes a while and not every use of a heat map needs it.
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count == 0:
        return np.zeros_like(mask, dtype=bool)
    sizes = np.bincount(labels.ravel())[1:]
    largest: Mask = labels == sizes.argmax() + 1
    return largest


def bounding_box(mask: Mask) -> Box | None:
    """The smallest box around a mask, or None if it is empty.

    Raises:
        UserError: if it is no mask.
    """
    mask = checked_mask(mask)
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
    """Row and column of the highest value; the first in reading order of several.

    Raises:
        UserError: if `array` is no map.
    """
    array = checked_map(array)
    row, column = np.unravel_index(int(array.argmax()), array.shape)
    return int(row), int(column)


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks, 0 to 1; 0 if both are empty.

    Raises:
        UserError: if one is no mask, or their sizes differ.
    """
    a, b = checked_mask(a), checked_mask(b)
    _check_sizes(a, b)
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 0.0


def pointing_hit(array: NDArray[Any], mask: Mask) -> bool:
    """The pointing game: whether the map's peak falls into the mask.

    Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop" (arXiv 1608.00507),
    without their tolerance of 15 pixels.

    Raises:
        UserError: if one is no map or no mask, or their sizes differ.
    """
    array, mask = checked_map(array), checked_mask(mask)
    _check_sizes(array, mask)
    return bool(mask[peak(array)])


def is_number(value: Any) -> bool:
    """Whether it is a real number, python's or numpy's; `True` is none."""
    kinds = int | float | np.integer | np.floating
    return isinstance(value, kinds) and not isinstance(value, bool)


def checked_map(given: Any) -> NDArray[Any]:
    """`(height, width)` of finite numbers.

    Raises:
        UserError: if it is not that.
    """
    array = _as_array(given)
    if array.ndim == 2 and array.size and array.dtype.kind in "fiub":
        # What fp32 holds; NaN is neither above nor below.
        if array.min() >= -_HIGHEST and array.max() <= _HIGHEST:
            return array
        raise UserError(
            "expected a map of finite numbers, but one of its values is NaN, infinite or beyond "
            "fp32; look at the maps of each site, trace.to_numpy()"
        )
    raise UserError(
        f"expected a map (height, width) of numbers, but came {_described(array)}; give an array "
        "of the picture's size"
    )


def checked_mask(given: Any) -> Mask:
    """`(height, width)` of bool.

    Raises:
        UserError: if it is not that.
    """
    array = _as_array(given)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "biu":
        raise UserError(
            f"expected a mask (height, width) of bool, but came {_described(array)}; make one of a "
            "map with heat.mask()"
        )
    return array.astype(bool, copy=False)


def _as_array(given: Any) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError, MemoryError):
        # Lists of several lengths, tensors on other devices, endless ranges.
        return np.array(type(given).__name__)


def _described(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}" if array.ndim else f"{shown(array.item())}"


def _check_sizes(a: NDArray[Any], b: NDArray[Any]) -> None:
    if a.shape != b.shape:
        raise UserError(
            f"expected two arrays of the same height and width, but came {a.shape} and {b.shape}; "
            "resize one of them to the picture"
        )


_HIGHEST = float(np.finfo(np.float32).max)
_MOST_BINS = 65_536
