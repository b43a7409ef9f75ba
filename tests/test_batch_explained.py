"""`t2i-xattn batch --explain`: what each word of each line does, in the index and in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pyarrow import parquet

import t2i_xattn as tx
from batch_files import files_of, write_lines
from command_line import run
from conftest import make_pipeline
from failing import Failing
from t2i_xattn.batch.line import Defaults
from t2i_xattn.batch.processes import Process
from t2i_xattn.batch.running import BatchRun, Outcome, run_batch
from t2i_xattn.errors import UserError

LINES: list[dict[str, Any]] = [
    {"prompt": "a red circle", "seed": 7},
    {"prompt": "a red circle left", "words": ["red circle", "left"]},
    {"prompt": "a red circle", "weight": {"red": 2.0}},
    {"prompt": "a red circle", "words": "square"},
]
DEFAULTS = Defaults(steps=4, size=(64, 64), guidance=3.0)


@pytest.fixture
def pipe() -> Any:
    pipe = make_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def explained(prompts: Path, out: Path, pipe: Any, **changes: Any) -> Outcome:
    asked = BatchRun(prompts, out, "tiny", DEFAULTS, explains=True, **changes)
    return run_batch(asked, Process(0, 1, "cpu"), lambda: pipe)


def rows_of(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(out / "index.parquet").to_pylist()
    return rows


def test_the_index_says_what_explain_says(pipe: Any, tmp_path: Path) -> None:
    prompts = write_lines(tmp_path / "p.jsonl", LINES)
    outcome = explained(prompts, tmp_path / "out", pipe)
    assert (outcome.done, outcome.failed) == (4, 1)
    rows = rows_of(tmp_path / "out")
    for row, words in ((rows[0], ["a", "red", "circle"]), (rows[1], ["red circle", "left"])):
        found = tx.explain(
            pipe, row["prompt"], words=words, seeds=[row["seed"]], walk=1,
            num_inference_steps=4, height=64, width=64, guidance_scale=3.0,
        )  # fmt: skip
        assert [each["word"] for each in row["words"]] == words
        for each in row["words"]:
            said = found.word(each["word"])
            assert each["effect"] == pytest.approx(said.sizes["text"].mean, rel=1e-4)
            assert each["grade"] == said.grade
            assert (each["region"] is None) == (said.grade == "nothing")
            if each["region"] is not None:
                assert tuple(each["region"].values()) == found.region(each["word"]).box()
        written = json.loads((tmp_path / "out" / row["explanation"]).read_text("utf-8"))
        assert written["prompt"] == row["prompt"]
        assert [each["grade"] for each in written["words"]] == [w["grade"] for w in row["words"]]
        assert written["made"]["options"]["seed"] == row["seed"]
        with Image.open(tmp_path / "out" / row["picture"]) as picture:
            assert picture.tobytes() == found.pictures[0].image.tobytes()
        assert tx.Trace.load(tmp_path / "out" / row["trace"]).heatmap(words[0]).share > 0


def test_lines_with_edits_are_painted_as_without(pipe: Any, tmp_path: Path) -> None:
    prompts = write_lines(tmp_path / "p.jsonl", LINES[2:])
    explained(prompts, tmp_path / "out", pipe)
    plain = BatchRun(prompts, tmp_path / "plain", "tiny", DEFAULTS)
    run_batch(plain, Process(0, 1, "cpu"), lambda: pipe)
    row, failed = rows_of(tmp_path / "out")
    assert (row["explanation"], failed["explanation"]) == (None, None)
    assert "'square' is not in the prompt" in failed["error"]
    assert {each["effect"] for each in row["words"]} == {None}
    one, other = (files_of(tmp_path / name) for name in ("out", "plain"))
    assert one[row["picture"]] == other[row["picture"]]


def test_a_stopped_one_goes_on(pipe: Any, tmp_path: Path) -> None:
    """Lines of one batch are explained by themselves, so those that are done stay as they are."""
    prompts = write_lines(tmp_path / "p.jsonl", [{"prompt": f"red {n}"} for n in range(3)])
    explained(prompts, tmp_path / "whole", pipe, batch_size=3)
    failing = Failing(pipe, 2, OSError(28, "No space left on device"))
    with pytest.raises(UserError, match="No space"):
        explained(prompts, tmp_path / "out", pipe, batch_size=1)
    failing.hook.remove()
    assert explained(prompts, tmp_path / "out", pipe, batch_size=1).before == 1
    one, other = (files_of(tmp_path / name) for name in ("whole", "out"))
    assert set(one) == set(other)
    assert {n for n in one if one[n] != other[n]} == {"batch.json"}


def test_memory_that_runs_out_halves_what_is_asked_at_once(pipe: Any, tmp_path: Path) -> None:
    prompts = write_lines(tmp_path / "p.jsonl", LINES[:1])
    rows = []

    def room_for_four(module: Any, inputs: tuple[Any, ...]) -> None:
        rows.append(len(inputs[0]))
        if rows[-1] > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    pipe.unet.register_forward_pre_hook(room_for_four)
    assert explained(prompts, tmp_path / "out", pipe).failed == 0
    assert max(rows) > 4
    assert rows[-1] <= 4
    assert rows_of(tmp_path / "out")[0]["explanation"] is not None


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("steps", [1, 4])
def test_a_model_that_gives_no_numbers_is_told(pipe: Any, tmp_path: Path, steps: int) -> None:
    with torch.no_grad():
        pipe.unet.conv_out.weight.fill_(torch.nan)
    prompts = write_lines(tmp_path / "p.jsonl", [LINES[0] | {"steps": steps}])
    assert explained(prompts, tmp_path / "out", pipe).failed == 1
    (row,) = rows_of(tmp_path / "out")
    assert "NaN" in row["error"]
    assert (row["picture"], row["explanation"]) == (None, None)


def test_explaining_without_maps_is_refused(tmp_path: Path) -> None:
    prompts = write_lines(tmp_path / "p.jsonl", LINES[:1])
    code, printed, error = run("batch", prompts, "--explain", "--no-maps", "--out", tmp_path / "o")
    assert (code, printed) == (2, "")
    assert "expected no --explain beside --no-maps" in error
    assert not (tmp_path / "o").exists()
