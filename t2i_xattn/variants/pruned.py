"""Columns of the text that nobody looks at: padding, words of your choice, or by recorded share."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i_xattn.denoisers.seen import Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.variants.leaving_out import LeavingOut, RunningLeavingOut
from t2i_xattn.variants.variant import Found, RunningVariant, check_number


@dataclass(frozen=True, eq=False)
class PrunedKeys(LeavingOut):
    """Some columns of the text are left out of the keys and values, at all sites and steps.

    Models that were trained without a mask put part of the picture into the padding: leaving it out
    changes their pictures.

    Attributes:
        padding: whether to leave out what fills the text's sequence up.
        words: words to leave out wherever they stand, such as `("a", "the", "of")`; upper or lower
            case is the same.
        share: of all attention to the text: the columns that together got no more than that in the
            first steps (mean over sites and places) are left out, 0 to 1.
        after: steps in which `share` is recorded.
    """

    padding: bool = True
    words: Sequence[str] = ()
    share: float | None = None
    after: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.words, str):
            raise UserError(
                f"expected words as a list for PrunedKeys, but came {self.words!r}; put it into [ ]"
            )
        if not (self.padding or self.words or self.share is not None):
            raise UserError(
                "expected padding, words or a share to leave out by PrunedKeys, but came none; "
                "such as PrunedKeys(share=0.02)"
            )
        if self.share is not None:
            check_number("share of PrunedKeys", self.share, 0, 1, open_ends=True)

    def running(self, found: Found) -> RunningVariant:
        return _Pruning(self)


class _Pruning(RunningLeavingOut):
    def __init__(self, variant: PrunedKeys) -> None:
        super().__init__(variant, 0 if variant.share is None else variant.after)
        self._variant = variant

    def summed_at(self, site: AttentionSite) -> str:
        return "all"

    def read(self, seen: Seen, rows: Rows) -> Tensor:
        return seen.mean_probs(rows)

    def staying(self, branch: str, picture: int, shares: Tensor | None, columns: int) -> Tensor:
        out = self._named(self.now.layout.texts[branch][picture])
        if shares is not None and self._variant.share is not None:
            out |= _least((shares[0] / shares.sum()).tolist(), self._variant.share, out)
        return torch.tensor([[each for each in range(columns) if each not in out] or [0]])

    def _named(self, text: Text | None) -> set[int]:
        """The columns of a text's padding and words that are left out."""
        variant = self._variant
        if not (variant.padding or variant.words):
            return set()
        if text is None or text.padding is None:
            raise UserError(
                "expected prompts as text for PrunedKeys, which has to know where words and "
                "padding stand, but came embeddings; hand the prompts to the pipeline, or use "
                "PrunedKeys(padding=False, share=0.02)"
            )
        names = {each.casefold() for each in variant.words}
        out = {c for word in text.words if word.text.casefold() in names for c in word.columns}
        return out | set(text.padding if variant.padding else ())


def _least(shares: Sequence[float], most: float, out: Container[int]) -> set[int]:
    """The columns beside those that are out which together get no more than `most`."""
    found: set[int] = set()
    gone = 0.0
    for column in sorted(range(len(shares)), key=shares.__getitem__):
        if column not in out and gone + shares[column] <= most:
            found.add(column)
            gone += shares[column]
    return found
