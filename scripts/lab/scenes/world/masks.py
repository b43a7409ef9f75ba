"""The pixels that each word of a prompt names."""

from __future__ import annotations

import numpy as np

from lab.scenes.layout import SIDE
from lab.scenes.wording import Description, NamingWord
from lab.scenes.world.language import world_language
from lab.scenes.world.layout import WorldScene
from lab.scenes.world.owners import FIRST_THING, owner_of
from lab.scenes.world.painting import owner_shares


def _owners(scene: WorldScene, word: NamingWord) -> list[int]:
    """The owners of the pixels that a word names."""
    place = world_language().places[scene.place]
    if word.objects:
        return [FIRST_THING + index for index in word.objects]
    if word.kind == "place":
        return [owner_of(part) for part in place.parts]
    if word.kind == "style":
        return [owner_of(part) for part in place.styled]
    if word.kind == "light":
        return [owner_of("sky")]
    return []


def word_masks(scene: WorldScene, description: Description, size: int = SIDE) -> np.ndarray:
    """Pixels that each word names: bool ``(words, size, size)``; at least half of a pixel counts.

    A thing, its count, colour, size and style name its visible pixels, a relation those of both
    things, a place its parts (a skyline its buildings), a style of the place what it shapes, a
    light the sky that it rules; any other word names nothing.
    """
    shares = owner_shares(scene, size)
    masks = [shares[_owners(scene, word)].sum(axis=0) >= 0.5 for word in description.words]
    return np.stack(masks)
