"""A street: the fronts of its houses side by side, from their doors to their roofs."""

from __future__ import annotations

import numpy as np

from lab.scenes.language import RGB
from lab.scenes.layout import SIDE
from lab.scenes.world.canvas import Canvas, Pen, dome
from lab.scenes.world.colour import NEON, PINK, WHITE, darker, lighter
from lab.scenes.world.layout import WorldScene
from lab.scenes.world.owners import owner_of
from lab.scenes.world.things.buildings import STONE, TIMBER

FRONTS: dict[str | None, list[RGB]] = {
    None: [(198, 108, 88), (226, 192, 140), (150, 166, 184), (178, 196, 160), (214, 206, 196)],
    "old": [(236, 220, 186), (222, 196, 160), (240, 228, 206)],
    "futuristic": [(132, 172, 214), (196, 210, 232), (150, 204, 214), (162, 150, 220)],
}


def draw_street(canvas: Canvas, scene: WorldScene, rng: np.random.Generator) -> None:
    foot, style = scene.horizon, scene.style
    canvas.owner = owner_of("street")
    fronts = FRONTS[style]
    draw = {None: _flat, "old": _timbered, "futuristic": _glazed}[style]
    x, last = float(rng.uniform(-12, -2)), -1
    while x < SIDE:
        wide, tall = float(rng.uniform(23, 29)), float(rng.uniform(44, 58))
        chosen = (last + 1 + int(rng.integers(len(fronts) - 1))) % len(fronts)
        draw(Pen(canvas, x + wide / 2, foot, tall, land=True), wide / 2 / tall, fronts[chosen])
        x, last = x + wide, chosen
    canvas.owner = owner_of("pavement")
    canvas.box(0, foot, SIDE, SIDE, canvas.land((186, 182, 178)))
    canvas.box(0, foot + 5, SIDE, foot + 6.2, canvas.land((214, 210, 204)))
    canvas.box(0, foot + 6, SIDE, SIDE, canvas.land((128, 128, 138)))
    for start in np.arange(4, SIDE, 22):
        canvas.box(float(start), 123, float(start + 12), 124.2, canvas.land((226, 222, 206)))


def _flat(pen: Pen, half: float, rgb: RGB) -> None:
    """A house of today: three floors of windows over a shop with its awning."""
    pen.box(-half, 0, half, 0.95, rgb)
    pen.box(-half * 1.03, 0.94, half * 1.03, 1.0, darker(rgb, 0.3))
    pen.box(half * 0.92, 0, half, 0.95, darker(rgb, 0.2))
    for y in (0.36, 0.56, 0.76):
        for x in (-0.66, -0.1, 0.42):
            pen.box(half * x - 0.01, y - 0.015, half * (x + 0.3) + 0.01, y + 0.13, WHITE)
            pen.window(half * x, y, half * (x + 0.3), y + 0.115)
    pen.window(-half * 0.75, 0.04, half * 0.2, 0.19)
    pen.box(half * 0.38, 0, half * 0.74, 0.21, darker(rgb, 0.55))
    stripe = (2 * half * 0.88) / 6
    for index in range(6):
        left = -half * 0.88 + stripe * index
        tone: RGB = WHITE if index % 2 else (206, 82, 76)
        pen.polygon(
            [(left, 0.2), (left + 0.01, 0.28), (left + stripe + 0.01, 0.28), (left + stripe, 0.2)],
            tone,
        )  # fmt: skip


def _timbered(pen: Pen, half: float, rgb: RGB) -> None:
    """A timbered front that leans out over its ground floor, under a gable."""
    pen.box(-half * 0.9, 0, half * 0.9, 0.26, STONE)
    for x, y in ((-0.8, 0.04), (-0.5, 0.16), (0.5, 0.06), (0.62, 0.18)):
        pen.box(half * x, y, half * x + 0.06, y + 0.035, darker(STONE, 0.2))
    pen.blob(
        [(-half * 0.26, 0), (-half * 0.26, 0.14), (0, 0.2), (half * 0.26, 0.14), (half * 0.26, 0)],
        TIMBER,
    )  # fmt: skip
    pen.box(-half, 0.25, half, 0.66, rgb)
    for y in (0.25, 0.45, 0.64):
        pen.box(-half, y, half, y + 0.03, TIMBER)
    for x in (-1.0, -0.36, 0.28, 0.92):
        pen.box(half * x, 0.25, half * (x + 0.08), 0.66, TIMBER)
    for y in (0.3, 0.5):
        pen.window(-half * 0.2, y, half * 0.2, y + 0.1)
    for side in (-1, 1):
        pen.line([(side * half * 0.92, 0.28), (side * half * 0.36, 0.45)], 0.025, TIMBER)
    gable = [(-half * 1.06, 0.65), (0, 1.0), (half * 1.06, 0.65)]
    pen.polygon(gable, rgb)
    pen.line(gable, 0.05, (150, 82, 60))
    pen.line([(-half * 0.6, 0.67), (0, 0.86), (half * 0.6, 0.67)], 0.022, TIMBER)
    pen.window(-half * 0.14, 0.7, half * 0.14, 0.79)


def _glazed(pen: Pen, half: float, rgb: RGB) -> None:
    """A rounded shell with floors of light and a glowing door."""
    glass: RGB = (140, 236, 252) if pen.dark else lighter(rgb, 0.5)
    crown = dome(half, 1 - half, half, 14)
    pen.polygon([(half, 0), *crown, (-half, 0)], rgb)
    pen.polygon([(half, 0), *crown[:4], (half * 0.6, 0)], darker(rgb, 0.15))
    for y in (0.3, 0.45, 0.6):
        pen.blob(
            [(-half * 0.8, y), (-half * 0.8, y + 0.07), (half * 0.8, y + 0.07), (half * 0.8, y)],
            glass, lit=pen.dark,
        )  # fmt: skip
    pen.line(crown, 0.03, NEON, lit=True)
    pen.box(-half, 0.22, half, 0.25, PINK, lit=True)
    pen.blob(
        [(-half * 0.34, 0), (-half * 0.34, 0.12), (0, 0.18), (half * 0.34, 0.12), (half * 0.34, 0)],
        (70, 190, 226) if not pen.dark else (150, 246, 255), lit=pen.dark,
    )  # fmt: skip
    pen.line([(0, 0.98), (0, 1.1)], 0.02, lighter(rgb, 0.2))
    pen.disc(0, 1.1, 0.025, NEON, lit=True)
