"""Prompts of different lengths in one batch: what their start token and padding attract, and what
changes in maps and pictures without them.

All prompts of a batch stand in sequences of one length, so that short ones have more padding.
CLIP's text encoder looks backwards only: the padding behind a text has read it, and the text has
not read the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from lab.evaluation.figures import Estimate, Share
from lab.evaluation.painted_regions import nouns
from lab.evaluation.studies_padding import (
    GUIDANCE,
    PARTS,
    PLAIN,
    TAKEN_AWAY,
    correlation,
    psnr,
    shares_of_parts,
)
from lab.evaluation.studies_scenes import fit_at_area
from lab.evaluation.world_prompts import WorldPrompt, world_prompts
from lab.judge.segmenter import Segmenter, segment
from lab.judge.world import read_maps
from lab.judge.world_verdict import world_verdict
from lab.scenes.world import class_names
from t2i_xattn.denoisers.streams import EDITED, TEXT
from t2i_xattn.editing.edit import edit
from t2i_xattn.recording.record import record

STEPS, COUNT = 10, 200

GROUPS = ("singles", "pairs", "triples", "light_and_place")
"""Of the fixed prompts; a batch has one of each, so that its lengths differ."""

TAKEN = (PLAIN, "padding masked", "start token dropped")
"""Of `TAKEN_AWAY`, in the conditional branch."""

LENGTHS = ((0, 7), (8, 10), (11, 14), (15, 77))
"""Tokens of a text with its start and end token, least and most."""

EVERY = (0, 77)


@dataclass(frozen=True)
class LengthFigure:
    """What is attracted by the parts of prompts of some lengths.

    Attributes:
        tokens: least and most, with start and end token.
        prompts: how many.
        shares: of attention by part, 0 to 1: the mean over sites, steps and places.
        per_column: how many times as much a column of padding gets as one of a word.
    """

    tokens: tuple[int, int]
    prompts: int
    shares: Mapping[str, Estimate]
    per_column: Estimate

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        shares = {name: each.as_json() for name, each in self.shares.items()}
        means = {"shares": shares, "per_column": self.per_column.as_json()}
        return {"tokens": list(self.tokens), "prompts": self.prompts, **means}


@dataclass(frozen=True)
class LengthTaken:
    """What taking something away does to prompts of some lengths.

    Attributes:
        tokens: least and most, with start and end token.
        taken: of `TAKEN`.
        right: pictures that show all that was asked for, as the judge sees it.
        lost, gained: pictures that only the plain run, and only this one, has right.
        peak: maps of nouns whose peak is in what the judge sees of the thing in that same picture.
        iou: of those maps, at the thing's own area, with what is seen of it.
        psnr: dB, of the pictures against those as they are; None of `PLAIN`.
        alike: correlation of those maps with the plain ones over pixels; None of `PLAIN`.
    """

    tokens: tuple[int, int]
    taken: str
    right: Share
    lost: int
    gained: int
    peak: Share
    iou: Estimate
    psnr: Estimate | None
    alike: Estimate | None

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        told = {name: getattr(self, name) for name in ("right", "peak", "iou", "psnr", "alike")}
        plain = {"taken": self.taken, "lost": self.lost, "gained": self.gained}
        means = {name: each and each.as_json() for name, each in told.items()}
        return {"tokens": list(self.tokens), **plain, **means}


@dataclass(frozen=True, eq=False)
class _Painted:
    """One picture of one prompt, its nouns' maps by kind of thing, and what the judge sees."""

    picture: Image.Image
    maps: Mapping[str, NDArray[np.float32]]
    classes: NDArray[np.int16]
    right: bool
    columns: Mapping[str, int]
    shares: Mapping[str, float]


def mixed_prompts(count: int = COUNT) -> list[WorldPrompt]:
    """The first of the fixed prompts, one of each of `GROUPS` by turns."""
    groups = [world_prompts()[name] for name in GROUPS]
    return [prompt for row in zip(*groups, strict=False) for prompt in row][:count]


def evaluate_lengths(
    pipe: Any, segmenter: Segmenter, count: int = COUNT, *, steps: int = STEPS
) -> tuple[list[LengthFigure], list[LengthTaken]]:
    """What is attracted, and what taking away does: by length, and of all lengths together.

    Args:
        pipe: a Stable Diffusion pipeline, of the world.
        segmenter: the judge's network.
        count: prompts.
        steps: of the sampler.
    """
    prompts = mixed_prompts(count)
    found: dict[str, list[_Painted]] = {name: [] for name in TAKEN}
    with tqdm(total=count * len(TAKEN), desc="lengths", unit="picture", disable=None) as bar:
        for first in range(0, len(prompts), len(GROUPS)):
            batch = prompts[first : first + len(GROUPS)]
            for name in TAKEN:
                found[name] += _run(pipe, segmenter, batch, name, steps)
                bar.update(len(batch))
    return figures_of(found)


def figures_of(
    found: Mapping[str, Sequence[_Painted]],
) -> tuple[list[LengthFigure], list[LengthTaken]]:
    """The figures of pictures of the same prompts, by what was taken away."""
    attracted, taken = [], []
    for tokens in (*LENGTHS, EVERY):
        chosen = [
            at
            for at, each in enumerate(found[PLAIN])
            if tokens[0] <= 77 - each.columns["padding"] <= tokens[1]
        ]
        if chosen:
            plain = [found[PLAIN][at] for at in chosen]
            attracted.append(_attracted(tokens, plain))
            taken += [
                _taken(tokens, name, [of[at] for at in chosen], plain) for name, of in found.items()
            ]
    return attracted, taken


def _run(
    pipe: Any, segmenter: Segmenter, prompts: Sequence[WorldPrompt], taken: str, steps: int
) -> Iterator[_Painted]:
    changes = TAKEN_AWAY[taken]()
    # What acts is entered first, so that its maps are there.
    with edit(pipe, *changes) if changes else nullcontext(), record(pipe) as trace:
        pictures = pipe(
            [each.prompt for each in prompts],
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(each.seed) for each in prompts],
        ).images
    stream = EDITED if changes else TEXT
    for image, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
        seen = segment(segmenter, picture)
        words = [word.text for word in trace.words_of(image)]
        parts = shares_of_parts(trace, image).values()
        kinds = trace.run.kinds[trace.run.branches[0]][image]
        yield _Painted(
            picture,
            maps={
                kind: trace.heatmap(noun, image=image, stream=stream).array
                for kind, noun in nouns(prompt, words)
            },
            classes=seen.classes,
            right=world_verdict(read_maps(seen), prompt.asked).all_right,
            columns={each: kinds.count(each) for each in ("word", "padding")},
            shares={name: float(np.mean([each[name] for each in parts])) for name in PARTS},
        )


def _mean(painted: Sequence[_Painted], value: Callable[[_Painted], float]) -> Estimate:
    return Estimate.of([[value(each)] for each in painted])


def _attracted(tokens: tuple[int, int], plain: Sequence[_Painted]) -> LengthFigure:
    def per_column(of: _Painted) -> float:
        padding = of.shares["padding"] / max(1, of.columns["padding"])
        return padding / (of.shares["words"] / max(1, of.columns["word"]))

    def share(name: str) -> Estimate:
        return _mean(plain, lambda each: each.shares[name])

    shares = {name: share(name) for name in PARTS}
    return LengthFigure(tokens, len(plain), shares, _mean(plain, per_column))


def _taken(
    tokens: tuple[int, int], name: str, painted: Sequence[_Painted], plain: Sequence[_Painted]
) -> LengthTaken:
    names = class_names()
    fits: list[list[tuple[float, float]]] = []
    for each in painted:
        masks = {kind: each.classes == names.index(kind) for kind in each.maps}
        # A thing that is not seen has no peak inside, and no area to be held against.
        fits.append(
            [fit_at_area(each.maps[kind], mask) for kind, mask in masks.items() if mask.any()]
        )
    hits = [bool(hit) for some in fits for _, hit in some]
    unseen = sum(len(each.maps) for each in painted) - len(hits)
    pairs = list(zip(painted, plain, strict=True))
    likeness = alike = None
    if name != PLAIN:
        likeness = Estimate.of([[psnr(one.picture, other.picture)] for one, other in pairs])
        alike = Estimate.of(
            [
                [correlation(array, other.maps[kind]) for kind, array in one.maps.items()]
                for one, other in pairs
            ]
        )
    return LengthTaken(
        tokens,
        name,
        right=Share.of(each.right for each in painted),
        lost=sum(other.right and not one.right for one, other in pairs),
        gained=sum(one.right and not other.right for one, other in pairs),
        peak=Share.of([*hits, *[False] * unseen]),
        iou=Estimate.of([[fit for fit, _ in some] for some in fits]),
        psnr=likeness,
        alike=alike,
    )
