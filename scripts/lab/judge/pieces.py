"""Cut the pixels of one kind of thing into single things."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lab.judge.pixel_boxes import bounding_box

LEAST_SHARE = 0.0025
"""Of a picture's pixels. Less of a kind is a slip of the network: the smallest thing has more."""

BODY = 0.3
"""Pieces below this share of the largest belong to another, as the rays of a sun do."""

WITHIN = 0.5
"""A piece with so much of its box in another's is of the same thing."""

Mask = NDArray[np.bool_]
_EIGHT = np.ones((3, 3), dtype=bool)


def single_things(mask: Mask) -> list[Mask]:
    """A mask for each thing.

    Pixels that touch are one thing, of however many colours, as the wings of a plane are; so are
    pieces in one box. What is small and apart belongs to the nearest thing.

    Args:
        mask: the pixels of one kind `(height, width)`.
    """
    if mask.sum() < LEAST_SHARE * mask.size:
        return []
    pieces, count = ndimage.label(mask, _EIGHT)
    areas = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    least = max(BODY * areas.max(), LEAST_SHARE * mask.size / 2)
    bodies = _whole([pieces == index + 1 for index in np.flatnonzero(areas >= least)])
    if not bodies:
        return [mask]
    # Each other pixel goes to the nearest body.
    owner = np.zeros(mask.shape, dtype=np.intp)
    for index, body in enumerate(bodies, start=1):
        owner[body] = index
    _, nearest = ndimage.distance_transform_edt(owner == 0, return_indices=True)
    owner = owner[tuple(nearest)]
    return [mask & (owner == index) for index in range(1, len(bodies) + 1)]


def _whole(pieces: list[Mask]) -> list[Mask]:
    """Pieces whose boxes lie in one another are one thing, as a hull and its sails are."""
    whole: list[Mask] = []
    for piece in sorted(pieces, key=lambda each: -int(each.sum())):
        for index, larger in enumerate(whole):
            if _overlap(larger, piece) > WITHIN:
                whole[index] = larger | piece
                break
        else:
            whole.append(piece)
    return whole


def _overlap(first: Mask, second: Mask) -> float:
    """The part of the smaller box that lies in the other."""
    one, other = bounding_box(first), bounding_box(second)
    assert one is not None
    assert other is not None  # pieces have pixels
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    width = min(one.right, other.right) - max(one.left, other.left)
    areas = [(each.bottom - each.top) * (each.right - each.left) for each in (one, other)]
    return max(height, 0) * max(width, 0) / min(areas)
