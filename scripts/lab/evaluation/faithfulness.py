"""How well maps of words fit what the words name in painted pictures, and whether the grade of
trust holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from lab.evaluation.explained import KINDS, ExplainedCase
from lab.evaluation.figures import Estimate, Share
from lab.evaluation.fit import fit, uniform_fit

ALL, UNION = "all kinds", "thing, with what came in its place"

RIGHT_IOU, RIGHT_INSIDE = 0.7, 0.5
"""What counts as right, see `explaining.trust.probability`."""


@dataclass(frozen=True)
class EffectFigure:
    """How the maps of one kind of words fit.

    Attributes:
        map_of: which maps.
        kind: of the words; `ALL`: the mean over the kinds; `UNION`: see `ExplainedCase.union`.
        iou_true_area: IoU of the highest pixels, as many as the word names.
        iou: of the region by Otsu's threshold.
        pointing: share of the maps whose peak lies in it.
        energy: share of the map's sum in it.
    """

    map_of: str
    kind: str
    iou_true_area: Estimate
    iou: Estimate
    pointing: Estimate
    energy: Estimate

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        values = vars(self).items()
        return {k: v.as_json() if isinstance(v, Estimate) else v for k, v in values}


MEASURES = ("iou_true_area", "iou", "pointing", "energy")


def effect_figures(pictures: Sequence[Sequence[ExplainedCase]]) -> list[EffectFigure]:
    """Figures by map and kind; beside the maps what a map that knows nothing would have."""
    found: dict[tuple[str, str], list[list[list[float]]]] = {}
    names = next((list(case.maps) for cases in pictures for case in cases), [])
    for number, cases in enumerate(pictures):
        for case in cases:
            truths = [(case.kind, case.truth)]
            if case.union is not None:
                truths.append((UNION, case.union))
            for kind, truth in truths:
                for name, heat in case.maps.items():
                    one = fit(heat, truth)
                    otsu = heat.mask("otsu")
                    iou = float((otsu & truth).sum() / (otsu | truth).sum())
                    groups = found.setdefault((name, kind), [[] for _ in pictures])
                    groups[number].append([one.iou_true_area, iou, one.pointing, one.energy])
                nothing = uniform_fit(truth)
                groups = found.setdefault(("chance", kind), [[] for _ in pictures])
                groups[number].append(
                    [nothing.iou_true_area, nothing.iou, nothing.pointing, nothing.energy]
                )
    kinds = [kind for kind in (*KINDS, UNION) if any(key[1] == kind for key in found)]
    figures = []
    for name in [*names, "chance"]:
        of = {kind: found[name, kind] for kind in kinds if (name, kind) in found}
        single = [each for kind, each in of.items() if kind != UNION]
        for kind, parts in [*((kind, [each]) for kind, each in of.items()), (ALL, single)]:
            estimates = [
                Estimate.of_kinds([[[v[k] for v in g] for g in part] for part in parts])
                for k in range(len(MEASURES))
            ]
            figures.append(EffectFigure(name, kind, *estimates))
    return figures


def which_of_two(pictures: Sequence[Sequence[ExplainedCase]], map_of: str) -> Share:
    """Of two things that a prompt names, how often a word's map has more of its sum per pixel in
    its own thing than in the other; by chance in half."""
    outcomes = []
    for cases in pictures:
        for case in cases:
            if case.other is None or not (case.other & ~case.truth).any():
                continue
            own = case.maps[map_of].array[case.truth].mean()
            outcomes.append(own > case.maps[map_of].array[case.other & ~case.truth].mean())
    return Share.of(outcomes)


@dataclass(frozen=True)
class TrustFigure:
    """How often words of one grade, or of a range of probabilities, are right.

    Attributes:
        of: the grade, or the range.
        said: the mean probability that `explain` gives.
        right: how many are, see `RIGHT_IOU`.
    """

    of: str
    said: float
    right: Share

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        return {"of": self.of, "said": self.said, **self.right.as_json()}


def is_right(case: ExplainedCase) -> bool:
    """Whether a word's region lies on what it names, or its effect inside."""
    region = case.maps["region (effect and attention)"].mask("otsu")
    iou = (region & case.truth).sum() / (region | case.truth).sum()
    squares = case.maps["effect of other words"].array.astype(np.float64) ** 2
    return bool(iou >= RIGHT_IOU or squares[case.truth].sum() / squares.sum() >= RIGHT_INSIDE)


EDGES = (0.0, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 1.0)


def trust_figures(pictures: Sequence[Sequence[ExplainedCase]]) -> list[TrustFigure]:
    """By grade, and by the probability that was given."""
    cases = [case for each in pictures for case in each]
    right = {id(case): is_right(case) for case in cases}
    groups = [
        (grade, [c for c in cases if c.word.grade == grade])
        for grade in ("trust", "doubt", "nothing")
    ]
    for low, high in pairwise(EDGES):
        within = [c for c in cases if low <= c.word.probability < high]
        groups.append((f"{low:.2f} to {high:.2f}", within))
    return [
        TrustFigure(
            name,
            float(np.mean([c.word.probability for c in some])),
            Share.of([right[id(c)] for c in some]),
        )
        for name, some in groups
        if some
    ]
