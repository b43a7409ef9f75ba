"""Runs the commands within the test's own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import transformers
from typer.testing import CliRunner

from t2i_xattn.commands.app import app
from t2i_xattn.commands.run_files import NAME

PROMPT = "A red circle, blue"


@contextmanager
def as_loud_as_before() -> Iterator[None]:
    """The commands quieten the libraries, which other tests listen to."""
    before = diffusers.logging.get_verbosity(), transformers.logging.get_verbosity()
    try:
        yield
    finally:
        diffusers.logging.set_verbosity(before[0])
        transformers.logging.set_verbosity(before[1])


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    with as_loud_as_before():
        result = CliRunner().invoke(app, [str(each) for each in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def written(folder: Path) -> list[str]:
    """The names in a folder but that of the list of them."""
    return sorted(path.name for path in folder.iterdir() if path.name != NAME)
