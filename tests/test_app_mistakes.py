"""What the app does not take: one sentence each, in the words of its form."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest

from command_line import run
from conftest import make_pipeline
from t2i_xattn.app.bounds import Bounds, in_the_form
from t2i_xattn.app.form import Source, edit_of, request_of
from t2i_xattn.app.studio import Studio
from t2i_xattn.asking.request import Request
from t2i_xattn.errors import UserError

PROMPT = "a red circle, blue"
ASKED = Request(PROMPT, seed=3, steps=2)
BOUNDS = Bounds(side=128, steps=9, text=200)


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(make_pipeline(), bounds=BOUNDS)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"prompt": " ,"}, "at least one word"),
        ({"prompt": None}, "prompt as text"),
        ({"seed": 0.5}, "whole number as seed"),
        ({"seed": -1}, "seed from 0"),
        ({"seed": None}, "number as seed"),
        ({"steps": float("nan")}, "number as steps"),
        ({"steps": 10**400}, "number as steps"),
        ({"steps": 0}, "steps of at least 1"),
        ({"steps": True}, "number as steps"),
        ({"guidance": "5"}, "number as guidance"),
        ({"guidance": float("inf")}, "number as guidance"),
        ({"width": 64}, "both a width and a height"),
        ({"width": -64, "height": 64}, "both a width and a height"),
        ({"negative": 3}, "negative prompt as text"),
        # Beyond the bounds.
        ({"prompt": "a" * 201}, "prompt of at most 200 characters"),
        ({"negative": "a" * 201}, "negative prompt of at most 200 characters"),
        ({"steps": 10}, "at most 9 steps, but came 10; take fewer, or .* --max-steps"),
        ({"width": 136, "height": 64}, "width of at most 128 pixels, but came 136; .*--max-side"),
        ({"width": 64, "height": 10**9}, "height of at most 128 pixels"),
        ({"guidance": 1e9}, "guidance of at most 100"),
        # What the model cannot take.
        ({"width": 60, "height": 64}, "a size in multiples of 8"),
        ({"prompt": "a " * 99}, "beyond the window|at most 75 tokens"),
        ({"negative": "blue", "guidance": 1}, "guidance above 1 for negative"),
    ],
)
def test_what_cannot_be_is_one_sentence(studio: Studio, form: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        studio.paint(request_of(**({"prompt": PROMPT, "steps": 2} | form)))
    assert re.search(said, in_the_form(error.value)), in_the_form(error.value)


@pytest.mark.parametrize(
    ("weights", "others", "boxes", "said"),
    [
        ({}, {}, "", "something to change"),
        ({"red": 1}, {"red": " "}, " \n", "something to change"),
        ({"red": float("nan")}, {}, "", "number as weight of 'red'"),
        ({"red": 2000}, {}, "", "weight of at most 1000"),
        ({"star": 2}, {}, "", "'star'"),
        ({}, {"red": "x" * 300}, "", "other words of at most 200"),
        ({}, {"red": "!"}, "", "words|'!'"),
        ({}, {}, "red=0,0,1", "four numbers"),
        ({}, {}, "red", "box word="),
        ({}, {}, "\n".join(f"w{n}=0,0,1,1" for n in range(101)), "at most 100 boxes"),
        ({}, {"red": "blue"}, "circle=0,0,1,1", "boxes alone"),
    ],
)
def test_changes_that_cannot_be(
    studio: Studio, weights: Any, others: Any, boxes: str, said: str
) -> None:
    with pytest.raises(UserError) as error:
        studio.edit(edit_of(Source(ASKED, ("red", "circle")), weights, others, boxes))
    told = in_the_form(error.value)
    assert re.search(said, told), told
    assert "--" not in told


def test_there_is_a_picture_first(studio: Studio) -> None:
    with pytest.raises(UserError, match="paint one first"):
        edit_of(None, {"red": 2}, {}, "")
    with pytest.raises(UserError, match="none yet; paint"):
        studio.explain(None)
    with pytest.raises(UserError, match="start the app with --max-side 64"):
        Studio(make_pipeline(), bounds=Bounds(side=56))


def test_without_gradio_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, printed, told = run("app")
    assert (code, printed) == (2, "")
    assert "pip install 't2i-xattn[app]'" in told
