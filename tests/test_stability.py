"""The studies of attention's precautions and of padding: what they measure, by hand, and whole
commands on the model in the box."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from evaluate import app
from lab.evaluation import stability
from lab.evaluation.stability import SHIPPED, StabilityFigure, masked_figures, random_figures

UNSCALED, UNSHIFTED = "without 1 / √d", "largest not subtracted"


def of(figures: list[StabilityFigure], **wanted: Any) -> StabilityFigure:
    (one,) = [e for e in figures if all(getattr(e, k) == v for k, v in wanted.items())]
    return one


def test_the_gradient_is_autograd_s() -> None:
    scores = torch.randn(3, 5, dtype=torch.float64)
    norms = [
        torch.autograd.functional.jacobian(lambda s: s.softmax(-1), row).norm() for row in scores
    ]
    found = stability._gradient(scores.softmax(-1))
    torch.testing.assert_close(found, torch.stack(norms))


def test_a_case_by_hand() -> None:
    """Two tokens whose scores are 0 and 4 ln 3 with d = 16, so 0 and ln 3 scaled."""
    q = torch.zeros(1, 1, 1, 16, dtype=torch.float64)
    q[..., 0] = 4 * math.log(3)
    k = torch.zeros(1, 1, 2, 16, dtype=torch.float64)
    k[..., 1, 0] = 1
    found = list(stability._figures("by hand", q, k))
    shipped = of(found, way=SHIPPED, dtype="float32")
    assert shipped.largest == pytest.approx(math.log(3))
    assert shipped.entropy == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    assert shipped.gradient == pytest.approx(2 * 0.25 * 0.75)
    unscaled = of(found, way=UNSCALED, dtype="float32")
    assert unscaled.error == pytest.approx(81 / 82 - 0.75, abs=1e-5)


def test_without_the_scale_larger_heads_are_sharper() -> None:
    found = random_figures()
    scaled, unscaled = (
        [of(found, way=way, dtype="float32", head_size=d).entropy for d in stability.HEAD_SIZES]
        for way in (SHIPPED, UNSCALED)
    )
    assert max(scaled) - min(scaled) < 0.1
    assert unscaled == sorted(unscaled, reverse=True)
    assert unscaled[-1] < 0.1 * scaled[-1]


def test_without_the_largest_taken_away_exp_overflows() -> None:
    found = stability.spread_figures()
    for dtype, spread in (("float16", "spread 8"), ("bfloat16", "spread 32")):
        assert of(found, source=spread, dtype=dtype, way=UNSHIFTED).broken > 0
    for each in found:
        if each.way == SHIPPED:
            assert each.broken == 0
            assert each.error is not None
            assert each.error < 1e-4


def test_hidden_queries() -> None:
    for each in masked_figures():
        if each.way in (SHIPPED, "reference"):
            assert (each.broken, each.sums) == (0, 0)
        if each.way == "softmax over −∞":
            assert each.broken == 1


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    if result.exception:
        raise result.exception
    return result.stdout


@pytest.mark.slow
def test_the_command_draws_and_writes(tmp_path: Path) -> None:
    path, plot = tmp_path / "stability.json", tmp_path / "stability.png"
    run("stability", "--limit", 1, "--json", path, "--plot", plot)
    told = json.loads(path.read_text("utf-8"))
    runs = [StabilityFigure(**each) for each in told["runs"]]
    assert {each.source for each in runs} == {"cross-attention", "self-attention"}
    for each in runs:
        assert each.head_size == 32
        if each.way == SHIPPED:
            assert each.broken == 0
            assert each.error is not None
            assert each.error < 1e-4
    with Image.open(plot) as drawn:
        assert drawn.width > 500
