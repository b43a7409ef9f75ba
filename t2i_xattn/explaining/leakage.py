"""Who moves whose region."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.traces.agreement import min_max_or_ones
from t2i_xattn.traces.heat_map import HeatMap


def leakage(effects: Sequence[HeatMap]) -> NDArray[np.float64]:
    """The matrix of `Explanation.leakage`, of one picture's effect maps."""
    count = len(effects)
    if not count:
        return np.empty((0, 0))
    scaled = np.stack([min_max_or_ones(each.array) for each in effects])
    inside = np.stack([each.mask("otsu") for each in effects])
    highest = np.where(inside, scaled, -1).argmax(axis=0)
    matrix = np.full((count, count), np.nan)
    for a, effect in enumerate(effects):
        means = []
        for b in range(count):
            region = inside[b] & (highest == b)
            means.append(effect.array[region].mean() if region.any() else np.nan)
        if means[a] and not np.isnan(means[a]):
            matrix[a] = np.array(means) / means[a]
    return matrix
