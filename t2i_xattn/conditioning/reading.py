"""How a prompt is read: which token and which word stands in which column, with which weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from t2i_xattn.conditioning.chunks import Chunk, Token
from t2i_xattn.conditioning.syntax import Part
from t2i_xattn.prompts.encoded import Text, spelled
from t2i_xattn.prompts.joining import joined
from t2i_xattn.prompts.words import Word, word_spans


@dataclass(frozen=True)
class ReadToken:
    """A token of a prompt.

    Attributes:
        text: as the tokenizer spells it.
        id: in the vocabulary.
        kind: of the text, or start and end.
        column: in the text sequence that the denoiser is given; None where only the pooled text is
            used.
        chunk: the number of its window.
        weight: of it.
        start, stop: the characters that it came from, in the prompt as typed.
        part: the number of its text, of those of a blend or a conjunction.
    """

    text: str
    id: int
    kind: Literal["text", "special"]
    column: int | None
    chunk: int
    weight: float
    start: int
    stop: int
    part: int


@dataclass(frozen=True)
class ReadWord(Word):
    """A word with what was done to it; see `Word`.

    Attributes:
        weights: of each column.
        chunks: the number of the window of each column.
        part: the number of its text, of those of a blend or a conjunction.
    """

    weights: tuple[float, ...] = ()
    chunks: tuple[int, ...] = ()
    part: int = 0


@dataclass(frozen=True)
class Reading:
    """How one text encoder reads one prompt.

    Attributes:
        prompt: as typed.
        branch: `"conditional"`, or `"unconditional"` for a negative prompt.
        image: the number of the prompt.
        start: the step from which on it is said: a fraction of the run or whole steps.
        encoder: the name of the text encoder.
        tokens: in their order.
        words: with their columns in this encoder; none for a pooled text.
        cut: the words that the encoder's window has no room for.
        pooled: whether only its pooled text is used.
    """

    prompt: str
    branch: str
    image: int
    start: float
    encoder: str
    tokens: tuple[ReadToken, ...]
    words: tuple[ReadWord, ...]
    cut: tuple[str, ...] = ()
    pooled: bool = False


@dataclass(frozen=True)
class Placed:
    """The chunks of a text of one encoder, and where they stand.

    Attributes:
        encoder, tokenizer: whose they are.
        part: the text.
        number: of the part.
        chunks: of the text.
        cut: tokens that there is no room for.
        column: of the first chunk.
        chunk: the number of the first one.
    """

    encoder: str
    tokenizer: Any
    part: Part
    number: int
    chunks: Sequence[Chunk]
    cut: Sequence[Token]
    column: int
    chunk: int

    @classmethod
    def of(
        cls,
        encoder: str,
        tokenizer: Any,
        part: Part,
        number: int,
        found: tuple[Sequence[Chunk], Sequence[Token]],
        column: int,
        chunk: int,
    ) -> Placed:
        """With the chunks and the cut tokens that were `found` for it."""
        return cls(encoder, tokenizer, part, number, *found, column, chunk)

    @property
    def end(self) -> int:
        """The column behind its last one."""
        return self.column + sum(len(chunk.ids) for chunk in self.chunks)

    def at(self) -> Iterator[tuple[int, int, int, Token | None]]:
        """Column, chunk, id and token of each that is no padding; None for start and end."""
        column = self.column
        for number, chunk in enumerate(self.chunks, start=self.chunk):
            special = chunk.special
            for place, one in enumerate(chunk.ids):
                token = chunk.tokens.get(place)
                if token is not None or place in special:
                    yield column + place, number, one, token
            column += len(chunk.ids)

    def words(self) -> Iterator[ReadWord]:
        """Its words, with columns unless they are cut."""
        stretches = [[*stretch] for stretch in self.part.stretches]
        text, places = "", list[int]()
        for stretch in stretches:
            for piece in stretch:
                text += piece.text
                places += piece.places
            text += " "
            places.append(places[-1] + 1 if places else 0)
        known = list(self.at())
        for a, b in word_spans(text):
            start, stop = places[a], places[b - 1] + 1
            own = [each for each in known if (t := each[3]) and t.start < stop and t.stop > start]
            gone = any(token.start < stop and token.stop > start for token in self.cut)
            if gone:
                own = []
            yield ReadWord(
                text[a:b],
                start,
                stop,
                tuple(column for column, _, _, _ in own),
                encoders=(self.encoder,) * len(own),
                cut=(self.encoder,) if gone else (),
                weights=tuple(token.weight for _, _, _, token in own if token),
                chunks=tuple(number for _, number, _, _ in own),
                part=self.number,
            )

    def tokens(self, pooled: bool) -> Iterator[ReadToken]:
        """Its tokens with the start and the end."""
        every = list(self.at())
        texts = spelled(self.tokenizer, [one for _, _, one, _ in every])
        for text, (column, number, one, token) in zip(texts, every, strict=True):
            yield ReadToken(
                text,
                one,
                "special" if token is None else "text",
                None if pooled else column,
                number,
                1.0 if token is None else token.weight,
                0 if token is None else token.start,
                0 if token is None else token.stop,
                self.number,
            )


def readings_of(
    placed: Sequence[Placed], prompt: str, branch: str, image: int, start: float, pooled: bool
) -> list[Reading]:
    """How each encoder reads a prompt."""
    found = []
    for name in dict.fromkeys(each.encoder for each in placed):
        own = [each for each in placed if each.encoder == name]
        words = [word for each in own for word in each.words()]
        found.append(
            Reading(
                prompt,
                branch,
                image,
                start,
                name,
                tuple(token for each in own for token in each.tokens(pooled)),
                () if pooled else tuple(words),
                tuple(word.text for word in words if word.cut),
                pooled,
            )
        )
    return found


def text_of(placed: Sequence[Placed], prompt: str, length: int) -> Text:
    """A prompt with all that is known of its columns, without its embedding and what it is for.

    Args:
        placed: the texts of its encoders.
        prompt: as typed.
        length: columns of the text sequence.
    """
    ids, tokens = [-1] * length, [""] * length
    owners: dict[int, set[tuple[str, int]]] = {}
    special: set[int] = set()
    words: dict[tuple[str, int, int], Word] = {}
    for each in placed:
        owner = (each.encoder, each.number)
        every = list(each.at())
        texts = spelled(each.tokenizer, [one for _, _, one, _ in every])
        for text, (column, _, one, token) in zip(texts, every, strict=True):
            if column not in owners:
                ids[column], tokens[column] = one, text
            # Of encoders that stand beside each other the first one says it.
            elif tokens[column] != text and owner[0] in {name for name, _ in owners[column]}:
                tokens[column] += f" | {text}"
            owners.setdefault(column, set()).add(owner)
            if token is None:
                special.add(column)
        for word in each.words():
            plain = Word(word.text, word.start, word.stop, word.columns, cut=word.cut)
            key = (word.text, word.start, word.stop)
            words[key] = joined(words.get(key), plain, each.encoder)
    end = max(owners, default=-1) + 1
    return Text(
        torch.empty(0),
        None,
        0,
        prompt=prompt,
        words=tuple(sorted(words.values(), key=lambda word: word.start)),
        tokens=tuple(tokens[:end]),
        ids=tuple(ids[:end]),
        padding=tuple(column for column in range(length) if column not in owners),
        special=tuple(sorted(special)),
    )
