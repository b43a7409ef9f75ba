"""The syntax of prompts: what it means, and what is said of what cannot be."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_xattn.conditioning.syntax import parse, phrase_places
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.without_words import emptied
from t2i_xattn.prompts.words import word_spans


def pieces(prompt: str, way: Any = "compel", start: float = 0) -> list[list[tuple[str, float]]]:
    """Text and weight of the pieces of each stretch, over all texts."""
    parsed = parse(prompt, way)
    (phase,) = (each for each in parsed.phases if each.start == start)
    return [
        [(piece.text, round(piece.weight, 4)) for piece in stretch]
        for part in phase.parts
        for stretch in part.stretches
    ]


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a (red:1.4) cat", [("a ", 1), ("red", 1.4), (" cat", 1)]),
        ("a (red car)1.3, x", [("a ", 1), ("red car", 1.3), (", x", 1)]),
        ("a red++ t-shirt--", [("a ", 1), ("red", 1.21), (" ", 1), ("t-shirt", 0.81)]),
        ("(a (red:1.5) cat:2)", [("a ", 2), ("red", 3), (" cat", 2)]),
        ('"red car"++ "x"', [("red car", 1.21), (' "x"', 1)]),
        ("un(believ:1.3)able", [("un", 1), ("believ", 1.3), ("able", 1)]),
        (r"\(red:1.4\) \[x\] C\+\+ \"q\"", [('(red:1.4) [x] C++ "q"', 1)]),
        (r"C:\dir a\\b", [(r"C:\dir a\b", 1)]),
        ("(at 12:30pm) a--b [x] 1girl", [("at 12:30pm a--b [x] 1girl", 1)]),
        ("(a cat)", [("a cat", 1)]),
        ("猫++ 🐱--", [("猫", 1.21), (" ", 1), ("🐱", 0.81)]),
    ],
)
def test_weights_and_escapes(prompt: str, found: list[tuple[str, float]]) -> None:
    assert pieces(prompt) == [found]


def test_bare_brackets_are_weights_for_lpw() -> None:
    assert pieces("a ((red)) [cat]", "lpw") == [
        [("a ", 1), ("red", 1.21), (" ", 1), ("cat", round(1 / 1.1, 4))]
    ]


def test_places_are_those_of_the_prompt_as_typed() -> None:
    prompt = r"a (red:1.4) \(cat\) [x:dog:0.5]++ un(b:2)"
    for phase in parse(prompt).phases:
        for piece in phase.parts[0].stretches[0]:
            for letter, place in zip(piece.text, piece.places, strict=True):
                assert prompt[place] == letter


def test_schedules() -> None:
    prompt = "a [(red:1.2) cat:dog:0.4] on [snow:0.6] [x::0.4]"
    assert [each.start for each in parse(prompt).phases] == [0, 0.4, 0.6]
    assert pieces(prompt)[0] == [("a ", 1), ("red", 1.2), (" cat on  x", 1)]
    assert pieces(prompt, start=0.4) == [[("a dog on  ", 1)]]
    assert pieces(prompt, start=0.6) == [[("a dog on snow ", 1)]]
    assert [each.start for each in parse("[a:b:3]").phases] == [0, 3]


def test_parts_and_chunks() -> None:
    assert pieces("a cat BREAK a dog") == [[("a cat ", 1)], [(" a dog", 1)]]
    parsed = parse("a cat AND a (dog:1.5):0.5 AND x")
    assert [part.weight for part in parsed.phases[0].parts] == [1, 0.5, 1]
    parsed = parse('("a red++ cat", "a dog").blend(0.3, 0.7)')
    assert (parsed.kind, parsed.normalised) == ("blend", True)
    assert [part.weight for part in parsed.phases[0].parts] == [0.3, 0.7]
    assert not parse('("a", "b").blend(1, -0.5, no_normalize)').normalised
    assert parse(r"BLACK \AND WHITE").phases[0].parts[0].stretches[0][0].text == "BLACK AND WHITE"
    assert len(parse("BRAND BREAKFAST and break").phases[0].parts[0].stretches) == 1


@pytest.mark.parametrize("prompt", ["a red cat", "", "[x]", 'say "hello", 12:30', "a - b", "x < 3"])
def test_what_is_plain(prompt: str) -> None:
    assert parse(prompt).is_plain


@pytest.mark.parametrize(
    ("prompt", "place", "expected"),
    [
        ("a (red", 3, "a ')' for this bracket"),
        ("a [red", 3, "a ']' for this bracket"),
        ("a red)", 6, "a bracket before this ')'"),
        ("((a:1.2) b", 1, "a ')'"),
        ("a (red:inf)", 8, "a finite number, not 'inf'"),
        ("a (red:nan)", 8, "a finite number"),
        ("a (red:1e999)", 8, "a finite number"),
        ("a (red:1,4)", 8, "a finite number, not '1,4'"),
        ("a (red:)", 8, "a finite number"),
        ("[a:b:]", 6, "a finite number"),
        ("[a:b:1.5]", 6, "at a whole step from 1 on or at a fraction"),
        ("[a:b:0]", 6, "at a whole step"),
        ("().blend()", 2, "at least one text in quotes"),
        ('("a").blend(0)', 5, "a sum other than 0"),
        ('("a", "b").blend(1)', 10, "2 weights, one a text, not 1"),
        ('("a", "b").blend(1, x)', 18, "a finite number"),
        ('x ("a", "b").blend(1, 1)', 12, ".blend behind the whole prompt"),
        ('("a" "b").and()', 6, "a comma between the texts"),
        ("a AND", 5, "a text beside AND"),
        ("AND b", 1, "a text beside AND"),
        ("(a BREAK b)", 4, "BREAK outside of brackets"),
        ("cat.swap(dog)", 4, "not .swap("),
        ("a withLora(x, 1)", 3, "not withLora("),
        ("(a:::)", 6, "a finite number, but came none"),
        ("(" * 600 + "a" + ")" * 600, 101, "at most 100 brackets inside each other"),
        ("(a:" * 600 + ")" * 600, 301, "at most 100 brackets inside each other"),
        ("[" * 600 + "a" + "]" * 600, 101, "at most 100 brackets inside each other"),
        ("red" + "+" * 8000 + " house", 4, "at most 100 signs behind a word, not 8000"),
        ("a \ud800 b", 3, "characters of Unicode"),
    ],
)
def test_what_cannot_be_is_told_with_its_place(prompt: str, place: int, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(prompt)
    told = str(caught.value)
    assert expected in told
    assert f"at character {place} of the prompt" in told


def test_as_many_brackets_and_signs_as_can_be() -> None:
    nested = "(" * 99 + "[a:b:0.5]" + ")" * 99
    assert pieces(f"{nested} {nested}") == [[("a a", 1.0)]]
    ((found, weight),) = pieces("red" + "+" * 100)[0]
    assert found == "red"
    assert weight == pytest.approx(1.1**100)


def test_steps_are_written_one_way() -> None:
    with pytest.raises(UserError, match="whole steps or all as fractions"):
        parse("[a:b:3] [c:d:0.5]")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from('ab ()[]:.,+-"\\19<>ANDBREK.blend'), max_size=40))
def test_whatever_is_typed_is_read_or_refused(prompt: str) -> None:
    try:
        parsed = parse(prompt)
    except UserError:
        return
    for phase in parsed.phases:
        for part in phase.parts:
            for stretch in part.stretches:
                for piece in stretch:
                    assert piece.text == "".join(prompt[place] for place in piece.places)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_whatever_is_escaped_is_letters(text: str) -> None:
    escaped = "".join(f"\\{each}" if each in '\\()[]"+-:<' else each for each in text)
    escaped = re.sub(r"(?<!\S)(AND|BREAK)(?!\S)", r"\\\1", escaped)
    parsed = parse(escaped)
    assert len(parsed.phases) == 1
    (part,) = parsed.phases[0].parts
    read = "".join(piece.text for stretch in part.stretches for piece in stretch)
    assert read == text or not text.strip()


def said(prompt: str, without: tuple[int, int] = (0, 0)) -> list[list[tuple[str, float | None]]]:
    """What each part of each phase says, character by character, letters with their weights, blanks
    left out; but for those typed from a place to another."""
    gone = range(*without)
    return [
        [
            (letter, piece.weight * part.weight if letter.isalnum() else None)
            for stretch in part.stretches
            for piece in stretch
            for letter, place in zip(piece.text, piece.places, strict=True)
            if place not in gone and letter.strip()
        ]
        for phase in parse(prompt).phases
        for part in phase.parts
    ]


WRITTEN = [
    *("++ ", " AND ", " BREAK ", "(red:1.2)", "red", "a cat", " 3.5 "),
    *("[red:blue:0.5]", "cat++ ", "(a cat)--", " ", " \\AND "),
]


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from([*'()[]",/ \\', *WRITTEN]),
        max_size=8,
    ).map("".join)
)
def test_words_are_taken_out_and_the_syntax_stays(prompt: str) -> None:
    """Whatever is read: the letters of one word are gone, and nothing else is."""
    try:
        parsed = parse(prompt)
    except UserError:
        return
    for phase in parsed.phases:
        for stretch in (stretch for part in phase.parts for stretch in part.stretches):
            text = "".join(piece.text for piece in stretch)
            places = [place for piece in stretch for place in piece.places]
            for first, last in word_spans(text):
                own = places[first:last]
                if own != [*range(own[0], own[-1] + 1)]:
                    continue  # syntax stands inside the word
                place = (own[0], own[-1] + 1)
                assert said(emptied(prompt, [place])) == said(prompt, place)


@pytest.mark.parametrize(
    ("prompt", "phrase", "found"),
    [
        ("2 boats and a (red:1.2) house", "2", [["2"]]),
        ("a red (house:1.5) AND 5 trees", "5", [["5"]]),
        ("a (red, big:1.2) circle", "red big", [["red, big"]]),
        ("a (red:1.2) circle", "Red circle", [["red", "circle"]]),
        ("a (red) circle", "red circle", [["red", "circle"]]),
        ("red++ circle red", "red", [["red"], ["red"]]),
        ("a cat's (hat)", "cat", [["cat"]]),
        (r"a \(real\) cat", "real cat", [[r"real\) cat"]]),
        ('("a red and blue", "and").and(1, 1)', "and", [["and"], ["and"]]),
        ("a [red:blue:0.5] red", "red", [["red"], ["red"]]),
        ("(red:1.2 circle", "2", [["2"]]),  # cannot be read: letters
    ],
)
def test_phrases_are_found_in_what_is_said(
    prompt: str, phrase: str, found: list[list[str]]
) -> None:
    places = phrase_places(prompt, phrase)
    assert [[prompt[start:stop] for start, stop in each] for each in places] == found
