"""Texts as they were really encoded: which tokens stand in which column, and for which word."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from t2i_xattn.prompts.own_tokenizer import own_tokenizer
from t2i_xattn.prompts.words import Word, word_spans

Kind = Literal["word", "other", "special", "padding", "picture"]
"""What stands in a column: a word's token; another token (punctuation, a template); the start, the
end or another special token; what fills the sequence up; or a token of a picture that was given as
a prompt."""


@dataclass(frozen=True, eq=False)
class EncoderCall:
    """One call of a text encoder.

    Attributes:
        encoder: its name in the pipeline, such as `"text_encoder_2"`.
        tokenizer: the one beside it; None if there is none.
        ids: the tokens it was given, one list a text.
        states: what it gave, each `(texts, tokens, channels)`.
    """

    encoder: str
    tokenizer: Any
    ids: list[list[int]]
    states: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Text:
    """One text as it was encoded, which a row of the denoiser may be given.

    Attributes:
        embedding: `(tokens, channels)`.
        role: `"conditional"` or `"unconditional"`; None if nobody said.
        picture: which picture it is for, counted within its role.
        prompt: as typed, or as the tokenizer spells it; None where only embeddings are known.
        words: its words with their columns.
        tokens: the text of each column, from the start token to the end token; empty if unknown.
        ids: its tokens from the start token to the end token, one a column, −1 for what is no
            token's; None if unknown.
        padding: the columns that fill the sequence up; None if unknown.
        special: the columns of start, end and other special tokens, without padding.
        mask: which columns may be looked at `(tokens,)`; None where the pipeline does not say it,
            and of the run's own texts.
        again: gives the embedding of another prompt, made as this one was and at least as long;
            None where the pipeline's own encoding does.
        phases: the words of each of its phases, this one too, where the prompt changes on the way;
            empty where it does not.
    """

    embedding: Tensor
    role: str | None
    picture: int
    prompt: str | None = None
    words: tuple[Word, ...] = ()
    tokens: tuple[str, ...] = ()
    ids: tuple[int, ...] | None = None
    padding: tuple[int, ...] | None = None
    special: tuple[int, ...] = ()
    mask: Tensor | None = None
    again: Callable[[str], Tensor] | None = None
    phases: tuple[tuple[Word, ...], ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing stands between the start and the end token."""
        return self.ids is not None and len(self.ids) <= 2

    @property
    def reading(self) -> Hashable:
        """Which tokens and words stand in which columns. A prompt may change on the way, and the
        same one may come as another object in each call."""
        return self.ids, self.words, self.padding

    def reads_like(self, other: Text | None) -> bool:
        """Whether the same tokens and words stand in the same columns of both."""
        return other is not None and self.reading == other.reading


def without_padding(tokenizer: Any, ids: Sequence[int]) -> tuple[int, ...]:
    """The tokens from the first to the end token, without what fills the window up."""
    kept, end = list(ids), tokenizer.eos_token_id
    padding = {tokenizer.pad_token_id, end}
    while len(kept) > 1 and kept[-1] in padding and (kept[-1] != end or kept[-2] in padding):
        kept.pop()
    return tuple(kept)


def padding_columns(tokenizer: Any, columns: Sequence[int], ids: Sequence[int]) -> set[int]:
    """The columns of tokens that fill a text up, behind it or in front of it."""
    kept = len(without_padding(tokenizer, ids))
    first = 0
    while first < kept - 1 and ids[first] == tokenizer.pad_token_id != tokenizer.bos_token_id:
        first += 1
    return {*columns[:first], *columns[kept:]}


def kinds_of(text: Text | None) -> tuple[Kind, ...]:
    """What stands in each column of a text; nothing if that is not known."""
    if text is None or text.padding is None or text.ids is None:
        return ()
    words = {c for word in text.words if word.source != "picture" for c in word.columns}
    pictures = {c for word in text.words if word.source == "picture" for c in word.columns}
    special, padding = set(text.special), set(text.padding)

    def kind(column: int) -> Kind:
        if column in pictures:
            return "picture"
        if column in words:
            return "word"
        if column in padding:
            return "padding"
        return "special" if column in special else "other"

    # Of several texts in one sequence the embedding is that of the first.
    length = max(len(text.embedding), len(text.ids), max(text.padding, default=-1) + 1)
    return tuple(kind(column) for column in range(length))


def spelled(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token, special tokens by their names."""
    special = set(tokenizer.all_special_ids)
    return tuple(
        tokenizer.convert_ids_to_tokens(one)
        if one in special
        else tokenizer.decode([one], clean_up_tokenization_spaces=False).strip()
        for one in ids
    )


def words_of_ids(tokenizer: Any, typed: str | None, ids: Sequence[int]) -> tuple[Word, ...]:
    """The words of a text with the columns of its tokens, which are what was really encoded.

    Args:
        tokenizer: that of the text encoder.
        typed: the prompt as the user typed it; None if it is not known.
        ids: what the text encoder was given, one a column.

    Returns:
        The words in their order. Where the pipeline tokenizes what was typed, they are the words as
        typed, and those that the window cuts have no columns. Where it does something else with it
        (reads weights, puts it into a template), they are those of the encoded text, each as typed
        where it was typed.
    """
    # What is not typed may be what the tokens spell: then they too know where they came from.
    spelling: str = typed or ""
    if typed is None:
        spelling = tokenizer.decode(list(ids), skip_special_tokens=True).strip()
    if (words := _words_as_tokenized(tokenizer, spelling, ids)) is not None:
        return words
    text, tokens = _decoded(tokenizer, ids)
    at = _found(typed, text, tokens) if typed else None
    if typed and at is not None:  # as typed, inside of a template
        inside = [(column, max(0, a - at), b - at) for column, a, b in tokens]
        return _words(typed, inside, len(ids))
    encoded = _words(text, tokens, len(ids))
    return encoded if typed is None else _as_typed(encoded, typed)


def _words_as_tokenized(tokenizer: Any, typed: str, ids: Sequence[int]) -> tuple[Word, ...] | None:
    """The words of a text where its own tokens are those that were encoded; None if they are not,
    or the tokenizer does not know from where they came."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    encoding = own_tokenizer(tokenizer)(
        typed, return_offsets_mapping=True, truncation=False, verbose=False
    )
    whole = list(encoding["input_ids"])
    kept = len(whole)
    if len(whole) > len(ids):
        kept = len(ids) - 1  # the end token has the last place, whatever is cut
    if whole[:kept] != list(ids[:kept]):
        return None
    offsets = list(enumerate(encoding["offset_mapping"]))
    return _words(typed, [(column, *span) for column, span in offsets], kept)


def _found(typed: str, text: str, tokens: Sequence[tuple[int, int, int]]) -> int | None:
    """Where a prompt as typed stands in an encoded text; None if it does not.

    Of several places it is the last before a special token or the end of the text, since that is
    where templates put it.
    """
    if len(text.lower()) != len(text) or not typed.strip():
        return None
    leading = len(typed) - len(typed.lstrip())
    typed, text = typed.strip().lower(), text.lower()
    following = [*(column for column, _, _ in tokens[1:]), None]
    ends = [
        stop
        for (column, _, stop), after in zip(tokens, following, strict=False)
        if after != column + 1
    ]
    for end in reversed(ends):
        start = len(text[:end].rstrip()) - len(typed)
        if start >= 0 and text.startswith(typed, start):
            return start - leading
    return None


def _words(text: str, tokens: Sequence[tuple[int, int, int]], window: int) -> tuple[Word, ...]:
    """The words of a text, given the column, start and stop of each token."""
    words = []
    for start, stop in word_spans(text):
        # Start and end tokens come from nowhere in the text.
        columns = tuple(c for c, a, b in tokens if b > a and a < stop and b > start)
        inside = all(column < window for column in columns)
        words.append(Word(text[start:stop], start, stop, columns if inside else ()))
    return tuple(words)


def _decoded(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[tuple[int, int, int]]]:
    """The text of tokens, and the column, start and stop of each that is not a special one."""
    special = set(tokenizer.all_special_ids)
    columns = [column for column, one in enumerate(ids) if one not in special]
    read = [ids[column] for column in columns]

    def decode(count: int) -> str:
        text: str = tokenizer.decode(read[:count], clean_up_tokenization_spaces=False)
        return text

    whole, tokens, start = decode(len(read)), [], 0
    for count, column in enumerate(columns, start=1):
        text = decode(count)
        stop = _common(text, whole)
        # A token may be part of a character, whose beginnings are spelled as something else.
        end = stop + 1 if stop < len(text) or stop <= start else stop
        tokens.append((column, min(start, stop), min(end, len(whole))))
        start = max(start, stop)
    return whole, tokens


def _common(one: str, other: str) -> int:
    """Length of what two texts begin with alike."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


def _as_typed(encoded: Sequence[Word], typed: str) -> tuple[Word, ...]:
    """Encoded words, each spelled and placed as it was typed, where it was."""
    spans = word_spans(typed)
    spelling = [typed[start:stop].casefold() for start, stop in spans]
    words, at = [], 0
    for word in encoded:
        folded = word.text.casefold()
        if folded in spelling[at:]:
            found = spelling.index(folded, at)
            at, (start, stop) = found + 1, spans[found]
            words.append(Word(typed[start:stop], start, stop, word.columns))
        else:
            words.append(Word(word.text, 0, 0, word.columns))
    return tuple(words)
