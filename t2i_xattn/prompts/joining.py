"""One text of what its encoders were given: its words with the columns of each encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from t2i_xattn.prompts.by_value import HeardColumns
from t2i_xattn.prompts.encoded import (
    Text,
    padding_columns,
    spelled,
    without_padding,
    words_of_ids,
)
from t2i_xattn.prompts.own_tokenizer import main_tokenizer, own_tokenizer
from t2i_xattn.prompts.words import Word


def text_of(
    pipe: Any,
    embedding: Tensor,
    role: str,
    picture: int,
    typed: Mapping[str, str | None],
    heard: Sequence[HeardColumns],
) -> Text:
    """One text, with what is known of its columns.

    Args:
        pipe: the pipeline.
        embedding: `(tokens, channels)`.
        role, picture: see `Text`.
        typed: by encoder, what it was to encode; None where that is not known.
        heard: what each encoder was given, with the columns; where nothing was heard, the
            pipeline's own tokenizer says it.
    """
    prompt = typed["text_encoder"]
    text = Text(embedding, role, picture, prompt)
    if not heard:
        return _as_tokenized(pipe, text) if prompt is not None else text
    convert = getattr(pipe, "maybe_convert_prompt", None)
    if prompt is None:
        text = replace(text, prompt=spelled_out(heard[0].tokenizer, heard[0].ids))
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
    return with_words(text, tokenizer, text.prompt, ids)


def with_words(text: Text, tokenizer: Any, typed: str | None, ids: Sequence[int]) -> Text:
    """A text whose columns are these tokens, one after the other."""
    kept = without_padding(tokenizer, ids)
    return replace(
        text,
        words=words_of_ids(tokenizer, typed, ids),
        tokens=spelled(tokenizer, kept),
        ids=kept,
        padding=tuple(range(len(kept), len(text.embedding))),
        special=tuple(at for at, one in enumerate(kept) if one in tokenizer.all_special_ids),
    )


def spelled_out(tokenizer: Any, ids: Sequence[int]) -> str:
    """A text in the tokenizer's spelling, CLIP's in small letters."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    return text.strip()
