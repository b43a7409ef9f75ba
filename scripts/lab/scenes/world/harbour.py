"""A harbour: houses along a quay, a crane or a tower above them, and water before it."""

from __future__ import annotations

import numpy as np

from lab.scenes.language import RGB
from lab.scenes.layout import SIDE
from lab.scenes.world.canvas import Canvas, Pen
from lab.scenes.world.city_buildings import draw_spindle
from lab.scenes.world.colour import darker, lighter
from lab.scenes.world.layout import WorldScene
from lab.scenes.world.owners import owner_of
from lab.scenes.world.things.buildings import STONE, TIMBER, draw_house, draw_tower

WALLS: dict[str | None, list[RGB]] = {
    None: [(226, 122, 98), (240, 206, 120), (132, 178, 204), (238, 232, 220), (150, 196, 156)],
    "old": [(236, 220, 186), (222, 196, 160), (206, 178, 150)],
    "futuristic": [(226, 232, 240), (190, 214, 236), (206, 200, 240)],
}


def draw_harbour(canvas: Canvas, scene: WorldScene, rng: np.random.Generator) -> None:
    foot, style = scene.horizon, scene.style
    canvas.owner = owner_of("harbour")
    mark = Pen(canvas, float(rng.uniform(30, 98)), foot, 56.0, far=0.16, land=True)
    if style == "futuristic":
        draw_spindle(mark, 0.2, (186, 200, 236), rng)
    elif style == "old":
        draw_tower(mark, STONE, "old")
    else:
        _crane(mark, flip=bool(rng.random() < 0.5))
    walls = WALLS[style]
    for x in rng.permutation((np.arange(5) + 0.5) * SIDE / 5):
        tall = 30.0 * float(rng.uniform(0.88, 1.14))
        flip = bool(rng.random() < 0.5)
        pen = Pen(canvas, float(x + rng.uniform(-3, 3)), foot, tall, flip=flip, land=True)
        draw_house(pen, walls[int(rng.integers(len(walls)))], style)
    quay = canvas.land({None: (148, 146, 150), "old": TIMBER}.get(style, (170, 184, 214)))
    canvas.owner = owner_of("water")
    far, near = canvas.light.water
    low = foot + 6
    canvas.mirror(low, SIDE, near, 0.55)
    for _ in range(20):
        y, x, half = rng.uniform(low + 3, SIDE), rng.uniform(0, SIDE), rng.uniform(4, 12)
        canvas.glaze(
            [(x - half, y), (x, y - 0.6), (x + half, y), (x, y + 0.6)], lighter(far, 0.3), 0.3,
        )  # fmt: skip
    canvas.owner = owner_of("harbour")
    canvas.box(0, foot, SIDE, low, quay)
    canvas.box(0, foot, SIDE, foot + 1.4, lighter(quay, 0.3))
    for x in np.arange(float(rng.uniform(2, 10)), SIDE, 14):
        canvas.box(float(x), foot + 1, float(x) + 3, low + 3, darker(quay, 0.35))


def _crane(pen: Pen, *, flip: bool) -> None:
    """A crane of the docks: a mast on four legs, and a jib with a hook."""
    pen.direction = -1.0 if flip else 1.0
    rgb: RGB = (226, 150, 54)
    pen.polygon([(-0.2, 0), (-0.07, 0.5), (0.07, 0.5), (0.2, 0), (0.13, 0), (0, 0.42), (-0.13, 0)],
                rgb)  # fmt: skip
    pen.box(-0.05, 0.45, 0.05, 1.0, rgb)
    pen.box(0.01, 0.45, 0.05, 1.0, darker(rgb, 0.2))
    pen.box(-0.3, 0.78, 0.62, 0.84, rgb)
    pen.line([(-0.28, 0.84), (0, 1.0), (0.58, 0.84)], 0.02, darker(rgb, 0.2))
    pen.box(-0.32, 0.68, -0.16, 0.84, darker(rgb, 0.3))
    pen.window(-0.04, 0.64, 0.1, 0.76)
    pen.line([(0.5, 0.78), (0.5, 0.62)], 0.018, (70, 66, 72))
    pen.box(0.45, 0.56, 0.55, 0.63, (70, 66, 72))
