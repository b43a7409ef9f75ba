"""Cross-attention written out step by step: to learn from, and the oracle of the tests.

Slow and plain on purpose. The equation is eq. 1 of Vaswani et al. 2017, "Attention Is All You
Need" (arXiv 1706.03762),

    Attention(Q, K, V) = softmax(Q Kᵀ / √d) V,

and Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv
2112.10752), section 3.3, say what goes in: Q = W_Q φ(z) from the picture, K = W_K τ(y) and
V = W_V τ(y) from the text.

The axes are `batch heads queries tokens`. A query is a place in the picture, a token is a place in
the text, d is the width of one head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i_xattn.shapes import Bool, Float


@dataclass(frozen=True)
class Weights:
    """The four matrices of one attention layer, each `(out, in)` as in `torch.nn.Linear`.

    Attributes:
        query: W_Q, `(heads · d, picture channels)`.
        key: W_K, `(heads · d, text channels)`.
        value: W_V, `(heads · d, text channels)`.
        out: W_O, `(picture channels, heads · d)`.
        out_bias: `(picture channels,)`, or None.
    """

    query: Float[Tensor, "channels picture"]
    key: Float[Tensor, "channels text"]
    value: Float[Tensor, "channels text"]
    out: Float[Tensor, "picture channels"]
    out_bias: Float[Tensor, " picture"] | None = None


def cross_attention(
    picture: Float[Tensor, "batch queries picture"],
    text: Float[Tensor, "batch tokens text"],
    weights: Weights,
    heads: int,
    mask: Bool[Tensor, "batch tokens"] | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Float[Tensor, "batch queries picture"], Float[Tensor, "batch {heads} queries tokens"]]:
    """One layer of cross-attention.

    Args:
        picture: φ(z), `(batch, queries, picture channels)`.
        text: τ(y), `(batch, tokens, text channels)`.
        weights: the layer's matrices.
        heads: number of heads; must divide the rows of W_Q.
        mask: `(batch, tokens)` of bool, True where a token may be looked at. None: everywhere.
        dtype: in which everything is computed, `torch.float64` or `torch.float32`.

    Returns:
        The output `(batch, queries, picture channels)` and the probs
        `(batch, heads, queries, tokens)`, shares from 0 to 1 that sum to 1 over the tokens (to 0
        for a query that may look at none).
    """
    picture, text = picture.to(dtype), text.to(dtype)

    # 1. Every place of the picture asks, every token of the text offers: linear projections.
    q = picture @ weights.query.to(dtype).T
    k = text @ weights.key.to(dtype).T
    v = text @ weights.value.to(dtype).T

    # 2. The channels are dealt out to the heads, which do not see each other until step 6.
    q, k, v = (split_heads(x, heads) for x in (q, k, v))

    # 3. and 4. How well does each question fit each offer?
    p = probs(scores(q, k), mask)

    # 5. Each place takes the values of the tokens, in those shares.
    taken = p @ v

    # 6. The heads are laid side by side again and mixed by the output projection.
    out = merge_heads(taken) @ weights.out.to(dtype).T
    if weights.out_bias is not None:
        out = out + weights.out_bias.to(dtype)
    return out, p


def split_heads(
    x: Float[Tensor, "batch length channels"], heads: int
) -> Float[Tensor, "batch {heads} length channels//{heads}"]:
    """`(batch, length, heads · d)` to `(batch, heads, length, d)`."""
    batch, length, channels = x.shape
    return x.reshape(batch, length, heads, channels // heads).transpose(1, 2)


def merge_heads(
    x: Float[Tensor, "batch heads length d"],
) -> Float[Tensor, "batch length heads*d"]:
    """`(batch, heads, length, d)` to `(batch, length, heads · d)`."""
    batch, heads, length, d = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads * d)


def scores(
    q: Float[Tensor, "batch heads queries d"], k: Float[Tensor, "batch heads tokens d"]
) -> Float[Tensor, "batch heads queries tokens"]:
    """Q Kᵀ / √d, `(batch, heads, queries, tokens)`: any real number, large for a good fit.

    A dot product of d independent terms grows like √d; dividing by it keeps the softmax away from
    where it is flat.
    """
    d = q.shape[-1]
    return torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(d)


def probs(
    scores: Float[Tensor, "batch heads queries tokens"],
    mask: Bool[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, "batch heads queries tokens"]:
    """The softmax of the scores over the tokens: shares from 0 to 1.

    Args:
        scores: `(batch, heads, queries, tokens)`.
        mask: `(batch, tokens)` of bool, True where a token may be looked at.
    """
    if mask is None:
        mask = torch.ones(scores.shape[0], scores.shape[-1], dtype=torch.bool)
    # exp(−∞) = 0: a token that may not be looked at gets no share.
    scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
    # Taking the largest score away first changes nothing in the quotient and avoids overflow.
    # Where all are −∞ there is no largest: zero in its place leaves exp(−∞) = 0 everywhere.
    largest = scores.amax(dim=-1, keepdim=True)
    exponentials = torch.exp(scores - torch.where(largest.isinf(), 0.0, largest))
    total = exponentials.sum(dim=-1, keepdim=True)
    # No token to look at: zeros, and not the NaN of 0 / 0.
    return exponentials / torch.where(total == 0, 1.0, total)
