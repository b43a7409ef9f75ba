"""Weights in a prompt: whether a word does more the more it weighs, by what a weight is.

Three ways, from the same noise: the embedding as compel weighs it, as diffusers' lpw pipelines do,
and the attention of the word (`edits.Reweight`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from lab.evaluation.figures import Estimate
from lab.evaluation.painted_regions import nouns
from lab.evaluation.reweighting import WEIGHTS, correlation, difference
from lab.evaluation.world_prompts import WorldPrompt, world_prompts
from lab.judge.pixel_maps import PixelMaps
from lab.judge.segmenter import Segmenter, segment
from lab.judge.world import judge_world
from lab.judge.world_verdict import world_verdict
from lab.scenes.world import class_names, world_language
from t2i_xattn.conditioning.condition import condition
from t2i_xattn.editing.edit import edit
from t2i_xattn.edits.weights import Reweight
from t2i_xattn.prompts.words import phrase_spans, word_spans

GUIDANCE = 5.0
STEPS = 25
KINDS = ("noun", "colour")
ALL = "both"
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
        named: Spearman of the weight and of the pixels of that class or colour, as the judge sees
            them.
        right: pictures at each weight that still show all that was asked for, by weight, 0 to 1.
    """

    way: str
    kind: str
    moved: Estimate
    above: Estimate
    named: Estimate
    right: Mapping[float, float]

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        means = {name: getattr(self, name).as_json() for name in ("moved", "above", "named")}
        right = {str(weight): share for weight, share in self.right.items()}
        return {"way": self.way, "kind": self.kind, "right": right, **means}


def evaluate_weights(
    pipe: Any, segmenter: Segmenter, prompts: int = 16, *, steps: int = STEPS
) -> list[WeightFigure]:
    """The figures of each way and kind of word, and of both kinds together.

    Args:
        pipe: a Stable Diffusion pipeline, of the world.
        segmenter: the judge's network.
        prompts: how many of the fixed ones, of two things.
        steps: of the sampler.
    """
    asked = world_prompts()["pairs"][:prompts]
    found: dict[tuple[str, str], list[list[float]]] = {}
    right: dict[tuple[str, str], list[list[bool]]] = {}
    words = [(prompt, kind, word) for prompt in asked for kind, word in _words(prompt)]
    with tqdm(total=len(words) * len(WAYS), desc="weights", unit="word", disable=None) as bar:
        for prompt, kind, (word, seen) in words:
            for way in WAYS:
                pictures = _painted(pipe, prompt, word, way, steps)
                named = [float(seen(segment(segmenter, each))) for each in pictures]
                moved = [difference(each, pictures[0]) for each in pictures]
                row = [
                    correlation(WEIGHTS, moved),
                    correlation(WEIGHTS[1:], moved[1:]),
                    correlation(WEIGHTS, named),
                ]
                verdicts = [
                    world_verdict(judge_world(each, segmenter), prompt.asked).all_right
                    for each in pictures
                ]
                for name in (kind, ALL):
                    found.setdefault((way, name), []).append(row)
                    right.setdefault((way, name), []).append(verdicts)
                bar.update()
    figures = []
    for (way, kind), rows in sorted(found.items(), key=lambda each: _order(*each[0])):
        columns = [Estimate.of([[e] for e in one]) for one in zip(*rows, strict=True)]
        shares = np.mean(right[way, kind], axis=0).tolist()
        shown = dict(zip(WEIGHTS, shares, strict=True))
        figures.append(WeightFigure(way, kind, columns[0], columns[1], columns[2], shown))
    return figures


def _order(way: str, kind: str) -> tuple[int, int]:
    return (*KINDS, ALL).index(kind), WAYS.index(way)


Seen = Callable[[PixelMaps], int]


def _pixels(of: str, number: int, maps: PixelMaps) -> int:
    return int((getattr(maps, of) == number).sum())


def _words(prompt: WorldPrompt) -> list[tuple[str, tuple[str, Seen]]]:
    """A noun and a colour word of a prompt, each standing there once, with what is counted."""
    words = [prompt.prompt[a:b] for a, b in word_spans(prompt.prompt)]
    found: list[tuple[str, tuple[str, Seen]]] = []
    for kind, noun in list(nouns(prompt, words))[:1]:
        number = class_names().index(kind)
        found.append(("noun", (noun, partial(_pixels, "classes", number))))
    colours = list(world_language().colours)
    said = [each.colour for each in prompt.asked.things if words.count(each.colour or "") == 1]
    for colour in said[:1]:
        assert colour is not None
        number = colours.index(colour)
        found.append(("colour", (colour, partial(_pixels, "colours", number))))
    return found


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
