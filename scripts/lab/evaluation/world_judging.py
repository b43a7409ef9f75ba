"""How often the judge of the world is right: on rendered scenes, whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from lab.evaluation.figures import Share
from lab.evaluation.segmentation import confusion
from lab.evaluation.world_prompts import asked_of
from lab.judge.pixel_maps import PixelMaps, kinds_of_maps, true_maps
from lab.judge.segmenter import Segmenter, segment
from lab.judge.world import SeenThing, WorldJudgement, read_maps
from lab.judge.world_verdict import world_verdict
from lab.scenes import Description
from lab.scenes.world import (
    WorldScene,
    WorldThing,
    describe_world,
    draw_world,
    sample_world,
)

FIRST_SEED = 50_000_000
"""Far from the seeds of training."""

FAR = 20.0
"""Pixels. A thing whose middle is seen further off is not seen where it is."""

Look = Callable[[WorldScene], PixelMaps]


def seen_by(segmenter: Segmenter) -> Look:
    """The maps that a network sees in the picture of a scene."""
    return lambda scene: segment(segmenter, draw_world(scene))


@dataclass(frozen=True)
class Aspects:
    """In which respects one scene is judged rightly.

    Attributes:
        place, light, style: of the scene.
        things: the kinds of things and their numbers, and nothing else.
        colours, styles, sizes: of all the things, where kinds and numbers are right.
        prompt: whether the verdict on its own prompt is that all is right.
    """

    place: bool
    light: bool
    style: bool
    things: bool
    colours: bool
    styles: bool
    sizes: bool
    prompt: bool

    @property
    def all(self) -> bool:
        return all(vars(self).values())


def judged_aspects(scene: WorldScene, said: Description, judgement: WorldJudgement) -> Aspects:
    """Hold a judgement against the scene; a colour that is a thing's own counts as any."""
    pairs = _pairs(scene, judgement)
    things = pairs is not None
    known = pairs or []
    return Aspects(
        place=judgement.place == scene.place,
        light=judgement.light == scene.light,
        style=judgement.style == scene.style,
        things=things,
        colours=things and all(true.colour in (None, seen.colour) for true, seen in known),
        styles=things and all(true.style == seen.style for true, seen in known),
        sizes=things and all(true.size == seen.size for true, seen in known),
        prompt=world_verdict(judgement, asked_of(scene, said)).all_right,
    )


def _pairs(
    scene: WorldScene, judgement: WorldJudgement
) -> list[tuple[WorldThing, SeenThing]] | None:
    """Each thing with the one that is seen there; None where they are not the same in kind."""
    if len(scene.things) != len(judgement.things):
        return None
    apart = np.array(
        [
            [
                np.hypot(true.centre[0] - seen.x, true.centre[1] - seen.y)
                + (0 if true.kind == seen.kind else np.inf)
                for seen in judgement.things
            ]
            for true in scene.things
        ]
    ).reshape(len(scene.things), len(scene.things))
    try:
        rows, columns = linear_sum_assignment(apart)
    except ValueError:  # no assignment keeps the kinds
        return None
    if (apart[rows, columns] > FAR).any():
        return None
    return [(scene.things[a], judgement.things[b]) for a, b in zip(rows, columns, strict=True)]


def judge_scenes(look: Look, scenes: int = 300) -> tuple[dict[str, Share], NDArray[np.int64]]:
    """Judge rendered scenes, every other with a combination that is held out from training.

    Args:
        look: how a scene is seen: `true_maps`, to measure the reading of maps alone, or what
            `seen_by` gives of a network.
        scenes: how many.

    Returns:
        The share of scenes that are judged rightly, by aspect and in all of them, and the
        confusion of the classes of pixels; see `lab.evaluation.segmentation`.
    """
    outcomes: dict[str, list[bool]] = {}
    classes = kinds_of_maps()["classes"]
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for index in tqdm(range(scenes), desc="judging scenes", leave=False, disable=None):
        rng = np.random.default_rng(FIRST_SEED + index)
        scene = sample_world(rng, "held_out" if index % 2 else "train")
        said = describe_world(scene, rng)
        maps = look(scene)
        matrix += confusion(maps.classes, true_maps(scene).classes, classes)
        aspects = judged_aspects(scene, said, read_maps(maps))
        for name, right in {**vars(aspects), "all": aspects.all}.items():
            outcomes.setdefault(name, []).append(right)
    return {name: Share.of(each) for name, each in outcomes.items()}, matrix
