"""Sanity of maps: whether what must destroy them does; see `studies_controls.CONTROLS`."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from lab.evaluation.figures import Estimate
from lab.evaluation.one_pass import answer, conditions, noised
from lab.evaluation.random_weights import with_random_weights
from lab.evaluation.studies_controls import OWN, SHUFFLED, Case, cases, moved_columns
from lab.evaluation.studies_effects import TEXT, Asked, effects
from lab.evaluation.studies_scenes import (
    FIRST_SEED,
    NamedWord,
    batches,
    centre_map,
    columns_of_words,
    fit_at_area,
    uniform_fit,
)
from lab.evaluation.ways import chosen_ways, recorded

LEVELS = (200, 500, 800)
"""Noise levels; the figures are over all."""

WAYS = ("mean", "agreed", "contribution", "carried")
"""The maps that `Trace.heatmap` gives by default, by what is recorded."""

WITHOUT_COLUMNS = ("contribution", "carried", TEXT)
"""Methods that take the word out of the text: they would be the same under `SHUFFLED`."""

FALLS, FAILING, TOO_FEW = "falls", "FAILING", "too few"


@dataclass(frozen=True)
class SanityFigure:
    """What becomes of the maps of one method, for words of one kind, under one control.

    Attributes:
        method: of `WAYS`, or an effect map of `studies_effects`.
        kind: of the words, one of `studies_scenes.KINDS`.
        control: one of `CONTROLS`, or `OWN`.
        iou, peak: see `fit_at_area`: with the region of the word itself.
        over: by how much the IoU lies above the better of two maps that know nothing of the
            picture: one that is the same everywhere, and nearness to the middle.
        scenes: how many had such a word.
    """

    method: str
    kind: str
    control: str
    iou: Estimate
    peak: Estimate
    over: Estimate
    scenes: int

    @property
    def verdict(self) -> str:
        """`FAILING` where a control leaves the map above both baselines: the interval of `over`
        lies above 0. Of fewer than two scenes there is no interval."""
        if self.scenes < 2:
            return TOO_FEW
        return FAILING if self.over.low > 0 else FALLS

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        told: dict[str, Any] = {
            "method": self.method,
            "kind": self.kind,
            "control": self.control,
            "scenes": self.scenes,
        }
        told |= {name: getattr(self, name).as_json() for name in ("iou", "peak", "over")}
        return told if self.control == OWN else told | {"verdict": self.verdict}


def evaluate_sanity(
    pipe: Any, scenes: int = 20, *, levels: Sequence[int] = LEVELS, batch: int = 10
) -> list[SanityFigure]:
    """The figures of every method, kind and control.

    Args:
        pipe: a pipeline of the world.
        scenes: how many drawn scenes, from `FIRST_SEED` on.
        levels: of the noise.
        batch: scenes passed at once, and among which another prompt is looked for.
    """
    at_random = with_random_weights(copy.deepcopy(pipe))
    every: dict[tuple[str, str, str], list[list[Values]]] = defaultdict(
        lambda: [[] for _ in range(scenes)]
    )
    with tqdm(total=scenes * len(levels), desc="sanity", unit="pass", disable=None) as bar:
        for start, part, latents in batches(pipe, scenes, batch):
            for level in levels:
                noisy = noised(pipe, latents, level, FIRST_SEED + start)
                for case in cases(pipe, at_random, part, FIRST_SEED + start + level):
                    for method, control, image, named, array in _maps(case, noisy, level):
                        values = _values(named, array)
                        every[method, named.kind, control][start + image].append(values)
                bar.update(len(part))
    return [_figure(key, groups) for key, groups in every.items()]


Values = tuple[float, float, float, float]
"""IoU and peak of a map, and the IoU of a map that is the same everywhere and of the middle."""


def _values(named: NamedWord, array: NDArray[np.float32]) -> Values:
    middle = fit_at_area(centre_map(named.mask.shape[0]), named.mask)
    return *fit_at_area(array, named.mask), uniform_fit(named.mask)[0], middle[0]


def _figure(key: tuple[str, str, str], groups: Sequence[Sequence[Values]]) -> SanityFigure:
    table = np.array([value for group in groups for value in group])
    # The better of the two baselines, for these words together.
    baseline = 2 + int(table[:, 3].mean() > table[:, 2].mean())
    return SanityFigure(
        *key,
        iou=Estimate.of([[value[0] for value in group] for group in groups]),
        peak=Estimate.of([[value[1] for value in group] for group in groups]),
        over=Estimate.of([[value[0] - value[baseline] for value in group] for group in groups]),
        scenes=sum(map(bool, groups)),
    )


def _maps(
    case: Case, noisy: Tensor, level: int
) -> Iterator[tuple[str, str, int, NamedWord, NDArray[np.float32]]]:
    """Method, control, number of a scene, the word whose region is meant, and the map."""
    ways = chosen_ways(WAYS)
    with moved_columns(case.pipe.unet, case.order):
        with recorded(case.pipe, ways) as traces:
            answer(case.pipe, conditions(case.pipe, case.prompts, noisy), noisy, level)
        trace = traces[WAYS[0]]
        columns = [columns_of_words(trace.words_of(image)) for image in range(len(case.prompts))]
        for control, words in case.words.items():
            known = [each for each in words if each[2].start in columns[each[0]]]
            asked = [
                Asked(image, word.start, word.stop, columns[image][word.start])
                for image, _, word in known
            ]
            found = effects(case.pipe, case.prompts, noisy, level, asked)
            for method, way in ways.items():
                found[method] = [
                    way.heatmap(traces[method], each.columns, each.picture).array for each in asked
                ]
            for method, arrays in found.items():
                if control == SHUFFLED and method in WITHOUT_COLUMNS:
                    continue
                for (image, named, _), array in zip(known, arrays, strict=True):
                    yield method, control, image, named, array
