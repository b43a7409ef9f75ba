"""Edits of how much attention a word gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from t2i_xattn.edits.edit import Edit, EditContext, checked_number
from t2i_xattn.errors import UserError


@dataclass(frozen=True, eq=False)
class Reweight(Edit):
    """Scales the maps of a word or phrase, to strengthen or to weaken what it does.

    Prompt-to-prompt (arXiv 2208.01626), section 3, "Attention Re-weighting":
    `(Edit(M_t, M*_t, t))_{i,j} := c · (M_t)_{i,j} if j = j*, else (M_t)_{i,j}`. The picture's own
    maps are scaled; those of a source come before, by `Replace` or `Refine`.

    Attributes:
        word: a word or phrase of the prompt.
        weight: c; 1 changes nothing, 0 takes the word away, below 0 turns it round. The paper uses
            −2 to 2.
        renormalise: whether the shares are made to sum to 1 again, so that other words lose what
            this one wins. Not so in the paper, and by default. Not with a negative weight.
    """

    per_head: ClassVar[bool] = True

    word: str
    weight: float
    renormalise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_number(self, "weight", self.weight)
        if self.renormalise and self.weight < 0:
            raise UserError(
                "expected a weight of 0 or more with renormalise=True, since shares below 0 have "
                f"no sum to keep, but came {self.weight}; leave renormalise out"
            )

    @property
    def renormalises(self) -> bool:
        return self.renormalise

    def prepare(self, context: EditContext) -> Any:
        return 1 + (self.weight - 1) * context.span(self.word)

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        changed = probs * prepared
        return self.renormalised(changed, probs, context) if self.renormalise else changed


@dataclass(frozen=True, eq=False)
class Drop(Edit):
    """Takes a word or phrase out of the attention: nobody looks at it.

    The text encoder has mixed what it means into the other tokens; that stays.

    Attributes:
        word: a word or phrase of the prompt.
        renormalise: whether the other tokens get its share, as if its scores were masked with −∞
            (the default), or whether it is lost, as with `Reweight(word, 0)`.
    """

    per_head: ClassVar[bool] = True

    word: str
    renormalise: bool = True

    @property
    def renormalises(self) -> bool:
        return self.renormalise

    def prepare(self, context: EditContext) -> Any:
        return 1 - context.span(self.word)

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        changed = probs * prepared
        return self.renormalised(changed, probs, context) if self.renormalise else changed


@dataclass(frozen=True, eq=False)
class Add(Edit):
    """Gives a word or phrase a share of the attention everywhere, on top of its own.

    P′ = (1 − a) P + a u, where u is 1 / n at each of the word's n columns: every query looks at the
    word with at least the share a, and the shares still sum to 1.

    Attributes:
        word: a word or phrase of the prompt.
        share: a, from 0 to 1.
    """

    per_head: ClassVar[bool] = True

    word: str
    share: float

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_number(self, "share", self.share)
        if not 0 <= self.share <= 1:
            raise UserError(f"expected a share from 0 to 1 for Add, but came {self.share}")

    @property
    def renormalises(self) -> bool:
        return True

    def prepare(self, context: EditContext) -> Any:
        span = context.span(self.word)
        return self.share * span / span.sum(dim=-1, keepdim=True).clamp_min(1)

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        if context.site.kind == "joint" and not self.scales_the_rest:
            prepared = prepared * probs.sum(dim=-1, keepdim=True)
        return torch.add(prepared, probs, alpha=1 - self.share)
