"""Which texts an embedding was mixed of: weighted words, blends, prompts without a word.

Libraries for weights (compel, sd_embed, diffusers' lpw pipelines) move, mix and scale what text
encoders gave, column by column: each column of a window is a linear combination of states at the
same place of their calls. So the texts are those without which the columns cannot be combined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.prompts.by_value import HeardColumns
from t2i_xattn.prompts.encoded import EncoderCall, Text
from t2i_xattn.prompts.joining import text_of
from t2i_xattn.prompts.roles import CONDITIONAL

_EXACT = 2e-3
"""What may be left of a column, as a share of its length; more in types that are coarser."""
_MOST = 24
"""States at one place that are looked at, those encoded last."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class _Given:
    """What one encoder gave: by the tokens of a window, the states `(tokens, channels)`."""

    encoder: str
    tokenizer: Any
    states: Mapping[Ids, list[Tensor]]


def combined_text(pipe: Any, calls: Sequence[EncoderCall], embedding: Tensor) -> Text | None:
    """A text that was mixed of what text encoders gave, window by window; None if it was not.

    Args:
        pipe: the pipeline.
        calls: of its text encoders.
        embedding: `(tokens, channels)`.
    """
    texts: list[list[HeardColumns]] = []
    offset = 0
    for encoder in dict.fromkeys(call.encoder for call in calls):
        own = [call for call in calls if call.encoder == encoder and call.tokenizer is not None]
        width = own[0].states[0].shape[-1] if own and own[0].states else 0
        if not width or offset + width > embedding.shape[-1]:
            continue
        found = _of_encoder(own, embedding[:, offset : offset + width])
        if found is None:
            return None
        offset += width
        for number, each in enumerate(found):
            texts[number:] = [*texts[number:], []] if number == len(texts) else texts[number:]
            texts[number].append(each)
    if not texts or offset != embedding.shape[-1]:
        return None
    nothing = {f"text_encoder{end}": None for end in ("", "_2", "_3", "_4")}
    each_text = [text_of(pipe, embedding, CONDITIONAL, 0, nothing, heard) for heard in texts]
    return replace(_beside(each_text), role=None)


def _beside(texts: Sequence[Text]) -> Text:
    """One text of several that stand in the same columns."""
    first, prompt = texts[0], texts[0].prompt or ""
    words = list(first.words)
    tokens = list(first.tokens)
    for text in texts[1:]:
        before = len(prompt) + len(_BETWEEN)
        prompt = f"{prompt}{_BETWEEN}{text.prompt}"
        for word in text.words:
            words.append(replace(word, start=word.start + before, stop=word.stop + before))
        tokens += [""] * (len(text.tokens) - len(tokens))
        for column, token in enumerate(text.tokens):
            if token != tokens[column]:
                tokens[column] = " | ".join(filter(None, (tokens[column], token)))
    ids = max((text.ids or () for text in texts), key=len)
    padding = set(range(len(first.embedding)))
    for text in texts:
        padding &= set(text.padding or ())
    special = {column for text in texts for column in text.special}
    return replace(
        first,
        prompt=prompt,
        words=tuple(words),
        tokens=tuple(tokens),
        ids=(*(first.ids or ()), *ids[len(first.ids or ()) :]),
        padding=tuple(sorted(padding)),
        special=tuple(sorted(special - padding)),
    )


_BETWEEN = " | "


def _of_encoder(calls: Sequence[EncoderCall], part: Tensor) -> list[HeardColumns] | None:
    """The texts of one encoder in its channels of an embedding, those with words first; None if
    they are not known."""
    layers = max(len(call.states) for call in calls)
    for layer in range(layers):
        given = _given(calls, layer)
        window = len(next(iter(given.states), ()))
        if not window or len(part) % window:
            continue
        blocks = []
        for block in part.split(window):
            chosen = _needed(given.states, block)
            if chosen is None:
                break
            blocks.append(chosen)
        else:
            return _in_columns(given, blocks, window)
    return None


def _given(calls: Sequence[EncoderCall], layer: int) -> _Given:
    states: dict[Ids, list[Tensor]] = {}
    window = len(calls[-1].ids[0])
    for call in calls:
        if layer >= len(call.states):
            continue
        for row, ids in enumerate(call.ids):
            state = call.states[layer][row]
            if len(ids) != window or len(state) != window:
                continue
            known = states.setdefault(tuple(ids), [])
            if not any(torch.equal(state, each) for each in known):
                known.append(state)
    return _Given(calls[0].encoder, calls[0].tokenizer, states)


def _needed(states: Mapping[Ids, list[Tensor]], block: Tensor) -> list[Ids] | None:
    """The texts of which a window is made; None if it is not made of these."""
    names = list(states)
    while sum(len(states[name]) for name in names) > min(_MOST, block.shape[-1] // 2):
        names.pop(0)
    if not names or not _fits(states, names, block):
        return None
    for name in list(names):
        others = [each for each in names if each != name]
        if others and _fits(states, others, block):
            names = others
    return names


def _fits(states: Mapping[Ids, list[Tensor]], names: Sequence[Ids], block: Tensor) -> bool:
    """Whether each column of a window is a linear combination of these texts' states there."""
    every = torch.stack([each for name in names for each in states[name]])
    # (tokens, channels, states), in double precision, as states of alike texts are alike.
    matrix = every.permute(1, 2, 0).to("cpu", torch.float64)
    wanted = block.to("cpu", torch.float64)[..., None]
    found = torch.linalg.lstsq(matrix, wanted, driver="gelsd").solution
    left = (matrix @ found - wanted).norm(dim=1)
    coarse = max(_EXACT, 4 * torch.finfo(block.dtype).eps)
    return bool((left <= coarse * wanted.norm(dim=1)).all())


def _in_columns(given: _Given, blocks: Sequence[Sequence[Ids]], window: int) -> list[HeardColumns]:
    """The texts with their columns: the first of each window together, then the second."""
    special = set(given.tokenizer.all_special_ids)
    ordered = [
        # The empty text that words were moved away from says nothing.
        [ids for ids in block if not special.issuperset(ids)] or [block[0]]
        for block in blocks
    ]
    found = []
    for number in range(max(map(len, ordered))):
        columns: list[int] = []
        tokens: list[int] = []
        for at, block in enumerate(ordered):
            if number < len(block):
                columns += range(at * window, (at + 1) * window)
                tokens += block[number]
        found.append(HeardColumns(given.encoder, given.tokenizer, tuple(columns), tuple(tokens)))
    return found
