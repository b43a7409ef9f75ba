"""The fused kernel, asked for the logsumexp that it has at hand.

`scaled_dot_product_attention` ends in one of several kernels, most of which give the logarithm of
the sum of the exponentials of each query's scores beside the output. Asked for by its own name, the
kernel that the plain call would have taken gives the same bytes.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_FLASH, _EFFICIENT = 1, 2
"""Of `torch.nn.attention.SDPBackend`."""


def fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """Output and logsumexp `(rows, heads, queries)` of the kernel that the plain call would take;
    None where that kernel gives none, or it is not known to be the same."""
    plain = dropout_p == 0 and not is_causal and not enable_gqa and query.ndim == 4
    if not plain or query.shape[-1] != value.shape[-1]:
        return None
    if query.device.type == "cpu":
        if torch.compiler.is_compiling():
            # The choice cannot be asked for in a graph; with a mask it may be another.
            choice = _FLASH if attn_mask is None else 0
        else:
            choice = torch._fused_sdp_choice(query, key, value, attn_mask, scale=scale)
        return _of_cpu(query, key, value, attn_mask, scale) if choice == _FLASH else None
    if torch.compiler.is_compiling() or attn_mask is not None or query.shape[-1] % 8:
        return None
    choice = int(torch._fused_sdp_choice(query, key, value, attn_mask, scale=scale))
    kind = query.device.type, query.dtype, choice
    if choice not in (_FLASH, _EFFICIENT) or not _is_the_same(*kind):
        return None
    return _of_cuda(query, key, value, scale, choice)


def _of_cpu(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor]:
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, float("-inf"))
    made: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=mask, scale=scale
    )
    return made


def _of_cuda(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None, choice: int
) -> tuple[Tensor, Tensor]:
    made: Any
    if choice == _FLASH:
        made = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)
    else:
        made = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, scale=scale
        )
    # Some kernels give room for whole blocks of queries.
    return made[0], made[1][..., : query.shape[-2]]


@functools.cache
def _is_the_same(device: str, dtype: torch.dtype, choice: int) -> bool:
    """Whether a kernel, asked for by name, gives the plain call's bytes and the right logsumexp: it
    is tried once, on a small call."""
    drawn = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, 2, length, 64, generator=drawn).to(device, dtype) for length in (48, 80, 80)
    )
    if int(torch._fused_sdp_choice(query, key, value)) != choice:
        return False
    output, logsumexp = _of_cuda(query, key, value, None, choice)
    scores = (query.float() @ key.float().transpose(-1, -2)) * query.shape[-1] ** -0.5
    right = torch.allclose(logsumexp.float(), scores.logsumexp(dim=-1), atol=2e-2)
    return right and torch.equal(output, scaled_dot_product_attention(query, key, value))
