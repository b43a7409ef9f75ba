"""The command line: ``t2i-xattn generate``, ``inspect``, ``edit`` and ``batch``."""

from __future__ import annotations

import typer

from t2i_xattn.commands.batch import batch_command
from t2i_xattn.commands.edit import edit_command
from t2i_xattn.commands.generate import generate_command
from t2i_xattn.commands.inspect import inspect_command

app = typer.Typer(
    help="See what every word of a prompt does inside a text-to-image diffusion model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("generate")(generate_command)
app.command("inspect")(inspect_command)
app.command("edit")(edit_command)
app.command("batch")(batch_command)


def main() -> None:
    """Entry point of ``t2i-xattn``."""
    app()


if __name__ == "__main__":
    main()
