"""Drawn scenes: a picture, its prompt, and for each word the exact pixels that it names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from lab.scenes.drawing import draw_scene, object_masks
from lab.scenes.language import Language, language
from lab.scenes.layout import SIDE, Scene, SceneObject, Split, sample_scene
from lab.scenes.wording import Description, NamingWord, describe

__all__ = [
    "Description",
    "Language",
    "NamingWord",
    "RenderedScene",
    "Scene",
    "SceneObject",
    "describe",
    "draw_scene",
    "language",
    "object_masks",
    "render_scene",
    "sample_scene",
]


@dataclass(frozen=True)
class RenderedScene:
    """A scene, its picture and its prompt.

    ``masks`` holds, for each word of ``description.words``, the pixels that the word names:
    bool ``(words, height, width)``. A colour, shape or size word names its object, a relation
    word both objects (or the one that it places), a ground word the ground, any other word
    nothing.
    """

    scene: Scene
    description: Description
    image: Image.Image
    masks: np.ndarray

    @property
    def prompt(self) -> str:
        return self.description.prompt


def render_scene(
    seed: int,
    *,
    size: int = SIDE,
    objects: int | None = None,
    split: Split = "train",
    relation: bool | None = None,
) -> RenderedScene:
    """Everything about one scene from one seed. See :func:`sample_scene`, :func:`describe`."""
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, objects, split)
    description = describe(scene, rng, relation=relation)
    objects_ = object_masks(scene, size)
    ground = ~objects_.any(axis=0)
    nothing = np.zeros_like(ground)
    masks = [
        ground
        if word.kind == "ground"
        else objects_[list(word.objects)].any(axis=0)
        if word.objects
        else nothing
        for word in description.words
    ]
    return RenderedScene(scene, description, draw_scene(scene, size), np.stack(masks))
