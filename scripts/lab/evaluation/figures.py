"""Figures that carry their own uncertainty."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest


@dataclass(frozen=True)
class Share:
    """How many of how many: `right` of `n`, with a Wilson 95 % interval.

    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """

    right: int
    n: int

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Share:
        """The share of the outcomes that are true."""
        every = [bool(each) for each in outcomes]
        return cls(sum(every), len(every))

    @property
    def value(self) -> float:
        """0 to 1; NaN of nothing."""
        return self.right / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Bounds of the Wilson 95 % interval, 0 to 1; the whole range of nothing."""
        if not self.n:
            return 0.0, 1.0
        bounds = binomtest(self.right, self.n).proportion_ci(0.95, method="wilson")
        return float(bounds.low), float(bounds.high)

    def __str__(self) -> str:
        low, high = self.interval
        value = f"{100 * self.value:.1f} %" if self.n else "none"
        return f"{value} ({100 * low:.1f}–{100 * high:.1f})"

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it; a share of nothing is null."""
        return {
            "share": self.value if self.n else None,
            "right": self.right,
            "n": self.n,
            "wilson_95": list(self.interval),
        }


@dataclass(frozen=True)
class Mean:
    """The mean of `n` values, and their standard deviation; NaN of nothing."""

    value: float
    deviation: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Mean:
        """The mean of the values."""
        every = np.array(list(values), dtype=np.float64)
        if not every.size:
            return cls(float("nan"), float("nan"), 0)
        return cls(float(every.mean()), float(every.std()), every.size)

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.deviation:.2f}" if self.n else "none"

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it; a mean of nothing is null."""
        numbers = (self.value, self.deviation) if self.n else (None, None)
        return {"mean": numbers[0], "standard_deviation": numbers[1], "n": self.n}
