"""The recipe of the vision encoder and of the adapters, read from a TOML file and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab.training.recipe import Schedule, build, read_toml

EXAMPLE = "picture_prompts.toml"


@dataclass(frozen=True, kw_only=True)
class VisionRecipe(Schedule):
    """A CLIP vision model. ``width`` to ``patch`` are its form, ``embedding`` what it gives."""

    width: int
    layers: int
    heads: int
    patch: int
    embedding: int


@dataclass(frozen=True, kw_only=True)
class AdapterRecipe(Schedule):
    """An adapter. ``tokens`` stand for a picture; the others are shares of the batch:

    ``elsewhere`` of pictures whose thing is painted in a place that the text tells, ``alone`` of
    pictures without a text, ``with_text`` of pictures beside a text that tells all; of the rest
    the picture is dropped. ``thing_weight`` is that of a thing's places in the loss.
    """

    tokens: int
    elsewhere: float
    alone: float
    with_text: float
    thing_weight: float
    timestep_power: float


@dataclass(frozen=True)
class PicturePromptRecipe:
    """The field names are those of the TOML file. ``scenes`` is how many are drawn, ``distilled``
    the stage in which the separate adapter learns from the concatenated one, ``refined`` one in
    which it learns on as in ``separate``."""

    seed: int
    mixed_precision: str
    scenes: int
    vision: VisionRecipe
    concatenated: AdapterRecipe
    distilled: AdapterRecipe
    separate: AdapterRecipe
    refined: AdapterRecipe


PARTS = {
    "vision": VisionRecipe,
    "concatenated": AdapterRecipe,
    "distilled": AdapterRecipe,
    "separate": AdapterRecipe,
    "refined": AdapterRecipe,
}


def load_picture_prompt_recipe(path: Path) -> PicturePromptRecipe:
    """Read a recipe.

    Raises:
        UserError: the file is not there, is not TOML, or has missing or unknown settings.
    """
    raw = read_toml(path)
    parts = {
        name: build(kind, raw.pop(name, {}), f"[{name}]", EXAMPLE) for name, kind in PARTS.items()
    }
    recipe: PicturePromptRecipe = build(PicturePromptRecipe, raw | parts, "top level", EXAMPLE)
    return recipe
