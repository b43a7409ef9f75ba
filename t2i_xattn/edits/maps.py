"""Edits that put other maps in the place of a word's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from t2i_xattn.aggregation import FloatMap, SiteMaps
from t2i_xattn.edits.alignment import PromptTokens, matrix_of_pairs
from t2i_xattn.edits.edit import TINY, Edit, EditContext
from t2i_xattn.edits.picture import at_site, checked_shares
from t2i_xattn.errors import UserError
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.trace import Trace


@dataclass(frozen=True, eq=False)
class SwapMaps(Edit):
    """Two words get each other's maps, so that each acts where the other did.

    Words of as many tokens swap them one by one; otherwise each word's whole share is spread evenly
    over the columns of the other.

    Attributes:
        first, second: words or phrases of the prompt, without a word in common.
    """

    per_head: ClassVar[bool] = True

    first: str
    second: str

    def prepare(self, context: EditContext) -> Any:
        matrices = torch.eye(context.tokens).repeat(len(context.words), 1, 1, 1)
        for image in context.images:
            one, two = (context.columns(each, image) for each in (self.first, self.second))
            if set(one) & set(two):
                raise UserError(
                    f"expected two words that stand apart, but {self.first!r} and {self.second!r} "
                    "have columns in common; name words that do not contain each other"
                )
            # Of several encoders each keeps to its own columns.
            prompt = PromptTokens(context.words[image], (), context.tokens)
            ours, theirs = prompt.by_encoder(one), prompt.by_encoder(two)
            pairs = [(ours[each], theirs[each]) for each in ours if each in theirs]
            pairs += [(there, here) for here, there in pairs]
            swapped = matrix_of_pairs(pairs, context.tokens, context.tokens)
            both = sorted(one + two)
            matrices[image, 0, both] = swapped[both]
        return matrices.to(context.device)

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        return torch.matmul(probs, prepared)


@dataclass(frozen=True, eq=False)
class InjectMap(Edit):
    """A word gets a given map: at each place, the share of attention that the map says.

    P′_{i,j} = m_i / n at the n columns j of the word, and P_{i,j} · (1 − m_i) / (1 − w_i) at the
    others, w_i being the word's share before, so that the shares still sum to 1.

    Attributes:
        word: a word or phrase of the prompt.
        map: shares of attention from 0 to 1: an array `(height, width)` or a `HeatMap`, of the
            picture's aspect and of any resolution; or a `Trace`, whose map of the same word is
            taken, at each site its own where the trace has it.
        strength: the map is multiplied by it.

    Raises:
        UserError: at once, for an array with other axes or values; before the first step, for one
            of another aspect, or a trace without the word.
    """

    per_head: ClassVar[bool] = True

    word: str
    map: Any
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.strength < float("inf"):
            raise UserError(f"expected a strength above 0, but came {self.strength}")
        if not isinstance(self.map, Trace):
            self._shares(self.map)

    def _shares(self, given: Any) -> Tensor:
        given = given.array if isinstance(given, HeatMap) else given
        return checked_shares("a map", given)

    @property
    def renormalises(self) -> bool:
        return True

    def prepare(self, context: EditContext) -> Any:
        span = context.span(self.word)
        places = torch.zeros(len(context.words), 1, context.height * context.width, 1)
        for image in context.images:
            given = self._of_trace(self.map, image, context)
            shares = at_site("a map", self._shares(given), context, smooth=True)
            places[image, 0, :, 0] = (shares * self.strength).clamp(max=1).flatten()
        places = places.to(context.device)
        return span, places, span / span.sum(dim=-1, keepdim=True).clamp_min(1)

    def _of_trace(self, given: Any, image: int, context: EditContext) -> Any:
        if not isinstance(given, Trace):
            return given
        of, name = image if image < len(given.prompts) else 0, context.site.name
        if all(site.name != name for site in given.sites):
            return given.heatmap(self.word, image=of).array.clip(0, 1)
        own = given.heatmap(self.word, image=of, sites=[name], aggregate=_as_recorded)
        return own.array.clip(0, 1)

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        span, places, evenly = prepared
        others = probs * (1 - span)
        left = others.sum(dim=-1, keepdim=True)
        if context.site.kind == "joint":
            text = probs.sum(dim=-1, keepdim=True)
            if self.scales_the_rest:
                left = left + (1 - text).clamp_min(0)
            else:  # the word gets no more than the text has
                places = torch.minimum(places, text)
                return others * ((text - places) / left.clamp_min(TINY)) + places * evenly
        left = left.clamp_min(TINY)
        return others * ((1 - places) / left) + places * evenly


def _as_recorded(given: SiteMaps) -> FloatMap:
    """The map of one site at its own resolution."""
    return given.wanted[0].mean(axis=0).sum(axis=-1)
