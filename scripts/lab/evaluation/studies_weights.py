"""Weights in a prompt: whether a word does more the more it weighs, by what a weight is.

Three ways, from the same noise: the embedding as compel weighs it, as diffusers' lpw pipelines do,
and the attention of the word (`edits.Reweight`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from lab.evaluation.figures import Estimate
from lab.evaluation.named_pixels import KINDS, naming_words
from lab.evaluation.reweighting import WEIGHTS, correlation, difference
from lab.evaluation.world_prompts import WorldPrompt, world_prompts
from lab.judge.segmenter import Segmenter, segment
from lab.judge.world import judge_world
from lab.judge.world_verdict import world_verdict
from t2i_xattn.conditioning.condition import condition
from t2i_xattn.editing.edit import edit
from t2i_xattn.edits.weights import Reweight
from t2i_xattn.prompts.words import phrase_spans

GUIDANCE = 5.0
STEPS = 25
ALL = "all"
WAYS = ("compel", "lpw", "attention")


@dataclass(frozen=True)
class WeightFigure:
    """What weights of a kind of word do, one way.

    Attributes:
        way: of `WAYS`.
        kind: of word.
        moved: Spearman of the weight and of how far the picture is from that of weight 0 (root mean
            square of the pixels), −1 to 1, over all of `WEIGHTS`.
        above: the same over the weights above 0.
        named: Spearman of the weight and of the pixels that are what the word names, as the judge
            sees them; 0 where they are the same at all weights.
        right: pictures at each weight that still show all that was asked for, by weight, 0 to 1.
        pixels: those that are what the word names, at each weight against those at weight 1; the
            median over words of which anything is seen at weight 1, NaN if there is none.
    """

    way: str
    kind: str
    moved: Estimate
    above: Estimate
    named: Estimate
    right: Mapping[float, float]
    pixels: Mapping[float, float]

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        means = {name: getattr(self, name).as_json() for name in ("moved", "above", "named")}
        by_weight = {
            name: {str(weight): share for weight, share in getattr(self, name).items()}
            for name in ("right", "pixels")
        }
        return {"way": self.way, "kind": self.kind, **by_weight, **means}


def evaluate_weights(
    pipe: Any, segmenter: Segmenter, prompts: int = 16, *, steps: int = STEPS
) -> list[WeightFigure]:
    """The figures of each way and kind of word, and of all kinds together.

    Args:
        pipe: a Stable Diffusion pipeline, of the world.
        segmenter: the judge's network.
        prompts: how many of the fixed ones, of two things.
        steps: of the sampler.
    """
    asked = world_prompts()["pairs"][:prompts]
    found: dict[tuple[str, str], list[_Weighted]] = {}
    words = [(prompt, word) for prompt in asked for word in naming_words(prompt)]
    with tqdm(total=len(words) * len(WAYS), desc="weights", unit="word", disable=None) as bar:
        for prompt, word in words:
            for way in WAYS:
                pictures = _painted(pipe, prompt, word.text, way, steps)
                moved = [difference(each, pictures[0]) for each in pictures]
                named = [word.pixels(segment(segmenter, each)) for each in pictures]
                right = [
                    world_verdict(judge_world(each, segmenter), prompt.asked).all_right
                    for each in pictures
                ]
                for name in (word.kind, ALL):
                    found.setdefault((way, name), []).append(_Weighted(prompt, moved, named, right))
                bar.update()
    return [_figure(way, kind, found[way, kind]) for way, kind in sorted(found, key=_order)]


@dataclass(frozen=True)
class _Weighted:
    """A word at each of `WEIGHTS`: how far the picture moved, the pixels named, what is right."""

    prompt: WorldPrompt
    moved: Sequence[float]
    named: Sequence[float]
    right: Sequence[bool]


def _figure(way: str, kind: str, words: Sequence[_Weighted]) -> WeightFigure:
    def mean(values: Sequence[float]) -> Estimate:
        # The words of one prompt are no independent cases.
        of: dict[int, list[float]] = {}
        for word, value in zip(words, values, strict=True):
            of.setdefault(word.prompt.seed, []).append(value)
        return Estimate.of(list(of.values()))

    shares = np.mean([each.right for each in words], axis=0).tolist()
    pixels = _against_plain([each.named for each in words])
    return WeightFigure(
        way,
        kind,
        moved=mean([correlation(WEIGHTS, each.moved) for each in words]),
        above=mean([correlation(WEIGHTS[1:], each.moved[1:]) for each in words]),
        named=mean([correlation(WEIGHTS, each.named) for each in words]),
        right=dict(zip(WEIGHTS, shares, strict=True)),
        pixels=dict(zip(WEIGHTS, pixels, strict=True)),
    )


def _against_plain(pixels: Sequence[Sequence[float]]) -> list[float]:
    """At each of `WEIGHTS`, the median over words of their pixels against those at weight 1."""
    plain = WEIGHTS.index(1)
    seen = [[each / row[plain] for each in row] for row in pixels if row[plain]]
    return np.median(seen, axis=0).tolist() if seen else [float("nan")] * len(WEIGHTS)


def _order(key: tuple[str, str]) -> tuple[int, int]:
    way, kind = key
    return (*KINDS, ALL).index(kind), WAYS.index(way)


def _painted(
    pipe: Any, prompt: WorldPrompt, word: str, way: str, steps: int
) -> Sequence[Image.Image]:
    """The picture at each of `WEIGHTS`, in one batch from one noise."""
    count = len(WEIGHTS)
    options: dict[str, Any] = {
        "num_inference_steps": steps,
        "guidance_scale": GUIDANCE,
        "generator": [torch.Generator().manual_seed(prompt.seed) for _ in WEIGHTS],
    }
    if way == "attention":
        edits = [
            Reweight(word, weight, images=[row])
            for row, weight in enumerate(WEIGHTS)
            if weight != 1
        ]
        with edit(pipe, *edits):
            return pipe([prompt.prompt] * count, **options).images
    ((start, stop),) = phrase_spans(prompt.prompt, word)
    before, after = prompt.prompt[:start], prompt.prompt[stop:]
    texts = [f"{before}({word}:{weight}){after}" for weight in WEIGHTS]
    given = condition(pipe, texts, way="lpw" if way == "lpw" else "compel")
    return pipe(**given, **options).images
