"""What explanations cost, against the plain pipeline in the same process."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import diffusers

from lab.benchmark.timing import Ratio, ratio, time_in_turn
from lab.models import load_model
from t2i_xattn.explaining.explain import explain
from t2i_xattn.explaining.run import Run

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}

ONE, SEVERAL = "one picture", "as many pictures"


def explaining_ratios(
    model: str | None, prompt: str, steps: int, pairs: int, clock: Callable[[], float]
) -> dict[tuple[str, str], Ratio]:
    """By way and what it is held against, the ratio of times.

    Effect maps of all words, one other word each, are held against the picture alone, which is part
    of them; so is an explanation as `explain` gives it by default; pictures painted to the end with
    each word replaced, beside their effect maps, against as many painted plainly.

    Args:
        model: a folder; None: the model in the box.
        prompt: what is painted.
        steps: of the sampler.
        pairs: of runs.
        clock: what is read.
    """
    diffusers.logging.disable_progress_bar()
    pipe = load_model(model, "world")
    pipe.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": 5.0}
    words = prompt.split()
    lean: dict[str, Any] = {
        "interventions": ["text"], "alternatives": 1, "placebo": False, "walk": 0,
    }  # fmt: skip
    ways: dict[str, Callable[[], object]] = {
        ONE: lambda: pipe(prompt, **settings),
        SEVERAL: lambda: Run(pipe, prompt, **settings)([prompt] * (len(words) + 1)),
        "effect maps of all words": lambda: explain(pipe, prompt, **lean, **settings),
        "explain, as by default": lambda: explain(pipe, prompt, **settings),
        "effect maps and pictures to the end": lambda: explain(
            pipe, prompt, paint=True, **lean, **settings
        ),
    }
    now = [ONE]

    def enter(name: str) -> AbstractContextManager[None]:
        now[0] = name
        return nullcontext()

    turns = time_in_turn(
        lambda: ways[now[0]](), list(ways), enter, pairs, label="explain", clock=clock
    )
    *_, seconds = turns
    against = {name: ONE for name in ways if name != ONE}
    against["effect maps and pictures to the end"] = SEVERAL
    return {(name, other): ratio(seconds[name], seconds[other]) for name, other in against.items()}
