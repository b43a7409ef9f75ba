"""The commands read long prompts, and words of a second window stand on their things."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import t2i_xattn as tx
from command_line import run

LONG = "a red boat on the ocean, " * 30
"""210 tokens, in three windows."""


@pytest.fixture(scope="module")
def world() -> Any:
    pipe = tx.load_default()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_tokens_says_how_a_prompt_is_read(tmp_path: Path) -> None:
    prompt = "a (red:1.4) boat BREAK [cat:dog:0.4]"
    code, printed, _ = run("tokens", prompt, "--negative", "blur--", "--json")
    assert code == 0
    found = json.loads(printed)["readings"]
    assert [(each["branch"], each["start"]) for each in found] == [
        ("conditional", 0),
        ("conditional", 0.4),
        ("unconditional", 0),
    ]
    red = next(each for each in found[0]["tokens"] if each["text"] == "red")
    assert (red["column"], red["chunk"], red["weight"]) == (2, 0, 1.4)
    assert prompt[red["start"] : red["stop"]] == "red"
    dog = next(each for each in found[1]["words"] if each["text"] == "dog")
    assert (dog["columns"], dog["chunks"]) == ([78], [1])
    code, printed, _ = run("tokens", prompt)
    assert code == 0
    assert "from 0.4 of the run on" in printed


@pytest.mark.slow
def test_two_hundred_tokens_run_with_the_commands(tmp_path: Path) -> None:
    for command in ("generate", "inspect"):
        options = ["--steps", 2, "--out", tmp_path / command]
        assert run(command, LONG, *options)[0] == 0
    table = json.loads((tmp_path / "inspect" / "words.json").read_text("utf-8"))
    assert [each["word"] for each in table["words"]].count("boat") == 1  # a row a word, once
    trace = tx.Trace.load(tmp_path / "inspect" / "trace.safetensors")
    boats = [word for word in trace.words if word.text == "boat"]
    assert len(boats) == 30
    assert boats[-1].columns[0] > 77


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("in the evening BREAK a red boat on the ocean", ("red", "boat")),
        ("on a meadow BREAK a red kite", ("red", "kite")),
        ("a picture BREAK a red circle left of a blue square", ("red", "circle")),
    ],
)
def test_words_of_the_second_window_stand_on_their_things(
    world: Any, prompt: str, words: tuple[str, ...]
) -> None:
    noise = torch.Generator().manual_seed(0)
    with tx.record(world, walk=1, contributions=True) as trace:
        given = tx.condition(world, prompt)
        image = world(**given, num_inference_steps=10, generator=noise).images[0]
    red, green, blue = np.asarray(image).astype(int).transpose(2, 0, 1)
    there = (red > 140) & (green < 110) & (blue < 110)
    assert 0.01 < there.mean() < 0.5
    for word in words:
        heat = trace.heatmap(word)
        assert all(each.columns[0] > 77 for each in trace.words if each.text == word)
        row, column = heat.peak()
        assert there[int(row), int(column)]
