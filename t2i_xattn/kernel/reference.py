"""Cross-attention written out in named steps: to learn from, and the oracle of the tests.

Slow and plain on purpose; every step's result is open to see. The equation is eq. 1 of Vaswani et
al. 2017, "Attention Is All You Need" (arXiv 1706.03762), section 3.2, with the heads of its section
3.2.2,

    Attention(Q, K, V) = softmax(Q Kᵀ / √d) V,

and Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv
2112.10752), section 3.3, say what goes in: Q = W_Q φ(z) from the picture, K = W_K τ(y) and
V = W_V τ(y) from the text.

| step | equation | axes |
| --- | --- | --- |
| `query` | Q = φ(z) W_Qᵀ, dealt out to heads | `batch heads queries d` |
| `key`, `value` | K = τ(y) W_Kᵀ, V = τ(y) W_Vᵀ, dealt out | `batch heads tokens d` |
| `products` | Q Kᵀ | `batch heads queries tokens` |
| `scores` | Q Kᵀ / √d | the same |
| `masked` | scores + mask | the same |
| `probs` | softmax over the tokens | the same |
| `taken` | probs · V | `batch heads queries d` |
| `joined` | the heads side by side | `batch queries heads·d` |
| `out` | joined W_Oᵀ + bias | `batch queries channels` |

A query is a place in the picture, a token is a place in the text, d is the width of one head.
Self-attention is the same with one argument changed: `attention(picture, picture, weights, heads)`.
What else models do with it is in `kernel.arrangements`: pictures beside the text, joint attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.errors import UserError
from t2i_xattn.shapes import Bool, Float, Shaped


@dataclass(frozen=True, eq=False)
class Weights:
    """The four matrices of one attention layer, each `(out, in)` as in `torch.nn.Linear`.

    Attributes:
        query: W_Q, `(heads · d, picture channels)`.
        key: W_K, `(heads · d, text channels)`.
        value: W_V, `(heads · d, text channels)`.
        out: W_O, `(picture channels, heads · d)`.
        out_bias: `(picture channels,)`, or None.
        query_bias, key_bias, value_bias: `(heads · d,)`, or None, as in Stable Diffusion.
    """

    query: Float[Tensor, "channels picture"]
    key: Float[Tensor, "channels text"]
    value: Float[Tensor, "channels text"]
    out: Float[Tensor, "made channels"]
    out_bias: Float[Tensor, " made"] | None = None
    query_bias: Float[Tensor, " channels"] | None = None
    key_bias: Float[Tensor, " channels"] | None = None
    value_bias: Float[Tensor, " channels"] | None = None

    @classmethod
    def of(cls, attn: Any) -> Weights:
        """Those of a diffusers `Attention`, whose layers are plain linear ones."""
        linear = (attn.to_q, attn.to_k, attn.to_v, attn.to_out[0])
        q, k, v, out = ((each.weight.detach(), each.bias) for each in linear)
        biases = (None if b is None else b.detach() for b in (out[1], q[1], k[1], v[1]))
        return cls(q[0], k[0], v[0], out[0], *biases)


@dataclass(frozen=True, eq=False)
class Steps:
    """What every step of one layer of attention gave; see the table above.

    Attributes:
        query: Q, `(batch, heads, queries, d)`: what each place asks.
        key: K, `(batch, heads, tokens, d)`: what each token offers to be found by.
        value: V, `(batch, heads, tokens, d)`: what each token gives.
        products: Q Kᵀ, `(batch, heads, queries, tokens)`: any real number.
        scores: the products times the scale, 1 / √d.
        masked: the scores, −∞ where a token may not be looked at.
        probs: the softmax of these: shares from 0 to 1 that sum to 1 over the tokens (to 0 for a
            query that may look at none).
        taken: probs · V, `(batch, heads, queries, d)`: what a fused kernel gives.
        joined: the heads side by side, `(batch, queries, heads · d)`.
        out: mixed by the output projection, `(batch, queries, channels)`; None where there is none.
    """

    query: Float[Tensor, "batch heads queries d"]
    key: Float[Tensor, "batch heads tokens d"]
    value: Float[Tensor, "batch heads tokens d"]
    products: Float[Tensor, "batch heads queries tokens"]
    scores: Float[Tensor, "batch heads queries tokens"]
    masked: Float[Tensor, "batch heads queries tokens"]
    probs: Float[Tensor, "batch heads queries tokens"]
    taken: Float[Tensor, "batch heads queries d"]
    joined: Float[Tensor, "batch queries channels"]
    out: Float[Tensor, "batch queries _"] | None = None


Mask = Shaped[Tensor, "batch tokens"] | Shaped[Tensor, "#batch #heads #queries tokens"]
"""Which tokens may be looked at. `(batch, tokens)` of bool, True where they may, or of whole
numbers as tokenizers give them, 0 where they may not; or four axes that are broadcast to those of
the scores, of bool, or floats to be added to them (−∞: may not)."""


def attention(
    picture: Float[Tensor, "batch queries picture"],
    text: Float[Tensor, "batch tokens text"],
    weights: Weights,
    heads: int,
    mask: Mask | None = None,
    dtype: torch.dtype = torch.float64,
) -> Steps:
    """One layer of attention, step by step.

    Args:
        picture: who looks: φ(z), `(batch, queries, picture channels)`.
        text: what is looked at: τ(y), `(batch, tokens, text channels)`. The picture itself is
            self-attention.
        weights: the layer's matrices.
        heads: number of heads; must divide the rows of W_Q.
        mask: see `Mask`. None: everything may be looked at. `causal(n)` is that of a decoder.
        dtype: in which everything is computed, `torch.float64` or `torch.float32`.
    """
    # Every place of the picture asks, every token of the text offers: linear projections. Their
    # channels are dealt out to the heads, which do not see each other until they are joined.
    q = split_heads(linear(picture.to(dtype), weights.query, weights.query_bias), heads)
    k = split_heads(linear(text.to(dtype), weights.key, weights.key_bias), heads)
    v = split_heads(linear(text.to(dtype), weights.value, weights.value_bias), heads)
    return attend(q, k, v, mask, weights=weights)


def attend(
    q: Float[Tensor, "batch heads queries d"],
    k: Float[Tensor, "batch heads tokens d"],
    v: Float[Tensor, "batch heads tokens d"],
    mask: Mask | None = None,
    scale: float | None = None,
    weights: Weights | None = None,
) -> Steps:
    """The steps from queries, keys and values on: what a fused kernel does in one.

    Args:
        q, k, v: Q, K and V.
        mask: see `Mask`.
        scale: of the products; None: 1 / √d.
        weights: whose output projection is made at the end; None: none.
    """
    products = torch.matmul(q, k.transpose(-1, -2))
    scored = products * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    masked = hidden(scored, mask)
    shares = softmax(masked)
    taken = torch.matmul(shares, v)
    joined = merge_heads(taken)
    out = None if weights is None else linear(joined, weights.out, weights.out_bias)
    return Steps(q, k, v, products, scored, masked, shares, taken, joined, out)


def linear(
    x: Float[Tensor, "batch length in"],
    matrix: Float[Tensor, "out in"],
    bias: Float[Tensor, " out"] | None = None,
) -> Float[Tensor, "batch length out"]:
    """x Wᵀ + b, in the dtype of x."""
    made = x @ matrix.to(x.dtype).T
    return made if bias is None else made + bias.to(x.dtype)


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


def hidden(
    scores: Float[Tensor, "batch heads queries tokens"], mask: Mask | None
) -> Float[Tensor, "batch heads queries tokens"]:
    """The scores with −∞ where the mask says that a token may not be looked at.

    Raises:
        UserError: for floats of two axes and whole numbers of four, which might hide or be added.
    """
    if mask is None:
        return scores
    # Either would come out as shares if it were read as the other.
    if mask.dtype != torch.bool and mask.is_floating_point() == (mask.ndim == 2):
        raise UserError(
            "expected a mask of (batch, tokens) of bool or whole numbers, or of four axes of bool "
            f"or floats to be added to the scores, but came {mask.dtype} of {mask.ndim} axes; "
            "give mask.bool(), True where a token may be looked at"
        )
    if mask.ndim == 2:
        mask = mask[:, None, None, :].bool()
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, float("-inf"))
    return scores + mask.to(scores.dtype)


def softmax(
    masked: Float[Tensor, "batch heads queries tokens"],
) -> Float[Tensor, "batch heads queries tokens"]:
    """exp(sᵢ) / Σⱼ exp(sⱼ) over the tokens: shares from 0 to 1.

    exp(−∞) = 0: a token that may not be looked at gets no share.
    """
    # Taking the largest score away first changes nothing in the quotient and avoids overflow.
    # Where all are −∞ there is no largest: zero in its place leaves exp(−∞) = 0 everywhere.
    largest = masked.amax(dim=-1, keepdim=True)
    exponentials = torch.exp(masked - torch.where(largest.isinf(), 0.0, largest))
    total = exponentials.sum(dim=-1, keepdim=True)
    # No token to look at: zeros, and not the NaN of 0 / 0.
    return exponentials / torch.where(total == 0, 1.0, total)


def probs(
    scores: Float[Tensor, "batch heads queries tokens"],
    mask: Mask | None = None,
) -> Float[Tensor, "batch heads queries tokens"]:
    """The softmax of the scores over the tokens that may be looked at."""
    return softmax(hidden(scores, mask))


def causal(length: int) -> Bool[Tensor, "1 1 length length"]:
    """The mask of a decoder's self-attention: each place may look at itself and what is before it
    (Vaswani et al. 2017, section 3.2.3)."""
    return torch.ones(length, length, dtype=torch.bool).tril()[None, None]
