"""Words and their columns with CLIP's own vocabulary, over prompts that are made up."""

from __future__ import annotations

import re
import unicodedata
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2i_xattn.conditioning.encoders import Encoder, Scheme
from t2i_xattn.conditioning.row import Row
from t2i_xattn.prompts.words import word_spans
from test_true_vocabulary import true_clip
from tiny.tokenizers import make_t5

WORDS = st.one_of(
    st.sampled_from(
        [
            *("1girl", "amane_kanata", "t-shirt", "don't", "R2-D2", "Fjällräven", "crème", "35mm"),
            *("красный", "круг", "赤い丸", "青い四角", "猫", "हिन्दी", "ﷺ", "ß", "İstanbul", "ﬁne"),
            *("antidisestablishmentarianism", "a", "a", "red", "red", "cat,", "(real\\)", "wow!!!"),
            *("🐱‍👤", "👩‍🚀", "❤️", "…", "—", "#retro", "@night", "3.5", "x" * 40),
        ]
    ),
    st.text(
        st.characters(exclude_categories=("Cs", "Cc", "Co", "Cn")), min_size=1, max_size=8
    ).filter(str.strip),
)
"""Not blank, since beside AND is a text; `st.text` may draw any text of the modules loaded."""


@st.composite
def prompts(draw: Any) -> str:
    """1 to about 300 tokens: words, weights, nesting, brackets, chunks, schedules, conjunctions."""

    def some(depth: int, most: int) -> str:
        parts: list[str] = []
        for _ in range(draw(st.integers(1, most))):
            word = escaped(draw(WORDS))
            kind = draw(st.integers(0, 11))
            if kind == 0 and depth < 3:
                word = f"({some(depth + 1, 4)}:{draw(st.sampled_from([0, 0.5, 1.3, 2]))})"
            elif kind == 1 and depth < 3:
                word = f"({some(depth + 1, 3)}){draw(st.sampled_from(['', '++', '--', '1.4']))}"
            elif kind == 2 and word[-1:].isalnum():
                word += draw(st.sampled_from(["+", "++", "--"]))
            elif kind == 3 and depth == 0:
                word = f"[{word}:{escaped(draw(WORDS))}:0.5]"
            elif kind == 4 and depth == 0 and parts:
                word = "BREAK " + word
            parts.append(word)
        return " ".join(parts)

    whole = some(0, draw(st.sampled_from([1, 5, 20, 60])))
    if draw(st.booleans()):
        return whole
    joiner = draw(st.sampled_from([" AND ", " BREAK "]))
    return joiner.join([whole, some(0, 5)])


def escaped(word: str) -> str:
    letters = "".join(f"\\{each}" if each in '\\()[]"+-:<' else each for each in word)
    return re.sub(r"(?<!\S)(AND|BREAK)(?!\S)", r"\\\1", letters)


def folded(text: str) -> str:
    """As CLIP's tokenizer reads a text, without white space."""
    return re.sub(r"\s", "", unicodedata.normalize("NFC", text)).lower()


def encoder(name: str, tokenizer: Any, window: int, whole: bool = False) -> Encoder:
    module = SimpleNamespace(config=SimpleNamespace())
    return Encoder(name, tokenizer, module, window, "cpu", whole)


LETTERS_OF_T5 = re.compile("[a-z0-9'-]+")
"""What the tiny vocabulary can spell."""


def check_row(row: Row) -> None:
    """Every word's columns decode to that word, in each phase and by each encoder."""
    lengths = row.lengths
    for start in row.starts:
        for placed in row.at(start).in_sequence(lengths):
            known = {column: one for column, _, one, _ in placed.at()}
            stretches = [
                "".join(piece.text for piece in stretch) for stretch in placed.part.stretches
            ]
            expected = [t[a:b] for t in stretches for a, b in word_spans(t)]
            words = [word for word in placed.words() if not word.cut]
            if not placed.cut:
                assert [word.text for word in words] == expected
            for word in words:
                # A token may go beyond the word, as one of a sign and a letter.
                read = placed.tokenizer.decode(
                    [known[column] for column in word.columns], clean_up_tokenization_spaces=False
                )
                if placed.encoder != "text_encoder_3" or LETTERS_OF_T5.fullmatch(word.text):
                    assert folded(word.text) in folded(read), (row.prompt, word, read)
                assert list(word.columns) == sorted(set(word.columns))
                assert len(word.weights) == len(word.chunks) == len(word.columns)
        text = row.text(start, lengths)
        every = [word.columns for word in text.words]
        assert not any(set(columns) & {*text.special, *(text.padding or ())} for columns in every)


SETTINGS = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)


@settings(SETTINGS, max_examples=100)
@given(prompts())
def test_columns_decode_to_their_words(prompt: str) -> None:
    _check(prompt)


@pytest.mark.slow
@settings(SETTINGS, max_examples=1000)
@given(prompts())
def test_columns_decode_to_their_words_in_a_thousand_prompts(prompt: str) -> None:
    _check(prompt)


def _check(prompt: str) -> None:
    clip = true_clip()
    both = (encoder("text_encoder", clip, 77), encoder("text_encoder_2", clip, 77))
    for way in ("compel", "lpw"):
        check_row(Row(Scheme((both,)), prompt, "conditional", 0, way))
    t5 = encoder("text_encoder_3", make_t5(), 2048, whole=True)
    check_row(Row(Scheme((both, (t5,))), prompt, "conditional", 0, "compel"))
