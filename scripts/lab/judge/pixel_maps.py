"""What each pixel of a picture of the world is: its class, colour, style and light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lab.scenes.layout import SIDE
from lab.scenes.world import WorldScene, class_names, world_language
from lab.scenes.world.owners import PARTS
from lab.scenes.world.painting import owner_shares

NONE = -100
"""Where there is nothing to tell: the colour of the sky, the style of a tree."""

STYLES = (None, "old", "futuristic")

Numbers = NDArray[np.int16]


def names_of_maps() -> dict[str, list[str]]:
    """What each value of a map stands for, by the map's name: those of :class:`PixelMaps`."""
    words = world_language()
    return {
        "classes": list(class_names()),
        "colours": list(words.colours),
        "styles": [style or "plain" for style in STYLES],
        "lights": list(words.lights),
    }


def kinds_of_maps() -> dict[str, int]:
    """How many values each map has, by name."""
    return {name: len(values) for name, values in names_of_maps().items()}


@dataclass(frozen=True, eq=False)
class PixelMaps:
    """Numbers `(height, width)`, or `NONE` where there is nothing to tell.

    Attributes:
        classes: of `class_names()`.
        colours: the said colour of the thing that the pixel belongs to, of the world's colours.
        styles: of `STYLES`, where the thing or the place comes in styles.
        lights: of the world's lights, the same for the whole of a scene.
    """

    classes: Numbers
    colours: Numbers
    styles: Numbers
    lights: Numbers


def true_maps(scene: WorldScene, size: int = SIDE) -> PixelMaps:
    """The maps of a scene, as it was drawn."""
    words = world_language()
    names, colours, lights = class_names(), list(words.colours), list(words.lights)
    place = words.places[scene.place]
    # By owner: the parts of the place, then the things.
    classes = [names.index(part) for part in PARTS]
    coloured = [NONE] * len(PARTS)
    styled = [STYLES.index(scene.style) if part in place.styled else NONE for part in PARTS]
    for thing in scene.things:
        classes.append(names.index(thing.kind))
        coloured.append(colours.index(thing.colour) if thing.colour else NONE)
        has_styles = bool(words.things[thing.kind].styles)
        styled.append(STYLES.index(thing.style) if has_styles else NONE)
    owner = owner_shares(scene, size).argmax(axis=0)
    return PixelMaps(
        classes=np.array(classes, dtype=np.int16)[owner],
        colours=np.array(coloured, dtype=np.int16)[owner],
        styles=np.array(styled, dtype=np.int16)[owner],
        lights=np.full(owner.shape, lights.index(scene.light), dtype=np.int16),
    )
