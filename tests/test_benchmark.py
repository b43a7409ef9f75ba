"""The benchmark runs and compares like with like; no test looks at the time itself."""

from __future__ import annotations

import inspect
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmark import app
from lab.benchmark import (
    MODES,
    PEER_MODES,
    STEERING_MODES,
    Loop,
    all_modes,
    make_loop,
    mode,
)
from lab.benchmark.recorded import drawn_trace
from lab.benchmark.timing import ratio, time_in_turn
from lab.benchmark.transformers import TRANSFORMERS
from lab.browser import CHROMIUM, DRIVER
from t2i_xattn.recording.record import record


@pytest.mark.parametrize("name", [name for name in (*MODES, *PEER_MODES) if "compiled" not in name])
def test_every_way_paints_the_same(name: str) -> None:
    if name in PEER_MODES:
        pytest.importorskip("attention_map_diffusers")
    loop = make_loop("tiny", dtype=torch.float32)
    plain = loop.run(2)
    assert plain.isfinite().all()
    processors = dict(loop.denoiser.attn_processors)
    with mode(name, loop):
        found = loop.run(2)
    if name == "unfused":
        assert torch.allclose(found, plain, atol=1e-4)
    else:
        assert torch.equal(found, plain)
        assert dict(loop.denoiser.attn_processors) == processors


@pytest.mark.parametrize("name", list(TRANSFORMERS))
def test_transformers_of_known_widths(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments of a call are those of the model; tried with narrow ones."""
    known = TRANSFORMERS[name]
    narrow: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 32}
    narrow |= {"num_layers": 1, "num_single_layers": 1, "axes_dims_rope": (8, 12, 12)}
    narrow |= {"caption_projection_dim": 64, "cross_attention_dim": 64}
    names = inspect.signature(known.kind.__init__).parameters
    config = known.config | {key: each for key, each in narrow.items() if key in names}
    monkeypatch.setitem(TRANSFORMERS, name, replace(known, config=config))
    loop = make_loop(name, pixels=64, tokens=8, dtype=torch.float32)
    plain = loop.run(2)
    assert plain.isfinite().all()
    for way in ("record", "edit"):
        with mode(way, loop):
            assert torch.equal(loop.run(2), plain) == (way == "record")
    with record(loop) as trace:
        loop.run(1)
    assert loop.kept_bytes == sum(each.nbytes for each in trace.run.maps["text"].values())


def test_tokens_and_pixels() -> None:
    loop = make_loop("tiny", pixels=64, tokens=154, dtype=torch.float32)
    with record(loop) as trace:
        assert loop.run(1).shape == (1, 4, 8, 8)
    assert loop.kept_bytes == sum(each.nbytes for each in trace.run.maps["text"].values())


def test_all_modes_are_timed_in_turn() -> None:
    order: list[str] = []

    class Entered:
        def __init__(self, name: str) -> None:
            self.name = name

        def __enter__(self) -> None:
            order.append(self.name)

        def __exit__(self, *_: object) -> None:
            pass

    turns = time_in_turn(lambda: None, ("a", "b"), Entered, 3)
    for number, seconds in enumerate(turns, 1):
        assert {name: len(each) for name, each in seconds.items()} == {"a": number, "b": number}
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]


def test_warming_up_is_not_measured() -> None:
    done: list[str] = []
    list(
        time_in_turn(
            lambda: done.append("run"),
            ("a", "b"),
            lambda name: nullcontext(),
            1,
            warm_up=lambda: done.append("warm"),
        )
    )
    assert done == ["warm", "warm", "run", "run"]


def test_ratios_are_of_pairs() -> None:
    found = ratio([2.0, 3.0, 10.0], [1.0, 2.0, 10.0])
    assert (found.median, found.low, found.high, found.pairs) == (1.5, 1.0, 2.0, 3)
    assert str(found) == "1.500 (1.000–2.000)"


@pytest.mark.parametrize("name", STEERING_MODES[1:])
def test_every_way_to_steer_changes_the_picture(name: str) -> None:
    loop = make_loop("tiny", dtype=torch.float32)
    plain = loop.run(2)
    processors = dict(loop.denoiser.attn_processors)
    with mode(name, loop):
        found = loop.run(2)
    assert found.isfinite().all()
    assert not torch.equal(found, plain)
    assert dict(loop.denoiser.attn_processors) == processors


def test_the_command(tmp_path: Path) -> None:
    options = ["record", "--denoiser", "tiny", "--steps", "1", "--limit", "1", "--no-compiled"]
    path = tmp_path / "figures.json"
    result = CliRunner().invoke(app, [*options, "--no-memory", "--json", str(path)])
    assert result.exit_code == 0, result.output
    figures = json.loads(path.read_text("utf-8"))
    assert set(figures["ways"]) == {name for name in all_modes() if "compiled" not in name}
    # Two sites of 16 × 16 and one of 8 × 8 places, 77 tokens, fp32.
    assert figures["kept_bytes"] == 4 * 77 * (3 * 16 * 16 + 8 * 8)
    assert figures["ways"]["record"]["median"] > 0


@pytest.mark.slow
def test_what_is_held(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    options = ["kept", "--denoiser", "tiny", "--steps", "2,5", "--ways", "record,unfused"]
    result = CliRunner().invoke(app, [*options, "--json", str(path)])
    assert result.exit_code == 0, result.output
    held = json.loads(path.read_text("utf-8"))["held_bytes"]
    maps = 4 * 77 * (3 * 16 * 16 + 8 * 8)
    # Beside the maps the texts that were encoded, and what of the loop is at hand.
    assert maps <= held["record"]["2"] < 1.3 * maps
    for each in held.values():
        assert abs(each["2"] - each["5"]) < 100, "no more with more steps but their noise levels"
    assert held["unfused"]["5"] < 0.1 * maps


def test_figures_outlive_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def interrupted(self: Loop, steps: int) -> None:
        runs.append(steps)
        if len(runs) == 8:  # two of warming up, two turns, and one more run of the third
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "run", interrupted)
    path = tmp_path / "figures.json"
    options = ["--denoiser", "tiny", "--limit", "5", "--json", str(path)]
    record = ["record", "--ways", "record", "--steps", "9", *options]
    result = CliRunner().invoke(app, record)
    assert result.exit_code != 0
    assert runs == [2, 2, 9, 9, 9, 9, 9, 9]
    assert json.loads(path.read_text("utf-8"))["ways"]["record"]["pairs"] == 2
    assert "record" in result.output

    runs.clear()
    cost = ["cost", "--steps", "1,2", "--tokens", "", "--sizes", "", *options, "--limit", "1"]
    assert CliRunner().invoke(app, cost).exit_code != 0
    rows = json.loads(path.read_text("utf-8"))["rows"]
    assert [(row["steps"], row["pairs"]) for row in rows] == [(1, 1)]


def test_cost(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    options = ["--denoiser", "tiny", "--limit", "1", "--pixels", "64", "--json", str(path)]
    chosen = ["--steps", "1,3", "--tokens", "77,154", "--sizes", "64,128"]
    result = CliRunner().invoke(app, ["cost", *chosen, *options])
    assert result.exit_code == 0, result.output
    rows = json.loads(path.read_text("utf-8"))["rows"]
    found = [(row["steps"], row["tokens"], row["pixels"]) for row in rows]
    assert found == [(1, 77, 64), (3, 77, 64), (2, 77, 64), (2, 154, 64), (2, 77, 128)]
    sizes = [row["kept_bytes"] for row in rows]
    assert sizes == [sizes[0]] * 3 + [2 * sizes[0], 4 * sizes[0]]
    assert sizes[0] == 4 * 77 * (3 * 8 * 8 + 4 * 4)
    for wrong in ("4;20", "0", "x"):
        error = CliRunner().invoke(app, ["cost", *options, "--steps", wrong]).exception
        assert "expected numbers from 1 with commas between, but came" in str(error)


@pytest.mark.slow
def test_batches(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    options = ["--lines", "4", "--steps", "1", "--limit", "1", "--processes", "1,2"]
    result = CliRunner().invoke(app, ["batch", *options, "--counts", "3", "--json", str(path)])
    assert result.exit_code == 0, result.output
    figures = json.loads(path.read_text("utf-8"))
    assert figures["plain"]["median"] == 1
    for name in ("recorded", "batch", "batch without maps", "batch against recorded"):
        assert figures[name]["median"] > 0.5
    for what in ("lines", "loops"):
        assert all(figures[f"{what} a second, {count}"] > 0 for count in (1, 2))
    assert figures["peak, 3 lines"] > 100e6


@pytest.mark.slow
def test_memory_is_told_for_few_steps_and_for_many() -> None:
    result = CliRunner().invoke(app, ["memory", "--denoiser", "tiny", "--pixels", "64"])
    assert result.exit_code == 0, result.output
    assert [line.split()[1] for line in result.output.splitlines() if "│" in line] == [
        "plain",
        "record",
        "record",
    ]


@pytest.mark.parametrize("command", ["record", "steer", "memory", "cost"])
def test_a_denoiser_that_is_not_known(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--denoiser", "sd9"])
    known = "sd15, sdxl, sd15-few, sdxl-few, tiny, sd3, flux, qwen, pixart"
    told = f"a denoiser of {known}, but came 'sd9'"
    assert told in str(result.exception)


def test_a_drawn_run_is_a_sound_trace() -> None:
    trace = drawn_trace("red red", 5, 32, steps=2, sides=(8, 4))
    for array in trace.run.maps["text"].values():
        assert np.allclose(array.sum(axis=-1), 1, atol=1e-5)
    assert [each.columns for each in trace.words] == [(1,), (2,)]
    assert trace.shares().words == pytest.approx(trace.heatmap("red").share, rel=1e-4)


def test_reports_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {"a small one": (5, 32, 2, (8,))}
    monkeypatch.setattr("lab.benchmark.report_command.CASES", cases)
    figures = tmp_path / "figures.json"
    result = CliRunner().invoke(app, ["report", "--limit", "2", "--json", str(figures)])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(figures.read_text("utf-8"))["rows"].values()
    assert row["words"] == 3
    assert row["bytes"] > 10_000
    if CHROMIUM is not None and DRIVER is not None:
        assert len(row["wall_ms"]) == 2
        assert row["cpu_ms_a_word"] > 0
