"""Draw scenes of the world on one sheet, with their prompts: look at what the model learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from lab.scenes.layout import Split
from lab.scenes.world import render_world
from lab.scenes.world.sheet import scene_sheet, word_sheet
from t2i_xattn.commands.one_sentence import run_command
from t2i_xattn.errors import UserError

SPLITS = get_args(Split)


def main(
    out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("scenes.png"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Scenes.")] = 36,
    columns: Annotated[int, typer.Option(min=1, help="Scenes in a row.")] = 6,
    size: Annotated[int, typer.Option(min=16, help="Side of a picture in pixels.")] = 192,
    split: Annotated[str, typer.Option(help=f"One of {', '.join(SPLITS)}.")] = "train",
    words: Annotated[bool, typer.Option("--words", help="The pixels of each word too.")] = False,
) -> None:
    """Write a sheet of scenes."""
    if split not in SPLITS:
        raise UserError(f"expected a split of {', '.join(SPLITS)}, but came {split!r}")
    seeds = range(seed, seed + count)
    drawn = [render_world(each, size=size, split=cast(Split, split)) for each in seeds]
    sheet = word_sheet(drawn) if words else scene_sheet(drawn, columns)
    unfinished = out.with_name(f".{out.name}.part")
    try:
        sheet.save(unfinished, format="PNG")
        unfinished.replace(out)
    except OSError as error:
        raise UserError(
            f"expected a file that can be written at {out}, but: {error.strerror}; "
            "choose another --out"
        ) from error
    typer.echo(out)


if __name__ == "__main__":
    run_command(main)
