"""The scenes of the first language: coloured shapes on plain grounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from lab.scenes import (
    Description,
    Scene,
    describe,
    draw_scene,
    language,
    object_masks,
    sample_scene,
)
from lab.scenes.layout import SIDE, Split
from lab.scenes.wording import NamingWord
from lab.training.sources.quiz import PLACES, SIDES, UNSAID, Answer, Labels, Quiz
from lab.training.sources.source import NOTHING, StyledNouns


class ShapeScenes:
    """A source of the first language's scenes."""

    title = "Coloured shapes, 128 × 128"
    about = (
        "8 colours × 8 shapes, one to three objects, three sizes, six plain grounds, and the\n"
        "relations left of, right of, above and below."
    )
    example = "a red circle left of a blue square"

    def held_out(self) -> str:
        words = language()
        objects = ", ".join(sorted(f"{colour} {shape}" for colour, shape in words.held_out_objects))
        pairs = ", ".join(sorted(" with ".join(sorted(pair)) for pair in words.held_out_pairs))
        return f"{objects}; the pairs {pairs}"

    def vocabulary(self) -> list[str]:
        return language().vocabulary()

    def draw(self, rng: np.random.Generator, split: Split = "train") -> Scene:
        return sample_scene(rng, split=split)

    def picture(self, scene: Scene, size: int = SIDE) -> Image.Image:
        return draw_scene(scene, size)

    def describe(self, scene: Scene, rng: np.random.Generator, stray: float) -> Description:
        return describe(scene, rng, stray=stray)

    def nouns(
        self, scene: Scene, said: Description, side: int
    ) -> list[tuple[NamingWord, np.ndarray]]:
        masks = object_masks(scene, side)
        return [(word, masks[word.objects[0]]) for word in said.words if word.kind == "shape"]

    def pixel_values(self) -> tuple[int, ...]:
        words = language()
        return len(words.shapes) + len(words.grounds), len(words.colours)

    def pixel_labels(self, scene: Scene, side: int) -> np.ndarray:
        """The shape, or the ground, and the colour of the shape."""
        words = language()
        shapes, grounds, colours = list(words.shapes), list(words.grounds), list(words.colours)
        labels = np.full((2, side, side), NOTHING, dtype=np.uint8)
        labels[0] = len(shapes) + grounds.index(scene.ground)
        for each, mask in zip(scene.objects, object_masks(scene, side), strict=True):
            labels[0][mask], labels[1][mask] = (
                shapes.index(each.shape),
                colours.index(each.colour),
            )
        return labels

    def quiz(self) -> Quiz:
        """By colour and by shape: is it there, what is its shape or colour, how large, where?

        Then the ground, and the colour of what the prompt puts furthest out on each side.
        """
        words = language()
        colours, shapes = len(words.colours), len(words.shapes)
        return Quiz(
            groups={"colour or shape": colours + shapes, "ground": 1, "side": len(SIDES)},
            answers={
                "present": Answer("colour or shape", 1),
                "partner": Answer("colour or shape", max(colours, shapes)),
                "size": Answer("colour or shape", len(words.radii)),
                "column": Answer("colour or shape", PLACES),
                "row": Answer("colour or shape", PLACES),
                "ground": Answer("ground", len(words.grounds)),
                "outermost": Answer("side", colours, weight=2.0),
            },
        )

    def telling(
        self, rng: np.random.Generator, count: int, stray: float
    ) -> tuple[list[Scene], list[Description]]:
        objects = rng.choice([1, 2, 3], p=[0.1, 0.75, 0.15], size=count)
        scenes = [sample_scene(rng, int(each)) for each in objects]
        return scenes, [describe(scene, rng, relation=True, stray=stray) for scene in scenes]

    def labels(self, scenes: Sequence[Scene], said: Sequence[Description]) -> Labels:
        words = language()
        colours, shapes = list(words.colours), list(words.shapes)
        sizes, grounds = list(words.radii), list(words.grounds)
        count = torch.zeros(len(scenes), len(colours) + len(shapes), dtype=torch.long)
        asked = {name: torch.zeros_like(count) for name in ("partner", "size", "column", "row")}
        outermost = torch.full((len(scenes), len(SIDES)), UNSAID)
        for index, (scene, description) in enumerate(zip(scenes, said, strict=True)):
            for each in scene.objects:
                colour, shape = colours.index(each.colour), shapes.index(each.shape)
                for question, partner in ((colour, shape), (len(colours) + shape, colour)):
                    count[index, question] += 1
                    asked["partner"][index, question] = partner
                    asked["size"][index, question] = sizes.index(each.size)
                    asked["column"][index, question] = int(each.x / SIDE * PLACES)
                    asked["row"][index, question] = int(each.y / SIDE * PLACES)
            # Of three objects the third may lie further out.
            if description.relation is None or len(scene.objects) != 2:
                continue
            first, relation, second = description.relation
            inverse = words.relations[relation].inverse
            for side, chosen in ((relation, first), (inverse, second)):
                colour = colours.index(scene.objects[chosen].colour)
                outermost[index, SIDES.index(side)] = colour
        # What several objects share says nothing of any one of them.
        labels = {name: each.masked_fill(count != 1, UNSAID) for name, each in asked.items()}
        ground = torch.tensor([[grounds.index(scene.ground)] for scene in scenes])
        present = (count > 0).long()
        return {"present": present, **labels, "ground": ground, "outermost": outermost}

    def styled_nouns(self) -> StyledNouns | None:
        return None
