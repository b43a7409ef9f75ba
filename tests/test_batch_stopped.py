"""Batches that are killed at any moment go on to what they would have been; several processes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from batch_files import files_of, records_of, write_lines
from conftest import make_pipeline
from failing import Failing
from t2i_xattn.batch.line import Defaults
from t2i_xattn.batch.processes import Process
from t2i_xattn.batch.running import BatchRun, run_batch
from t2i_xattn.batch.writing import Writer

SHAPES: list[dict[str, Any]] = [{}, {"steps": 2}, {"negative": "blue", "guidance": 3.0}]
OPTIONS = ["--steps", "1", "--size", "64", "--guidance", "1", "--device", "cpu"]


def write_prompts(folder: Path, count: int) -> Path:
    lines = [{"prompt": f"a red circle {n}", **SHAPES[n % 3]} for n in range(count)]
    lines[2]["words"] = "none"
    return write_lines(folder / "p.jsonl", lines)


def in_a_group(run: BatchRun, rank: int, world: int, pipe: Any, records: int | None) -> None:
    """One process of a batch, in a group of its own, with the pipeline that it was forked with.

    Args:
        run, rank, world, pipe: of the batch.
        records: after so many times of writing some, all of the group is killed: soon, and whatever
            it does by then.
    """
    os.setpgrp()
    torch.set_num_threads(1)  # those of the parent are not there
    writer: Any = Writer
    write, times = writer._record, itertools.count(1)

    def then_killed(self: Any, found: Any) -> None:
        write(self, found)
        if next(times) == records:
            soon = random.Random(records + rank).uniform(0, 0.01)
            threading.Timer(soon, os.killpg, (0, signal.SIGKILL)).start()

    writer._record = then_killed
    run_batch(run, Process(rank, world, "cpu"), lambda: pipe)


def begin(run: BatchRun, rank: int, world: int, pipe: Any, records: int | None = None) -> Any:
    made = multiprocessing.get_context("fork").Process(
        target=in_a_group, args=(run, rank, world, pipe, records)
    )
    made.start()
    return made


def asked(folder: Path, out: str, **more: Any) -> BatchRun:
    defaults = Defaults(steps=1, size=(64, 64), guidance=1.0)
    return BatchRun(folder / "p.jsonl", folder / out, "tiny", defaults, **more)


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "count"), [(1, 7), (3, 12)])
def test_killed_and_gone_on(tmp_path: Path, batch_size: int, count: int) -> None:
    pipe = make_pipeline()
    write_prompts(tmp_path, count)
    run_batch(asked(tmp_path, "plain", batch_size=batch_size), Process(0, 1, "cpu"), lambda: pipe)
    run = asked(tmp_path, "out", batch_size=batch_size)
    for records in (1, 2):
        process = begin(run, 0, 1, pipe, records)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (tmp_path / "out" / "index.parquet").exists()
    before = done_in(tmp_path / "out" / "records" / "process-00000.jsonl")
    outcome = run_batch(run, Process(0, 1, "cpu"), lambda: pipe)
    assert 3 <= before == outcome.before < count
    assert outcome.done == count - before
    assert files_of(tmp_path / "out") == files_of(tmp_path / "plain")
    assert [each["line"] for each in records_of(tmp_path / "out")] == list(range(1, count + 1))


@pytest.mark.slow
def test_killed_while_trying_again(tmp_path: Path) -> None:
    count, seeds, pipe = 9, (1, 2, 5, 7, 8), make_pipeline()
    prompts = [{"prompt": f"a red circle {n}"} for n in range(count)]
    write_lines(tmp_path / "p.jsonl", prompts)
    run_batch(asked(tmp_path, "plain"), Process(0, 1, "cpu"), lambda: pipe)
    failing = [Failing(pipe, seed, ValueError("no")) for seed in seeds]
    run_batch(asked(tmp_path, "out"), Process(0, 1, "cpu"), lambda: pipe)
    for each in failing:
        each.hook.remove()
    run, shard = asked(tmp_path, "out", retry=True), tmp_path / "out/records/process-00000.jsonl"
    for _ in range(2):
        process = begin(run, 0, 1, pipe, 1)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    again = done_in(shard) - count
    assert again >= 2
    outcome = run_batch(run, Process(0, 1, "cpu"), lambda: pipe)
    assert (outcome.done, outcome.before) == (len(seeds) - again, count - len(seeds) + again)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "plain")
    lines = sorted(each["line"] for each in records_of(tmp_path / "out"))
    assert lines == sorted([*range(1, count + 1), *seeds])


def done_in(shard: Path) -> int:
    return shard.read_bytes().count(b"\n")


@pytest.mark.slow
def test_two_processes_at_once_and_then_three(tmp_path: Path) -> None:
    count, pipe = 12, make_pipeline()
    write_prompts(tmp_path, count)
    run_batch(asked(tmp_path, "plain"), Process(0, 1, "cpu"), lambda: pipe)
    run = asked(tmp_path, "out")
    for each in [begin(run, rank, 2, pipe, 2) for rank in range(2)]:
        each.join()
        assert each.exitcode == -signal.SIGKILL
    for each in [begin(run, rank, 3, pipe) for rank in range(3)]:
        each.join()
        assert each.exitcode == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "plain")
    assert [each["line"] for each in records_of(tmp_path / "out")] == list(range(1, count + 1))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    return folder


def launched(folder: Path, out: str, model: Path, processes: int, *more: str) -> list[str]:
    """The command as a user gives it, over so many processes."""
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
        command += ["--num_processes", str(processes), "-m"]
    command += ["t2i_xattn", "batch", str(folder / "p.jsonl"), "--out", str(folder / out)]
    return [*command, "--model", str(model), *OPTIONS, *more]


def to_its_end(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment() -> dict[str, str]:
    # Sums have one order in one thread.
    return os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_accelerate_launches_two_processes(model: Path, tmp_path: Path) -> None:
    write_prompts(tmp_path, 12)
    printed = to_its_end(launched(tmp_path, "one", model, 1))
    assert "12 lines done, 1 of them failed" in printed
    printed = to_its_end(launched(tmp_path, "two", model, 2))
    for rank in (0, 1):
        assert f"process {rank} of 2: 6 lines done" in printed
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    ranks = {path.name for path in (tmp_path / "two" / "records").iterdir()}
    assert ranks == {"process-00000.jsonl", "process-00001.jsonl"}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_twenty_kills_at_any_moment(model: Path, tmp_path: Path, processes: int) -> None:
    count, kills = 90, 20
    write_prompts(tmp_path, count)
    to_its_end(launched(tmp_path, "plain", model, 1, "--batch-size", "2"))
    command = launched(tmp_path, "out", model, processes, "--batch-size", "2")
    moments = random.Random(processes)
    done = [0]
    for _ in range(kills):
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        )
        # Loading takes seconds; from there on at any moment.
        records = tmp_path / "out" / "records"
        while process.poll() is None and written(records) == done[-1] < count:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        kill_all(process)
        done.append(written(records))
    to_its_end(command)
    assert done == sorted(done)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "plain")
    assert [each["line"] for each in records_of(tmp_path / "out")] == list(range(1, count + 1))


def written(records: Path) -> int:
    return sum(map(done_in, records.glob("*.jsonl")))


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """A launched process and those that it launched, which have sessions of their own."""
    try:
        found = psutil.Process(process.pid)
        family = [found, *found.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for each in family:
        each.kill()
    process.wait()
    psutil.wait_procs(family)
