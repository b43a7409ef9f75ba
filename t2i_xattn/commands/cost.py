"""`t2i-xattn cost`: what attention would cost, site by site, before anything is computed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2i_xattn.asking.limits import check_limits
from t2i_xattn.asking.parsing import parse_list, parse_size
from t2i_xattn.asking.request import Request, arguments_of
from t2i_xattn.commands import options
from t2i_xattn.commands.config import Config
from t2i_xattn.commands.json_output import Json, print_json
from t2i_xattn.commands.output import output_folder
from t2i_xattn.errors import UserError, shown

if TYPE_CHECKING:
    from rich.table import Table

    from t2i_xattn.costs.cost import Cost
    from t2i_xattn.costs.growth import Growth

SIZES = 8
"""As many sizes are compared."""


@options.one_sentence
def cost_command(
    prompt: Annotated[str, typer.Argument(help="What would be painted.")] = "a picture",
    model: options.Model = None,
    steps: options.Steps = 25,
    guidance: options.Guidance = 5.0,
    size: Annotated[
        str | None,
        typer.Option(
            help="Pixels: 128, or 160x128 (width x height); several with commas between.",
            show_default="the model's own",
        ),
    ] = None,
    count: options.Count = 1,
    grow: Annotated[
        bool, typer.Option("--grow", help="Fit how the cost grows, too: a few times as long.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for a plot and the table as JSON.", show_default="none"),
    ] = None,
    device: options.Device = None,
    as_json: Json = False,
    config: Config = None,
    no_limits: options.NoLimits = False,
) -> None:
    """Say what attention would cost: operations, bytes and shares, by site, and whether it fits."""
    requests = {
        name or "the model's own size": Request(prompt, 0, steps, guidance, parse_size(name), count)
        for name in (parse_list(size) or (None,))
    }
    if len(requests) > SIZES:
        raise UserError(f"expected at most {SIZES} sizes at once, but came {len(requests)}")
    if size is not None and not parse_list(size):
        raise UserError(f"expected a --size like 128 or 160x128, but came {shown(size)}")
    for each in requests.values():
        if not no_limits:
            check_limits(each)
        each.check()
    if out is None:
        costs, grown = found_costs(requests, model, device, grow)
        result = _result(costs, grown)
    else:
        from t2i_xattn.showing.cost_plot import plot_costs

        with output_folder(out, "cost") as folder:
            costs, grown = found_costs(requests, model, device, grow)
            result = _result(costs, grown)
            plot_costs(costs, folder / "cost.png")
            text = json.dumps(result, indent=2, allow_nan=False)
            (folder / "cost.json").write_text(text, "utf-8")
    files = [] if out is None else [out / "cost.png", out / "cost.json"]
    if as_json:
        print_json({"command": "cost", "files": files, **result})
    else:
        _print(costs, grown)
        for file in files:
            typer.echo(file)
    for cost in costs.values():
        cost.check_fits()


def found_costs(
    requests: Mapping[str, Request], model: str | None, device: str | None, grow: bool
) -> tuple[dict[str, Cost], list[Growth]]:
    """The cost of each request, and how that of the first grows."""
    pipe = options.load(model, device)
    for each in requests.values():
        each.check_against(pipe)
    return costs_of(pipe, {n: arguments_of(pipe, each) for n, each in requests.items()}, grow)


def costs_of(
    pipe: Any, asked: Mapping[str, dict[str, Any]], grow: bool
) -> tuple[dict[str, Cost], list[Growth]]:
    """The same of a pipeline and the arguments of its call."""
    from t2i_xattn.costs.cost import cost
    from t2i_xattn.costs.growth import growth

    costs = {name: cost(pipe, **each) for name, each in asked.items()}
    return costs, growth(pipe, **next(iter(asked.values()))) if grow else []


def _result(costs: Mapping[str, Cost], grown: Sequence[Growth]) -> dict[str, Any]:
    fitted = [vars(each) | {"exponent": each.exponent} for each in grown]
    return {"sizes": {name: each.as_json() for name, each in costs.items()}, "growth": fitted}


def _print(costs: Mapping[str, Cost], grown: Sequence[Growth]) -> None:
    from rich.console import Console

    console = Console(soft_wrap=not sys.stdout.isatty())
    name, first = next(iter(costs.items()))
    console.print(_by_site(name, first))
    for name, each in costs.items():
        for line in _lines(name, each):
            console.print(line)
    if grown:
        console.print(_of_growth(grown))


def _by_site(name: str, cost: Cost) -> Table:
    from rich.table import Table

    table = Table(title=f"One call of the denoiser, {name}")
    table.add_column("site", overflow="fold")
    table.add_column("kind")
    for column in ("places × keys", "GFLOP, kernel", "layers", "share", "MB moved"):
        table.add_column(column, justify="right")
    for site in cost.call.sites:
        kernel = max(site.kernels, key=lambda one: one.flops, default=None)
        table.add_row(
            site.site.name,
            site.site.kind,
            "" if kernel is None else f"{kernel.queries} × {kernel.keys}",
            f"{site.kernel_flops / 1e9:.3f}",
            f"{site.layer_flops / 1e9:.3f}",
            f"{site.measured / cost.call.flops:.1%}",
            f"{site.moved_bytes / 1e6:.1f}",
        )
    return table


def _lines(name: str, cost: Cost) -> Iterator[str]:
    from t2i_xattn.costs.memory import free_bytes, gigabytes

    parts = ", ".join(f"{part} {n / cost.flops:.1%}" for part, n in cost.parts().items())
    yield f"{name}: {cost.flops / 1e12:.3f} TFLOP in {cost.times} calls of the denoiser: {parts}"
    weights, more = gigabytes(cost.call.weight_bytes), gigabytes(cost.live_bytes)
    free = free_bytes(cost.device)
    there = "" if free is None else f"; {gigabytes(free)} are free on {cost.device}"
    decoding = cost.decoding_bytes
    picture = "" if decoding is None else f", making the picture {gigabytes(decoding)}"
    yield f"  memory: weights {weights}, a call {more} more{picture}{there}"
    predicted, measured = (
        sum(count * sum(getattr(site, each) for site in call.sites) for call, count in cost.calls)
        for each in ("predicted", "measured")
    )
    yield f"  attention, predicted by its sizes: {predicted:,} FLOP; counted: {measured:,}"
    if any(call.computed for call, _ in cost.calls):
        yield "  the denoiser had to be run to see its shapes"


def _of_growth(grown: Sequence[Growth]) -> Table:
    from rich.table import Table

    table = Table("of", "with", title="How FLOPs grow: exponents")
    for column in ("from", "to", "fitted", "theory"):
        table.add_column(column, justify="right")
    for one in grown:
        sizes = f"{one.sizes[0]:,}", f"{one.sizes[-1]:,}"
        table.add_row(one.of, one.by, *sizes, f"{one.exponent:.3f}", f"{one.theory:g}")
    return table
