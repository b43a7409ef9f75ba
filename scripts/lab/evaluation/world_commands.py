"""`scripts/evaluate.py` world-judge, world: pictures of the world, by their judge."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import typer
from PIL import Image
from rich.console import Console

from lab.evaluation import report
from lab.evaluation.options import (
    Batch,
    Device,
    Guidance,
    Json,
    Limit,
    Model,
    Save,
    Steps,
    WorldJudge,
    load,
    run,
)
from lab.evaluation.pictures_commands import SCENES
from lab.evaluation.reconstruction import evaluate_autoencoder
from lab.evaluation.segmentation import mean_iou
from lab.evaluation.world_judging import judge_scenes, seen_by
from lab.evaluation.world_maps import CITY, evaluate_words
from lab.evaluation.world_pictures import judge_world_prompts, seconds_of_a_picture, world_figures
from lab.evaluation.world_prompts import WorldPrompt, world_prompts
from lab.judge.segmenter import WEIGHTS, load_segmenter
from lab.judge.world_verdict import WorldVerdict
from t2i_xattn.commands.output import output_folder


def _save_world(
    folder: Path, group: str, index: int, _: WorldPrompt, picture: Image.Image, found: WorldVerdict
) -> None:
    picture.save(folder / f"{group}-{index:03d}-{'right' if found.all_right else 'wrong'}.png")


def world_judge(judge: WorldJudge = None, limit: Limit = None, json: Json = None) -> None:
    """The accuracy of the world's judge on rendered scenes, half of them with what is held out."""

    def measure() -> dict[str, Any]:
        own, matrix = judge_scenes(seen_by(load_segmenter(judge or WEIGHTS)), limit or SCENES)
        Console().print(report.world_table({}, own, mean_iou(matrix)))
        return {"judge": report.world_judge_figures(own, matrix)}

    run(json, {"limit": limit}, measure)


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
            pipe, figures = load(model, device, "world"), {}
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

    run(json, settings, measure)


def add_world_commands(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (world_judge, world):
        app.command()(command)
