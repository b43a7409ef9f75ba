"""`scripts/evaluate.py cheaper`: quality against cost as a table, a file and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lab.evaluation.cheaper import WAYS, compare_ways, in_turn
from lab.evaluation.cheaper_figures import PLAIN, Found, best, front, loss
from lab.evaluation.options import Device, load
from lab.evaluation.report import check_writable, circumstances, write_json
from lab.evaluation.world_prompts import world_prompts
from lab.judge.segmenter import WEIGHTS, load_segmenter
from t2i_xattn.errors import UserError


def add_cheaper(app: typer.Typer) -> None:
    """Adds the command to those of `evaluate.py`."""

    @app.command()
    def cheaper(
        model: Annotated[str | None, typer.Option(help="A model of the world.")] = None,
        steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = 25,
        guidance: Annotated[float, typer.Option(help="Classifier-free guidance.")] = 5.0,
        batch: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 6,
        limit: Annotated[int | None, typer.Option(min=1, help="Prompts of each group.")] = None,
        ways: Annotated[
            str | None, typer.Option(help=f"Some of {', '.join(WAYS)}.", show_default="all")
        ] = None,
        device: Device = "cpu",
        plot: Annotated[
            Path | None, typer.Option(help="PNG file for the plot (needs matplotlib).")
        ] = None,
        json: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
        folder: Annotated[
            Path | None,
            typer.Option(help="Keeps each batch's figures; a run that was stopped goes on there."),
        ] = None,
    ) -> None:
        """Cheaper ways to compute attention: pictures judged, distance to the plain ones, cost."""
        chosen = list(WAYS) if ways is None else [each.strip() for each in ways.split(",")]
        for each in chosen:
            if each not in WAYS:
                raise UserError(f"expected ways of {', '.join(WAYS)}, but came {each!r}")
        for path in (json, plot):
            if path is not None:
                check_writable(path)
        prompts = in_turn(world_prompts(), limit)
        settings: dict[str, Any] = {"steps": steps, "guidance": guidance, "batch": batch}
        about = {"model": model, "device": device}
        found: dict[str, Found] = {}
        try:
            segmenter, pipe = load_segmenter(WEIGHTS), load(model, device, "world")
            for found in compare_ways(
                pipe, prompts, segmenter, chosen, about=about, folder=folder, **settings
            ):
                if json is not None:
                    told = {name: one.as_json(found[PLAIN]) for name, one in found.items()}
                    how = settings | about | {"prompts": len(found[PLAIN].right)}
                    write_json(json, {"settings": how, "ways": told, **circumstances()})
        finally:
            if found:
                console = Console(width=150)
                console.print(_table(found))
                console.print(
                    f"fewest FLOPs that lose at most one point on these prompts: {best(found)}; "
                    f"of which so many prompts tell that: {best(found, shown=True)}"
                )
                if plot is not None:
                    draw(found, plot)


def _table(found: Mapping[str, Found]) -> Table:
    plain, ahead = found[PLAIN], front(found)
    table = Table(
        title=f"{len(plain.right)} prompts, {len(plain.seconds)} batches; ratios to plain"
    )
    table.add_column("way")
    for name in (
        "all right", "gained, lost", "points against plain", "loses more than one", "PSNR, dB",
        "CPU time", "FLOPs", "of attention", "bytes held",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    table.add_column("Pareto")
    for name, each in found.items():
        difference, same = each.against(plain), not each.near.n
        low, high = (100 * bound for bound in difference.interval)
        table.add_row(
            name,
            str(each.share),
            f"{difference.gained}, {difference.lost}",
            "0" if same else f"{100 * difference.value:+.1f} ({low:+.1f} to {high:+.1f})",
            loss(each, plain),
            "same bytes" if same else f"{each.near.value:.1f}",
            str(each.time(plain)),
            f"{each.cost.flops / plain.cost.flops:.3f}",
            f"{each.cost.attention / plain.cost.attention:.3f}",
            f"{each.cost.live / plain.cost.live:.3f}",
            "yes" if name in ahead else "",
        )
    return table


def draw(found: Mapping[str, Found], path: Path) -> None:
    """A row a way, the fewest FLOPs on top: points against plain with their interval; in red the
    ways that none beats."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    plain, ahead = found[PLAIN], front(found)
    rows = sorted(found, key=lambda name: found[name].cost.flops, reverse=True)
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.28 * len(rows)), layout="constrained")
    for number, name in enumerate(rows):
        each, colour = found[name], "#c0392b" if name in ahead else "#7f8c8d"
        difference = each.against(plain)
        axes.plot(100 * difference.value, number, "o", color=colour)
        if each.near.n:  # the same bytes need no interval
            low, high = (100 * bound for bound in difference.interval)
            axes.plot([low, high], [number, number], color=colour, lw=1)
    labels = [f"{name}  {found[name].cost.flops / plain.cost.flops:.3f}" for name in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.axvline(-1, color="#bdc3c7", lw=1, ls="--")
    axes.set_xlabel(f"points against plain on {len(plain.right)} prompts, 95 % interval")
    title = "Beside each way its FLOPs (plain = 1); red: none beats it; dashed: one point less"
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
