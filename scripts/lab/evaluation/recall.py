"""Whether a model paints or recalls: its pictures beside all those of its recipe's training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lab.evaluation.nearest import Recall, Vectors, recall, thumbnails
from lab.evaluation.pictures import paint
from lab.evaluation.prompts import benchmark_prompts
from lab.evaluation.world_prompts import world_prompts
from lab.training.blocks import blocks
from lab.training.encoded import block_scenes
from lab.training.recipe import Recipe
from lab.training.sources import SceneSource, drawn_scenes, source_named

SHAPES_RECIPE = Path(__file__).parents[1] / "training" / "recipes" / "shapes.toml"

UNSEEN = 60_000_000
"""Seed of the drawn scenes that no training saw."""


def evaluate_recall(
    pipe: Any, recipe: Recipe, pictures: int, training: int, **painting: Any
) -> Recall:
    """Paint the first of the fixed prompts, group by group, and look for them in the training.

    Args:
        pipe: the model.
        recipe: what it was trained by, from which the training pictures are drawn again.
        pictures: how many to paint, and how many unseen scenes to draw.
        training: how many training pictures to look at; those of the latest blocks, which the
            model would know best.
        painting: see `lab.evaluation.pictures.paint`.
    """
    source = source_named(recipe.scenes)
    groups: Any = benchmark_prompts() if recipe.scenes == "shapes" else world_prompts()
    prompts = [each for group in groups.values() for each in group]
    spread = np.linspace(0, len(prompts) - 1, min(pictures, len(prompts))).round().astype(int)
    chosen = [prompts[index] for index in spread]
    shown = tqdm(paint(pipe, chosen, **painting), total=len(chosen), desc="painting", disable=None)
    unseen = drawn_scenes(source, [UNSEEN], len(chosen))[0]
    return recall(
        thumbnails(shown),
        thumbnails(source.picture(scene) for scene in unseen),
        _training(recipe, source, training),
    )


def _training(recipe: Recipe, source: SceneSource[Any], count: int) -> Iterator[Vectors]:
    """Thumbnails of the training pictures, the latest first, a few hundred at a time."""
    left = count
    with tqdm(total=count, desc="drawing the training set", disable=None) as bar:
        for number in reversed(range(blocks(recipe.denoiser))):
            scenes = block_scenes(recipe, source, number)
            for start in range(0, len(scenes), 256):
                part = scenes[start : min(start + 256, start + left)]
                yield thumbnails(source.picture(scene) for scene in part)
                left -= len(part)
                bar.update(len(part))
                if not left:
                    return
