"""What may stand in a word's place."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_xattn.explaining.other_words import kind_of, kinds, other_of_its_kind, with_another
from t2i_xattn.prompts.words import word_spans


def alike(word: str) -> int:
    return 1


def test_no_word_is_of_two_kinds() -> None:
    words = [word for groups in kinds().values() for group in groups for word in group]
    assert len(words) == len(set(words))
    assert all(word == word.casefold() for word in words)
    assert all(len(groups) > 1 for groups in kinds().values())


@pytest.mark.parametrize("word", [w for gs in kinds().values() for g in gs for w in g])
def test_another_of_the_same_kind_that_says_something_else(word: str) -> None:
    other = other_of_its_kind(word, word, alike)
    assert other is not None
    assert kind_of(other) == kind_of(word)
    (own,) = (group for group in kinds()[str(kind_of(word))] if word in group)
    assert other not in own


@pytest.mark.parametrize(
    ("word", "prompt", "other"),
    [
        ("red", "a red circle", "blue"),
        ("red", "a red circle left of a blue square", "yellow"),
        ("Red", "Red circle", "Blue"),
        ("houses", "two houses", "castles"),
        ("daisies", "three daisies", "cactuses"),
        ("women", "two women", "boys"),
        ("sunset", "a city at sunset", "night"),
        ("zebra", "a zebra", None),
        ("the", "the moon", None),
        ("", "", None),
    ],
)
def test_by_example(word: str, prompt: str, other: str | None) -> None:
    assert other_of_its_kind(word, prompt, alike) == other


def test_words_of_as_many_tokens_come_first() -> None:
    assert other_of_its_kind("red", "red", {"red": 1, "green": 1}.get) == "green"
    assert other_of_its_kind("red", "red", {"red": 1}.get) is None


@pytest.mark.parametrize(
    ("phrase", "other", "text"),
    [
        ("red", "blue", "a blue circle, blue"),
        ("red", None, "a circle"),
        ("a", None, "red circle, red"),
        ("circle", None, "a red, red"),
    ],
)
def test_in_all_places(phrase: str, other: str | None, text: str) -> None:
    prompt = "a red circle, red"
    places = [match.span() for match in re.finditer(rf"\b{phrase}\b", prompt)]
    assert with_another(prompt, places, other) == text


@pytest.mark.parametrize(
    ("prompt", "word", "other", "text"),
    [
        ("a red++ house", "red", None, "a ()++ house"),
        ("a red++ house", "red", "sea blue", "a (sea blue)++ house"),
        ("a red (house:1.2)", "red", "sea blue", "a sea blue (house:1.2)"),
        ("a (red) house AND forest:0.5", "forest", None, "a (red) house AND ():0.5"),
        ("forest AND a house", "forest", None, "() AND a house"),
        ("a house BREAK, red, forest", "red", None, "a house BREAK, forest"),
        ("(a house)++, red", "red", None, "(a house)++, ()"),
    ],
)
def test_where_syntax_is_read(prompt: str, word: str, other: str | None, text: str) -> None:
    places = [match.span() for match in re.finditer(rf"\b{word}\b", prompt)]
    assert with_another(prompt, places, other, read=True) == text


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    prompt=st.text(max_size=40), other=st.one_of(st.none(), st.just("blue")), number=st.integers()
)
def test_other_words_stay(prompt: str, other: str | None, number: int) -> None:
    spans = word_spans(prompt)
    if not spans:
        return
    place = spans[number % len(spans)]
    rest = [prompt[a:b] for a, b in spans if (a, b) != place]
    made = with_another(prompt, [place], other)
    for word in rest:
        assert word in made
    if other:
        assert made == prompt[: place[0]] + other + prompt[place[1] :]
