"""Which words are asked about, and what stands in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2i_xattn.conditioning.syntax import parse, phrase_places
from t2i_xattn.conditioning.within import is_reading
from t2i_xattn.errors import UserError, WordNotFoundError, listed, shown
from t2i_xattn.explaining.other_words import Tokens, other_of_its_kind, with_another
from t2i_xattn.prompts.listening import text_encoders
from t2i_xattn.prompts.own_tokenizer import own_tokenizer, tokenizer_beside
from t2i_xattn.prompts.words import Word, find_phrase, phrase_spans, word_spans
from t2i_xattn.traces.trace import Trace


@dataclass(frozen=True)
class Target:
    """A word or phrase that is asked about.

    Attributes:
        phrase: as typed.
        places: where it stands in the prompt.
        columns: of the text.
        others: what stands in its place under `text`, one after the other; None: it is left out.
        texts: the prompt with each.
    """

    phrase: str
    places: tuple[tuple[int, int], ...]
    columns: tuple[int, ...]
    others: tuple[str | None, ...]
    texts: tuple[str, ...]

    @property
    def other(self) -> str | None:
        """The first of `others`."""
        return self.others[0]


def targets(
    pipe: Any,
    trace: Trace,
    words: Sequence[str] | None,
    instead: Mapping[str, str | None],
    alternatives: int = 1,
) -> list[Target]:
    """What is asked about in a recorded run.

    Args:
        pipe: that ran, whose tokenizers count tokens.
        trace: of the run.
        words: words or phrases; None: every word of the prompt once, where it stands first, but
            those that were cut off.
        instead: what is put in the place of some of them; None: nothing.
        alternatives: how many others of a word's kind, of those that are not in `instead`.

    Raises:
        UserError: for a word that the prompt does not have or that was cut off, for two that are
            the same, and for one in `instead` that is not asked about.
    """
    found = trace.words
    prompt = trace.prompts[0] or ""
    if words is None:
        # Those that are cut off are left out, as nothing reads them.
        once: dict[str, str] = {}
        cut = {each.text.casefold() for each in found if each.cut or not each.columns}
        for each in found:
            if each.source == "prompt" and each.text.casefold() not in cut:
                once.setdefault(each.text.casefold(), each.text)
        phrases = list(once.values())
    else:
        phrases = list(words)
    if not phrases:
        raise UserError(
            "expected words to ask about, but there are none; name some of the prompt's words, or "
            "say what to paint"
        )
    folded = [each.casefold() for each in phrases]
    if len(set(folded)) < len(folded):
        raise UserError(f"expected words that differ, but came {listed(phrases)}")
    for word in instead:
        if word.casefold() not in folded:
            raise WordNotFoundError(
                f"expected in instead= a word that is asked about, but came {shown(word)}; there "
                f"are {listed(phrases)}"
            )
    given = {word.casefold(): other for word, other in instead.items()}
    count, read = token_counts(pipe), is_reading(pipe) and not parse(prompt).is_plain
    return [_target(each, prompt, found, given, count, alternatives, read) for each in phrases]


def check_alike(pipe: Any, asked: Sequence[Target]) -> None:
    """Raises `UserError` unless what stands in each word's place has as many tokens as it."""
    count = token_counts(pipe)
    unlike = [
        each.phrase
        for each in asked
        if each.other is None or count(each.other) != count(each.phrase)
    ]
    if unlike:
        raise UserError(
            "expected a word of as many tokens in the place of each that is asked about by 'only' "
            "or 'carriers', so that all others keep their columns, but there is none for "
            f"{listed(unlike)}; ask about other words (words=…), or name one "
            f"(instead={{{shown(unlike[0])}: …}})"
        )


def _target(
    phrase: str,
    prompt: str,
    words: Sequence[Word],
    instead: Mapping[str, str | None],
    count: Tokens,
    alternatives: int,
    read: bool,
) -> Target:
    columns = find_phrase(words, phrase)
    parts = phrase_places(prompt, phrase) if read else []
    places = tuple(e for each in parts for e in each) if read else (*phrase_spans(prompt, phrase),)
    if not places:
        raise WordNotFoundError(
            f"expected a word of the prompt as text, but {shown(phrase)} has columns alone; "
            "leave it out, or ask what attention says of it with record(…, spans=…)"
        )
    folded = phrase.casefold()
    others: list[str | None] = [instead[folded]] if folded in instead else []
    if apart := next((each for each in parts if len(each) > 1), None):
        if others and others[0] is not None:
            raise UserError(
                f"expected words without syntax between them to put {shown(others[0])} in their "
                f"place, but came {shown(prompt[apart[0][0] : apart[-1][1]])}; ask about each word "
                "by itself"
            )
        others = [None]
    said = prompt
    more = not apart and folded not in instead
    while not others or (len(others) < alternatives and more):
        other = _of_its_kind(phrase, said, count)
        if other is None and others:
            break
        others.append(other)
        if other is None:
            break
        said = f"{said} {other}"  # not twice the same
    texts = tuple(with_another(prompt, places, other, read) for other in others)
    return Target(phrase, places, columns, tuple(others), texts)


def _of_its_kind(phrase: str, prompt: str, count: Tokens) -> str | None:
    """The phrase with others in the place of its words whose kind is known; None: of none."""
    made, last, said = "", 0, prompt
    for start, stop in word_spans(phrase):
        other = other_of_its_kind(phrase[start:stop], said, count)
        made += phrase[last:start] + (other or phrase[start:stop])
        said, last = f"{said} {other or ''}", stop
    made += phrase[last:]
    return None if made == phrase else made


def token_counts(pipe: Any) -> Tokens:
    """Counts a word's tokens in each of the pipeline's tokenizers."""
    found = [tokenizer_beside(pipe, name) for name, _ in text_encoders(pipe)]
    tokenizers = [own_tokenizer(each) for each in found if each is not None]

    def count(word: str) -> tuple[int, ...] | None:
        # With a space in front, as within a prompt.
        found = [each(f" {word}", add_special_tokens=False)["input_ids"] for each in tokenizers]
        # CLIP has the end token in the place of unknown ones, and needs none.
        unknown = [
            each.unk_token_id in ids and each.unk_token_id != each.eos_token_id
            for each, ids in zip(tokenizers, found, strict=True)
        ]
        return None if any(unknown) else tuple(map(len, found))

    return count
