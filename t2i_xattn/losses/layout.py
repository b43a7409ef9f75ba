"""Words in boxes, as losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from t2i_xattn.edits.picture import checked_box
from t2i_xattn.errors import UserError
from t2i_xattn.losses.loss import GuidanceLoss
from t2i_xattn.losses.word_maps import WordMaps, mask_at, normalised, smoothed


@dataclass(frozen=True, eq=False)
class Layout(GuidanceLoss):
    """Each word's attention in its box: (1 − share of the map inside)², summed over the words.

    Chen et al., "Training-Free Layout Control with Cross-Attention Guidance", arXiv 2304.03373,
    eq. 4.

    Attributes:
        boxes: for each word or phrase, a box (top, left, bottom, right) in fractions of the
            picture.
    """

    boxes: Mapping[str, Sequence[float]]
    _: KW_ONLY
    scale: float = 30.0
    until: float = 0.2
    iterations: int = 5
    enough: float = 0.04

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.boxes:
            raise UserError("expected boxes={word: (top, left, bottom, right)}, but came none")
        for box in self.boxes.values():
            checked_box(box)

    def phrases(self) -> list[str]:
        return list(self.boxes)

    def __call__(self, maps: WordMaps) -> Tensor:
        inside = mask_at(maps.size, list(self.boxes.values()))
        total = maps.shares.new_zeros(len(maps.words))
        for word, mask in zip(self.boxes, inside.to(maps.shares), strict=True):
            share = (normalised(maps.of(word)) * mask).sum(dim=(1, 2))
            total = total + (1 - share).square()
        return total


@dataclass(frozen=True, eq=False)
class BoxDiff(Layout):
    """Boxes with constraints on where the strongest places are: inside, not outside, up to the
    edges.

    Xie et al., "BoxDiff: Text-to-Image Synthesis with Training-Free Box-Constrained Diffusion",
    arXiv 2307.10816: inner box (eq. 4: 1 − mean of the strongest fifth inside), outer box (eq. 5:
    mean of the strongest fifth outside), corners (eq. 6 to 8: the projections of map and box on the
    two axes, at the places around the box's edges). Maps are brought to a highest value of 1.

    Attributes:
        strongest: the part of the places that counts, 0 to 1.
        around: places on each side of an edge that the corner constraint looks at.
    """

    _: KW_ONLY
    scale: float = 20.0
    until: float = 0.5
    iterations: int = 1
    enough: float = 0.0
    strongest: float = 0.2
    around: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.strongest <= 1 and self.around >= 1):
            raise UserError(
                "expected BoxDiff with strongest above 0 and at most 1, and around of 1 or more, "
                f"but came strongest={self.strongest} and around={self.around}"
            )

    def __call__(self, maps: WordMaps) -> Tensor:
        inside = mask_at(maps.size, list(self.boxes.values()))
        total = maps.shares.new_zeros(len(maps.words))
        for word, mask in zip(self.boxes, inside.to(maps.shares), strict=True):
            one = smoothed(maps.of(word))
            one = one / one.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
            total = total + (1 - self._top(one, mask)) + self._top(one, 1 - mask)
            for axis in (1, 2):
                total = total + self._edges(one.amax(dim=axis), mask.amax(dim=axis - 1))
        return total

    def _top(self, maps: Tensor, mask: Tensor) -> Tensor:
        count = max(1, round(self.strongest * float(mask.sum())))
        return (maps * mask).flatten(1).topk(count, dim=1).values.mean(dim=1)

    def _edges(self, projection: Tensor, target: Tensor) -> Tensor:
        border = (target.diff().abs() > 0.5 / len(target)).nonzero().flatten()
        near = torch.zeros_like(target, dtype=torch.bool)
        for place in border.tolist():
            near[max(0, place - self.around + 1) : place + self.around + 1] = True
        if not near.any():  # the box spans the whole axis
            return projection.sum(dim=1) * 0
        return (projection - target).abs()[:, near].mean(dim=1)
