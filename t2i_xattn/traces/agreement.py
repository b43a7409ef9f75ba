"""A word's map where it and the map carried along self-attention agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatMap = NDArray[np.float32]


def agreed(plain: FloatMap, carried: FloatMap) -> FloatMap:
    """A map, held against the one that was carried along self-attention.

    A map says where the word acts, but its peak may lie beside the thing, or on its mirror image.
    One step along self-attention spreads the map over places that look at each other: over the
    whole thing, and over others that are like it. Where both are high the word stands. So each is
    taken from 0, where it is lowest, to 1, where it is highest, and they are multiplied.

    Args:
        plain, carried: `(height, width)`, shares of attention.

    Returns:
        A map with the mean and the scale of the plain one, so that its mean is the word's share;
        its places alone are no shares any more, and over all tokens they do not sum to 1.
    """
    both = min_max_or_ones(plain) * min_max_or_ones(carried)
    scale, share = plain.max() - plain.min(), float(plain.mean(dtype=np.float64))
    # The product is nowhere above the first factor, so nothing falls below the lowest share.
    return np.asarray(share + scale * (both - both.mean(dtype=np.float64)), dtype=np.float32)


def min_max_or_ones(array: FloatMap) -> FloatMap:
    """A map from 0 at its lowest place to 1 at its highest.

    What is the same everywhere is 1: as a factor it says nothing against another map.
    """
    span = array.max() - array.min()
    return (array - array.min()) / span if span > 0 else np.ones_like(array)
