"""Queries, keys and probs of an attention layer, as diffusers forms them; maps carried along it.

Everything here works on tensors and a diffusers `Attention` that is handed in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from t2i_xattn.kernel.modes import without_autocast
from t2i_xattn.kernel.room import roomy
from t2i_xattn.shapes import Float


def normed_inputs(
    attn: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None = None,
    temb: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What an attention layer projects: the picture's and the text's states after its norms.

    Args:
        attn: a diffusers `Attention`.
        hidden_states: `(batch, queries, channels)` or `(batch, channels, height, width)`.
        encoder_hidden_states: `(batch, tokens, text channels)`; None for self-attention.
        temb: time embedding, used by sites with a spatial norm.

    Returns:
        `(batch, queries, channels)`, and `(batch, tokens, text channels)`, which is the first again
        in self-attention.
    """
    if attn.spatial_norm is not None:
        hidden_states = attn.spatial_norm(hidden_states, temb)
    if hidden_states.ndim == 4:
        hidden_states = hidden_states.flatten(2).transpose(1, 2)
    if attn.group_norm is not None:
        hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
    if encoder_hidden_states is None:
        return hidden_states, hidden_states
    return hidden_states, normed_text(attn, encoder_hidden_states)


def normed_text(attn: Any, text: Tensor) -> Tensor:
    """The text's states `(batch, tokens, text channels)` after the layer's norm of them, if any."""
    return attn.norm_encoder_hidden_states(text) if attn.norm_cross else text


def projected(attn: Any, picture: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Queries `(batch, heads, queries, d)` and keys `(batch, heads, tokens, d)` of normed states.

    The projections are called as modules, since LoRA replaces them by wrapped layers.
    """
    query = split_heads(attn.to_q(picture), attn.heads)
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    return query, projected_keys(attn, text)


def projected_keys(attn: Any, text: Tensor) -> Tensor:
    """Keys `(batch, heads, tokens, d)` of normed states."""
    key = split_heads(attn.to_k(text), attn.heads)
    return key if attn.norm_k is None else attn.norm_k(key)


def queries_and_keys(
    attn: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None = None,
    temb: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The queries and keys that diffusers' `AttnProcessor2_0` would form.

    Takes what `normed_inputs` takes and gives what `projected` gives.
    """
    return projected(attn, *normed_inputs(attn, hidden_states, encoder_hidden_states, temb))


def attention_probs(
    query: Float[Tensor, "batch heads queries d"],
    key: Float[Tensor, "#batch heads tokens d"],
    scale: float,
    mask: Tensor | None = None,
) -> Float[Tensor, "batch heads queries tokens"]:
    """softmax(Q Kᵀ · scale + mask) over the tokens, in fp32 whatever the model computes in; in fp64
    where fp32 has no room (`kernel.room`).

    Vaswani et al. 2017, eq. 1; `t2i_xattn.kernel.reference` has it step by step.

    Args:
        query: `(batch, heads, queries, d)`.
        key: `(batch, heads, tokens, d)`.
        scale: usually 1 / √d.
        mask: broadcast to `(batch, heads, queries, tokens)`; of bool (True: may be looked at), or
            a number to be added to the scores (−inf: may not).

    Returns:
        fp32 probs `(batch, heads, queries, tokens)`, 0 to 1, summing to 1 over the tokens; zeros
        for a query whose tokens are all masked.
    """
    dtype = roomy(query, key, times=query.shape[-1] * max(1.0, abs(scale)))
    with without_autocast(query.device):
        # The scale is multiplied into the keys, since a text has fewer of them than queries.
        scores = torch.matmul(query.to(dtype), key.to(dtype).mul(scale).transpose(-1, -2))
        if mask is None:
            return scores.softmax(dim=-1).float()
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, float("-inf"))
        else:
            scores = scores + mask.to(dtype)
        if _hides_no_query(mask):
            return scores.softmax(dim=-1).float()
        # Only all-masked queries come out as NaN, and they have looked at nothing.
        nothing = scores.amax(dim=-1, keepdim=True) == float("-inf")
        # Filled before too: the gradient of a softmax over −inf alone would be NaN.
        probs = scores.masked_fill(nothing, 0.0).softmax(dim=-1).masked_fill(nothing, 0.0)
        return probs.float()


def _hides_no_query(mask: Tensor) -> bool:
    """Whether a mask that is the same for all queries leaves each row a token to look at; asked on
    a CPU only, since the answer of a GPU would have to be waited for."""
    if mask.device.type != "cpu" or mask.shape[-2] != 1:
        return False
    hidden = ~mask if mask.dtype == torch.bool else mask == float("-inf")
    return not bool(hidden.all(dim=-1).any())


def attend(attn: Any, query: Tensor, scale: float, text: Tensor) -> Tensor:
    """What queries take from a text: softmax(Q Kᵀ · scale) V, before the output projection.

    Args:
        attn: a diffusers `Attention`.
        query: `(batch, heads, queries, d)`.
        scale: of the scores, usually 1 / √d.
        text: another text's states, as the denoiser's sites get them, `(tokens, text channels)`.

    Returns:
        fp32 `(batch, heads, queries, d)`.
    """
    states = normed_text(attn, text[None])
    value = split_heads(attn.to_v(states), attn.heads)
    return mixed_values(attention_probs(query, projected_keys(attn, states), scale), value)


def mixed_values(
    probs: Float[Tensor, "#batch heads queries tokens"],
    value: Float[Tensor, "#batch heads tokens d"],
) -> Float[Tensor, "_ heads queries d"]:
    """P V, fp32 `(batch, heads, queries, d)` under autocast too: values in the shares of probs;
    fp64 where fp32 has no room (`kernel.room`)."""
    # Not by the largest of the probs, which edits may have made larger than 1: it would be a pass
    # over what is the largest here.
    dtype = roomy(value, times=1e6 * probs.shape[-1])
    with without_autocast(value.device):
        return torch.matmul(probs.to(dtype), value.to(dtype))


def plus(taken: Float[Tensor, "*axes"], change: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """The sum in the dtype of the first; where the change is 0, the first to the byte.

    Adding 0 would turn −0 into 0, and adding −0 turns nothing into anything: so no change is made
    a −0, whose gradient is still that of the change.
    """
    change = torch.where(change == 0, -(change.detach() - change), change)
    return (taken + change).to(taken.dtype)


def carried(
    query: Float[Tensor, "batch heads queries d"],
    key: Float[Tensor, "batch heads queries d"],
    scale: float,
    maps: Float[Tensor, "batch 1 queries columns"],
    steps: int = 1,
) -> Float[Tensor, "batch 1 queries columns"]:
    """Maps carried along self-attention, step by step: `m ← mean over heads of (S m)`.

    S is softmax(Q Kᵀ / √d) over the places of the picture. It is never formed: S m is attention
    with the maps as its values, which the fused kernel does in memory linear in the picture. Places
    that look at each other come to have alike shares, as in the refinement of DiffSegmenter (Wang
    et al., arXiv 2309.02773). The rows of S sum to 1, so shares stay shares.

    Args:
        query: of the self-attention, `(batch, heads, queries, d)`.
        key: `(batch, heads, queries, d)`.
        scale: usually 1 / √d.
        maps: fp32 `(batch, 1, queries, columns)`.
        steps: how often.

    Returns:
        fp32, the shape of `maps`.
    """
    heads, width = query.shape[1], query.shape[-1]
    for _ in range(steps):
        parts = []
        for part in maps.split(width, dim=-1):
            # As wide as the queries, or the fused kernels do not take it.
            values = functional.pad(part, (0, width - part.shape[-1])).to(query.dtype)
            values = values.expand(-1, heads, -1, -1)
            out = functional.scaled_dot_product_attention(query, key, values, scale=scale)
            parts.append(out.float().mean(dim=1, keepdim=True)[..., : part.shape[-1]])
        maps = torch.cat(parts, dim=-1)
    return maps


def head_weights(
    probs: Float[Tensor, "batch heads queries tokens"],
    values: Float[Tensor, "batch heads tokens d"],
    to_out: Any,
) -> Float[Tensor, "batch heads queries"]:
    """How much each head has to do with what a layer adds, place by place.

    The output of a layer is the sum of its heads' parts, O = Σ Oₕ with Oₕ = Aₕ Vₕ Wₕ. A head's
    weight at a place is ⟨Oₕ, O⟩, not below 0, divided by the sum over the heads: the head-wise half
    of auto aggregation (Meng et al., arXiv 2603.06178), in the variant of the authors' code that
    clamps, so that shares stay shares.

    Args:
        probs: fp32 `(batch, heads, queries, tokens)`.
        values: `(batch, heads, tokens, d)`.
        to_out: the layer's output projection, whose bias no head has to do with.

    Returns:
        fp32 `(batch, heads, queries)`, 0 to 1, summing to 1 over the heads.
    """
    matrix = output_matrix(to_out, values)
    width = matrix.shape[-1]
    dtype = roomy(values, values, matrix, matrix, times=float(width) ** 3)
    matrix = matrix.to(dtype)
    with without_autocast(probs.device):
        parts = torch.matmul(probs.to(dtype), values.to(dtype))
        added = parts.transpose(1, 2).flatten(2) @ matrix.mT
        # ⟨Oₕ, O⟩ = (Aₕ Vₕ) · (O Wₕᵀ), without forming the heads' outputs one by one.
        back = split_heads(added @ matrix, probs.shape[1])
        weights = (parts * back).sum(dim=-1).clamp(min=0)
        total = weights.sum(dim=1, keepdim=True)
        # Where nothing is added at all, no head is more than another.
        weights = torch.where(total > 0, weights / total.clamp(min=1e-30), 1 / probs.shape[1])
        return weights.float()


def output_matrix(linear: Any, values: Tensor) -> Tensor:
    """`(out, in)` of the linear layer that the values `(batch, heads, tokens, d)` go through.

    Read where it lies ready. Where it does not (a LoRA or a quantised layer in the place of the
    linear one, an offloaded weight that a hook loads) the layer is asked: what it makes of the
    identity, without its bias, is its matrix. It is asked at every call, since to keep the matrices
    would take 0.4 GB for SDXL; asking is about 2 % of the arithmetic of a UNet call.
    """
    if type(linear) is torch.nn.Linear:
        weight = linear.weight
        if type(weight) is torch.nn.Parameter and weight.device == values.device:
            return weight
    width = values.shape[1] * values.shape[-1]
    identity = torch.eye(width, device=values.device, dtype=values.dtype)
    made = linear(torch.cat([identity, torch.zeros_like(identity[:1])])).float()
    return (made[:-1] - made[-1:]).mT


def split_heads(projected_states: Tensor, heads: int) -> Tensor:
    """`(batch, n, heads · d)` to `(batch, heads, n, d)`."""
    return projected_states.unflatten(-1, (heads, -1)).transpose(1, 2)
