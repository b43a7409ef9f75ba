"""Shares as people read them."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray


def percent(share: float) -> str:
    """A share in per cent: two digits where it is below a tenth."""
    value = 100 * share
    if abs(value) < 0.995:
        return f"{value:.2g}%"
    return f"{value:.1f}%" if abs(value) < 9.95 else f"{value:.0f}%"


def percent_range(array: NDArray[Any]) -> str:
    """The lowest and the highest share of a map."""
    return f"{percent(float(array.min()))} to {percent(float(array.max()))}"
