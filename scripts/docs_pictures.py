"""Runs the code of docs/editing.md, and puts what it paints beside each other, for that page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import diffusers
import typer
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"

ROWS = {
    "editing-weights": ("before", "louder", "dropped"),
    "editing-places": ("before", "restricted", "placed"),
    "editing-replace": ("before", "replaced"),
    "editing-regions": ("before", "regional"),
}
"""By file, the names that the page gives its pictures."""

GAP = 6


def code_of(page: Path) -> str:
    """All Python of a page."""
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL))


def beside(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of one size in a row."""
    width, height = pictures[0].size
    row = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height), (255, 255, 255))
    for number, each in enumerate(pictures):
        row.paste(each.convert("RGB"), (number * (width + GAP), 0))
    return row


def main(out: Annotated[Path, typer.Option(help="Folder to write into.")] = DOCS) -> None:
    """Write the pictures of docs/editing.md."""
    diffusers.logging.disable_progress_bar()
    names: dict[str, Any] = {}
    exec(compile(code_of(DOCS / "editing.md"), "docs/editing.md", "exec"), names)
    for file, row in ROWS.items():
        path = out / f"{file}.png"
        beside([names[each] for each in row]).save(path, optimize=True)
        typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
