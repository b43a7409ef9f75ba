"""Write the list of words that the model in the box knows; it lies beside the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.training.vocabulary import vocabulary_as_json
from t2i_xattn.commands.one_sentence import run_command
from t2i_xattn.errors import UserError
from t2i_xattn.models.vocabulary import VOCABULARY


def main(out: Annotated[Path, typer.Option(help="The file to write.")] = VOCABULARY) -> None:
    """Write every word of the language that the world's pictures are described in."""
    unfinished = out.with_name(f".{out.name}.part")
    try:
        unfinished.write_text(vocabulary_as_json(), "utf-8")
        unfinished.replace(out)
    except OSError as error:
        raise UserError(
            f"expected a file that can be written at {out}, but: {error.strerror}; "
            "choose another --out"
        ) from error
    typer.echo(out)


if __name__ == "__main__":
    run_command(main)
