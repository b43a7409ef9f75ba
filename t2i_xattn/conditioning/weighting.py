"""What a weight does to a text's embedding, in the two ways that people are used to.

`"compel"`: a token's states are moved away from those of the empty prompt at its place, z' = e + w
(z − e); below 1 the text is mixed with what it is without the piece, whose tokens are masked in the
encoder: (z' + Σ t_i m_i) / (1 + Σ t_i) with t = tan((1 − w) π / 2). `"lpw"` (diffusers' community
pipeline, and much as the web UIs do it): states times their weights, scaled so that the mean of the
text stays what it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from t2i_xattn.conditioning.chunks import Chunk, empty_chunk
from t2i_xattn.conditioning.encoders import Encoder
from t2i_xattn.conditioning.reader import Way

_LEAST = 1e-5
"""Weights below it count as this, whose share of the text without the piece is almost all."""


def embedded(encoder: Encoder, chunks: Sequence[Chunk], weight: float, way: Way) -> Tensor:
    """A text of one encoder `(1, chunks × window, channels)`.

    Args:
        encoder: that it is for.
        chunks: of the text, with the weights of its tokens.
        weight: of the whole text.
        way: what weights do.
    """
    plain = [encoder(chunk.ids)[0] for chunk in chunks]
    if way == "lpw":
        found = _scaled(plain, chunks)
    else:
        found = _moved(encoder, plain, chunks)
        if below := _pieces_below_one(chunks):
            found = _mixed(encoder, found, chunks, below)
    if weight != 1:
        empty = empty_of(encoder, way).repeat(1, len(chunks), 1)
        found = empty + (found - empty) * weight
    return found


def empty_of(encoder: Encoder, way: Way) -> Tensor:
    """The states of a window without text `(1, window, channels)`."""
    return encoder(empty_chunk(encoder.tokenizer, encoder.window, way).ids)[0]


def _moved(encoder: Encoder, plain: Sequence[Tensor], chunks: Sequence[Chunk]) -> Tensor:
    found = []
    for states, chunk in zip(plain, chunks, strict=True):
        weights = _weights(chunk, states)
        if bool((weights != 1).any()):
            empty = empty_of(encoder, "compel")
            # What has no weight keeps its bytes.
            states = torch.where(weights == 1, states, empty + (states - empty) * weights)
        found.append(states)
    return torch.cat(found, dim=1)


def _pieces_below_one(chunks: Sequence[Chunk]) -> dict[int, float]:
    every = [token for chunk in chunks for token in chunk.tokens.values()]
    return {token.piece: token.weight for token in every if token.weight < 1}


def _mixed(
    encoder: Encoder, found: Tensor, chunks: Sequence[Chunk], below: dict[int, float]
) -> Tensor:
    total, sums = 1.0, found
    for piece, weight in below.items():
        share = math.tan((1 - max(_LEAST, weight)) * math.pi / 2)
        gone = _columns_of(piece, chunks)
        without = [
            encoder(chunk.ids, [int(column not in each) for column in range(len(chunk.ids))])[0]
            for chunk, each in zip(chunks, gone, strict=True)
        ]
        sums = sums + share * _moved(encoder, without, chunks)
        total += share
    return sums / total


def _columns_of(piece: int, chunks: Sequence[Chunk]) -> list[set[int]]:
    """The columns of a piece in each chunk; of one that goes on in the next, all up to the last, as
    compel has them."""
    own = [{c for c, token in chunk.tokens.items() if token.piece == piece} for chunk in chunks]
    there = [number for number, each in enumerate(own) if each]
    for number in there:
        window = len(chunks[number].ids)
        first = min(own[number]) if number == there[0] else 1
        last = max(own[number]) if number == there[-1] else window - 2
        own[number] = set(range(first, last + 1))
    return own


def _scaled(plain: Sequence[Tensor], chunks: Sequence[Chunk]) -> Tensor:
    states = torch.cat(list(plain), dim=1)
    pairs = zip(chunks, plain, strict=True)
    weights = torch.cat([_weights(chunk, each) for chunk, each in pairs], dim=1)
    if bool((weights == 1).all()):
        return states
    weighted = states * weights
    before, after = (each.float().mean(dim=(-2, -1), keepdim=True) for each in (states, weighted))
    return weighted * (before / after).to(states.dtype)


def _weights(chunk: Chunk, states: Tensor) -> Tensor:
    """`(1, window, 1)`"""
    every = [1.0] * len(chunk.ids)
    for column, token in chunk.tokens.items():
        every[column] = token.weight
    return torch.tensor(every, dtype=states.dtype, device=states.device)[None, :, None]
