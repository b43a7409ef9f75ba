"""Which scenes a step sees: they are drawn in blocks, and each block is used a few times."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.training.loop import seed_for
from t2i_xattn.training.recipe import DrawnSchedule, Recipe

BLOCK = 2048
"""Scenes of a block, which are shuffled anew each time that it is used."""


def block_and_rows(
    seed: int, stage: str, schedule: DrawnSchedule, step: int
) -> tuple[int, NDArray[np.int64]]:
    """The block of a step, counted from 0, and the rows of its scenes, a batch of them."""
    use, index = divmod(step, BLOCK // schedule.batch)
    rng = np.random.default_rng(seed_for(seed, f"{stage} order", use))
    rows = rng.permutation(BLOCK)[index * schedule.batch : (index + 1) * schedule.batch]
    return use // schedule.passes, rows


def blocks(schedule: DrawnSchedule) -> int:
    """How many blocks a stage sees in all its steps."""
    return -(-schedule.steps // (BLOCK // schedule.batch * schedule.passes))


def denoiser_blocks(recipe: Recipe) -> int:
    """How many blocks the denoiser sees in all its stages."""
    return blocks(recipe.denoiser) + (blocks(recipe.half_size) if recipe.half_size else 0)
