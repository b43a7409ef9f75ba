"""Blocks of drawn scenes: by this process, or ahead of it by several beside it.

A part of a block is a function of the block's and its own number alone, so it does not matter who
draws it or when.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch

Arrays = dict[str, np.ndarray]
"""What is drawn, by name; the first axis of each array is that of the scenes."""

DrawPart = Callable[[int, int], Arrays]
"""Draws a part of a block, by the numbers of the block and of the part. It can be pickled."""

AHEAD = 3
"""Parts that wait for each process."""


def _begin_worker() -> None:
    torch.set_num_threads(1)
    # An interrupt is for the process that trains: it saves first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Drawers:
    """Processes that draw. With none, whoever asks for a block draws it.

    Args:
        processes: how many.
    """

    def __init__(self, processes: int = 0) -> None:
        self.processes = processes
        # Not by forking, as this process may hold an accelerator.
        self._pool = (
            ProcessPoolExecutor(processes, get_context("spawn"), _begin_worker)
            if processes
            else None
        )

    def __enter__(self) -> Drawers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, draw: DrawPart, number: int, part: int) -> Future[Arrays]:
        """A part, drawn beside this process or, where there are no others, at once."""
        if self._pool is not None:
            return self._pool.submit(draw, number, part)
        done: Future[Arrays] = Future()
        done.set_result(draw(number, part))
        return done


class DrawnBlocks:
    """Blocks in the order of their numbers, each asked for once.

    Args:
        drawers: who draws.
        draw: a part.
        parts: parts of a block.
        count: blocks in all.
    """

    def __init__(self, drawers: Drawers, draw: DrawPart, parts: int, count: int) -> None:
        self.drawers, self.draw, self.parts, self.count = drawers, draw, parts, count
        self.ahead = -(-AHEAD * drawers.processes // parts)
        self._waiting: dict[int, list[Future[Arrays]]] = {}

    def at(self, number: int) -> Arrays:
        """A block; those after it are begun."""
        for each in range(number, min(number + self.ahead + 1, max(self.count, number + 1))):
            if each not in self._waiting:
                self._waiting[each] = [
                    self.drawers.submit(self.draw, each, part) for part in range(self.parts)
                ]
        drawn = [part.result() for part in self._waiting.pop(number)]
        return {name: np.concatenate([part[name] for part in drawn]) for name in drawn[0]}
