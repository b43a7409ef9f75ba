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
from lab.evaluation.cheaper import in_turn, psnr
from lab.evaluation.cheaper_figures import PLAIN, Counted, Found, Painted, best, front, loss
from lab.evaluation.figures import Difference
from lab.evaluation.world_prompts import world_prompts
from t2i_xattn.errors import UserError


def found(right: int, flops: int) -> Found:
    """Of a hundred prompts."""
    verdicts = tuple(number < right for number in range(100))
    return Found(verdicts, (30.0,) * 100, (1.0,), Counted(flops, flops // 2, flops))


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


def test_the_interval_of_a_difference_is_agresti_and_min_s() -> None:
    """Worked by hand from the paper's formula, with 3 gained and 7 lost of 100: the middle is
    -4 / 102, and half the width 1.959964 √(11 - 16 / 102) / 102."""
    each = Difference(3, 7, 100)
    assert each.value == pytest.approx(-0.04)
    assert each.interval == pytest.approx((-0.102490, 0.024058), abs=1e-5)
    # Nothing lost among few is no certainty.
    low, high = Difference(0, 0, 60).interval
    assert -low == high == pytest.approx(1.959964 / 62)
    assert Difference.of([True, False, True], [False, True, False]) == Difference(1, 2, 3)


def test_what_so_many_prompts_tell() -> None:
    plain, same = found(90, 1000), (float("inf"),) * 100
    assert loss(found(90, 900), plain) == "cannot tell"  # the interval goes to 1.9 points
    assert loss(found(90, 900), plain, points=2) == "no"
    assert loss(found(80, 900), plain) == "yes"
    assert loss(Found(plain.right, same, (1.0,), plain.cost), plain) == "no"
    assert best(FOUND, shown=True) == PLAIN


def test_gained_and_lost_are_counted_by_prompt() -> None:
    right = False, *(True,) * 90, *(False,) * 9
    other = Found(right, (float("inf"),) * 100, (2.0,), Counted(500, 100, 2000))
    told = other.as_json(FOUND[PLAIN])
    against = told["against plain"]
    assert (against["gained"], against["lost"], told["same bytes"]) == (1, 1, 100)
    assert (told["cpu_ratio"]["median"], told["flops_ratio"], told["live_ratio"]) == (2, 0.5, 2)
    json.dumps(told, allow_nan=False)


def test_batches_are_read_as_they_were_written() -> None:
    part = Painted((True, False), (float("inf"), 30.0), 1.5)
    assert Painted.read(json.loads(json.dumps(part.as_json(), allow_nan=False))) == part
    whole = Found.of([part, part], Counted(1, 1, 1))
    assert whole.right == (True, False) * 2
    assert whole.near.n == 2


def test_the_first_prompts_are_of_all_kinds() -> None:
    groups = world_prompts()
    assert in_turn(groups)[:6] == [group[0] for group in groups.values()]
    assert len(in_turn(groups)) == sum(map(len, groups.values()))
    assert len(in_turn(groups, 60)) == 4 * 60 + 2 * 50


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
    options += ["--batch", "4", "--folder", str(tmp_path / "batches")]
    result = CliRunner().invoke(evaluate.app, [*options, "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    ways = json.loads(path.read_text("utf-8"))["ways"]
    assert ways["kept"]["same bytes"] == ways["kept"]["all right"]["n"] == 6
    assert ways["kept"]["flops_ratio"] < 1 < ways["kept"]["live_ratio"]
    # What a batch gave, and what a way costs, is not measured again.
    names = {each.name for each in (tmp_path / "batches").iterdir()}
    batches, costs = {"0000-0004.json", "0004-0006.json"}, {"cost-plain.json", "cost-kept.json"}
    assert names == batches | costs | {"settings.json"}
    result = CliRunner().invoke(evaluate.app, options)
    again = json.loads(path.read_text("utf-8"))["ways"]
    assert again["kept"]["cpu_ratio"] == ways["kept"]["cpu_ratio"]
    result = CliRunner().invoke(evaluate.app, [*options, "--steps", "3"])
    assert isinstance(result.exception, UserError)
    assert "has other steps" in str(result.exception)
    assert plot.read_bytes()[:4] == b"\x89PNG"
    options = ["cheaper", "--tokens", "8", "--denoisers", "tiny", "--pixels", "64", "--limit", "1"]
    result = CliRunner().invoke(benchmark.app, [*options, "--json", str(path)])
    assert result.exit_code == 0, result.output
    assert json.loads(path.read_text("utf-8"))["timed"]["tiny, 8"]["same"]
    result = CliRunner().invoke(evaluate.app, ["cheaper", "--ways", "x"])
    assert "expected ways of plain" in str(result.exception)
