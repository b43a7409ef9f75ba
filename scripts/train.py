"""Train the model in the box from nothing; see ``python scripts/train.py --help``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2i_xattn.one_sentence import run_command
from t2i_xattn.training.card import model_card
from t2i_xattn.training.export import export_pipeline
from t2i_xattn.training.recipe import load_recipe
from t2i_xattn.training.run import train_pipeline

RECIPE = Path(__file__).parents[1] / "t2i_xattn" / "training" / "recipes" / "shapes.toml"


def main(
    run: Annotated[Path, typer.Option(help="Folder of the run: checkpoints and losses.")],
    recipe: Annotated[Path, typer.Option(help="The recipe, a TOML file.")] = RECIPE,
    init: Annotated[
        Path | None,
        typer.Option(help="A pipeline's folder to begin from: only its denoiser is trained on."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after this many steps.")] = None,
    export: Annotated[
        Path | None, typer.Option(help="Folder for the finished pipeline, fp16, with its card.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="What `evaluate.py all --json` wrote, for the card.")
    ] = None,
) -> None:
    """Train all stages. Interrupt at any moment; the same command goes on."""
    settings = load_recipe(recipe)
    pipeline = train_pipeline(settings, run, init=init, max_steps=max_steps)
    if pipeline is None:
        typer.echo("stopped before the end; the same command goes on")
    elif export is not None:
        export_pipeline(pipeline, export, model_card(settings, run, figures))
        typer.echo(export)


if __name__ == "__main__":
    run_command(main)
