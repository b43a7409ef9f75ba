"""The world: illustrated scenes with places, light and styles, and the pixels of every word.

>>> drawn = render_world(7)
>>> drawn.prompt, drawn.masks.shape  # one mask a word
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from lab.scenes.layout import SIDE, Split
from lab.scenes.wording import Description
from lab.scenes.world.language import WorldLanguage, world_language
from lab.scenes.world.layout import WorldScene, WorldThing
from lab.scenes.world.masks import word_masks
from lab.scenes.world.painting import class_map, class_names, draw_world
from lab.scenes.world.sampling import sample_world
from lab.scenes.world.wording import describe_world

__all__ = [
    "RenderedWorld",
    "WorldLanguage",
    "WorldScene",
    "WorldThing",
    "class_map",
    "class_names",
    "describe_world",
    "draw_world",
    "render_world",
    "sample_world",
    "word_masks",
    "world_language",
]


@dataclass(frozen=True)
class RenderedWorld:
    """A scene of the world, its picture and its prompt.

    ``masks`` holds, for each word of ``description.words``, the pixels that the word names:
    bool ``(words, height, width)``. See :func:`word_masks`.
    """

    scene: WorldScene
    description: Description
    image: Image.Image
    masks: np.ndarray

    @property
    def prompt(self) -> str:
        return self.description.prompt


def render_world(seed: int, *, size: int = SIDE, split: Split = "train") -> RenderedWorld:
    """Everything about one scene from one seed. See :func:`sample_world`, :func:`describe_world`.

    Raises:
        ValueError: another split, or a size that is not positive.
    """
    rng = np.random.default_rng(seed)
    scene = sample_world(rng, split)
    description = describe_world(scene, rng)
    masks = word_masks(scene, description, size)
    return RenderedWorld(scene, description, draw_world(scene, size), masks)
