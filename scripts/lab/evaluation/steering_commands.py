"""`scripts/evaluate.py` inversions, edits: pictures that are painted again and changed."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from lab.evaluation import report, steering
from lab.evaluation.inversions import evaluate_inversions
from lab.evaluation.options import Batch, Device, Guidance, Json, Limit, Model, Steps, load, run
from lab.evaluation.painting import Painting


def inversions(
    model: Model = None,
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 10,
    limit: Limit = None,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Invert 50 rendered pictures by every method, and paint them again."""
    settings = {"model": model, "steps": steps, "guidance": guidance, "limit": limit}

    def measure() -> dict[str, Any]:
        figures = evaluate_inversions(
            load(model, device), limit or 50, steps=steps, guidance=guidance, batch=batch
        )
        Console().print(report.inversions_table(figures))
        return {"inversions": [vars(each) for each in figures]}

    run(json, settings, measure)


def edits(
    model: Model = None,
    only: Annotated[
        str, typer.Option(help=f"What is measured, of: {', '.join(steering.PARTS)}.")
    ] = ",".join(steering.PARTS),
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    batch: Batch = 12,
    limit: Annotated[
        int | None, typer.Option(min=1, help="A quick run: prompts or cases of each measurement.")
    ] = None,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Whether edits and guidance do what they say, judged on the pictures."""
    names = [each.strip() for each in only.split(",")]
    parts = steering.chosen_parts(names)  # a name that is none is told before a model is loaded
    settings = {
        "model": model,
        "only": names,
        "steps": steps,
        "guidance": guidance,
        "limit": limit,
    }

    def measure() -> dict[str, Any]:
        painting = Painting(load(model, device), steps, guidance, batch)
        figures: steering.Figures = {}
        for part in parts:
            figures = {**figures, **part(painting, limit)}
        Console().print(report.steering_table(figures))
        return {"edits": report.plain_figures(figures)}

    run(json, settings, measure)


def add_steering_commands(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (inversions, edits):
        app.command()(command)
