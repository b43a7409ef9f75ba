"""Padding and sinks: what share the start token, the end token and the padding take, and what
taking them away does to the picture and to the maps.

Start tokens as sinks: Xiao et al., "Efficient Streaming Language Models with Attention Sinks"
(arXiv 2309.17453). Padding that carries the picture: Toker et al., "Padding Tone" (arXiv
2501.06751).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lab.evaluation.figures import Estimate, Share
from lab.evaluation.painted_regions import nouns
from lab.evaluation.world_prompts import WorldPrompt, world_prompts
from lab.judge.segmenter import Segmenter, segment
from lab.judge.world import judge_world
from lab.judge.world_verdict import world_verdict
from lab.scenes.world import class_names
from t2i_xattn import edits
from t2i_xattn.denoisers.streams import EDITED, TEXT
from t2i_xattn.editing.edit import edit
from t2i_xattn.edits.edit import EditContext, renormalised
from t2i_xattn.errors import UserError
from t2i_xattn.recording.record import record
from t2i_xattn.traces.regions import pointing_hit
from t2i_xattn.traces.trace import Trace

STEPS = 25
GUIDANCE = 5.0
WINDOWS = ((0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.0))
"""Of steps: fifths of the run."""

PARTS = ("start", "words", "end", "padding")
BOTH = ("conditional", "unconditional")
PLAIN = "as it is"


def _without_start(probs: Tensor, context: EditContext) -> Tensor:
    probs[..., 0] = 0
    return renormalised(probs)


TAKEN_AWAY: Mapping[str, Callable[[], list[edits.Edit]]] = {
    PLAIN: list,
    "padding masked": lambda: [edits.MaskPadding()],
    "padding masked, both branches": lambda: [edits.MaskPadding(branches=BOTH)],
    "start token dropped": lambda: [edits.EditFunction(_without_start)],
    "start token dropped, both branches": lambda: [
        edits.EditFunction(_without_start, branches=BOTH)
    ],
    "both dropped, conditional": lambda: [
        edits.MaskPadding(),
        edits.EditFunction(_without_start),
    ],
}
"""What is taken away, in the conditional branch or in both; the others get its share."""


@dataclass(frozen=True)
class ShareFigure:
    """The shares of attention that the parts of a text take.

    Attributes:
        site: its name.
        window: of steps, first and end.
        shares: by part, 0 to 1, the mean over places; they sum to 1.
    """

    site: str
    window: tuple[int, int]
    shares: Mapping[str, Estimate]

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        shares = {name: each.as_json() for name, each in self.shares.items()}
        return {"site": self.site, "window": list(self.window), **shares}


@dataclass(frozen=True)
class TakenFigure:
    """What taking something away does.

    Attributes:
        taken: a name of `TAKEN_AWAY`.
        right: pictures that show all that was asked for, as the judge sees it.
        psnr: dB, of the pictures against those without the edit; None of `PLAIN`.
        alike: correlation over the pixels of a noun's map (the plain mean of the shares as they
            are used) with that without the edit, −1 to 1; None of `PLAIN`.
        peak: nouns' maps whose peak is in what the judge sees of the thing in that same picture.
    """

    taken: str
    right: Share
    psnr: Estimate | None
    alike: Estimate | None
    peak: Share

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        means = {"psnr": self.psnr, "alike": self.alike}
        return {
            "taken": self.taken,
            "right": self.right.as_json(),
            "peak": self.peak.as_json(),
            **{name: each and each.as_json() for name, each in means.items()},
        }


@dataclass(frozen=True, eq=False)
class _Painted:
    """A picture, and the map of each thing's noun, by the thing's kind."""

    picture: Image.Image
    maps: Mapping[str, NDArray[np.float32]]


def evaluate_padding(
    pipe: Any, segmenter: Segmenter, prompts: int = 16, *, steps: int = STEPS, batch: int = 4
) -> tuple[list[ShareFigure], list[TakenFigure]]:
    """The shares by site and window of steps, and what taking away does.

    Args:
        pipe: a Stable Diffusion pipeline, of the world.
        segmenter: the judge's network.
        prompts: how many of the fixed ones, of two things.
        steps: of the sampler, at least one for each of `WINDOWS`.
        batch: pictures painted at once.

    Raises:
        UserError: too few steps.
    """
    if steps < len(WINDOWS):
        raise UserError(
            f"expected {len(WINDOWS)} steps or more, one for each window, but came {steps}"
        )
    asked = world_prompts()["pairs"][:prompts]
    shares: dict[tuple[str, tuple[int, int]], dict[str, list[list[float]]]] = {}
    painted: dict[str, list[_Painted]] = defaultdict(list)
    total = len(asked) * len(TAKEN_AWAY)
    with tqdm(total=total, desc="padding", unit="picture", disable=None) as bar:
        for first in range(0, len(asked), batch):
            part = asked[first : first + batch]
            for name, made in TAKEN_AWAY.items():
                trace, pictures = _run(pipe, part, made(), steps, name == PLAIN)
                painted[name] += pictures
                for image in range(len(part)) if name == PLAIN else ():
                    for key, values in shares_of_parts(trace, image).items():
                        of = shares.setdefault(key, {each: [] for each in PARTS})
                        for each, value in values.items():
                            of[each].append([value])
                bar.update(len(part))
    figures = [
        ShareFigure(*key, {name: Estimate.of(groups) for name, groups in of.items()})
        for key, of in shares.items()
    ]
    return figures, [_taken(name, painted, asked, segmenter) for name in TAKEN_AWAY]


def _run(
    pipe: Any,
    prompts: Sequence[WorldPrompt],
    changes: Sequence[edits.Edit],
    steps: int,
    in_windows: bool,
) -> tuple[Trace, list[_Painted]]:
    edited = edit(pipe, *changes) if changes else nullcontext()
    with edited, record(pipe, steps=WINDOWS if in_windows else "sum") as trace:
        pictures = pipe(
            [each.prompt for each in prompts],
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(each.seed) for each in prompts],
        ).images
    stream = EDITED if changes else TEXT
    found = []
    for image, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
        words = [word.text for word in trace.words_of(image)]
        maps = {
            kind: trace.heatmap(noun, image=image, stream=stream).array
            for kind, noun in nouns(prompt, words)
        }
        found.append(_Painted(picture, maps))
    return trace, found


def shares_of_parts(
    trace: Trace, image: int
) -> dict[tuple[str, tuple[int, int]], dict[str, float]]:
    """By site and window, the share of each of `PARTS`."""
    run = trace.run
    kinds = np.array(run.kinds[run.branches[0]][image])
    parts = {
        "start": np.arange(len(kinds)) == 0,
        "words": np.isin(kinds, ("word", "other")),
        "end": (kinds == "special") & (np.arange(len(kinds)) > 0),
        "padding": kinds == "padding",
    }
    found = {}
    for site, maps in run.maps[TEXT].items():
        for index, window in enumerate(run.steps):
            # The mean over branch (one), heads and places.
            means = maps[image, :, index].reshape(-1, maps.shape[-1]).mean(axis=0)
            found[site, window] = {
                name: float(means[: len(kinds)][own].sum()) for name, own in parts.items()
            }
    return found


def _taken(
    name: str,
    painted: Mapping[str, Sequence[_Painted]],
    prompts: Sequence[WorldPrompt],
    segmenter: Segmenter,
) -> TakenFigure:
    right, peaks = [], []
    names = class_names()
    for prompt, each in zip(prompts, painted[name], strict=True):
        right.append(world_verdict(judge_world(each.picture, segmenter), prompt.asked).all_right)
        classes = segment(segmenter, each.picture).classes
        for kind, array in each.maps.items():
            mask = classes == names.index(kind)
            peaks.append(bool(mask.any()) and bool(pointing_hit(array, mask)))
    likeness = alike = None
    if name != PLAIN:
        pairs = list(zip(painted[name], painted[PLAIN], strict=True))
        likeness = Estimate.of([[psnr(one.picture, other.picture)] for one, other in pairs])
        alike = Estimate.of(
            [
                [correlation(array, other.maps[kind]) for kind, array in one.maps.items()]
                for one, other in pairs
            ]
        )
    return TakenFigure(name, Share.of(right), likeness, alike, Share.of(peaks))


def correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Of two maps over their places, −1 to 1."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def psnr(one: Image.Image, other: Image.Image) -> float:
    """dB; 100 of pictures that are the same."""
    a, b = (np.asarray(each, dtype=np.float64) / 255 for each in (one, other))
    return float(-10 * np.log10(max(float(np.mean((a - b) ** 2)), 1e-10)))
