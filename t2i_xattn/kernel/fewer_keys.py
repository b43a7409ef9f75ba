"""A kernel call with some of its keys only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from t2i_xattn.kernel.call import Asked


@dataclass(frozen=True, eq=False)
class FewerKeys:
    """Which keys of a kernel call are looked at.

    The softmax over them alone is what a mask of −∞ on the others would give:
    P′ = P / Σ P over the keys that stay. With a share s of the attention taken away, an output
    moves by at most 2 s max|V|.

    Attributes:
        index: the keys that stay, int64 `(rows, heads or 1, keys)`.
        there: bool, of the same shape: False where a row has fewer than others and the index only
            fills it up; None: all are.
    """

    index: Tensor
    there: Tensor | None = None

    def of(self, call: Asked) -> Asked:
        """The call with these keys alone."""
        heads, width = call.key.shape[1], call.key.shape[-1]
        index = self.index.expand(-1, heads, -1)
        places = index[..., None]
        key = call.key.gather(2, places.expand(-1, -1, -1, width))
        value = call.value.gather(2, places.expand(-1, -1, -1, call.value.shape[-1]))
        mask = call.mask
        if mask is not None:
            mask = _four_axes(mask)
            rows, queries = len(index), mask.shape[2]
            mask = mask.expand(rows, heads, queries, -1)
            mask = mask.gather(3, index[:, :, None].expand(-1, -1, queries, -1))
        return replace(call, key=key, value=value, mask=_hidden(mask, self.there))

    def mask(self, call: Asked) -> Tensor:
        """The mask over all keys that means the same."""
        rows, heads, _ = self.index.shape
        seen = torch.zeros(rows, heads, call.key.shape[2], dtype=torch.bool, device=call.key.device)
        if self.there is None:
            seen = seen.scatter(2, self.index, True)
        else:  # what fills up may stand at a key that stays
            counts = seen.float().scatter_add(2, self.index, self.there.float())
            seen = counts > 0
        hidden = _hidden(None if call.mask is None else _four_axes(call.mask), seen)
        assert hidden is not None
        return hidden


def _hidden(mask: Tensor | None, seen: Tensor | None) -> Tensor | None:
    """A mask that hides what is not seen, `(rows, heads or 1, keys)`, as well."""
    if seen is None:
        return mask
    seen = seen[:, :, None]
    if mask is None:
        return seen
    return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, float("-inf"))


def _four_axes(mask: Tensor) -> Tensor:
    while mask.ndim < 4:
        mask = mask[None]
    return mask
