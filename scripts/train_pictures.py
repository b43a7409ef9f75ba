"""Train pictures as prompts for the model in the box; see ``train_pictures.py --help``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.training.picture_prompts.card import picture_prompts_card
from lab.training.picture_prompts.recipe import load_picture_prompt_recipe
from lab.training.picture_prompts.run import export_picture_prompts, train_picture_prompts
from t2i_xattn.commands.one_sentence import run_command

RECIPE = (
    Path(__file__).parents[1] / "scripts" / "lab" / "training" / "recipes" / "picture_prompts.toml"
)


def main(
    run: Annotated[Path, typer.Option(help="Folder of the run: checkpoints and losses.")],
    recipe: Annotated[Path, typer.Option(help="The recipe, a TOML file.")] = RECIPE,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many steps of a stage.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Folder for the encoder and the adapters, fp16.")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(help="What `evaluate.py picture-prompts --json` wrote, for the card."),
    ] = None,
) -> None:
    """Train all stages. Interrupt at any moment; the same command goes on."""
    settings = load_picture_prompt_recipe(recipe)
    trained = train_picture_prompts(settings, run, max_steps=max_steps)
    if trained is None:
        typer.echo("stopped before the end; the same command goes on")
    elif export is not None:
        export_picture_prompts(trained, export, picture_prompts_card(settings, run, figures))
        typer.echo(export)


if __name__ == "__main__":
    run_command(main, "train_pictures")
