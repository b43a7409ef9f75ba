"""Times taken in turn, and their ratio with its spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from tqdm import tqdm


@dataclass(frozen=True)
class Ratio:
    """The ratio of two times, pair by pair.

    Attributes:
        median, low, high: of the pairs' ratios.
        pairs: how many there were.
        seconds: median time of what is measured.
    """

    median: float
    low: float
    high: float
    pairs: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f}–{self.high:.3f})"


def time_in_turn(
    run: Callable[[], object],
    modes: Sequence[str],
    enter: Callable[[str], AbstractContextManager[None]],
    pairs: int,
    warm_up: Callable[[], object] | None = None,
    label: str = "",
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[dict[str, list[float]]]:
    """Seconds of each mode, measured in turn so that a machine's moods fall on all alike.

    Entering and leaving a mode is part of its time. Every mode is warmed up before, unmeasured; the
    order is turned round at every other turn.

    Args:
        run: what is timed.
        modes: names of what is compared.
        enter: sets up a mode, by its name.
        pairs: how many turns.
        warm_up: run once in each mode before; by default, what is timed.
        label: shown in the progress bar.
        clock: what is read, in seconds: `time.process_time` leaves out what others on the machine
            take, and what is waited for.

    Yields:
        After every turn the seconds of all turns so far.
    """
    seconds: dict[str, list[float]] = {mode: [] for mode in modes}
    total = len(modes) * (pairs + 1)
    with tqdm(total=total, desc=label, unit="run", leave=False, disable=None) as bar:
        for mode in modes:
            bar.set_postfix_str(f"warming up {mode}")
            with enter(mode):
                (warm_up or run)()
            bar.update()
        for turn in range(pairs):
            for mode in modes if turn % 2 == 0 else reversed(modes):
                bar.set_postfix_str(mode)
                _wait()
                start = clock()
                with enter(mode):
                    run()
                _wait()
                seconds[mode].append(clock() - start)
                bar.update()
            yield seconds


def ratio(measured: Sequence[float], plain: Sequence[float]) -> Ratio:
    """Of times taken in the same turns."""
    each = [one / other for one, other in zip(measured, plain, strict=True)]
    return Ratio(
        statistics.median(each), min(each), max(each), len(each), statistics.median(measured)
    )


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
