"""What one word contributes to what a layer of cross-attention gives to each place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from t2i_xattn.kernel.attention import (
    attention_probs,
    mixed_values,
    normed_text,
    output_matrix,
    projected_keys,
    split_heads,
)
from t2i_xattn.kernel.room import roomy
from t2i_xattn.shapes import Float

_AT_ONCE = 2**23
"""Probs that are there at a time."""


def contributions(
    attn: Any,
    query: Float[Tensor, "rows heads places d"],
    taken: Float[Tensor, "rows heads places d"],
    scale: float,
    without: Float[Tensor, "texts tokens channels"],
) -> Float[Tensor, "rows places texts"]:
    """How much of what a layer gives to the places it would not give without a word of the text.

    c(x) = ‖(o(x) − o₋(x)) W‖ / mean over x of ‖o(x) W‖, where o(x) = softmax(q(x) Kᵀ · scale) V is
    what a place takes from the text, the heads behind each other, o₋(x) the same with the keys and
    values of the text that was encoded without the word, and W the output projection, without its
    bias. So it holds what the word's own tokens give, and what the text encoder has written of the
    word into others, such as a colour into its noun. That is leaving one out, as in Li et al.,
    "Understanding Neural Networks through Representation Erasure" (arXiv 1612.08220), at one layer,
    with the picture's queries as they are.

    Args:
        attn: a diffusers `Attention`.
        query: `(rows, heads, places, d)`.
        taken: o, fp32 `(rows, heads, places, d)`.
        scale: of the scores, usually 1 / √d.
        without: the text without each of some words, as the layer is given texts, `(texts, tokens,
            channels)`.

    Returns:
        fp32 `(rows, places, texts)`, 0 or more: 0 where the word changes nothing, 1 where what it
        changes is as long as what a place is given on average.
    """
    matrix = output_matrix(attn.to_out[0], query)
    states = normed_text(attn, without)
    keys, values = projected_keys(attn, states), split_heads(attn.to_v(states), attn.heads)
    # Of vectors, the squares are summed up.
    width = float(matrix.shape[-1])
    found = [roomy(each, each, matrix, matrix, times=width**3) for each in (taken, values)]
    dtype = torch.float64 if torch.float64 in found else torch.float32
    matrix = matrix.to(dtype)

    def lengths(vectors: Tensor) -> Tensor:
        """`(…, heads, places, d)` to `(…, places)`."""
        with torch.autocast(device_type=query.device.type, enabled=False):
            flat = vectors.to(dtype).transpose(-2, -3).flatten(-2)
            return (flat @ matrix.mT).norm(dim=-1)

    whole = lengths(taken).mean(dim=-1, keepdim=True).clamp(min=1e-12)
    rows = []
    for one, own in zip(query, taken, strict=True):
        parts = []
        together = max(1, _AT_ONCE // (one.shape[0] * one.shape[1] * keys.shape[2]))
        for key, value in zip(keys.split(together), values.split(together), strict=True):
            probs = attention_probs(one.expand(len(key), *one.shape), key, scale)
            parts.append(lengths(own - mixed_values(probs, value)))
        rows.append(torch.cat(parts))
    return (torch.stack(rows) / whole[:, None]).transpose(1, 2).float()
