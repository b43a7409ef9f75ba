"""Prompts in other scripts, with marks, emoji and odd spaces: what is asked for has the columns of
its own tokens, as the tokenizer's offsets tell, or one sentence says how to ask for it."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import numpy as np
import pytest

import t2i_xattn as tx
from conftest import make_pipeline, make_tokenizer, state_of
from probe import Probe, second_half
from right_maps import assert_right_heat, assert_right_maps, attempt, one_sentence, right_heat
from t2i_xattn import edits
from t2i_xattn.errors import UserError
from tiny_pipelines import runner


@cache
def recorded(prompt: str) -> tuple[Any, Probe]:
    pipe = make_pipeline()
    draw = runner(pipe, prompt=prompt, negative_prompt="left", num_inference_steps=1)
    with Probe(pipe.unet) as probe:
        plain = draw()
    with tx.record(pipe) as trace:
        assert draw().tobytes() == plain.tobytes()
    assert_right_maps(trace, probe, second_half)
    return trace, probe


def columns_of(prompt: str, part: str) -> tuple[int, ...]:
    """The columns of a part of a prompt as typed: tokens that overlap it. Those of punctuation
    alone belong to no word."""
    start = prompt.index(part)
    offsets = make_tokenizer()(prompt, return_offsets_mapping=True)["offset_mapping"]
    return tuple(
        column
        for column, (first, end) in enumerate(offsets)
        if first < min(end, start + len(part)) and end > start and speaks(prompt[first:end])
    )


def speaks(text: str) -> bool:
    return any(unicodedata.category(each)[0] in "LNM" or each in "-'’" for each in text)


@pytest.mark.parametrize(
    ("prompt", "asked", "typed"),
    [
        ("a red circle", "RED", "red"),
        ("a Red circle", "red", "Red"),
        ("naïve café circle", "café", "café"),
        ("nai\u0308ve cafe\u0301 circle", "cafe\u0301", "cafe\u0301"),
        ("nai\u0308ve cafe\u0301 circle", "café", "cafe\u0301"),
        ("naïve café circle", "cafe\u0301", "café"),
        ("ein großer Kreis", "GROSSER", "großer"),
        ("İstanbul circle", "İstanbul", "İstanbul"),
        ("a\u200bred circle", "circle", "circle"),
        ("a\u00a0red\u3000circle", "red", "red"),
        ("red\ncircle\tblue", "circle", "circle"),
        ("  red   circle ", "red circle", "red   circle"),
        ("दो हाथी circle", "हाथी", "हाथी"),
        ("한국어 circle", "한국어", "한국어"),
        ("שלום circle", "שלום", "שלום"),
        ("красный круг", "круг", "круг"),
        ("a ﬁsh circle", "ﬁsh", "ﬁsh"),
        ("a ﬁsh circle", "circle", "circle"),
        ("O'Brien’s t-shirt", "t-shirt", "t-shirt"),
        ("O'Brien’s t-shirt", "O'Brien’s", "O'Brien’s"),
        ("1girl, long_hair, red_eyes", "red_eyes", "red_eyes"),
        ("C++ code", "C++", "C"),
        ("100% red", "100", "100"),
        ("3.5 circles", "3.5", "3.5"),
        ("A&E &amp; red", "red", "red"),
        ("U.S. flag", "U.S.", "U.S"),
        ("$100 red", "$100", "100"),
        ("a red circle 🐱 left", "left", "left"),
        ("🐱🐱 red circle", "red circle", "red circle"),
    ],
)
def test_words(prompt: str, asked: str, typed: str) -> None:
    trace, probe = recorded(prompt)
    columns = columns_of(prompt, typed)
    assert columns
    assert_right_heat(trace, probe, second_half, {asked: columns})


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("一只红色的猫在草地上", "猫"),
        ("一只红色的猫在草地上", "红色"),
        ("赤い丸の猫", "猫"),
        ("แมวสีแดง", "แมว"),
        ("a 🐱 on a red circle", "🐱"),
        ("a 👩‍🚀 red", "👩‍🚀"),
        ("a <*> circle", "<*>"),
        ("a red circle :)", ":)"),
        ("a red circle", "<|startoftext|>"),
        ("a red circle", "<|endoftext|>"),
        ("a red circle", ""),
        ("a red circle", "   "),
    ],
)
def test_what_is_no_word_between_spaces(prompt: str, asked: str) -> None:
    """The map of just these tokens, or one sentence that names a way."""
    trace, probe = recorded(prompt)
    heat, refusal = attempt(lambda: trace.heatmap(asked))
    if heat is None:
        assert refusal is not None
        assert "columns" in refusal or not asked.strip()
        return
    encoding = make_tokenizer()(prompt, return_offsets_mapping=True)
    special = {"<|startoftext|>": [0], "<|endoftext|>": [len(encoding.input_ids) - 1]}
    start = prompt.find(asked)
    columns = special.get(asked) or [
        column
        for column, (first, end) in enumerate(encoding["offset_mapping"])
        if first < min(end, start + len(asked)) and end > start >= 0
    ]
    assert columns
    assert_right_heat(trace, probe, second_half, {asked: tuple(columns)})


@pytest.mark.parametrize("prompt", ["a red circle", "一只红色的猫在草地上", "a 👩‍🚀 red", ""])
def test_all_columns(prompt: str) -> None:
    """Start and end token have their columns too, and all of them share what there is."""
    trace, probe = recorded(prompt)
    end = len(make_tokenizer()(prompt).input_ids) - 1
    for column in (0, end, 76):
        expected = right_heat(probe, second_half, [column])
        assert np.abs(trace.heatmap(columns=[column]).array - expected).max() < 1e-5
    whole = np.sum([trace.heatmap(columns=[column]).array for column in range(77)], axis=0)
    assert np.allclose(whole, 1, atol=1e-4)


def test_words_stand_as_typed() -> None:
    prompt = "nai\u0308ve  CAFÉ,\u3000한국어 t-shirt"
    trace, _ = recorded(prompt)
    assert [word.text for word in trace.words] == ["nai\u0308ve", "CAFÉ", "한국어", "t-shirt"]
    for word in trace.words:
        assert prompt[word.start : word.stop] == word.text
        assert word.columns == columns_of(prompt, word.text)


def test_an_edit_of_a_part_of_a_word() -> None:
    """It acts on just these columns, or the first step is never reached."""
    pipe = make_pipeline()
    draw = runner(pipe, prompt="一只红色的猫在草地上", num_inference_steps=1)
    plain = draw()
    before = state_of(pipe)
    steps: list[int] = []

    def count(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        return inputs

    def edited() -> np.ndarray:
        with tx.edit(pipe, edits.Drop("猫")):
            picture: np.ndarray = runner(
                pipe,
                prompt="一只红色的猫在草地上",
                num_inference_steps=1,
                callback_on_step_end=count,
            )()
        return picture

    drawn, refusal = attempt(edited)
    assert state_of(pipe) == before
    if drawn is None:
        assert refusal is not None
        assert not steps
    else:
        assert not np.allclose(drawn, plain, atol=1e-4)


def test_a_word_of_another_script_that_looks_alike() -> None:
    """Cyrillic а and е in "rеd": not the prompt's word, and told so."""
    trace, _ = recorded("a red circle")
    with pytest.raises(UserError) as raised:
        trace.heatmap("r\u0435d")
    one_sentence(raised.value)
