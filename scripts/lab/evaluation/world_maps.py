"""Where the maps of a prompt's words lie in the pictures painted from it, as the judge sees them.

In drawn scenes (see `maps`) the picture is the renderer's; here it is the model's own, so what each
pixel shows is what the judge's network tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from lab.evaluation.figures import Share
from lab.evaluation.ways import USUAL, chosen_ways, recorded
from lab.judge.segmenter import Segmenter, segment
from lab.scenes.world import class_names
from t2i_xattn.traces.regions import pointing_hit

CITY = "A futuristic city skyline at sunset"

CITY_WORDS: Mapping[str, tuple[str, ...]] = {
    "futuristic": ("skyline",),
    "city": ("skyline",),
    "skyline": ("skyline",),
    "city skyline": ("skyline",),
    "sunset": ("sky", "sun"),
}
"""The classes of pixels that words and a phrase of `CITY` name: its style is the buildings'."""


@dataclass(frozen=True)
class WordPeaks:
    """In how many pictures a word's map has its peak in what the word names.

    Attributes:
        inside: of all the pictures; one that shows nothing of it, as the judge sees it, is a miss.
        by_chance: what a peak at a random pixel would have, the mean area of what is named.
    """

    inside: Share
    by_chance: float


def region(classes: NDArray[np.integer], named: tuple[str, ...]) -> NDArray[np.bool_]:
    """The pixels of these classes."""
    names = class_names()
    return np.isin(classes, [names.index(each) for each in named])


def evaluate_words(
    pipe: Any,
    segmenter: Segmenter,
    prompt: str = CITY,
    words: Mapping[str, tuple[str, ...]] = CITY_WORDS,
    *,
    seeds: int = 20,
    steps: int = 25,
    guidance: float = 5.0,
    ways: Sequence[str] = USUAL,
) -> dict[str, dict[str, WordPeaks]]:
    """By way and word, in how many pictures the word's map has its peak in what it names.

    Args:
        pipe: a Stable Diffusion pipeline.
        segmenter: the judge's network.
        prompt, words: the prompt, and the classes of pixels that its words name.
        seeds: pictures, of the seeds 0, 1, 2, …
        steps, guidance: of the sampler.
        ways: how maps are made, of `WAYS`.
    """
    chosen = chosen_ways(ways)
    hits: dict[str, dict[str, list[bool]]] = {way: {word: [] for word in words} for way in chosen}
    areas: dict[str, list[float]] = {word: [] for word in words}
    for seed in tqdm(range(seeds), desc="maps of words", unit="picture", disable=None):
        with recorded(pipe, chosen) as traces:
            picture = pipe(
                prompt,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=torch.Generator().manual_seed(seed),
            ).images[0]
        classes = segment(segmenter, picture).classes
        for word, named in words.items():
            mask = region(classes, named)
            areas[word].append(float(mask.mean()))
            for name, way in chosen.items():
                heat = way.heatmap(traces[name], word, picture=picture).array
                hits[name][word].append(bool(mask.any()) and bool(pointing_hit(heat, mask)))
    return {
        way: {
            word: WordPeaks(Share.of(each), float(np.mean(areas[word])))
            for word, each in of.items()
        }
        for way, of in hits.items()
    }
