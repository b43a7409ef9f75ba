"""Paint the first prompts of each benchmark group on one sheet, each with its own fixed seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.evaluation.pictures import paint
from lab.evaluation.prompts import benchmark_prompts
from lab.evaluation.world_prompts import world_prompts
from lab.models import load_model
from t2i_xattn.commands.one_sentence import run_command
from t2i_xattn.commands.output import output_folder
from t2i_xattn.errors import UserError
from t2i_xattn.showing.captions import captioned_sheet

GROUPS = {
    "shapes": ("singles", "pairs", "triples", "held_out_objects"),
    "world": ("light_and_place", "singles", "pairs", "triples", "styles", "held_out"),
}


def main(
    out: Annotated[Path, typer.Option(help="Folder to write gallery.png into.")] = Path("out"),
    model: Annotated[
        str | None,
        typer.Option(
            help="A model in the box, a folder or a hub name.",
            show_default="the one in the box that paints such scenes",
        ),
    ] = None,
    scenes: Annotated[str, typer.Option(help="Whose prompts: shapes, world.")] = "world",
    count: Annotated[int, typer.Option(min=1, help="Prompts of each group.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = 25,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance.")] = 5.0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
) -> None:
    """Nothing is chosen by hand: a row for each group, its first prompts, their own seeds."""
    if scenes not in GROUPS:
        raise UserError(f"expected prompts of {' or '.join(GROUPS)}, but came {scenes!r}")
    groups = world_prompts() if scenes == "world" else benchmark_prompts()
    with output_folder(out) as folder:
        pipe = load_model(model, scenes).to(device)
        prompts = [each for group in GROUPS[scenes] for each in groups[group][:count]]
        pictures = paint(pipe, prompts, steps=steps, guidance=guidance)
        captions = [each.prompt for each in prompts]
        sheet = captioned_sheet(list(zip(pictures, captions, strict=True)), count)
        sheet.save(folder / "gallery.png")
    typer.echo(out / "gallery.png")


if __name__ == "__main__":
    run_command(main)
