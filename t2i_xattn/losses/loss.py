"""What the maps of words are to be like, as losses; `guide` moves latents along their gradients.

Each loss gives one number an image, with gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from math import isfinite, isnan

import torch
from torch import Tensor
from torch.nn import functional

from t2i_xattn.edits.picture import checked_box
from t2i_xattn.errors import UserError
from t2i_xattn.losses.word_maps import WordMaps, mask_at, normalised


@dataclass(frozen=True, eq=False, kw_only=True)
class GuidanceLoss:
    """A loss over the maps of words, and how hard the latents are to follow it.

    To write one, subclass it and give `__call__` and `phrases`.

    Attributes:
        scale: z ← z − scale · √(1 − done/2) · ∇loss, where done is the part of the run that lies
            behind (Attend-and-Excite's schedule).
        until: the part of the run in which it acts, from its beginning.
        iterations: most updates at a step; fewer where the loss is below `enough`. With 0, it acts
            at its checks only.
        enough: a loss that needs no update.
        checks: (part of the run, loss): at these steps the update is repeated, at most
            `refinements` times, until the loss has fallen so far.
        refinements: see `checks`.
    """

    scale: float = 20.0
    until: float = 0.5
    iterations: int = 1
    enough: float = 0.0
    checks: Sequence[tuple[float, float]] = ()
    refinements: int = 20

    def __post_init__(self) -> None:
        name = type(self).__name__
        sound = self.scale > 0 and isfinite(self.scale) and not isnan(self.enough)
        if not (sound and 0 < self.until <= 1):
            raise UserError(
                f"expected {name} with a finite scale above 0, until above 0 and at most 1, and a "
                f"number as enough, but came scale={self.scale}, until={self.until}, "
                f"enough={self.enough}"
            )
        if self.iterations < 0 or self.refinements < 1 or not (self.iterations or self.checks):
            raise UserError(
                f"expected {name} with 1 or more iterations and refinements, or 0 iterations and "
                f"checks, but came {self.iterations}, {self.refinements} and {self.checks}"
            )

    def phrases(self) -> list[str]:
        """The words that every prompt must have."""
        raise NotImplementedError

    def check(self, maps: WordMaps) -> None:
        """Looks before the first step whether it can act on the prompts; `maps` has no shares yet.

        Raises:
            UserError: if a prompt has not what it acts on.
        """
        for image in range(len(maps.words)):
            for phrase in self.phrases():
                maps.columns(phrase, image)

    def __call__(self, maps: WordMaps) -> Tensor:
        """The loss of each image, `(images,)`."""
        raise NotImplementedError

    def enough_at(self, done: float, step: int, steps: int) -> tuple[int, float]:
        """Most updates at a step, and the loss below which none is made."""
        for after, enough in self.checks:
            if step == round(after * steps):
                return self.refinements, enough
        return self.iterations, self.enough


@dataclass(frozen=True, eq=False)
class AttendAndExcite(GuidanceLoss):
    """Every subject gets a place that looks at it: max over words of 1 − max over places.

    Chefer et al., "Attend-and-Excite: Attention-Based Semantic Guidance for Text-to-Image Diffusion
    Models", arXiv 2301.13826, eq. 1 and algorithm 1. The maps are taken without the start and the
    end token, brought to shares of the words alone by a softmax (of 100 times them, as in the
    authors' code), and smoothed by a Gaussian of 3 × 3 and σ = 0.5. At the beginning, after a fifth
    and after two fifths of the run the update is repeated until the weakest word has reached 0.05,
    0.5 and 0.8.

    Attributes:
        words: words or phrases of the prompt. Of one with several tokens, the last is taken.
        softmax: whether the softmax is taken. Where words get large shares of the attention it is
            1 for all of them, and nothing moves; without it the shares themselves are to rise.
    """

    words: Sequence[str]
    _: KW_ONLY
    softmax: bool = True
    checks: Sequence[tuple[float, float]] = ((0.0, 0.95), (0.2, 0.5), (0.4, 0.2))

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.words, str) or not len(self.words):
            raise UserError(f"expected words=[…] with at least one, but came {self.words!r}")

    def phrases(self) -> list[str]:
        return list(self.words)

    def __call__(self, maps: WordMaps) -> Tensor:
        losses = []
        for image, last in enumerate(maps.last_columns()):
            words = maps.shares[image][..., 1 : last + 1]
            if self.softmax:
                words = (100 * words).softmax(dim=-1)
            columns = [maps.columns(word, image)[-1] - 1 for word in self.words]
            smooth = _smoothed(words[..., columns].permute(2, 0, 1))
            losses.append(1 - smooth.amax(dim=(1, 2)).amin())
        return torch.stack(losses)


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

    def __call__(self, maps: WordMaps) -> Tensor:
        inside = mask_at(maps.size, list(self.boxes.values()))
        total = maps.shares.new_zeros(len(maps.words))
        for word, mask in zip(self.boxes, inside.to(maps.shares), strict=True):
            one = _smoothed(maps.of(word))
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


def _smoothed(maps: Tensor) -> Tensor:
    """Maps `(n, height, width)` under a Gaussian of 3 × 3, σ = 0.5."""
    line = torch.exp(-torch.tensor([-1.0, 0.0, 1.0]).square() / (2 * 0.5**2)).to(maps)
    kernel = torch.outer(line, line)
    kernel = kernel / kernel.sum()
    padded = functional.pad(maps[:, None], (1, 1, 1, 1), mode="reflect")
    return functional.conv2d(padded, kernel[None, None])[:, 0]
