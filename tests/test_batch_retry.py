"""Lines of a batch that failed are tried again with `--retry`, and no others."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from batch_files import files_of, records_of, write_lines
from command_line import run
from conftest import make_pipeline
from failing import Failing
from t2i_xattn.batch.done import Done
from t2i_xattn.batch.line import Defaults
from t2i_xattn.batch.processes import Process
from t2i_xattn.batch.running import BatchRun, Outcome, run_batch
from t2i_xattn.batch.writing import Writer

DEFAULTS = Defaults(steps=1, size=(64, 64), guidance=1.0)


@pytest.fixture
def pipe() -> Any:
    return make_pipeline()


def prompts_of(folder: Path, count: int) -> Path:
    return write_lines(folder / "p.jsonl", [{"prompt": f"red {n}"} for n in range(count)])


def run_here(prompts: Path, out: Path, pipe: Any, world: int = 1, **changes: Any) -> list[Outcome]:
    asked = BatchRun(prompts, out, "tiny", DEFAULTS, **changes)
    return [run_batch(asked, Process(rank, world, "cpu"), lambda: pipe) for rank in range(world)]


def errors_of(out: Path) -> dict[int, str | None]:
    rows = parquet.read_table(out / "index.parquet").to_pylist()
    assert [row["line"] for row in rows] == list(range(1, len(rows) + 1))
    return {row["line"]: row["error"] for row in rows}


@pytest.mark.parametrize("size", [1, 3])
def test_only_what_failed_is_painted_again(pipe: Any, tmp_path: Path, size: int) -> None:
    prompts, out = prompts_of(tmp_path, 5), tmp_path / "out"
    run_here(prompts, tmp_path / "plain", pipe, batch_size=size)
    failing = Failing(pipe, 2, ValueError("no room"))
    run_here(prompts, out, pipe, batch_size=size)
    assert errors_of(out) == {1: None, 2: "ValueError: no room", 3: None, 4: None, 5: None}
    failing.hook.remove()
    before, rows = files_of(out), []
    pipe.unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))

    (outcome,) = run_here(prompts, out, pipe, batch_size=size)
    assert (outcome.done, outcome.before, rows) == (0, 5, [])  # unless it is asked for
    assert files_of(out) == before

    (outcome,) = run_here(prompts, out, pipe, batch_size=size, retry=True)
    assert (outcome.done, outcome.before, outcome.failed, outcome.index) == (1, 4, 0, True)
    assert rows == [1]
    assert set(errors_of(out).values()) == {None}
    after = files_of(out)
    assert {name for name in after if before.get(name) != after[name]} == {
        "index.parquet",
        "pictures/0000/000002.png",
        "traces/0000/000002.safetensors",
    }
    if size == 1:
        assert after == files_of(tmp_path / "plain")

    (outcome,) = run_here(prompts, out, pipe, batch_size=size, retry=True)
    assert (outcome.done, outcome.before, rows) == (0, 5, [1])


def test_what_fails_again_has_its_new_reason(pipe: Any, tmp_path: Path) -> None:
    prompts, out = prompts_of(tmp_path, 3), tmp_path / "out"
    for reason, world in (("first", 2), ("second", 3), ("third", 1)):
        failing = Failing(pipe, 3, ValueError(reason))
        outcomes = run_here(prompts, out, pipe, world, retry=True)
        assert sum(each.failed for each in outcomes) == 1
        assert errors_of(out) == {1: None, 2: None, 3: f"ValueError: {reason}"}
        failing.hook.remove()
    tries = sorted(record["try"] for record in records_of(out) if record["line"] == 3)
    assert tries == [1, 2, 3]


def test_the_best_record_counts_in_any_order() -> None:
    failed: list[dict[str, Any]] = [{"line": 2, "try": n, "error": f"try {n}"} for n in (1, 2, 3)]
    worked: dict[str, Any] = {"line": 2, "try": 4, "error": None}
    for records in itertools.permutations([*failed, worked]):
        done = Done()
        best = [record for record in records if done.note(record)][-1]
        assert (best, done.failed, 2 in done, len(done)) == (worked, {}, True, 1)
    for records in itertools.permutations(failed):
        done = Done()
        best = [record for record in records if done.note(record)][-1]
        assert (best["try"], done.failed) == (3, {2: 3})
    # Records of before there were tries.
    done = Done()
    assert done.note({"line": 1, "error": "x"})
    assert done.failed == {1: 1}


class Stopped(BaseException):
    """As if the process was gone."""


@pytest.mark.parametrize("size", [1, 2])
def test_stopped_in_the_middle_of_trying_again(pipe: Any, tmp_path: Path, size: int) -> None:
    """After each number of records, with half of the next one written."""
    prompts, out = prompts_of(tmp_path, 5), tmp_path / "out"
    run_here(prompts, tmp_path / "plain", pipe, batch_size=size)
    failing = [Failing(pipe, seed, ValueError("no")) for seed in (1, 3, 4)]
    run_here(prompts, out, pipe, batch_size=size)
    for each in failing:
        each.hook.remove()
    shard = out / "records" / "process-00000.jsonl"
    whole, index = shard.read_bytes(), (out / "index.parquet").read_bytes()
    run_here(prompts, out, pipe, batch_size=size, retry=True)
    again = shard.read_bytes()[len(whole) :].splitlines(keepends=True)
    # Two lines of a batch may be written together.
    assert [json.loads(each)["line"] for each in again] == [1, 3, 4]
    finished = files_of(out)
    for kept in range(4):
        for half in (b"", b'{"line": 4, "err'):
            shard.write_bytes(whole + b"".join(again[:kept]) + half)
            (out / "index.parquet").write_bytes(index)
            for name in (f"pictures/0000/00000{n}.png" for n in (1, 3, 4)[kept:]):
                (out / name).unlink()
            (outcome,) = run_here(prompts, out, pipe, batch_size=size, retry=True)
            assert (outcome.done, outcome.before) == (3 - kept, 2 + kept)
            assert set(errors_of(out).values()) == {None}
            assert files_of(out).keys() == finished.keys()
            if size == 1:
                assert files_of(out) == finished == files_of(tmp_path / "plain")
    # What broke off in the midst of writing is whole for a run without it, too.
    shard.write_bytes(whole + again[0])
    (outcome,) = run_here(prompts, out, pipe, batch_size=size)
    assert (outcome.done, outcome.before) == (0, 5)
    assert [n for n, error in errors_of(out).items() if error is not None] == [3, 4]


def test_an_interrupt_while_trying_again_keeps_what_worked(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, out = prompts_of(tmp_path, 4), tmp_path / "out"
    failing = [Failing(pipe, seed, ValueError("no")) for seed in (2, 3, 4)]
    run_here(prompts, out, pipe)
    for each in failing:
        each.hook.remove()
    put, times = Writer.put, itertools.count(1)

    def then_stopped(self: Writer, *given: Any) -> None:
        put(self, *given)
        if next(times) == 2:
            raise Stopped

    monkeypatch.setattr(Writer, "put", then_stopped)
    with pytest.raises(Stopped):
        run_here(prompts, out, pipe, retry=True)
    (outcome,) = run_here(prompts, out, pipe, retry=True)
    assert (outcome.done, outcome.before, outcome.index) == (1, 3, True)
    assert set(errors_of(out).values()) == {None}
    tries = [(record["line"], record["try"]) for record in records_of(out)]
    assert sorted(tries) == [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (4, 1), (4, 2)]


@pytest.mark.slow
def test_by_the_command_what_was_beyond_the_limits(tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path / "model")
    prompts = write_lines(
        tmp_path / "p.jsonl", [{"prompt": "a red circle"}, {"prompt": "red", "guidance": 101}]
    )
    given = ["--model", tmp_path / "model", "--steps", 1, "--size", 64, "--device", "cpu"]
    given += ["--out", tmp_path / "out"]
    code, printed, _ = run("batch", prompts, *given)
    assert (code, printed.splitlines()[0]) == (
        0,
        "2 lines done, 1 of them failed, see error in the index",
    )
    code, printed, _ = run("batch", prompts, *given, "--retry", "--no-limits")
    assert (code, printed.splitlines()[0]) == (0, "1 lines done, 1 before")
    assert errors_of(tmp_path / "out") == {1: None, 2: None}
