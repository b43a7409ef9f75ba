"""From the words of a prompt to their columns in the text sequence."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from t2i_xattn.errors import UserError, WordNotFoundError, listed, nearest, shown
from t2i_xattn.prompts.own_tokenizer import own_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_JOINERS = "-'\u2019\u2010\u2011"  # hyphen, apostrophe, and their typographic forms
# Over the classes of characters that `_character_class` gives: letter or digit, mark, joiner.
_WORD = re.compile(r"l[lm]*(?:jl[lm]*)*")


@dataclass(frozen=True)
class Word:
    """A word of a prompt and the token span that belongs to it.

    Attributes:
        text: the word as typed.
        start, stop: its place in the prompt as typed, in characters; `prompt[start:stop] == text`.
        columns: its columns in the text sequence (0 is the start token), ascending. Empty if the
            window of the text encoder cut any part of the word off.
        source: where it stands: `"prompt"`, `"prompt_2"` (a second prompt of SDXL), `"spans"`
            where the user named its columns, or `"picture"` for one that was given as a prompt, by
            the name `picture 1`.
        encoders: the text encoder of each column, where several stand behind each other.
        cut: the text encoders whose window cut some of it off, where others have it whole.
    """

    text: str
    start: int
    stop: int
    columns: tuple[int, ...]
    source: str = "prompt"
    encoders: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


def split_words(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[Word, ...]:
    """The words of a prompt, with the columns where a CLIP text encoder puts their tokens.

    A word is a run of letters and digits, with hyphens and apostrophes inside it ("t-shirt",
    "don't"). Punctuation is not a word and its columns belong to none.

    Args:
        tokenizer: a fast tokenizer (it knows from which characters a token came) whose
            `model_max_length` is the window of the text encoder, 77 for CLIP.
        prompt: the prompt as typed.

    Returns:
        The words in their order; those that the window cuts have no columns.

    Raises:
        UserError: if the tokenizer is a slow one.
    """
    if not tokenizer.is_fast:
        raise UserError(
            "expected a fast tokenizer, which knows the place of each token in the prompt, but "
            f"came {type(tokenizer).__name__}; load the pipeline with transformers 5 or newer"
        )
    # Without truncation, so that the words beyond the window are known too.
    encoding = own_tokenizer(tokenizer)(
        prompt, return_offsets_mapping=True, truncation=False, verbose=False
    )
    # The last place inside the window belongs to the end token, whatever is cut.
    window = tokenizer.model_max_length - 1
    tokens = [
        (column, start, stop)
        for column, (start, stop) in enumerate(encoding["offset_mapping"])
        if stop > start  # start and end tokens come from nowhere in the prompt
    ]
    words = []
    for start, stop in word_spans(prompt):
        columns = tuple(column for column, a, b in tokens if a < stop and b > start)
        inside = all(column < window for column in columns)
        words.append(Word(prompt[start:stop], start, stop, columns if inside else ()))
    return tuple(words)


def cut_words(words: Sequence[Word]) -> tuple[Word, ...]:
    """The words that the window of the text encoder cut off, wholly or in part."""
    return tuple(word for word in words if not word.columns)


def check_whole(text: str, words: Sequence[Word]) -> None:
    """Raises `UserError` if the window of the text encoder cut off some of a text's words."""
    if cut := cut_words(words):
        raise UserError(
            f"expected texts that fit into the window of the text encoder, but {shown(text)} goes "
            f"beyond it from {shown(cut[0].text)} on; shorten it"
        )


def find_phrase(
    words: Sequence[Word],
    phrase: str,
    occurrence: int | None = None,
    encoder: str | None = None,
) -> tuple[int, ...]:
    """The columns of a word, or of several words that stand one after the other.

    Capitals and punctuation are passed over: "Red, circle" finds "red circle". Where a phrase does
    not stand there as it is, a possessive 's is passed over too: "New York" finds "New York's".
    Spans that the user named, and pictures among the text, go first, then the prompt, then a second
    prompt.

    Args:
        words: what `split_words` gave.
        phrase: one or more words.
        occurrence: which one to take where the phrase stands several times, 0 the first. By
            default all of them together.
        encoder: the text encoder whose columns are meant, where several stand behind each other,
            such as `"text_encoder_3"`; by default those of all.

    Returns:
        The columns, ascending, each once.

    Raises:
        WordNotFoundError: if the phrase is not in the prompt, or not that often.
        UserError: if the phrase has no word in it, or the window cut some of it off.
    """
    found = _runs(words, phrase)
    if not found:
        raise WordNotFoundError(_not_found(words, phrase))
    if occurrence is not None:
        if not 0 <= occurrence < len(found):
            raise WordNotFoundError(
                f"{shown(phrase)} stands {_times(len(found))} in the prompt, so occurrence must be "
                f"{'0' if len(found) == 1 else f'0 to {len(found) - 1}'}, but came {occurrence}"
            )
        found = [found[occurrence]]
    chosen = [word for run in found for word in run]
    if cut := cut_words(chosen):
        raise UserError(
            f"{shown(phrase)} goes beyond the window of the text encoder, which cut off "
            f"{listed(word.text for word in cut)}; move it to the front or shorten the prompt"
        )
    if encoder is None and (cutting := {each for word in chosen for each in word.cut}):
        others = sorted({each for word in chosen for each in word.encoders})
        raise UserError(
            f"{shown(phrase)} goes beyond the window of {' and '.join(sorted(cutting))}, which cut "
            f"it off, but not beyond that of {' and '.join(others)}; shorten the prompt, or ask "
            f"for that one's columns by encoder={others[0]!r}"
        )
    columns = {column for word in chosen for column in _of_encoder(word, encoder)}
    return tuple(sorted(columns))


def _of_encoder(word: Word, encoder: str | None) -> tuple[int, ...]:
    """A word's columns of one encoder.

    Raises:
        UserError: if it has none.
    """
    if encoder is None:
        return word.columns
    pairs = zip(word.columns, word.encoders, strict=False)
    columns = tuple(column for column, of in pairs if of == encoder)
    if not columns:
        known = ", ".join(dict.fromkeys(word.encoders)) or "one encoder alone"
        raise UserError(
            f"expected an encoder that {shown(word.text)} has columns of ({known}), but came "
            f"{shown(encoder)}; leave encoder= out for all of them"
        )
    return columns


def _runs(words: Sequence[Word], phrase: str) -> list[Sequence[Word]]:
    """Every run of words that reads like the phrase, in the first source that has one."""
    # What the user named is found as it was named, letters or not.
    named: list[Sequence[Word]] = [
        [word] for word in words if word.source in ("spans", "picture") and word.text == phrase
    ]
    if named:
        return named
    wanted = _words_of(phrase)
    if not wanted:
        raise UserError(
            f"expected a word of the prompt, but {shown(phrase)} has no letter or digit; "
            f"{_BY_COLUMNS}"
        )
    for exactly in (True, False):
        for source in dict.fromkeys(word.source for word in words):
            here = [word for word in words if word.source == source]
            whole = [[word] for word in here if _folded(word.text) == _folded(phrase)]
            places = _places([word.text for word in here], wanted, exactly)
            found: list[Sequence[Word]] = [*whole] or [here[at : at + len(wanted)] for at in places]
            if found:
                return found
    return []


def phrase_spans(text: str, phrase: str) -> list[tuple[int, int]]:
    """Start and stop of each place of a text where a phrase stands, as `find_phrase` finds it, in
    characters; a possessive 's that was passed over stays outside."""
    spans = word_spans(text)
    runs = phrase_runs([text[start:stop] for start, stop in spans], phrase)
    return [(spans[first][0], spans[last][1] - passed) for first, last, passed in runs]


def phrase_runs(words: Sequence[str], phrase: str) -> list[tuple[int, int, int]]:
    """Where a phrase stands among words, as `find_phrase` finds it: the numbers of its first and
    last word, and how many characters of a possessive 's were passed over behind it."""
    wanted = _words_of(phrase)
    for exactly in (True, False):
        found = []
        for at in _places(words, wanted, exactly):
            last = words[at + len(wanted) - 1]
            whole = _straight(last) == _straight(wanted[-1])
            passed = 0 if whole else len(last) - len(_bare(last))
            found.append((at, at + len(wanted) - 1, passed))
        if found:
            return found
    return []


def _places(words: Sequence[str], wanted: Sequence[str], exactly: bool) -> list[int]:
    """Where the wanted words stand one after the other."""
    return [
        at
        for at in range(len(words) - len(wanted) + 1 if wanted else 0)
        if all(_reads(words[at + n], each, exactly) for n, each in enumerate(wanted))
    ]


def _reads(word: str, wanted: str, exactly: bool) -> bool:
    """Whether a word is the wanted one, which is folded; or else its possessive."""
    if _folded(word) == wanted:
        return True
    return not exactly and _straight(wanted) in (_straight(word), _straight(_bare(word)))


def _bare(word: str) -> str:
    """A word without its possessive 's."""
    return word[:-2] if word[-2:].casefold() in ("'s", "\u2019s") else word


def _straight(text: str) -> str:
    """A word for comparing, whichever apostrophe it has."""
    return _folded(text).replace("\u2019", "'")


def _words_of(phrase: str) -> list[str]:
    return [_folded(phrase[start:stop]) for start, stop in word_spans(phrase)]


def word_spans(text: str) -> list[tuple[int, int]]:
    """Start and stop of each word. One class letter a character keeps the offsets."""
    return [match.span() for match in _WORD.finditer("".join(map(_character_class, text)))]


def symbol_places(text: str) -> list[int]:
    """Where emoji and other symbols stand, which are no words and have no columns of their own."""
    inside = {at for start, stop in word_spans(text) for at in range(start, stop)}
    return [
        at
        for at, character in enumerate(text)
        if at not in inside and unicodedata.category(character) == "So"
    ]


def _character_class(character: str) -> str:
    if character in _JOINERS:
        return "j"
    # Marks (the vowel signs of Devanagari, a combining accent) are inside words but begin none.
    return {"L": "l", "N": "l", "M": "m"}.get(unicodedata.category(character)[0], ".")


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


_BY_COLUMNS = (
    "parts of words, symbols and special tokens are asked for by their columns (columns=[…], or "
    "spans={name: columns} for edits); trace.tokens lists them"
)


def _not_found(words: Sequence[Word], phrase: str) -> str:
    if not words:
        return (
            f"{shown(phrase)} is not in the prompt, which has no words; give the prompt some text"
        )
    there = [_folded(word.text) for word in words]
    missing = [
        each
        for each in _words_of(phrase)
        if not any(_reads(word.text, each, False) for word in words)
    ]
    some = listed(dict.fromkeys(word.text for word in words), 12)
    if not missing:
        return (
            f"the words of {shown(phrase)} do not stand next to each other; the prompt has {some}"
        )
    hint = nearest(missing[0], there)
    return f"{shown(missing[0])} is not in the prompt{hint}; its words are {some}; {_BY_COLUMNS}"
