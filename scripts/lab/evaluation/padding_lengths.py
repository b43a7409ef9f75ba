"""Prompts of different lengths in one batch: what their padding attracts, and what changes in maps
and pictures where it is masked.

All prompts of a batch stand in sequences of one length, so that short ones have more padding.
CLIP's text encoder looks backwards only: the padding behind a text has read it, and the text has
not read the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.table import Table

from lab.evaluation.figures import Estimate
from lab.evaluation.studies_padding import GUIDANCE, shares_of_parts
from lab.evaluation.studies_padding import correlation as correlated
from lab.evaluation.studies_padding import psnr as psnr_of
from t2i_xattn import edits
from t2i_xattn.denoisers.streams import EDITED, TEXT
from t2i_xattn.editing.edit import edit
from t2i_xattn.recording.record import record
from t2i_xattn.traces.trace import Trace

STEPS, PER_LENGTH = 25, 6

COLOURS = ("red", "blue", "green", "yellow", "purple", "orange")
FORMS = (
    "a {0} circle",
    "a {0} circle left of a {1} square",
    "a painting of a large {0} circle, which is left of a small {1} square and above a {2} star, "
    "on a plain background in the light of the evening",
)
"""Prompts, shortest first; each begins its own batch row with one of `COLOURS`."""


@dataclass(frozen=True)
class LengthFigure:
    """What padding does to prompts of one length, in batches with the others.

    Attributes:
        tokens: of the text, with start and end token.
        padding: columns behind it.
        share: of attention that the padding takes, 0 to 1, the mean over sites, steps and places.
        words: the same of the words.
        per_column: of a column of padding against one of a word: how many times as much.
        psnr: dB, of the pictures with the padding masked against those without the mask.
        alike: correlation of the map of *circle* with and without the mask, −1 to 1.
        alone: dB, of the picture in the batch against the one painted alone, from the same noise.
    """

    tokens: int
    padding: int
    share: Estimate
    words: Estimate
    per_column: float
    psnr: Estimate
    alike: Estimate
    alone: Estimate

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        means = {name: each.as_json() for name, each in vars(self).items() if _is_mean(each)}
        plain = {name: each for name, each in vars(self).items() if not _is_mean(each)}
        return plain | means


def evaluate_lengths(pipe: Any, count: int = PER_LENGTH, steps: int = STEPS) -> list[LengthFigure]:
    """One figure for each of `FORMS`, shortest first.

    Args:
        pipe: a Stable Diffusion pipeline, of the world.
        count: batches, each with one prompt of each length.
        steps: of the sampler.
    """
    found: list[list[dict[str, Any]]] = [[] for _ in FORMS]
    for number in range(count):
        colours = [COLOURS[(number + shift) % len(COLOURS)] for shift in range(3)]
        prompts = [form.format(*colours) for form in FORMS]
        trace, plain = _run(pipe, prompts, number, steps)
        masked_trace, masked = _run(pipe, prompts, number, steps, edits.MaskPadding())
        for image, prompt in enumerate(prompts):
            _, alone = _run(pipe, [prompt], number, steps, first=image)
            kinds = trace.run.kinds[trace.run.branches[0]][image]
            parts = shares_of_parts(trace, image).values()
            maps = [
                each.heatmap("circle", image=image, stream=stream).array
                for each, stream in ((trace, TEXT), (masked_trace, EDITED))
            ]
            found[image].append(
                {
                    "padding": kinds.count("padding"),
                    "words_there": kinds.count("word"),
                    "tokens": len(kinds) - kinds.count("padding"),
                    "share": float(np.mean([each["padding"] for each in parts])),
                    "words": float(np.mean([each["words"] for each in parts])),
                    "psnr": psnr_of(masked[image], plain[image]),
                    "alike": correlated(*maps),
                    "alone": psnr_of(alone[0], plain[image]),
                }
            )
    return [_figure(each) for each in found]


def lengths_table(figures: Sequence[LengthFigure], count: int, steps: int) -> Table:
    """A row for each length."""
    names = ("tokens", "padding", "words get, %", "padding gets, %", "a column of it, of a word's")
    more = ("masked: PSNR, dB", "masked: map alike", "in the batch against alone: PSNR, dB")
    title = f"{count} batches of {len(figures)} prompts of different lengths, {steps} steps"
    table = Table(*names, *more, title=title, title_justify="left")
    for each in figures:
        table.add_row(
            str(each.tokens),
            str(each.padding),
            _told(each.words, 100, 0),
            _told(each.share, 100, 0),
            f"{each.per_column:.2f}",
            _told(each.psnr),
            _told(each.alike, digits=3),
            _told(each.alone),
        )
    return table


def _run(
    pipe: Any,
    prompts: Sequence[str],
    seed: int,
    steps: int,
    *changes: edits.Edit,
    first: int = 0,
) -> tuple[Trace, list[Image.Image]]:
    """A run, recorded; picture n of any batch has the same noise, `first` being the first n."""
    options: dict[str, Any] = {
        "num_inference_steps": steps,
        "guidance_scale": GUIDANCE,
        "generator": [
            torch.Generator().manual_seed(1000 * seed + first + n) for n in range(len(prompts))
        ],
    }
    # What acts is entered first, so that its maps are there.
    with edit(pipe, *changes) if changes else torch.no_grad(), record(pipe) as trace:
        pictures = pipe(list(prompts), **options).images
    return trace, pictures


def _figure(rows: Sequence[dict[str, Any]]) -> LengthFigure:
    def mean(name: str) -> Estimate:
        return Estimate.of([[row[name]] for row in rows])

    first, share, words = rows[0], mean("share"), mean("words")
    of_padding = share.value / max(1, first["padding"])
    return LengthFigure(
        tokens=first["tokens"],
        padding=first["padding"],
        share=share,
        words=words,
        per_column=of_padding / (words.value / first["words_there"]),
        psnr=mean("psnr"),
        alike=mean("alike"),
        alone=mean("alone"),
    )


def _is_mean(value: Any) -> bool:
    return isinstance(value, Estimate)


def _told(of: Estimate, factor: float = 1, digits: int = 1) -> str:
    low, value, high = (factor * each for each in (of.low, of.value, of.high))
    return f"{value:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"
