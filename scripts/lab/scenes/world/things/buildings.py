"""Houses, towers, castles, lighthouses and bridges; old and futuristic ones too."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lab.scenes.language import RGB
from lab.scenes.world.canvas import Pen
from lab.scenes.world.colour import INK, NEON, WHITE, darker, lighter, mix

STONE: RGB = (176, 168, 158)
TIMBER: RGB = (92, 62, 44)
TILES: RGB = (188, 84, 62)


def draw_house(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    if style == "futuristic":
        _pod(pen, rgb or (226, 232, 240))
    elif style == "old":
        _timber_house(pen, rgb or (236, 220, 186))
    else:
        _house(pen, rgb or (246, 228, 196), darker(rgb, 0.5) if rgb else TILES)


def _house(pen: Pen, wall: RGB, roof: RGB) -> None:
    pen.box(0.2, 0.6, 0.33, 0.98, darker(wall, 0.3))
    pen.box(-0.43, 0, 0.43, 0.56, wall)
    pen.box(0.2, 0, 0.43, 0.56, darker(wall, 0.1))
    pen.polygon([(-0.55, 0.52), (-0.1, 1), (0.1, 1), (0.55, 0.52)], roof)
    pen.polygon([(0.1, 1), (0.55, 0.52), (0.3, 0.52)], darker(roof, 0.2))
    pen.box(-0.08, 0, 0.1, 0.34, darker(roof, 0.35))
    for left in (-0.34, 0.2):
        pen.box(left - 0.02, 0.18, left + 0.18, 0.4, WHITE)
        pen.window(left, 0.2, left + 0.16, 0.38)


def _timber_house(pen: Pen, wall: RGB) -> None:
    thatch: RGB = (150, 112, 62)
    pen.box(0.14, 0.6, 0.3, 1.0, STONE)
    pen.box(-0.36, 0, 0.36, 0.34, STONE)
    for x, y in ((-0.32, 0.06), (-0.14, 0.2), (0.18, 0.08), (0.26, 0.24), (-0.3, 0.26)):
        pen.box(x, y, x + 0.1, y + 0.05, darker(STONE, 0.2))
    pen.box(-0.44, 0.32, 0.44, 0.6, wall)
    for x in (-0.44, -0.24, 0.2, 0.39):
        pen.box(x, 0.32, x + 0.055, 0.62, TIMBER)
    pen.line([(-0.24, 0.34), (-0.42, 0.56)], 0.05, TIMBER)
    pen.line([(0.24, 0.34), (0.42, 0.56)], 0.05, TIMBER)
    pen.box(-0.46, 0.3, 0.46, 0.36, TIMBER)
    pen.polygon(
        [(-0.58, 0.5), (-0.3, 0.78), (-0.04, 1.04), (0.08, 1.02), (0.34, 0.76), (0.58, 0.5),
         (0.4, 0.54), (-0.4, 0.54)],
        thatch,
    )  # fmt: skip
    for x, y in ((-0.3, 0.68), (-0.1, 0.84), (0.12, 0.78), (0.28, 0.66), (0, 0.66)):
        pen.line([(x, y), (x - 0.03, y - 0.1)], 0.03, darker(thatch, 0.3))
    pen.blob([(-0.1, 0), (-0.1, 0.2), (0, 0.28), (0.1, 0.2), (0.1, 0)], TIMBER)
    pen.window(-0.11, 0.4, 0.12, 0.54)
    pen.box(-0.01, 0.4, 0.02, 0.54, TIMBER)


def _pod(pen: Pen, shell: RGB) -> None:
    """A dome of one piece with a band of glass, on a thin foot, with lights."""
    glass = (70, 190, 226) if not pen.dark else (150, 246, 255)
    pen.polygon([(-0.16, 0), (-0.1, 0.2), (0.1, 0.2), (0.16, 0)], darker(shell, 0.4))
    pen.blob(
        [(-0.56, 0.3), (-0.44, 0.6), (-0.18, 0.79), (0.18, 0.79), (0.44, 0.6), (0.56, 0.3),
         (0.3, 0.16), (-0.3, 0.16)],
        shell,
    )  # fmt: skip
    pen.blob(
        [(0.56, 0.3), (0.3, 0.16), (-0.3, 0.16), (-0.56, 0.3), (-0.1, 0.27), (0.2, 0.27)],
        darker(shell, 0.28),
    )
    pen.blob(
        [(-0.42, 0.4), (-0.3, 0.58), (0.02, 0.6), (0.36, 0.54), (0.42, 0.4), (0, 0.36)], glass,
        lit=pen.dark,
    )  # fmt: skip
    pen.line([(-0.1, 0.38), (-0.06, 0.6)], 0.025, shell)
    pen.line([(0.18, 0.38), (0.16, 0.6)], 0.025, shell)
    pen.line([(0.1, 0.76), (0.1, 1.0)], 0.03, darker(shell, 0.3))
    pen.disc(0.1, 0.98, 0.035, NEON, lit=True)
    pen.line([(-0.52, 0.28), (-0.2, 0.23), (0.2, 0.23), (0.52, 0.28)], 0.03, NEON, lit=True)


def draw_tower(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    if style == "futuristic":
        _needle(pen, rgb or (214, 222, 236))
    elif style == "old":
        _keep(pen, rgb or STONE)
    else:
        wall = rgb or (226, 206, 174)
        pen.box(-0.15, 0, 0.15, 0.68, wall)
        pen.box(0.06, 0, 0.15, 0.68, darker(wall, 0.15))
        pen.box(-0.19, 0.62, 0.19, 0.68, darker(wall, 0.3))
        pen.box(-0.17, 0.68, 0.17, 0.82, lighter(wall, 0.15))
        pen.polygon([(-0.22, 0.81), (0, 1.0), (0.22, 0.81)], darker(rgb, 0.5) if rgb else TILES)
        pen.disc(0, 0.74, 0.055, WHITE)
        pen.line([(0, 0.78), (0, 0.74), (0.03, 0.73)], 0.014, INK)
        for y in (0.2, 0.36, 0.52):
            pen.window(-0.04, y, 0.04, y + 0.09)
        pen.box(-0.06, 0, 0.06, 0.12, darker(wall, 0.55))


def _keep(pen: Pen, wall: RGB) -> None:
    """A round tower of stone, with battlements and a tooth or two missing."""
    pen.polygon(
        [(-0.22, 0), (-0.17, 0.3), (-0.16, 0.76), (0.16, 0.76), (0.17, 0.3), (0.22, 0)], wall,
    )  # fmt: skip
    pen.polygon([(0.06, 0), (0.06, 0.76), (0.16, 0.76), (0.17, 0.3), (0.22, 0)], darker(wall, 0.2))
    pen.box(-0.22, 0.74, 0.22, 0.88, darker(wall, 0.08))
    for left, top in ((-0.22, 0.98), (-0.1, 0.96), (0.02, 0.98), (0.14, 0.93)):
        pen.box(left, 0.86, left + 0.08, top, darker(wall, 0.08))
    for x, y in (
        (-0.12, 0.14), (0, 0.24), (-0.13, 0.36), (0.03, 0.46), (-0.1, 0.56), (0.05, 0.68),
        (-0.15, 0.66),
    ):  # fmt: skip
        pen.box(x, y, x + 0.08, y + 0.03, darker(wall, 0.3))
    pen.window(-0.03, 0.52, 0.03, 0.64)
    pen.window(-0.03, 0.32, 0.03, 0.42)
    pen.blob([(-0.07, 0), (-0.07, 0.1), (0, 0.17), (0.07, 0.1), (0.07, 0)], TIMBER)
    ivy: RGB = (84, 120, 62)
    pen.blob(
        [(-0.22, 0), (-0.19, 0.2), (-0.15, 0.42), (-0.11, 0.34), (-0.13, 0.16), (-0.1, 0)], ivy,
    )  # fmt: skip


def _needle(pen: Pen, shell: RGB) -> None:
    """A slim shaft that carries two discs and a spire."""
    glass = (150, 246, 255) if pen.dark else (78, 186, 224)
    pen.polygon(
        [(-0.16, 0), (-0.05, 0.28), (-0.04, 0.7), (0.04, 0.7), (0.05, 0.28), (0.16, 0)], shell,
    )  # fmt: skip
    pen.polygon([(0, 0), (0, 0.7), (0.04, 0.7), (0.05, 0.28), (0.16, 0)], darker(shell, 0.22))
    for y, wide in ((0.44, 0.17), (0.68, 0.25)):
        pen.polygon([(-wide, y), (-0.05, y - 0.1), (0.05, y - 0.1), (wide, y)], darker(shell, 0.3))
        pen.ellipse(0, y + 0.012, wide, 0.036, glass, lit=pen.dark)
        pen.polygon(
            [(-wide * 0.94, y + 0.024), (-0.07, y + 0.1), (0.07, y + 0.1),
            (wide * 0.94, y + 0.024)], shell,
        )  # fmt: skip
        pen.line([(-wide, y), (wide, y)], 0.016, NEON, lit=True)
    pen.polygon([(-0.03, 0.74), (0, 1), (0.03, 0.74)], shell)
    pen.disc(0, 0.98, 0.02, (255, 96, 160), lit=True)


def draw_castle(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    wall = rgb or (206, 198, 196)
    roof = darker(rgb, 0.55) if rgb else (92, 96, 150)
    pen.box(-0.16, 0.3, 0.16, 0.68, darker(wall, 0.12))
    pen.polygon([(-0.2, 0.67), (0, 0.95), (0.2, 0.67)], roof)
    pen.line([(0, 0.92), (0, 1.02)], 0.02, INK)
    pen.polygon([(0, 1.02), (0.14, 0.98), (0, 0.94)], (226, 70, 70))
    for left in (-0.36, -0.2, -0.04, 0.12, 0.28):
        pen.box(left, 0.4, left + 0.09, 0.46, wall)
    pen.box(-0.4, 0, 0.4, 0.41, wall)
    for side in (-1, 1):
        pen.box(side * 0.4 - 0.15, 0, side * 0.4 + 0.15, 0.58, wall)
        pen.box(side * 0.4 + 0.04, 0, side * 0.4 + 0.15, 0.58, darker(wall, 0.15))
        pen.polygon(
            [(side * 0.4 - 0.19, 0.57), (side * 0.4, 0.86), (side * 0.4 + 0.19, 0.57)], roof,
        )  # fmt: skip
        pen.window(side * 0.4 - 0.04, 0.34, side * 0.4 + 0.04, 0.47)
    pen.window(-0.05, 0.49, 0.05, 0.61)
    pen.blob([(-0.12, 0), (-0.12, 0.18), (0, 0.3), (0.12, 0.18), (0.12, 0)], TIMBER)


def draw_lighthouse(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    rgb = rgb or (214, 62, 52)
    edges = np.linspace(0.02, 0.74, 6)
    for index, (low, high) in enumerate(pairwise(edges)):
        wide, slim = 0.2 - 0.1 * low / 0.74, 0.2 - 0.1 * high / 0.74
        band = rgb if index % 2 == 0 else WHITE
        pen.polygon([(-wide, low), (-slim, high), (slim, high), (wide, low)], band)
        pen.polygon(
            [(wide * 0.35, low), (slim * 0.35, high), (slim, high), (wide, low)],
            darker(band, 0.16),
        )  # fmt: skip
    pen.box(-0.23, 0, 0.23, 0.05, (120, 112, 108))
    pen.box(-0.16, 0.73, 0.16, 0.77, INK)
    pen.box(-0.09, 0.77, 0.09, 0.89, (255, 236, 150) if pen.dark else (214, 236, 244), lit=pen.dark)
    pen.box(-0.012, 0.77, 0.012, 0.89, INK)
    pen.polygon([(-0.13, 0.88), (0, 1.0), (0.13, 0.88)], darker(rgb, 0.15))
    pen.window(-0.04, 0.34, 0.04, 0.42)
    pen.box(-0.06, 0.05, 0.06, 0.17, darker(rgb, 0.6))


def draw_bridge(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    if style == "old":
        _arches(pen, rgb or STONE)
        return
    rgb = rgb or ((222, 230, 240) if style == "futuristic" else (200, 72, 56))
    deck = darker(rgb, 0.3)
    if style == "futuristic":
        # One leaning mast that holds the deck by a fan of stays.
        for share in np.linspace(0.15, 1, 8):
            pen.line(
                [(-0.13, 0.98 - 0.3 * (1 - share)), (-0.2 + 1.4 * share, 0.24)], 0.022,
                lighter(rgb),
            )  # fmt: skip
        for share in np.linspace(0.25, 1, 5):
            pen.line([(-0.15, 0.9), (-0.3 - 0.9 * share, 0.24)], 0.022, lighter(rgb))
        pen.polygon([(-0.42, 0), (-0.16, 1.0), (-0.08, 1.0), (-0.2, 0)], rgb)
        pen.blob(
            [(-1.25, 0.17), (-0.6, 0.25), (0.6, 0.25), (1.25, 0.17), (0.6, 0.12), (-0.6, 0.12)],
            deck,
        )  # fmt: skip
        pen.line([(-1.2, 0.19), (1.2, 0.19)], 0.045, NEON, lit=True)
        return
    for x in (-0.62, 0.62):
        pen.box(x - 0.09, 0, x - 0.035, 1, rgb)
        pen.box(x + 0.035, 0, x + 0.09, 1, darker(rgb, 0.15))
        for y in (0.55, 0.8, 0.96):
            pen.box(x - 0.09, y - 0.04, x + 0.09, y + 0.04, rgb)
    t = np.linspace(0, 1, 16)
    cables = [(-0.62 + 1.24 * t, 0.96 - 2.4 * t * (1 - t)), (0.62 + 0.63 * t, 0.96 - 0.7 * t),
              (-0.62 - 0.63 * t, 0.96 - 0.7 * t)]  # fmt: skip
    for xs, ys in cables:
        pen.line([(float(x), float(y)) for x, y in zip(xs, ys, strict=True)], 0.05, rgb)
        for x, y in list(zip(xs, ys, strict=True))[1::2]:
            pen.line([(float(x), float(y)), (float(x), 0.2)], 0.022, rgb)
    pen.box(-1.25, 0.14, 1.25, 0.25, deck)


def _arches(pen: Pen, wall: RGB) -> None:
    """Three stone arches; the water shows through them."""
    top = [(-1.25, 0.62), (-0.5, 0.8), (0, 0.86), (0.5, 0.8), (1.25, 0.62)]
    t = np.linspace(0, np.pi, 9)
    under: list[tuple[float, float]] = []
    for x, wide, tall in ((0.78, 0.26, 0.44), (0.0, 0.36, 0.62), (-0.78, 0.26, 0.44)):
        under += [(float(x + wide * np.cos(a)), float(tall * np.sin(a) ** 0.8)) for a in t]
    pen.polygon([*top, (1.25, 0), *under, (-1.25, 0)], wall)
    pen.line(top, 0.08, darker(wall, 0.25))
    for x, wide, tall in ((0.78, 0.26, 0.44), (0.0, 0.36, 0.62), (-0.78, 0.26, 0.44)):
        arch = [
            (float(x + (wide + 0.04) * np.cos(a)), float((tall + 0.04) * np.sin(a) ** 0.8))
            for a in t
        ]
        pen.line(arch, 0.06, mix(wall, INK, 0.3))
    for x, y in (
        (-1.1, 0.5), (-0.46, 0.62), (-0.38, 0.3), (0.36, 0.62), (0.42, 0.24), (1.08, 0.46),
    ):  # fmt: skip
        pen.box(x, y, x + 0.12, y + 0.05, darker(wall, 0.2))
