"""`scripts/evaluate.py` judge, pictures, nearest: pictures of shapes, by the judge."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.console import Console

from lab.evaluation import report
from lab.evaluation.judging import SPOILINGS, JudgeAccuracy, judge_accuracy
from lab.evaluation.options import (
    Batch,
    Device,
    Guidance,
    Json,
    Limit,
    Model,
    Save,
    Steps,
    load,
    run,
)
from lab.evaluation.pictures import Keep, judge_prompts, picture_figures
from lab.evaluation.prompts import Prompt, benchmark_prompts
from lab.evaluation.recall import SHAPES_RECIPE, evaluate_recall
from lab.judge import Verdict
from lab.training.recipe import load_recipe
from t2i_xattn.commands.output import output_folder

SCENES = 600


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


def judged_pictures(
    model: str | None, device: str, limit: int | None, save: Path | None, **painting: Any
) -> tuple[Any, dict[str, Any]]:
    """The pipeline, and the figures of what it paints with the judge's own from the same run."""
    # The folder comes first: that it cannot be written to is said before a model is loaded.
    with output_folder(save) if save is not None else nullcontext() as folder:
        pipe = load(model, device)
        accuracies, own = _judge(limit or SCENES)
        painted = _pictures(pipe, accuracies[0], limit, folder, **painting)
    return pipe, {"judge": own, "pictures": painted}


def judge(limit: Limit = None, json: Json = None) -> None:
    """The judge's own accuracy on rendered scenes: clean, blurred, noisy."""
    run(json, {"limit": limit}, lambda: {"judge": _judge(limit or SCENES)[1]})


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
        return judged_pictures(model, device, limit, save, **painting)[1]

    run(json, settings, measure)


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
            load(model, device, trained_by.scenes),
            trained_by,
            limit,
            training,
            steps=steps,
            guidance=guidance,
            batch=batch,
        )
        Console().print(report.recall_table(found))
        return {"nearest": vars(found)}

    run(json, settings, measure)


def add_pictures_commands(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (judge, pictures, nearest):
        app.command()(command)
