"""Models of the world measured: figures of verdicts, and the command from end to end."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from typer.testing import CliRunner

from evaluate import app
from lab.evaluation.ways import USUAL
from lab.evaluation.world_maps import CITY, CITY_WORDS, region
from lab.evaluation.world_pictures import seconds_of_a_picture, world_figures
from lab.judge.segmenter import Segmenter, save_segmenter
from lab.judge.world_verdict import WorldVerdict
from lab.scenes.world import class_names


def _verdict(things: bool, light: bool | None, place: bool | None) -> WorldVerdict:
    return WorldVerdict((things,), (True,), (True,), None, place, light, None, None, 0)


def test_figures_count_only_what_was_asked_for() -> None:
    figures = world_figures(
        [_verdict(True, True, True), _verdict(True, False, True), _verdict(False, None, True)]
    )
    assert figures["things right"].right == 2
    assert figures["kinds right"].right == 3
    assert (figures["light and place right"].right, figures["light and place right"].n) == (1, 2)
    assert figures["all right"].right == 1
    assert "relation right" not in figures
    assert "style right" not in figures


def test_a_word_names_the_pixels_of_its_classes() -> None:
    names = class_names()
    classes = np.array([[names.index("sky"), names.index("skyline")], [names.index("sun"), 0]])
    assert region(classes, CITY_WORDS["city"]).sum() == 1
    assert region(classes, CITY_WORDS["sunset"])[1, 0]
    assert all(f" {phrase} " in f" {CITY.lower()} " for phrase in CITY_WORDS)


def test_the_commands_write_their_figures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_segmenter(Segmenter([8, 8, 8, 8, 8]), tmp_path / "judge")
    short = ["--steps", "2", "--limit", "1", "--json", str(tmp_path / "figures.json")]
    world = ["world", "--judge", str(tmp_path / "judge"), "--save", str(tmp_path / "pictures")]
    done = CliRunner().invoke(app, [*world, *short])
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    assert figures["pictures"]["singles"]["all right"]["n"] == 1
    assert set(figures["peaks"]) == set(USUAL)
    assert all(set(peaks) == set(CITY_WORDS) for peaks in figures["peaks"].values())
    assert len(list((tmp_path / "pictures").glob("*.png"))) == len(figures["pictures"])
    options = ["world-judge", "--judge", str(tmp_path / "judge"), "--limit", "2"]
    done = CliRunner().invoke(app, [*options, "--json", str(tmp_path / "judge.json")])
    assert done.exit_code == 0, done.output
    own = json.loads((tmp_path / "judge.json").read_text("utf-8"))["judge"]
    assert own["all"]["n"] == 2
    assert 0 <= own["mean IoU"] <= max(own["IoU"].values())
    assert "sky" in own["IoU"]
    done = CliRunner().invoke(app, ["nearest", "--training", "40", *short])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "figures.json").read_text("utf-8"))["nearest"]["trained_on"] == 40


def test_the_first_picture_is_not_timed() -> None:
    painted: list[str] = []

    def pipe(prompt: str, *, num_inference_steps: int) -> None:
        painted.append(prompt)
        if len(painted) == 1:
            time.sleep(0.2)

    assert seconds_of_a_picture(pipe, "a tree", 2, num_inference_steps=3) < 0.1
    assert painted == ["a tree"] * 3
