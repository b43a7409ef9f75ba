"""`scripts/evaluate.py` maps, regions, published: words against what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lab.evaluation import regions_report, report
from lab.evaluation.drawn import FIRST_SEED, SOURCES, TIMESTEPS, TUNING_SEED, checked_source, draw
from lab.evaluation.map_costs import map_costs
from lab.evaluation.maps import MapFigure, evaluate_maps
from lab.evaluation.options import Batch, Device, Json, Limit, Model, load, run
from lab.evaluation.painted_regions import evaluate_painted_regions
from lab.evaluation.pictures_commands import SCENES
from lab.evaluation.published import FORMATS, opened
from lab.evaluation.published.measuring import evaluate_published
from lab.evaluation.published.names import read_names
from lab.evaluation.random_weights import with_random_weights
from lab.evaluation.regions import evaluate_regions
from lab.evaluation.ways import USUAL, WAYS, chosen_ways
from lab.judge.segmenter import load_segmenter
from lab.scenes.layout import SIDE
from t2i_xattn.commands.regions import parse_threshold

MAP_SCENES = 500


def map_figures(
    pipe: Any,
    limit: int | None,
    batch: int,
    ways: Sequence[str] = USUAL,
    source: str = "shapes",
    first_seed: int = FIRST_SEED,
    trained: bool = True,
) -> list[MapFigure]:
    scenes = limit or MAP_SCENES
    figures = evaluate_maps(
        pipe, scenes, source=source, first_seed=first_seed, batch=batch, ways=ways
    )
    Console().print(report.maps_table(figures, scenes, source, trained))
    return figures


def maps(
    model: Model = None,
    scenes: Annotated[
        str, typer.Option(help=f"Which drawn scenes, of: {', '.join(SOURCES)}.")
    ] = "shapes",
    ways: Annotated[str, typer.Option(help=f"How maps are made, of: {', '.join(WAYS)}.")] = (
        ",".join(USUAL)
    ),
    tuning: Annotated[
        bool, typer.Option("--tuning", help="The scenes on which ways are tried and chosen.")
    ] = False,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Denoiser and text encoder set at random.")
    ] = False,
    batch: Batch = 25,
    limit: Limit = None,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Hold the heat maps of words against the pixels that they name, in drawn scenes, and tell what
    they cost."""
    chosen = [each.strip() for each in ways.split(",")]
    chosen_ways(chosen)  # a name that is none is told before a model is loaded
    source = checked_source(scenes)
    settings = {
        "model": model,
        "scenes": source,
        "tuning": tuning,
        "random_weights": random_weights,
        "ways": chosen,
        "timesteps": TIMESTEPS,
        "limit": limit,
    }

    def measure() -> dict[str, Any]:
        pipe = load(model, device, source)
        if random_weights:
            pipe = with_random_weights(pipe)
        first = TUNING_SEED if tuning else FIRST_SEED
        figures = map_figures(pipe, limit, batch, chosen, source, first, not random_weights)
        if random_weights:
            failing = ", ".join(report.above_uniform(figures)) or "none"
            typer.echo(f"failing, above a map that knows nothing: {failing}")
        (scene,) = draw(source, [first], SIDE)
        pairs, steps = (1, 2) if limit else (3, 25)
        costs = map_costs(pipe, scene.prompt, chosen, steps=steps, pairs=pairs)
        Console().print(report.map_costs_table(costs, steps))
        return {
            "maps": [each.as_json() for each in figures],
            "costs": {way: vars(each) for way, each in costs.items()},
        }

    run(json, settings, measure)


def regions(
    model: Model = None,
    batch: Batch = 20,
    limit: Limit = None,
    painted: Annotated[
        int,
        typer.Option(
            min=0, max=100, help="Pictures to paint and judge as well; models of the world only."
        ),
    ] = 0,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Hold regions of words that compete against drawn objects, and their quality estimate."""
    scenes = limit or SCENES
    settings = {"model": model, "timesteps": TIMESTEPS, "limit": limit, "painted": painted}

    def measure() -> dict[str, Any]:
        pipe = load(model, device, "world")
        figures, ranks = evaluate_regions(pipe, scenes, batch=batch)
        Console().print(regions_report.regions_table(figures, scenes))
        Console().print(regions_report.ranks_table(ranks))
        told: dict[str, Any] = {
            "regions": [vars(each) for each in figures],
            "quality": [vars(each) for each in ranks],
        }
        if painted:
            judged, orders = evaluate_painted_regions(pipe, load_segmenter(), painted)
            Console().print(regions_report.painted_table(judged))
            Console().print(regions_report.ranks_table(orders))
            told["painted"] = [vars(each) for each in judged]
            told["quality painted"] = [vars(each) for each in orders]
        return told

    run(json, settings, measure)


def published(
    data: Annotated[
        Path, typer.Option(help="The test's folder, or its .mat file.", show_default=False)
    ],
    kind: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.", show_default=False)
    ],
    names: Annotated[
        Path | None,
        typer.Option(
            help="What classes are called in prompts: JSON, or lines of class and word.",
            show_default="their own names",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The test's list.", show_default="val, or val2017")
    ] = None,
    model: Model = None,
    ways: Annotated[
        str, typer.Option(help=f"How maps are made, of: {', '.join(WAYS)}.")
    ] = "mean,agreed",
    timestep: Annotated[int, typer.Option(help="The noise level.")] = 500,
    threshold: Annotated[
        str | None,
        typer.Option(
            help="0 to 1 or otsu; imagenet-seg is always cut at the mean.",
            show_default="0.3 of agreed maps, or 0.5",
        ),
    ] = None,
    batch: Batch = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="The first pictures only.")] = None,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Print a published table of segmentation with a model of your own; see docs/regions.md."""
    chosen = [each.strip() for each in ways.split(",")]
    chosen_ways(chosen)  # what is wrong is told before a model is loaded
    level = parse_threshold(threshold)
    test = opened(kind, data, read_names(names), split)
    settings = {
        "format": kind,
        "split": split,
        "model": model,
        "ways": chosen,
        "timestep": timestep,
        "threshold": level,
        "limit": limit,
    }

    def measure() -> dict[str, Any]:
        figures = evaluate_published(
            load(model, device, "world"), test, ways=chosen, timestep=timestep, threshold=level,
            batch=batch, limit=limit,
        )  # fmt: skip
        Console().print(regions_report.published_table(figures, kind, timestep))
        return {"published": [vars(each) for each in figures]}

    run(json, settings, measure)


def add_maps_commands(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (maps, regions, published):
        app.command()(command)
