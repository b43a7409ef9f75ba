"""Train the model in the box from nothing; see ``python scripts/train.py --help``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.training.card import model_card
from lab.training.export import export_pipeline
from lab.training.recipe import RECIPE_COPY, load_recipe
from lab.training.run import train_pipeline
from lab.training.soup import average_denoiser
from lab.training.vocabulary import vocabulary_as_json
from t2i_xattn.commands.one_sentence import run_command
from t2i_xattn.errors import UserError

RECIPE = Path(__file__).parents[1] / "scripts" / "lab" / "training" / "recipes" / "shapes.toml"


def main(
    run: Annotated[Path, typer.Option(help="Folder of the run: checkpoints and losses.")],
    recipe: Annotated[Path, typer.Option(help="The recipe, a TOML file.")] = RECIPE,
    init: Annotated[
        Path | None,
        typer.Option(help="A pipeline's folder to begin from: only its denoiser is trained on."),
    ] = None,
    read_on: Annotated[
        bool, typer.Option("--read-on", help="With --init: the text encoder is trained on too.")
    ] = False,
    decode_on: Annotated[
        bool,
        typer.Option("--decode-on", help="With --init: its decoder is trained on too, last."),
    ] = False,
    max_steps: Annotated[int | None, typer.Option(help="Stop after this many steps.")] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that draw ahead: most cores of an accelerator's.")
    ] = 0,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the denoiser; for an accelerator.")
    ] = False,
    export: Annotated[
        Path | None, typer.Option(help="Folder for the finished pipeline, fp16, with its card.")
    ] = None,
    average_with: Annotated[
        Path | None,
        typer.Option(help="With --export: a pipeline whose denoiser is averaged in."),
    ] = None,
    earlier: Annotated[
        list[Path] | None,
        typer.Option(help="Folders of the runs that this one goes on from, for the card."),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="What `evaluate.py all --json` wrote, for the card.")
    ] = None,
) -> None:
    """Train all stages. Interrupt at any moment; the same command goes on."""
    if average_with is not None and export is None:
        raise UserError(
            "expected a folder for what --average-with makes; give --export, or leave it out"
        )
    settings = load_recipe(recipe)
    run.mkdir(parents=True, exist_ok=True)
    (run / RECIPE_COPY).write_text(recipe.read_text("utf-8"), "utf-8")
    pipeline = train_pipeline(
        settings,
        run,
        init=init,
        read_on=read_on,
        decode_on=decode_on,
        max_steps=max_steps,
        workers=workers,
        compiled=compile,
    )
    if pipeline is None:
        typer.echo("stopped before the end; the same command goes on")
    elif export is not None:
        if average_with is not None:
            average_denoiser(pipeline, average_with)
        card = model_card(settings, run, figures, earlier or [])
        words = vocabulary_as_json() if settings.scenes == "world" else None
        export_pipeline(pipeline, export, card, words)
        typer.echo(export)


if __name__ == "__main__":
    run_command(main)
