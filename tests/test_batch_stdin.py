"""Prompts that come by a pipe: `t2i-xattn batch -`."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from batch_files import files_of, write_lines
from command_line import run
from conftest import make_pipeline
from t2i_xattn.batch.incoming import written_down
from t2i_xattn.batch.line import Defaults
from t2i_xattn.batch.processes import Process
from t2i_xattn.batch.reading import LONGEST, Form, read_lines
from t2i_xattn.batch.running import BatchRun, Outcome, run_batch
from t2i_xattn.commands import batch as command
from t2i_xattn.errors import UserError

DEFAULTS = Defaults(steps=1, size=(64, 64), guidance=1.0)
LINES = [{"prompt": f"red {n}", "id": str(n)} for n in range(3)]
JSON = "".join(json.dumps(line) + "\n" for line in LINES).encode()


@pytest.fixture
def pipe() -> Any:
    return make_pipeline()


def piped(data: bytes, out: Path, pipe: Any, form: Form | None = None) -> Outcome:
    """A batch of what comes by a pipe."""
    with written_down(io.BytesIO(data), form) as (path, found):
        asked = BatchRun(path, out, "tiny", DEFAULTS, form=found, keep_prompts=True)
        return run_batch(asked, Process(0, 1, "cpu"), lambda: pipe)


def heard(data: bytes, form: Form | None = None) -> tuple[Form, list[str]]:
    with written_down(io.BytesIO(data), form) as (path, found):
        return found, [line.request.prompt for line in read_lines(path, DEFAULTS, found)]


@pytest.mark.parametrize(
    ("data", "form", "found", "prompts"),
    [
        (JSON, None, "jsonl", ["red 0", "red 1", "red 2"]),
        (b'\xef\xbb\xbf\n  \n {"prompt": "x"}', None, "jsonl", ["x"]),
        (b"a red circle\r\n\r\nblue, left\n", None, "txt", ["a red circle", "blue, left"]),
        (b"seed,prompt\n3,a red circle\n", None, "csv", ["a red circle"]),
        (b"prompt\na red circle\n", None, "csv", ["a red circle"]),
        (b"a prompt,seed\n", None, "txt", ["a prompt,seed"]),
        (b"seed,prompt\n", "txt", "txt", ["seed,prompt"]),
        (b'{"a": "b"}', "txt", "txt", ['{"a": "b"}']),
    ],
)
def test_what_it_is_is_told_by_its_first_line(
    data: bytes, form: Form | None, found: str, prompts: list[str]
) -> None:
    assert heard(data, form) == (found, prompts)


def test_an_endless_line_is_told(tmp_path: Path) -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            buffer[:] = b"x" * len(buffer)
            return len(buffer)

    sentence = f"at most {LONGEST} bytes, but line 1 of standard input is longer"
    with (
        pytest.raises(UserError, match=sentence),
        written_down(io.BufferedReader(Endless()), None),
    ):
        pytest.fail("read to its end")


def test_it_does_what_a_file_does_and_goes_on(pipe: Any, tmp_path: Path) -> None:
    prompts = write_lines(tmp_path / "p.jsonl", LINES)
    asked = BatchRun(prompts, tmp_path / "plain", "tiny", DEFAULTS)
    run_batch(asked, Process(0, 1, "cpu"), lambda: pipe)
    out = tmp_path / "out"
    outcome = piped(JSON, out, pipe)
    assert (outcome.done, outcome.index) == (3, True)
    found, plain = files_of(out), files_of(tmp_path / "plain")
    assert found.pop("stdin.jsonl") == JSON
    assert found == plain
    # Stopped after the first line, it goes on with the same lines, by a pipe or from what is kept.
    shard = out / "records" / "process-00000.jsonl"
    records = shard.read_bytes()
    for way in ("pipe", "file"):
        shard.write_bytes(records.splitlines(keepends=True)[0])
        (out / "index.parquet").unlink()
        if way == "pipe":
            outcome = piped(JSON, out, pipe)
        else:
            asked = BatchRun(out / "stdin.jsonl", out, "tiny", DEFAULTS)
            outcome = run_batch(asked, Process(0, 1, "cpu"), lambda: pipe)
        assert (outcome.done, outcome.before, outcome.index) == (2, 1, True)
        assert files_of(out) == plain | {"stdin.jsonl": JSON}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (JSON.replace(b"red 1", b"blue"), r"as line 2 came '.*blue"),
        (JSON + b'{"prompt": "more"}\n', r"as line 4 came '.*more"),
        (JSON[: JSON.index(b"\n") + 1], r"as line 2 came none"),
        (b"red\n", "the form that .* was begun with, 'jsonl', but came 'txt'|SHA-256"),
    ],
)
def test_other_lines_are_refused(pipe: Any, tmp_path: Path, data: bytes, sentence: str) -> None:
    out = tmp_path / "out"
    piped(JSON, out, pipe)
    before = files_of(out)
    with pytest.raises(UserError, match=sentence) as caught:
        piped(data, out, pipe)
    assert "another --out" in str(caught.value)
    assert files_of(out) == before


def test_the_same_bytes_as_another_kind_of_file_are_refused(pipe: Any, tmp_path: Path) -> None:
    piped(b"prompt\nred\n", tmp_path / "out", pipe)
    with pytest.raises(UserError, match=r"the form that .* 'csv', but came 'txt'"):
        piped(b"prompt\nred\n", tmp_path / "out", pipe, "txt")


def test_nothing_is_left_where_nothing_was_begun(pipe: Any, tmp_path: Path) -> None:
    for data, sentence in ((b"", "it has none"), (b'{"promt": "x"}', "'promt'")):
        with pytest.raises(UserError, match=sentence):
            piped(data, tmp_path / "out", pipe)
    assert not (tmp_path / "out").exists()


def test_several_processes_cannot_read_it(tmp_path: Path) -> None:
    asked = BatchRun(Path("-"), tmp_path, "tiny", DEFAULTS)
    with (
        pytest.raises(UserError, match="a file of prompts for 2 processes, but came -"),
        command._from_standard_input(asked, Process(0, 2, None)),
    ):
        pytest.fail("read")


def test_a_format_is_given_to_a_file_too(pipe: Any, tmp_path: Path) -> None:
    (tmp_path / "prompts").write_bytes(JSON)
    code, _, error = run("batch", tmp_path / "prompts", "--out", tmp_path / "out")
    assert (code, error.count("\n")) == (2, 1)
    assert "say it with --format" in error
    asked = BatchRun(tmp_path / "prompts", tmp_path / "out", "tiny", DEFAULTS, form="jsonl")
    run_batch(asked, Process(0, 1, "cpu"), lambda: pipe)
    rows = parquet.read_table(tmp_path / "out" / "index.parquet").to_pylist()
    assert [row["id"] for row in rows] == ["0", "1", "2"]


@pytest.mark.slow
def test_by_a_true_pipe(tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path / "model")
    given = [sys.executable, "-m", "t2i_xattn", "batch", "-", "--out", str(tmp_path / "out")]
    given += ["--model", str(tmp_path / "model"), "--steps", "1", "--size", "64", "--device", "cpu"]
    for printed in ("3 lines done\n", "0 lines done, 3 before\n"):
        done = subprocess.run(given, input=JSON, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode() == printed + f"{tmp_path / 'out' / 'index.parquet'}\n"
