"""Things, drawn by name: each in the colour and the style that its words ask for."""

from __future__ import annotations

from collections.abc import Callable

from lab.scenes.language import RGB
from lab.scenes.world.canvas import Canvas, Pen
from lab.scenes.world.language import world_language
from lab.scenes.world.layout import WorldThing
from lab.scenes.world.things import animals, buildings, nature, vehicles

Drawing = Callable[[Pen, RGB | None, str | None], None]
"""Draws with a pen; no colour is the thing's own, no style the plain one."""

DRAWINGS: dict[str, Drawing] = {
    name.removeprefix("draw_"): draw
    for family in (animals, buildings, nature, vehicles)
    for name, draw in vars(family).items()
    if name.startswith("draw_")
}


def draw_thing(canvas: Canvas, thing: WorldThing) -> None:
    """One thing of a scene, where its layout says."""
    pen = Pen(canvas, thing.x, thing.base, thing.height, flip=thing.flip)
    rgb = world_language().colours[thing.colour] if thing.colour else None
    DRAWINGS[thing.kind](pen, rgb, thing.style)
