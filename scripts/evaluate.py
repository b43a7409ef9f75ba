"""Measure a model: its pictures, by the judge, and its heat maps, against drawn scenes."""

from __future__ import annotations

from typing import Any

import typer

from lab.evaluation.attention_studies import add_attention_studies
from lab.evaluation.cheaper_command import add_cheaper
from lab.evaluation.drawn import TIMESTEPS
from lab.evaluation.explained_commands import add_explained_commands
from lab.evaluation.maps_commands import add_maps_commands, map_figures
from lab.evaluation.options import (
    Batch,
    Device,
    Guidance,
    Json,
    Limit,
    Model,
    Save,
    Steps,
    run,
)
from lab.evaluation.picture_prompts_command import add_picture_prompts
from lab.evaluation.pictures_commands import add_pictures_commands, judged_pictures
from lab.evaluation.steering_commands import add_steering_commands
from lab.evaluation.studies import add_studies
from lab.evaluation.world_commands import add_world_commands
from t2i_xattn.commands.one_sentence import mistakes_told

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

add_pictures_commands(app)
add_maps_commands(app)
add_explained_commands(app)
add_steering_commands(app)
add_world_commands(app)


@app.command("all")
def everything(
    model: Model = None,
    steps: Steps = 25,
    guidance: Guidance = 5.0,
    batch: Batch = 16,
    limit: Limit = None,
    json: Json = None,
    save: Save = None,
    device: Device = "cpu",
) -> None:
    """The judge, the pictures and the maps."""
    settings = {
        "model": model,
        "steps": steps,
        "guidance": guidance,
        "timesteps": TIMESTEPS,
        "limit": limit,
    }

    def measure() -> dict[str, Any]:
        painting = {"steps": steps, "guidance": guidance, "batch": batch}
        pipe, figures = judged_pictures(model, device, limit, save, **painting)
        return {**figures, "maps": [each.as_json() for each in map_figures(pipe, limit, batch)]}

    run(json, settings, measure)


add_studies(app)
add_attention_studies(app)
add_cheaper(app)
add_picture_prompts(app)


if __name__ == "__main__":
    with mistakes_told("evaluate"):
        app()
