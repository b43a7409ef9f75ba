"""What people travel in and play with: boats, cars, balloons, rockets, planes, umbrellas, kites."""

from __future__ import annotations

import numpy as np

from lab.scenes.language import RGB
from lab.scenes.world.canvas import Pen
from lab.scenes.world.colour import INK, NEON, PINK, WHITE, darker, lighter

WOOD: RGB = (130, 84, 50)
TIMBER_DARK: RGB = (78, 52, 36)


def draw_boat(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    if style == "futuristic":
        _hydrofoil(pen, rgb or (222, 230, 240))
    elif style == "old":
        _galleon(pen, rgb or WOOD, rgb or (236, 222, 190))
    else:
        _sailboat(pen, rgb or (200, 84, 60), rgb)


def _sailboat(pen: Pen, hull: RGB, sail: RGB | None) -> None:
    pen.box(-0.03, 0.2, 0.0, 1.0, (104, 74, 52))
    pen.polygon(
        [(-0.06, 0.3), (-0.06, 0.94), (-0.36, 0.3)],
        lighter(sail, 0.25) if sail else (252, 246, 230),
    )  # fmt: skip
    pen.polygon([(0.03, 0.28), (0.03, 0.98), (0.46, 0.28)], sail or (250, 240, 214))
    pen.polygon(
        [(0.03, 0.28), (0.03, 0.36), (0.41, 0.36), (0.46, 0.28)], darker(sail or (236, 214, 176),
        0.12),
    )  # fmt: skip
    pen.polygon([(-0.46, 0.23), (-0.36, 0.0), (0.3, 0.0), (0.48, 0.23)], hull)
    pen.polygon([(-0.4, 0.08), (-0.36, 0.0), (0.3, 0.0), (0.36, 0.08)], darker(hull, 0.35))
    pen.box(-0.46, 0.19, 0.46, 0.23, WHITE)


def _galleon(pen: Pen, hull: RGB, sail: RGB) -> None:
    pen.box(-0.17, 0.2, -0.13, 0.98, TIMBER_DARK)
    pen.box(0.15, 0.2, 0.19, 0.9, TIMBER_DARK)
    for x, low, high, wide in (
        (-0.15, 0.58, 0.9, 0.17), (-0.15, 0.3, 0.55, 0.21), (0.17, 0.54, 0.82, 0.13),
        (0.17, 0.3, 0.51, 0.16),
    ):  # fmt: skip
        pen.blob(
            [(x - wide, high), (x + wide, high), (x + wide * 1.12, (low + high) / 2),
             (x + wide, low), (x - wide, low), (x - wide * 0.88, (low + high) / 2)],
            sail,
        )  # fmt: skip
        pen.line([(x - wide, high), (x + wide, high)], 0.03, TIMBER_DARK)
    pen.polygon([(-0.15, 0.98), (-0.34, 0.95), (-0.15, 0.91)], (196, 60, 52))
    pen.line([(0.38, 0.22), (0.5, 0.42)], 0.03, TIMBER_DARK)
    pen.polygon(
        [(-0.5, 0.42), (-0.4, 0.0), (0.3, 0.0), (0.46, 0.26), (0.3, 0.22), (-0.24, 0.22),
         (-0.28, 0.4)],
        darker(hull, 0.12),
    )  # fmt: skip
    for y in (0.08, 0.15):
        pen.line([(-0.44, y), (0.36, y)], 0.018, darker(hull, 0.45))
    pen.window(-0.42, 0.27, -0.33, 0.34)
    for x in (-0.2, -0.05, 0.1, 0.24):
        pen.box(x, 0.1, x + 0.05, 0.15, INK)


def _hydrofoil(pen: Pen, hull: RGB) -> None:
    """A sharp wedge that rides on foils, with a long canopy of glass and a swept fin."""
    glass = (150, 246, 255) if pen.dark else (44, 120, 176)
    pen.polygon([(-0.3, 0.26), (-0.4, 0.0), (-0.3, 0.0), (-0.18, 0.26)], darker(hull, 0.55))
    pen.polygon([(0.1, 0.26), (0.22, 0.0), (0.3, 0.0), (0.26, 0.26)], darker(hull, 0.55))
    pen.polygon([(-0.44, 0.44), (-0.5, 0.98), (-0.36, 0.98), (-0.1, 0.44)], darker(hull, 0.18))
    pen.blob(
        [(-0.26, 0.4), (-0.16, 0.7), (0.04, 0.76), (0.24, 0.58), (0.38, 0.4)], glass, lit=pen.dark,
    )  # fmt: skip
    pen.polygon([(-0.5, 0.5), (-0.44, 0.18), (0.2, 0.16), (0.5, 0.52), (0.1, 0.46)], hull)
    pen.polygon([(-0.48, 0.32), (-0.44, 0.18), (0.2, 0.16), (0.33, 0.32)], darker(hull, 0.3))
    pen.line([(-0.48, 0.34), (0.36, 0.35)], 0.045, NEON, lit=True)
    pen.line([(-0.5, 0.97), (-0.36, 0.97)], 0.04, PINK, lit=True)


def draw_car(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    rgb = rgb or (214, 62, 52)
    if style == "futuristic":
        glass = (150, 246, 255) if pen.dark else (70, 160, 206)
        pen.ellipse(0, 0.05, 0.86, 0.05, NEON, lit=True)
        pen.blob([(-0.5, 0.5), (-0.2, 0.9), (0.2, 0.94), (0.6, 0.5)], glass, lit=pen.dark)
        pen.line([(0.0, 0.5), (-0.04, 0.94)], 0.06, rgb)
        pen.blob(
            [(-1.0, 0.62), (-0.95, 0.22), (0, 0.14), (0.92, 0.2), (1.0, 0.36), (0.5, 0.58),
            (-0.3, 0.58)], rgb,
        )  # fmt: skip
        pen.polygon([(-1.0, 0.98), (-0.8, 0.98), (-0.55, 0.56), (-0.9, 0.5)], darker(rgb, 0.2))
        pen.line([(-0.9, 0.36), (0.9, 0.33)], 0.06, NEON, lit=True)
        return
    if style == "old":
        pen.box(-0.56, 0.4, 0.2, 1.0, darker(rgb, 0.12))
        pen.box(-0.62, 0.92, 0.26, 1.0, INK)
        pen.window(-0.48, 0.58, -0.2, 0.86)
        pen.window(-0.12, 0.58, 0.12, 0.86)
        pen.box(0.16, 0.26, 0.74, 0.6, rgb)
        pen.box(0.74, 0.22, 0.82, 0.64, (206, 186, 110))
        pen.disc(0.86, 0.52, 0.08, (255, 240, 170), lit=pen.dark)
        pen.box(-0.62, 0.2, 0.74, 0.5, rgb)
        pen.line([(-0.92, 0.24), (-0.56, 0.46), (0.2, 0.18), (0.5, 0.46), (0.86, 0.2)], 0.08, INK)
        for x in (-0.58, 0.54):
            pen.disc(x, 0.22, 0.22, INK)
            pen.disc(x, 0.22, 0.15, (226, 206, 150))
            for turn in np.arange(4) * np.pi / 4:
                dx, dy = 0.15 * float(np.cos(turn)), 0.15 * float(np.sin(turn))
                pen.line([(x - dx, 0.22 - dy), (x + dx, 0.22 + dy)], 0.035, INK)
        return
    pen.blob([(-0.62, 0.5), (-0.46, 0.9), (0, 0.98), (0.28, 0.9), (0.58, 0.5)], rgb)
    pen.polygon(
        [(-0.48, 0.52), (-0.37, 0.83), (-0.08, 0.86), (-0.08, 0.52)],
        (160, 208, 226) if not pen.dark else (90, 106, 130),
    )  # fmt: skip
    pen.polygon(
        [(0.0, 0.52), (0.0, 0.86), (0.23, 0.82), (0.44, 0.52)],
        (160, 208, 226) if not pen.dark else (90, 106, 130),
    )  # fmt: skip
    pen.blob(
        [(-0.98, 0.5), (-0.96, 0.2), (0, 0.16), (0.96, 0.2), (0.98, 0.42), (0.6, 0.54),
        (-0.6, 0.56)], rgb,
    )  # fmt: skip
    pen.box(-0.94, 0.17, 0.94, 0.26, darker(rgb, 0.3))
    pen.disc(0.88, 0.4, 0.07, (255, 240, 170), lit=pen.dark)
    for x in (-0.56, 0.56):
        pen.disc(x, 0.2, 0.2, INK)
        pen.disc(x, 0.2, 0.1, (206, 208, 214))


def draw_balloon(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    rgb = rgb or (226, 78, 64)
    accent = (250, 240, 222) if rgb != (244, 243, 238) else (200, 206, 216)
    top, wide = 0.64, 0.37
    t = np.linspace(0, np.pi, 17)
    for x in (-0.09, 0.09):
        pen.line([(x * 1.4, 0.34), (x, 0.13)], 0.016, INK)

    def gore(reach: float) -> list[tuple[float, float]]:
        """A line from pole to pole of the envelope, ``reach`` of its radius from the middle."""
        bulge = np.sin(t) ** 0.9 * np.where(t > np.pi / 2, 1 - 0.16 * (t / np.pi - 0.5), 1)
        foot = 0.12 * np.clip(2 * t / np.pi - 1, 0, 1) ** 2
        xs = reach * (wide * bulge + foot)
        ys = top + np.where(t < np.pi / 2, wide * np.cos(t), 0.36 * np.cos(t))
        return [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]

    for left, right, colour in (
        (-1, 1, rgb), (-0.66, -0.3, accent), (0.3, 0.66, accent), (0.66, 1, darker(rgb, 0.18)),
    ):  # fmt: skip
        pen.polygon(gore(left) + gore(right)[::-1], colour)
    pen.box(-0.12, 0.27, 0.12, 0.31, darker(rgb, 0.3))
    pen.polygon([(-0.11, 0.15), (0.11, 0.15), (0.085, 0), (-0.085, 0)], (156, 104, 58))
    pen.box(-0.12, 0.12, 0.12, 0.155, (112, 72, 42))
    if pen.dark:
        pen.ellipse(0, 0.24, 0.025, 0.04, (255, 206, 96), lit=True)


def draw_rocket(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    rgb = rgb or (232, 234, 238)
    fin = darker(rgb, 0.3) if rgb != (232, 234, 238) else (214, 62, 52)
    pen.blob(
        [(-0.1, 0.22), (-0.12, 0.1), (0, -0.0), (0.12, 0.1), (0.1, 0.22)], (255, 150, 50),
        lit=True,
    )  # fmt: skip
    pen.blob(
        [(-0.05, 0.22), (-0.06, 0.12), (0, 0.06), (0.06, 0.12), (0.05, 0.22)], (255, 236, 130),
        lit=True,
    )  # fmt: skip
    for side in (-1, 1):
        pen.polygon(
            [(side * 0.12, 0.5), (side * 0.28, 0.3), (side * 0.26, 0.14), (side * 0.1, 0.26)], fin,
        )  # fmt: skip
    pen.blob(
        [(-0.11, 0.2), (-0.17, 0.5), (-0.12, 0.8), (0, 1.0), (0.12, 0.8), (0.17, 0.5),
        (0.11, 0.2)], rgb,
    )  # fmt: skip
    pen.blob(
        [(0.03, 0.2), (0.09, 0.5), (0.06, 0.8), (0, 1.0), (0.12, 0.8), (0.17, 0.5), (0.11, 0.2)],
        darker(rgb, 0.15),
    )  # fmt: skip
    pen.polygon([(-0.122, 0.79), (-0.07, 0.92), (0, 1.0), (0.07, 0.92), (0.122, 0.79)], fin)
    pen.box(-0.11, 0.2, 0.11, 0.25, INK)
    pen.disc(0, 0.6, 0.085, WHITE)
    pen.disc(0, 0.6, 0.06, (88, 176, 216) if not pen.dark else (255, 220, 130), lit=pen.dark)


def draw_plane(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    rgb = rgb or (232, 234, 238)
    accent = (74, 128, 196) if rgb == (232, 234, 238) else darker(rgb, 0.3)
    pen.polygon([(-0.2, 0.5), (0.24, 0.5), (-0.02, 0.92), (-0.16, 0.92)], darker(rgb, 0.25))
    pen.polygon([(-0.96, 1.0), (-0.76, 1.0), (-0.5, 0.52), (-0.9, 0.46)], accent)
    pen.blob(
        [(-1.0, 0.54), (-0.8, 0.34), (0.5, 0.24), (0.86, 0.3), (1.0, 0.44), (0.8, 0.6),
        (0.4, 0.68), (-0.6, 0.62)], rgb,
    )  # fmt: skip
    pen.blob(
        [(-0.9, 0.42), (-0.7, 0.33), (0.5, 0.24), (0.86, 0.3), (0.98, 0.42), (0.4, 0.37),
        (-0.4, 0.38)], darker(rgb, 0.2),
    )  # fmt: skip
    glass = (255, 220, 130) if pen.dark else (70, 118, 160)
    for x in np.arange(-0.42, 0.56, 0.17):
        pen.disc(float(x), 0.53, 0.045, glass, lit=pen.dark)
    pen.polygon([(0.7, 0.48), (0.72, 0.62), (0.82, 0.59), (0.95, 0.48)], glass, lit=pen.dark)
    pen.polygon([(-0.16, 0.44), (0.3, 0.42), (-0.2, 0.0), (-0.36, 0.0)], accent)
    pen.polygon([(-1.0, 0.56), (-0.72, 0.54), (-0.88, 0.38), (-1.0, 0.38)], accent)


def draw_umbrella(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    rgb = rgb or (226, 78, 64)
    pen.line([(0, 0.9), (0, 0.06), (0.05, 0.02), (0.11, 0.03), (0.13, 0.1)], 0.035, (120, 84, 56))
    for reach, shade in ((0.54, lighter(rgb, 0.35)), (0.3, rgb)):
        # Panels by halves: the outer dome, the inner one before it, scalloped below.
        dome = [
            (float(reach * np.cos(a)), float(0.56 + 0.38 * np.sin(a)))
            for a in np.linspace(np.pi, 0, 15)
        ]
        hem = [(0.42, 0.61), (0.3, 0.56), (0.15, 0.61), (0.0, 0.56)]
        right = [(x, y) for x, y in hem if x < reach]
        pen.polygon([*dome, *right, *((-x, y) for x, y in right[-2::-1])], shade)
    pen.line([(0, 0.92), (0, 1.0)], 0.035, INK)


def draw_kite(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    rgb = rgb or (226, 78, 64)
    pen.line([(0, 0.34), (0.06, 0.24), (-0.05, 0.14), (0.04, 0.06), (0, 0)], 0.022, INK)
    for x, y in ((0.05, 0.24), (-0.03, 0.12)):
        pen.polygon([(x, y), (x - 0.09, y + 0.05), (x - 0.09, y - 0.05)], darker(rgb, 0.2))
        pen.polygon([(x, y), (x + 0.09, y + 0.05), (x + 0.09, y - 0.05)], darker(rgb, 0.2))
    pen.polygon([(0, 1.0), (-0.31, 0.7), (0, 0.33)], rgb)
    pen.polygon([(0, 1.0), (0.31, 0.7), (0, 0.33)], darker(rgb, 0.18))
    pen.polygon([(0, 1.0), (-0.31, 0.7), (0, 0.7)], lighter(rgb, 0.3))
    pen.line([(0, 1.0), (0, 0.33)], 0.02, INK)
    pen.line([(-0.31, 0.7), (0.31, 0.7)], 0.02, INK)
