"""Measure a model: its pictures, by the judge, and its heat maps, against drawn scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.console import Console

from lab.evaluation import faithfulness_report, regions_report, report, steering
from lab.evaluation.attention_studies import add_attention_studies
from lab.evaluation.carriers import carrier_figures
from lab.evaluation.cheaper_command import add_cheaper
from lab.evaluation.drawn import (
    FIRST_SEED,
    SOURCES,
    TIMESTEPS,
    TUNING_SEED,
    checked_source,
    draw,
)
from lab.evaluation.explained import TRUST_SEED, explained_cases
from lab.evaluation.faithfulness import effect_figures, trust_figures, which_of_two
from lab.evaluation.intervened import evaluate_interventions
from lab.evaluation.inversions import evaluate_inversions
from lab.evaluation.judging import SPOILINGS, JudgeAccuracy, judge_accuracy
from lab.evaluation.map_costs import map_costs
from lab.evaluation.maps import MapFigure, evaluate_maps
from lab.evaluation.painted_regions import evaluate_painted_regions
from lab.evaluation.painting import Painting
from lab.evaluation.picture_prompts_command import add_pictures
from lab.evaluation.pictures import Keep, judge_prompts, picture_figures
from lab.evaluation.prompts import Prompt, benchmark_prompts
from lab.evaluation.published import FORMATS, opened
from lab.evaluation.published.measuring import evaluate_published
from lab.evaluation.published.names import read_names
from lab.evaluation.random_weights import with_random_weights
from lab.evaluation.recall import SHAPES_RECIPE, evaluate_recall
from lab.evaluation.reconstruction import evaluate_autoencoder
from lab.evaluation.regions import evaluate_regions
from lab.evaluation.segmentation import mean_iou
from lab.evaluation.studies import add_studies
from lab.evaluation.ways import USUAL, WAYS, chosen_ways
from lab.evaluation.world_judging import judge_scenes, seen_by
from lab.evaluation.world_maps import CITY, evaluate_words
from lab.evaluation.world_pictures import (
    judge_world_prompts,
    seconds_of_a_picture,
    world_figures,
)
from lab.evaluation.world_prompts import WorldPrompt, world_prompts
from lab.judge import Verdict
from lab.judge.segmenter import WEIGHTS, load_segmenter
from lab.judge.world_verdict import WorldVerdict
from lab.models import load_model
from lab.scenes.layout import SIDE
from lab.training.recipe import load_recipe
from t2i_xattn.commands.one_sentence import mistakes_told
from t2i_xattn.commands.output import output_folder
from t2i_xattn.commands.regions import parse_threshold

SCENES = 600

MAP_SCENES = 500

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

Model = Annotated[
    str | None,
    typer.Option(
        help="A model in the box, a folder or a hub name.",
        show_default="the one in the box that paints what is measured",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="A quick run: prompts of each group, and scenes."),
]
Json = Annotated[
    Path | None, typer.Option("--json", help="Write the figures to this file, with settings.")
]
WorldJudge = Annotated[
    Path | None,
    typer.Option(help="Folder of the judge's network.", show_default="the one in the box"),
]
Batch = Annotated[int, typer.Option(min=1, help="Pictures at once.")]
Steps = Annotated[int, typer.Option(min=1, help="Steps of the sampler.")]
Guidance = Annotated[float, typer.Option(help="Classifier-free guidance; 1 is without.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]
Save = Annotated[Path | None, typer.Option(help="Folder for the pictures.")]


def _load(model: str | None, device: str, box: str = "shapes") -> Any:
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.logging.disable_progress_bar()
    pipe = load_model(model, box).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _judge(scenes: int) -> tuple[list[JudgeAccuracy], dict[str, Any]]:
    accuracies = [judge_accuracy(scenes, spoiling) for spoiling in SPOILINGS]
    Console().print(report.judge_table(accuracies))
    figures: dict[str, Any] = {
        each.spoiling: {
            "all": each.all.as_json(),
            **{f"{count} objects": share.as_json() for count, share in each.by_objects.items()},
        }
        for each in accuracies
    }
    return accuracies, figures


def _save_one(
    folder: Path, group: str, index: int, prompt: Prompt, picture: Image.Image, found: Verdict
) -> None:
    right = found.all_objects and found.relation is not False
    picture.save(folder / f"{group}-{index:03d}-{'right' if right else 'wrong'}.png")


def _save_world(
    folder: Path, group: str, index: int, _: WorldPrompt, picture: Image.Image, found: WorldVerdict
) -> None:
    picture.save(folder / f"{group}-{index:03d}-{'right' if found.all_right else 'wrong'}.png")


def _pictures(
    pipe: Any, judge: JudgeAccuracy, limit: int | None, folder: Path | None, **settings: Any
) -> dict[str, Any]:
    figures, objects = {}, {}
    for group, prompts in benchmark_prompts().items():
        keep: Keep | None = partial(_save_one, folder, group) if folder is not None else None
        verdicts = judge_prompts(pipe, prompts[:limit], group=group, keep=keep, **settings)
        figures[group], objects[group] = picture_figures(verdicts), len(prompts[0].objects)
    Console().print(report.pictures_table(figures, objects, judge))
    return {
        group: {name: share.as_json() for name, share in each.items()}
        for group, each in figures.items()
    }


def _judged_pictures(
    model: str | None, device: str, limit: int | None, save: Path | None, **painting: Any
) -> tuple[Any, dict[str, Any]]:
    """The pipeline, and the figures of what it paints with the judge's own from the same run."""
    # The folder comes first: that it cannot be written to is said before a model is loaded.
    with output_folder(save) if save is not None else nullcontext() as folder:
        pipe = _load(model, device)
        accuracies, own = _judge(limit or SCENES)
        painted = _pictures(pipe, accuracies[0], limit, folder, **painting)
    return pipe, {"judge": own, "pictures": painted}


def _maps(
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


def _run(
    json: Path | None, settings: dict[str, Any], measure: Callable[[], dict[str, Any]]
) -> None:
    """Measure, and write the file; whether it can be written is known before."""
    if json is not None:
        report.check_writable(json)
    figures = measure()
    if json is not None:
        report.write_json(json, {"settings": settings, **figures, **report.circumstances()})
        typer.echo(json)


@app.command()
def judge(limit: Limit = None, json: Json = None) -> None:
    """The judge's own accuracy on rendered scenes: clean, blurred, noisy."""
    _run(json, {"limit": limit}, lambda: {"judge": _judge(limit or SCENES)[1]})


@app.command()
def world_judge(judge: WorldJudge = None, limit: Limit = None, json: Json = None) -> None:
    """The accuracy of the world's judge on rendered scenes, half of them with what is held out."""

    def measure() -> dict[str, Any]:
        own, matrix = judge_scenes(seen_by(load_segmenter(judge or WEIGHTS)), limit or SCENES)
        Console().print(report.world_table({}, own, mean_iou(matrix)))
        return {"judge": report.world_judge_figures(own, matrix)}

    _run(json, {"limit": limit}, measure)


@app.command()
def pictures(
    model: Model = None,
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    batch: Batch = 16,
    limit: Limit = None,
    json: Json = None,
    save: Save = None,
    device: Device = "cpu",
) -> None:
    """Paint the fixed prompts and judge the pictures."""
    settings = {"model": model, "steps": steps, "guidance": guidance, "limit": limit}

    def measure() -> dict[str, Any]:
        painting = {"steps": steps, "guidance": guidance, "batch": batch}
        return _judged_pictures(model, device, limit, save, **painting)[1]

    _run(json, settings, measure)


@app.command()
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
        pipe = _load(model, device, source)
        if random_weights:
            pipe = with_random_weights(pipe)
        first = TUNING_SEED if tuning else FIRST_SEED
        figures = _maps(pipe, limit, batch, chosen, source, first, not random_weights)
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

    _run(json, settings, measure)


@app.command()
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
        pipe = _load(model, device, "world")
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

    _run(json, settings, measure)


@app.command()
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
            _load(model, device, "world"), test, ways=chosen, timestep=timestep, threshold=level,
            batch=batch, limit=limit,
        )  # fmt: skip
        Console().print(regions_report.published_table(figures, kind, timestep))
        return {"published": [vars(each) for each in figures]}

    _run(json, settings, measure)


@app.command()
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
        segmenter, pipe = load_segmenter(judge or WEIGHTS), _load(model, device, "world")
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

    _run(json, settings, measure)


@app.command()
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
        segmenter, pipe = load_segmenter(judge or WEIGHTS), _load(model, device, "world")
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

    _run(json, settings, measure)


@app.command()
def interventions(
    model: Model = None,
    limit: Annotated[int, typer.Option(min=1, help="Scenes.")] = 40,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Hold maps of words against what replacing the words does, in drawn scenes that are noised:
    agreement with the effect, deletion and insertion."""

    def measure() -> dict[str, Any]:
        figures = evaluate_interventions(_load(model, device, "world"), limit)
        Console(width=150).print(faithfulness_report.interventions_table(figures, limit))
        return {"interventions": [each.as_json() for each in figures]}

    _run(json, {"model": model, "scenes": limit}, measure)


@app.command()
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
        pipe = _load(model, device, source)
        figures = carrier_figures(pipe, limit, source=source, steps=steps, guidance=guidance)
        Console(width=120).print(faithfulness_report.carriers_table(figures, limit))
        return {"carriers": [each.as_json() for each in figures]}

    _run(json, settings, measure)


@app.command()
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
            _load(model, device), limit or 50, steps=steps, guidance=guidance, batch=batch
        )
        Console().print(report.inversions_table(figures))
        return {"inversions": [vars(each) for each in figures]}

    _run(json, settings, measure)


@app.command()
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
        painting = Painting(_load(model, device), steps, guidance, batch)
        figures: steering.Figures = {}
        for part in parts:
            figures = {**figures, **part(painting, limit)}
        Console().print(report.steering_table(figures))
        return {"edits": report.plain_figures(figures)}

    _run(json, settings, measure)


@app.command()
def world(
    model: Model = None,
    judge: WorldJudge = None,
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    batch: Batch = 16,
    limit: Limit = None,
    json: Json = None,
    save: Save = None,
    device: Device = "cpu",
) -> None:
    """A model of the world: its judge and autoencoder, its pictures of 500 prompts, and the maps
    of a skyline."""
    settings = {"model": model, "steps": steps, "guidance": guidance, "limit": limit}

    def measure() -> dict[str, Any]:
        with output_folder(save) if save is not None else nullcontext() as folder:
            segmenter = load_segmenter(judge or WEIGHTS)
            own, matrix = judge_scenes(seen_by(segmenter), limit or 300)
            pipe, figures = _load(model, device, "world"), {}
            kept = evaluate_autoencoder(pipe.vae, min(limit or 200, 200))
            seconds = seconds_of_a_picture(
                pipe, CITY, num_inference_steps=steps, guidance_scale=guidance
            )
            for group, prompts in world_prompts().items():
                keep = partial(_save_world, folder, group) if folder is not None else None
                verdicts = judge_world_prompts(
                    pipe, prompts[:limit], segmenter, group=group, keep=keep, steps=steps,
                    guidance=guidance, batch=batch,
                )  # fmt: skip
                figures[group] = world_figures(verdicts)
            peaks = evaluate_words(
                pipe, segmenter, seeds=min(limit or 20, 20), steps=steps, guidance=guidance
            )
        Console().print(report.world_table(figures, own, mean_iou(matrix)))
        Console().print(report.peaks_table(peaks, CITY))
        Console().print(report.means_table(kept, seconds, steps))
        return {
            "autoencoder": vars(kept),
            "seconds a picture": seconds,
            "judge": report.world_judge_figures(own, matrix),
            "pictures": report.plain_figures(figures),
            "peaks of": CITY,
            "peaks": {
                way: {
                    word: {**each.inside.as_json(), "by chance": each.by_chance}
                    for word, each in of.items()
                }
                for way, of in peaks.items()
            },
        }

    _run(json, settings, measure)


@app.command()
def nearest(
    recipe: Annotated[
        Path | None,
        typer.Option(help="What the model was trained by.", show_default="the shapes' recipe"),
    ] = None,
    model: Model = None,
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    batch: Batch = 16,
    limit: Annotated[int, typer.Option(min=1, help="Pictures to paint.")] = 200,
    training: Annotated[int, typer.Option(min=1, help="Training pictures to look at.")] = 50_000,
    json: Json = None,
    device: Device = "cpu",
) -> None:
    """Painting or recall: how near painted pictures come to those of the training."""
    settings = {"model": model, "limit": limit, "training": training}

    def measure() -> dict[str, Any]:
        trained_by = load_recipe(recipe or SHAPES_RECIPE)
        found = evaluate_recall(
            _load(model, device, trained_by.scenes),
            trained_by,
            limit,
            training,
            steps=steps,
            guidance=guidance,
            batch=batch,
        )
        Console().print(report.recall_table(found))
        return {"nearest": vars(found)}

    _run(json, settings, measure)


@app.command("all")
def everything(
    model: Model = None,
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    batch: Batch = 16,
    limit: Limit = None,
    json: Json = None,
    save: Save = None,
    device: Device = "cpu",
) -> None:
    """The judge, the pictures and the maps."""
    settings = {
        "model": model,
        "steps": steps,
        "guidance": guidance,
        "timesteps": TIMESTEPS,
        "limit": limit,
    }

    def measure() -> dict[str, Any]:
        painting = {"steps": steps, "guidance": guidance, "batch": batch}
        pipe, figures = _judged_pictures(model, device, limit, save, **painting)
        return {**figures, "maps": [each.as_json() for each in _maps(pipe, limit, batch)]}

    _run(json, settings, measure)


add_studies(app, _load, _run)
add_pictures(app)
add_attention_studies(app, _load, _run)
add_cheaper(app, _load)


if __name__ == "__main__":
    with mistakes_told("evaluate"):
        app()
