"""The options that commands of `scripts/evaluate.py` share; a pipeline loaded, figures written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.evaluation import report
from lab.models import load_model

Model = Annotated[
    str | None,
    typer.Option(
        help="A model in the box, a folder or a hub name.",
        show_default="the one in the box that paints what is measured",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="A quick run: prompts of each group, and scenes."),
]
Json = Annotated[
    Path | None, typer.Option("--json", help="Write the figures to this file, with settings.")
]
WorldJudge = Annotated[
    Path | None,
    typer.Option(help="Folder of the judge's network.", show_default="the one in the box"),
]
Batch = Annotated[int, typer.Option(min=1, help="Pictures at once.")]
Steps = Annotated[int, typer.Option(min=1, help="Steps of the sampler.")]
Guidance = Annotated[float, typer.Option(help="Classifier-free guidance; 1 is without.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]
Save = Annotated[Path | None, typer.Option(help="Folder for the pictures.")]


def load(model: str | None, device: str, box: str = "shapes") -> Any:
    """A pipeline without progress bars; `box` says which model is in the place of None."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.logging.disable_progress_bar()
    pipe = load_model(model, box).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(json: Path | None, settings: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
    """Measure, and write the file; whether it can be written is known before."""
    if json is not None:
        report.check_writable(json)
    figures = measure()
    if json is not None:
        report.write_json(json, {"settings": settings, **figures, **report.circumstances()})
        typer.echo(json)
