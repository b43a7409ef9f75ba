"""`t2i-xattn tokens`: how a prompt is read, before anything is painted."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from t2i_xattn.asking.limits import check_limits
from t2i_xattn.asking.request import Request, check_text
from t2i_xattn.commands import options
from t2i_xattn.commands.config import Config
from t2i_xattn.commands.json_output import Json, print_json

if TYPE_CHECKING:
    from t2i_xattn.conditioning.reading import Reading


@options.one_sentence
def tokens_command(
    prompt: options.Prompt,
    model: options.Model = None,
    negative: options.Negative = None,
    device: options.Device = None,
    as_json: Json = False,
    config: Config = None,
    no_limits: options.NoLimits = False,
) -> None:
    """Say how a prompt is read: its tokens, words, weights and windows, and what is cut."""
    if not no_limits:
        check_limits(Request(prompt, negative=negative))
    for text in (prompt, negative or ""):
        check_text(text)
    readings = readings_of_prompt(options.load(model, device), prompt, negative)
    if as_json:
        found = [asdict(each) for each in readings]
        print_json({"command": "tokens", "prompt": prompt, "readings": found})
        return
    for each in readings:
        _print(each)


def readings_of_prompt(pipe: Any, prompt: str, negative: str | None) -> list[Reading]:
    """How each text encoder of a pipeline reads a prompt and a negative one.

    Raises:
        UserError: for syntax that cannot be, or that the pipeline does not read; for one that
            encodes no prompts.
    """
    from t2i_xattn.conditioning.within import read, words_read

    if (found := read(pipe, prompt, negative)) is not None:
        return found
    for text in (prompt, negative or ""):
        words_read(pipe, None, text)  # refuses weights
    from t2i_xattn.conditioning.heard import readings_heard

    return readings_heard(pipe, prompt, negative)


def _print(reading: Reading) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    where = f"{reading.encoder}, {reading.branch}"
    if reading.start:
        unit = "of the run" if isinstance(reading.start, float) else "steps"
        where += f", from {reading.start:g} {unit} on"
    if reading.pooled:
        where += ", pooled alone: no columns and no weights"
    table = Table(title=where, title_justify="left")
    for name in ("column", "window", "token", "id", "word", "weight", "text"):
        table.add_column(name, justify="left" if name in ("token", "word") else "right")
    words = {c: word for word in reading.words for c in word.columns}
    for token in reading.tokens:
        word = words.get(token.column) if token.column is not None else None
        table.add_row(
            "-" if token.column is None else str(token.column),
            str(token.chunk),
            # Text, not markup: a prompt may hold square brackets.
            Text(token.text),
            str(token.id),
            Text("" if word is None else word.text),
            "" if token.kind == "special" else f"{token.weight:.3g}",
            str(token.part),
        )
    Console(soft_wrap=not sys.stdout.isatty()).print(table)
    windows = len({token.chunk for token in reading.tokens})
    count = sum(token.kind == "text" for token in reading.tokens)
    typer.echo(f"{count} tokens in {windows} window{'s' * (windows > 1)}")
    if reading.cut:
        typer.echo(f"cut off: {', '.join(reading.cut)}")
    typer.echo()
