"""From what a pipeline was asked to encode, and what it encoded, to its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.prompts.by_value import HeardColumns, columns_by_value
from t2i_xattn.prompts.encoded import (
    EncoderCall,
    Text,
    padding_columns,
    spelled,
    without_padding,
    words_of_ids,
)
from t2i_xattn.prompts.own_tokenizer import main_tokenizer, own_tokenizer
from t2i_xattn.prompts.roles import CONDITIONAL, UNCONDITIONAL
from t2i_xattn.prompts.words import Word


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
            texts.append(_text(pipe, embedding, each, row, mine, heard))
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
    typed: Mapping[str, str | None],
    heard: Sequence[HeardColumns],
) -> Text:
    prompt = typed["text_encoder"]
    text = Text(embedding, role, picture, prompt)
    if not heard:
        return _as_tokenized(pipe, text) if prompt is not None else text
    convert = getattr(pipe, "maybe_convert_prompt", None)
    if prompt is None:
        text = replace(text, prompt=_spelled_out(heard[0].tokenizer, heard[0].ids))
    # A textual inversion of several vectors stands for several tokens; this is what is tokenized.
    elif convert is not None:
        text = replace(text, prompt=convert(prompt, heard[0].tokenizer))
    words: dict[tuple[str, int, int, str], Word] = {}
    for each in heard:
        own = typed.get(each.encoder, prompt)
        main = own is None or own == prompt
        for word in words_of_ids(each.tokenizer, text.prompt if main and prompt else own, each.ids):
            source = "prompt" if main else "prompt" + each.encoder.removeprefix("text_encoder")
            columns = tuple(each.columns[place] for place in word.columns)
            word = replace(word, columns=columns, source=source)
            key = (word.text, word.start, word.stop, source)
            words[key] = joined(words.get(key), word, each.encoder)
    return replace(text, words=tuple(words.values()), **_by_column(heard, len(embedding)))


def joined(known: Word | None, word: Word, encoder: str) -> Word:
    """A word with its columns of one more encoder."""
    cut = () if word.columns else (encoder,)
    encoders = (encoder,) * len(word.columns)
    if known is None:
        return replace(word, encoders=encoders, cut=cut)
    fresh = [column for column in word.columns if column not in known.columns]
    if word.columns and not fresh:
        return known  # the encoders' states stand beside each other, channel by channel
    return replace(
        known,
        columns=(*known.columns, *fresh),
        encoders=(*known.encoders, *encoders[: len(fresh)]),
        cut=(*known.cut, *cut),
    )


def together(parts: Sequence[tuple[Text, Sequence[int]]], length: int) -> Text | None:
    """One text of several that stand in one sequence.

    Args:
        parts: each with the column of each of its tokens.
        length: of the sequence.
    """
    if not parts:
        return None
    first = parts[0][0]
    ids, tokens = [-1] * length, [""] * length
    padding, special = set(range(length)), set[int]()
    words: dict[tuple[str, int, int, str], Word] = {}
    for number, (text, columns) in enumerate(parts):
        special |= {columns[place] for place in text.special}
        own = text.ids or ()
        for place, one in enumerate(own):
            ids[columns[place]], tokens[columns[place]] = one, text.tokens[place]
        filling = range(len(own), len(columns)) if text.padding is None else text.padding
        padding -= {columns[place] for place in range(len(columns)) if place not in set(filling)}
        for word in text.words:
            moved = replace(word, columns=tuple(columns[place] for place in word.columns))
            key = (word.text, word.start, word.stop, word.source)
            encoder = word.encoders[0] if word.encoders else f"part {number + 1}"
            words[key] = joined(words.get(key), moved, encoder)
    return replace(
        first,
        words=tuple(words.values()),
        ids=tuple(ids),
        tokens=tuple(tokens),
        padding=tuple(sorted(padding)),
        special=tuple(sorted(special)),
    )


def _by_column(heard: Sequence[HeardColumns], length: int) -> dict[str, Any]:
    """What stands in the columns of an embedding: `tokens`, `ids`, `padding` and
    `special` of a text."""
    ids, tokens = [-1] * length, [""] * length
    real: set[int] = set()
    special: set[int] = set()
    for each in heard:
        names = set(each.tokenizer.all_special_ids)
        spelling = spelled(each.tokenizer, each.ids)
        filling = padding_columns(each.tokenizer, each.columns, each.ids)
        for column, one, token in zip(each.columns, each.ids, spelling, strict=True):
            if ids[column] == -1:
                ids[column], tokens[column] = one, token
                if column not in filling:
                    real.add(column)
                    special |= {column} if one in names else set()
    end = max(real, default=-1) + 1
    return {
        "ids": tuple(ids[:end]),
        "tokens": tuple(tokens[:end]),
        "padding": tuple(column for column in range(length) if column not in real),
        "special": tuple(sorted(special)),
    }


def _as_tokenized(pipe: Any, text: Text) -> Text:
    """What the pipeline's tokenizer makes of a prompt whose encoder was not heard."""
    tokenizer = main_tokenizer(pipe)
    if tokenizer is None or tokenizer.model_max_length != len(text.embedding):
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
        padding=tuple(range(len(kept), len(text.embedding))),
        special=tuple(at for at, one in enumerate(kept) if one in tokenizer.all_special_ids),
    )


def _spelled_out(tokenizer: Any, ids: Sequence[int]) -> str:
    """A text in the tokenizer's spelling, CLIP's in small letters."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    return text.strip()
