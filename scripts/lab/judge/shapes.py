"""Name the shape of a mask: the drawn outline that covers it best."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from lab.judge.colours import UNCLEAR
from lab.scenes.drawing import outline
from lab.scenes.language import language

LEAST_IOU = 0.72
"""A mask that fits no outline better is of an unclear shape."""

LEAST_LEAD = 0.03
"""So is one whose second best outline fits nearly as well.

Both found by trial on rendered objects warped more and more: of those bent so far that a person
hesitates (waves of 2 pixels), 89 % are named rightly, 0.5 % wrongly, and the rest unclear.
"""

_GRID = 48  # samples on each side of the normalised window
_HALF = 1.25  # half the window's width, in units of the square root of the shape's area
_FINE = 4  # the templates are drawn so many times finer, then averaged

# How far an object may be from the drawn outline: squeezed, larger, moved (in window units).
_ASPECTS = (0.85, 0.93, 1.0, 1.08, 1.18)
_SCALES = (0.94, 1.0, 1.07)
_SHIFTS = (-0.05, 0.0, 0.05)


def name_shape(mask: NDArray[np.bool_]) -> tuple[str, float]:
    """The shape's name and its IoU, 0 to 1, with the best fitting outline.

    The mask is brought to a common centre of gravity and area, and held against every outline,
    squeezed by up to 18 %, scaled by up to 7 % and moved a little. Outlines stand upright.

    Args:
        mask: the object's pixels, bool `(height, width)`, not empty.

    Returns:
        `"unclear"` and the best IoU where that is below `LEAST_IOU`, or not `LEAST_LEAD` above
        that of every other shape.
    """
    templates, areas = _templates()
    window = _normalised(mask).ravel()
    both = templates @ window
    names = list(language().shapes)
    scores = (both / (areas + window.sum() - both)).reshape(len(names), -1).max(axis=1)
    second, best = scores.argsort()[-2:]
    clear = scores[best] >= LEAST_IOU and scores[best] - scores[second] >= LEAST_LEAD
    return (names[best] if clear else UNCLEAR), float(scores[best])


def _normalised(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The mask in the window: centre of gravity in the middle, area 1. Values 0 or 1."""
    rows, columns = np.nonzero(mask)
    scale = np.sqrt(rows.size)
    axis = (np.arange(_GRID) + 0.5) / _GRID * 2 * _HALF - _HALF
    where = np.meshgrid(
        axis * scale + rows.mean(), axis * scale + columns.mean(), indexing="ij", sparse=False
    )
    values = ndimage.map_coordinates(mask.astype(np.float32), where, order=1)
    return (values >= 0.5).astype(np.float32)


@cache
def _templates() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Windows `(templates, _GRID²)`, as many for each shape in turn, and their areas."""
    windows = []
    for shape in language().shapes:
        corners = outline(shape)
        x, y = corners[:, 0], corners[:, 1]
        # The shoelace formula: signed area and centre of gravity of a polygon.
        cross = x * np.roll(y, -1) - np.roll(x, -1) * y
        area = cross.sum() / 2
        centre = [((v + np.roll(v, -1)) * cross).sum() / (6 * area) for v in (x, y)]
        unit = (corners - centre) / np.sqrt(abs(area))
        for aspect, scale, dx, dy in product(_ASPECTS, _SCALES, _SHIFTS, _SHIFTS):
            stretch = np.array([np.sqrt(aspect), 1 / np.sqrt(aspect)])
            windows.append(_drawn(unit * stretch * scale + np.array([dx, dy])))
    templates = np.stack(windows).reshape(len(windows), -1)
    return templates, templates.sum(axis=1)


def _drawn(corners: NDArray[np.float64]) -> NDArray[np.float32]:
    """A polygon `(n, 2)` in window units as a window `(_GRID, _GRID)` of 0 and 1."""
    side = _GRID * _FINE
    points = (corners + _HALF) / (2 * _HALF) * side - 0.5
    picture = Image.new("L", (side, side), 0)
    ImageDraw.Draw(picture).polygon([(float(x), float(y)) for x, y in points], fill=255)
    small = picture.resize((_GRID, _GRID), Image.Resampling.BOX)
    return (np.asarray(small) >= 128).astype(np.float32)
