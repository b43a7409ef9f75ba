"""Which scenes a step sees: they are drawn in blocks, and each block is used a few times."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.training.loop import seed_for
from t2i_xattn.training.recipe import DrawnSchedule

BLOCK = 2048
"""Scenes of a block, which are shuffled anew each time that it is used."""

PART = 128
"""Scenes that are drawn at a time, from one generator."""


def parts() -> tuple[int, int]:
    """Parts of a block, and scenes of each."""
    rows = min(PART, BLOCK)
    return BLOCK // rows, rows


def block_and_rows(
    seed: int, stage: str, schedule: DrawnSchedule, step: int
) -> tuple[int, int, NDArray[np.int64]]:
    """The block of a step, how often it was used before, and the rows of a batch of its scenes."""
    use, index = divmod(step, BLOCK // schedule.batch)
    number, turn = divmod(use, schedule.passes)
    rng = np.random.default_rng(seed_for(seed, f"{stage} order", use))
    rows = rng.permutation(BLOCK)[index * schedule.batch : (index + 1) * schedule.batch]
    return number, turn, rows


def blocks(schedule: DrawnSchedule) -> int:
    """How many blocks a stage sees in all its steps."""
    return -(-schedule.steps // (BLOCK // schedule.batch * schedule.passes))
