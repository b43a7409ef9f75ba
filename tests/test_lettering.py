"""Letters of any script are drawn, or framed with their number: none is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from t2i_xattn.showing.lettering import Lettering, _font, _has, _in_frame, _shaped

LETTERS = Lettering(16)
INK = (0, 0, 0)


def drawn(text: str, width: int = 600) -> NDArray[np.uint8]:
    picture = Image.new("RGB", (width, 40), "white")
    LETTERS.write(ImageDraw.Draw(picture), (4, 4), [text], INK)
    return np.asarray(picture.convert("L"))


@pytest.mark.parametrize(
    "text",
    ["café Straße zażółć – “x” …", "красный круг", "κύκλος", "עיגול אדום", "دائرة حمراء", "×→≤"],
)
def test_these_scripts_have_letters(text: str) -> None:
    assert all(_has(each) for each in _shaped(text, text) if each != " ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("🚀", ["rocket"]),
        ("赤い", ["8D64", "3044"]),
        ("👩\u200d🚀", ["woman", "rocket"]),
        ("🇫🇮", ["letter f", "letter i"]),
        ("🛒\ufe0f", ["shopping trolley"]),
        ("🤯", ["shocked face with…"]),
    ],
)
def test_what_has_no_letter_is_framed_with_its_name_or_number(text: str, told: list[str]) -> None:
    pieces = [(each, known) for each, known in LETTERS._pieces(_shaped(text, text)) if not known]
    assert [_in_frame(character) for character, _ in pieces] == told
    framed = Image.new("RGB", (600, 40), "white")
    draw, x = ImageDraw.Draw(framed), 4.0
    for character, _ in pieces:
        LETTERS._frame(draw, (x, 4), character, INK)
        x += LETTERS._width(character, False)
    assert (drawn(text) == np.asarray(framed.convert("L"))).all()
    missing = _font(16).getmask("\uffff")
    assert LETTERS.width(text) != missing.size[0] * len(text)


def test_the_widest_frame_fits_a_label() -> None:
    emoji = [chr(n) for n in range(0x1F000, 0x1FB00) if not _has(chr(n))]
    assert max(LETTERS.width(each) for each in emoji) <= 132  # see grid()
    assert max(len(_in_frame(each)) for each in emoji) == 18


def test_text_from_right_to_left_is_turned_joined_and_mirrored() -> None:
    assert _shaped("אבג", "אבג") == "גבא"
    assert _shaped("אב (גד)", "אב (גד)") == "(דג) בא"
    # Beginning, middle and end of a word have forms of their own.
    assert _shaped("حمراء", "حمراء") == "\ufe80\ufe8d\ufeae\ufee4\ufea3"
    # The first letter of the text says which way its lines run.
    assert _shaped("red אב", "red אב") == "red בא"
    assert _shaped("red אב", "גד red אב") == "בא red"


def test_what_is_not_seen_takes_no_place() -> None:
    joined = "a\u200db\ufe0f\u202e"
    assert LETTERS.width(joined) == LETTERS.width("ab")
    assert LETTERS.width("e\u0301") == LETTERS.width("é")


def test_wrapping() -> None:
    text = "a red circle left of a blue square " + "x" * 60
    lines = LETTERS.wrapped(text, 120)
    assert len(lines) > 3
    assert all(LETTERS.width(line) <= 120 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert LETTERS.wrapped("", 120) == []


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=30))
@example("\u0ee0\U000108fb")  # a letter that there is not yet beside one from right to left
@example("\u2067א\u2069 (b)")
def test_any_text_is_written_inside_its_width(text: str) -> None:
    """Whatever was typed: nothing fails, nothing sticks out, and what is seen leaves ink."""
    line = " ".join(text.split())
    width = LETTERS.width(line)
    pixels = drawn(line, round(width) + 40)
    assert (pixels[:, round(width) + 24 :] == 255).all()
    seen = [each for each in _shaped(line, line) if not _has(each)]
    if seen:
        assert (pixels < 255).any()
