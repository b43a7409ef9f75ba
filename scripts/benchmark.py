"""Measure what recording and steering cost, against the plain loop in the same process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from lab.benchmark import (
    DENOISERS,
    PEER_MODES,
    STEERING_MODES,
    Loop,
    all_modes,
    make_loop,
    mode,
    peak_memory,
)
from lab.benchmark.batch_command import batch_command
from lab.benchmark.cheaper_command import cheaper_command
from lab.benchmark.explaining import CLOCKS, explaining_ratios
from lab.benchmark.kept import held_bytes
from lab.benchmark.numbers import numbers
from lab.benchmark.report_command import report_command
from lab.benchmark.timing import Ratio, ratio, time_in_turn
from lab.benchmark.transformers import TransformerLoop
from lab.evaluation.report import check_writable, circumstances, write_json
from t2i_xattn.commands.one_sentence import mistakes_told
from t2i_xattn.denoisers.sites import find_sites
from t2i_xattn.errors import UserError

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


def _known(denoiser: str) -> str:
    if denoiser not in DENOISERS:
        raise UserError(f"expected a denoiser of {', '.join(DENOISERS)}, but came {denoiser!r}")
    return denoiser


Denoiser = Annotated[str, typer.Option(help=f"One of {', '.join(DENOISERS)}.", callback=_known)]
Pixels = Annotated[int | None, typer.Option(help="Side of the picture.")]
Steps = Annotated[int, typer.Option(min=1, help="Steps of a run.")]
Pairs = Annotated[int, typer.Option("--limit", min=1, help="Pairs of runs.")]
Memory = Annotated[bool, typer.Option(help="Peak memory too, in processes of their own.")]
Dtype = Annotated[str, typer.Option(help="bfloat16, float32 or float16.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the figures here.")]


@app.command("record")
def record_command(
    denoiser: Denoiser = "sd15",
    pixels: Pixels = None,
    steps: Steps = 4,
    limit: Pairs = 6,
    ways: Annotated[
        str | None,
        typer.Option(help=f"Some of {', '.join(all_modes())}.", show_default="all"),
    ] = None,
    compiled: Annotated[bool, typer.Option(help="Compiled runs too.")] = True,
    memory: Memory = True,
    dtype: Dtype = "bfloat16",
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Time ratio, added peak memory and bytes kept, for each way to record."""
    modes = _chosen(ways, all_modes())
    if "record compiled" in modes:
        modes = [each for each in all_modes() if each in {*modes, "plain compiled"}]
    modes = [each for each in modes if compiled or "compiled" not in each]
    _compare(modes, denoiser, pixels, steps, limit, memory, dtype, device, json)


@app.command("steer")
def steer_command(
    denoiser: Denoiser = "sd15",
    pixels: Pixels = None,
    steps: Steps = 4,
    limit: Pairs = 6,
    ways: Annotated[
        str | None,
        typer.Option(help=f"Some of {', '.join(STEERING_MODES)}.", show_default="all"),
    ] = None,
    memory: Memory = True,
    dtype: Dtype = "bfloat16",
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """The same for edits and guidance."""
    _compare(
        _chosen(ways, STEERING_MODES), denoiser, pixels, steps, limit, memory, dtype, device, json
    )


@app.command("explain")
def explain_command(
    model: Annotated[str | None, typer.Option(help="A folder; default: world.")] = None,
    prompt: Annotated[str, typer.Option(help="What is painted.")] = "A city skyline at sunset",
    steps: Steps = 25,
    limit: Pairs = 6,
    clock: Annotated[str, typer.Option(help="wall, or cpu: time of this process alone.")] = "wall",
    json: Json = None,
) -> None:
    """What explanations cost, against the plain pipeline: a picture, and as many pictures."""
    if json is not None:
        check_writable(json)
    if clock not in CLOCKS:
        raise UserError(f"expected a clock of {', '.join(CLOCKS)}, but came {clock!r}")
    ratios = explaining_ratios(model, prompt, steps, limit, CLOCKS[clock])
    table = Table("way", "against", "ratio", "pairs", "seconds")
    for (name, against), each in ratios.items():
        table.add_row(name, against, str(each), str(each.pairs), f"{each.seconds:.2f}")
    Console().print(table)
    settings = {"model": model, "prompt": prompt, "steps": steps, "clock": clock}
    ways = {name: {**vars(each), "against": against} for (name, against), each in ratios.items()}
    _write(json, {"settings": settings, "ways": ways})


def _chosen(ways: str | None, all_of: Sequence[str]) -> list[str]:
    """Those of the modes that are named, and the plain one, in their order."""
    chosen = list(all_of) if ways is None else [each.strip() for each in ways.split(",")]
    for each in chosen:
        if each not in all_of:
            raise UserError(f"expected ways of {', '.join(all_of)}, but came {each!r}")
    return [each for each in all_of if each in {"plain", *chosen}]


def _compare(
    modes: Sequence[str],
    denoiser: str,
    pixels: int | None,
    steps: int,
    limit: int,
    memory: bool,
    dtype: str,
    device: str,
    json: Path | None,
) -> None:
    """Times the modes in turn, prints the table and writes the figures, also those of a run that is
    interrupted."""
    if json is not None:
        check_writable(json)
    loop = make_loop(denoiser, pixels=pixels, dtype=getattr(torch, dtype), device=device)
    options: dict[str, Any] = {"pixels": pixels, "dtype": dtype, "device": device}
    settings = {"denoiser": denoiser, "steps": steps, "pairs": limit, **options}
    ratios: dict[str, Ratio] = {}
    added: dict[str, int] = {}
    kept = loop.kept_bytes

    def write() -> None:
        ways = {
            name: {**vars(each), "against": _against(name), "added_peak_bytes": added.get(name)}
            for name, each in ratios.items()
        }
        _write(json, {"settings": settings, "ways": ways, "kept_bytes": kept})

    try:
        for seconds in _timed(loop, modes, steps, limit):
            ratios.update({name: ratio(seconds[name], seconds[_against(name)]) for name in modes})
            write()
        peaks: dict[str, int] = {}
        for name in modes if memory else ():
            if "compiled" not in name:
                peaks[name] = peak_memory(denoiser, name, steps, **options)
                added[name] = peaks[name] - peaks["plain"]  # the first of all modes
                write()
    finally:
        size = f"{loop.size[0] * 8}²"
        table = Table(title=f"{denoiser}, {size}, {steps} steps, {dtype}, {device}")
        for column in ("way", "seconds", "against", "time ratio", "peak, MB more"):
            left, last = column in ("way", "against"), column == "peak, MB more"
            table.add_column(column, justify="left" if left else "right", no_wrap=not last)
        for name, found in ratios.items():
            shown = f"{added[name] / 1e6:.1f}" if name in added else ""
            table.add_row(name, f"{found.seconds:.2f}", _against(name), str(found), shown)
        Console().print(table)
        Console().print(f"kept for the maps: {kept / 1e6:.1f} MB, the same for any number of steps")


def _against(name: str) -> str:
    return "plain compiled" if name == "record compiled" else "plain"


def _timed(
    loop: Loop | TransformerLoop, modes: Sequence[str], steps: int, pairs: int, label: str = ""
) -> Iterator[dict[str, list[float]]]:
    return time_in_turn(
        lambda: loop.run(steps),
        modes,
        lambda name: mode(name, loop),
        pairs,
        warm_up=lambda: loop.run(min(steps, 2)),
        label=label,
    )


def _write(json: Path | None, figures: dict[str, Any]) -> None:
    if json is not None:
        write_json(json, figures | {"circumstances": circumstances()})


@app.command("memory")
def memory_command(
    denoiser: Denoiser = "sd15",
    pixels: Annotated[int, typer.Option(help="Side of the picture.")] = 256,
    dtype: Dtype = "bfloat16",
    device: Device = "cpu",
) -> None:
    """Peak memory of a plain run, and of recorded ones of 4 and of 100 steps."""
    table = Table(title=f"{denoiser}, {pixels}², {dtype}, {device}")
    for name in ("way", "steps", "peak, MB"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way, steps in (("plain", 4), ("record", 4), ("record", 100)):
        peak = peak_memory(denoiser, way, steps, pixels=pixels, dtype=dtype, device=device)
        table.add_row(way, str(steps), f"{peak / 1e6:.1f}")
    Console().print(table)


@app.command("kept")
def kept_command(
    denoiser: Denoiser = "sd15",
    pixels: Pixels = None,
    steps: Annotated[str, typer.Option(help="Steps to compare.")] = "4,50",
    ways: Annotated[
        str | None,
        typer.Option(help=f"Some of {', '.join(all_modes())}.", show_default="record and peers'"),
    ] = None,
    dtype: Dtype = "bfloat16",
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Bytes that each way to record holds at the end of runs of so many steps."""
    usual = ["record", *(each for each in PEER_MODES if each in all_modes())]
    modes = usual if ways is None else [w for w in _chosen(ways, all_modes()) if w != "plain"]
    counts = numbers(steps)
    if json is not None:
        check_writable(json)
    loop = make_loop(denoiser, pixels=pixels, dtype=getattr(torch, dtype), device=device)
    loop.run(1)
    sites = len(find_sites(loop.denoiser))
    settings = {"denoiser": denoiser, "pixels": loop.size[0] * 8, "dtype": dtype, "sites": sites}
    table = Table(title=f"Held by the end, {denoiser}, {loop.size[0] * 8}², {dtype}, {sites} sites")
    for name in ("way", *(f"{count} steps, MB" for count in counts)):
        table.add_column(name, justify="left" if name == "way" else "right")
    rows: dict[str, dict[int, int]] = {}
    try:
        for name in modes:
            rows[name] = {count: held_bytes(name, loop, count) for count in counts}
            table.add_row(name, *(f"{each / 1e6:,.1f}" for each in rows[name].values()))
            _write(json, {"settings": settings, "held_bytes": rows})
    finally:
        Console().print(table)


@app.command("cost")
def cost_command(
    denoiser: Denoiser = "sd15",
    steps: Annotated[str, typer.Option(help="Steps to compare; '' for none.")] = "4,20,100",
    tokens: Annotated[str, typer.Option(help="Tokens to compare; '' for none.")] = "77,231,616",
    sizes: Annotated[str, typer.Option(help="Pictures to compare; '' for none.")] = "256,512,768",
    pixels: Annotated[int, typer.Option(help="Picture, where steps or tokens differ.")] = 512,
    limit: Annotated[int, typer.Option(min=1, help="Pairs of runs.")] = 3,
    dtype: Dtype = "bfloat16",
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """The cost of recording against the number of steps, of tokens, and the picture's size."""
    cases = [(each, 77, pixels) for each in numbers(steps)]
    cases += [(2, each, pixels) for each in numbers(tokens)]
    cases += [(2, 77, each) for each in numbers(sizes)]
    if json is not None:
        check_writable(json)
    made = make_loop(denoiser, dtype=getattr(torch, dtype), device=device)
    settings = {"denoiser": denoiser, "pairs": limit, "dtype": dtype, "device": device}
    table = Table(title=f"Recording, {denoiser}, {dtype}, {device}")
    for name in ("steps", "tokens", "picture", "time ratio", "bytes kept"):
        table.add_column(name, justify="right")
    rows: dict[tuple[int, int, int], dict[str, Any]] = {}
    try:
        for number, case in enumerate(dict.fromkeys(cases), 1):
            loop = replace(made, size=(case[2] // 8, case[2] // 8), tokens=case[1])
            kept = loop.kept_bytes
            label = f"row {number}: {case[0]} steps, {case[1]} tokens, {case[2]}²"
            for seconds in _timed(loop, ("plain", "record"), case[0], limit, label):
                found = ratio(seconds["record"], seconds["plain"])
                row = dict(zip(("steps", "tokens", "pixels"), case, strict=True))
                rows[case] = {**row, **vars(found), "kept_bytes": kept}
                _write(json, {"settings": settings, "rows": list(rows.values())})
            table.add_row(str(case[0]), str(case[1]), f"{case[2]}²", str(found), f"{kept:,}")
    finally:
        Console().print(table)


app.command("batch")(batch_command)
app.command("report")(report_command)
app.command("cheaper")(cheaper_command)


if __name__ == "__main__":
    with mistakes_told():
        app()
