from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import make_tokenizer
from t2i_xattn.errors import UserError, WordNotFoundError
from t2i_xattn.prompts.words import cut_words, find_phrase, phrase_spans, split_words

TOKENIZER = make_tokenizer()


def tokens_at(prompt: str, columns: tuple[int, ...]) -> str:
    """The text that the tokens in these columns stand for, lower case, without spaces."""
    ids = TOKENIZER(prompt).input_ids
    return TOKENIZER.decode([ids[column] for column in columns]).replace(" ", "")


def test_columns_of_one_and_of_several_tokens() -> None:
    words = split_words(TOKENIZER, "a red cat")
    assert [(word.text, word.columns) for word in words] == [
        ("a", (1,)),
        ("red", (2,)),
        ("cat", (3, 4, 5)),
    ]


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("A RED Circle!", ["A", "RED", "Circle"]),
        ("red,blue (left)", ["red", "blue", "left"]),
        ("a t-shirt, don't", ["a", "t-shirt", "don't"]),
        ("the painter's -- 'red'", ["the", "painter's", "red"]),
        ("it\u2019s 4k 16:9", ["it\u2019s", "4k", "16", "9"]),
        ("caf\u00e9 cafe\u0301 \u0939\u093f\u0928\u094d\u0926\u0940 \u65e5\u672c",
         ["caf\u00e9", "cafe\u0301", "\u0939\u093f\u0928\u094d\u0926\u0940", "\u65e5\u672c"]),
        ("\u0130stanbul  \n red", ["\u0130stanbul", "red"]),
        ("... , !", []),
        ("", []),
    ],
)  # fmt: skip
def test_what_a_word_is(prompt: str, texts: list[str]) -> None:
    words = split_words(TOKENIZER, prompt)
    assert [word.text for word in words] == texts
    assert all(prompt[word.start : word.stop] == word.text for word in words)
    assert all(word.columns for word in words)


@pytest.mark.parametrize("prompt", ["A RED, circle.", "don't (Stop) red-blue", "16:9 4k"])
def test_tokens_of_a_word_spell_it(prompt: str) -> None:
    for word in split_words(TOKENIZER, prompt):
        assert tokens_at(prompt, word.columns) == word.text.lower()


@settings(deadline=None, max_examples=150)
@given(st.text(st.sampled_from("aredcirlRED ,.-'!1\u00e9\u0130\u65e5\u0301\n"), max_size=40))
def test_spans_of_any_text(prompt: str) -> None:
    words = split_words(TOKENIZER, prompt)
    ids = TOKENIZER(prompt).input_ids
    columns = [column for word in words for column in word.columns]
    # Inside the sequence, between its start and end token; ascending, so each in one word only.
    assert all(0 < column < len(ids) - 1 for column in columns)
    assert columns == sorted(set(columns))
    assert all(word.columns and prompt[word.start : word.stop] == word.text for word in words)
    # No letter or digit is left over.
    rest = list(prompt)
    for word in words:
        rest[word.start : word.stop] = " " * len(word.text)
    assert not re.search(r"[^\W_]", "".join(rest))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["red", "circle", "cat", "a", "t-shirt"]), min_size=1, max_size=12))
def test_every_word_is_found_again(texts: list[str]) -> None:
    words = split_words(TOKENIZER, ", ".join(texts))
    for text in texts:
        same = [word.columns for word in words if word.text == text]
        assert find_phrase(words, text.upper()) == tuple(c for columns in same for c in columns)
        for occurrence, columns in enumerate(same):
            assert find_phrase(words, text, occurrence) == columns


@pytest.mark.parametrize("mark", ["'", "\u2019"])
def test_a_possessive_is_passed_over_where_the_phrase_does_not_stand_as_it_is(mark: str) -> None:
    words = split_words(TOKENIZER, f"New York{mark}s red, York{mark}S cat")
    york = [word.columns for word in words if word.text.casefold().startswith("york")]
    assert find_phrase(words, "New York") == words[0].columns + york[0]
    assert find_phrase(words, "york") == york[0] + york[1]
    for other in ("'", "\u2019"):
        assert find_phrase(words, f"York{other}s", 0) == york[0]
    with pytest.raises(WordNotFoundError):
        find_phrase(words, "yor")
    words = split_words(TOKENIZER, f"a cat{mark}s cat")
    assert find_phrase(words, "cat") == words[2].columns
    assert find_phrase(words, f"cat{mark}s cat") == words[1].columns + words[2].columns


def test_a_phrase_s_characters() -> None:
    assert phrase_spans("a cat's cat", "Cat") == [(8, 11)]
    assert phrase_spans("a cat's hat", "cat") == [(2, 5)]
    assert phrase_spans("a cat\u2019s hat", "cat's") == [(2, 7)]
    assert phrase_spans("a cat's hat", "cat hat") == [(2, 11)]
    assert phrase_spans("a cat", "!") == phrase_spans("", "cat") == []


@pytest.mark.slow
def test_what_came_is_quoted_in_short() -> None:
    words = split_words(TOKENIZER, " ".join(f"word{n}" for n in range(300)))
    for phrase in ("x" * 10**6, "x " * 1000, "word1 word3"):
        with pytest.raises(WordNotFoundError) as told:
            find_phrase(words, phrase)
        assert len(str(told.value)) < 500


def test_a_phrase() -> None:
    words = split_words(TOKENIZER, "a red cat, a blue cat")
    assert find_phrase(words, "Red  Cat!") == (2, 3, 4, 5)
    assert find_phrase(words, "cat") == (3, 4, 5, 9, 10, 11)
    assert find_phrase(words, "cat", 1) == (9, 10, 11)
    # Passed over: the comma between the words.
    assert find_phrase(words, "cat a blue") == (3, 4, 5, 7, 8)


@pytest.mark.parametrize(
    ("phrase", "occurrence", "message"),
    [
        ("crcle", None, r"'crcle' is not in the prompt \(did you mean 'circle'\?\).*'a', 'Red'"),
        ("blue circle", None, r"'blue' is not in the prompt; its words are"),
        ("circle red", None, r"do not stand next to each other"),
        ("circle", 1, r"stands once in the prompt, so occurrence must be 0, but came 1"),
        ("circle", -1, r"but came -1"),
    ],
)
def test_not_found(phrase: str, occurrence: int | None, message: str) -> None:
    words = split_words(TOKENIZER, "a Red circle")
    with pytest.raises(WordNotFoundError, match=message):
        find_phrase(words, phrase, occurrence)


@pytest.mark.parametrize("phrase", ["", " ", "?!"])
def test_a_phrase_without_a_word(phrase: str) -> None:
    with pytest.raises(UserError, match="has no letter or digit"):
        find_phrase(split_words(TOKENIZER, "a red circle"), phrase)


def test_nothing_to_find_in() -> None:
    with pytest.raises(WordNotFoundError, match="has no words"):
        find_phrase((), "red")


def test_the_window() -> None:
    # Columns 1 to 75 are inside: 74 times "a", and then a word of three tokens and one of one.
    words = split_words(TOKENIZER, "a " * 74 + "cat red")
    assert words[73].columns == (74,)
    assert [word.text for word in cut_words(words)] == ["cat", "red"]
    with pytest.raises(UserError, match="cut off 'cat', 'red'; move it"):
        find_phrase(words, "cat red")
    # One token less, and the last word that fits has the last column before the end token.
    words = split_words(TOKENIZER, "a " * 72 + "cat red")
    assert words[72].columns == (73, 74, 75)
    assert [word.text for word in cut_words(words)] == ["red"]


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match=r"fast tokenizer, .* but came Slow"):
        split_words(Slow(), "red")
