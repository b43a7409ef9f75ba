"""Quality against cost: what is counted, and which way is said to be the best."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import benchmark
import evaluate
from lab.benchmark.cheaper import counted, timed
from lab.evaluation.cheaper import PLAIN, Found, best, front, psnr


def found(right: int, flops: int) -> Found:
    """Of a hundred prompts."""
    verdicts = tuple(number < right for number in range(100))
    return Found(verdicts, (30.0,) * 100, 1.0, flops, flops // 2)


FOUND = {
    PLAIN: found(90, 1000),
    "free": found(90, 950),
    "one point": found(89, 800),
    "two points": found(88, 700),
    "beaten": found(88, 900),
}


def test_the_best_loses_at_most_a_point() -> None:
    assert best(FOUND) == "one point"
    assert best(FOUND, points=2) == "two points"
    assert best(FOUND, points=0) == "free"


def test_the_front_holds_what_no_other_beats() -> None:
    assert front(FOUND) == ["free", "one point", "two points"]


def test_gained_and_lost_are_counted_by_prompt() -> None:
    other = Found((False, *(True,) * 90, *(False,) * 9), (float("inf"),) * 100, 2.0, 500, 100)
    told = other.as_json(FOUND[PLAIN])
    assert (told["gained"], told["lost"], told["same bytes"]) == (1, 1, 100)
    assert (told["cpu_ratio"], told["flops_ratio"]) == (2.0, 0.5)
    json.dumps(told, allow_nan=False)


def test_psnr() -> None:
    one = Image.fromarray(np.full((4, 4, 3), 100, np.uint8))
    other = Image.fromarray(np.full((4, 4, 3), 110, np.uint8))
    assert psnr(one, one) == float("inf")
    assert psnr(one, other) == pytest.approx(20 * np.log10(255 / 10))


def test_kept_against_plain() -> None:
    each = timed("tiny", 64, 200, 3, 1, time.process_time)
    assert each.same
    assert each.flops < 1 < each.live
    one = counted("tiny", 64, 200)
    # Two sites of the finer level, two layers each, 32 channels in and out, 2 rows.
    assert 0 < one.keys_and_values < one.flops
    assert one.keys_and_values == 2 * 32 * one.kept_bytes // 4


@pytest.mark.slow
def test_commands(tmp_path: Path) -> None:
    path, plot = tmp_path / "figures.json", tmp_path / "plot.png"
    options = ["cheaper", "--limit", "1", "--steps", "2", "--ways", "kept", "--json", str(path)]
    result = CliRunner().invoke(evaluate.app, [*options, "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    ways = json.loads(path.read_text("utf-8"))["ways"]
    assert ways["kept"]["same bytes"] == ways["kept"]["all right"]["n"] == 6
    assert plot.read_bytes()[:4] == b"\x89PNG"
    options = ["cheaper", "--tokens", "8", "--denoisers", "tiny", "--pixels", "64", "--limit", "1"]
    result = CliRunner().invoke(benchmark.app, [*options, "--json", str(path)])
    assert result.exit_code == 0, result.output
    assert json.loads(path.read_text("utf-8"))["timed"]["tiny, 8"]["same"]
    result = CliRunner().invoke(evaluate.app, ["cheaper", "--ways", "x"])
    assert "expected ways of plain" in str(result.exception)
