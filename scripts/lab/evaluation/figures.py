"""Figures that carry their own uncertainty."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
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
class Difference:
    """Of two shares of the same `n` cases: `gained` came right, `lost` went wrong, with a 95 %
    interval.

    Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions":
    half a case is added to each of the four cells, so that nothing gained and nothing lost among
    few cases is not taken for certainty.
    """

    gained: int
    lost: int
    n: int

    @classmethod
    def of(cls, before: Sequence[bool], after: Sequence[bool]) -> Difference:
        """From the outcomes of the same cases, in one order."""
        pairs = list(zip(before, after, strict=True))
        return cls(sum(b > a for a, b in pairs), sum(b < a for a, b in pairs), len(pairs))

    @property
    def value(self) -> float:
        """-1 to 1; NaN of nothing."""
        return (self.gained - self.lost) / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Bounds of the 95 % interval, -1 to 1."""
        gained, lost, n = self.gained + 0.5, self.lost + 0.5, self.n + 2
        middle = (gained - lost) / n
        half = 1.959964 * float(np.sqrt(gained + lost - (gained - lost) ** 2 / n)) / n
        return max(middle - half, -1.0), min(middle + half, 1.0)

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it; of nothing it is null."""
        return {
            "difference": self.value if self.n else None,
            "gained": self.gained,
            "lost": self.lost,
            "n": self.n,
            "agresti_min_95": list(self.interval),
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


RESAMPLES = 2000


@cache
def _drawn(groups: int, resamples: int) -> NDArray[np.float64]:
    """How often each group is drawn in each resample, `(groups, resamples)`; always the same."""
    rng = np.random.default_rng(0)
    shares = np.full(groups, 1 / groups)
    return rng.multinomial(groups, shares, size=resamples).T.astype(np.float64)


@dataclass(frozen=True)
class Estimate:
    """The mean of `n` values that come in groups, with a 95 % interval by the bootstrap.

    Whole groups are drawn again, with replacement, since the words of one scene are no independent
    cases: the cluster bootstrap (Davison and Hinkley 1997, section 3.8), with percentiles.
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, groups: Sequence[Sequence[float]], resamples: int = RESAMPLES) -> Estimate:
        """The mean over all values of some groups; NaN of nothing."""
        return cls.of_kinds([groups], resamples)

    @classmethod
    def of_kinds(
        cls, kinds: Sequence[Sequence[Sequence[float]]], resamples: int = RESAMPLES
    ) -> Estimate:
        """The mean over kinds of the mean over each kind's values.

        Args:
            kinds: for each, its values in each group; the groups are the same for all kinds, and
                may be empty.
            resamples: how often groups are drawn.
        """
        sums = np.array([[sum(group) for group in kind] for kind in kinds], dtype=np.float64)
        counts = np.array([[len(group) for group in kind] for kind in kinds], dtype=np.float64)
        if not sums.size or not counts.sum():
            return cls(float("nan"), float("nan"), float("nan"), 0)
        drawn = _drawn(sums.shape[1], resamples)
        with np.errstate(invalid="ignore"):
            means = (sums @ drawn) / (counts @ drawn)
            value = np.nanmean(sums.sum(axis=-1) / counts.sum(axis=-1))
        # A rare kind may be drawn in no group.
        means = means[:, ~np.isnan(means).all(axis=0)]
        low, high = np.percentile(np.nanmean(means, axis=0), [2.5, 97.5])
        return cls(float(value), float(low), float(high), int(counts.sum()))

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it; a mean of nothing is null."""
        interval = [self.low, self.high] if self.n else None
        value = self.value if self.n else None
        return {"mean": value, "bootstrap_95": interval, "n": self.n}
