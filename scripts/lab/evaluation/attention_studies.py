"""The commands on attention itself: `stability`, `padding-lengths`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lab.evaluation.options import Device, Json, load, run
from lab.evaluation.padding_lengths import COUNT, GROUPS, STEPS, evaluate_lengths
from lab.evaluation.padding_report import lengths_table, lengths_taken_table
from lab.evaluation.report import check_writable
from lab.evaluation.stability import (
    PROMPTS,
    masked_figures,
    model_figures,
    random_figures,
    spread_figures,
)
from lab.evaluation.stability_report import (
    broken_table,
    heads_table,
    masked_table,
    stability_plot,
    stability_table,
)
from lab.evaluation.studies import Limit, Model
from lab.judge.segmenter import load_segmenter


def _print(*each: Any) -> None:
    console = Console(width=None if Console().is_terminal else 200)
    for one in each:
        console.print(one)


def add_attention_studies(app: typer.Typer) -> None:
    """Adds the commands to those of `evaluate.py`."""

    @app.command()
    def stability(
        model: Model = None,
        plot: Annotated[Path | None, typer.Option(help="Draw a PNG here.")] = None,
        limit: Limit = None,
        json: Json = None,
        device: Device = "cpu",
    ) -> None:
        """Attention without its precautions: entropy, gradient, NaN and error, by type."""
        if plot is not None:
            check_writable(plot)
        prompts = PROMPTS[:limit]

        def measure() -> dict[str, Any]:
            by_head, by_spread, masked = random_figures(), spread_figures(), masked_figures()
            of_runs = model_figures(load(model, device, "world"), prompts)
            _print(
                heads_table(by_head),
                broken_table(by_spread),
                stability_table(of_runs, f"runs of {len(prompts)} prompts"),
                masked_table(masked),
            )
            if plot is not None:
                stability_plot(by_head, by_spread, plot)
            every = {"heads": by_head, "spread": by_spread, "runs": of_runs}
            told = {name: [each.as_json() for each in some] for name, some in every.items()}
            return told | {"masked": [each.as_json() for each in masked]}

        run(json, {"model": model, "prompts": list(prompts)}, measure)

    @app.command()
    def padding_lengths(
        model: Model = None,
        steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = STEPS,
        limit: Limit = None,
        json: Json = None,
        device: Device = "cpu",
    ) -> None:
        """Prompts of different lengths in one batch: what start token and padding attract, and what
        changes without them."""
        count = limit or COUNT
        settings = {"model": model, "prompts": count, "steps": steps, "groups": list(GROUPS)}

        def measure() -> dict[str, Any]:
            pipe = load(model, device, "world")
            attracted, taken = evaluate_lengths(pipe, load_segmenter(), count, steps=steps)
            _print(lengths_table(attracted, steps), lengths_taken_table(taken))
            return {
                "lengths": [each.as_json() for each in attracted],
                "taken": [each.as_json() for each in taken],
            }

        run(json, settings, measure)
