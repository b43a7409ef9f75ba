"""Sources of scenes to train on, by the name that a recipe gives."""

from __future__ import annotations

from typing import Any

from lab.training.sources.shapes import ShapeScenes
from lab.training.sources.source import (
    NOTHING,
    SceneSource,
    descriptions,
    drawn_scenes,
    pictures,
    pixels,
)
from lab.training.sources.world import WorldScenes
from t2i_xattn.errors import UserError

__all__ = [
    "NOTHING",
    "SceneSource",
    "ShapeScenes",
    "WorldScenes",
    "descriptions",
    "drawn_scenes",
    "pictures",
    "pixels",
    "source_named",
]

SOURCES: dict[str, type[SceneSource[Any]]] = {"shapes": ShapeScenes, "world": WorldScenes}


def source_named(name: str) -> SceneSource[Any]:
    """The source that a recipe's ``scenes`` names.

    Raises:
        UserError: there is none of that name.
    """
    if name not in SOURCES:
        raise UserError(
            f"Expected scenes that are one of {', '.join(SOURCES)}, got {name!r}; "
            "change `scenes` in the recipe."
        )
    return SOURCES[name]()
