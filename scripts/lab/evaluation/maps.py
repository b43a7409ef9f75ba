"""Hold heat maps of words against the pixels that the words name.

Rendered scenes are encoded, noised to a level, and passed through the denoiser once under their
own prompt (`one_pass`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from lab.evaluation.figures import Share
from lab.evaluation.one_pass import encoded_pictures, own_size, recorded_pass
from lab.evaluation.ways import USUAL, Way, chosen_ways
from lab.scenes import NamingWord, RenderedScene, render_scene
from t2i_xattn.errors import UserError
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.regions import iou, pointing_hit
from t2i_xattn.traces.trace import Trace

FIRST_SEED = 20_000_000
"""Far from the seeds of training and of the judge."""

TIMESTEPS = (200, 500, 800)

Mask = NDArray[np.bool_]
MapOf = Literal["the word", "a wrong word", "uniform"]
_NAMES = {"shape": "noun", "colour": "colour"}


@dataclass(frozen=True)
class Fit:
    """How one map fits one object: IoU of its mask, IoU at the true area, peak inside."""

    iou: float
    iou_true_area: float
    pointing: float


@dataclass(frozen=True)
class MapFigure:
    """Means over the words of one kind.

    Attributes:
        way: how the map was made, one of `WAYS`.
        kind: `"noun"` or `"colour"`: which words were looked at.
        timestep: the noise level; None: the mean of all levels.
        map_of: whose map was held against the word's object.
        iou: mean IoU of the thresholded map, `HeatMap.mask()`, with the object, 0 to 1.
        iou_true_area: the same for the most attended pixels, as many as the object has.
        pointing: share of the words whose map has its peak in the object (pointing game).
        n: how many words.
    """

    way: str
    kind: str
    timestep: int | None
    map_of: MapOf
    iou: float
    iou_true_area: float
    pointing: float
    n: int

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        values = dict(vars(self))
        if self.map_of != "uniform":  # which is an expectation, not a count
            hits = Share(round(self.pointing * self.n), self.n)
            values["pointing_wilson_95"] = list(hits.interval)
        return values


def fit(heat: HeatMap, mask: Mask) -> Fit:
    """How a heat map fits an object's mask `(height, width)`."""
    area = int(mask.sum())
    order = np.argpartition(heat.array.ravel(), -area)[-area:]
    densest = np.zeros(mask.size, dtype=bool)
    densest[order] = True
    return Fit(
        iou=iou(heat.mask(), mask),
        iou_true_area=iou(densest.reshape(mask.shape), mask),
        pointing=float(pointing_hit(heat.array, mask)),
    )


def uniform_fit(mask: Mask) -> Fit:
    """What is to be expected of a map that knows nothing, for an object of share a.

    The whole picture as mask has IoU a; as many random pixels as the object has overlap with it in
    a² of the picture, which is an IoU of a / (2 − a); a random peak is inside with probability a.
    """
    share = float(mask.mean())
    return Fit(share, share / (2 - share), share)


def evaluate_maps(
    pipe: Any,
    scenes: int = 500,
    *,
    timesteps: Sequence[int] = TIMESTEPS,
    batch: int = 25,
    ways: Sequence[str] = USUAL,
) -> list[MapFigure]:
    """Figures for nouns and colour words, by way, noise level and whose map it is.

    The wrong word of a noun is another object's noun, and of a colour word another object's
    colour. Where there is one object it is the first word that names no object, such as "a"; a
    prompt without such a word has no wrong word, so there are fewer of these.

    Args:
        pipe: a pipeline with `vae`, `unet`, `scheduler` and `encode_prompt`, such as
            `StableDiffusionPipeline`. Guidance is off.
        scenes: how many rendered scenes, from `FIRST_SEED` on.
        timesteps: the noise levels.
        batch: scenes passed at once.
        ways: how maps are made, of `WAYS`.

    Raises:
        UserError: if `scenes` or `batch` is not positive, or a way is not known.
    """
    chosen = chosen_ways(ways)
    for name, value in (("scenes", scenes), ("batch", batch)):
        if value < 1:
            raise UserError(f"expected {name} of 1 or more, but came {value}")
    size = own_size(pipe)
    fits: dict[tuple[str, str, int | None, MapOf], list[Fit]] = defaultdict(list)
    with tqdm(total=scenes, desc="maps of rendered scenes", unit="scene", disable=None) as bar:
        for start in range(0, scenes, batch):
            part = [
                render_scene(FIRST_SEED + index, size=size, split="any")
                for index in range(start, min(start + batch, scenes))
            ]
            latents = encoded_pictures(pipe, [scene.image for scene in part])
            for timestep in timesteps:
                traces = _recorded(pipe, part, latents, timestep, FIRST_SEED + start, chosen)
                for (way, kind, map_of), each in _fits(traces, chosen, part):
                    fits[way, kind, timestep, map_of].append(each)
                    fits[way, kind, None, map_of].append(each)
            bar.update(len(part))
    return [
        MapFigure(
            *key,
            iou=float(np.mean([each.iou for each in every])),
            iou_true_area=float(np.mean([each.iou_true_area for each in every])),
            pointing=float(np.mean([each.pointing for each in every])),
            n=len(every),
        )
        for key, every in fits.items()
    ]


def _recorded(
    pipe: Any,
    scenes: Sequence[RenderedScene],
    latents: Tensor,
    timestep: int,
    seed: int,
    ways: Mapping[str, Way],
) -> dict[str, Trace]:
    """For each way, the trace of one pass of the denoiser over the noised latents."""
    prompts = [scene.prompt for scene in scenes]
    return recorded_pass(pipe, prompts, latents, timestep, seed, ways)


def _fits(
    traces: Mapping[str, Trace], ways: Mapping[str, Way], scenes: Sequence[RenderedScene]
) -> Iterable[tuple[tuple[str, str, MapOf], Fit]]:
    """`(way, kind, whose map)` and the fit, for each noun and colour word of the scenes."""
    for image, scene in enumerate(scenes):
        words = scene.description.words
        for name, way in ways.items():
            trace = traces[name]
            columns = {word.start: word.columns for word in trace.words_of(image)}
            maps = {
                word.start: way.heatmap(trace, columns[word.start], image)
                for word in words
                if columns[word.start]
            }
            for word, mask in zip(words, scene.masks, strict=True):
                if word.kind not in _NAMES or word.start not in maps or not mask.any():
                    continue
                kind = _NAMES[word.kind]
                yield (name, kind, "the word"), fit(maps[word.start], mask)
                yield (name, kind, "uniform"), uniform_fit(mask)
                wrong = _wrong_word(word, words)
                if wrong is not None and wrong.start in maps:
                    yield (name, kind, "a wrong word"), fit(maps[wrong.start], mask)


def _wrong_word(word: NamingWord, words: Sequence[NamingWord]) -> NamingWord | None:
    """See `evaluate_maps`."""
    others = [each for each in words if each.kind == word.kind and each.objects != word.objects]
    neutral = [each for each in words if not each.objects]
    return next(iter(others or neutral), None)
