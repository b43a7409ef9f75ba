"""`scripts/evaluate.py` faithfulness, trust, interventions, carriers: what `explain` says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lab.evaluation import faithfulness_report
from lab.evaluation.carriers import carrier_figures
from lab.evaluation.drawn import SOURCES, checked_source
from lab.evaluation.explained import TRUST_SEED, explained_cases
from lab.evaluation.faithfulness import effect_figures, trust_figures, which_of_two
from lab.evaluation.intervened import evaluate_interventions
from lab.evaluation.options import Device, Guidance, Json, Model, Steps, WorldJudge, load, run
from lab.judge.segmenter import WEIGHTS, load_segmenter


def faithfulness(
    model: Model = None,
    judge: WorldJudge = None,
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    limit: Annotated[int, typer.Option(min=1, help="Pictures.")] = 200,
    plot: Annotated[
        Path | None,
        typer.Option(help="PNG file for the plot of trust (needs matplotlib).", show_default=False),
    ] = None,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Hold what `explain` says of words against what they name in painted pictures of the world:
    effect maps, regions and the grade of trust."""
    settings = {"model": model, "steps": steps, "guidance": guidance, "pictures": limit}

    def measure() -> dict[str, Any]:
        segmenter, pipe = load_segmenter(judge or WEIGHTS), load(model, device, "world")
        pictures = list(explained_cases(pipe, segmenter, limit, steps=steps, guidance=guidance))
        figures = effect_figures(pictures)
        two = {
            name: which_of_two(pictures, name)
            for name in dict.fromkeys(each.map_of for each in figures)
            if name != "chance"
        }
        trust = trust_figures(pictures)
        Console(width=120).print(faithfulness_report.effects_table(figures, limit))
        Console().print(faithfulness_report.two_table(two))
        Console().print(faithfulness_report.trust_table(trust))
        if plot is not None:
            faithfulness_report.save_calibration(trust, plot)
        return {
            "maps": [each.as_json() for each in figures],
            "which of two": {name: each.as_json() for name, each in two.items()},
            "trust": [each.as_json() for each in trust],
        }

    run(json, settings, measure)


def trust(
    model: Model = None,
    judge: WorldJudge = None,
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    limit: Annotated[int, typer.Option(min=1, help="Pictures.")] = 200,
    first_seed: Annotated[int, typer.Option(min=0, help="Of the pictures.")] = TRUST_SEED,
    plot: Annotated[
        Path | None,
        typer.Option(help="PNG file for the plot of trust (needs matplotlib).", show_default=False),
    ] = None,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Whether words that `explain` says to trust are right, in pictures that nothing was fitted
    to."""
    settings = {"model": model, "steps": steps, "guidance": guidance, "pictures": limit}
    settings["first_seed"] = first_seed

    def measure() -> dict[str, Any]:
        segmenter, pipe = load_segmenter(judge or WEIGHTS), load(model, device, "world")
        pictures = list(
            explained_cases(
                pipe, segmenter, limit,
                first_seed=first_seed, steps=steps, guidance=guidance, unions=False,
            )
        )  # fmt: skip
        figures = trust_figures(pictures)
        Console().print(faithfulness_report.trust_table(figures))
        if plot is not None:
            faithfulness_report.save_calibration(figures, plot)
        return {"trust": [each.as_json() for each in figures]}

    run(json, settings, measure)


def interventions(
    model: Model = None,
    limit: Annotated[int, typer.Option(min=1, help="Scenes.")] = 40,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Hold maps of words against what replacing the words does, in drawn scenes that are noised:
    agreement with the effect, deletion and insertion."""

    def measure() -> dict[str, Any]:
        figures = evaluate_interventions(load(model, device, "world"), limit)
        Console(width=150).print(faithfulness_report.interventions_table(figures, limit))
        return {"interventions": [each.as_json() for each in figures]}

    run(json, {"model": model, "scenes": limit}, measure)


def carriers(
    model: Model = None,
    scenes: Annotated[str, typer.Option(help=f"Prompts of {', '.join(SOURCES)}.")] = "world",
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    limit: Annotated[int, typer.Option(min=1, help="Pictures.")] = 40,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Through which columns of the text the words of each kind act."""
    source = checked_source(scenes)
    settings = {"model": model, "scenes": source, "steps": steps, "pictures": limit}

    def measure() -> dict[str, Any]:
        pipe = load(model, device, source)
        figures = carrier_figures(pipe, limit, source=source, steps=steps, guidance=guidance)
        Console(width=120).print(faithfulness_report.carriers_table(figures, limit))
        return {"carriers": [each.as_json() for each in figures]}

    run(json, settings, measure)


def add_explained_commands(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (faithfulness, trust, interventions, carriers):
        app.command()(command)
