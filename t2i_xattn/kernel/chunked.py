"""Attention a block at a time, in memory linear in the queries and the keys.

The softmax is put together as the blocks of keys come by (Milakov and Gimelshein 2018, "Online
normalizer calculation for softmax", arXiv 1805.02867, algorithm 3; Rabe and Staats 2021,
"Self-attention Does Not Need O(n²) Memory", arXiv 2112.05682): with the largest score so far m, the
sum l and the weighted sum a, a block of scores s with values v makes

    m′ = max(m, max s),   l′ = l e^(m − m′) + Σ e^(s − m′),   a′ = a e^(m − m′) + e^(s − m′) v,

and the output is a / l.
"""

from __future__ import annotations

import torch
from torch import Tensor

from t2i_xattn.kernel.call import Asked
from t2i_xattn.kernel.modes import without_autocast

_STEEPEST = 1e30
"""The largest factor of scores that lie between −d and d; with more they would overflow, and with
this much the softmax is one key's already."""


def chunked_attention(call: Asked, queries: int = 1024, keys: int = 1024) -> Tensor:
    """softmax(Q Kᵀ · scale + mask) V, equal to the fused kernel up to rounding.

    It is computed in fp32. Whatever finite numbers come in, finite ones go out: queries, keys and
    values are divided by their largest before they are multiplied.

    Args:
        call: the kernel call.
        queries, keys: in a block.

    Returns:
        `(rows, heads, queries, d)` in the dtype of the values; zeros for a query whose keys are all
        masked.
    """
    with without_autocast(call.query.device):
        largest = [_largest(each) for each in (call.query, call.key, call.value)]
        steepness = (call.scale * largest[0].double() * largest[1].double()).clamp(max=_STEEPEST)
        parts = []
        for start in range(0, call.query.shape[2], queries):
            query = call.query[:, :, start : start + queries].float() / largest[0]
            part = _row_of_blocks(call, query * steepness.float(), start, keys, largest)
            parts.append(part)
        limit = min(torch.finfo(each).max for each in (call.value.dtype, torch.float32))
        return torch.cat(parts, dim=2).clamp(-limit, limit).to(call.value.dtype)


def _row_of_blocks(
    call: Asked, query: Tensor, start: int, keys: int, largest: list[Tensor]
) -> Tensor:
    shape = (*query.shape[:3], 1)
    highest = query.new_full(shape, float("-inf"))
    total, taken = query.new_zeros(shape), query.new_zeros(*shape[:3], call.value.shape[-1])
    for first in range(0, call.key.shape[2], keys):
        key = call.key[:, :, first : first + keys].float() / largest[1]
        value = call.value[:, :, first : first + keys].float() / largest[2]
        scores = torch.matmul(query, key.transpose(-1, -2))
        scores = _masked(scores, call.mask, start, first)
        higher = torch.maximum(highest, scores.amax(dim=-1, keepdim=True))
        # Where all so far are masked there is no largest; 0 in its place leaves exp(−∞) = 0.
        base = higher.masked_fill(higher == float("-inf"), 0.0)
        weights, before = (scores - base).exp(), (highest - base).exp()
        total = total * before + weights.sum(dim=-1, keepdim=True)
        taken = taken * before + torch.matmul(weights, value)
        highest = higher
    return taken / total.masked_fill(total == 0, 1.0) * largest[2]


def _masked(scores: Tensor, mask: Tensor | None, start: int, first: int) -> Tensor:
    if mask is None:
        return scores
    queries, keys = scores.shape[-2:]
    if mask.shape[-2] > 1:
        mask = mask[..., start : start + queries, :]
    if mask.shape[-1] > 1:
        mask = mask[..., first : first + keys]
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, float("-inf"))
    return scores + mask.float()


def _largest(tensor: Tensor) -> Tensor:
    """fp32 `()`: the largest number in absolute value; never 0, to divide by."""
    return tensor.detach().abs().amax().float().clamp_min(torch.finfo(torch.float32).tiny)
