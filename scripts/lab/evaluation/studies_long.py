"""Words of long prompts: whether their maps stand on what they name, by window and by how far into
its window a word stands.

The text encoder of the model in the box learned from prompts of at most about thirty tokens, each
at the beginning of its window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table
from tqdm import tqdm

from lab.evaluation.figures import Share
from lab.evaluation.long_prompts import LAYOUTS, LongPrompt, long_prompts
from lab.evaluation.studies_padding import GUIDANCE
from lab.judge.segmenter import Segmenter, segment
from lab.judge.world import read_maps
from lab.judge.world_verdict import world_verdict
from lab.scenes.world import class_names
from t2i_xattn.conditioning.condition import condition
from t2i_xattn.recording.record import record
from t2i_xattn.traces.regions import pointing_hit

STEPS, SCENES = 10, 24

WINDOW = 77

DEPTHS = ((1, 25), (26, 50), (51, 75))
"""Columns of a window, first and last."""


@dataclass(frozen=True)
class Seen:
    """A thing of one picture, as a part of its prompt names it.

    Attributes:
        layout, part: of the prompt.
        shown: whether the judge sees any of it.
        hit: whether the peak of the map of all words of the part that name it is on it.
        hits: for each of these words alone, its column in its window, and whether its peak is.
    """

    layout: str
    part: int
    shown: bool
    hit: bool
    hits: tuple[tuple[int, bool], ...]


@dataclass(frozen=True)
class LongFigure:
    """Things of one layout, named in one part of the prompts; None for all parts together.

    Attributes:
        layout, part: of the prompts.
        tokens: the mean of the prompts, without what begins, ends and fills windows.
        right: pictures that show all that the scene asks for; None of one part.
        shown: things of which the judge sees anything.
        on_it: of those, the maps of all words of the part whose peak is on the thing.
        by_depth: the same of single words, by `DEPTHS`.
    """

    layout: str
    part: int | None
    tokens: float
    right: Share | None
    shown: Share
    on_it: Share
    by_depth: tuple[Share, ...]

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        return {
            "layout": self.layout,
            "part": self.part,
            "tokens": self.tokens,
            "right": self.right and self.right.as_json(),
            "shown": self.shown.as_json(),
            "on_it": self.on_it.as_json(),
            "by_depth": [each.as_json() for each in self.by_depth],
        }


def evaluate_long(
    pipe: Any, segmenter: Segmenter, scenes: int = SCENES, *, steps: int = STEPS
) -> list[LongFigure]:
    """The figures of each of `LAYOUTS`, by part and of all parts.

    Args:
        pipe: a Stable Diffusion pipeline, of the world.
        segmenter: the judge's network.
        scenes: of two things, each told in every layout.
        steps: of the sampler.
    """

    def tokens(text: str) -> int:
        return len(pipe.tokenizer(text).input_ids) - 2

    things: list[Seen] = []
    right: dict[str, list[bool]] = {layout: [] for layout in LAYOUTS}
    lengths: dict[str, list[int]] = {layout: [] for layout in LAYOUTS}
    with tqdm(total=scenes * len(LAYOUTS), desc="long", unit="picture", disable=None) as bar:
        for layouts in long_prompts(scenes, tokens):
            for prompt in layouts:
                found, whole = _seen(pipe, segmenter, prompt, steps)
                things += found
                right[prompt.layout].append(whole)
                lengths[prompt.layout].append(tokens(prompt.prompt.replace(" BREAK ", " ")))
                bar.update()
    figures = []
    for layout in LAYOUTS:
        own = [each for each in things if each.layout == layout]
        mean = float(np.mean(lengths[layout]))
        figures.append(figure_of(layout, None, mean, own, Share.of(right[layout])))
        for part in sorted({each.part for each in own}):
            some = [each for each in own if each.part == part]
            figures.append(figure_of(layout, part, mean, some, None))
    return figures


def _seen(
    pipe: Any, segmenter: Segmenter, prompt: LongPrompt, steps: int
) -> tuple[list[Seen], bool]:
    """The things of a picture, and whether it shows all that was asked for."""
    with record(pipe) as trace:
        picture = pipe(
            **condition(pipe, prompt.prompt),
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(prompt.seed),
        ).images[0]
    maps, names = segment(segmenter, picture), class_names()
    columns = {word.start: word.columns for word in trace.words}
    found = []
    for part, kind in sorted({(each.part, each.kind) for each in prompt.words}):
        mask = maps.classes == names.index(kind)
        words = [
            columns[each.start] for each in prompt.words if (each.part, each.kind) == (part, kind)
        ]

        def on(chosen: Sequence[int], mask: Any = mask) -> bool:
            array = trace.heatmap(columns=sorted(chosen)).array
            return bool(mask.any()) and bool(pointing_hit(array, mask))

        hits = tuple((each[0] % WINDOW, on(each)) for each in words)
        every = [column for each in words for column in each]
        found.append(Seen(prompt.layout, part, bool(mask.any()), on(every), hits))
    return found, world_verdict(read_maps(maps), prompt.asked).all_right


def figure_of(
    layout: str, part: int | None, tokens: float, things: Sequence[Seen], right: Share | None
) -> LongFigure:
    """The figure of some things."""
    shown = [each for each in things if each.shown]
    words = [each for thing in shown for each in thing.hits]
    return LongFigure(
        layout,
        part,
        tokens,
        right,
        shown=Share.of(each.shown for each in things),
        on_it=Share.of(each.hit for each in shown),
        by_depth=tuple(
            Share.of(hit for column, hit in words if low <= column <= high) for low, high in DEPTHS
        ),
    )


def long_table(figures: Sequence[LongFigure], scenes: int, steps: int) -> Table:
    """A row for each layout and part."""
    title = f"Words of long prompts, {scenes} scenes of two things, {steps} steps (95 %)"
    table = Table("layout", "tokens", "part", title=title, title_justify="left")
    depths = [f"a word, columns {low}–{high}" for low, high in DEPTHS]
    for name in ("all right", "thing shown", "peak on it, of those shown", *depths):
        table.add_column(name, justify="right")
    for each in figures:
        table.add_row(
            each.layout if each.part is None else "",
            f"{each.tokens:.0f}" if each.part is None else "",
            "all" if each.part is None else str(each.part + 1),
            str(each.right or ""),
            str(each.shown),
            str(each.on_it),
            *(str(share) if share.n else "" for share in each.by_depth),
        )
    return table
