"""Run the tutorial notebook from its first to its last cell, and write what comes of it into it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import nbclient
import nbformat
import typer

from t2i_xattn.commands.one_sentence import run_command

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def run_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook after its run, with what its cells gave; nothing but that is kept of the run.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if "outputs" in cell:
            # What libraries say of themselves on the error stream is no part of the lesson.
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main(out: Annotated[Path, typer.Option(help="The file to write.")] = TUTORIAL) -> None:
    """Write the tutorial with the outputs of a fresh run."""
    notebook = run_notebook(TUTORIAL)
    unfinished = out.with_name(f".{out.name}.part")
    nbformat.write(notebook, unfinished)
    unfinished.replace(out)
    typer.echo(out)


if __name__ == "__main__":
    run_command(main)
