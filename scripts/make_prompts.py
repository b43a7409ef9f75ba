"""Make the fixed lists of benchmark prompts again: the files in the package are its output."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lab.evaluation import prompts, world_prompts
from t2i_xattn.commands.one_sentence import run_command
from t2i_xattn.errors import UserError

FOLDER = Path(__file__).parents[1] / "scripts" / "lab" / "evaluation"


def main(
    scenes: Annotated[
        Literal["shapes", "world"], typer.Option(help="Which prompts to make.")
    ] = "shapes",
    out: Annotated[
        Path | None, typer.Option(help="The file to write.", show_default="the package's")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Another seed gives other prompts.", show_default="the package's"),
    ] = None,
) -> None:
    """Write the prompts that models are measured on."""
    if scenes == "shapes":
        file, groups = prompts.FILE_NAME, prompts.make_prompts(seed or prompts.SEED)
        text = prompts.prompts_as_json(groups)
    else:
        file = world_prompts.FILE_NAME
        text = prompts.prompts_as_json(world_prompts.make_world_prompts(seed or world_prompts.SEED))
    target = FOLDER / file if out is None else out
    try:
        target.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(
            f"expected a file that can be written at {target}, but: {error.strerror}; "
            "choose another --out"
        ) from error
    typer.echo(target)


if __name__ == "__main__":
    run_command(main)
