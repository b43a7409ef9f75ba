"""`scripts/benchmark.py cheaper`: keys and values kept against plain, as tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from lab.benchmark.cheaper import counted, timed
from lab.benchmark.explaining import CLOCKS
from lab.benchmark.numbers import numbers
from lab.evaluation.report import check_writable, circumstances, write_json

SHAPES = {"sd15": 512, "sdxl": 1024}
"""UNets whose shapes are counted, with the side of their pictures."""


def cheaper_command(
    tokens: Annotated[str, typer.Option(help="Tokens to compare.")] = "77,616",
    denoisers: Annotated[
        str, typer.Option(help="UNets to time, with commas between; '' for none.")
    ] = "sd15-few,sdxl-few",
    pixels: Annotated[int, typer.Option(min=64, help="Side of the pictures to time.")] = 256,
    steps: Annotated[int, typer.Option(min=2, help="Steps of a run.")] = 4,
    limit: Annotated[int, typer.Option(min=1, help="Pairs of runs.")] = 6,
    clock: Annotated[
        Literal["wall", "cpu"], typer.Option(help="cpu: time of this process alone.")
    ] = "wall",
    json: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Keys and values kept: counted at Stable Diffusion 1.5's and SDXL's shapes, and timed."""
    if json is not None:
        check_writable(json)
    settings = {"pixels": pixels, "steps": steps, "pairs": limit, "clock": clock}
    figures: dict[str, Any] = {"settings": settings, "counted": {}, "timed": {}}
    whole = Table(title="One guided call, fp32, counted")
    runs = Table(title=f"Kept against plain, fp32, {pixels}², {steps} steps, {clock} clock")
    for table, columns in (
        (whole, ("picture", "tokens", "GFLOP", "of K and V", "kept, MB", "a call holds, MB")),
        (runs, ("tokens", "time", "FLOPs", "bytes held", "same bytes")),
    ):
        table.add_column("UNet")
        for name in columns:
            table.add_column(name, justify="right")
    try:
        for count in numbers(tokens):
            for name, side in SHAPES.items():
                one = counted(name, side, count)
                figures["counted"][f"{name}, {count}"] = dataclasses.asdict(one)
                whole.add_row(
                    name, f"{side}²", str(count), f"{one.flops / 1e9:,.0f}",
                    f"{one.keys_and_values / one.flops:.2%}",
                    f"{one.kept_bytes / 1e6:.1f}", f"{one.live_bytes / 1e6:.0f}",
                )  # fmt: skip
        for name in filter(None, (each.strip() for each in denoisers.split(","))):
            for count in numbers(tokens):
                each = timed(name, pixels, count, steps, limit, CLOCKS[clock])
                figures["timed"][f"{name}, {count}"] = dataclasses.asdict(each)
                same = "yes" if each.same else "no"
                runs.add_row(
                    name, str(count), str(each.time), f"{each.flops:.3f}", f"{each.live:.3f}", same
                )
                if json is not None:
                    write_json(json, figures | {"circumstances": circumstances()})
    finally:
        if json is not None:
            write_json(json, figures | {"circumstances": circumstances()})
        Console().print(whole)
        Console().print(runs)
