"""Pictures as prompts: is what they show taken over, and do their maps point at it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import t2i_xattn as tx
from lab.evaluation.figures import Mean, Share
from lab.judge.pixel_boxes import Box
from lab.judge.segmenter import Segmenter
from lab.judge.world import WorldJudgement, judge_world
from lab.judge.world_verdict import AskedThings, AskedWorld, WorldVerdict, world_verdict
from lab.scenes.layout import Split
from lab.scenes.world import WorldScene, describe_world, draw_world, sample_world, world_language
from lab.training.picture_prompts.drawn import place_alone
from t2i_xattn.conditioning.picture_tokens import PictureTokens

FIRST_SEED = 70_000_000
"""Far from the seeds of training."""

WAYS = ("text", "separate", "concatenated")
TASKS = ("alone", "elsewhere")


@dataclass(frozen=True, eq=False)
class Case:
    """A drawn picture of one coloured thing, and another place for it.

    Attributes:
        picture: as drawn, of a scene that training has not seen.
        own, other: what the picture shows, and the same thing in another place and light.
        full: wordings of both, as the text alone has to say them.
        place: a wording of the other place, without the thing.
        seed: of the noise.
    """

    picture: Image.Image
    own: AskedWorld
    other: AskedWorld
    full: tuple[str, str]
    place: str
    seed: int


def picture_cases(count: int, split: Split = "train") -> list[Case]:
    """Cases of a split of the language, each a function of its number."""
    found = []
    for number in range(count):
        rng = np.random.default_rng([FIRST_SEED, number, split == "held_out"])
        scene = _coloured_thing(rng, split)
        one = scene.things[0]
        while True:
            other = sample_world(rng, "any")
            same = len(other.things) == 1 and other.things[0].kind == one.kind
            if same and other.place != scene.place:
                break
        # The thing of the picture in the place of the other scene.
        there = WorldScene(**{**vars(other), "things": (one,)})
        said = describe_world(scene, rng), describe_world(there, rng)
        own, elsewhere = (
            AskedWorld((_thing(one),), None, each.place, each.light) for each in (scene, there)
        )
        full = (said[0].prompt, said[1].prompt)
        place = place_alone(other, rng)
        found.append(Case(draw_world(scene), own, elsewhere, full, place, 5000 + number))
    return found


def _coloured_thing(rng: np.random.Generator, split: Split) -> WorldScene:
    while True:
        scene = sample_world(rng, split)
        if len(scene.things) != 1 or scene.things[0].colour is None:
            continue
        # Fish are in a reef, and nowhere else.
        if len(world_language().things[scene.things[0].kind].places) > 1:
            return scene


def _thing(one: Any) -> AskedThings:
    return AskedThings(one.kind, 1, one.colour, one.style)


@dataclass
class PictureFigures:
    """The outcomes of a way in a task.

    Attributes:
        verdicts: on each picture.
        peaks: whether the map of the picture's part has its highest place in the box of the thing.
        areas: of these boxes, as shares of the picture: what chance would give.
        parts: of what all places take, the picture's.
        by_site: the same, by site.
    """

    verdicts: list[WorldVerdict] = field(default_factory=list)
    peaks: list[bool] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    parts: list[float] = field(default_factory=list)
    by_site: dict[str, list[float]] = field(default_factory=dict)

    @property
    def shares(self) -> dict[str, Share]:
        """By what is right: `object`: the picture's thing is there in its colour; `once`: and no
        other like it; `object and place`: it is there, in the place that was asked for."""
        thing = [each.things[0] for each in self.verdicts]
        place = [bool(each.place) for each in self.verdicts]
        return {
            "object": Share.of(thing),
            "once": Share.of(a and v.counts[0] for a, v in zip(thing, self.verdicts, strict=True)),
            "kind": Share.of(each.kinds[0] for each in self.verdicts),
            "place": Share.of(place),
            "light": Share.of(bool(each.light) for each in self.verdicts),
            "object and place": Share.of(a and b for a, b in zip(thing, place, strict=True)),
            "peak inside": Share.of(self.peaks),
        }

    def as_json(self) -> dict[str, Any]:
        return {
            **{name: share.as_json() for name, share in self.shares.items()},
            "area of the boxes": Mean.of(self.areas).as_json(),
            "part of the picture": Mean.of(self.parts).as_json(),
            "by site": {name: Mean.of(each).as_json() for name, each in self.by_site.items()},
        }


def evaluate_pictures(
    separate: Any,
    plain: Any,
    tokens: PictureTokens,
    segmenter: Segmenter,
    cases: Sequence[Case],
    ways: Sequence[str] = WAYS,
    *,
    steps: int = 20,
    guidance: float = 5.0,
    batch: int = 10,
    keep: Any = None,
) -> Iterator[dict[tuple[str, str], PictureFigures]]:
    """The figures by task and way, after each batch.

    Args:
        separate: the pipeline with an IP-Adapter.
        plain: the same without.
        tokens: of pictures, for the text's sequence.
        segmenter: the judge's network.
        cases: what is painted.
        ways: `"text"` (all is said, no picture is given), `"separate"`, `"concatenated"`.
        steps, guidance, batch: of the sampler.
        keep: called with the task, the way, the number of the case, and its picture.
    """
    found = {(task, way): PictureFigures() for task in TASKS for way in ways}
    # diffusers gives every prompt of a batch all the pictures of an IP-Adapter.
    size = {way: 1 if way == "separate" else batch for way in ways}
    turns = [
        (start + first, task, way)
        for start in range(0, len(cases), batch)
        for task, way in found
        for first in range(0, min(batch, len(cases) - start), size[way])
    ]
    for start, task, way in tqdm(turns, "painting", disable=None):
        part = cases[start : start + size[way]]
        pipe = separate if way == "separate" else plain
        arguments = _arguments(pipe, tokens, part, task, way)
        noise = [torch.Generator().manual_seed(case.seed) for case in part]
        with tx.record(pipe, modalities=True) as trace:
            pictures = pipe(
                num_inference_steps=steps, guidance_scale=guidance, generator=noise, **arguments
            ).images
        for number, (case, picture) in enumerate(zip(part, pictures, strict=True)):
            seen = judge_world(picture, segmenter)
            figures = found[task, way]
            asked = case.own if task == "alone" else case.other
            figures.verdicts.append(world_verdict(seen, asked))
            if way != "text":
                _take_maps(figures, trace, number, seen, asked, picture.size)
            if keep is not None:
                keep(task, way, start + number, picture)
        yield found


def _arguments(
    pipe: Any, tokens: PictureTokens, part: Sequence[Case], task: str, way: str
) -> dict[str, Any]:
    if way == "text":
        return {"prompt": [case.full[task == "elsewhere"] for case in part]}
    texts = ["" if task == "alone" else case.place for case in part]
    pictures = [case.picture for case in part]
    if way == "concatenated":
        return dict(tx.condition(pipe, texts, "", picture=pictures, picture_tokens=tokens))
    (picture,) = pictures
    return {"prompt": texts, "ip_adapter_image": picture}


def _take_maps(
    figures: PictureFigures,
    trace: tx.Trace,
    image: int,
    seen: WorldJudgement,
    asked: AskedWorld,
    size: tuple[int, int],
) -> None:
    of_text, of_picture = (
        trace.heatmap(columns=[0], stream=f"given by {each}", image=image).array
        for each in ("text", "picture 1")
    )
    figures.parts.append(trace.modalities(image=image)["picture 1"])
    for site in trace.sites:
        part = trace.modalities(image=image, sites=[site.name])["picture 1"]
        figures.by_site.setdefault(site.name, []).append(part)
    box = next((each.box for each in seen.things if each.kind == asked.things[0].kind), None)
    if box is None:
        return
    share = of_picture / (of_text + of_picture)
    row, column = np.unravel_index(int(share.argmax()), share.shape)
    figures.peaks.append(_inside(box, int(column), int(row)))
    figures.areas.append((box.right - box.left) * (box.bottom - box.top) / (size[0] * size[1]))


def _inside(box: Box, x: int, y: int) -> bool:
    return box.left <= x < box.right and box.top <= y < box.bottom
