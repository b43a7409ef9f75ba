"""Prompts that change on the way: the commands that paint them, and the sentence of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import t2i_xattn as tx
from batch_files import records_of, write_lines
from command_line import run
from conftest import make_pipeline
from tiny_pipelines import generator

SCHEDULED = "a [red:blue of:0.5] circle"
SENTENCE = "t2i-xattn: expected a prompt that says the same in all steps, "

REFUSING: dict[str, list[str]] = {
    "inspect": [],
    "edit": ["--weight", "circle=2"],
    "explain": [],
    "film": [],
    "cost": [],
}
"""Commands that look at words over the whole run, with what they need."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("command", REFUSING)
def test_a_whole_run_has_one_prompt(model: Path, tmp_path: Path, command: str) -> None:
    """It is told before anything is painted."""
    options = ["--model", model, "--device", "cpu", "--out", tmp_path / "out", *REFUSING[command]]
    asked = [[SCHEDULED], ["a circle", "--negative", SCHEDULED]]
    for texts in asked[:1] if command == "cost" else asked:  # which has no negative prompt
        code, printed, told = run(command, *texts, *options)
        assert (code, printed) == (2, "")
        assert told.startswith(SENTENCE)
        assert told.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_a_line_of_a_batch_says_it(model: Path, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "p.jsonl", [{"prompt": SCHEDULED}, {"prompt": "a circle"}])
    options = ["--model", model, "--steps", 2, "--size", 64, "--device", "cpu"]
    code, *_ = run("batch", lines, *options, "--out", tmp_path / "out")
    assert code == 0
    scheduled, plain = records_of(tmp_path / "out")
    assert "the same in all steps" in str(scheduled["error"])
    assert plain["error"] is None


def test_one_picture_and_one_step_may_have_several(model: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--device", "cpu", "--seed", 0]
    assert run("generate", SCHEDULED, *options, "--steps", 4, "--out", tmp_path / "out")[0] == 0
    painted = np.asarray(Image.open(next((tmp_path / "out").glob("*.png"))))
    pipe = make_pipeline()
    given = tx.condition(pipe, SCHEDULED)
    expected = pipe(**given, num_inference_steps=4, guidance_scale=5.0, generator=generator())
    assert np.array_equal(painted, np.asarray(expected.images[0]))
    for step, words in ((0, ["a", "red", "circle"]), (3, ["a", "blue", "of", "circle"])):
        out = tmp_path / f"step-{step}"
        asked = ["--steps", 4, "--step", step, "--out", out, "--json"]
        code, _, told = run("steps", SCHEDULED, *options, *asked)
        assert code == 0, told
        assert [each for each in words if f'"{each}"' in (out / "steps.json").read_text()] == words
