"""A word's map where it and the map carried along self-attention agree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.recording.keep import WALKED
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.trace import Trace


def agreed_heatmap(trace: Trace, phrase: str | None = None, **chosen: Any) -> HeatMap:
    """The heat map of a phrase, held against the one that was carried along self-attention.

    A map says where the word acts, but its peak may lie beside the thing, or on its mirror image.
    One step along self-attention spreads the map over places that look at each other: over the
    whole thing, and over others that are like it. Where both are high the word stands. So each is
    taken from 0, where it is lowest, to 1, where it is highest, and they are multiplied.

    Args:
        trace: of a run that was recorded with `walk=1`.
        phrase: as `Trace.heatmap` takes it.
        chosen: its other arguments, but `stream`.

    Returns:
        A map with the mean and the scale of the plain one, so that its `share` is the word's; its
        places alone are no shares any more, and over all tokens they do not sum to 1.

    Raises:
        UserError: as `Trace.heatmap`; or the run was not recorded with `walk=1`.
    """
    plain = trace.heatmap(phrase, **chosen)
    carried = trace.heatmap(phrase, stream=WALKED, **chosen)
    both = _from_0_to_1(plain.array) * _from_0_to_1(carried.array)
    scale = plain.array.max() - plain.array.min()
    # The product is nowhere above the first factor, so nothing falls below the lowest share.
    return HeatMap(plain.word, plain.share + scale * (both - both.mean(dtype=np.float64)))


def _from_0_to_1(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is the same everywhere is 1: it says nothing against the other map."""
    span = array.max() - array.min()
    return (array - array.min()) / span if span > 0 else np.ones_like(array)
