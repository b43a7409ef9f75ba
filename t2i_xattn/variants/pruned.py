"""Columns of the text that nobody looks at: padding, words of your choice, or by recorded share."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i_xattn.denoisers.seen import Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.prompts.words import Word
from t2i_xattn.variants.leaving_out import LeavingOut, RunningLeavingOut
from t2i_xattn.variants.variant import Found, RunningVariant, check_number


@dataclass(frozen=True, eq=False)
class PrunedKeys(LeavingOut):
    """Some columns of the text are left out of the keys and values, at all sites and steps.

    Models that were trained without a mask put part of the picture into the padding: leaving it out
    changes their pictures.

    Attributes:
        padding: whether to leave out what fills the text's sequence up.
        words: words and phrases to leave out wherever they stand, such as `("a", "the", "of")`;
            upper or lower case is the same.
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
        if not all(each.strip() for each in self.words):
            raise UserError("expected words for PrunedKeys, but came an empty one; leave it out")
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

    def staying(self, text: Text | None, states: Tensor, shares: Tensor | None) -> Tensor:
        out = self._named(text, states)
        if shares is not None and self._variant.share is not None:
            out |= _least((shares[0] / shares.sum()).tolist(), self._variant.share, out)
        return torch.tensor([[each for each in range(len(states)) if each not in out] or [0]])

    def _named(self, text: Text | None, states: Tensor) -> set[int]:
        """The columns of a text's padding and words that are left out."""
        variant = self._variant
        if not (variant.padding or variant.words):
            return set()
        if text is None or text.padding is None:
            if not states.any():
                return set()  # zeros in a text's place (SDXL), which has neither
            raise UserError(
                "expected prompts as text for PrunedKeys, which has to know where words and "
                "padding stand, but came embeddings; hand the prompts to the pipeline, or use "
                "PrunedKeys(padding=False, share=0.02)"
            )
        out = {c for phrase in variant.words for c in _columns_of(phrase, text.words)}
        return out | set(text.padding if variant.padding else ())


def _columns_of(phrase: str, words: Sequence[Word]) -> Iterator[int]:
    """The columns of a word or phrase wherever it stands, upper or lower case."""
    asked, told = phrase.casefold().split(), [each.text.casefold() for each in words]
    for first in range(len(words) - len(asked) + 1):
        if told[first : first + len(asked)] == asked:
            for each in words[first : first + len(asked)]:
                yield from each.columns


def _least(shares: Sequence[float], most: float, out: Container[int]) -> set[int]:
    """The columns beside those that are out which together get no more than `most`."""
    found: set[int] = set()
    gone = 0.0
    for column in sorted(range(len(shares)), key=shares.__getitem__):
        if column not in out and gone + shares[column] <= most:
            found.add(column)
            gone += shares[column]
    return found
