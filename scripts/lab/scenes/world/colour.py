"""Colours as triples: mixed, darkened, lightened, tinted."""

from __future__ import annotations

from lab.scenes.language import RGB

WHITE: RGB = (250, 249, 244)
INK: RGB = (38, 36, 46)
NEON: RGB = (84, 240, 250)
PINK: RGB = (255, 92, 190)


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """``first`` where ``share`` is 0, ``second`` where it is 1."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def darker(rgb: RGB, share: float = 0.25) -> RGB:
    """Towards a blue black, as shadows are."""
    return mix(rgb, (20, 18, 45), share)


def lighter(rgb: RGB, share: float = 0.3) -> RGB:
    """Towards white."""
    return mix(rgb, (255, 252, 244), share)


def tinted(rgb: RGB, tint: tuple[float, float, float]) -> RGB:
    """What is left of a colour under a light that reflects ``tint`` of red, green, blue."""
    red, green, blue = (
        min(255, round(value * part)) for value, part in zip(rgb, tint, strict=True)
    )
    return red, green, blue
