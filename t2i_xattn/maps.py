"""Heat maps of words: how sites are pooled, and what can be read off the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from t2i_xattn import regions

if TYPE_CHECKING:
    from PIL import Image

FloatMap = NDArray[np.float32]
"""A map `(height, width)`, or `(height, width, columns)` where tokens are still apart."""

Aggregate = Callable[[Sequence[FloatMap], tuple[int, int]], FloatMap]
"""Pools sites: `(maps, picture size) -> (height, width)`, with the columns added up. The maps are
`(height, width, columns)`, one a site."""


def mean_over_sites(maps: Sequence[FloatMap], size: tuple[int, int]) -> FloatMap:
    """Each site enlarged bilinearly to the picture, then the plain mean over the sites.

    Every value is a convex combination of recorded shares, so the unit is kept: the maps of all
    tokens sum to 1 at each pixel.

    Args:
        maps: one `(height, width, columns)` a site, shares 0 to 1.
        size: height and width of the picture.

    Returns:
        `(height, width)` of the picture, the share of all the columns together.
    """
    # Adding the columns first is the same and cheaper, since enlarging is linear.
    enlarged = [_resized(array.sum(axis=-1, keepdims=True), size, "bilinear") for array in maps]
    return _mean([array[..., 0] for array in enlarged])


def daam(maps: Sequence[FloatMap], size: tuple[int, int]) -> FloatMap:
    """DAAM's way: bicubic enlargement, clamped at 0, then the mean over the sites.

    Tang et al., "What the DAAM: Interpreting Stable Diffusion Using Cross Attention", ACL 2023
    (arXiv 2210.04885), section 3. Bicubic weights may be negative, so the unit holds only roughly:
    sharp maps overshoot and can leave 0 to 1. Three differences from the package `daam`: heads are
    averaged before the enlargement and not after, sites are enlarged straight to the picture and
    not first to the latent, and the columns of a word are added and not averaged, so that the unit
    stays the share of attention.

    Args:
        maps: one `(height, width, columns)` a site, shares 0 to 1.
        size: height and width of the picture.

    Returns:
        `(height, width)` of the picture, not below 0.
    """
    enlarged = [_resized(array, size, "bicubic").clip(min=0).sum(axis=-1) for array in maps]
    return _mean(enlarged)


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Where a word acted in a picture.

    Attributes:
        word: the word or phrase.
        array: fp32 `(height, width)` of the picture, read-only: the share of attention that each
            place gave to the word, 0 to 1.
    """

    word: str
    array: NDArray[np.float32]

    def __post_init__(self) -> None:
        array = np.array(self.array, dtype=np.float32)
        assert array.ndim == 2, array.shape
        array.flags.writeable = False
        object.__setattr__(self, "array", array)

    @property
    def share(self) -> float:
        """The word's share of attention, 0 to 1: the mean over the picture."""
        return float(self.array.mean(dtype=np.float64))

    @property
    def peakedness(self) -> float:
        """1 − entropy / log(number of pixels) of the map taken as a distribution.

        0 for a map that is the same everywhere, 1 for one with a single point.
        """
        p = self.array.astype(np.float64).ravel()
        total = p.sum()
        if total <= 0 or p.size < 2:
            return 0.0
        p = p[p > 0] / total
        entropy = -(p * np.log(p)).sum()
        return float(1 - entropy / np.log(self.array.size))

    def peak(self) -> tuple[int, int]:
        """Row and column of the highest value; the first in reading order of several."""
        return regions.peak(self.array)

    def mask(self, threshold: float | Literal["otsu"] = 0.5) -> NDArray[np.bool_]:
        """The pixels where the word acted, `(height, width)` of bool; see `regions.threshold`."""
        return regions.threshold(self.array, threshold)

    def box(self, threshold: float | Literal["otsu"] = 0.5) -> regions.Box | None:
        """The box around the largest connected part of the mask; None if the mask is empty."""
        return regions.bounding_box(regions.largest_component(self.mask(threshold)))

    def overlay(
        self, image: Image.Image, colormap: str = "inferno", alpha: float = 0.6
    ) -> Image.Image:
        """The map laid over its picture, in colours; see `render.overlay`."""
        from t2i_xattn.render import overlay

        return overlay(image, self, colormap=colormap, alpha=alpha)


def _mean(arrays: Sequence[FloatMap]) -> FloatMap:
    return np.asarray(np.mean(arrays, axis=0, dtype=np.float64), dtype=np.float32)


def _resized(
    array: FloatMap, size: tuple[int, int], mode: Literal["bilinear", "bicubic"]
) -> FloatMap:
    """`(height, width, columns)` to another height and width; pixels are areas, not corners."""
    # Here, since a trace can be loaded, searched and thresholded without waiting for torch.
    import torch
    from torch.nn.functional import interpolate

    tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))[None]
    resized = interpolate(tensor, size=size, mode=mode, align_corners=False)
    result: FloatMap = resized[0].permute(1, 2, 0).numpy()
    return result
