"""Modifiers and their nouns, found in prompts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import make_tokenizer
from t2i_xattn.losses.noun_phrases import modifier_pairs
from t2i_xattn.prompts.words import split_words

TOKENIZER = make_tokenizer()
ENDLESS = make_tokenizer()
ENDLESS.model_max_length = 10_000


def pairs(prompt: str, tokenizer: Any = ENDLESS) -> list[tuple[str, str]]:
    found = modifier_pairs(prompt, split_words(tokenizer, prompt))
    return [(modifier.text, noun.text) for modifier, noun in found]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red circle left of a blue square", "red circle, blue square"),
        (
            "a shiny green apple and an old wooden table",
            "shiny apple, green apple, old table, wooden table",
        ),
        ("two small cats, a black dog on the sandy beach", "small cats, black dog, sandy beach"),
        ("A Red Circle", "Red Circle"),
        ("a red-haired girl wearing a very long coat", "red-haired girl, long coat"),
        ("3 white birds over the calm sea; a boat", "white birds, calm sea"),
        ("red circle.blue square", "red circle, blue square"),
        ("a red  circle\nof wood", "red circle"),
        ("a red circle and a red star", "red circle, red star"),
        # As the rule's limits say.
        ("a black and white cat", "white cat"),
        ("the car is red", ""),
        ("a red bird sings", "red sings, bird sings"),
        ("a circle", ""),
        ("", ""),
    ],
)
def test_cases(prompt: str, expected: str) -> None:
    assert pairs(prompt) == [tuple(each.split()) for each in expected.split(", ") if each]


ADJECTIVES = ["red", "old", "shiny", "blue", "sandy", "t-shirt-like", "weiß"]
NOUNS = ["circle", "cats", "table", "lighthouse", "Bär"]
JOINTS = [" and ", " on top of ", ", ", " with two ", " is wearing ", "; ", " left of "]
PHRASES = st.tuples(
    st.sampled_from(["a ", "the ", "", "his ", "seven ", "a very "]),
    st.lists(st.sampled_from(ADJECTIVES), max_size=3),
    st.sampled_from(NOUNS),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(PHRASES, st.sampled_from(JOINTS)), min_size=1, max_size=4))
def test_what_was_put_together_is_found(
    parts: list[tuple[tuple[str, list[str], str], str]],
) -> None:
    prompt = ""
    expected: list[tuple[str, str]] = []
    for (determiner, adjectives, noun), joint in parts:
        prompt += determiner + " ".join([*adjectives, noun]) + joint
        expected += [(adjective, noun) for adjective in adjectives]
    assert pairs(prompt) == expected


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text(prompt: str) -> None:
    words = split_words(TOKENIZER, prompt)
    places = {word: at for at, word in enumerate(words)}
    for modifier, noun in modifier_pairs(prompt, words):
        assert places[modifier] < places[noun]
        assert not prompt[modifier.stop : noun.start].count(",")
        assert modifier.columns
        assert noun.columns


def test_a_noun_beyond_the_window_has_no_pairs() -> None:
    """And a modifier that is cut off itself is left out."""
    assert pairs("a red circle, " + "of " * 71 + "blue circle", TOKENIZER) == [("red", "circle")]
