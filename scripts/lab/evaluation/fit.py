"""How one heat map fits the pixels that its word names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.regions import iou, pointing_hit

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Fit:
    """How one map fits one object, each 0 to 1.

    Attributes:
        iou: of the thresholded map, `HeatMap.mask()`, with the object.
        iou_true_area: of the most attended pixels, as many as the object has.
        pointing: 1 if the map's peak is in the object (the pointing game).
        energy: share of the map's sum that lies in the object, values below 0 left out: the
            energy-based pointing game (Wang et al., "Score-CAM", arXiv 1910.01279).
    """

    iou: float
    iou_true_area: float
    pointing: float
    energy: float


def fit(heat: HeatMap, mask: Mask) -> Fit:
    """How a heat map fits an object's mask `(height, width)`."""
    area = int(mask.sum())
    order = np.argpartition(heat.array.ravel(), -area)[-area:]
    densest = np.zeros(mask.size, dtype=bool)
    densest[order] = True
    positive = heat.array.clip(min=0).astype(np.float64)
    total = float(positive.sum())
    return Fit(
        iou=iou(heat.mask(), mask),
        iou_true_area=iou(densest.reshape(mask.shape), mask),
        pointing=float(pointing_hit(heat.array, mask)),
        energy=float(positive[mask].sum() / total) if total else 0.0,
    )


def uniform_fit(mask: Mask) -> Fit:
    """What is to be expected of a map that knows nothing, for an object of share a.

    The whole picture as mask has IoU a; as many random pixels as the object has overlap with it in
    a² of the picture, which is an IoU of a / (2 − a); a random peak is inside with probability a,
    and so much of the sum.
    """
    share = float(mask.mean())
    return Fit(share, share / (2 - share), share, share)
