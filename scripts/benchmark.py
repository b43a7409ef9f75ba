"""Measure what recording and steering cost, against the plain loop in the same process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from t2i_xattn.benchmark import (
    DENOISERS,
    STEERING_MODES,
    Loop,
    all_modes,
    make_loop,
    mode,
    peak_memory,
)
from t2i_xattn.benchmark.timing import ratio, time_in_turn
from t2i_xattn.errors import UserError
from t2i_xattn.evaluation.report import check_writable, circumstances, write_json
from t2i_xattn.one_sentence import mistakes_told
from t2i_xattn.recording import record

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

COST_STEPS, COST_TOKENS, COST_PIXELS = (4, 20, 100), (77, 231, 616), (256, 512, 768)


def _kept_bytes(loop: Loop) -> int:
    with record(loop.pipe) as trace:
        loop.run(1)
    return sum(array.nbytes for array in trace.to_numpy().values())


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
    chosen = all_modes() if ways is None else [each.strip() for each in ways.split(",")]
    for each in chosen:
        if each not in all_modes():
            raise UserError(f"expected ways of {', '.join(all_modes())}, but came {each!r}")
    needed = {"plain", *(["plain compiled"] if "record compiled" in chosen else [])}
    modes = [
        each
        for each in all_modes()
        if each in {*chosen, *needed} and (compiled or "compiled" not in each)
    ]
    figures = _compare(modes, denoiser, pixels, steps, limit, memory, dtype, device, json)
    kept = _kept_bytes(figures.pop("loop"))
    Console().print(f"kept for the maps: {kept / 1e6:.1f} MB, the same for any number of steps")
    _write(json, figures | {"kept_bytes": kept})


@app.command("steer")
def steer_command(
    denoiser: Denoiser = "sd15",
    pixels: Pixels = None,
    steps: Steps = 4,
    limit: Pairs = 6,
    memory: Memory = True,
    dtype: Dtype = "bfloat16",
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """The same for edits and guidance."""
    figures = _compare(STEERING_MODES, denoiser, pixels, steps, limit, memory, dtype, device, json)
    del figures["loop"]
    _write(json, figures)


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
) -> dict[str, Any]:
    """Times the modes in turn and prints the table; the figures, and the loop they ran."""
    if json is not None:
        check_writable(json)
    loop = make_loop(denoiser, pixels=pixels, dtype=getattr(torch, dtype), device=device)
    seconds = time_in_turn(lambda: loop.run(steps), modes, lambda name: mode(name, loop), limit)

    table = Table(title=f"{denoiser}, {loop.size[0] * 8}², {steps} steps, {dtype}, {device}")
    for name in ("way", "seconds", "against", "time ratio", "peak, MB more"):
        left = name in ("way", "against")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "peak, MB more")
    options: dict[str, Any] = {"pixels": pixels, "dtype": dtype, "device": device}
    peaks = {
        name: peak_memory(denoiser, name, steps, **options)
        for name in modes
        if memory and "compiled" not in name
    }
    figures: dict[str, Any] = {}
    for name in modes:
        against = "plain compiled" if name == "record compiled" else "plain"
        found = ratio(seconds[name], seconds[against])
        added = peaks[name] - peaks["plain"] if name in peaks else None
        figures[name] = {**vars(found), "against": against, "added_peak_bytes": added}
        shown = "" if added is None else f"{added / 1e6:.1f}"
        table.add_row(name, f"{found.seconds:.2f}", against, str(found), shown)
    Console().print(table)
    settings = {"denoiser": denoiser, "steps": steps, "pairs": limit, **options}
    return {"settings": settings, "ways": figures, "loop": loop}


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


@app.command("cost")
def cost_command(
    denoiser: Denoiser = "sd15",
    limit: Annotated[int, typer.Option(min=1, help="Pairs of runs.")] = 3,
    dtype: Annotated[str, typer.Option(help="bfloat16, float32 or float16.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """The cost of recording against the number of steps, of tokens, and the picture's size."""
    table = Table(title=f"Recording, {denoiser}, {dtype}, {device}")
    for name in ("steps", "tokens", "picture", "time ratio", "bytes kept"):
        table.add_column(name, justify="right")
    rows = [(steps, 77, 512) for steps in COST_STEPS]
    rows += [(2, tokens, 512) for tokens in COST_TOKENS]
    rows += [(2, 77, pixels) for pixels in COST_PIXELS]
    for steps, tokens, pixels in rows:
        loop = make_loop(
            denoiser, pixels=pixels, tokens=tokens, dtype=getattr(torch, dtype), device=device
        )

        def enter(name: str, loop: Any = loop) -> Any:
            return mode(name, loop)

        def run(loop: Any = loop, steps: int = steps) -> Any:
            return loop.run(steps)

        seconds = time_in_turn(run, ("plain", "record"), enter, limit)
        kept = _kept_bytes(loop)
        found = ratio(seconds["record"], seconds["plain"])
        table.add_row(str(steps), str(tokens), f"{pixels}²", str(found), f"{kept:,}")
    Console().print(table)


if __name__ == "__main__":
    with mistakes_told():
        app()
