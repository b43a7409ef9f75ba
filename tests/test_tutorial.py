"""The tutorial notebook runs, and its outputs are of such a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
from run_tutorial import TUTORIAL, run_notebook


def cells(notebook: Any) -> list[Any]:
    return [each for each in notebook.cells if each.cell_type == "code"]


def pictures(cell: Any) -> list[str]:
    return [each.data["image/png"] for each in cell.outputs if "image/png" in each.get("data", {})]


def test_it_is_small_and_every_cell_was_run() -> None:
    assert TUTORIAL.stat().st_size < 400_000
    notebook = nbformat.read(TUTORIAL, as_version=4)
    nbformat.validate(notebook)
    counts = [each.execution_count for each in cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert sum(len(pictures(each)) for each in cells(notebook)) >= 5


def test_its_first_cells_run() -> None:
    """Up to the first map, in this process."""
    names: dict[str, Any] = {}
    for cell in cells(nbformat.read(TUTORIAL, as_version=4)):
        if "heat.overlay" in cell.source:
            break
        exec(compile(cell.source, TUTORIAL.name, "exec"), names)
    assert names["image"].size == (128, 128)
    assert names["heat"].word == "red circle"
    assert names["heat"]._repr_png_()
    assert "red" in names["trace"]._repr_html_()


@pytest.mark.slow
def test_it_runs_and_gives_what_stands_in_it() -> None:
    kept, now = (
        cells(each) for each in (nbformat.read(TUTORIAL, as_version=4), run_notebook(TUTORIAL))
    )
    for one, other in zip(kept, now, strict=True):
        assert len(pictures(one)) == len(pictures(other)), one.source
        assert not [each for each in other.outputs if each.output_type == "error"]
