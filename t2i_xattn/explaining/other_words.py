"""What may stand in a word's place: another of its kind, or nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files

from t2i_xattn.conditioning.syntax import weighed_alike
from t2i_xattn.prompts.without_words import emptied

Tokens = Callable[[str], object]
"""How many tokens a word has, in each tokenizer: equal for words of as many. None: one of them does
not know the word."""


@cache
def kinds() -> Mapping[str, tuple[tuple[str, ...], ...]]:
    """By kind, words of common prompts; those of a group say the same, or nearly.

    A list of English words (`kinds.json`), and no dictionary.
    """
    raw = json.loads(files(__package__).joinpath("kinds.json").read_text("utf-8"))
    return {kind: tuple(map(tuple, groups)) for kind, groups in raw.items()}


def kind_of(word: str) -> str | None:
    """The kind of a word, such as `"colour"`; None if it is not known."""
    found = _place(word)
    return None if found is None else found[0]


def other_of_its_kind(word: str, prompt: str, tokens: Tokens) -> str | None:
    """Another word of the same kind that says something else, and that the prompt does not have.

    The groups behind the word's own are gone through in their order, for their most usual words
    first, and words of as many tokens come before others, so that the rest keeps its columns.

    Args:
        word: of the prompt.
        prompt: as typed.
        tokens: counts a word's tokens.

    Returns:
        The word, with a plural s and a capital where the given one has them; None if the kind is
        not known, or no other word of it is to the tokenizers.
    """
    found = _place(word)
    if found is None:
        return None
    kind, number, plural = found
    groups = kinds()[kind]
    said = set(re.findall(r"[\w'-]+", prompt.casefold()))
    others = [
        candidate
        for group in (*groups[number + 1 :], *groups[:number])
        for candidate in group
        if not said & {candidate, _plural(candidate)}
    ]
    # A group begins with its most usual word, which most models know.
    usual = {group[0] for group in groups}
    others.sort(key=lambda each: each not in usual)
    if plural:
        others = [_plural(each) for each in others]
    others = [each for each in others if tokens(each) is not None]
    if not others:
        return None
    wanted = tokens(word)
    chosen = next((each for each in others if tokens(each) == wanted), others[0])
    return chosen.capitalize() if word[:1].isupper() else chosen


def with_another(
    prompt: str, places: Sequence[tuple[int, int]], other: str | None, read: bool = False
) -> str:
    """The prompt with another word in these places, or without them.

    Args:
        prompt: as typed.
        places: start and stop of words or phrases of it, in characters.
        other: what to put there; None: nothing.
        read: whether the prompt has syntax that is read, see `emptied`.
    """
    if read and not other:
        text = emptied(prompt, places)
        text = re.sub(r"(^|,)\s*\(\)\s*(?=,)", r"\1", text)  # between two commas
        return re.sub(r"(^|,)\s*,", r"\1", text).strip(" ,")
    text = prompt
    for start, stop in sorted(places, reverse=True):
        new = weighed_alike(text, stop, other) if read and other else other or ""
        text = text[:start] + new + text[stop:]
    if other:
        return text
    text = re.sub(r"\s+([,.;:!?])", r"\1", re.sub(r"\s+", " ", text))
    return re.sub(r"(^|,)\s*,", r"\1", text).strip(" ,")


def _place(word: str) -> tuple[str, int, bool] | None:
    """The kind and group of a word, and whether it is a plural."""
    said = word.casefold()
    for kind, groups in kinds().items():
        for number, group in enumerate(groups):
            if said in group:
                return kind, number, False
    for kind, groups in kinds().items():
        for number, group in enumerate(groups):
            if said in map(_plural, group):
                return kind, number, True
    return None


def _plural(word: str) -> str:
    if word.endswith("man"):
        return word[:-2] + "en"
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + "s"
