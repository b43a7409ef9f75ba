"""Which scenes a step sees: they are drawn in blocks, and each block is used a few times."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lab.training.drawing import Arrays, Drawers, DrawnBlocks
from lab.training.loop import seed_for
from lab.training.recipe import DrawnSchedule

Ready = TypeVar("Ready")

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


class SteppedBlocks(Generic[Ready]):
    """The block that each step of a stage sees: drawn, made ready once, and used a few times.

    Args:
        seed: of the recipe.
        stage: its name, which is part of the seed.
        schedule: its batches and passes.
        drawers: who draws.
        draw: draws a part of a block from the number of scenes of a part, the block's number and
            the part's.
        ready: makes of a block what the steps take their rows of.
    """

    def __init__(
        self,
        seed: int,
        stage: str,
        schedule: DrawnSchedule,
        drawers: Drawers,
        draw: Callable[[int, int, int], Arrays],
        ready: Callable[[Arrays], Ready],
    ) -> None:
        self.seed, self.stage, self.schedule, self.ready = seed, stage, schedule, ready
        count, rows = parts()
        self.drawn = DrawnBlocks(drawers, partial(draw, rows), count, blocks(schedule))
        self.number = -1
        self.block: Ready

    def at(self, step: int) -> tuple[Ready, int, NDArray[np.int64]]:
        """A step's block, how often it was used before, and the rows of a batch of its scenes."""
        number, turn, rows = block_and_rows(self.seed, self.stage, self.schedule, step)
        if number != self.number:
            self.block = self.ready(self.drawn.at(number))
            self.number = number
        return self.block, turn, rows


def blocks(schedule: DrawnSchedule) -> int:
    """How many blocks a stage sees in all its steps."""
    return -(-schedule.steps // (BLOCK // schedule.batch * schedule.passes))
