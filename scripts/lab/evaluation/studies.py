"""The commands of the studies: `layers`, `sanity`, `focus`, `padding`, `weights`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from lab.evaluation import studies_report as tables
from lab.evaluation.options import Device, Json, load, run
from lab.evaluation.studies_focus import GUIDANCE, STEPS, USUAL, evaluate_focus
from lab.evaluation.studies_layers import LEVELS, evaluate_layers
from lab.evaluation.studies_long import SCENES as LONG_SCENES
from lab.evaluation.studies_long import STEPS as LONG_STEPS
from lab.evaluation.studies_long import evaluate_long, long_table
from lab.evaluation.studies_padding import GUIDANCE as PADDING_GUIDANCE
from lab.evaluation.studies_padding import STEPS as PADDING_STEPS
from lab.evaluation.studies_padding import evaluate_padding
from lab.evaluation.studies_sanity import LEVELS as SANITY_LEVELS
from lab.evaluation.studies_sanity import evaluate_sanity
from lab.evaluation.studies_scenes import FIRST_SEED, KINDS
from lab.evaluation.studies_weights import evaluate_weights
from lab.judge.segmenter import load_segmenter

SCENES, SANITY_SCENES, FOCUS_PROMPTS, PADDING_PROMPTS = 60, 20, 5, 16
WEIGHTS_PROMPTS = 16

Model = Annotated[
    str | None,
    typer.Option(
        help="A model of the world: a folder or a hub name.", show_default="the one in the box"
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Scenes or prompts; few are a quick run.")]
Steps = Annotated[int, typer.Option(min=5, help="Steps of the sampler.")]
Seeds = Annotated[int, typer.Option(min=2, help="Pictures of each prompt.")]


def _print(*each: Any) -> None:
    # A table keeps its words whole where its output is no terminal.
    console = Console(width=None if Console().is_terminal else 200)
    for one in each:
        console.print(one)


def add_studies(app: typer.Typer) -> None:
    """Adds the commands to those of `evaluate.py`."""

    @app.command()
    def layers(
        model: Model = None, limit: Limit = None, json: Json = None, device: Device = "cpu"
    ) -> None:
        """Where alignment forms: depth and noise level by kind of word, and self-attention."""
        scenes = limit or SCENES
        settings = {
            "model": model,
            "scenes": scenes,
            "first seed": FIRST_SEED,
            "levels": list(LEVELS),
        }

        def measure() -> dict[str, Any]:
            figures = evaluate_layers(load(model, device, "world"), scenes)
            _print(tables.depth_table(figures, scenes))
            _print(*(tables.level_table(figures, kind) for kind in KINDS))
            _print(*tables.forming(figures))
            return {"layers": [each.as_json() for each in figures]}

        run(json, settings, measure)

    @app.command()
    def sanity(
        model: Model = None, limit: Limit = None, json: Json = None, device: Device = "cpu"
    ) -> None:
        """What must destroy a map: weights at random, wrong words, shuffled tokens."""
        scenes = limit or SANITY_SCENES
        levels = list(SANITY_LEVELS)
        settings = {"model": model, "scenes": scenes, "first seed": FIRST_SEED, "levels": levels}

        def measure() -> dict[str, Any]:
            figures = evaluate_sanity(load(model, device, "world"), scenes)
            _print(tables.sanity_table(figures, scenes, len(levels)))
            _print(*(list(tables.failing(figures)) or ["no control fails"]))
            return {"sanity": [each.as_json() for each in figures]}

        run(json, settings, measure)

    @app.command()
    def focus(
        model: Model = None,
        seeds: Seeds = 4,
        steps: Steps = STEPS,
        limit: Limit = None,
        json: Json = None,
        device: Device = "cpu",
    ) -> None:
        """Too much focus: temperature, guidance and weights against adherence and diversity."""
        prompts = limit or FOCUS_PROMPTS
        settings = {
            "model": model,
            "prompts": prompts,
            "seeds": seeds,
            "steps": steps,
            "guidance": GUIDANCE,
        }

        def measure() -> dict[str, Any]:
            pipe = load(model, device, "world")
            figures = evaluate_focus(pipe, load_segmenter(), prompts, seeds=seeds, steps=steps)
            _print(tables.focus_table(figures, prompts, seeds, steps))
            return {"focus": [each.as_json() for each in figures], "against": USUAL}

        run(json, settings, measure)

    @app.command()
    def padding(
        model: Model = None,
        steps: Steps = PADDING_STEPS,
        limit: Limit = None,
        json: Json = None,
        device: Device = "cpu",
    ) -> None:
        """What start token, end token and padding take, and what taking them away does."""
        prompts = limit or PADDING_PROMPTS
        settings = {
            "model": model,
            "prompts": prompts,
            "steps": steps,
            "guidance": PADDING_GUIDANCE,
        }

        def measure() -> dict[str, Any]:
            pipe = load(model, device, "world")
            shares, taken = evaluate_padding(pipe, load_segmenter(), prompts, steps=steps)
            _print(tables.share_table(shares, prompts), tables.taken_table(taken))
            return {
                "shares": [each.as_json() for each in shares],
                "taken": [each.as_json() for each in taken],
            }

        run(json, settings, measure)

    @app.command()
    def weights(
        model: Model = None,
        steps: Steps = PADDING_STEPS,
        limit: Limit = None,
        json: Json = None,
        device: Device = "cpu",
    ) -> None:
        """Whether a word does more the more it weighs: in the embedding and in the attention."""
        prompts = limit or WEIGHTS_PROMPTS
        settings = {
            "model": model,
            "prompts": prompts,
            "steps": steps,
            "guidance": PADDING_GUIDANCE,
        }

        def measure() -> dict[str, Any]:
            pipe = load(model, device, "world")
            figures = evaluate_weights(pipe, load_segmenter(), prompts, steps=steps)
            _print(tables.weights_table(figures, prompts, steps), tables.by_weight_table(figures))
            return {"weights": [each.as_json() for each in figures]}

        run(json, settings, measure)

    @app.command("long-prompts")
    def long(
        model: Model = None,
        steps: Steps = LONG_STEPS,
        limit: Limit = None,
        json: Json = None,
        device: Device = "cpu",
    ) -> None:
        """Whether words of 200 tokens and more stand on what they name, by window."""
        scenes = limit or LONG_SCENES
        settings = {"model": model, "scenes": scenes, "steps": steps, "guidance": PADDING_GUIDANCE}

        def measure() -> dict[str, Any]:
            pipe = load(model, device, "world")
            figures = evaluate_long(pipe, load_segmenter(), scenes, steps=steps)
            _print(long_table(figures, scenes, steps))
            return {"long": [each.as_json() for each in figures]}

        run(json, settings, measure)
