"""Train the judge of the world; see ``python scripts/train_judge.py --help``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.evaluation.segmentation import mean_iou
from lab.evaluation.world_judging import judge_scenes, seen_by
from lab.judge.segmenter import WEIGHTS, save_segmenter
from lab.training.judge import load_judge_recipe, train_judge
from t2i_xattn.commands.one_sentence import run_command

RECIPE = Path(__file__).parents[1] / "scripts" / "lab" / "training" / "recipes" / "judge.toml"


def main(
    run: Annotated[Path, typer.Option(help="Folder of the run: its checkpoint.")],
    recipe: Annotated[Path, typer.Option(help="The recipe, a TOML file.")] = RECIPE,
    init: Annotated[
        Path | None, typer.Option(help="Folder of a network to begin with, as --export wrote it.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after this many steps.")] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that draw ahead: most cores of an accelerator's.")
    ] = 0,
    export: Annotated[Path, typer.Option(help="Folder for the trained network, fp16.")] = WEIGHTS,
    scenes: Annotated[int, typer.Option(help="Scenes that it is then measured on.")] = 300,
) -> None:
    """Train, write and measure the network. Interrupt at any moment; the same command goes on."""
    segmenter = train_judge(
        load_judge_recipe(recipe), run, init=init, max_steps=max_steps, workers=workers
    )
    if segmenter is None:
        typer.echo("stopped before the end; the same command goes on")
        return
    save_segmenter(segmenter, export)
    typer.echo(export)
    shares, matrix = judge_scenes(seen_by(segmenter), scenes)
    for name, share in shares.items():
        typer.echo(f"{name:8} right: {share} of {share.n} scenes")
    typer.echo(f"mean IoU of the classes of pixels: {mean_iou(matrix):.3f}")


if __name__ == "__main__":
    run_command(main, "train_judge")
