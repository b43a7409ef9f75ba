"""The scenes that pictures are drawn of, and what is to be seen in them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lab.judge.pixel_maps import kinds_of_maps
from lab.scenes import Scene
from lab.scenes.layout import SIDE, Split
from lab.scenes.world import WorldScene, describe_world
from lab.scenes.world.owners import PARTS
from lab.training.sources import WorldScenes, pixels
from lab.training.sources.world import AnyScene

GRID = 16
"""Side of the maps of what is seen where: that of the latents."""

SINGLES = 0.65
"""Share of the scenes that are drawn until there is one thing in them."""

Thing = tuple[str, str | None, str | None]
"""Kind, colour and style of a thing, by which pictures of the same thing are found."""


def thing_of(scene: AnyScene) -> Thing | None:
    """The thing of a scene that has one alone; its size and where it stands do not count."""
    if isinstance(scene, Scene):
        if len(scene.objects) != 1:
            return None
        return scene.objects[0].shape, scene.objects[0].colour, None
    if len(scene.things) != 1:
        return None
    one = scene.things[0]
    return one.kind, one.colour, one.style


def place_alone(scene: WorldScene, rng: np.random.Generator) -> str:
    """A wording of a scene's place, light and style, without a word of its things."""
    return describe_world(replace(scene, things=()), rng).prompt


@dataclass(frozen=True, eq=False)
class DrawnPictures:
    """Scenes in the order of their drawing.

    Attributes:
        scenes: what was drawn.
        pixels: uint8 `(scenes, 3, 128, 128)`.
        labels: uint8 `(scenes, 4, 16, 16)`: class, colour, style and light by place; see
            `WorldScenes.pixel_labels`.
    """

    scenes: list[AnyScene]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    @cached_property
    def same(self) -> list[NDArray[np.int64]]:
        """Scenes of one thing each, by thing: the indices of those that show the same one."""
        found: dict[Thing, list[int]] = defaultdict(list)
        for index, scene in enumerate(self.scenes):
            if isinstance(scene, WorldScene) and (thing := thing_of(scene)) is not None:
                found[thing].append(index)
        return [np.array(each) for each in found.values() if len(each) > 1]

    @cached_property
    def things(self) -> NDArray[np.bool_]:
        """Where things are: bool `(scenes, 16, 16)`."""
        classes = self.labels[:, 0]
        grounds = kinds_of_maps()["classes"] + SHAPES
        return (classes >= len(PARTS)) & (classes < grounds)


SHAPES = 8
"""The first language's shapes, whose classes stand behind the world's and before its grounds."""


def draw_pictures(seed: int, count: int, split: Split = "train") -> DrawnPictures:
    """Scenes of the world, a function of the seed: two thirds of them with one thing."""
    source, rng = WorldScenes(), np.random.default_rng([seed, sum(b"picture prompts")])
    scenes: list[AnyScene] = []
    while len(scenes) < count:
        scene = source.draw(rng, split)
        if len(scenes) < SINGLES * count and thing_of(scene) is None:
            continue
        scenes.append(scene)
    labels = [
        source.pixel_labels(scene, GRID)
        for scene in tqdm(scenes, "telling what is where", leave=False, disable=None)
    ]
    drawn = np.concatenate(
        [
            pixels(source, scenes[start : start + 128])
            for start in tqdm(range(0, count, 128), "drawing", leave=False, disable=None)
        ]
    )
    assert drawn.shape[-1] == SIDE
    return DrawnPictures(scenes, drawn, np.stack(labels))
