"""The sums of one window of steps, allocated as the sizes are seen, and the means of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from t2i_xattn.errors import UserError

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
        """The sum of one branch, to be added to. Branches may have texts of different lengths."""
        if key not in self.maps:
            self.maps[key] = torch.zeros(
                (self.branches, *shape), dtype=torch.float32, device=device
            )
            self.counts[key] = [0] * self.branches
        longer = shape[-1] - self.maps[key].shape[-1]
        if longer > 0:
            self.maps[key] = functional.pad(self.maps[key], (0, longer))
        return self.maps[key][branch]

    @property
    def nbytes(self) -> int:
        """Bytes held for maps."""
        return sum(each.nbytes for each in self.maps.values())


def mean_of(
    windows: Sequence[Sums], key: Key, grid: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The mean over the calls of each window, `(image, branch, step, head, [frame,] height, width,
    token)`, and how many calls that were, `(branch, step)`. NaN where there were none.

    Args:
        windows: in their order.
        key: the stream and the site.
        grid: of the site's places, `([frames,] height, width)`.

    Raises:
        UserError: if the model gave NaN there.
    """
    example = next(window.maps[key] for window in windows if key in window.maps)
    means, counts = [], []
    for window in windows:
        total = window.maps.get(key)
        count = np.array(window.counts.get(key, [0] * window.branches), dtype=np.int64)
        array = (torch.zeros_like(example) if total is None else total).cpu().numpy()
        if np.isnan(array).any():
            raise UserError(
                f"expected numbers at {key[1]}, but the model gave NaN there; run it in "
                "bfloat16 or float32 instead of float16"
            )
        with np.errstate(invalid="ignore"):
            means.append(array / count.astype(np.float32)[:, None, None, None, None])
        counts.append(count)
    # (step, branch, image, head, places, token)
    stacked = np.stack(means)
    stacked = stacked.reshape(*stacked.shape[:4], *grid, stacked.shape[-1])
    mean: NDArray[np.float32] = np.ascontiguousarray(np.moveaxis(stacked, (2, 1, 0), (0, 1, 2)))
    return mean, np.stack(counts, axis=1)
