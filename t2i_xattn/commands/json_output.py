"""`--json`: a result as one JSON object, alone on standard output."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as one JSON object on standard output, nothing else there."
    ),
]


def print_json(result: dict[str, Any]) -> None:
    """Prints the object; paths in it are written as text."""
    typer.echo(json.dumps(result, indent=2, default=str))
