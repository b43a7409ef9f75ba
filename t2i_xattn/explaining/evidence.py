"""What speaks for a word's region, and against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from t2i_xattn.explaining.effect_map import EffectMap, rank_correlation, region_map
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.regions import iou

if TYPE_CHECKING:
    from PIL import Image

Grade = Literal["trust", "doubt", "nothing"]
"""How far to trust where a word is said to act; see `explaining.trust`."""

ABOVE = 2.0
"""How many times the placebo's size an effect must have to count as one."""

LEAST = 0.02
"""The least change, as a part of the denoiser's answer, that counts as an effect."""

_NAMED: tuple[str, ...] = ("text", "embedding", "attention")
"""Interventions that may find a word, in the order in which they are named."""


class Interval(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: of the seeds.
        low, high: of its 95 % bootstrap interval; None of a single seed.
        n: seeds.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


class Evidence(NamedTuple):
    """What speaks for a word's region, and against it: means over the pictures.

    Attributes:
        found_by: the intervention with the largest effect; None where none has one that is larger
            than the placebo's (`ABOVE` times) and than `LEAST`.
        size: of that effect, or of the largest there is.
        above_floor: the same as a multiple of the placebo's; None without one.
        rank_correlation: of the attention map with the effect map, Spearman's, −1 to 1.
        iou: of their regions by Otsu's threshold, 0 to 1.
        area: of the word's region, as a part of the picture.
        steadiness: of its effect, see `EffectMap`; None where one word stood in its place alone.
        attention_effect: the effect of hiding the word's keys, as a part of the largest; None if
            it was not asked for.
    """

    found_by: str | None
    size: float
    above_floor: float | None
    rank_correlation: float
    iou: float
    area: float
    steadiness: float | None
    attention_effect: float | None


def interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean and 95 % bootstrap interval (percentiles of 1,000 resamples)."""
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        return Interval(float(array.mean()), None, None, array.size)
    from scipy.stats import bootstrap

    found = bootstrap(
        (array,), np.mean, n_resamples=1000, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Interval(float(array.mean()), float(found.low), float(found.high), array.size)


def evidence(
    attention: Sequence[HeatMap],
    effects: Sequence[Mapping[str, EffectMap]],
    images: Sequence[Image.Image],
) -> Evidence:
    """The evidence on one word.

    Args:
        attention: its heat map in each picture.
        effects: by intervention, its effect maps in each picture.
        images: the pictures.
    """
    sizes = {name: _mean([each[name].size for each in effects]) for name in effects[0]}
    floor = sizes.pop("placebo", None)
    among = {name: sizes[name] for name in _NAMED if name in sizes} or sizes
    largest = max(among, key=lambda name: among[name])
    size = among[largest]
    real = size > LEAST and (floor is None or size > ABOVE * floor)
    chosen = [each[largest] for each in effects]
    pairs = list(zip(attention, chosen, strict=True))
    steady = [each.steadiness for each in chosen if each.steadiness is not None]
    regions = [
        region_map(effect, looked, image)
        for effect, looked, image in zip(chosen, attention, images, strict=True)
    ]
    part = None
    if "attention" in sizes:
        part = sizes["attention"] / max(size, np.finfo(float).tiny)
    return Evidence(
        found_by=largest if real else None,
        size=size,
        above_floor=None if floor is None else size / max(floor, np.finfo(float).tiny),
        rank_correlation=_mean([rank_correlation(one.array, other.array) for one, other in pairs]),
        iou=_mean([iou(one.mask("otsu"), other.mask("otsu")) for one, other in pairs]),
        area=_mean([float(each.mask("otsu").mean()) for each in regions]),
        steadiness=_mean(steady) if steady else None,
        attention_effect=part,
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
