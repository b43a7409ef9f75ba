"""How much pictures of one prompt differ between seeds, and how glaring they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lab.judge.segmenter import Segmenter, segment


@dataclass(frozen=True)
class Diversity:
    """Mean distances over the pairs of some pictures.

    Attributes:
        features: in the judge's network, at its smallest size: as LPIPS does (Zhang et al., arXiv
            1801.03924, with no learned weights), vectors of unit length at each place, their
            squared distance, and the mean over places; 0 to 4.
        layout: share of pixels that the judge takes for something else, 0 to 1.
        pixels: root of the mean square difference, 0 to 1.
    """

    features: float
    layout: float
    pixels: float


def diversity(pictures: Sequence[Image.Image], segmenter: Segmenter) -> Diversity:
    """The distances between two pictures or more, square and of one size."""
    deep = [_deep_features(each, segmenter) for each in pictures]
    classes = [segment(segmenter, each).classes for each in pictures]
    pixels = [_pixels(each) for each in pictures]
    pairs = list(combinations(range(len(pictures)), 2))
    return Diversity(
        features=_mean([float((deep[a] - deep[b]).square().sum(0).mean()) for a, b in pairs]),
        layout=_mean([float((classes[a] != classes[b]).mean()) for a, b in pairs]),
        pixels=_mean([float(np.sqrt(np.mean((pixels[a] - pixels[b]) ** 2))) for a, b in pairs]),
    )


def saturation(picture: Image.Image) -> float:
    """The mean over the pixels of the difference between the largest and the smallest of red, green
    and blue, 0 to 1 (the chroma of HSV)."""
    pixels = _pixels(picture)
    return float((pixels.max(axis=-1) - pixels.min(axis=-1)).mean())


def clipped(picture: Image.Image) -> float:
    """The share of the values of red, green and blue that are 0 or 255."""
    values = np.asarray(picture.convert("RGB"))
    return float(((values == 0) | (values == 255)).mean())


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _pixels(picture: Image.Image) -> NDArray[np.float64]:
    return np.asarray(picture.convert("RGB"), dtype=np.float64) / 255


@torch.no_grad()
def _deep_features(picture: Image.Image, segmenter: Segmenter) -> Tensor:
    """`(channels, height, width)`, of unit length at each place."""
    found: list[Tensor] = []

    def keep(_: Any, __: Any, output: Tensor) -> None:
        found.append(output[0])

    hook = segmenter.down[-1].register_forward_hook(keep)
    try:
        segment(segmenter, picture)
    finally:
        hook.remove()
    return functional.normalize(found[0].float(), dim=0)
