"""Shares of some keys in the attention of some queries, without a softmax over all keys.

The share of key j at query i is exp(qᵢ · kⱼ · scale + maskᵢⱼ − ℓᵢ), where ℓᵢ is the logarithm of
the sum of the exponentials over all keys, which fused kernels have at hand (Dao et al.,
"FlashAttention", arXiv 2205.14135, algorithm 1: L). Where the kernel did not say it, it is summed
up here, in chunks of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from t2i_xattn.kernel.call import KernelCall, Places, Rows, taken
from t2i_xattn.kernel.modes import without_autocast
from t2i_xattn.kernel.room import roomy
from t2i_xattn.shapes import Float, Shaped

CHUNK = 1024
"""Keys of which the scores are formed at once, where they are summed up."""

HEADS = 6
"""Heads whose shares are formed at once, where their mean is wanted."""


@dataclass(frozen=True)
class Portion:
    """Where picture and text stand in a kernel call that has both.

    Attributes:
        queries: of the picture's places; as many in every row.
        keys: of the text's columns; rows may have fewer than others.
        own_keys: of the picture's places, among the keys.
        text_queries: of the text's columns, among the queries; None where the text asks nothing.
    """

    queries: Places
    keys: Places
    own_keys: Places
    text_queries: Places | None


def shares_of(
    call: KernelCall, rows: Rows, queries: Places, keys: Places
) -> Float[Tensor, "rows heads queries keys"]:
    """What some queries give to some keys, fp32 `(rows, heads, queries, keys)`, 0 to 1.

    They sum to what the queries give to these keys; the rest goes to the others. A row with fewer
    keys than others has zeros behind them; so has a query whose keys are all masked.
    """
    dtype = _room(call)
    query = at_places(call.query, rows, queries).to(dtype)
    key = at_places(call.key, rows, keys).to(dtype)
    whole = _logsumexp(call, rows, queries, dtype)[..., None]
    with without_autocast(query.device):
        scores = torch.matmul(query * call.scale, key.transpose(-1, -2))
        scores = _masked(scores, call.mask_of(rows), rows, queries, keys)
        # A query whose keys are all masked has looked at nothing: exp(−∞) are its shares.
        whole = whole.masked_fill(whole == float("-inf"), float("inf"))
        # A score is no more than the logsumexp of all but for rounding, which is large where scores
        # are: shares would be beyond 1, and their exponentials infinite.
        if torch.is_grad_enabled() and scores.requires_grad:
            below = scores - whole
            shares = (below - below.detach().clamp_min(0)).exp()
        else:
            shares = scores.sub_(whole).clamp_max_(0).exp_()
    shares = shares.float()
    there = _there(rows, keys, key.shape[-2], key.device)
    return shares if there is None else shares * there


def mean_of_heads(call: KernelCall, form: Callable[[KernelCall], Tensor]) -> Tensor:
    """The mean over the heads of what is formed of a call, `(rows, 1, queries, keys)`.

    Taken a few heads at a time, so that what is in between stays small.

    Args:
        call: the kernel call.
        form: gives fp32 `(rows, heads, queries, keys)` of a call with some of the heads.
    """
    total: Tensor | None = None
    for few in by_heads(call):
        part = form(few).sum(dim=1, keepdim=True)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total.div_(call.query.shape[1])


def by_heads(call: KernelCall) -> Iterator[KernelCall]:
    """The calls of a few heads each, that are formed at once."""
    for first in range(0, call.query.shape[1], HEADS):
        yield _of_heads(call, slice(first, first + HEADS))


def _of_heads(call: KernelCall, one: slice) -> KernelCall:
    """The call of some of its heads."""
    mask = call.mask
    if mask is not None and mask.ndim > 2 and mask.shape[-3] > 1:
        mask = mask[..., one, :, :]
    return KernelCall(
        call.query[:, one],
        call.key[:, one],
        call.value[:, one],
        call.output[:, one],
        mask,
        call.scale,
        None if call.logsumexp is None else call.logsumexp[:, one],
    )


def output_of_others(
    call: KernelCall, rows: Rows, queries: Places, keys: Places
) -> Float[Tensor, "rows heads queries d"]:
    """What some queries take from all keys but some, in the shares that they would have without
    those: fp32 `(rows, heads, queries, d)`; zeros where no other key may be looked at.

    Asked of the kernel anew. To take it from the output, O − P V, would be to divide a small
    difference of rounded numbers by a small share.
    """
    taken_from = []
    for row in rows:
        own, hidden = of_row(queries, row), of_row(keys, row)
        others = [*range(hidden.start), *range(hidden.stop, call.key.shape[2])]
        mask = call.mask_of([row])
        if mask is not None:
            mask = mask[:, :, own.start : own.stop] if mask.shape[-2] > 1 else mask
            mask = mask[..., others] if mask.shape[-1] > 1 else mask
        query = call.query[row : row + 1, :, own.start : own.stop]
        key, value = (each[row : row + 1][:, :, others] for each in (call.key, call.value))
        output = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=call.scale)
        taken_from.append(output.float().nan_to_num(0.0))
    return torch.cat(taken_from)


def at_places(
    tensor: Shaped[Tensor, "all_rows heads all_places d"], rows: Rows, places: Places
) -> Shaped[Tensor, "rows heads places d"]:
    """`(rows, heads, places, d)` of a tensor `(all rows, heads, all places, d)`.

    Where rows have fewer places than others, their first place stands in for what is not there.
    """
    if isinstance(places, range):
        return taken(tensor, rows)[:, :, places.start : places.stop]
    return torch.stack([tensor[row][:, _index(places, rows, row)] for row in rows])


def of_row(places: Places, row: int) -> range:
    """Where the places of one row stand."""
    return places if isinstance(places, range) else places[row]


def at_one(places: Places, number: int) -> Places:
    """The n-th place of each row."""
    if isinstance(places, range):
        return range(places[number], places[number] + 1)
    return [range(each[number], each[number] + 1) for each in places]


def _index(places: Sequence[range], rows: Rows, row: int) -> list[int]:
    longest = max(len(places[each]) for each in rows)
    own = list(places[row])
    return own + [own[0] if own else 0] * (longest - len(own))


def _there(rows: Rows, places: Places, length: int, device: torch.device) -> Tensor | None:
    """fp32 `(rows, 1, 1, length)`: 1 at the places that a row has; None if all have all."""
    if isinstance(places, range) or len({len(places[row]) for row in rows}) == 1:
        return None
    there = torch.zeros(len(rows), 1, 1, length, device=device)
    for number, row in enumerate(rows):
        there[number, ..., : len(places[row])] = 1
    return there


def _masked(
    scores: Tensor, mask: Tensor | None, rows: Rows, queries: Places, keys: Places
) -> Tensor:
    """Scores under a call's mask `(rows or 1, heads or 1, queries or 1, all keys)`."""
    if mask is None:
        return scores
    if mask.shape[0] == 1 and len(rows) > 1:
        mask = mask.expand(len(rows), -1, -1, -1)
    every = tuple(range(len(rows)))
    if mask.shape[-2] > 1:
        mask = at_places(mask, every, _of_rows(queries, rows))
    if mask.shape[-1] > 1:
        mask = at_places(mask.transpose(-1, -2), every, _of_rows(keys, rows)).transpose(-1, -2)
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, float("-inf"))
    masked = scores + mask.to(scores.dtype)
    if masked.requires_grad:  # what is masked has no part in gradients, not one of −∞ − −∞
        masked = masked.masked_fill(masked == float("-inf"), float("-inf"))
    return masked


def _of_rows(places: Places, rows: Rows) -> Places:
    return places if isinstance(places, range) else [places[row] for row in rows]


def _room(call: KernelCall) -> torch.dtype:
    return roomy(call.query, call.key, times=call.query.shape[-1] * max(1.0, abs(call.scale)))


def _logsumexp(call: KernelCall, rows: Rows, queries: Places, dtype: torch.dtype) -> Tensor:
    """`(rows, heads, queries)`: over all keys of the call."""
    learned = any(
        each is not None and each.requires_grad for each in (call.query, call.key, call.mask)
    )
    # What the kernel says has no gradient, and fp32's room.
    said = dtype == torch.float32 and not (learned and torch.is_grad_enabled())
    if said and call.logsumexp is not None:
        return at_places(call.logsumexp[..., None], rows, queries)[..., 0].float()
    query = at_places(call.query, rows, queries).to(dtype) * call.scale
    key, mask = taken(call.key, rows), call.mask_of(rows)
    total: Tensor | None = None
    with without_autocast(query.device):
        for first in range(0, key.shape[-2], CHUNK):
            chunk = range(first, min(first + CHUNK, key.shape[-2]))
            some = key[:, :, first : chunk.stop].to(dtype)
            scores = torch.matmul(query, some.transpose(-1, -2))
            part = _masked(scores, mask, rows, queries, chunk).logsumexp(dim=-1)
            total = part if total is None else torch.logaddexp(total, part)
    assert total is not None
    return total
