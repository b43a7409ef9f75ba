"""The placebo: as much attention as a word has, taken from columns that say nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.edits.edit import TINY, Edit, EditContext
from t2i_xattn.edits.weights import Drop
from t2i_xattn.errors import UserError


@dataclass(frozen=True, eq=False)
class Placebo(Edit):
    """Takes what a word has from random other columns: the start token, the end and padding.

    At each place the chosen columns lose together the word's share w, each in proportion to what it
    has, and the rest is brought to a sum of 1 again, as `Drop` does with the word itself:
    P′ⱼ = Pⱼ (1 − min(1, w / Σ P)) for j among them. What an intervention does beyond this is not
    due to attention being taken away as such.

    Attributes:
        word: a word or phrase of the prompt, for its budget alone.
        seed: of the choice of columns, half of those that no word has.
    """

    word: str
    seed: int = 0

    @property
    def renormalises(self) -> bool:
        return True

    def prepare(self, context: EditContext) -> Any:
        """The word's columns and the chosen others, each `(images, 1, 1, tokens)`."""
        span = context.span(self.word)
        chosen = torch.zeros(span.shape)
        draw = torch.Generator().manual_seed(self.seed)
        for image in context.images:
            of_words = {c for word in context.words[image] for c in word.columns}
            free = [c for c in range(context.tokens) if c not in of_words]
            if not free:
                raise UserError(
                    "expected columns that no word has, to take as much attention from, but the "
                    "prompt fills its window; leave the placebo out with placebo=False"
                )
            order = torch.randperm(len(free), generator=draw)[: -(-len(free) // 2)]
            # The start token attracts most of what is left over; without it there is no budget.
            picked = sorted({free[0], *(free[int(each)] for each in order)})
            chosen[image, ..., picked] = 1
        return span, chosen.to(span.device)

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        span, chosen = prepared
        wanted = (probs * span).sum(dim=-1, keepdim=True)
        there = (probs * chosen).sum(dim=-1, keepdim=True)
        left = 1 - (wanted / there.clamp_min(TINY)).clamp(max=1)
        changed = torch.where(chosen > 0, probs * left, probs)
        return self.renormalised(changed, probs, context)


@dataclass(frozen=True, eq=False)
class DropAtHeads(Drop):
    """`Drop`, at some heads of each site only.

    Attributes:
        heads: their numbers, 0 the first; a site that has none of them is left alone.
    """

    heads: tuple[int, ...] = ()

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        there = [head for head in self.heads if head < probs.shape[1]]
        if not there:
            return probs
        changed = probs.clone()
        changed[:, there] = super().apply(probs[:, there], prepared, context)
        return changed
