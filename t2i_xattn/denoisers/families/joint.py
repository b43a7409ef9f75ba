"""Joint attention: picture and text in one sequence of keys, in one order or the other."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.families.transformer import Transformer, count, no_grid
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import OTHERS, TEXT
from t2i_xattn.kernel.call import KernelCall
from t2i_xattn.kernel.shares import Portion


class Joint(Transformer):
    """See the module."""

    kind = "joint"
    text_first: ClassVar[bool]

    def of_text(
        self,
        site: AttentionSite,
        module: nn.Module,
        kernel: KernelCall,
        number: int,
        call: DenoiserCall,
    ) -> Reading:
        queries, keys, grid = kernel.query.shape[2], kernel.key.shape[2], call.places
        assert grid is not None
        places, tokens, before = count(grid), call.tokens, call.before
        if number > 0:
            if call.extra == "between":  # reference pictures, which look at themselves alone
                return Reading(grid, OTHERS)
            problem = f"the kernel was called {number + 1} times there"
            return Reading(grid, TEXT, problem=problem)
        extra = keys - before - tokens - places
        if extra < 0 or (extra > 0 and call.extra == "none"):
            problem = (
                f"the kernel got {keys} keys there for {places} places of the picture and a text "
                f"of {tokens} tokens"
            )
            return Reading(grid, TEXT, problem=problem)
        picture, text = self._ranges(places, call, extra)
        if queries == places:  # the picture alone asks
            return Reading(grid, TEXT, portion=Portion(range(places), text, picture, None))
        asking, asked = picture, text
        if queries == keys - extra != keys:
            asking, asked = self._ranges(places, call, 0)
        elif queries != keys:
            return Reading(None, TEXT, problem=no_grid(queries, grid))
        return Reading(grid, TEXT, portion=Portion(asking, text, picture, asked))

    def _ranges(self, places: int, call: DenoiserCall, extra: int) -> tuple[range, range]:
        """Where the picture stands and where the text, with so many others."""
        between = extra if call.extra == "between" else 0
        start = extra if call.extra == "front" else 0
        if self.text_first:
            start += call.before
            text = range(start, start + call.tokens)
            return range(text.stop + between, text.stop + between + places), text
        first = start + places + between
        return range(start, start + places), range(first, first + call.tokens)
