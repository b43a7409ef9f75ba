"""How a command ends when something is wrong: one sentence on the error stream, an exit code."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from t2i_xattn.errors import UserError, is_out_of_memory, shown_path

MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130
"""Exit codes: of a user's mistake, of what the machine has not, of an interrupt (as shells say)."""


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
        raise SystemExit(MISTAKE) from error


@contextmanager
def failures_told(command: str) -> Iterator[None]:
    """Ends the program with code 1 where files or memory fail it, after one sentence; with code
    130 on an interrupt, without a word.

    Other errors are faults of our own and pass.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise SystemExit(INTERRUPTED) from error
    except (OSError, MemoryError, RuntimeError) as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        typer.echo(f"{command}: {sentence}", err=True)
        raise SystemExit(FAILURE) from error


def _sentence(error: Exception) -> str | None:
    if isinstance(error, OSError):
        if error.errno == errno.EPIPE:  # whoever read the output has heard enough
            return None
        reason = error.strerror or " ".join(str(error).split())[:200]
        where = "" if error.filename is None else f" at {shown_path(error.filename)}"
        return (
            f"expected files that can be read and written, but: {reason}{where}; nothing was "
            "changed, so make room or choose another folder and run it again"
        )
    if is_out_of_memory(error):
        return (
            "expected enough memory for this run, but there is not; take a smaller --size, a "
            "smaller --count or a shorter list of --words"
        )
    return None


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
