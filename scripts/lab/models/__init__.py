"""The lab's own models, beside the one in the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2i_xattn.models.default import WORLD, load_pipeline

SHAPES = Path(__file__).parent / "shapes"
"""Coloured shapes on plain grounds: the first model, half as large as the world."""

MODELS = {"world": WORLD, "shapes": SHAPES}


def load_model(name: str | None, box: str = "world", **kwargs: Any) -> Any:
    """A pipeline: a model of ours by its name, or any folder or hub name.

    Args:
        name: ``world``, ``shapes``, a folder, or a hub name; a folder goes before our names.
        box: ours where no name is given.
        kwargs: passed on to ``from_pretrained``.
    """
    chosen = name or box
    return load_pipeline(
        MODELS[chosen] if chosen in MODELS and not Path(chosen).exists() else chosen, **kwargs
    )
