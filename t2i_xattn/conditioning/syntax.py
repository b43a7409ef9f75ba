"""The syntax of prompts, read: weights, blends, conjunctions, chunks and schedules.

Written by hand, over places in the prompt: compel's own grammar (2.5.1) knows neither `(red:1.3)`
nor where a word was typed, drops brackets and quotes without a word, and blends only at the top.

- `(red car:1.3)`, `(red car)1.3`: a weight; nested ones are multiplied.
- `red++`, `(red car)--`: a weight of 1.1 or 0.9 for each sign.
- `(red car)`, `[red car]`: for `way="lpw"` weights of 1.1 and 1 / 1.1; else the round brackets
  stand for nothing, and the square ones are letters.
- `("a cat", "a dog").blend(0.3, 0.7)`: a mean of embeddings; with `no_normalize` a sum.
- `("a cat", "a dog").and(1, 0.5)`, `a cat AND a dog:0.5`: texts of their own, one behind the other.
- `a cat BREAK a dog`: what follows begins a chunk of its own.
- `[cat:dog:0.4]`, `[dog:0.4]`, `[cat::0.4]`: one text before a step of the run, another from it on.
- a backslash before `( ) [ ] " + - : <`, a backslash, `AND` or `BREAK`: the letters themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from t2i_xattn.conditioning.nodes import Break, Group, Letter, Node, Timed
from t2i_xattn.conditioning.places import ESCAPE, as_number, finite, wrong
from t2i_xattn.conditioning.reader import KEYWORD, SIGNS, Reader, Way
from t2i_xattn.errors import UserError, shown
from t2i_xattn.prompts.words import phrase_runs, phrase_spans, word_spans

Kind = Literal["and", "blend"]

_OPERATOR = re.compile(r"\)\s*\.(and|add|blend)\s*\(")
_UNKNOWN = re.compile(r"\.(swap|attend)\(|(?:with|use)Lora\(")
_HALF = re.compile("[\ud800-\udfff]")
_EMBEDDING = re.compile(r"<[\w-]+>")


@dataclass(frozen=True)
class Piece:
    """A run of text of one weight.

    Attributes:
        text: without syntax.
        places: where each of its characters stands in the prompt as typed.
        weight: of it.
    """

    text: str
    places: tuple[int, ...]
    weight: float


@dataclass(frozen=True)
class Part:
    """A text with an embedding of its own.

    Attributes:
        stretches: its pieces; each stretch begins a chunk.
        weight: of the whole.
    """

    stretches: tuple[tuple[Piece, ...], ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Phase:
    """What the prompt says from a step on.

    Attributes:
        start: a fraction of the run, or whole steps; 0 for the first.
        parts: its texts.
    """

    start: float
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Parsed:
    """A prompt as it is read.

    Attributes:
        prompt: as typed.
        kind: whether its parts stand one behind the other or are blended.
        normalised: whether a blend is a mean.
        phases: in their order, at least one.
    """

    prompt: str
    kind: Kind
    normalised: bool
    phases: tuple[Phase, ...]

    @property
    def is_plain(self) -> bool:
        """Whether it says nothing but its letters."""
        return self.phases == (Phase(0, (plain_part(self.prompt),)),)


def plain_part(prompt: str) -> Part:
    """A prompt whose characters are all letters."""
    pieces = (Piece(prompt, tuple(range(len(prompt))), 1.0),) if prompt else ()
    return Part((pieces,))


def letters_of(prompt: str) -> str:
    """What a prompt says without its syntax, all its parts and phases one behind the other; as it
    was typed where it cannot be read."""
    try:
        phases = parse(prompt).phases
    except UserError:
        return prompt
    texts = [
        "".join(piece.text for piece in stretch)
        for phase in phases
        for part in phase.parts
        for stretch in part.stretches
    ]
    return " ".join(dict.fromkeys(texts))


def phrase_places(prompt: str, phrase: str) -> list[tuple[tuple[int, int], ...]]:
    """Each place where a phrase stands in what a prompt says, as start and stop in the prompt as
    typed; letters of its syntax (the 1 of `(red:1.2)`) are no words.

    Where syntax stands inside the phrase, as in `(red:1.2) circle`, a place is in several parts.
    A prompt that cannot be read is letters.
    """
    try:
        phases = parse(prompt).phases
    except UserError:
        return [(span,) for span in phrase_spans(prompt, phrase)]
    found = []
    for phase in phases:
        words: list[tuple[str, tuple[int, ...]]] = []
        for stretch in (stretch for part in phase.parts for stretch in part.stretches):
            text = "".join(piece.text for piece in stretch)
            places = [place for piece in stretch for place in piece.places]
            words += [(text[a:b], tuple(places[a:b])) for a, b in word_spans(text)]
        read = {p for e in phase.parts for s in e.stretches for piece in s for p in piece.places}
        for first, last, passed in phrase_runs([text for text, _ in words], phrase):
            own = [place for _, of_word in words[first : last + 1] for place in of_word]
            own = own[: len(own) - passed]
            # Blanks and commas between words belong to the phrase.
            parts = _runs(prompt, sorted(read & set(range(min(own), max(own) + 1))))
            found.append(tuple(parts if len(parts) == 1 else _runs(prompt, own)))
    return sorted(dict.fromkeys(found))


def weighed_alike(prompt: str, stop: int, words: str) -> str:
    """Words as they are written in the place of others that end there: signs behind the place
    count for all of them."""
    several = len(words.split()) > 1
    return f"({words})" if several and SIGNS.match(prompt, stop) else words


def _runs(prompt: str, places: Sequence[int]) -> list[tuple[int, int]]:
    """Start and stop of characters that stand next to each other, but for a backslash."""
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and place - runs[-1][1] == prompt[runs[-1][1] : place].count("\\"):
            runs[-1] = (runs[-1][0], place + 1)
        else:
            runs.append((place, place + 1))
    return runs


def parse(prompt: str, way: Way = "compel") -> Parsed:
    """Reads a prompt.

    Args:
        prompt: as typed.
        way: what bare brackets mean.

    Raises:
        UserError: brackets that do not pair, a weight or step that is no finite number, an empty
            blend, or other syntax that cannot be; with the place.
    """
    if match := _HALF.search(prompt):
        # Half of a pair of UTF-16, as of a text that was cut: no tokenizer takes it.
        raise wrong(prompt, match.start(), "characters of Unicode", "leave that one out")
    if match := _UNKNOWN.search(prompt):
        raise wrong(
            prompt, match.start(), f"syntax that is known, not {match[0]}", "use `edit` for it"
        )
    kind, normalised, texts = _texts(prompt)
    read = [(Reader(prompt, start, stop, way).whole(), weight) for start, stop, weight in texts]
    starts = sorted({each.start for nodes, _ in read for each in _timed(nodes)})
    if len({type(each) for each in starts}) > 1:
        raise UserError(
            f"expected the steps of a schedule all as whole steps or all as fractions, but came "
            f"{', '.join(map(str, starts))} in {shown(prompt)}; write them one way"
        )
    phases = tuple(
        Phase(start, tuple(Part(_stretches(nodes, start), weight) for nodes, weight in read))
        for start in (0, *starts)
    )
    return Parsed(prompt, kind, normalised, phases)


def _texts(prompt: str) -> tuple[Kind, bool, list[tuple[int, int, float]]]:
    """How a prompt's texts are put together, whether by a mean, and start, stop and weight of each.

    Raises:
        UserError: if it cannot be read.
    """
    if (operator := _OPERATOR.search(prompt)) is not None:
        return _called(prompt, operator)
    marks = [each for each in KEYWORD.finditer(prompt) if each[2] == "AND" and not each[1]]
    ends = [*(each.start() for each in marks), len(prompt)]
    texts, start = [], 0
    for end, mark in zip(ends, [*marks, None], strict=True):
        stop, weight = end, 1.0
        if marks:
            if not prompt[start:end].strip():
                raise wrong(prompt, min(start, len(prompt) - 1), "a text beside AND", ESCAPE)
            tail = re.search(r"(?<!\\):\s*([^\s:]+)\s*$", prompt[start:end])
            if tail is not None and (found := as_number(tail[1])) is not None:
                weight = finite(prompt, start + tail.start(1), found)
                stop = start + tail.start()
        texts.append((start, stop, weight))
        start = end if mark is None else mark.end()
    return "and", True, texts


def _called(
    prompt: str, operator: re.Match[str]
) -> tuple[Kind, bool, list[tuple[int, int, float]]]:
    """`("…", "…").blend(…)` and `.and(…)`."""
    name = f".{operator[1]}"
    usage = f'write all of the prompt as ("…", "…"){name}(1, 1)'
    first = len(prompt) - len(prompt.lstrip())
    end = re.compile(r"([^()]*)\)\s*").fullmatch(prompt, operator.end())
    if prompt[first] != "(" or end is None:
        raise wrong(prompt, operator.start(), f"{name} behind the whole prompt", usage)
    spans: list[tuple[int, int]] = []
    at = first + 1
    while True:
        quoted = re.compile(r'\s*"((?:\\.|[^"\\])*)"\s*').match(prompt, at)
        if quoted is None:
            what = "texts" if spans else "at least one text"
            raise wrong(prompt, at, f"{what} in quotes, with commas between, for {name}", usage)
        spans.append(quoted.span(1))
        at = quoted.end()
        if at == operator.start():
            break
        if prompt[at] != ",":
            raise wrong(prompt, at, f"a comma between the texts of {name}", usage)
        at += 1
    options = [each.strip() for each in end[1].split(",") if each.strip()]
    normalised = "no_normalize" not in options
    given = [each for each in options if each != "no_normalize"]
    weights = [finite(prompt, operator.end(), as_number(each), each) for each in given]
    if weights and len(weights) != len(spans):
        raise wrong(
            prompt, operator.start(), f"{len(spans)} weights, one a text, not {len(weights)}", usage
        )
    weights = weights or [1.0] * len(spans)
    kind: Kind = "blend" if operator[1] == "blend" else "and"
    if kind == "blend" and normalised and math.isclose(sum(weights), 0, abs_tol=1e-6):
        raise wrong(
            prompt, operator.start(), "weights of a blend with a sum other than 0", "raise one"
        )
    return kind, normalised, [(*span, each) for span, each in zip(spans, weights, strict=True)]


def _timed(nodes: Sequence[Node]) -> Iterator[Timed]:
    for node in nodes:
        if isinstance(node, Timed):
            yield node
            yield from _timed(node.before)
            yield from _timed(node.after)
        elif isinstance(node, Group):
            yield from _timed(node.children)


def _stretches(nodes: Sequence[Node], start: float) -> tuple[tuple[Piece, ...], ...]:
    """The pieces of a text as it is from a step on; a stretch ends at each BREAK."""
    stretches: list[list[tuple[str, int, float]]] = [[]]
    for letter, weight in _letters(nodes, 1.0, start):
        if letter is None:
            stretches.append([])
        else:
            stretches[-1].append((letter.text, letter.place, weight))
    pieces = []
    for each in stretches:
        runs = [(w, list(run)) for w, run in groupby(each, key=lambda one: one[2])]
        pieces.append(
            tuple(
                Piece("".join(t for t, _, _ in run), tuple(p for _, p, _ in run), weight)
                for weight, run in runs
            )
        )
    # A break at an end begins nothing.
    there = tuple(each for each in pieces if any(piece.text.strip() for piece in each))
    return there or (tuple(pieces[0]),)


def _letters(
    nodes: Sequence[Node], weight: float, start: float
) -> Iterator[tuple[Letter | None, float]]:
    for node in nodes:
        if isinstance(node, Letter):
            yield node, weight
        elif isinstance(node, Break):
            yield None, weight
        elif isinstance(node, Group):
            yield from _letters(node.children, weight * node.weight, start)
        else:
            side = node.after if start >= node.start else node.before
            yield from _letters(side, weight, start)


def unknown_embedding(prompt: str, known: Sequence[str]) -> UserError | None:
    """What is wrong with a prompt that names a textual inversion that nobody has loaded."""
    for match in _EMBEDDING.finditer(prompt):
        if match[0] not in known and prompt[: match.start()][-1:] != "\\":
            return wrong(
                prompt,
                match.start(),
                f"a textual inversion that is loaded, not {shown(match[0])}",
                "load it with pipe.load_textual_inversion(…), or write \\< for the letter",
            )
    return None
