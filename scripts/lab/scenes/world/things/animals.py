"""Animals of simple outline. They look to the right."""

from __future__ import annotations

from lab.scenes.language import RGB
from lab.scenes.world.canvas import Pen
from lab.scenes.world.colour import INK, WHITE, darker, lighter

BEAK: RGB = (248, 158, 44)


def _eye(pen: Pen, x: float, y: float, radius: float, coat: RGB) -> None:
    """Dark on light coats, and with a white of its own on dark ones."""
    if sum(coat) < 300:
        pen.disc(x, y, radius * 1.3, WHITE)
    pen.disc(x, y, radius, INK)
    pen.disc(x + radius * 0.3, y + radius * 0.35, radius * 0.34, WHITE)


def draw_cat(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    coat = rgb or (232, 150, 72)
    belly, shade = lighter(coat, 0.5), darker(coat, 0.22)
    pen.line([(-0.2, 0.08), (-0.36, 0.08), (-0.42, 0.2), (-0.37, 0.38), (-0.42, 0.48)], 0.1, shade)
    pen.disc(-0.42, 0.48, 0.05, shade)
    pen.blob(
        [(-0.27, 0.02), (-0.25, 0.3), (-0.14, 0.54), (0.16, 0.54), (0.25, 0.3), (0.27, 0.02),
        (0, -0.02)], coat,
    )  # fmt: skip
    pen.blob([(-0.1, 0.04), (-0.1, 0.3), (0, 0.46), (0.1, 0.3), (0.1, 0.04)], belly)
    for x in (-0.11, 0.11):
        pen.ellipse(x, 0.04, 0.08, 0.045, coat)
        pen.line([(x * 0.4, 0.04), (x * 0.4, 0.2)], 0.018, shade)
    for side in (-1, 1):
        pen.polygon([(side * 0.29, 0.74), (side * 0.27, 1.0), (side * 0.06, 0.88)], coat)
        pen.polygon(
            [(side * 0.25, 0.79), (side * 0.24, 0.93), (side * 0.12, 0.86)], (240, 160, 160)
        )
    pen.ellipse(0, 0.7, 0.31, 0.22, coat)
    for x in (-0.07, 0, 0.07):
        pen.line([(x, 0.91), (x * 0.8, 0.82)], 0.028, shade)
    pen.ellipse(0, 0.61, 0.13, 0.08, belly)
    for x in (-0.13, 0.13):
        pen.ellipse(x, 0.72, 0.055, 0.065, (226, 240, 130) if sum(coat) < 420 else WHITE)
        pen.ellipse(x, 0.72, 0.032, 0.055, INK)
    pen.polygon([(-0.03, 0.655), (0.03, 0.655), (0, 0.62)], (222, 110, 120))
    for side in (-1, 1):
        for drop in (0.0, 0.05):
            pen.line(
                [(side * 0.16, 0.63 - drop / 2), (side * 0.4, 0.66 - drop * 1.6)], 0.014,
                WHITE if sum(coat) < 300 else darker(coat, 0.5),
            )  # fmt: skip


def draw_dog(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    coat = rgb or (196, 136, 82)
    shade, belly = darker(coat, 0.25), lighter(coat, 0.45)
    pen.line([(-0.42, 0.44), (-0.54, 0.58), (-0.55, 0.74)], 0.09, shade)
    pen.disc(-0.55, 0.74, 0.045, shade)
    for x in (-0.28, 0.24):
        pen.box(x, 0.0, x + 0.12, 0.3, shade)
    pen.blob(
        [(-0.45, 0.3), (-0.44, 0.5), (-0.2, 0.55), (0.2, 0.58), (0.34, 0.5), (0.32, 0.26),
        (0, 0.22), (-0.36, 0.2)], coat,
    )  # fmt: skip
    for x in (-0.44, 0.12):
        pen.box(x, 0.0, x + 0.14, 0.36, coat)
        pen.box(x, 0.0, x + 0.16, 0.06, belly)
    pen.blob(
        [(0.08, 0.5), (0.1, 0.82), (0.3, 0.96), (0.46, 0.84), (0.44, 0.56), (0.26, 0.46)], coat
    )
    pen.blob(
        [(0.32, 0.6), (0.36, 0.76), (0.56, 0.74), (0.61, 0.64), (0.54, 0.56), (0.4, 0.54)], belly,
    )  # fmt: skip
    pen.ellipse(0.575, 0.71, 0.05, 0.04, INK)
    pen.line([(0.55, 0.6), (0.42, 0.6)], 0.02, INK)
    pen.blob([(0.06, 0.86), (0.2, 0.94), (0.22, 0.72), (0.14, 0.5), (0.04, 0.56)], shade)
    _eye(pen, 0.36, 0.82, 0.04, coat)
    pen.line(
        [(0.1, 0.5), (0.26, 0.43), (0.4, 0.5)], 0.06,
        (206, 52, 56) if rgb != (214, 40, 40) else (250, 220, 90),
    )  # fmt: skip
    pen.disc(0.27, 0.4, 0.035, (255, 216, 90))


def draw_rabbit(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    coat = rgb or (206, 184, 160)
    shade, belly = darker(coat, 0.2), lighter(coat, 0.6)
    pen.disc(-0.27, 0.14, 0.1, belly)
    for x, lean in ((-0.1, -0.05), (0.1, 0.05)):
        pen.blob(
            [(x - 0.05, 0.64), (x - 0.085 + lean, 0.84), (x + lean, 1.01),
            (x + 0.085 + lean, 0.84), (x + 0.05, 0.64)], coat,
        )  # fmt: skip
        pen.blob(
            [(x - 0.02, 0.68), (x - 0.04 + lean, 0.84), (x + lean, 0.95), (x + 0.04 + lean, 0.84),
            (x + 0.02, 0.68)], (244, 168, 176),
        )  # fmt: skip
    pen.blob(
        [(-0.25, 0.0), (-0.28, 0.2), (-0.15, 0.42), (0.15, 0.42), (0.28, 0.2), (0.25, 0.0)], coat,
    )  # fmt: skip
    pen.ellipse(0, 0.17, 0.14, 0.16, belly)
    for x in (-0.17, 0.17):
        pen.ellipse(x, 0.035, 0.12, 0.045, shade)
    pen.ellipse(0, 0.54, 0.23, 0.19, coat)
    for x in (-0.1, 0.1):
        _eye(pen, x, 0.57, 0.038, coat)
        pen.ellipse(x * 1.5, 0.49, 0.045, 0.026, (246, 160, 160))
    pen.ellipse(0, 0.485, 0.07, 0.045, belly)
    pen.ellipse(0, 0.515, 0.028, 0.02, (222, 104, 120))
    pen.box(-0.025, 0.41, 0.025, 0.46, WHITE)


def draw_bird(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    coat = rgb or (66, 140, 206)
    shade, belly = darker(coat, 0.28), lighter(coat, 0.55)
    pen.polygon([(-0.36, 0.42), (-0.65, 0.56), (-0.62, 0.4), (-0.66, 0.28)], shade)
    pen.blob([(0.0, 0.46), (-0.12, 0.8), (-0.34, 0.98), (-0.34, 0.72), (-0.26, 0.5)], shade)
    pen.blob(
        [(-0.46, 0.42), (-0.2, 0.2), (0.14, 0.12), (0.36, 0.26), (0.4, 0.46), (0.16, 0.56),
        (-0.14, 0.52)], coat,
    )  # fmt: skip
    pen.blob([(-0.18, 0.24), (0.1, 0.12), (0.34, 0.26), (0.28, 0.36), (0.04, 0.26)], belly)
    pen.disc(0.36, 0.5, 0.18, coat)
    pen.polygon(
        [(0.5, 0.57), (0.67, 0.48), (0.5, 0.42)],
        BEAK if rgb != (245, 130, 30) else (255, 214, 84),
    )  # fmt: skip
    _eye(pen, 0.4, 0.55, 0.045, coat)
    pen.blob(
        [(0.12, 0.42), (0.16, 0.74), (0.0, 1.02), (-0.12, 0.76), (-0.18, 0.46)],
        darker(coat, 0.14),
    )  # fmt: skip
    pen.line([(0.02, 0.5), (0.0, 0.84)], 0.03, shade)


def draw_butterfly(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    wing = rgb or (240, 140, 40)
    for side in (-1, 1):
        pen.blob(
            [(0, 0.5), (side * 0.2, 0.9), (side * 0.52, 1.0), (side * 0.58, 0.72),
            (side * 0.34, 0.48)], darker(wing, 0.35),
        )  # fmt: skip
        pen.blob(
            [(0, 0.46), (side * 0.38, 0.46), (side * 0.46, 0.2), (side * 0.28, 0.02),
            (side * 0.1, 0.16)], darker(wing, 0.35),
        )  # fmt: skip
        pen.blob(
            [(side * 0.05, 0.54), (side * 0.22, 0.84), (side * 0.48, 0.93), (side * 0.52, 0.72),
            (side * 0.32, 0.53)], wing,
        )  # fmt: skip
        pen.blob(
            [(side * 0.05, 0.42), (side * 0.34, 0.42), (side * 0.4, 0.22), (side * 0.27, 0.08),
            (side * 0.12, 0.2)], wing,
        )  # fmt: skip
        pen.disc(side * 0.38, 0.76, 0.07, lighter(wing, 0.6))
        pen.disc(side * 0.27, 0.24, 0.055, lighter(wing, 0.6))
        pen.line([(0, 0.74), (side * 0.06, 0.86), (side * 0.13, 0.95)], 0.025, INK)
    pen.blob([(-0.04, 0.2), (-0.05, 0.6), (0, 0.78), (0.05, 0.6), (0.04, 0.2), (0, 0.12)], INK)


def draw_duck(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    coat = rgb or (255, 212, 70)
    shade = darker(coat, 0.2)
    pen.polygon([(-0.42, 0.3), (-0.6, 0.52), (-0.3, 0.42)], shade)
    pen.blob(
        [(-0.5, 0.36), (-0.42, 0.1), (-0.14, -0.01), (0.26, 0.0), (0.46, 0.16), (0.44, 0.4),
        (0.2, 0.42), (-0.1, 0.36)], coat,
    )  # fmt: skip
    pen.blob([(0.1, 0.3), (0.14, 0.56), (0.4, 0.56), (0.46, 0.3)], coat)
    pen.disc(0.26, 0.74, 0.22, coat)
    pen.blob(
        [(0.42, 0.78), (0.62, 0.74), (0.6, 0.64), (0.42, 0.62)],
        BEAK if rgb != (245, 130, 30) else (255, 214, 84),
    )  # fmt: skip
    _eye(pen, 0.32, 0.82, 0.045, coat)
    pen.blob([(-0.34, 0.3), (-0.1, 0.34), (0.12, 0.26), (0.0, 0.1), (-0.22, 0.12)], shade)


def draw_penguin(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    coat = rgb or (52, 54, 72)
    for x in (-0.12, 0.12):
        pen.ellipse(x, 0.035, 0.11, 0.045, BEAK)
    for side in (-1, 1):
        pen.blob(
            [(side * 0.2, 0.62), (side * 0.32, 0.4), (side * 0.33, 0.2), (side * 0.22, 0.34)],
            darker(coat, 0.25),
        )  # fmt: skip
    pen.blob(
        [(-0.24, 0.06), (-0.27, 0.4), (-0.2, 0.74), (-0.16, 0.92), (0, 1.0), (0.16, 0.92),
        (0.2, 0.74), (0.27, 0.4), (0.24, 0.06), (0, 0.02)], coat,
    )  # fmt: skip
    pen.blob(
        [(-0.16, 0.08), (-0.19, 0.36), (-0.1, 0.58), (0, 0.62), (0.1, 0.58), (0.19, 0.36),
        (0.16, 0.08), (0, 0.05)], WHITE,
    )  # fmt: skip
    for x in (-0.075, 0.075):
        pen.disc(x, 0.8, 0.085, WHITE)
        pen.disc(x * 0.9, 0.82, 0.032, INK)
    pen.polygon([(-0.075, 0.77), (0.075, 0.77), (0, 0.67)], BEAK)


def draw_whale(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    coat = rgb or (62, 112, 178)
    spray: RGB = (232, 246, 252)
    pen.line([(0.36, 0.64), (0.36, 0.86), (0.24, 0.96)], 0.05, spray)
    pen.line([(0.36, 0.84), (0.48, 0.96)], 0.05, spray)
    pen.disc(0.22, 0.95, 0.04, spray)
    pen.disc(0.5, 0.95, 0.04, spray)
    pen.blob(
        [(-0.62, 0.6), (-0.84, 0.84), (-0.72, 0.92), (-0.6, 0.78), (-0.48, 0.92), (-0.36, 0.82),
        (-0.5, 0.6)], darker(coat, 0.12),
    )  # fmt: skip
    pen.blob(
        [(-0.62, 0.6), (-0.48, 0.14), (-0.1, 0.0), (0.6, 0.0), (0.8, 0.24), (0.7, 0.54),
        (0.36, 0.66), (-0.02, 0.54), (-0.34, 0.38), (-0.5, 0.62)], coat,
    )  # fmt: skip
    pen.blob(
        [(-0.28, 0.08), (-0.1, 0.0), (0.6, 0.0), (0.78, 0.22), (0.4, 0.16), (0.1, 0.14)],
        lighter(coat, 0.62),
    )  # fmt: skip
    _eye(pen, 0.56, 0.36, 0.045, coat)
    pen.blob([(0.1, 0.22), (0.3, 0.2), (0.16, 0.02), (0.04, 0.06)], darker(coat, 0.25))


def draw_fish(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    scale = rgb or (246, 140, 50)
    fin = darker(scale, 0.25)
    pen.blob([(-0.4, 0.5), (-0.74, 0.84), (-0.62, 0.5), (-0.74, 0.14)], fin)
    pen.blob([(-0.2, 0.76), (0.0, 1.0), (0.24, 0.92), (0.26, 0.78)], fin)
    pen.blob([(-0.1, 0.2), (-0.06, 0.0), (0.16, 0.1), (0.14, 0.22)], fin)
    pen.blob(
        [(-0.46, 0.5), (-0.2, 0.8), (0.26, 0.86), (0.6, 0.66), (0.72, 0.5), (0.6, 0.32),
        (0.26, 0.14), (-0.2, 0.2)], scale,
    )  # fmt: skip
    for x, half in ((-0.16, 0.26), (0.14, 0.33)):
        pen.blob(
            [(x, 0.5 - half), (x - 0.06, 0.5), (x, 0.5 + half), (x + 0.11, 0.5 + half),
            (x + 0.06, 0.5), (x + 0.11, 0.5 - half)], lighter(scale, 0.65),
        )  # fmt: skip
    pen.disc(0.48, 0.6, 0.1, WHITE)
    pen.disc(0.5, 0.6, 0.055, INK)
    pen.line([(0.68, 0.42), (0.58, 0.4)], 0.03, darker(scale, 0.5))
    pen.blob([(0.2, 0.5), (0.36, 0.46), (0.24, 0.32), (0.14, 0.38)], fin)


def draw_turtle(pen: Pen, rgb: RGB | None, style: str | None) -> None:
    shell = rgb or (70, 150, 90)
    skin: RGB = (166, 196, 120)
    pen.blob(
        [(0.2, 0.3), (0.4, 0.1), (0.34, -0.02), (0.12, 0.14), (0.04, 0.28)], darker(skin, 0.15)
    )
    pen.blob([(-0.4, 0.3), (-0.62, 0.08), (-0.5, 0.04), (-0.3, 0.2)], darker(skin, 0.15))
    pen.polygon([(-0.5, 0.4), (-0.78, 0.36), (-0.54, 0.3)], skin)
    pen.blob(
        [(0.44, 0.34), (0.5, 0.62), (0.68, 0.72), (0.8, 0.58), (0.72, 0.42), (0.54, 0.32)], skin,
    )  # fmt: skip
    _eye(pen, 0.68, 0.6, 0.045, skin)
    pen.blob(
        [(-0.58, 0.34), (-0.44, 0.76), (0.0, 0.98), (0.42, 0.74), (0.54, 0.36), (0, 0.26)], shell,
    )  # fmt: skip
    for x, y, wide in ((-0.3, 0.58, 0.12), (0.0, 0.7, 0.14), (0.27, 0.56, 0.11)):
        pen.polygon(
            [(x - wide, y), (x - wide / 2, y + 0.15), (x + wide / 2, y + 0.15), (x + wide, y),
            (x + wide / 2, y - 0.15), (x - wide / 2, y - 0.15)], darker(shell, 0.25),
        )  # fmt: skip
    pen.blob(
        [(-0.58, 0.36), (0, 0.28), (0.54, 0.38), (0.4, 0.28), (0, 0.2), (-0.44, 0.26)],
        lighter(skin, 0.3),
    )  # fmt: skip
    pen.blob([(0.1, 0.3), (0.34, 0.28), (0.24, -0.0), (0.1, 0.04)], skin)
