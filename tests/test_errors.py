"""What error messages quote is on one line and short, whatever came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_xattn.errors import listed, nearest, shown, shown_path


class _Speechless:
    def __repr__(self) -> str:
        raise RuntimeError


@settings(max_examples=100, deadline=None, derandomize=True)
@given(value=st.one_of(st.text(), st.integers(), st.floats(), st.lists(st.text()), st.binary()))
def test_a_value_is_shown_on_one_line(value: Any) -> None:
    assert "\n" not in shown(value)
    assert len(shown(value)) <= 4 * 40 + 3
    if not isinstance(value, str) or len(value) <= 40:
        assert isinstance(value, list) or len(repr(value)) > 160 or shown(value) == repr(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a" * 40, repr("a" * 40)),
        ("a" * 41, repr("a" * 40) + "…"),
        ("a\nb", r"'a\nb'"),
        (None, "None"),
    ],
)
def test_what_is_long_or_odd_is_cut(value: Any, text: str) -> None:
    assert shown(value) == text


def test_a_long_path_keeps_the_name_of_its_file() -> None:
    assert shown_path(Path("a/b.txt")) == repr(str(Path("a/b.txt")))
    told = shown_path(Path("a" * 500, "the file.safetensors"))
    assert told.startswith("…'aaa")
    assert told.endswith("the file.safetensors'")
    assert len(told) == 120 + 3


def test_an_object_that_cannot_be_written_is_named() -> None:
    assert "_Speechless" in shown(_Speechless())


def test_a_number_too_long_for_python_to_write_is_named() -> None:
    assert shown(10**5000) == "an object of int"


def test_a_few_are_listed_and_the_others_counted() -> None:
    assert listed("abc") == "'a', 'b', 'c'"
    assert listed("abcdefg") == "'a', 'b', 'c', 'd', 'e', and 2 more"
    assert listed("abc", 1) == "'a', and 2 more"
    assert listed([]) == ""


def test_names_that_are_near() -> None:
    assert nearest("cirle", ["circle", "star"]) == " (did you mean 'circle'?)"
    assert nearest("x", ["circle"]) == nearest("circle" * 10**5, ["circle"] * 10**4) == ""
