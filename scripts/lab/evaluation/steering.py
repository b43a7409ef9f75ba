"""Whether edits and guidance do what they say: judged on the pictures, against those without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lab.evaluation.boxes import evaluate_boxes
from lab.evaluation.exciting import evaluate_excite
from lab.evaluation.figures import Mean, Share
from lab.evaluation.painting import Painting, distinct
from lab.evaluation.prompts import benchmark_prompts
from lab.evaluation.regional import evaluate_regions
from lab.evaluation.replacing import evaluate_replace
from lab.evaluation.reweighting import evaluate_reweight
from t2i_xattn.errors import UserError, nearest

Figures = Mapping[str, Mapping[str, Share | Mean]]
"""For each measurement its figures by name: shares or numbers."""


def _replace(painting: Painting, limit: int | None) -> Figures:
    prompts = distinct(benchmark_prompts()["pairs"])[: limit and 2 * limit]
    return evaluate_replace(painting, prompts, limit or 100)


def _reweight(painting: Painting, limit: int | None) -> Figures:
    return evaluate_reweight(painting, distinct(benchmark_prompts()["pairs"])[: limit or 50])


def _boxes(painting: Painting, limit: int | None) -> Figures:
    prompts = distinct(benchmark_prompts()["pairs"])[: limit or 50]
    return {"boxes": evaluate_boxes(painting, prompts)}


def _regions(painting: Painting, limit: int | None) -> Figures:
    prompts = distinct(benchmark_prompts()["pairs"])[: limit or 50]
    return {"regional prompts": evaluate_regions(painting, prompts)}


def _excite(painting: Painting, limit: int | None) -> Figures:
    every = benchmark_prompts()
    return {
        f"Attend-and-Excite, {name}": evaluate_excite(painting, every[group][:limit], name)
        for name, group in (("two objects", "pairs"), ("three objects", "triples"))
    }


PARTS: dict[str, Callable[[Painting, int | None], Figures]] = {
    "replace": _replace,
    "reweight": _reweight,
    "boxes": _boxes,
    "regions": _regions,
    "excite": _excite,
}
"""What is measured, by name, with the number of prompts or cases for a quick run."""


def chosen_parts(names: Sequence[str]) -> list[Callable[[Painting, int | None], Figures]]:
    """The measurements of these names.

    Raises:
        UserError: if a name is none of `PARTS`.
    """
    for name in names:
        if name not in PARTS:
            raise UserError(
                f"expected a measurement of {', '.join(PARTS)}, but came {name!r}"
                f"{nearest(name, PARTS)}"
            )
    return [PARTS[name] for name in names]
