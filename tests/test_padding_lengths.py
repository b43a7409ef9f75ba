"""Prompts of different lengths in one batch: the prompts, the figures by hand, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from evaluate import app
from lab.evaluation.padding_lengths import (
    COUNT,
    EVERY,
    GROUPS,
    LENGTHS,
    TAKEN,
    _Painted,
    figures_of,
    mixed_prompts,
)
from lab.evaluation.padding_report import lengths_table, lengths_taken_table
from lab.evaluation.studies_padding import PLAIN
from lab.scenes.world import class_names

BOAT = class_names().index("boat")


def painted(level: int, right: bool, padding: int, seen: bool = True, **changes: Any) -> _Painted:
    """A picture with a boat in its top row, and a map of it there."""
    array = np.zeros((4, 4), np.float32)
    array[0] = 0.5
    array[0, 0] = 1
    classes = np.zeros((4, 4), np.int16)
    if seen:
        classes[0] = BOAT
    shares = {"start": 0.1, "words": 0.4, "end": 0.1, "padding": 0.4}
    given: dict[str, Any] = {"maps": {"boat": array}, "shares": shares} | changes
    columns = {"word": 77 - 2 - padding, "padding": padding}
    picture = Image.new("L", (8, 8), level).convert("RGB")
    return _Painted(picture, classes=classes, right=right, columns=columns, **given)


def test_the_prompts() -> None:
    prompts = mixed_prompts()
    assert len({each.prompt for each in prompts}) == COUNT == 200
    for first in range(0, COUNT, len(GROUPS)):
        assert [len(each.asked.things) for each in prompts[first : first + 4]][:2] == [1, 2]
    assert mixed_prompts(5) == prompts[:5]


def test_figures_by_hand() -> None:
    turned = np.zeros((4, 4), np.float32)
    turned[3] = 1
    plain = [painted(0, True, 67), painted(0, False, 67), painted(0, True, 60)]
    masked = [
        painted(255, False, 67, seen=False),
        painted(0, True, 67, maps={"boat": turned}),
        painted(0, True, 60),
    ]
    attracted, taken = figures_of({PLAIN: plain, TAKEN[1]: masked})
    assert [(each.tokens, each.prompts) for each in attracted] == [
        (LENGTHS[1], 2),
        (LENGTHS[3], 1),
        (EVERY, 3),
    ]
    assert attracted[0].shares["padding"].value == pytest.approx(0.4)
    assert attracted[0].per_column.value == pytest.approx((0.4 / 67) / (0.4 / 8))
    as_it_is, without = taken[-2:]
    assert (as_it_is.taken, as_it_is.psnr, as_it_is.alike) == (PLAIN, None, None)
    assert (as_it_is.right.right, as_it_is.lost, as_it_is.gained) == (2, 0, 0)
    assert (as_it_is.peak.right, as_it_is.peak.n, as_it_is.iou.value) == (3, 3, 1)
    assert (without.right.right, without.lost, without.gained) == (2, 1, 1)
    # Of what is not seen there is no IoU, but its peak is not inside.
    assert (without.peak.right, without.peak.n) == (1, 3)
    assert (without.iou.value, without.iou.n) == (0.5, 2)
    assert without.psnr is not None
    assert without.psnr.value == pytest.approx((0 + 100 + 100) / 3)
    assert without.alike is not None
    assert -1 < without.alike.value < 1
    assert json.loads(json.dumps(without.as_json()))["right"]["n"] == 3
    assert lengths_table(attracted, 10).row_count == 3
    assert lengths_taken_table(taken).row_count == 6


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "padding.json"
    options = ["padding-lengths", "--limit", "4", "--steps", "5", "--json", str(path)]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    told = json.loads(path.read_text("utf-8"))
    assert sum(each["prompts"] for each in told["lengths"][:-1]) == 4
    for each in told["lengths"]:
        shares = {name: one["mean"] for name, one in each["shares"].items()}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
        assert min(shares.values()) > 0
    assert {each["taken"] for each in told["taken"]} == set(TAKEN)
    for each in told["taken"]:
        assert (each["psnr"] is None) == (each["taken"] == PLAIN)
