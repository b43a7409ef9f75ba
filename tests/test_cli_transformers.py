"""The commands take a folder with a transformer as any other."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from command_line import run
from tiny.case import PROMPT


def saved(folder: Path, module: str, name: str) -> Path:
    cases: Any = importlib.import_module(f"tiny.{module}").CASES
    (case,) = [each for each in cases if each.name == name]
    case.make().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("flux"), "text_first", "FluxPipeline")


@pytest.mark.parametrize(
    ("module", "name"),
    [("text_first", "FluxPipeline"), ("picture_first", "StableDiffusion3Pipeline")],
)
def test_inspect(tmp_path: Path, module: str, name: str) -> None:
    model = saved(tmp_path / "model", module, name)
    out = tmp_path / "out"
    code, shown, _ = run("inspect", PROMPT, "--model", model, "--out", out, "--steps", 2)
    assert code == 0
    assert "circle" in shown
    table = json.loads((out / "words.json").read_text("utf-8"))
    words = [each["word"] for each in table["words"]]
    assert words == ["a", "red", "circle", "left", "of", "blue", "square"]
    assert all(each["share"] > 0 for each in table["words"])


@pytest.mark.slow
def test_edit(flux: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--model", flux, "--out", out, "--steps", 2, "--weight", "red=1.5")
    code, _, _ = run("edit", PROMPT, *options)
    assert code == 0
    assert (out / "before.png").read_bytes() != (out / "after.png").read_bytes()


def test_a_prompt_beyond_every_window(flux: Path, tmp_path: Path) -> None:
    prompt = "a red circle, " * 200 + "left"  # T5's window is 512 tokens
    out = tmp_path / "out"
    code, _, told = run("inspect", prompt, "--model", flux, "--out", out, "--steps", 1)
    assert code != 0
    assert "a prompt that fits into the window" in told
    assert not out.exists()


def test_a_negative_prompt_where_there_is_none(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "text_first", "Flux2KleinPipeline")
    out = tmp_path / "out"
    options = ("--model", model, "--out", out, "--steps", 1, "--negative", "star")
    code, _, told = run("generate", PROMPT, *options)
    assert code != 0
    assert "leave --negative out" in told
