"""Edits of how each place spreads its attention, whatever the words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from t2i_xattn.edits.edit import Edit, EditContext, checked_number
from t2i_xattn.errors import UserError


@dataclass(frozen=True, eq=False)
class Temperature(Edit):
    """Divides the scores by a temperature before the softmax.

    On probs this is softmax(s / T) ∝ P^(1/T), computed as softmax(log P / T): exact but for shares
    so small (below 1e-45) that fp32 has made them 0. In joint attention it acts among the text's
    keys, which keep what they get together.

    Attributes:
        temperature: T, above 0; below 1 sharpens, above 1 flattens.
    """

    per_head: ClassVar[bool] = True

    temperature: float

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_number(self, "temperature", self.temperature)
        if self.temperature <= 0:
            raise UserError(f"expected a temperature above 0, but came {self.temperature}")

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        # Negative shares are of an edit before this one; they have no logarithm.
        logs = probs.clamp_min(0).log() / self.temperature
        nothing = logs.amax(dim=-1, keepdim=True) == float("-inf")
        shares = logs.masked_fill(nothing, 0.0).softmax(dim=-1).masked_fill(nothing, 0.0)
        if context.site.kind != "joint":
            return shares
        return shares * probs.sum(dim=-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class TopK(Edit):
    """Keeps of every query the k tokens with the largest shares, and renormalises those.

    Attributes:
        k: 1 or more; as many as there are tokens changes nothing but rounding.
    """

    per_head: ClassVar[bool] = True

    k: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise UserError(f"expected k=1 or more whole tokens for TopK, but came {self.k!r}")

    @property
    def renormalises(self) -> bool:
        return True

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        largest = probs.topk(min(self.k, probs.shape[-1]), dim=-1)
        kept = torch.zeros_like(probs).scatter(-1, largest.indices, largest.values)
        return self.renormalised(kept, probs, context)


@dataclass(frozen=True, eq=False)
class MaskPadding(Edit):
    """Hides the padding that fills the text's sequence up, and renormalises the rest.

    The same as a mask of −∞ on those keys. Models that were trained without such a mask put part of
    the picture there.

    Raises:
        UserError: before the first step, for prompts given as embeddings, whose padding is not
            known.
    """

    per_head: ClassVar[bool] = True

    @property
    def renormalises(self) -> bool:
        return True

    def prepare(self, context: EditContext) -> Any:
        visible = torch.ones(len(context.words), 1, 1, context.tokens)
        for image in context.images:
            padding = context.padding[image]
            if padding is None:
                raise UserError(
                    "expected prompts as text for MaskPadding, which has to know where they end, "
                    "but came embeddings; hand the prompts to the pipeline"
                )
            visible[image, ..., list(padding)] = 0
        return visible.to(context.device)

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        return self.renormalised(probs * prepared, probs, context)
