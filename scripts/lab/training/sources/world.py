"""The world's scenes, with a share of the first language's plain shapes among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from lab.judge.pixel_maps import NONE, kinds_of_maps, true_maps
from lab.scenes import Description, Scene
from lab.scenes.layout import SIDE, Split
from lab.scenes.wording import NamingWord
from lab.scenes.world import (
    WorldScene,
    describe_world,
    draw_world,
    sample_world,
    word_masks,
    world_language,
)
from lab.training.sources.quiz import Labels, Quiz
from lab.training.sources.shapes import ShapeScenes
from lab.training.sources.source import NOTHING, StyledNouns
from lab.training.sources.styled_places import styled_places
from lab.training.sources.world_quiz import world_labels, world_quiz

SHAPES_SHARE = 0.2
"""Of all scenes, those of the first language."""

SEVERAL_SHARE = 0.4
"""Of the world's scenes, those that are drawn until there are several things in them: which of
them is what colour, and where, is learned last."""

VISITS_SHARE = 0.15
"""Of the world's scenes, those in which a house or a tower stands in a village, before a city,
on a farm or in a street.
Places are made of such things, and what a style does to the one is to be learned for the other."""

PAIRS_SHARE = 0.75
"""Of the world's scenes that the text encoder is asked about, those of two groups of things."""

STYLED_SHARE = 0.6
"""Of the world's scenes that the text encoder is asked about, those in which anything may be in any
style. What is read need not be drawn: so a style comes apart from what is drawn in it."""

AnyScene = Scene | WorldScene


class WorldScenes:
    """A source of the world's scenes; those of the first language are part of its world."""

    title = "Illustrated scenes, 128 × 128"
    about = (
        "Fourteen places in five lights, over thirty kinds of things in their colours, sizes and\n"
        "numbers, old, plain and futuristic styles, the relations left of, right of, above and\n"
        "below; and 8 colours × 8 shapes on six plain grounds."
    )
    example = "a city skyline, futuristic, sunset"

    def __init__(self) -> None:
        self.shapes = ShapeScenes()

    def held_out(self) -> str:
        pairs = sorted(" with ".join(pair) for pair in world_language().held_out)
        return f"{', '.join(pairs)}; of the shapes {self.shapes.held_out()}"

    def vocabulary(self) -> list[str]:
        return sorted({*world_language().vocabulary(), *self.shapes.vocabulary()})

    def draw(self, rng: np.random.Generator, split: Split = "train") -> AnyScene:
        if rng.random() < SHAPES_SHARE:
            return self.shapes.draw(rng, split)
        visits = rng.random() < VISITS_SHARE
        several = not visits and rng.random() < SEVERAL_SHARE
        while True:
            scene = sample_world(rng, split, visits=visits)
            if several and len(scene.things) < 2:
                continue
            if split != "train" or not _against_held_out(scene):
                return scene

    def picture(self, scene: AnyScene, size: int = SIDE) -> Image.Image:
        if isinstance(scene, Scene):
            return self.shapes.picture(scene, size)
        return draw_world(scene, size)

    def describe(self, scene: AnyScene, rng: np.random.Generator, stray: float) -> Description:
        if isinstance(scene, Scene):
            return self.shapes.describe(scene, rng, stray)
        return describe_world(scene, rng, stray=stray)

    def nouns(
        self, scene: AnyScene, said: Description, side: int
    ) -> list[tuple[NamingWord, np.ndarray]]:
        """The nouns of things and of the place."""
        if isinstance(scene, Scene):
            return self.shapes.nouns(scene, said, side)
        if not said.words:  # a dropped prompt
            return []
        masks = word_masks(scene, said, side)
        named = zip(said.words, masks, strict=True)
        return [(word, mask) for word, mask in named if word.kind in ("thing", "place")]

    def pixel_values(self) -> tuple[int, ...]:
        maps, (shapes_and_grounds, _) = kinds_of_maps(), self.shapes.pixel_values()
        return maps["classes"] + shapes_and_grounds, maps["colours"], maps["styles"], maps["lights"]

    def pixel_labels(self, scene: AnyScene, side: int) -> np.ndarray:
        """Class, colour, style and light; the first language's classes come behind the world's."""
        labels = np.full((4, side, side), NOTHING, dtype=np.uint8)
        if isinstance(scene, Scene):
            # The first colours of the world are those of the first language.
            labels[:2] = self.shapes.pixel_labels(scene, side)
            labels[0] += kinds_of_maps()["classes"]
            return labels
        maps = true_maps(scene, side)
        for label, name in zip(labels, kinds_of_maps(), strict=True):
            numbers = getattr(maps, name)
            label[numbers != NONE] = numbers[numbers != NONE]
        return labels

    def quiz(self) -> Quiz:
        return world_quiz()

    def telling(
        self, rng: np.random.Generator, count: int, stray: float
    ) -> tuple[list[AnyScene], list[Description]]:
        plain = int(rng.binomial(count, SHAPES_SHARE))
        first, told = self.shapes.telling(rng, plain, stray)
        scenes: list[AnyScene] = [*first]
        while len(scenes) < count:
            pair = rng.random() < PAIRS_SHARE
            scene = sample_world(rng)
            while (len(scene.groups()) == 2) != pair:
                scene = sample_world(rng)
            scenes.append(_in_any_style(scene, rng) if rng.random() < STYLED_SHARE else scene)
        said = [self.describe(scene, rng, stray) for scene in scenes[plain:]]
        return scenes, told + said

    def labels(self, scenes: Sequence[AnyScene], said: Sequence[Description]) -> Labels:
        return world_labels(scenes, said)

    def styled_nouns(self) -> StyledNouns | None:
        return styled_places()


def _against_held_out(scene: WorldScene) -> bool:
    """Whether a thing has a style that is kept from its place.

    A plain village with a futuristic house would teach that villages stay plain where the prompt
    says futuristic, and no picture would teach the contrary.
    """
    held_out = world_language().held_out
    return any((each.style, scene.place) in held_out for each in scene.things)


def _in_any_style(scene: WorldScene, rng: np.random.Generator) -> WorldScene:
    """A scene that need not be drawn: the place and each group of things are in any style.

    What is held out stays so.
    """
    words = world_language()
    styles = [None, *words.styles]
    things = list(scene.things)
    for group in scene.groups():
        style = styles[int(rng.integers(len(styles)))]
        for index in group:
            things[index] = replace(things[index], style=style)
    style = styles[int(rng.integers(len(styles)))]
    told = replace(scene, style=style, things=tuple(things))
    return told if not words.is_held_out(told.combinations()) else replace(told, style=None)
