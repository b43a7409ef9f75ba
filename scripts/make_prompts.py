"""Make the fixed list of benchmark prompts again; the file in the package is what this writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2i_xattn.evaluation.prompts import FILE_NAME, SEED, make_prompts, prompts_as_json

FILE = Path(__file__).parents[1] / "t2i_xattn" / "evaluation" / FILE_NAME


def main(
    out: Annotated[Path, typer.Option(help="The file to write.")] = FILE,
    seed: Annotated[int, typer.Option(help="Another seed gives other prompts.")] = SEED,
) -> None:
    """Write the prompts of scripts/evaluate.py."""
    out.write_text(prompts_as_json(make_prompts(seed)), "utf-8")
    typer.echo(out)


if __name__ == "__main__":
    typer.run(main)
