"""The group of commands, whose own errors are one sentence as well."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from t2i_xattn.commands.one_sentence import MISTAKE

# Options that are missing, unknown or of a wrong type; typer gives no other name for the class.
_UsageError: Any = typer.BadParameter.__bases__[0]


class OneSentenceGroup(TyperGroup):
    """Commands whose wrong options are told in one sentence, with exit code 2."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _usage_told():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _usage_told():
            return super().invoke(ctx)


@contextmanager
def _usage_told() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        message = " ".join(error.format_message().split()).rstrip(".")
        if type(error).__name__ == "NoArgsIsHelpError" or not message:
            raise
        # What came is quoted whole, however long it is.
        message = re.sub(r"'([^']{40})[^']{2,}'", r"'\1…'", message)
        if len(message) > 250:
            message = f"{message[:250]}…"
        command = error.ctx.command_path if error.ctx is not None else "t2i-xattn"
        first = message[:1].lower() + message[1:]
        typer.echo(f"t2i-xattn: {first}; see {command} --help", err=True)
        raise SystemExit(MISTAKE) from error
