"""How well the classes of pixels are told: intersection over union of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def confusion(
    seen: NDArray[np.integer], truth: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """How many pixels of each true class are seen as each `(true, seen)`.

    Pixels whose truth is negative count nowhere. Matrices of several pictures are summed.

    Args:
        seen, truth: numbers of classes, of one shape.
        classes: how many there are.
    """
    told = truth >= 0
    pairs = truth[told].astype(np.int64) * classes + seen[told]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_iou(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """`|seen ∩ true| / |seen ∪ true|` of each class; NaN where it is neither there nor seen."""
    both = np.diag(matrix).astype(float)
    either = matrix.sum(axis=0) + matrix.sum(axis=1) - both
    with np.errstate(invalid="ignore"):
        return both / either


def mean_iou(matrix: NDArray[np.int64]) -> float:
    """Mean IoU of the classes that are there or seen; NaN of nothing."""
    known = class_iou(matrix)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else float("nan")
