"""How large a thing of the world is said to be, from how large it is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from lab.judge.pixel_boxes import Box, bounding_box
from lab.scenes.layout import SIDE
from lab.scenes.world import WorldScene, WorldThing, world_language
from lab.scenes.world.composition import fitting, room
from lab.scenes.world.owners import FIRST_THING
from lab.scenes.world.painting import owner_shares


@cache
def drawn_extent(kind: str, style: str | None) -> tuple[float, float]:
    """Height and width of a thing as it is drawn, as shares of its height in the layout."""
    words = world_language()
    tall = 60.0
    thing = WorldThing(kind, None, "medium", style, SIDE / 2, 100.0, tall, False)
    if words.things[kind].width > 1.6:
        thing = replace(thing, height=(tall := 40.0))
    scene = WorldScene("snow", "day", None, (thing,), 76.0, None, False, False, 0)
    box = bounding_box(owner_shares(scene)[FIRST_THING] >= 0.5)
    assert box is not None  # every thing is large enough to be seen
    return (box.bottom - box.top) / tall, (box.right - box.left) / tall


def said_sizes(place: str, seen: Sequence[tuple[str, str | None, Box]]) -> list[str]:
    """The size of each thing: of what fits beside the others, as in the layout of scenes.

    Args:
        place: where the things are.
        seen: kind, style and box of each, in pixels of a 128 pixel picture.
    """
    words = world_language()
    up = [words.things[kind].stand == "air" for kind, _, _ in seen]
    middles = [(box.left + box.right) / 2 for _, _, box in seen]
    stacked = len(seen) == 2 and all(up) and abs(middles[0] - middles[1]) < 31
    sizes = []
    for (kind, style, box), high in zip(seen, up, strict=True):
        known = words.things[kind]
        wide, tall = room(up, high, words.places[place].clear, stacked=stacked)
        share, power = fitting(known, len(seen), wide, tall)
        height, width = drawn_extent(kind, style)
        # What hides a part of a thing rarely hides both of its extents.
        shown = max((box.bottom - box.top) / height, (box.right - box.left) / width)
        ratio = shown / (share * known.height)
        sizes.append(
            min(words.sizes, key=lambda size: abs(np.log(words.sizes[size][1] ** power / ratio)))
        )
    return sizes
