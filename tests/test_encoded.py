"""Words of texts as they were really encoded, whatever a pipeline made of what was typed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import make_tokenizer
from t2i_xattn.prompts.encoded import spelled, without_padding, words_of_ids
from t2i_xattn.prompts.words import Word, split_words

TOKENIZER = make_tokenizer()
START, END = TOKENIZER.bos_token_id, TOKENIZER.eos_token_id

TEXTS = st.text(st.sampled_from("aredcirlRED ,.-'!1éİ日́\n🔴ß"), max_size=30)


def encoded(text: str, length: int = 77) -> list[int]:
    """As a text encoder is given it."""
    padded = TOKENIZER(text, padding="max_length", truncation=True, max_length=length)
    return list(padded["input_ids"])


def inside(text: str) -> list[int]:
    """The tokens of a text, without start and end token."""
    return list(TOKENIZER(text)["input_ids"])[1:-1]


def told(words: tuple[Word, ...]) -> list[tuple[str, tuple[int, ...]]]:
    return [(word.text, word.columns) for word in words]


class Slow:
    """A tokenizer that does not know from where in the text its tokens came."""

    is_fast = False

    def __getattr__(self, name: str) -> Any:
        return getattr(TOKENIZER, name)

    def __call__(self, text: str, **options: Any) -> Any:
        assert "return_offsets_mapping" not in options
        return TOKENIZER(text, **options)


class TestAsTyped:
    @settings(deadline=None, max_examples=150)
    @given(TEXTS)
    def test_what_is_typed_and_encoded_has_its_words(self, prompt: str) -> None:
        assert words_of_ids(TOKENIZER, prompt, encoded(prompt)) == split_words(TOKENIZER, prompt)

    def test_what_the_window_cuts_has_no_columns(self) -> None:
        prompt = "a " * 74 + "cat red"
        words = words_of_ids(TOKENIZER, prompt, encoded(prompt))
        assert words == split_words(TOKENIZER, prompt)
        assert [word.columns for word in words[-3:]] == [(74,), (), ()]

    def test_another_window_is_seen(self) -> None:
        """That of the columns, whatever the tokenizer's own is."""
        prompt = "red blue a left of red"
        words = words_of_ids(TOKENIZER, prompt, encoded(prompt, 6))
        assert told(words) == [
            ("red", (1,)),
            ("blue", (2,)),
            ("a", (3,)),
            ("left", (4,)),
            ("of", ()),
            ("red", ()),
        ]
        long = "a " * 100 + "red"
        assert words_of_ids(TOKENIZER, long, encoded(long, 128))[-1].columns == (101,)


class TestAsEncoded:
    @settings(deadline=None, max_examples=300)
    @given(st.text(st.sampled_from("aredcirlRED ,.!é日赤\n🔴ß"), max_size=30))
    def test_words_of_tokens_alone_have_the_same_columns(self, prompt: str) -> None:
        """Spelled as the tokenizer does, which writes small letters, and parts words at digits,
        hyphens, apostrophes and marks. A letter may have several tokens, and a symbol is none."""
        known = {word.columns for word in split_words(TOKENIZER, prompt)}
        found = words_of_ids(TOKENIZER, None, encoded(prompt))
        assert {word.columns for word in found} == known
        slow = words_of_ids(Slow(), prompt, encoded(prompt))
        assert {word.columns for word in slow} == known

    @pytest.mark.parametrize("tokenizer", [TOKENIZER, Slow()])
    def test_weights_are_read_by_the_pipeline(self, tokenizer: Any) -> None:
        """They are in what was typed, and not in what was encoded."""
        prompt = "A (Red:1.5) circle, [blue] ((cat)) left"
        words = words_of_ids(tokenizer, prompt, encoded("a red circle, blue cat left"))
        assert told(words) == [
            ("A", (1,)),
            ("Red", (2,)),
            ("circle", (3,)),
            ("blue", (5,)),
            ("cat", (6, 7, 8)),
            ("left", (9,)),
        ]
        assert all(prompt[word.start : word.stop] == word.text for word in words)

    def test_what_a_template_adds_has_words_too(self) -> None:
        prompt = "Red circle"
        words = words_of_ids(TOKENIZER, prompt, encoded("left of a red circle, blue"))
        assert told(words) == [
            ("left", (1,)),
            ("of", (2,)),
            ("a", (3,)),
            ("Red", (4,)),
            ("circle", (5,)),
            ("blue", (7,)),
        ]
        assert [(word.start, word.stop) for word in words] == [
            (0, 0), (0, 0), (0, 0), (0, 3), (4, 10), (0, 0),
        ]  # fmt: skip

    def test_a_word_that_stands_several_times(self) -> None:
        prompt = "(red:2) blue red"
        words = words_of_ids(TOKENIZER, prompt, encoded("red blue red"))
        assert [(word.text, word.start, word.columns) for word in words] == [
            ("red", 1, (1,)),
            ("blue", 8, (2,)),
            ("red", 13, (3,)),
        ]

    @pytest.mark.parametrize("between", [[END, START], []])
    def test_chunks_of_a_long_prompt(self, between: list[int]) -> None:
        """With the start and end tokens of each, or without those in the middle."""
        first, second = "a " * 74, "red circle, blue cat"
        ids = [START, *inside(first + "left"), *between, *inside(second), END]
        ids += [END] * (154 - len(ids))
        at = 76 + len(between)  # 74 × "a", "left"
        words = words_of_ids(TOKENIZER, f"{first}left {second}", ids)
        assert told(words)[73:] == [
            ("a", (74,)),
            ("left", (75,)),
            ("red", (at,)),
            ("circle", (at + 1,)),
            ("blue", (at + 3,)),
            ("cat", (at + 4, at + 5, at + 6)),
        ]

    def test_nothing(self) -> None:
        assert words_of_ids(TOKENIZER, None, encoded("")) == ()
        assert words_of_ids(TOKENIZER, "", encoded("")) == ()
        assert words_of_ids(TOKENIZER, "red", encoded("")) == ()


class TestTokens:
    @pytest.mark.parametrize("text", ["", "a red cat!", "a " * 80])
    def test_without_what_fills_the_window(self, text: str) -> None:
        expected = list(TOKENIZER(text, truncation=True, max_length=77)["input_ids"])
        assert list(without_padding(TOKENIZER, encoded(text))) == expected

    def test_of_another_padding_than_the_end_token(self) -> None:
        other = make_tokenizer()
        other.pad_token = "!"
        for text in ("", "red", "red !"):
            expected = list(other(text)["input_ids"])
            padded = other(text, padding="max_length", max_length=77)["input_ids"]
            assert list(without_padding(other, padded)) == expected

    def test_are_spelled_one_by_one(self) -> None:
        ids = without_padding(TOKENIZER, encoded("A red cat, blue"))
        assert spelled(TOKENIZER, ids) == (
            "<|startoftext|>", "a", "red", "c", "a", "t", ",", "blue", "<|endoftext|>",
        )  # fmt: skip


def test_the_pipeline_s_tokenizer_is_left_as_it_is() -> None:
    """Its padding and truncation are a state that each call sets."""
    tokenizer = make_tokenizer()
    prompt = "red " * 100
    ids = tokenizer(prompt, padding="max_length", truncation=True, max_length=77)["input_ids"]

    def state() -> Any:
        return tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding

    before = state()
    assert before[0]["max_length"] == before[1]["length"] == 77
    words_of_ids(tokenizer, prompt, ids)
    split_words(tokenizer, prompt)
    assert state() == before


def test_tokens_that_are_added_are_known_from_then_on() -> None:
    tokenizer = make_tokenizer()
    assert len(split_words(tokenizer, "a toy")[1].columns) > 1
    tokenizer.add_tokens(["toy"])
    assert split_words(tokenizer, "a toy")[1].columns == (2,)
