"""Whose a pixel is: the sky's, a part of the place's, or a thing's."""

from __future__ import annotations

PARTS = (
    "sky",
    "grass",
    "hills",
    "water",
    "sand",
    "snow",
    "mountains",
    "forest",
    "skyline",
    "village",
    "pavement",
    "harbour",
    "farm",
    "street",
)
"""What a place is made of. Their order is that of their numbers on a canvas."""

FIRST_THING = len(PARTS)
"""The number of a scene's first thing on a canvas; the others follow."""


def owner_of(part: str) -> int:
    """The number of a part of the place."""
    return PARTS.index(part)
