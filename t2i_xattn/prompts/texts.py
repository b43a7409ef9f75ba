"""From what a pipeline was asked to encode, and what it encoded, to its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.prompts.encoded import EncoderCall, Text, spelled, without_padding, words_of_ids
from t2i_xattn.prompts.own_tokenizer import own_tokenizer
from t2i_xattn.prompts.roles import CONDITIONAL, UNCONDITIONAL
from t2i_xattn.prompts.words import Word


def texts_of_encoding(
    pipe: Any, given: Mapping[str, Any], result: Any, calls: Sequence[EncoderCall]
) -> tuple[list[Text], int]:
    """The texts of one `encode_prompt`, and how many pictures each prompt is for.

    Args:
        pipe: the pipeline.
        given: the arguments of the method, by name.
        result: what it gave: the embeddings of the prompts, then those of the negative prompts, as
            diffusers' pipelines do; or one tensor of both.
        calls: of its text encoders, in the order in which they came.
    """
    prompts = _as_typed(given.get("prompt"), given.get("prompt_embeds"))
    negative = _as_typed(given.get("negative_prompt"), given.get("negative_prompt_embeds"))
    listed = result if isinstance(result, tuple | list) else [result]
    found = [each for each in listed if isinstance(each, Tensor) and each.ndim == 3]
    seconds = {
        CONDITIONAL: _as_typed(given.get("prompt_2"), None),
        UNCONDITIONAL: _as_typed(given.get("negative_prompt_2"), None),
    }
    typed = {CONDITIONAL: prompts, UNCONDITIONAL: negative}
    if isinstance(result, Tensor) and found:
        parts = _parted(found[0], prompts, calls)
    else:
        parts = list(zip((CONDITIONAL, UNCONDITIONAL), found, strict=False))
    texts: list[Text] = []
    roles = list(dict.fromkeys(role for role, _ in parts))
    for role, tensor in parts:
        count = max(1, len(typed[role]) or len(prompts) or 1)
        copies = max(1, len(tensor) // count)
        place = roles.index(role), len(roles)
        for row in range(len(tensor)):
            number = row // copies
            texts.append(
                _text(
                    pipe,
                    tensor[row],
                    role,
                    row,
                    _at(typed[role], number),
                    _at(seconds[role], number),
                    _heard(calls, tensor[row], number, place),
                )
            )
    first = next((len(tensor) for role, tensor in parts if role == CONDITIONAL), 1)
    return texts, max(1, first // max(1, len(prompts)))


def texts_by_hand(call: EncoderCall) -> list[Text]:
    """The texts of a text encoder that was called by itself; nobody says what they are for."""
    texts = []
    for row, ids in enumerate(call.ids):
        for state in call.states:
            text = Text(state[row], None, row)
            if call.tokenizer is not None:
                text = replace(text, prompt=_spelled_out(call.tokenizer, ids))
                text = _with_words(text, call.tokenizer, None, ids)
            texts.append(text)
    return texts


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
) -> list[tuple[str, Tensor]]:
    """One tensor of prompts and negative prompts, as `_encode_prompt` gives it, parted.

    Which rows are the prompts' is known by what their encoder gave, which was asked for the prompts
    first; where it cannot be known, the negative ones are taken to come first.
    """
    count = max(1, len(prompts))
    if len(tensor) == count:
        return [(CONDITIONAL, tensor)]
    rows = [row for row in range(len(tensor)) if calls and _gave(calls[0], tensor[row])]
    rest = [row for row in range(len(tensor)) if row not in rows]
    if not rows or not rest:
        half = len(tensor) // 2
        return [(CONDITIONAL, tensor[half:]), (UNCONDITIONAL, tensor[:half])]
    # A branch of the picture alone (InstructPix2Pix) has the negative prompts once more.
    return [(CONDITIONAL, tensor[rows]), (UNCONDITIONAL, tensor[rest[: len(rows)]])]


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
) -> dict[str, tuple[Any, list[int]]]:
    """By encoder, its tokenizer and the tokens that stand in the columns of an embedding.

    A pipeline asks each encoder for the prompts first, then for the negative prompts, each in as
    many calls as they have chunks.

    Args:
        calls: all of the encoding.
        embedding: `(tokens, channels)`.
        number: of the prompt.
        place: which of how many roles it has.
    """
    heard: dict[str, tuple[Any, list[int]]] = {}
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
            heard[encoder] = (own[0].tokenizer, ids)
    return heard


def _columns(chunks: Sequence[Sequence[int]], length: int) -> list[int] | None:
    """The tokens in the columns of an embedding that was encoded in chunks; None: unknown."""
    whole = [one for chunk in chunks for one in chunk]
    if len(whole) == length:
        return whole
    if len(chunks) == 1 and length < len(whole):
        return whole[:length]
    # Start and end tokens in the middle are left out by some.
    inner = [one for chunk in chunks for one in chunk[1:-1]]
    if chunks and len(inner) + 2 == length:
        return [chunks[0][0], *inner, chunks[-1][-1]]
    return None


def _text(
    pipe: Any,
    embedding: Tensor,
    role: str,
    picture: int,
    typed: str | None,
    typed_2: str | None,
    heard: Mapping[str, tuple[Any, list[int]]],
) -> Text:
    text = Text(embedding, role, picture, typed)
    if not heard:
        return _as_tokenized(pipe, text) if typed is not None else text
    (tokenizer, ids), *others = heard.values()
    convert = getattr(pipe, "maybe_convert_prompt", None)
    if typed is None:
        text = replace(text, prompt=_spelled_out(tokenizer, ids))
    # A textual inversion of several vectors stands for several tokens; this is what is tokenized.
    elif convert is not None:
        typed = convert(typed, tokenizer)
        text = replace(text, prompt=typed)
    text = _with_words(text, tokenizer, typed, ids)
    if others and typed_2 is not None and typed_2 != typed:
        tokenizer, ids = others[0]
        second = words_of_ids(tokenizer, typed_2, ids)
        text = replace(text, words=(*text.words, *(_of_second(word) for word in second)))
    return text


def _of_second(word: Word) -> Word:
    return replace(word, source="prompt_2")


def _as_tokenized(pipe: Any, text: Text) -> Text:
    """What the pipeline's tokenizer makes of a prompt whose encoder was not heard."""
    tokenizer = getattr(pipe, "tokenizer", None) or getattr(pipe, "tokenizer_2", None)
    if tokenizer is None:
        return text
    ids = own_tokenizer(tokenizer)(
        text.prompt, padding="max_length", truncation=True, max_length=len(text.embedding)
    )["input_ids"]
    return _with_words(text, tokenizer, text.prompt, ids)


def _with_words(text: Text, tokenizer: Any, typed: str | None, ids: Sequence[int]) -> Text:
    kept = without_padding(tokenizer, ids)
    return replace(
        text,
        words=words_of_ids(tokenizer, typed, ids),
        tokens=spelled(tokenizer, kept),
        ids=kept,
    )


def _spelled_out(tokenizer: Any, ids: Sequence[int]) -> str:
    """A text in the tokenizer's spelling, CLIP's in small letters."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    return text.strip()
