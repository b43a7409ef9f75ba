"""The buildings of a city, as seen from afar: of today, old and futuristic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lab.scenes.language import RGB
from lab.scenes.world.canvas import Pen, dome
from lab.scenes.world.colour import NEON, PINK, darker, lighter

FAR = 0.3
"""Buildings that fade further than this into the haze are bare outlines."""

Building = Callable[[Pen, float, RGB, np.random.Generator], None]
"""Draws a building of height 1 with a pen; the number is half its width."""

MODERN: list[RGB] = [
    (150, 168, 190), (196, 184, 170), (118, 142, 172), (206, 150, 128), (170, 178, 186),
]  # fmt: skip
OLD: list[RGB] = [
    (206, 176, 136), (186, 150, 118), (222, 200, 160), (172, 140, 116), (196, 164, 140),
]  # fmt: skip
FUTURISTIC: list[RGB] = [
    (132, 172, 214), (196, 210, 232), (110, 138, 206), (150, 204, 214), (162, 150, 220),
]  # fmt: skip


def _panes(
    pen: Pen, half: float, bottom: float, top: float, rgb: RGB, rng: np.random.Generator
) -> None:
    """Rows of windows, some of them lit in the dark; none where the building is far."""
    if pen.far > FAR:
        return
    tall = pen.height
    columns, rows = max(2, int(half * 2 * tall / 5.2)), max(2, int((top - bottom) * tall / 5.8))
    lit = rng.random((rows, columns)) < 0.62
    step, rise = 2 * half / (columns + 0.35), (top - bottom) / rows
    for row in range(rows):
        for column in range(columns):
            left = -half + step * (column + 0.4)
            low = bottom + rise * (row + 0.3)
            corners = (left, low, left + step * 0.56, low + rise * 0.5)
            if pen.dark and lit[row, column]:
                pen.window(*corners)
            else:
                pen.box(*corners, darker(rgb, 0.32))


def _block(pen: Pen, half: float, rgb: RGB, rng: np.random.Generator) -> None:
    """A tower block of today: flat, stepped, slanting, or with a mast."""
    roof = int(rng.choice(4, p=[0.3, 0.28, 0.12, 0.3]))
    top = 0.86 if roof else 1.0
    pen.box(-half, 0, half, top, rgb)
    pen.box(half * 0.5, 0, half, top, darker(rgb, 0.13))
    if roof == 1:
        pen.box(-half * 0.6, top, half * 0.6, 0.96, rgb)
        pen.box(half * 0.2, top, half * 0.6, 0.96, darker(rgb, 0.13))
    elif roof == 2:
        pen.polygon([(-half, top - 0.01), (-half, 1.0), (half, top - 0.01)], rgb)
    elif roof == 3:
        pen.box(-half * 0.5, top, half * 0.5, 0.9, darker(rgb, 0.2))
        pen.line([(0, 0.88), (0, 1.05)], 1.0 / pen.height, darker(rgb, 0.3))
    _panes(pen, half * 0.88, 0.04, top - 0.03, rgb, rng)


def _glass(pen: Pen, rgb: RGB) -> RGB:
    """A band of windows: lit in the dark, pale by day."""
    return (140, 236, 252) if pen.dark else lighter(rgb, 0.45)


def _bands(pen: Pen, half: float, bottom: float, top: float, rgb: RGB) -> None:
    """Floors as bands of light, or of glass by day; none where the building is far."""
    if pen.far > FAR:
        return
    for y in np.arange(bottom, top, 6.0 / pen.height):
        pen.box(-half, float(y), half, float(y) + 1.9 / pen.height, _glass(pen, rgb), lit=pen.dark)


def _sail(pen: Pen, half: float, rgb: RGB, rng: np.random.Generator) -> None:
    """A glass sail: one side upright, the other a sweeping curve, an edge of light."""
    side = 1 if rng.random() < 0.5 else -1
    t = np.linspace(0, 1, 14)
    curve = [(side * half * (1 - 2 * float(u) ** 2.2), float(u)) for u in t]
    pen.polygon([(-side * half, 0), *curve], rgb)
    pen.polygon([(0, 0), *[(x, y) for x, y in curve if x * side > 0]], darker(rgb, 0.14))
    for y in () if pen.far > FAR else np.arange(0.06, 0.84, 6.4 / pen.height):
        reach = side * half * (1 - 2 * float(y) ** 2.2)
        left, right = sorted((-side * half * 0.9, reach * 0.92 - side * half * 0.08))
        pen.box(left, float(y), right, float(y) + 1.9 / pen.height, _glass(pen, rgb), lit=pen.dark)
    pen.line(curve, 1.5 / pen.height, NEON, lit=True)


def draw_spindle(pen: Pen, half: float, rgb: RGB, rng: np.random.Generator) -> None:
    """A tapering tower with a spire and a line of light up its middle."""
    pen.polygon([(-half, 0), (-half * 0.5, 0.72), (0, 0.86), (half * 0.5, 0.72), (half, 0)], rgb)
    pen.polygon([(0, 0), (0, 0.86), (half * 0.5, 0.72), (half, 0)], darker(rgb, 0.16))
    pen.line([(0, 0.84), (0, 1.04)], 1.3 / pen.height, lighter(rgb, 0.3))
    _bands(pen, half * 0.44, 0.06, 0.7, rgb)
    pen.line([(0, 0.05), (0, 0.86)], 1.2 / pen.height, PINK, lit=True)


def _saucer(pen: Pen, half: float, rgb: RGB, rng: np.random.Generator) -> None:
    """A stalk that carries a disc, with light along its rim."""
    stalk, rim = half * 0.26, half * 1.25
    pen.polygon(
        [(-half * 0.6, 0), (-stalk, 0.3), (-stalk, 0.76), (stalk, 0.76), (stalk, 0.3),
        (half * 0.6, 0)], rgb,
    )  # fmt: skip
    flat = 3.0 / pen.height
    pen.polygon(
        [(-rim, 0.78), (-stalk, 0.78 - 1.6 * flat), (stalk, 0.78 - 1.6 * flat), (rim, 0.78)],
        darker(rgb, 0.25),
    )  # fmt: skip
    pen.polygon(dome(rim, 0.78, 1.9 * flat, 12), lighter(rgb, 0.2))
    pen.line([(-rim, 0.78), (rim, 0.78)], 1.5 / pen.height, NEON, lit=True)
    pen.line([(0, 0.8), (0, 1.0)], 1.0 / pen.height, lighter(rgb, 0.2))
    pen.disc(0, 1.0, 1.1 / pen.height, PINK, lit=True)


def _capsule(pen: Pen, half: float, rgb: RGB, rng: np.random.Generator) -> None:
    """A round-topped tower of glass with rings of light."""
    low = 1 - half
    crown = dome(half, low, half, 14)
    pen.polygon([(half, 0), *crown, (-half, 0)], rgb)
    pen.polygon(
        [(half * 0.35, 0), (half * 0.35, low + half * 0.9), *crown[4::-1], (half, 0)],
        darker(rgb, 0.15),
    )  # fmt: skip
    _bands(pen, half * 0.78, 0.06, low, rgb)
    for y in (0.34, 0.68):
        pen.box(
            -half * 1.12, y, half * 1.12, y + 1.7 / pen.height, PINK if y < 0.5 else NEON,
            lit=True,
        )  # fmt: skip


def _gabled(pen: Pen, half: float, rgb: RGB, rng: np.random.Generator) -> None:
    """A narrow town house under a steep roof of tiles."""
    eaves = max(0.5, 1 - 1.5 * half)
    pen.box(-half, 0, half, eaves, rgb)
    pen.box(half * 0.5, 0, half, eaves, darker(rgb, 0.12))
    roof = (186, 82, 60) if rng.random() < 0.7 else (132, 92, 80)
    pen.polygon([(-half * 1.15, eaves - 0.02), (0, 1.0), (half * 1.15, eaves - 0.02)], roof)
    pen.polygon(
        [(0, 1.0), (half * 1.15, eaves - 0.02), (half * 0.4, eaves - 0.02)], darker(roof, 0.2),
    )  # fmt: skip
    _panes(pen, half * 0.8, 0.1, eaves - 0.05, rgb, rng)


def _round_tower(pen: Pen, half: float, rgb: RGB, rng: np.random.Generator) -> None:
    """A tower of stone: under a cone, or with battlements."""
    stone = darker(rgb, 0.1)
    half *= 0.75
    pen.box(-half, 0, half, 0.7, stone)
    pen.box(half * 0.3, 0, half, 0.7, darker(stone, 0.18))
    wide = half * 1.28
    pen.box(-wide, 0.66, wide, 0.76, stone)
    if rng.random() < 0.55:
        pen.polygon([(-wide * 1.1, 0.75), (0, 1.02), (wide * 1.1, 0.75)], (88, 104, 124))
        pen.polygon([(0, 1.02), (wide * 1.1, 0.75), (wide * 0.4, 0.75)], (66, 78, 100))
    else:
        for x in (-wide, -wide * 0.25, wide * 0.5):
            pen.box(x, 0.75, x + wide * 0.5, 0.82, stone)
    for y in (0.22, 0.48):
        pen.window(-half * 0.25, y, half * 0.25, y + 0.1)


def draw_church(pen: Pen, half: float, rgb: RGB, rng: np.random.Generator) -> None:
    """A steeple with a clock and a cross, and the nave beside it."""
    pen.box(-half * 0.4, 0, half * 1.3, 0.3, rgb)
    pen.polygon(
        [(-half * 0.4, 0.29), (0, 0.46), (half * 0.95, 0.46), (half * 1.4, 0.29)], (176, 84, 64),
    )  # fmt: skip
    tower = half * 0.62
    pen.box(-half - 0.02, 0, -half + 2 * tower, 0.62, lighter(rgb, 0.12))
    middle = -half + tower - 0.01
    pen.polygon(
        [(middle - tower * 1.2, 0.61), (middle, 0.96), (middle + tower * 1.2, 0.61)],
        (92, 112, 118),
    )  # fmt: skip
    pen.line([(middle, 0.94), (middle, 1.04)], 1.0 / pen.height, (70, 56, 48))
    pen.line([(middle - 0.03, 1.0), (middle + 0.03, 1.0)], 0.9 / pen.height, (70, 56, 48))
    pen.disc(middle, 0.53, tower * 0.5, (250, 240, 214))
    pen.window(middle - tower * 0.3, 0.3, middle + tower * 0.3, 0.42)
    for x in (0.35, 0.8):
        pen.window(half * x - 0.02, 0.09, half * x + 0.03, 0.2)


def _basilica(pen: Pen, half: float, rgb: RGB, rng: np.random.Generator) -> None:
    """A great dome with a lantern on a drum of columns."""
    green: RGB = (112, 164, 148)
    half *= 1.3
    pen.box(-half, 0, half, 0.42, rgb)
    pen.box(-half * 1.08, 0.38, half * 1.08, 0.44, darker(rgb, 0.15))
    pen.box(-half * 0.74, 0.44, half * 0.74, 0.56, lighter(rgb, 0.15))
    for x in np.linspace(-0.7, 0.62, 5):
        pen.box(half * float(x), 0.44, half * float(x) + half * 0.1, 0.55, darker(rgb, 0.25))
    roof = dome(half * 0.74, 0.56, 0.3, 14)
    pen.polygon(roof, green)
    pen.polygon([*roof[:5], (half * 0.3, 0.56)], darker(green, 0.2))
    pen.box(-half * 0.12, 0.84, half * 0.12, 0.93, rgb)
    pen.polygon([(-half * 0.15, 0.93), (0, 1.03), (half * 0.15, 0.93)], green)
    for x in (-0.7, -0.35, 0.18, 0.54):
        pen.window(half * x, 0.12, half * x + half * 0.18, 0.3)


STYLES: dict[str | None, tuple[list[Building], list[RGB], tuple[float, float]]] = {
    None: ([_block], MODERN, (11, 17)),
    "futuristic": ([_sail, draw_spindle, _capsule, _saucer], FUTURISTIC, (13, 20)),
    "old": ([_gabled, _gabled, _round_tower], OLD, (13, 18)),
}
"""For each style of city: its buildings, their colours, and how wide they are."""

LANDMARKS: dict[str | None, list[Building]] = {
    None: [],
    "futuristic": [draw_spindle, _saucer],
    "old": [draw_church, _basilica],
}
"""What stands out of a skyline, one of each."""
