"""A sampler's loop by hand, of which nobody is told where it begins."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Loop:
    """The noise levels of one branch's calls: where they come back to the first one, another
    picture begins.

    Only after they went one way all the time: an inversion comes back to its first level, too, on
    its way down.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._last = 0.0
        self._way = 0.0
        self._turned = False

    def begins_anew(self, timestep: Any) -> bool:
        """Whether a call at this noise level is the first one of another loop."""
        level = _number(timestep)
        if self._first is None:
            self._first = self._last = level
            return False
        again = level == self._first != self._last and not self._turned
        if again:
            self._way = 0.0
        else:
            way = level - self._last
            self._turned = self._turned or way * self._way < 0
            self._way = self._way or way
        self._last = level
        return again


def _number(timestep: Any) -> float:
    """A noise level, of several rows the first one's."""
    if isinstance(timestep, Tensor):
        return float(timestep.flatten()[0])
    return float(timestep)
