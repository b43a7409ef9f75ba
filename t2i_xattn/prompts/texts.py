"""From what a pipeline was asked to encode, and what it encoded, to its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.prompts.by_value import HeardColumns, columns_by_value, parts_of
from t2i_xattn.prompts.combined import combined_text
from t2i_xattn.prompts.encoded import EncoderCall, Text
from t2i_xattn.prompts.joining import spelled_out, text_of, with_words
from t2i_xattn.prompts.roles import CONDITIONAL, UNCONDITIONAL


def texts_of_encoding(
    pipe: Any,
    given: Mapping[str, Any],
    result: Any,
    calls: Sequence[EncoderCall],
    role: str | None = None,
) -> tuple[list[Text], int]:
    """The texts of one `encode_prompt`, and how many pictures each prompt is for.

    Args:
        pipe: the pipeline.
        given: the arguments of the method, by name.
        result: what it gave: the embeddings of the prompts, then those of the negative prompts, as
            diffusers' pipelines do; or one tensor of both.
        calls: of its text encoders, in the order in which they came.
        role: of all that it gave; None where it gives those of the negative prompts too.
    """
    prompts = _as_typed(given.get("prompt"), given.get("prompt_embeds"))
    negative = _as_typed(given.get("negative_prompt"), given.get("negative_prompt_embeds"))
    found = _embeddings(result, calls, max(1, len(prompts)) * _copies(given))
    typed = {CONDITIONAL: prompts, UNCONDITIONAL: negative}
    if role is not None:
        parts = [(role, rows) for rows in found]
        typed[role] = prompts
    elif isinstance(result, Tensor) and found:
        parts = _parted(result, prompts, calls)
    else:
        parts = list(zip(cycle((CONDITIONAL, UNCONDITIONAL)), found, strict=False))
    texts: list[Text] = []
    roles = list(dict.fromkeys(each for each, _ in parts))
    for each, rows in parts:
        count = max(1, len(typed[each]) or len(prompts) or 1)
        copies = max(1, len(rows) // count)
        place = roles.index(each), len(roles)
        for row, embedding in enumerate(rows):
            number = row // copies
            mine = _typed(given, each, role is not None, number, _at(typed[each], number))
            heard = _heard(calls, embedding, number, place)
            texts.append(text_of(pipe, embedding, each, row, mine, heard))
    first = next((len(rows) for each, rows in parts if each == CONDITIONAL), 1)
    return texts, max(1, first // max(1, len(prompts)))


def _copies(given: Mapping[str, Any]) -> int:
    """Pictures of a prompt that were asked for."""
    names = ("num_images_per_prompt", "num_videos_per_prompt")
    return next((int(given[name]) for name in names if given.get(name)), 1)


def _embeddings(result: Any, calls: Sequence[EncoderCall], pictures: int) -> list[Sequence[Tensor]]:
    """What an encoding gave: groups of embeddings `(tokens, channels)`, one a picture."""
    listed = result if isinstance(result, tuple | list) else [result]
    if isinstance(result, list) and result and all(map(_is_embedding, result)):
        return [result]
    groups: list[Sequence[Tensor]] = []
    for each in listed:
        if isinstance(each, Tensor) and each.ndim in (3, 4):
            of_layers = each.ndim == 4
            groups.append(list(_of_last_layer(each, calls, pictures) if of_layers else each))
        elif isinstance(each, list) and each and all(map(_is_embedding, each)):
            groups.append(each)
    # A pooled text stands beside the whole one in some, as one token.
    longest = max((len(group[0]) for group in groups), default=0)
    short = [call for call in calls if any(len(ids) == 1 for ids in call.ids)]
    return [
        group
        for group in groups
        if len(group[0]) > 1 or longest <= 1 or columns_by_value(short, group[0])
    ]


def _of_last_layer(states: Tensor, calls: Sequence[EncoderCall], pictures: int) -> Tensor:
    """`(pictures, tokens, channels)` of states of several layers, whose axis is another one in each
    pipeline: the one without which most columns are those of the first text's tokens."""
    first = {call.encoder: call for call in reversed(calls)}
    texts = [
        replace(call, ids=call.ids[:1], states=tuple(each[:1] for each in call.states))
        for call in first.values()
    ]

    def known(rows: Tensor) -> tuple[int, bool, int]:
        heard = columns_by_value(texts, rows[0])
        # Where nothing was heard, there are more tokens than layers.
        return sum(len(each.columns) for each in heard), len(rows) == pictures, rows.shape[1]

    return max((states.select(axis, -1) for axis in range(3)), key=known)


def _is_embedding(given: Any) -> bool:
    return isinstance(given, Tensor) and given.ndim == 2 and given.is_floating_point()


def _typed(
    given: Mapping[str, Any], role: str, one_role: bool, number: int, prompt: str | None
) -> dict[str, str | None]:
    """By encoder, the text that it was to encode: some have a prompt of their own."""
    before = "negative_" if role == UNCONDITIONAL and not one_role else ""
    typed = {"text_encoder": prompt}
    for end in ("_2", "_3", "_4"):
        own = _at(_as_typed(given.get(f"{before}prompt{end}"), None), number)
        typed[f"text_encoder{end}"] = own or prompt
    return typed


def texts_by_hand(call: EncoderCall) -> list[Text]:
    """The texts of a text encoder that was called by itself; nobody says what they are for."""
    texts = []
    for row, ids in enumerate(call.ids):
        for state in call.states:
            text = Text(state[row], None, row)
            if call.tokenizer is not None:
                text = replace(text, prompt=spelled_out(call.tokenizer, ids))
                text = with_words(text, call.tokenizer, None, ids)
            texts.append(text)
    return texts


def text_by_value(
    pipe: Any,
    calls: Sequence[EncoderCall],
    embedding: Tensor,
    nothing: Sequence[EncoderCall] = (),
) -> Text | None:
    """A text that somebody put together of what text encoders gave, mixed, several of them or chunk
    by chunk; nobody says what it is for. None if nothing of it is known.

    Args:
        pipe: the pipeline.
        calls: of its text encoders.
        embedding: `(tokens, channels)`.
        nothing: the encoders' calls for the empty prompt, which words may have been moved away from
            without its being encoded again.
    """
    if (mixed := combined_text(pipe, [*calls, *nothing], embedding)) is not None:
        return mixed
    heard = columns_by_value(parts_of(calls, embedding), embedding)
    if not heard:
        return None
    typed = {f"text_encoder{end}": None for end in ("", "_2", "_3", "_4")}
    return replace(text_of(pipe, embedding, CONDITIONAL, 0, typed, heard), role=None)


def _as_typed(given: Any, embeds: Any) -> list[str | None]:
    """The prompts; None for those that came as embeddings, which win over a text beside them."""
    if isinstance(embeds, Tensor):
        return [None] * len(embeds)
    if given is None:
        return []
    return [given] if isinstance(given, str) else list(given)


def _at(texts: Sequence[str | None], number: int) -> str | None:
    if not texts:
        return None
    return texts[number] if number < len(texts) else texts[0]


def _parted(
    tensor: Tensor, prompts: Sequence[Any], calls: Sequence[EncoderCall]
) -> list[tuple[str, Sequence[Tensor]]]:
    """One tensor of prompts and negative prompts, as `_encode_prompt` gives it, parted.

    Which rows are the prompts' is known by what their encoder gave, which was asked for the prompts
    first; where it cannot be known, the negative ones are taken to come first.
    """
    count = max(1, len(prompts))
    if len(tensor) == count:
        return [(CONDITIONAL, list(tensor))]
    rows = [row for row in range(len(tensor)) if calls and _gave(calls[0], tensor[row])]
    rest = [row for row in range(len(tensor)) if row not in rows]
    if not rows or not rest:
        half = len(tensor) // 2
        return [(CONDITIONAL, list(tensor[half:])), (UNCONDITIONAL, list(tensor[:half]))]
    # A branch of the picture alone (InstructPix2Pix) has the negative prompts once more.
    negative = rest[: len(rows)]
    return [(CONDITIONAL, list(tensor[rows])), (UNCONDITIONAL, list(tensor[negative]))]


def _gave(call: EncoderCall, embedding: Tensor) -> int | None:
    """The row of an encoder's call that an embedding is, or None; row 0 counts as true."""
    for state in call.states:
        for row in range(len(state)):
            if state[row].shape == embedding.shape and same(state[row], embedding):
                return row + 1
    return None


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two embeddings are the same, in the coarser type of the two."""
    coarser = other.dtype if other.dtype.itemsize <= one.dtype.itemsize else one.dtype
    return torch.equal(one.to(other.device, coarser), other.to(coarser))


def _heard(
    calls: Sequence[EncoderCall], embedding: Tensor, number: int, place: tuple[int, int]
) -> list[HeardColumns]:
    """For each encoder, the tokens that stand in the columns of an embedding.

    Known by value where the encoders' states stand in it. Where a pipeline has changed them, by
    their order: it asks each encoder for the prompts first, then for the negative prompts, each in
    as many calls as they have chunks.

    Args:
        calls: all of the encoding.
        embedding: `(tokens, channels)`.
        number: of the prompt.
        place: which of how many roles it has.
    """
    if by_value := columns_by_value(calls, embedding):
        return by_value
    if not embedding.any():
        return []  # zeros, in the place of a text that was not encoded
    heard: list[HeardColumns] = []
    role, roles = place
    for encoder in dict.fromkeys(call.encoder for call in calls):
        own = [call for call in calls if call.encoder == encoder]
        if own[0].tokenizer is None:
            continue
        known = [call for call in own if (_gave(call, embedding) or 0) == number + 1]
        each = len(own) // roles
        if not known and len(own) % roles == 0:
            known = own[role * each : (role + 1) * each]
        elif not known and role == 0:
            known = own  # an empty negative prompt is not encoded by some, but is zeros
        ids = _columns([call.ids[min(number, len(call.ids) - 1)] for call in known], len(embedding))
        if ids is not None:
            columns = tuple(range(len(ids)))
            heard.append(HeardColumns(encoder, own[0].tokenizer, columns, tuple(ids)))
    return heard


def _columns(chunks: Sequence[Sequence[int]], length: int) -> list[int] | None:
    """The tokens in the columns of an embedding that was encoded in chunks; None: unknown."""
    whole = [one for chunk in chunks for one in chunk]
    if len(whole) == length:
        return whole
    # Start and end tokens in the middle are left out by some.
    inner = [one for chunk in chunks for one in chunk[1:-1]]
    if chunks and len(inner) + 2 == length:
        return [chunks[0][0], *inner, chunks[-1][-1]]
    return None
