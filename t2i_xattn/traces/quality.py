"""How far a region is to be believed, told from the maps alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.traces.competing import connected_parts, labels_of
from t2i_xattn.traces.regions import iou

NUDGE = 0.1
"""How far the thresholds are moved for the stability of a region."""


@dataclass(frozen=True)
class Quality:
    """What a word's region looks like, and how far it is to be believed.

    All are 0 to 1, and 0 for a word without a region.

    Attributes:
        word: whose region it is.
        area: its share of the picture.
        overlap: the share of the places where the word's map reaches its threshold at which
            another's does too, a word's or one's of the background.
        margin: how far the map stands above the second, the mean over the region, as a part of
            what is possible: the second is the highest other map, or the word's own threshold.
        stability: IoU of the region with all thresholds 0.1 lower and with all 0.1 higher. With
            another way to move the threshold it is the stability score of Kirillov et al. 2023,
            "Segment Anything" (arXiv 2304.02643).
        largest: the share of the region that its largest connected part has.
        estimate: margin × stability × largest. It orders regions: those with a higher one fit
            better, more often than not; it is no IoU and no probability. How well it orders is
            measured by `scripts/evaluate.py regions`; see docs/regions.md.
    """

    word: str
    area: float
    overlap: float
    margin: float
    stability: float
    largest: float
    estimate: float


def qualities_of(
    words: Sequence[str],
    labels: NDArray[np.uint8],
    maps: NDArray[np.float32],
    cuts: Sequence[float],
) -> tuple[Quality, ...]:
    """The quality of every word's region, in the order of the words.

    Args:
        words: whose maps come first.
        labels: `(height, width)`; see `Regions`.
        maps: `(words and background, height, width)`, each from 0 to 1.
        cuts: for each map, its threshold.
    """
    lower = labels_of(maps, [max(cut - NUDGE, 0.0) for cut in cuts], len(words))
    higher = labels_of(maps, [cut + NUDGE for cut in cuts], len(words))
    levels = np.asarray(cuts, dtype=np.float32)[:, None, None]
    claims = ((maps >= levels) & (maps > 0)).sum(axis=0)
    found = []
    for index, word in enumerate(words):
        region = labels == index + 1
        area = int(region.sum())
        if not area:
            found.append(Quality(word, 0.0, _overlap(maps, levels, index, claims), *[0.0] * 4))
            continue
        others = np.delete(maps, index, axis=0)[:, region]
        second = np.maximum(others.max(axis=0, initial=0), np.float32(cuts[index]))
        room = max(1.0 - cuts[index], 1e-6)
        margin = float(np.clip((maps[index][region] - second).mean(dtype=np.float64) / room, 0, 1))
        stability = iou(lower == index + 1, higher == index + 1)
        _, sizes = connected_parts(region)
        largest = float(sizes[1:].max() / area)
        found.append(
            Quality(
                word,
                area / labels.size,
                _overlap(maps, levels, index, claims),
                margin,
                stability,
                largest,
                margin * stability * largest,
            )
        )
    return tuple(found)


def _overlap(
    maps: NDArray[np.float32],
    levels: NDArray[np.float32],
    index: int,
    claims: NDArray[np.int64],
) -> float:
    own = (maps[index] >= levels[index]) & (maps[index] > 0)
    return float((claims[own] > 1).mean()) if own.any() else 0.0
