"""Films of a picture's making: the right picture and the right map at each moment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import t2i_xattn as tx
from command_line import run, written
from conftest import make_pipeline
from t2i_xattn.asking.filming import filmed, windows_of
from t2i_xattn.asking.request import Request, paint
from t2i_xattn.conditioning.within import cover_of
from t2i_xattn.errors import UserError
from t2i_xattn.showing.film import film_frames, save_film
from t2i_xattn.traces.heat_map import HeatMap
from tiny.all_cases import CASES
from tiny_pipelines import make_sdxl

PROMPT = "A red circle, blue"
WORDS = ("red circle", "blue")


@pytest.mark.parametrize(
    ("steps", "frames", "windows"),
    [
        (3, 5, [(0, 1), (1, 2), (2, 3)]),
        (5, 2, [(0, 2), (2, 5)]),
        (25, 50, [(n, n + 1) for n in range(25)]),
        (4, 1, [(0, 4)]),
    ],
)
def test_windows(steps: int, frames: int, windows: list[tuple[int, int]]) -> None:
    assert windows_of(steps, frames) == windows


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("make", [make_pipeline, make_sdxl])
def test_each_frame_is_the_picture_of_its_step(make: Any) -> None:
    pipe = quiet(make())
    request = Request(PROMPT, seed=3, steps=5, size=(64, 48))
    found = filmed(pipe, request, WORDS, 1, 2)
    # Filming changes nothing.
    (plain,) = paint(pipe, request)
    assert found.picture.tobytes() == plain.tobytes()
    assert [each.size for each in found.frames] == [(64, 48)] * 2
    assert np.abs(np.asarray(found.frames[-1], int) - np.asarray(plain, int)).mean() < 0.6
    # The picture in between, as the pipeline itself decodes it when it stops there.
    kept: list[Any] = []

    def stop(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step >= 1
        return given

    (early,) = paint(pipe, request, callback_on_step_end=stop)
    kept.append(early)
    pipe._interrupt = False
    assert np.abs(np.asarray(found.frames[0], int) - np.asarray(early, int)).mean() < 0.6
    assert early.tobytes() != plain.tobytes()
    # The maps are those of the steps of each frame.
    with tx.record(pipe, words=WORDS, steps="each", walk=1) as trace:
        paint(pipe, request)
    for window in ((0, 2), (2, 5)):
        mine = found.trace.select(steps=window).heatmap("blue", stream="text").array
        theirs = trace.select(steps=window).heatmap("blue", stream="text").array
        assert np.allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("name", ["FluxPipeline", "StableDiffusion3Pipeline"])
def test_latents_of_transformers_are_read_as_they_lie(name: str) -> None:
    case = next(each for each in CASES if each.name == name)
    pipe = quiet(case.make())
    size = (64, 32)
    found = filmed(pipe, Request("a red circle", steps=2, size=size), ("circle",), 0, 2)
    assert found.picture.size == found.frames[0].size == size


def test_latents_that_are_read_otherwise_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = quiet(make_pipeline())
    before = pipe.image_processor.postprocess

    def darker(picture: torch.Tensor, output_type: str, **others: Any) -> Any:
        return before(picture * (1 if "do_denormalize" in others else 0), output_type, **others)

    monkeypatch.setattr(pipe.image_processor, "postprocess", darker)
    with pytest.raises(UserError, match="they give another one"):
        filmed(pipe, Request(PROMPT, steps=2), WORDS, 0, 2)
    pipe.vae.register_to_config(latents_mean=[0.0] * 4)
    with pytest.raises(UserError, match="has others; take t2i-xattn inspect"):
        filmed(pipe, Request(PROMPT, steps=2), WORDS, 0, 2)


def test_memory_does_not_grow_with_the_steps() -> None:
    pipe = quiet(make_pipeline())
    sizes = []
    for steps in (2, 6):
        run_ = filmed(pipe, Request(PROMPT, steps=steps), WORDS, 0, 2).trace.run
        sizes.append(sum(each.nbytes for maps in run_.maps.values() for each in maps.values()))
    assert sizes[0] == sizes[1]


def frames_of(path: Path) -> list[Image.Image]:
    with Image.open(path) as film:
        found = []
        for number in range(getattr(film, "n_frames", 1)):
            film.seek(number)
            found.append(film.convert("RGB"))
        return found


def moments() -> tuple[list[Image.Image], list[list[HeatMap]], list[tuple[int, int]]]:
    rows = (np.mgrid[:48, :64][0] / 48).astype(np.float32)
    pictures = [Image.new("RGB", (64, 48), (40 * n, 80, 200 - 40 * n)) for n in range(4)]
    maps = [[HeatMap("red", 0.01 + 0.1 * rows * n)] for n in range(4)]
    return pictures, maps, [(n, n + 1) for n in range(4)]


@pytest.mark.parametrize("form", ["gif", "webp"])
def test_a_file_has_the_frames(tmp_path: Path, form: Any) -> None:
    frames = list(film_frames(*moments(), "a red sky"))
    save_film(frames, tmp_path / "film", form, fps=5, comment="żółty 🚀\0")
    found = frames_of(tmp_path / "film")
    assert len(found) == 4
    with Image.open(tmp_path / "film") as film:
        if form == "gif":
            told = film.info["comment"].decode()
        else:
            told = film.getexif().get_ifd(0x8769)[0x9286][8:].decode("utf-16-be")
    assert told.startswith("żółty 🚀")
    for frame, read in zip(frames, found, strict=True):
        width, height = frame.size
        difference = np.abs(np.asarray(read, int)[:height, :width] - np.asarray(frame, int))
        assert difference.mean() < 4


def test_a_word_has_one_scale_for_the_whole_film() -> None:
    light = [
        float(np.asarray(frame.convert("L"))[100:160, 250:400].mean())
        for frame in film_frames(*moments(), "a red sky")
    ]
    assert light == sorted(light)
    assert light[-1] > light[0] + 20


def test_mp4_has_the_frames(tmp_path: Path) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    frames = list(film_frames(*moments(), "a red sky"))
    save_film(frames, tmp_path / "film.mp4", "mp4", fps=5, comment="żółty 🚀\0")
    assert "żółty 🚀".encode() in (tmp_path / "film.mp4").read_bytes()
    width, height = (each + each % 2 for each in frames[0].size)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", tmp_path / "film.mp4"]
    raw = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True
    ).stdout
    read = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    assert len(read) == 4 + round(1.5 * 5)
    assert (
        np.abs(read[0].astype(int)[:200, :400] - np.asarray(frames[0], int)[:200, :400]).mean() < 4
    )
    save_film(frames, tmp_path / "again.mp4", "mp4", fps=5, comment="żółty 🚀\0")
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "film.mp4").read_bytes()


def test_a_film_where_ffmpeg_is_missing_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setattr("t2i_xattn.commands.options.load", lambda *_: 1 / 0)
    code, printed, told = run("film", PROMPT, "--format", "mp4", "--out", tmp_path / "out")
    assert (code, printed, told.count("\n")) == (2, "", 1)
    assert "pip install 't2i-xattn[film]', or take gif or webp" in told
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2i_xattn.commands.options.load", lambda *_: quiet(make_pipeline()))
    options = ["--steps", 3, "--size", 64, "--out", tmp_path]
    code, printed, told = run("film", PROMPT, *options)
    assert code == 0, told
    assert written(tmp_path) == ["film.gif", "picture.png"]
    assert len(frames_of(tmp_path / "film.gif")) == 3
    assert printed.split() == [str(tmp_path / name) for name in ("film.gif", "picture.png")]


def test_words_are_read_without_the_syntax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = quiet(make_pipeline())
    cover_of(pipe).put()  # as the commands load it
    monkeypatch.setattr("t2i_xattn.commands.options.load", lambda *_: pipe)
    options = ["--steps", 2, "--size", 64, "--out", tmp_path / "out", "--json"]
    code, printed, told = run("film", "a (red:1.4) circle", *options)
    assert code == 0, told
    assert json.loads(printed)["words"] == ["red", "circle"]
