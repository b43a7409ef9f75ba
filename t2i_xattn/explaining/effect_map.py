"""An effect map: where the picture's making changes when a word is taken away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from t2i_xattn.explaining.effects import EffectSums
from t2i_xattn.traces.heat_map import HeatMap


@dataclass(frozen=True, eq=False)
class EffectMap(HeatMap):
    """One word's effect on one picture, under one intervention.

    Attributes:
        word: the word or phrase.
        array: fp32 `(height, width)` of the picture, read-only: how much the denoiser's answer for
            the prompt changes at each place when the word is taken away, as a part of the mean
            length of the answer itself; a mean over the steps that were asked about, and over the
            frames of a video.
        intervention: how it was taken away, see `Intervention`.
        other: what stood in its place; None: nothing did.
        size: root of the mean square of the change, as a part of that of the answer.
        by_step: the same at each step.
    """

    intervention: str = "text"
    other: str | None = None
    size: float = 0.0
    by_step: tuple[float, ...] = ()

    def __repr__(self) -> str:
        height, width = self.array.shape
        return (
            f"<EffectMap of {self.word!r} by {self.intervention}: size {self.size:.3f}, "
            f"{height} × {width}>"
        )

    @property
    def share(self) -> float:
        """The mean change over the picture, as a part of the answer; no share of attention."""
        return super().share

    @property
    def concentration(self) -> float:
        """The part of the squared change that lies in the tenth of the picture where it is
        largest: 0.1 where it is the same everywhere, up to 1."""
        squares = np.sort(self.array.astype(np.float64).ravel() ** 2)[::-1]
        most = max(1, squares.size // 10)
        return float(squares[:most].sum() / max(squares.sum(), np.finfo(float).tiny))


def effect_map(
    word: str, intervention: str, other: str | None, found: EffectSums, size: tuple[int, int]
) -> EffectMap:
    """The effect map of what was summed over the steps.

    Args:
        word: the word or phrase.
        intervention: how it was taken away.
        other: what stood in its place.
        found: the sums.
        size: height and width of the picture.
    """
    assert found.lengths is not None, "at least one step"
    steps = len(found.squares)
    lengths = found.lengths.mean(dim=0) / steps / max(found.plain_length / steps, 1e-30)
    return EffectMap(
        word,
        enlarged(lengths, size),
        intervention=intervention,
        other=other,
        size=found.size,
        by_step=tuple(
            float(np.sqrt(change / max(plain, 1e-30)))
            for change, plain in zip(found.squares, found.plain, strict=True)
        ),
    )


def enlarged(places: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    """A map `(height, width)` of places at the size of the picture, bilinear."""
    given = places.detach().to("cpu", torch.float32)[None, None]
    made = functional.interpolate(given, size=size, mode="bilinear", align_corners=False)[0, 0]
    return np.asarray(made.numpy(), dtype=np.float32)
