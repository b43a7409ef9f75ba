"""The command line: ``t2i-xattn generate``, ``inspect``, ``explain``, ``edit`` …."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from t2i_xattn import __version__
from t2i_xattn.commands.again import again_command
from t2i_xattn.commands.batch import batch_command
from t2i_xattn.commands.cost import cost_command
from t2i_xattn.commands.edit import edit_command
from t2i_xattn.commands.explain import explain_command
from t2i_xattn.commands.film import film_command
from t2i_xattn.commands.generate import generate_command
from t2i_xattn.commands.group import OneSentenceGroup
from t2i_xattn.commands.inspect import inspect_command
from t2i_xattn.commands.report import report_command
from t2i_xattn.commands.serve import app_command
from t2i_xattn.commands.steps import steps_command
from t2i_xattn.commands.tokens import tokens_command

app = typer.Typer(
    cls=OneSentenceGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("generate")(generate_command)
app.command("inspect")(inspect_command)
app.command("explain")(explain_command)
app.command("steps")(steps_command)
app.command("edit")(edit_command)
app.command("film")(film_command)
app.command("report")(report_command)
app.command("batch")(batch_command)
app.command("tokens")(tokens_command)
app.command("again")(again_command)
app.command("app")(app_command)
app.command("cost")(cost_command)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"t2i-xattn {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """See what every word of a prompt does inside a text-to-image diffusion model."""


def main() -> None:
    """Entry point of ``t2i-xattn``."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that has not all letters is no reason to fail after the work is done.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="t2i-xattn")  # however it was started


if __name__ == "__main__":
    main()
