"""The regions of words in pictures that the model painted, against what the judge sees in them.

In drawn scenes (`regions`) the truth is the renderer's and the noise is of one level. Here the
pictures are whole runs, as those of training data would be, and the truth is what the judge's
network tells, which is right in nearly all pixels of drawn scenes (`evaluate.py world-judge`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lab.evaluation.regions import DEFAULTS, RankFigure, rank_figures
from lab.evaluation.ways import chosen_ways, recorded
from lab.evaluation.world_prompts import WorldPrompt, world_prompts
from lab.judge.segmenter import Segmenter, segment
from lab.scenes.world import class_names
from lab.scenes.world.language import world_language
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.quality import Quality
from t2i_xattn.traces.regions import iou
from t2i_xattn.traces.segmentation import Regions

GROUP = "pairs"
"""Prompts of two things and where they stand."""


@dataclass(frozen=True)
class PaintedFigure:
    """Means over the things of painted pictures.

    Attributes:
        way: how maps were made, at the threshold that `Trace.regions` chooses for them.
        iou: mean IoU of a thing's region with the pixels that the judge sees of its kind.
        n: things.
        unseen: things of which the judge sees nothing, which count nowhere.
    """

    way: str
    iou: float
    n: int
    unseen: int


def evaluate_painted_regions(
    pipe: Any,
    segmenter: Segmenter,
    prompts: int = 100,
    *,
    steps: int = 25,
    guidance: float = 5.0,
) -> tuple[list[PaintedFigure], list[RankFigure]]:
    """Regions of the two things of each prompt, which compete, and how their quality orders them.

    Args:
        pipe: a Stable Diffusion pipeline, of the world.
        segmenter: the judge's network.
        prompts: how many of the fixed ones.
        steps, guidance: of the sampler.
    """
    ways, names = chosen_ways(tuple(DEFAULTS)), class_names()
    found: dict[str, list[tuple[float, Quality]]] = defaultdict(list)
    unseen = 0
    asked = world_prompts()[GROUP][:prompts]
    for prompt in tqdm(asked, desc="regions of painted things", unit="picture", disable=None):
        with recorded(pipe, ways) as traces:
            picture = pipe(
                prompt.prompt,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=torch.Generator().manual_seed(prompt.seed),
            ).images[0]
        classes = segment(segmenter, picture).classes
        things = dict(nouns(prompt, [word.text for word in next(iter(traces.values())).words]))
        masks = {kind: classes == names.index(kind) for kind in things}
        unseen += sum(not mask.any() for mask in masks.values())
        for name, way in ways.items():
            maps = [way.heatmap(traces[name], noun) for noun in things.values()]
            if not maps:
                continue
            named = [HeatMap(kind, heat.array) for kind, heat in zip(things, maps, strict=True)]
            regions = Regions.of(named, threshold=DEFAULTS[name])
            for kind, mask in masks.items():
                if mask.any():
                    found[name].append((iou(regions.mask(kind), mask), regions.quality(kind)))
    figures = [
        PaintedFigure(name, float(np.mean([fit for fit, _ in every])), len(every), unseen)
        for name, every in found.items()
    ]
    return figures, rank_figures({(name, None): every for name, every in found.items()})


def nouns(prompt: WorldPrompt, words: list[str]) -> Iterator[tuple[str, str]]:
    """Each kind of thing of a prompt and its noun there, if that is one word that stands once."""
    known = world_language().things
    for thing in prompt.asked.things:
        names = {each for name in known[thing.kind].names for each in name if each is not None}
        said = [word for word in words if word.casefold() in names]
        if len(said) == 1:
            yield thing.kind, said[0]
