"""Where in a sampler's loop a call is, as its noise level tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Level:
    """Where a branch is.

    Attributes:
        level: the noise level.
        step: which step that is.
        number: how many calls came before at this level, which are no steps.
    """

    level: Any
    step: int
    number: int

    @classmethod
    def after(cls, before: Level | None, level: Any) -> Level:
        """Of the call that follows."""
        if before is None:
            return cls(level, 0, 0)
        if _is_same(before.level, level):
            return cls(level, before.step, before.number + 1)
        return cls(level, before.step + 1, 0)


class Loop:
    """The noise levels of one branch's calls by hand, of which nobody is told where they begin:
    where they come back to the first one, another picture does.

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


def _is_same(one: Any, other: Any) -> bool:
    """Whether two noise levels are the same place in the sampler's list.

    Told by where they lie, without reading a number off a GPU; and a sampler may come to the same
    number twice (Heun's).
    """
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.data_ptr() == other.data_ptr()
    return not isinstance(one, Tensor) and not isinstance(other, Tensor) and bool(one == other)


def _number(timestep: Any) -> float:
    """A noise level, of several rows the first one's."""
    if isinstance(timestep, Tensor):
        return float(timestep.flatten()[0])
    return float(timestep)
