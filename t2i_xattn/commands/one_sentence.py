"""A user's mistake in a command: one sentence on the error stream, exit code 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from t2i_xattn.errors import UserError


@contextmanager
def mistakes_told(command: str | None = None) -> Iterator[None]:
    """Ends the program with code 2 on a `UserError`, after its sentence.

    Args:
        command: a name to set before the sentence.
    """
    try:
        yield
    except UserError as error:
        typer.echo(error if command is None else f"{command}: {error}", err=True)
        raise SystemExit(2) from error


def run_command(main: Callable[..., None], command: str | None = None) -> None:
    """Runs a script of one command, whose options are the function's arguments.

    Args:
        main: the command.
        command: as of `mistakes_told`.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    with mistakes_told(command):
        app()
