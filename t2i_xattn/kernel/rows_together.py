"""Kernel calls of one row each, as one of them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from t2i_xattn.kernel.call import KernelCall


def rows_together(calls: Sequence[KernelCall]) -> KernelCall:
    """One call of all rows; shorter ones are filled up with keys that are masked."""
    queries = max(call.query.shape[2] for call in calls)
    keys = max(call.key.shape[2] for call in calls)
    mask = torch.zeros(len(calls), 1, 1, keys, dtype=torch.bool, device=calls[0].key.device)
    for row, call in enumerate(calls):
        assert call.mask is None, "each row has its own keys alone"
        mask[row, ..., : call.key.shape[2]] = True
    said = [call.logsumexp[..., None] for call in calls if call.logsumexp is not None]
    return KernelCall(
        query=_filled([call.query for call in calls], queries),
        key=_filled([call.key for call in calls], keys),
        value=_filled([call.value for call in calls], keys),
        output=_filled([call.output for call in calls], queries),
        mask=mask,
        scale=calls[0].scale,
        logsumexp=_filled(said, queries)[..., 0] if len(said) == len(calls) else None,
    )


def _filled(parts: Sequence[Tensor], length: int) -> Tensor:
    """`(1, heads, places, d)` each, as rows of as many places."""
    return torch.cat([pad(each, (0, 0, 0, length - each.shape[2])) for each in parts])
