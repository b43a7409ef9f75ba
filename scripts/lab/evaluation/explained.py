"""Painted pictures of the world, explained: what attention and effect say of each word, and what
the word names, as the judge sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lab.judge.pixel_maps import PixelMaps
from lab.judge.segmenter import Segmenter, segment
from lab.scenes import NamingWord
from lab.scenes.world import RenderedWorld, class_names, render_world, world_language
from lab.scenes.world.layout import WorldScene
from lab.scenes.world.owners import FIRST_THING
from t2i_xattn.explaining.explain import explain
from t2i_xattn.explaining.explanation import ExplainedWord
from t2i_xattn.explaining.other_words import with_another
from t2i_xattn.explaining.run import Run
from t2i_xattn.prompts.words import phrase_spans
from t2i_xattn.traces.heat_map import HeatMap

FIRST_SEED = 52_000_000
"""Of the figures; `explaining.trust` was fitted to pictures of the seeds from 50,001,000 on."""

TRUST_SEED = 54_000_000
"""Of the pictures that the grade is held against: its limit was chosen on those of `FIRST_SEED`."""

LEAST = 0.004
"""Share of a picture that what a word names fills at least, to be counted."""

KINDS = ("colour", "thing", "light", "style", "place", "size", "count")

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ExplainedCase:
    """A word in a painted picture.

    Attributes:
        picture: number of the picture.
        kind: of the word, see `lab.scenes.wording`.
        word: what `explain` says of it.
        truth: bool `(height, width)`: what it names.
        other: the same of another thing that the prompt names; None: there is none.
        union: of the first thing of a picture: what its word names here, and what stands there in
            the picture that is painted with the other word; None of other words.
        maps: by name, maps of it.
    """

    picture: int
    kind: str
    word: ExplainedWord
    truth: Mask
    other: Mask | None
    union: Mask | None
    maps: dict[str, HeatMap]


def named_pixels(maps: PixelMaps, scene: WorldScene, word: NamingWord) -> Mask | None:
    """The pixels of a picture that a word names, as the judge sees them: of a thing's words those
    of its kind, and of its colour where there are several groups of that kind; of a place its
    parts; of a style of the place what comes in it; of a light the sky. None of other words."""
    names, world = list(class_names()), world_language()
    if word.kind == "relation":
        return None
    if word.objects:
        thing = scene.things[word.objects[0]]
        mask: Mask = maps.classes == names.index(thing.kind)
        alike = [g for g in scene.groups() if scene.things[g[0]].kind == thing.kind]
        if len(alike) > 1 and thing.colour is not None:
            mask = mask & (maps.colours == list(world.colours).index(thing.colour))
        return mask
    place = world.places[scene.place]
    parts = {"place": place.parts, "style": place.styled, "light": ("sky",)}.get(word.kind)
    if parts is None:
        return None
    return np.isin(maps.classes, [names.index(part) for part in parts])


def explained_cases(
    pipe: Any,
    segmenter: Segmenter,
    pictures: int,
    *,
    first_seed: int = FIRST_SEED,
    steps: int = 25,
    guidance: float = 5.0,
    unions: bool = True,
) -> Iterator[list[ExplainedCase]]:
    """The words of each picture, whose prompt is that of a drawn scene of the same seed.

    Args:
        pipe: a Stable Diffusion pipeline, of the world.
        segmenter: the judge's network.
        pictures: how many.
        first_seed: of the scenes and of the pictures' noise.
        steps, guidance: of the sampler.
        unions: whether the first thing's picture is painted with the other word, too.
    """
    settings: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance}
    bar = tqdm(range(pictures), desc="explained pictures", unit="picture", disable=None)
    for number in bar:
        scene = render_world(first_seed + number, split="any")
        words = _asked(scene)
        if not words:
            yield []
            continue
        found = explain(
            pipe,
            scene.prompt,
            words=[each.text for each in words],
            seeds=[first_seed + number],
            interventions=["text"],
            **settings,
        )
        (picture,) = found.pictures
        judged = segment(segmenter, picture.image)
        run = Run(pipe, scene.prompt, seed=first_seed + number, **settings)
        cases: list[ExplainedCase] = []
        for each in words:
            truth = named_pixels(judged, scene.scene, each)
            if truth is None or truth.mean() < LEAST:
                continue
            word, effects = found.word(each.text), picture.effects[each.text]
            region = found.region(each.text)
            maps = {
                "attention, plain mean": picture.trace.heatmap(each.text, stream="text"),
                "attention, agreed": picture.attention(each.text),
                "attention, sharpened": picture.attention(each.text).sharpened(picture.image),
                "effect of other words": effects["text"],
                "the same, sharpened": effects["text"].sharpened(picture.image),
                "effect of the placebo": effects["placebo"],
                "region (effect and attention)": region,
            }
            others = [w for w in words if w.objects and w.objects != each.objects]
            other = (
                named_pixels(judged, scene.scene, others[0]) if each.objects and others else None
            )
            union = None
            if (
                unions
                and each.kind == "thing"
                and not any(case.union is not None for case in cases)
            ):
                union = _union(run, segmenter, word, truth, judged)
            cases.append(ExplainedCase(number, each.kind, word, truth, other, union, maps))
        yield cases


def _asked(scene: RenderedWorld) -> list[NamingWord]:
    """The words that name something, each of which stands once."""
    texts = [word.text.casefold() for word in scene.description.words]
    return [
        word
        for word in scene.description.words
        if word.kind in KINDS and texts.count(word.text.casefold()) == 1 and word.text.isalpha()
    ]


def _union(
    run: Run, segmenter: Segmenter, word: ExplainedWord, truth: Mask, judged: PixelMaps
) -> Mask | None:
    """What a thing's word names, and what is a thing in the picture with the other word alone."""
    other = word.others[0]
    if other is None:
        return None
    text = with_another(run.prompt, phrase_spans(run.prompt, word.word), other)
    classes = segment(segmenter, run([text]).images[0]).classes
    return truth | ((classes >= FIRST_THING) & (classes != judged.classes))
