"""The figures of segmentation as the papers define them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lab.evaluation.segmentation import class_iou, confusion, mean_iou


class Scores:
    """Pixels and precisions, summed over pictures."""

    def __init__(self, classes: int) -> None:
        self._matrix = np.zeros((classes, classes), dtype=np.int64)
        self._precisions: list[float] = []

    @property
    def matrix(self) -> NDArray[np.int64]:
        """How many pixels of each true class are seen as each `(true, seen)`."""
        return self._matrix

    @property
    def mean_average_precision(self) -> float:
        """0 to 1; NaN of nothing."""
        return float(np.mean(self._precisions)) if self._precisions else float("nan")

    @property
    def iou(self) -> NDArray[np.float64]:
        """Of each class, 0 to 1; NaN where it is neither there nor seen."""
        return class_iou(self._matrix)

    @property
    def mean_iou(self) -> float:
        """The mean over the classes that are there or seen, the background too; NaN of nothing."""
        return mean_iou(self._matrix)

    @property
    def pixel_accuracy(self) -> float:
        """The share of the pixels whose class is right; NaN of nothing."""
        total = int(self._matrix.sum())
        return float(np.trace(self._matrix) / total) if total else float("nan")


class BinaryScores(Scores):
    """Of maps of one class a picture, against the background: ImageNet-Segmentation's.

    As Chefer et al. 2021, "Transformer Interpretability Beyond Attention Visualization" (arXiv
    2012.09838), and ConceptAttention (arXiv 2502.04320) after them count: a map is brought to 0 to
    1 and cut at its mean, pixels are summed over all pictures, mIoU is the mean of the foreground's
    and the background's, and mAP is the mean over pictures of the average precision of all values
    of the map, for the foreground, and of 1 minus them, for the background, in one list.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def add(self, scaled: NDArray[np.floating], truth: NDArray[np.int64]) -> None:
        """One picture.

        Args:
            scaled: a map `(height, width)`, from 0 to 1.
            truth: 0, 1, or negative where a pixel counts nowhere.
        """
        seen = (scaled > scaled.mean()).astype(np.int64)
        self._matrix += confusion(seen, truth, 2)
        known = truth >= 0
        values, right = scaled[known], truth[known] == 1
        both = np.concatenate([1 - values, values])
        self._precisions.append(average_precision(both, np.concatenate([~right, right])))


class ClassScores(Scores):
    """Of labels of several classes: PASCAL VOC's and COCO's.

    Pixels are summed over all pictures; mIoU is the mean over the classes, the background too, of
    `|seen ∩ true| / |seen ∪ true|`, and void pixels count nowhere (Everingham et al. 2010, "The
    PASCAL Visual Object Classes Challenge"). mAP, which those tests do not have of pixels, is the
    mean over the classes of all pictures of the average precision of the class's map.
    """

    def add(
        self,
        seen: NDArray[np.int64],
        truth: NDArray[np.int64],
        maps: Mapping[int, NDArray[np.floating]],
    ) -> None:
        """One picture.

        Args:
            seen: `(height, width)` of classes, 0 the background.
            truth: the same, negative where a pixel counts nowhere.
            maps: for each class that was asked for, its map `(height, width)`.
        """
        self._matrix += confusion(seen, truth, len(self._matrix))
        known = truth >= 0
        for number, values in maps.items():
            right = truth[known] == number
            if right.any():
                self._precisions.append(average_precision(values[known], right))


def average_precision(values: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """`Σ (Rₙ − Rₙ₋₁) Pₙ` over the values from the highest down, as scikit-learn's
    `average_precision_score` has it; equal values are one step. 0 if nothing is right."""
    order = np.argsort(-values, kind="stable")
    values, hits = values[order], np.cumsum(right[order])
    if not hits.size or not hits[-1]:
        return 0.0
    ends = np.append(np.flatnonzero(np.diff(values)), values.size - 1)
    precision, recall = hits[ends] / (ends + 1), hits[ends] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())
