"""Hold the regions of nouns that compete against the objects of drawn scenes, and ask whether the
estimate of their quality tells the good ones from the bad."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from tqdm import tqdm

from lab.evaluation.drawn import TIMESTEPS
from lab.evaluation.one_pass import encoded_pictures, own_size, recorded_pass
from lab.evaluation.segmentation import confusion
from lab.evaluation.ways import Way, chosen_ways
from lab.scenes import RenderedScene, render_scene
from t2i_xattn.errors import UserError
from t2i_xattn.traces.competing import min_max_or_zeros
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.quality import Quality
from t2i_xattn.traces.regions import Mask, iou
from t2i_xattn.traces.segmentation import VOID, Regions
from t2i_xattn.traces.trace import Trace

FIRST_SEED = 21_000_000
"""Other scenes than those by which the defaults were chosen (from 20,000,000 on)."""

WAYS = ("mean", "agreed")
THRESHOLDS: tuple[float | Literal["otsu"], ...] = (0.2, 0.3, 0.4, 0.5, 0.6, "otsu")
DEFAULTS = {"mean": 0.5, "agreed": 0.3}
"""What `Trace.regions` chooses for the maps of these ways."""

UNDECIDED = 0.1
SCALES = ("0 to 1", "over its peak", "over its norm", "its share")
"""How maps may be made comparable: Dataset Diffusion's, which `Regions` has; DiffuMask's and
DAAM's; that of Diffuse, Attend and Segment; and not at all."""

MEASURES = tuple(each.name for each in fields(Quality) if each.name != "word")


@dataclass(frozen=True)
class RegionFigure:
    """Means over the objects of drawn scenes, and over their pictures.

    Attributes:
        way: how maps were made, of `lab.evaluation.ways`.
        threshold: 0 to 1 or `"otsu"`.
        scale: how maps were made comparable, one of `SCALES`.
        undecided: see `Regions.of`.
        iou: mean IoU of a noun's region with its object; undecided places count nowhere.
        background: the same of the background, mean over pictures.
        accuracy: share of the decided pixels that have the right label.
        void: share of the pixels that are undecided.
        n: objects.
    """

    way: str
    threshold: float | str
    scale: str
    undecided: float
    iou: float
    background: float
    accuracy: float
    void: float
    n: int


@dataclass(frozen=True)
class RankFigure:
    """How a measure of quality orders regions.

    Attributes:
        way: at the threshold that `Trace.regions` chooses for it.
        timestep: the noise level; None: all.
        measure: a field of `Quality`.
        correlation: Spearman's rank correlation with the IoU, −1 to 1; None where there is no
            order.
        quarters: mean IoU of the regions by that measure, from its lowest quarter to its highest.
        n: regions.
    """

    way: str
    timestep: int | None
    measure: str
    correlation: float | None
    quarters: tuple[float | None, ...]
    n: int


def evaluate_regions(
    pipe: Any,
    scenes: int = 600,
    *,
    timesteps: Sequence[int] = TIMESTEPS,
    batch: int = 20,
) -> tuple[list[RegionFigure], list[RankFigure]]:
    """Regions by way, threshold and scale, and how well their quality orders them.

    The nouns of a scene compete, one an object, and no word is background. An object's colour does
    not take part, since maps of colours lie elsewhere too (see `maps`).

    Args:
        pipe: as for `evaluate_maps`.
        scenes: how many drawn scenes, from `FIRST_SEED` on.
        timesteps: the noise levels; means are over all.
        batch: scenes passed at once.

    Raises:
        UserError: if `scenes` or `batch` is not positive.
    """
    for name, value in (("scenes", scenes), ("batch", batch)):
        if value < 1:
            raise UserError(f"expected {name} of 1 or more, but came {value}")
    ways = chosen_ways(WAYS)
    tally: dict[tuple[str, float | str, str, float], _Tally] = defaultdict(_Tally)
    ranked: dict[tuple[str, int | None], list[tuple[float, Quality]]] = defaultdict(list)
    with tqdm(total=scenes, desc="regions of drawn scenes", unit="scene", disable=None) as bar:
        for start in range(0, scenes, batch):
            part = [
                render_scene(FIRST_SEED + index, size=own_size(pipe), split="any")
                for index in range(start, min(start + batch, scenes))
            ]
            latents = encoded_pictures(pipe, [scene.image for scene in part])
            prompts = [scene.prompt for scene in part]
            for timestep in timesteps:
                seed = FIRST_SEED + start
                traces = recorded_pass(pipe, prompts, latents, timestep, seed, ways)
                for way, maps, masks in _nouns(traces, ways, part):
                    for key, found in _variants(way, maps):
                        tally[key].add(found.labels, masks)
                    found = Regions.of(maps, threshold=DEFAULTS[way])
                    for label, mask in enumerate(masks, start=1):
                        fit = iou(found.labels == label, mask)
                        for level in (None, timestep):
                            ranked[way, level].append((fit, found.qualities[label - 1]))
            bar.update(len(part))
    return [each.figure(*key) for key, each in tally.items()], rank_figures(ranked)


def _nouns(
    traces: Mapping[str, Trace], ways: Mapping[str, Way], scenes: Sequence[RenderedScene]
) -> Iterator[tuple[str, list[HeatMap], list[Mask]]]:
    """For each way and scene, the maps of its nouns and the pixels of their objects."""
    for image, scene in enumerate(scenes):
        for name, way in ways.items():
            columns = {word.start: word.columns for word in traces[name].words_of(image)}
            named = [
                (columns[word.start], mask)
                for word, mask in zip(scene.description.words, scene.masks, strict=True)
                if word.kind == "shape" and len(word.objects) == 1 and mask.any()
            ]
            named = [(own, mask) for own, mask in named if own]
            if named:
                maps = [way.heatmap(traces[name], own, image) for own, _ in named]
                yield name, maps, [mask for _, mask in named]


def _variants(
    way: str, maps: Sequence[HeatMap]
) -> Iterator[tuple[tuple[str, float | str, str, float], Regions]]:
    for threshold in THRESHOLDS:
        yield (way, threshold, SCALES[0], 0.0), Regions.of(maps, threshold=threshold)
    usual = DEFAULTS[way]
    found = Regions.of(maps, threshold=usual, undecided=UNDECIDED)
    yield (way, usual, SCALES[0], UNDECIDED), found
    for scale in SCALES[1:]:
        yield (way, usual, scale, 0.0), _by_scale(maps, usual, scale)


def _by_scale(maps: Sequence[HeatMap], threshold: float, scale: str) -> Regions:
    """As `Regions.of`, but of the words that reach their threshold the one with the highest map of
    another scale has the place."""
    reach = np.stack([min_max_or_zeros(heat.array) >= threshold for heat in maps])
    plain = np.stack([heat.array for heat in maps]).astype(np.float64)
    sides = {"over its peak": plain.max(axis=(1, 2)), "its share": np.ones(len(plain))}
    sides["over its norm"] = np.sqrt((plain**2).sum(axis=(1, 2)))
    scaled = plain / np.maximum(sides[scale], 1e-12)[:, None, None]
    best = np.where(reach, scaled, -1).argmax(axis=0) + 1
    labels = np.where(reach.any(axis=0), best, 0).astype(np.uint8)
    names = tuple(heat.word for heat in maps)
    return Regions(names, labels, plain.astype(np.float32), (threshold,) * len(maps))


class _Tally:
    """IoUs of objects and backgrounds, and pixels, summed over pictures."""

    def __init__(self) -> None:
        self.objects: list[float] = []
        self.backgrounds: list[float] = []
        self.right = self.decided = self.void = 0

    def add(self, labels: NDArray[np.uint8], masks: Sequence[Mask]) -> None:
        truth = np.zeros(labels.shape, dtype=np.int64)
        for label, mask in enumerate(masks, start=1):
            truth[mask] = label
        known = labels != VOID
        matrix = confusion(labels[known], truth[known], len(masks) + 1)
        both = np.diag(matrix)
        either = matrix.sum(axis=0) + matrix.sum(axis=1) - both
        fits = both / np.maximum(either, 1)
        self.objects.extend(fits[1:].tolist())
        self.backgrounds.append(float(fits[0]))
        self.right += int(both.sum())
        self.decided += int(known.sum())
        self.void += int((~known).sum())

    def figure(
        self, way: str, threshold: float | str, scale: str, undecided: float
    ) -> RegionFigure:
        return RegionFigure(
            way,
            threshold,
            scale,
            undecided,
            iou=float(np.mean(self.objects)),
            background=float(np.mean(self.backgrounds)),
            accuracy=self.right / self.decided,
            void=self.void / (self.void + self.decided),
            n=len(self.objects),
        )


def rank_figures(
    groups: Mapping[tuple[str, int | None], Sequence[tuple[float, Quality]]],
) -> list[RankFigure]:
    """How each measure orders the regions of each way and noise level.

    Args:
        groups: by way and level, the IoU and the quality of each region.
    """
    found = []
    for (way, level), every in groups.items():
        fits = np.array([fit for fit, _ in every])
        values = np.array([astuple(quality)[1:] for _, quality in every])
        for index, measure in enumerate(MEASURES):
            column = values[:, index]
            # Of a measure that is the same everywhere there is no order.
            told = bool(np.ptp(column) > 0 and np.ptp(fits) > 0)
            correlation = float(spearmanr(fits, column).statistic) if told else None
            quarters = np.array_split(fits[np.argsort(column, kind="stable")], 4)
            means = tuple(float(q.mean()) if q.size else None for q in quarters)
            found.append(RankFigure(way, level, measure, correlation, means, len(every)))
    return found
