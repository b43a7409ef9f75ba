"""Runs of the commands that fail, are broken off, or follow on others in the same folder."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from command_line import PROMPT, run, written
from conftest import make_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    return folder


FAULTS: dict[str, tuple[BaseException, int, str]] = {
    "memory of torch": (RuntimeError("CUDA out of memory. Tried 9 GiB\n\nmore"), 1, "memory"),
    "memory of the CPU": (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "memory"),
    "memory of numpy": (MemoryError("Unable to allocate 9. GiB"), 1, "enough memory"),
    "disk": (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x" * 5000), 1, "No space left"),
    "reading": (OSError("image file is truncated"), 1, "image file is truncated"),
    "interrupt": (KeyboardInterrupt(), 130, ""),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_run_that_breaks_off_says_why_and_leaves_the_folder_as_it_was(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fault, expected, sentence = FAULTS[name]
    (tmp_path / "picture-0.png").write_bytes(b"before")

    def broken(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr("t2i_xattn.commands.options.load", broken)
    code, printed, error = run("generate", PROMPT, "--model", model, "--out", tmp_path)
    assert (code, printed) == (expected, "")
    assert sentence in error
    assert len(error) < 400
    assert error.count("\n") == (1 if sentence else 0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "picture-0.png": b"before"
    }


def test_a_fault_of_our_own_is_not_dressed_up(tmp_path: Path, monkeypatch: Any) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("t2i_xattn.commands.options.load", broken)
    with pytest.raises(RuntimeError, match="a fault"):
        run("generate", PROMPT, "--out", tmp_path)


def test_a_disk_that_is_full_while_pictures_are_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--model", model, "--steps", 1, "--device", "cpu", "--out", tmp_path]
    assert run("inspect", PROMPT, *options)[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    save = Image.Image.save

    def full(picture: Image.Image, path: Path, *rest: Any, **more: Any) -> None:
        save(picture, path, *rest, **more)
        if "word-02" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    code, printed, error = run("inspect", PROMPT, *options, "--seed", 1)
    assert (code, printed, error.count("\n")) == (1, "", 1)
    assert "No space left on device" in error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_a_second_inspect_replaces_the_first(model: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--steps", 1, "--device", "cpu", "--out", tmp_path]
    (tmp_path / "mine.png").write_bytes(b"mine")
    assert run("inspect", PROMPT, *options, "--count", 2)[0] == 0
    assert run("inspect", PROMPT, *options, "--words", "red")[0] == 0
    assert run("inspect", PROMPT, *options, "--words", "circle")[0] == 0
    files = ["mine.png", "picture.png", "report.html", "trace.safetensors", "word-01-circle.png"]
    assert written(tmp_path) == [*files, "words.json", "words.png"]
    # Pictures of other seeds stand for themselves, as do those of another command.
    for seed in (3, 4):
        assert run("generate", PROMPT, *options, "--seed", seed)[0] == 0
    assert {"picture-3.png", "picture-4.png", "picture.png"} <= set(written(tmp_path))


@pytest.mark.parametrize("command", ["generate", "inspect", "edit"])
def test_no_black_picture_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    pipe = make_pipeline()
    with torch.no_grad():
        pipe.unet.conv_out.weight.fill_(math.nan)
    monkeypatch.setattr("t2i_xattn.commands.options.load", lambda *_: pipe)
    more = ["--weight", "red=2"] if command == "edit" else []
    out = tmp_path / "out"
    code, printed, error = run(command, PROMPT, "--steps", 1, "--out", out, *more)
    assert (code, printed) == (2, "")
    assert "not finite (NaN), which would be black" in error
    assert not out.exists()
