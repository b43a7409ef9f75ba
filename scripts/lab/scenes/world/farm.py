"""A farm: a barn with its silo, farmhouses, a fence, and furrows before them."""

from __future__ import annotations

import numpy as np

from lab.scenes.language import RGB
from lab.scenes.layout import SIDE
from lab.scenes.world.canvas import Canvas, Pen, dome
from lab.scenes.world.colour import NEON, PINK, WHITE, darker, lighter
from lab.scenes.world.ground import GRASS, ridge
from lab.scenes.world.layout import WorldScene
from lab.scenes.world.owners import owner_of
from lab.scenes.world.things.buildings import (
    STONE,
    TIMBER,
    draw_house,
    draw_tower,
)

THATCH: RGB = (150, 112, 62)
STEEL: RGB = (198, 204, 212)
SHELL: RGB = (206, 218, 240)


def draw_farm(canvas: Canvas, scene: WorldScene, rng: np.random.Generator) -> None:
    foot, style = scene.horizon, scene.style
    canvas.owner = owner_of("grass")
    ridge(canvas, foot - 12, 5, canvas.land((150, 184, 110), 0.4), rng)
    ridge(canvas, foot - 3, 3, canvas.land((176, 190, 96), 0.12), rng)
    canvas.owner = owner_of("farm")
    side = 1 if rng.random() < 0.5 else -1
    middle = SIDE / 2 - side * rng.uniform(20, 28)
    silo = Pen(canvas, middle + side * 30, foot, 50.0 * float(rng.uniform(0.9, 1.1)), land=True)
    {None: _silo, "old": _windmill, "futuristic": _needle}[style](silo)
    for at, tall in ((middle - side * 36, 24.0), (middle + side * 56, 28.0)):
        pen = Pen(canvas, float(at), foot + 1, tall, flip=side < 0, far=0.1, land=True)
        draw_house(pen, {"futuristic": SHELL}.get(style or ""), style)
    barn = Pen(canvas, middle, foot + 4, 40.0 * float(rng.uniform(0.92, 1.08)), land=True)
    {None: _barn, "old": _old_barn, "futuristic": _dome}[style](barn)
    canvas.owner = owner_of("grass")
    ridge(canvas, foot + 8, 1.5, canvas.land(GRASS), rng, waves=1)
    soil: RGB = (168, 130, 78)
    for x in np.arange(-150, SIDE + 150, 15.0):
        # Furrows meet far behind the horizon.
        near, far = float(x), SIDE / 2 + (float(x) - SIDE / 2) * 0.45
        canvas.polygon(
            [(far, foot + 14), (far + 1.6, foot + 14), (near + 5, SIDE + 1), (near, SIDE + 1)],
            canvas.land(soil),
        )  # fmt: skip
    canvas.owner = owner_of("farm")
    rail = canvas.land({None: WHITE, "old": TIMBER}.get(style, STEEL))
    for x in np.arange(2, SIDE, 11.0):
        canvas.box(float(x), foot + 6, float(x) + 1.6, foot + 14, rail)
    for y in (foot + 8, foot + 11):
        canvas.box(0, y, SIDE, y + 1.1, rail)


def _needle(pen: Pen) -> None:
    draw_tower(pen, SHELL, "futuristic")


def _barn(pen: Pen) -> None:
    """A red barn under a broken roof, with white beams."""
    red: RGB = (190, 66, 54)
    front = [(-0.52, 0), (-0.52, 0.52), (-0.34, 0.82), (0, 0.98), (0.34, 0.82), (0.52, 0.52),
             (0.52, 0)]  # fmt: skip
    pen.polygon(front, red)
    pen.line(front[1:-1], 0.07, darker(red, 0.45))
    pen.box(-0.22, 0, 0.22, 0.42, darker(red, 0.25))
    for corners in ([(-0.22, 0), (0.22, 0.42)], [(0.22, 0), (-0.22, 0.42)],
                    [(-0.22, 0), (-0.22, 0.42), (0.22, 0.42), (0.22, 0)]):  # fmt: skip
        pen.line(corners, 0.04, WHITE)
    pen.box(-0.1, 0.56, 0.1, 0.74, WHITE)
    pen.window(-0.07, 0.58, 0.07, 0.72)


def _old_barn(pen: Pen) -> None:
    """Stone below, timber above, under a great roof of straw."""
    pen.box(-0.56, 0, 0.56, 0.3, STONE)
    for x, y in ((-0.5, 0.06), (-0.36, 0.18), (0.24, 0.05), (0.4, 0.16), (-0.24, 0.08)):
        pen.box(x, y, x + 0.1, y + 0.05, darker(STONE, 0.2))
    pen.box(-0.56, 0.29, 0.56, 0.46, (228, 210, 172))
    for x in (-0.56, -0.3, -0.03, 0.24, 0.5):
        pen.box(x, 0.29, x + 0.06, 0.46, TIMBER)
    pen.polygon(
        [(-0.72, 0.4), (-0.36, 0.9), (0.36, 0.9), (0.72, 0.4), (0.5, 0.45), (-0.5, 0.45)], THATCH,
    )  # fmt: skip
    for x, y in ((-0.36, 0.76), (-0.1, 0.84), (0.16, 0.72), (0.34, 0.62), (-0.12, 0.62)):
        pen.line([(x, y), (x - 0.03, y - 0.12)], 0.03, darker(THATCH, 0.3))
    pen.blob([(-0.17, 0), (-0.17, 0.24), (0, 0.34), (0.17, 0.24), (0.17, 0)], TIMBER)


def _dome(pen: Pen) -> None:
    """A hothouse: a dome of glass in ribs of light."""
    glass: RGB = (150, 246, 255) if pen.dark else (112, 200, 226)
    arc = dome(0.66, 0.12, 0.66, 16)
    pen.box(-0.7, 0, 0.7, 0.14, SHELL)
    pen.polygon(arc, glass, lit=pen.dark)
    pen.polygon([(0, 0.12), *arc[:8]], darker(glass, 0.12), lit=pen.dark)
    for share in (-0.5, 0.0, 0.5):
        pen.line(dome(0.66 * share, 0.12, 0.66, 8, until=np.pi / 2), 0.025, SHELL)
    pen.line(arc, 0.035, NEON, lit=True)
    pen.line([(-0.7, 0.07), (0.7, 0.07)], 0.03, PINK, lit=True)


def _silo(pen: Pen) -> None:
    pen.box(-0.17, 0, 0.17, 0.84, STEEL)
    pen.box(0.05, 0, 0.17, 0.84, darker(STEEL, 0.18))
    pen.polygon(dome(0.19, 0.83, 0.15, 12), darker(STEEL, 0.3))
    for y in (0.2, 0.4, 0.6):
        pen.box(-0.17, y, 0.17, y + 0.025, darker(STEEL, 0.25))


def _windmill(pen: Pen) -> None:
    """A mill of stone with four sails of cloth."""
    wall: RGB = (222, 206, 178)
    pen.polygon([(-0.2, 0), (-0.13, 0.66), (0.13, 0.66), (0.2, 0)], wall)
    pen.polygon([(0.04, 0), (0.04, 0.66), (0.13, 0.66), (0.2, 0)], darker(wall, 0.15))
    pen.polygon([(-0.17, 0.64), (0, 0.84), (0.17, 0.64)], THATCH)
    pen.blob([(-0.06, 0), (-0.06, 0.12), (0, 0.18), (0.06, 0.12), (0.06, 0)], TIMBER)
    hub = 0.66
    for turn in np.pi / 2 * np.arange(4) + 0.5:
        along = np.array([np.cos(turn), np.sin(turn)])
        across = np.array([-along[1], along[0]]) * 0.1
        tip, start = 0.42 * along, 0.1 * along
        cloth = [start, tip, tip + across, start + across]
        pen.polygon([(float(x), hub + float(y)) for x, y in cloth], lighter(wall, 0.3))
        pen.line([(0, hub), (float(tip[0]), hub + float(tip[1]))], 0.03, TIMBER)
    pen.disc(0, hub, 0.035, TIMBER)
