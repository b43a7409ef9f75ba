"""Which token stands in which column of an embedding: known by what the text encoders gave.

Pipelines drop templates, cut, pad, join the states of several encoders behind each other or channel
by channel. Each column of the result is looked for among the states, by value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.prompts.encoded import EncoderCall

_PROBED = 6
"""Channels that are looked at first."""


@dataclass(frozen=True)
class HeardColumns:
    """The columns that an encoder's tokens have.

    Attributes:
        encoder: its name in the pipeline.
        tokenizer: the one beside it.
        columns: ascending.
        ids: the token of each.
    """

    encoder: str
    tokenizer: Any
    columns: tuple[int, ...]
    ids: tuple[int, ...]


def columns_by_value(calls: Sequence[EncoderCall], embedding: Tensor) -> list[HeardColumns]:
    """For each encoder whose states stand in an embedding, the columns of its tokens.

    Args:
        calls: of the text encoders.
        embedding: `(tokens, channels)`.

    Returns:
        In the order of the encoders' first calls; those whose states are not in it are left out.
    """
    found: dict[str, dict[int, int]] = {}
    tokenizers: dict[str, Any] = {}
    offsets = _offsets(calls, embedding.shape[-1])
    known: set[int] = set()
    gaps: list[tuple[dict[int, int], list[int], dict[int, int]]] = []
    for call in calls:
        if call.tokenizer is None:
            continue
        tokenizers[call.encoder] = call.tokenizer
        own = found.setdefault(call.encoder, {})
        for row, ids in enumerate(call.ids):
            places = _places(call, row, embedding, offsets)
            known |= places.keys()
            for column, place in places.items():
                own.setdefault(column, ids[place])
            gaps.append((own, ids, places))
    # Columns that were changed, such as scaled by a weight: first those in the midst of others.
    for filling in (_between, _beside):
        for own, ids, places in gaps:
            for column, place in filling(places, len(ids), len(embedding)).items():
                if column not in known:
                    own.setdefault(column, ids[place])
    return [
        HeardColumns(
            encoder, tokenizers[encoder], tuple(sorted(own)), tuple(own[c] for c in sorted(own))
        )
        for encoder, own in found.items()
        if own
    ]


def parts_of(calls: Sequence[EncoderCall], embedding: Tensor) -> list[EncoderCall]:
    """The texts that an embedding was put together of, among all that encoders were given.

    Args:
        calls: of the text encoders.
        embedding: `(tokens, channels)`.

    Returns:
        For each of these texts a call with it alone.
    """
    offsets = _offsets(calls, embedding.shape[-1])
    chosen: list[EncoderCall] = []
    for encoder in dict.fromkeys(call.encoder for call in calls):
        found = []
        for call in (each for each in calls if each.encoder == encoder):
            for row, ids in enumerate(call.ids):
                states = tuple(each[row : row + 1] for each in call.states)
                columns = set(_places(call, row, embedding, offsets))
                found.append((columns, replace(call, ids=[ids], states=states)))
        # Other texts of the run have the start token in common with it, and what they begin with.
        known: set[int] = set()
        for columns, one in sorted(found, key=lambda each: -len(each[0])):
            if columns - known:
                chosen.append(one)
                known |= columns
    return chosen


def _places(
    call: EncoderCall, row: int, embedding: Tensor, offsets: Sequence[int]
) -> dict[int, int]:
    """The columns of an embedding that are states of one text, each with its token's place."""
    places: dict[int, int] = {}
    for state in call.states:
        if len(state) == len(call.ids) and state.shape[1] == len(call.ids[row]):
            for column, place in _matches(embedding, state[row], offsets):
                places.setdefault(column, place)
    return places


def _offsets(calls: Sequence[EncoderCall], channels: int) -> list[int]:
    """Where the channels of a state may begin: at the front, behind other encoders', at the end."""
    widths = [call.states[0].shape[-1] for call in calls if call.states]
    sums, total = [0], 0
    for width in dict.fromkeys(widths):
        total += width
        sums += [width, total]
    sums += [channels - width for width in widths]
    return [each for each in dict.fromkeys(sums) if 0 <= each < channels]


def _between(places: Mapping[int, int], tokens: int, columns: int) -> dict[int, int]:
    """The columns among the known ones, as far as those follow the tokens' order."""
    filled: dict[int, int] = {}
    for (column, place), (after, later) in pairwise(sorted(places.items())):
        if after - column == later - place:
            filled |= {column + n: place + n for n in range(1, after - column)}
    return filled


def _beside(places: Mapping[int, int], tokens: int, columns: int) -> dict[int, int]:
    """The columns in front of the known ones and behind them."""
    known = sorted(places.items())
    filled: dict[int, int] = {}
    if known:
        (first, place), (last, later) = known[0], known[-1]
        filled |= {first - n: place - n for n in range(1, min(first, place) + 1)}
        behind = min(columns - 1 - last, tokens - 1 - later)
        filled |= {last + n: later + n for n in range(1, behind + 1)}
    return filled


def _matches(embedding: Tensor, state: Tensor, offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The columns `(tokens, channels)` that are states `(tokens, width)`, each with the place."""
    width = state.shape[-1]
    for offset in offsets:
        if offset + width > embedding.shape[-1]:
            continue
        part = embedding[:, offset : offset + width].to(state.device)
        dtype = min(part.dtype, state.dtype, key=lambda each: each.itemsize)
        probed = torch.linspace(0, width - 1, min(_PROBED, width)).long()
        there: dict[tuple[float, ...], list[int]] = {}
        for place, values in enumerate(state[:, probed].to(dtype).float().tolist()):
            there.setdefault(tuple(values), []).append(place)
        pairs, before = [], -1
        for column, values in enumerate(part[:, probed].to(dtype).float().tolist()):
            places = there.get(tuple(values), [])
            if places and any(values):
                # Of several alike the one that goes on from the last.
                before = min(places, key=lambda place: (place <= before, place))
                pairs.append((column, before))
        if pairs:
            columns, places = map(list, zip(*pairs, strict=True))
            same = (part[columns].to(dtype) == state[places].to(dtype)).all(dim=-1).tolist()
            yield from (pair for pair, alike in zip(pairs, same, strict=True) if alike)
