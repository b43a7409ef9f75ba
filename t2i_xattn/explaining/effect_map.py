"""An effect map: where the picture's making changes when a word is taken away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.aggregation import resized
from t2i_xattn.explaining.effects import EffectSums
from t2i_xattn.traces.agreement import min_max_or_ones
from t2i_xattn.traces.heat_map import HeatMap

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class EffectMap(HeatMap):
    """One word's effect on one picture, under one intervention.

    Attributes:
        word: the word or phrase.
        array: fp32 `(height, width)` of the picture, read-only: how much the denoiser's answer for
            the prompt changes at each place when the word is taken away, as a part of the mean
            length of the answer itself; a mean over the steps that were asked about, and over the
            frames of a video.
        intervention: how it was taken away, see `Intervention`.
        others: what stood in its place, one after the other; the effect is the mean of theirs.
            None: nothing did.
        size: root of the mean square of the change, as a part of that of the answer.
        by_step: the same at each step.
        steadiness: Spearman's rank correlation of the maps of the first two of `others`, −1 to 1;
            None where there was one.
    """

    intervention: str = "text"
    others: tuple[str | None, ...] = ()
    size: float = 0.0
    by_step: tuple[float, ...] = ()
    steadiness: float | None = None

    def __repr__(self) -> str:
        height, width = self.array.shape
        return (
            f"<EffectMap of {self.word!r} by {self.intervention}: size {self.size:.3f}, "
            f"{height} × {width}>"
        )

    @property
    def share(self) -> float:
        """The mean change over the picture, as a part of the answer; no share of attention."""
        return super().share


def effect_map(
    word: str,
    intervention: str,
    others: Sequence[str | None],
    found: Sequence[EffectSums],
    size: tuple[int, int],
) -> EffectMap:
    """The effect map of what was summed over the steps.

    Args:
        word: the word or phrase.
        intervention: how it was taken away.
        others: what stood in its place.
        found: the sums with each.
        size: height and width of the picture.
    """
    places = np.stack([each.map().cpu().numpy() for each in found], axis=-1)
    maps = np.moveaxis(resized(places, size, "bilinear"), -1, 0)
    steps = zip(*(each.by_step() for each in found), strict=True)
    return EffectMap(
        word,
        np.mean(maps, axis=0),
        intervention=intervention,
        others=tuple(others),
        size=float(np.mean([each.size for each in found])),
        by_step=tuple(float(np.mean(each)) for each in steps),
        steadiness=rank_correlation(maps[0], maps[1]) if len(maps) > 1 else None,
    )


def region_map(effect: HeatMap, attention: HeatMap, image: Image.Image) -> HeatMap:
    """Where a word acts: where its effect is, and the more the more its attention is there too.

    e · (a + 0.3), each taken from 0, where it is lowest, to 1, and brought to the edges of
    the picture (`HeatMap.sharpened`). An effect spreads beyond the thing, to what is drawn in its
    place; attention is the finer, but lies elsewhere at times, which is why it does not decide.
    Chosen by measurement (docs/explanations.md). Values are for show, and no shares.
    """
    both = min_max_or_ones(effect.array) * (min_max_or_ones(attention.array) + ATTENTION_FLOOR)
    return HeatMap(effect.word, both).sharpened(image)


ATTENTION_FLOOR = 0.3
"""What an effect counts where the attention is lowest, beside 1 more where it is highest."""


def rank_correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Spearman's rank correlation of two maps, pixel by pixel; 0 where one is flat."""
    from scipy.stats import spearmanr

    if one.min() == one.max() or other.min() == other.max():
        return 0.0
    return float(spearmanr(one.ravel(), other.ravel()).statistic)
