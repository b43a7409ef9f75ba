"""Which words of a prompt the model in the box was never taught, and paints something else for."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from t2i_xattn.conditioning.syntax import letters_of
from t2i_xattn.errors import listed
from t2i_xattn.prompts.words import symbol_places, word_spans

VOCABULARY = Path(__file__).parent / "world" / "vocabulary.json"
"""The words that the model in the box was trained with, by what they say; made by
`scripts/write_vocabulary.py`."""

LISTED = "t2i_xattn/models/world/vocabulary.json"
"""The same within the package, for pictures and pages that are sent to somebody."""

_LIKE = 0.7
"""Of 1: how alike two words must be spelled for the one to be named beside the other."""


class UnknownWord(NamedTuple):
    """A word that a model was never taught.

    Attributes:
        word: as typed.
        nearest: words that it knows and that are spelled alike, the most alike first; may be empty.
    """

    word: str
    nearest: tuple[str, ...]


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model was trained with.

    Attributes:
        words: each, in small letters.
        file: where they are listed.
    """

    words: frozenset[str]
    file: Path

    def unknown(self, *texts: str | None) -> tuple[UnknownWord, ...]:
        """The words and emoji of some texts that are none of these, each once, in their order."""
        found: dict[str, UnknownWord] = {}
        for text in texts:
            for word in _words(letters_of(text or "")):
                folded = unicodedata.normalize("NFC", word).casefold()
                # The tokenizer parts words at hyphens and apostrophes.
                parts = [part for part in re.split(r"\W+", folded) if part]
                if not parts or not self.words.issuperset(parts):
                    found.setdefault(folded, UnknownWord(word, self._nearest(folded)))
        return tuple(found.values())

    def sentence(self, unknown: Sequence[UnknownWord]) -> str:
        """What a terminal says of words that are not known."""
        one = len(unknown) == 1
        near = [f"{each.word!r}: {' or '.join(each.nearest)}" for each in unknown if each.nearest]
        spelled = f" (spelled alike: {'; '.join(near[:5])})" if near else ""
        return (
            f"the model in the box was never taught {listed(each.word for each in unknown)}, so "
            f"what it paints for {'it' if one else 'them'}, and where the "
            f"{'map lies, says' if one else 'maps lie, say'} nothing{spelled}; the "
            f"{len(self.words)} words that it knows are listed in {self.file}"
        )

    def _nearest(self, word: str) -> tuple[str, ...]:
        if len(word) > 100:  # whose comparison would take minutes
            return ()
        return tuple(difflib.get_close_matches(word, sorted(self.words), n=3, cutoff=_LIKE))


def vocabulary_of(pipe: Any) -> Vocabulary | None:
    """The words that a pipeline's model was trained with; None where that is not known, which is
    so for every model but the one in the box."""
    return vocabulary_of_model(getattr(getattr(pipe, "config", None), "_name_or_path", None))


def vocabulary_of_model(name: str | Path | None) -> Vocabulary | None:
    """The same by the folder that a model came from, as a trace's settings have it."""
    try:
        in_the_box = name is not None and Path(name).resolve() == VOCABULARY.parent.resolve()
    except (OSError, ValueError):  # a name that no file can have
        return None
    return _of_the_world() if in_the_box else None


def never_taught(unknown: Sequence[UnknownWord]) -> str:
    """What pictures and pages say of words that the model in the box was never taught."""
    told = (
        f"{each.word} (spelled alike: {' or '.join(each.nearest)})" if each.nearest else each.word
        for each in unknown
    )
    return (
        f"Never taught to this model, which paints something else in their place: "
        f"{', '.join(told)}. The words that it knows are listed in {LISTED}."
    )


def as_json(unknown: Sequence[UnknownWord] | None) -> list[dict[str, Any]] | None:
    """Words that are not known as JSON has them; None where that cannot be said."""
    if unknown is None:
        return None
    return [{"word": each.word, "nearest": list(each.nearest)} for each in unknown]


@cache
def _of_the_world() -> Vocabulary:
    by_meaning: Mapping[str, list[str]] = json.loads(VOCABULARY.read_text("utf-8"))["words"]
    return Vocabulary(
        frozenset(word for words in by_meaning.values() for word in words), VOCABULARY
    )


def _words(text: str) -> list[str]:
    """Words, and symbols such as emoji, in the order in which they stand."""
    spans = word_spans(text) + [(at, at + 1) for at in symbol_places(text)]
    return [text[start:stop] for start, stop in sorted(spans)]
