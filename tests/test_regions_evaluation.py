"""Regions held against drawn objects: what is counted, and how quality is held against IoU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from evaluate import app
from lab.evaluation import regions as evaluation
from lab.evaluation.regions import DEFAULTS, MEASURES, SCALES, THRESHOLDS, evaluate_regions
from t2i_xattn.errors import UserError
from t2i_xattn.recording.record import record
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.quality import Quality


def test_right_maps_have_full_marks(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = evaluation._nouns

    def perfect(*given: Any) -> Iterator[Any]:
        for way, maps, masks in real(*given):
            yield (
                way,
                [
                    HeatMap(heat.word, mask.astype(np.float32))
                    for heat, mask in zip(maps, masks, strict=True)
                ],
                masks,
            )

    monkeypatch.setattr(evaluation, "_nouns", perfect)
    figures, ranks = evaluate_regions(pipe, 4, timesteps=(200, 800), batch=3)
    assert len(figures) == 2 * (len(THRESHOLDS) + len(SCALES))
    for each in figures:
        assert (each.iou, each.background, each.accuracy, each.void) == (1, 1, 1, 0)
    assert {each.n for each in figures} == {ranks[0].n}
    # Where all regions are right there is no order.
    assert all(each.correlation is None for each in ranks)


def test_regions_of_a_tiny_pipeline(pipe: Any) -> None:
    figures, ranks = evaluate_regions(pipe, 5, timesteps=(500,), batch=2)
    keys = {(each.way, each.threshold, each.scale, each.undecided) for each in figures}
    assert len(keys) == len(figures)
    for each in figures:
        assert 0 <= each.iou <= 1
        assert (each.void > 0) == (each.undecided > 0)
    assert {each.way for each in ranks} == set(DEFAULTS)
    assert (figures, ranks) == evaluate_regions(pipe, 5, timesteps=(500,), batch=2)
    with pytest.raises(UserError, match="scenes of 1 or more, but came 0"):
        evaluate_regions(pipe, 0)


def test_the_defaults_are_those_of_a_trace(pipe: Any, draw: Any) -> None:
    for way, walk in (("mean", 0), ("agreed", 1)):
        with record(pipe, walk=walk) as trace:
            draw(pipe)
        assert trace.regions(["circle"]).cuts == (DEFAULTS[way],)


def test_ranks_by_hand() -> None:
    rng = np.random.default_rng(0)
    fits = rng.permutation(np.linspace(0, 1, 40))
    every = [
        (float(fit), Quality("x", 1 - fit, 0.5, fit**3, rng.random(), 1.0, fit**2)) for fit in fits
    ]
    found = evaluation.rank_figures(
        {("mean", None): every, ("mean", 200): every[:20], ("mean", 500): every[20:]}
    )
    by_key = {(each.timestep, each.measure): each for each in found}
    assert len(found) == 3 * len(MEASURES)
    assert by_key[None, "margin"].correlation == pytest.approx(1)
    assert by_key[200, "estimate"].correlation == pytest.approx(1)
    assert by_key[None, "area"].correlation == pytest.approx(-1)
    assert by_key[None, "overlap"].correlation is None
    assert by_key[None, "estimate"].quarters == pytest.approx(
        [part.mean() for part in np.split(np.sort(fits), 4)]
    )
    assert (by_key[None, "area"].n, by_key[500, "area"].n) == (40, 20)


def test_the_command_prints_both_tables(pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    out = tmp_path / "figures.json"
    options = ["--model", str(tmp_path / "model"), "--limit", "1", "--json", str(out)]
    done = CliRunner().invoke(app, ["regions", *options], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    values = json.loads(out.read_text())
    assert len(values["regions"]) == 2 * (len(THRESHOLDS) + len(SCALES))
    assert {each["measure"] for each in values["quality"]} == set(MEASURES)
    assert f"{values['regions'][0]['iou']:.3f}" in done.output
    assert "rank correlation" in done.output
