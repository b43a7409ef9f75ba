"""The sums of one window of steps, allocated as the sizes are seen."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

Key = tuple[str, str]
"""A stream and the name of a site."""


@dataclass
class Sums:
    """What was added up in one window of steps.

    Attributes:
        branches: how many are kept.
        maps: by stream and site, fp32 `(branches, images, heads, places, kept)`; the places of a
            video's frames stand one after the other.
        counts: by stream and site, the calls that were added, one number a branch.
        weights: by site, fp32 `(branches, images)`: how well it agreed with the picture's layout.
        calls: the calls that began, one number a branch.
    """

    branches: int
    maps: dict[Key, Tensor] = field(default_factory=dict)
    counts: dict[Key, list[int]] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.calls = [0] * self.branches

    def place(self, key: Key, branch: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """The sum of one branch, to be added to."""
        if key not in self.maps:
            self.maps[key] = torch.zeros(
                (self.branches, *shape), dtype=torch.float32, device=device
            )
            self.counts[key] = [0] * self.branches
        return self.maps[key][branch]

    @property
    def nbytes(self) -> int:
        """Bytes held for maps."""
        return sum(each.nbytes for each in self.maps.values())
