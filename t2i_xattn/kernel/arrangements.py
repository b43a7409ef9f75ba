"""What models make of cross-attention, in the steps of `kernel.reference`: pictures as conditions
beside the text, and joint attention. Slow and plain as these, and as much the oracle of the tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from t2i_xattn.kernel.reference import (
    Mask,
    Steps,
    Weights,
    attend,
    attention,
    linear,
    merge_heads,
    split_heads,
)
from t2i_xattn.shapes import Float


def decoupled(
    picture: Float[Tensor, "batch queries picture"],
    text: Float[Tensor, "batch tokens text"],
    others: Sequence[tuple[Tensor, Weights, float]],
    weights: Weights,
    heads: int,
    mask: Mask | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Float[Tensor, "batch queries picture"], Steps, list[Steps]]:
    """Cross-attention with conditions that have a softmax of their own (IP-Adapter).

    The same queries look at the text and at each picture apart, and what they take is added up:
    Z = softmax(Q Kᵀ / √d) V + λ softmax(Q K′ᵀ / √d) V′, eq. 5 of Ye et al., "IP-Adapter" (arXiv
    2308.06721). So a picture takes no share away from the text.

    Args:
        picture, text, weights, heads, mask, dtype: as for `attention`.
        others: for each picture its states `(batch, tokens, channels)`, the weights of which W_K
            and W_V are used, and λ.

    Returns:
        The output `(batch, queries, picture channels)`, the steps for the text, and those for each
        picture (whose `out` is None: there is one output projection).
    """
    own = attention(picture, text, weights, heads, mask, dtype)
    joined, apart = own.joined, []
    for states, its, scale in others:
        k = split_heads(linear(states.to(dtype), its.key, its.key_bias), heads)
        v = split_heads(linear(states.to(dtype), its.value, its.value_bias), heads)
        steps = attend(own.query, k, v)
        joined = joined + scale * steps.joined
        apart.append(steps)
    return linear(joined, weights.out, weights.out_bias), own, apart


def concatenated(
    picture: Float[Tensor, "batch queries picture"],
    sources: Sequence[tuple[Tensor, Weights]],
    weights: Weights,
    heads: int,
    mask: Mask | None = None,
    dtype: torch.dtype = torch.float64,
) -> Steps:
    """Cross-attention over several conditions behind each other, under one softmax.

    Each has a W_K and W_V of its own; what one gets, the others lose. Kandinsky 2's layers are so,
    with the text first and then the picture itself.

    Args:
        picture, heads, dtype: as for `attention`.
        sources: for each its states `(batch, tokens, channels)` and the weights of which W_K and
            W_V are used, in their order on the axis of tokens.
        weights: of which W_Q and W_O are used.
        mask: over the tokens of all sources.
    """
    q = split_heads(linear(picture.to(dtype), weights.query, weights.query_bias), heads)
    keys, values = [], []
    for states, its in sources:
        keys.append(split_heads(linear(states.to(dtype), its.key, its.key_bias), heads))
        values.append(split_heads(linear(states.to(dtype), its.value, its.value_bias), heads))
    return attend(q, torch.cat(keys, dim=2), torch.cat(values, dim=2), mask, weights=weights)


def joint(
    picture: Float[Tensor, "batch places channels"],
    text: Float[Tensor, "batch tokens channels"],
    of_picture: Weights,
    of_text: Weights,
    heads: int,
    mask: Mask | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Float[Tensor, "batch places channels"], Float[Tensor, "batch tokens channels"], Steps]:
    """Joint attention: picture and text ask and are asked alike, under one softmax.

    Each is projected by matrices of its own before and after (MM-DiT: Esser et al., "Scaling
    Rectified Flow Transformers", arXiv 2403.03206, section 4). Stable Diffusion 3 is so, but for
    the norms of its later versions; others put the text first.

    Args:
        picture: `(batch, places, channels)`.
        text: `(batch, tokens, channels)`.
        of_picture, of_text: the matrices of each.
        heads, dtype: as for `attention`.
        mask: over places and tokens.

    Returns:
        The outputs of picture and text, and the steps, whose queries and keys are the places and
        then the tokens.
    """
    q, k, v = (
        torch.cat(
            [
                split_heads(linear(states.to(dtype), matrix, bias), heads)
                for states, matrix, bias in (
                    (picture, getattr(of_picture, name), getattr(of_picture, f"{name}_bias")),
                    (text, getattr(of_text, name), getattr(of_text, f"{name}_bias")),
                )
            ],
            dim=2,
        )
        for name in ("query", "key", "value")
    )
    steps = attend(q, k, v, mask)
    joined = merge_heads(steps.taken)
    places = picture.shape[1]
    return (
        linear(joined[:, :places], of_picture.out, of_picture.out_bias),
        linear(joined[:, places:], of_text.out, of_text.out_bias),
        steps,
    )
