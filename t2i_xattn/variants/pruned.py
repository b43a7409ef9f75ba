"""Columns of the text that nobody looks at: padding, words of your choice, or by recorded share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.seen import Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.call import Asked
from t2i_xattn.kernel.fewer_keys import FewerKeys
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.variants.text_keys import fewer_keys, is_of_text, rows_with_texts
from t2i_xattn.variants.variant import (
    Found,
    RunningVariant,
    Variant,
    check_number,
    reading_text,
)


@dataclass(frozen=True, eq=False)
class PrunedKeys(Variant):
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

    takes: ClassVar[str] = "which keys are looked at"
    error: ClassVar[str] = (
        "at most 2 s max|V| at a site, with s the share of the columns that were left out"
    )
    attends: ClassVar[bool] = True

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
        if self.after < 1:
            raise UserError(f"expected after=1 or more for PrunedKeys, but came {self.after}")

    @property
    def fits(self) -> str:
        return "sites where the picture looks at the text"

    def sites(self, found: Found) -> Found:
        return reading_text(found)

    def running(self, found: Found) -> RunningVariant:
        return _Pruning(self)


class _Pruning(RunningVariant):
    def __init__(self, variant: PrunedKeys) -> None:
        self._variant = variant
        self._shares: dict[str, Tensor] = {}
        self._calls: dict[str, int] = {}
        self._taken: set[str] = set()
        self._fewer: dict[tuple[Any, ...], FewerKeys] = {}

    def _recorded(self) -> bool:
        if self._variant.share is None:
            return True
        return min(self._calls.get(e, 0) for e in self.now.branches) >= self._variant.after

    def fewer(
        self, site: AttentionSite, call: Asked, reading: Callable[[], Reading]
    ) -> FewerKeys | None:
        if not self._recorded():
            return None
        about = reading()
        if not is_of_text(about, site, self._variant):
            return None
        portion = about.portion and str(about.portion.keys)
        key = self.now.branches, call.key.shape[2], portion
        if key not in self._fewer:
            tokens = self.now.call.tokens
            columns: list[Tensor | None] = [None] * len(call.key)
            for branch, picture, row in rows_with_texts(self.now):
                text = self.now.layout.texts[branch][picture]
                stay = self._staying(branch, text, row, tokens)
                columns[row] = torch.tensor([stay], device=call.key.device)
            self._fewer[key] = fewer_keys(call, about, columns)
        return self._fewer[key]

    def _staying(self, branch: str, text: Text | None, row: int, tokens: int) -> list[int]:
        """The columns of a row's text that stay; never none."""
        variant, out = self._variant, set[int]()
        known = text is not None and text.padding is not None
        if not known and (variant.padding or variant.words):
            raise UserError(
                "expected prompts as text for PrunedKeys, which has to know where words and "
                "padding stand, but came embeddings; hand the prompts to the pipeline, or use "
                "PrunedKeys(padding=False, share=0.02)"
            )
        if text is not None and text.padding is not None and variant.padding:
            out |= set(text.padding)
        if text is not None:
            names = {each.casefold() for each in variant.words}
            out |= {c for w in text.words if w.text.casefold() in names for c in w.columns}
        if variant.share is not None:
            place = self.now.layout.rows[branch].index(row)
            shares = (self._shares[branch][place] / self._shares[branch][place].sum()).tolist()
            gone = 0.0
            for column in sorted(range(len(shares)), key=shares.__getitem__):
                if column not in out and gone + shares[column] <= variant.share:
                    out.add(column)
                    gone += shares[column]
        return [each for each in range(tokens) if each not in out] or [0]

    def take(self, seen: Seen) -> None:
        if self._recorded() or not is_of_text(seen.reading, seen.site, self._variant):
            return
        for branch, rows in self.now.layout.rows.items():
            shares = seen.mean_probs(rows).mean(dim=(1, 2))  # (rows · frames, columns)
            shares = shares.unflatten(0, (-1, seen.frames)).mean(dim=1)
            self._shares[branch] = self._shares.get(branch, 0) + shares
            self._taken.add(branch)

    def end(self) -> None:
        for branch in self._taken:
            self._calls[branch] = self._calls.get(branch, 0) + 1
        self._taken.clear()
