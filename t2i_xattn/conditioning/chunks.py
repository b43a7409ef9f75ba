"""A text in the windows of its encoder: which token stands where, with which weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2i_xattn.conditioning.reader import Way
from t2i_xattn.conditioning.syntax import Part, Piece
from t2i_xattn.prompts.own_tokenizer import own_tokenizer

_SENTENCE = (".</w>",)
_PHRASE = (".</w>", ",</w>", ";</w>", ":</w>")


@dataclass(frozen=True)
class Token:
    """A token of a text.

    Attributes:
        id: in the vocabulary.
        start, stop: the characters that it came from, in the prompt as typed.
        weight: of it.
        piece: the number of its piece, counted over the stretches.
    """

    id: int
    start: int
    stop: int
    weight: float
    piece: int


@dataclass(frozen=True)
class Chunk:
    """One window of a text encoder.

    Attributes:
        ids: of all its columns.
        tokens: of the text, by column.
        end: the column of the end token.
    """

    ids: tuple[int, ...]
    tokens: Mapping[int, Token]
    end: int

    @property
    def special(self) -> set[int]:
        """The columns of the start and the end token."""
        return {self.end} | {0} - self.tokens.keys()


def chunks_of(
    tokenizer: Any, part: Part, window: int, way: Way, whole: bool = False
) -> tuple[list[Chunk], list[Token]]:
    """The chunks of a text, and the tokens that they have no room for.

    Args:
        tokenizer: a fast one.
        part: the text.
        window: columns of a chunk.
        way: `"compel"` parts behind sentences, phrases, words; `"lpw"` where the window ends.
        whole: whether there is one chunk only, as T5 has; else as many as it takes.
    """
    stretches = _tokens(tokenizer, part)
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    room = window - len(start) - 1
    if whole:
        every = [token for stretch in stretches for token in stretch]
        return [_chunk(tokenizer, every[:room], window, start, way)], every[room:]
    chunks = []
    for rest in stretches:
        while True:
            end = room if way == "lpw" else _split(tokenizer, rest, room)
            chunks.append(_chunk(tokenizer, rest[:end], window, start, way))
            rest = rest[end:]
            if not rest:
                break
    return chunks, []


def empty_chunk(tokenizer: Any, window: int, way: Way) -> Chunk:
    """A window without text."""
    return chunks_of(tokenizer, Part(((),)), window, way)[0][0]


def _tokens(tokenizer: Any, part: Part) -> list[list[Token]]:
    """The tokens of each stretch, each piece tokenized by itself, as compel and lpw do."""
    found, number = [], 0
    for stretch in part.stretches:
        tokens: list[Token] = []
        for piece in stretch:
            tokens += _of_piece(tokenizer, piece, number, len(stretch) == 1)
            number += 1
        found.append(tokens)
    return found


def _of_piece(tokenizer: Any, piece: Piece, number: int, alone: bool) -> Iterator[Token]:
    # The blank before a piece is not text: the tokenizer would put one there itself.
    text = piece.text if alone else piece.text.strip()
    skipped = 0 if alone else len(piece.text) - len(piece.text.lstrip())
    own = own_tokenizer(tokenizer)
    encoding = own(
        text,
        add_special_tokens=False,
        return_offsets_mapping=True,
        truncation=False,
        verbose=False,
    )
    further = _further(own)
    for one, (a, b) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
        places = piece.places[skipped + a : skipped + b] or piece.places[skipped + a :][:1]
        start, stop = (places[0], places[-1] + 1) if places else (0, 0)
        for each in (one, *further.get(one, ())):
            yield Token(each, start, stop, piece.weight, number)


def _further(tokenizer: Any) -> dict[int, list[int]]:
    """The further vectors of textual inversions, which are typed as their first one."""
    added = tokenizer.added_tokens_encoder
    found: dict[int, list[int]] = {}
    for name, one in added.items():
        number = 1
        while f"{name}_{number}" in added:
            found.setdefault(one, []).append(added[f"{name}_{number}"])
            number += 1
    return found


def _split(tokenizer: Any, tokens: Sequence[Token], room: int) -> int:
    """How many tokens go into the next chunk: up to the last sentence that ends in it, else the
    last phrase, else the last word, as compel parts long prompts."""
    if len(tokens) <= room:
        return room
    spelled = tokenizer.convert_ids_to_tokens([token.id for token in tokens[:room]])
    for ends in (_SENTENCE, _PHRASE):
        at = [place for place, each in enumerate(spelled) if each in ends]
        if at:
            return at[-1] + 1
    words = [place for place, each in enumerate(spelled) if each.endswith("</w>")]
    return words[-1] + 1 if words else room


def _chunk(
    tokenizer: Any, tokens: Sequence[Token], window: int, start: list[int], way: Way
) -> Chunk:
    first = len(start)
    ids = [*start, *(token.id for token in tokens)]
    filling = [tokenizer.pad_token_id] * (window - len(ids) - 1)
    # lpw fills a window up before its end token, which only differs where another token fills.
    last = window - 1 if way == "lpw" else len(ids)
    end = [tokenizer.eos_token_id]
    ids = [*ids, *filling, *end] if way == "lpw" else [*ids, *end, *filling]
    return Chunk(tuple(ids), {first + n: token for n, token in enumerate(tokens)}, last)
