"""`scripts/benchmark.py batch`: the figures of batches as a table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from lab.benchmark.batches import lines_a_second, loops_a_second, overhead, peak_after
from lab.benchmark.numbers import numbers
from lab.evaluation.report import check_writable, circumstances, write_json
from t2i_xattn.models.default import load_default

_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def batch_command(
    lines: Annotated[int, typer.Option(min=4, help="Lines of a run that is timed.")] = 12,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a picture.")] = 10,
    walk: Annotated[int, typer.Option(min=0, help="As of t2i-xattn batch.")] = 1,
    limit: Annotated[int, typer.Option(min=1, help="Pairs of runs.")] = 5,
    clock: Annotated[
        Literal["wall", "cpu"],
        typer.Option(help="Time to compare: cpu leaves out what others on the machine take."),
    ] = "wall",
    processes: Annotated[str, typer.Option(help="To compare; '' for none.")] = "1,2",
    counts: Annotated[str, typer.Option(help="Lines to compare memory of; '' for none.")] = (
        "200,2000"
    ),
    json: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """t2i-xattn batch against a loop by hand; lines a second by processes; peak memory by lines."""
    worlds, sizes = numbers(processes), numbers(counts)
    if json is not None:
        check_writable(json)
    table = Table(title=f"The model in the box, {steps} steps, walk {walk}, {lines} lines a run")
    table.add_column("what")
    table.add_column("figure", justify="right")
    figures: dict[str, Any] = {
        "settings": {"lines": lines, "steps": steps, "walk": walk, "clock": clock}
    }
    try:
        for name, found in overhead(
            load_default(), lines, steps, walk, limit, _CLOCKS[clock]
        ).items():
            figures[name] = vars(found)
            table.add_row(f"{name}, {found.seconds / lines:.2f} s a line", str(found))
        for world in worlds:
            figures[f"lines a second, {world}"] = speed = lines_a_second(world, 2 * lines, steps)
            table.add_row(f"lines a second, processes: {world}", f"{speed:.3f}")
            figures[f"loops a second, {world}"] = loops = loops_a_second(world, steps, 2 * lines)
            table.add_row("pictures a second of as many loops by hand", f"{loops:.3f}")
        for count in sizes:
            figures[f"peak, {count} lines"] = peak = peak_after(count)
            table.add_row(f"peak memory of {count} lines, MB", f"{peak / 1e6:.1f}")
    finally:
        if json is not None:
            write_json(json, figures | {"circumstances": circumstances()})
        Console().print(table)
