"""What holds maps and grades against interventions: counted by hand, and whole commands."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import t2i_xattn as tx
from conftest import make_pipeline
from evaluate import app
from lab.evaluation.explained import ExplainedCase
from lab.evaluation.faithfulness import (
    ALL,
    UNION,
    effect_figures,
    is_right,
    trust_figures,
    which_of_two,
)
from lab.evaluation.gradients import gradient_weighted
from lab.evaluation.intervened import _Pass
from lab.evaluation.one_pass import conditions
from t2i_xattn.edits.edit import EditContext
from t2i_xattn.edits.function import EditFunction
from t2i_xattn.traces.heat_map import HeatMap

REGION, EFFECT = "region (effect and attention)", "effect of other words"


def case(
    grade: str, probability: float, array: Any, truth: Any, kind: str = "colour", **more: Any
) -> ExplainedCase:
    heat = HeatMap("red", np.asarray(array, dtype=np.float32))
    word: Any = SimpleNamespace(grade=grade, probability=probability)
    given = {"other": None, "union": None} | more
    return ExplainedCase(0, kind, word, truth, maps={REGION: heat, EFFECT: heat}, **given)


@pytest.fixture
def truth() -> Any:
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:5, 2:5] = True
    return mask


def test_right_is_a_region_that_fits_or_an_effect_inside(truth: Any) -> None:
    assert is_right(case("trust", 0.9, truth, truth))
    assert not is_right(case("trust", 0.9, ~truth, truth))
    # The region is far too large, but most of the squared effect is inside.
    wide = truth * 1.0
    wide[0] = 0.6
    assert (wide[0] ** 2).sum() < (wide[truth] ** 2).sum()
    assert is_right(case("trust", 0.9, wide, truth))


def test_trust_by_grade_and_by_what_was_said(truth: Any) -> None:
    right, wrong = truth * 1.0, ~truth * 1.0
    pictures = [
        [case("trust", 0.9, right, truth), case("doubt", 0.5, wrong, truth)],
        [case("trust", 0.88, wrong, truth), case("nothing", 0.3, wrong, truth)],
    ]
    by = {each.of: each for each in trust_figures(pictures)}
    assert (by["trust"].right.right, by["trust"].right.n) == (1, 2)
    assert by["trust"].said == pytest.approx(0.89)
    assert (by["doubt"].right.right, by["nothing"].right.n) == (0, 1)
    assert [name for name in by if "to" in name] == [
        "0.00 to 0.40", "0.40 to 0.60", "0.85 to 0.90", "0.90 to 1.00",
    ]  # fmt: skip


def test_maps_by_kind_and_the_map_that_knows_nothing(truth: Any) -> None:
    pictures = [
        [case("trust", 0.9, truth, truth), case("trust", 0.9, ~truth, truth, "thing", union=truth)]
    ]
    by = {(each.map_of, each.kind): each for each in effect_figures(pictures)}
    assert by[REGION, "colour"].iou_true_area.value == 1
    assert by[REGION, "thing"].pointing.value == 0
    assert by[REGION, UNION].energy.value == 0
    assert by[REGION, ALL].iou_true_area.value == pytest.approx(0.5)
    assert by["chance", "colour"].pointing.value == pytest.approx(9 / 64)


def test_which_of_two_things(truth: Any) -> None:
    other = np.zeros_like(truth)
    other[6:] = True
    found = which_of_two([[case("trust", 0.9, truth, truth, other=other)]], EFFECT)
    assert (found.right, found.n) == (1, 1)
    found = which_of_two([[case("trust", 0.9, other, truth, other=other)]], EFFECT)
    assert (found.right, found.n) == (0, 1)


def test_gradient_weighted_attention_is_what_a_scaled_column_changes() -> None:
    """Σ P ∘ ∂L/∂P of a column is dL/ds where the column's probs are scaled by s, held against
    central differences in fp64."""
    pipe = make_pipeline()
    pipe.unet.to(torch.float64)
    pipe.text_encoder.to(torch.float64)
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    column = 2

    def answered() -> Any:
        with torch.no_grad():
            given = conditions(pipe, ["a red circle"], noisy)
        return pipe.unet(noisy, torch.tensor(500), **given).sample

    signed: list[float] = []
    clamp = torch.Tensor.clamp

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        # The map keeps positive parts; the sum that can be told by differences has all of them.
        if kwargs == {"min": 0} and self.dim() == 3:
            signed.append(float(self[..., column].sum()))
        return clamp(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "clamp", watched)
        (heat,) = gradient_weighted(pipe, answered, [[column]], (8, 8), (64, 64))
    assert heat.shape == (64, 64)
    assert (heat >= 0).all()

    def loss(scale: float) -> float:
        def scaled(probs: Any, context: EditContext) -> Any:
            probs[..., column] *= scale
            return probs

        with tx.edit(pipe, EditFunction(scaled)), torch.no_grad():
            return float(0.5 * answered().square().sum())

    step = 1e-3
    assert sum(signed) == pytest.approx((loss(1 + step) - loss(1 - step)) / (2 * step), rel=1e-3)


def test_all_places_with_the_other_text_is_the_other_text() -> None:
    pipe = make_pipeline()
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    one, other = "a red circle", "a blue circle"
    pass_ = _Pass(pipe, noisy)
    everywhere, half = np.ones((64, 64), dtype=bool), np.zeros((64, 64), dtype=bool)
    half[:32] = True
    plain, changed = pass_.answers([one, other])
    assert not torch.allclose(plain, changed, atol=1e-5)
    found = pass_.answers([one, one], [(other, everywhere), (other, half)])
    torch.testing.assert_close(found[0], changed, atol=1e-6, rtol=0)
    part = ((found[1] - plain) * (changed - plain)).sum() / (changed - plain).square().sum()
    assert 0.1 < part < 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "key"),
    [
        (["interventions", "--limit", "1"], "interventions"),
        (["trust", "--limit", "2", "--steps", "8"], "trust"),
        (["carriers", "--limit", "1", "--steps", "8"], "carriers"),
    ],
)
def test_whole_commands(tmp_path: Path, command: list[str], key: str) -> None:
    result = CliRunner().invoke(app, [*command, "--json", str(tmp_path / "f.json")])
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "f.json").read_text("utf-8"))[key]
    assert figures
    if key == "interventions":
        every = {each["way"]: each for each in figures if each["kind"] == "all kinds"}
        assert every["carried"]["deletion"]["mean"] > 2 * every["no map"]["deletion"]["mean"]
        assert every["effect of another word"]["agreement"]["mean"] == pytest.approx(1)
