"""Plants, and what stands in the sky."""

from __future__ import annotations

import numpy as np

from lab.scenes.drawing import outline
from lab.scenes.language import RGB
from lab.scenes.world.canvas import Pen
from lab.scenes.world.colour import INK, WHITE, darker, lighter

BARK: RGB = (112, 76, 50)
PINE: RGB = (46, 112, 84)


def draw_tree(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    leaf = rgb or (92, 164, 74)
    pen.polygon([(-0.09, 0), (-0.045, 0.45), (0.045, 0.45), (0.09, 0)], BARK)
    pen.line([(0, 0.3), (0.15, 0.48)], 0.045, BARK)
    puffs = (
        (-0.2, 0.54, 0.19), (0.2, 0.54, 0.19), (-0.14, 0.74, 0.19), (0.14, 0.74, 0.19),
        (0, 0.8, 0.2), (0, 0.6, 0.22),
    )  # fmt: skip
    for x, y, radius in puffs:
        pen.disc(x, y, radius, darker(leaf, 0.18))
    for x, y, radius in puffs:
        pen.disc(x - 0.03, y + 0.03, radius * 0.84, leaf)
    for x, y, radius in ((-0.17, 0.78, 0.08), (0.03, 0.86, 0.07), (-0.2, 0.58, 0.06)):
        pen.disc(x, y, radius, lighter(leaf, 0.22))


def draw_pine(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    pen.box(-0.05, 0, 0.05, 0.2, BARK)
    for low, high, wide in ((0.12, 0.52, 0.31), (0.34, 0.76, 0.25), (0.58, 1.0, 0.18)):
        pen.polygon([(-wide, low), (0, high), (wide, low), (0, low - 0.04)], PINE)
        pen.polygon([(0.02, low - 0.04), (0, high), (wide, low)], darker(PINE, 0.25))


def draw_cactus(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    green: RGB = (76, 146, 88)
    arms = ([(0, 0.34), (-0.28, 0.36), (-0.28, 0.66)], [(0, 0.46), (0.27, 0.48), (0.27, 0.8)])
    for (x0, y0), (x1, y1), (x2, y2) in arms:
        pen.line([(x0, y0), (x1, y1)], 0.15, green)
        pen.disc(x1, y1, 0.075, green)
        pen.line([(x1, y1), (x2, y2)], 0.15, green)
        pen.disc(x2, y2, 0.075, green)
        pen.line([(x1 + 0.03, y1), (x2 + 0.03, y2)], 0.03, darker(green, 0.3))
    pen.box(-0.12, 0, 0.12, 0.88, green)
    pen.disc(0, 0.88, 0.12, green)
    for x in (-0.05, 0.02, 0.08):
        pen.line([(x, 0.02), (x, 0.9)], 0.024, darker(green, 0.3))
    pen.disc(0, 0.99, 0.05, (240, 110, 150))


def draw_flower(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    petal = rgb or (244, 120, 150)
    stem: RGB = (70, 140, 66)
    pen.line([(0, 0), (0.02, 0.3), (0, 0.62)], 0.05, stem)
    pen.blob([(0, 0.1), (-0.16, 0.2), (-0.3, 0.36), (-0.12, 0.32)], stem)
    pen.blob([(0.01, 0.16), (0.16, 0.24), (0.28, 0.42), (0.12, 0.38)], darker(stem, 0.15))
    for shade, turn, reach in ((darker(petal, 0.16), np.pi / 6, 0.21), (petal, 0.0, 0.2)):
        for angle in turn + np.arange(6) * np.pi / 3:
            pen.disc(
                reach * float(np.cos(angle)), 0.68 + reach * float(np.sin(angle)), 0.115, shade
            )
    heart = (255, 206, 70) if petal[2] > 90 or petal[0] < 200 or petal[1] < 120 else (150, 84, 40)
    pen.disc(0, 0.68, 0.12, heart)
    pen.disc(0.02, 0.66, 0.08, darker(heart, 0.12))


def draw_mushroom(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    cap = rgb or (214, 56, 48)
    pen.blob(
        [(-0.2, 0.02), (-0.15, 0.3), (-0.13, 0.5), (0.13, 0.5), (0.15, 0.3), (0.2, 0.02),
        (0, -0.01)], (244, 232, 208),
    )  # fmt: skip
    pen.blob([(0.05, 0.02), (0.05, 0.4), (0.13, 0.5), (0.15, 0.3), (0.2, 0.02)], (220, 202, 172))
    pen.ellipse(0, 0.46, 0.36, 0.06, (226, 206, 176))
    dome = [
        (float(0.5 * np.cos(a)), float(0.46 + 0.52 * np.sin(a) ** 0.9))
        for a in np.linspace(np.pi, 0, 19)
    ]
    pen.polygon([*dome, (0.3, 0.42), (-0.3, 0.42)], cap)
    for x, y, radius in (
        (-0.24, 0.62, 0.085), (0.05, 0.8, 0.1), (0.3, 0.58, 0.07), (0.02, 0.54, 0.06),
    ):  # fmt: skip
        pen.ellipse(x, y, radius, radius * 0.85, WHITE)


def draw_snowman(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    snow, shade = (250, 252, 255), (196, 212, 232)
    for side in (-1, 1):
        pen.line([(side * 0.15, 0.5), (side * 0.35, 0.62)], 0.03, BARK)
    for y, radius in ((0.24, 0.25), (0.55, 0.18), (0.78, 0.13)):
        pen.disc(0, y, radius, shade)
        pen.disc(-0.02, y + 0.02, radius * 0.88, snow)
    pen.box(-0.15, 0.63, 0.15, 0.69, (206, 54, 58))
    pen.box(0.05, 0.48, 0.12, 0.66, (206, 54, 58))
    pen.box(-0.16, 0.87, 0.16, 0.9, INK)
    pen.box(-0.1, 0.88, 0.1, 1.0, INK)
    for x, y in ((-0.05, 0.81), (0.05, 0.81), (0, 0.56), (0, 0.47)):
        pen.disc(x, y, 0.018, INK)
    pen.polygon([(0, 0.78), (0, 0.74), (0.13, 0.75)], (240, 130, 40))


def draw_sun(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    for angle in np.arange(12) * np.pi / 6:
        spread = 0.1
        corners = [(0.33, angle - spread * 2.2), (0.5, angle), (0.33, angle + spread * 2.2)]
        pen.polygon(
            [(r * float(np.cos(a)), 0.5 + r * float(np.sin(a))) for r, a in corners],
            (255, 190, 60), lit=True,
        )  # fmt: skip
    pen.disc(0, 0.5, 0.33, (255, 204, 64), lit=True)
    pen.disc(-0.02, 0.52, 0.26, (255, 222, 104), lit=True)


def draw_moon(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    points = [(float(x) * 0.52, float(y) * 0.52 + 0.5) for x, y in outline("crescent")]
    pen.polygon(points, (250, 236, 178), lit=True)
    for x, y, radius in ((-0.3, 0.62, 0.05), (-0.26, 0.36, 0.065), (-0.12, 0.16, 0.04)):
        pen.disc(x, y, radius, (228, 208, 146), lit=True)


def draw_star(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    rgb = rgb or (255, 222, 96)
    points = [(float(x) * 0.53, 0.47 - float(y) * 0.53) for x, y in outline("star")]
    pen.polygon(points, rgb, lit=True)
    inner = [(x * 0.62, 0.47 + (y - 0.47) * 0.62) for x, y in points]
    pen.polygon(inner, lighter(rgb, 0.35), lit=True)


def draw_cloud(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    puffs = ((-0.6, 0.3, 0.3), (-0.2, 0.55, 0.42), (0.34, 0.46, 0.36), (0.68, 0.26, 0.26))
    for shade, lift, part in (((196, 212, 228), 0.0, 1.0), (WHITE, 0.08, 0.94)):
        for x, y, radius in puffs:
            pen.disc(x, y + lift, radius * part, shade)
        pen.box(-0.64, lift, 0.72, 0.36, shade)
