"""What `t2i-xattn batch` costs: against a loop by hand, with more processes, with more lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lab.benchmark.timing import Ratio, ratio, time_in_turn
from t2i_xattn.batch.line import Defaults
from t2i_xattn.batch.processes import Process
from t2i_xattn.batch.running import BatchRun, run_batch
from t2i_xattn.recording.record import record

WAYS = ("plain", "recorded", "batch", "batch without maps")
"""A loop over the pipeline that keeps nothing, one inside `record`, a batch that writes all, and
one that writes pictures alone."""

_COMMAND = """
import resource, sys
from t2i_xattn.commands.app import app

app(sys.argv[1:], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


_LOOP = """
import sys, time
import torch
import t2i_xattn

pipe = t2i_xattn.load_default()
pipe.set_progress_bar_config(disable=True)
steps, seconds = int(sys.argv[1]), float(sys.argv[2])


def paint(seed):
    pipe("a red circle left of a blue square", num_inference_steps=steps, guidance_scale=5.0,
         generator=torch.Generator().manual_seed(seed))


paint(0)
print("ready", flush=True)
sys.stdin.readline()
begin, count = time.perf_counter(), 0
while time.perf_counter() - begin < seconds:
    count += 1
    paint(count)
print(count / (time.perf_counter() - begin))
"""


def write_prompts(folder: Path, lines: int) -> Path:
    """A file of prompts that the model in the box can paint."""
    path = folder / "prompts.jsonl"
    colours = ("red", "blue", "green", "yellow")
    prompts = [
        f"a {colours[n % 4]} circle left of a {colours[n // 4 % 4]} square" for n in range(lines)
    ]
    path.write_text("".join(json.dumps({"prompt": each}) + "\n" for each in prompts), "utf-8")
    return path


def overhead(
    pipe: Any,
    lines: int,
    steps: int,
    walk: int,
    pairs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Ratio]:
    """Times of `WAYS`, each against the plain one and `batch` against `recorded` as well."""
    pipe.set_progress_bar_config(disable=True)
    chosen = WAYS[0]

    @contextmanager
    def enter(name: str) -> Iterator[None]:
        nonlocal chosen
        chosen = name
        yield

    with tempfile.TemporaryDirectory() as folder:
        prompts = write_prompts(Path(folder), lines)
        texts = [json.loads(line)["prompt"] for line in prompts.read_text("utf-8").splitlines()]

        def run(count: int = lines) -> None:
            if chosen.startswith("batch"):
                with tempfile.TemporaryDirectory(dir=folder) as out:
                    defaults, maps = Defaults(steps=steps), chosen == "batch"
                    asked = BatchRun(prompts, Path(out), "world", defaults, walk, maps=maps)
                    run_batch(asked, Process(0, 1, None), lambda: pipe)
                return
            for number, text in enumerate(texts[:count], 1):
                given: dict[str, Any] = {"generator": torch.Generator().manual_seed(number)}
                given |= {"num_inference_steps": steps, "guidance_scale": 5.0}
                if chosen == "recorded":
                    with record(pipe, walk=walk):
                        pipe(text, **given)
                else:
                    pipe(text, **given)

        *_, seconds = time_in_turn(run, WAYS, enter, pairs, warm_up=lambda: run(1), clock=clock)
    found = {name: ratio(seconds[name], seconds["plain"]) for name in WAYS}
    return found | {"batch against recorded": ratio(seconds["batch"], seconds["recorded"])}


def lines_a_second(processes: int, lines: int, steps: int) -> float:
    """Speed of processes of one thread each, from when all have done their first line."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "t2i_xattn"]
        if processes > 1:
            command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
            command += ["--num_processes", str(processes), "--main_process_port", "0"]
            command += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "t2i_xattn"]
        prompts = write_prompts(Path(folder), lines)
        options = ["--out", f"{folder}/out", "--steps", str(steps), "--device", "cpu"]
        running = subprocess.Popen(
            [sys.executable, *command, "batch", str(prompts), *options],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        seen: list[tuple[float, int]] = []
        while running.poll() is None:
            done = [each.read_bytes().count(b"\n") for each in Path(folder).glob("out/records/*")]
            if len(done) == processes and min(done) > 0 and (not seen or sum(done) > seen[-1][1]):
                seen.append((time.perf_counter(), sum(done)))
            time.sleep(0.01)
        if running.returncode:
            assert running.stderr is not None
            raise RuntimeError(f"{processes} processes failed:\n{running.stderr.read()[-2000:]}")
    (begin, first), (end, last) = seen[0], seen[-1]
    return (last - first) / (end - begin)


def loops_a_second(processes: int, steps: int, seconds: float) -> float:
    """Pictures a second of so many loops by hand side by side, of one thread each: what the machine
    has to give."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _LOOP, str(steps), str(seconds)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(processes)
    ]
    for each in running:
        assert each.stdout is not None
        if each.stdout.readline() != "ready\n":
            raise RuntimeError("a loop by hand failed")
    for each in running:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    return sum(float(each.communicate()[0]) for each in running)


def peak_after(lines: int, options: Sequence[str] = ("--size", "32", "--steps", "1")) -> int:
    """Bytes at the highest point of a whole batch of small pictures, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        prompts = write_prompts(Path(folder), lines)
        command = ["batch", str(prompts), "--out", f"{folder}/out", "--device", "cpu", *options]
        done = subprocess.run(
            [sys.executable, "-c", _COMMAND, *command], capture_output=True, text=True
        )
    if done.returncode:
        raise RuntimeError(f"the batch of {lines} lines failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])
