"""The embeddings of one prompt, put together as its pipeline does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i_xattn.conditioning.chunks import chunks_of
from t2i_xattn.conditioning.encoders import Encoder, Scheme
from t2i_xattn.conditioning.reader import Way
from t2i_xattn.conditioning.reading import Placed
from t2i_xattn.conditioning.syntax import Kind, Part
from t2i_xattn.conditioning.weighting import embedded, empty_of


@dataclass(frozen=True)
class Assembled:
    """One prompt's embeddings.

    Attributes:
        streams: `(1, tokens, channels)` of each stream of encoders.
        placed: for each stream, the texts that stand in it.
        pooled: `(1, channels)`; None where the pipeline takes none.
        pooled_texts: what the pooled ones were read from.
    """

    streams: tuple[Tensor, ...]
    placed: tuple[tuple[Placed, ...], ...]
    pooled: Tensor | None
    pooled_texts: tuple[Placed, ...]


def assembled(
    scheme: Scheme, parts: Sequence[Part], kind: Kind, normalised: bool, way: Way
) -> Assembled:
    """The embeddings of a prompt's texts.

    Args:
        scheme: of the pipeline.
        parts: the texts.
        kind: whether they stand one behind the other or are blended.
        normalised: whether a blend is a mean.
        way: what weights do.
    """
    weights = _shares(parts, normalised) if kind == "blend" else [1.0] * len(parts)
    found = [_stream(each, parts, kind, weights, way) for each in scheme.streams]
    pooled, texts = _pooled(scheme, parts, kind, weights)
    return Assembled(
        tuple(states for states, _ in found), tuple(placed for _, placed in found), pooled, texts
    )


def padded(states: Tensor, stream: Sequence[Encoder], length: int, way: Way) -> Tensor:
    """A stream's text, filled up with windows that have none `(1, length, channels)`."""
    empty = torch.cat([empty_of(each, way) for each in stream], dim=-1).to(states)
    count, rest = divmod(length - states.shape[1], empty.shape[1])
    assert rest == 0
    return torch.cat([states, *[empty] * count], dim=1)


def _shares(parts: Sequence[Part], normalised: bool) -> list[float]:
    total = sum(part.weight for part in parts) if normalised else 1.0
    return [part.weight / total for part in parts]


def _stream(
    encoders: Sequence[Encoder], parts: Sequence[Part], kind: Kind, weights: list[float], way: Way
) -> tuple[Tensor, tuple[Placed, ...]]:
    """The states of encoders beside each other, and where their texts stand."""
    placed: list[Placed] = []
    states: list[Tensor] = []
    column = chunk = 0
    for number, part in enumerate(parts):
        found = []
        for encoder in encoders:
            chunks, cut = chunks_of(encoder.tokenizer, part, encoder.window, way, encoder.whole)
            weight = 1.0 if kind == "blend" else part.weight
            found.append(embedded(encoder, chunks, weight, way))
            placed.append(
                Placed(encoder.name, encoder.tokenizer, part, number, chunks, cut, column, chunk)
            )
        length = max(each.shape[1] for each in found)
        beside = [
            padded(each, [encoder], length, way)
            for each, encoder in zip(found, encoders, strict=True)
        ]
        states.append(torch.cat(beside, dim=-1))
        if kind == "and":
            column += length
            chunk += length // encoders[0].window
    if kind == "and":
        return torch.cat(states, dim=1), tuple(placed)
    length = max(each.shape[1] for each in states)
    each_padded = torch.stack([padded(each, encoders, length, way) for each in states])
    shares = torch.tensor(weights, dtype=each_padded.dtype, device=each_padded.device)
    return (each_padded * shares[:, None, None, None]).sum(0), tuple(placed)


def _pooled(
    scheme: Scheme, parts: Sequence[Part], kind: Kind, weights: list[float]
) -> tuple[Tensor | None, tuple[Placed, ...]]:
    """The pooled texts, which have one window and no weights; those of a conjunction are of all its
    texts together."""
    if not scheme.pooled:
        return None, ()
    texts = list(parts)
    if kind == "and":
        texts = [Part(tuple(stretch for part in parts for stretch in part.stretches))]
    found, placed = [], []
    for encoder in scheme.pooled:
        each = []
        for number, part in enumerate(texts):
            chunks, cut = chunks_of(encoder.tokenizer, part, encoder.window, "compel", True)
            (_, pooled) = encoder(chunks[0].ids)
            assert pooled is not None
            each.append(pooled)
            placed.append(Placed(encoder.name, encoder.tokenizer, part, number, chunks, cut, 0, 0))
        if kind == "and":
            found += each
        else:
            found.append(sum(w * one for w, one in zip(weights, each, strict=True)))
    return torch.cat(found, dim=-1), tuple(placed)
