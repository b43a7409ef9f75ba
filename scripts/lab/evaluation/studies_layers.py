"""Where alignment forms: depth and noise level, by kind of word, beside self-attention.

Voynov et al., "P+" (arXiv 2303.09522), and DAAM (arXiv 2210.04885) look at depth and step of
cross-attention by its maps; here the pixels that a word names are known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from tqdm import tqdm

from lab.evaluation.figures import Estimate
from lab.evaluation.fit import Mask
from lab.evaluation.one_pass import answer, conditions, noised
from lab.evaluation.studies_scenes import (
    FIRST_SEED,
    batches,
    columns_of_words,
    fit_at_area,
    named_words,
    uniform_fit,
)
from t2i_xattn.denoisers.streams import SELF
from t2i_xattn.recording.record import record
from t2i_xattn.traces.trace import Trace

LEVELS = (900, 750, 600, 450, 300, 150, 50)
"""Noise levels, in the order in which a run comes by them."""

ALL_SITES = "all sites"
UNIFORM = "a map that knows nothing"
NEARNESS = "nearness alone"
_NO_SITES = (ALL_SITES, UNIFORM)
MEAN = 0
"""Stands for the mean over the levels."""

_ROWS = 12
"""Places of a region whose self-attention is looked at, spread over it: all, where it has fewer."""

_BUDGET = 4 * 2**30


@dataclass(frozen=True)
class LayerFigure:
    """How the maps of one site lie, at one noise level.

    Attributes:
        site: its name; `ALL_SITES`: the plain mean over them, which is the default map; `UNIFORM`
            and `NEARNESS`: what is to be expected without a model.
        level: the noise level, or `MEAN`.
        kind: of the words, one of `KINDS`.
        iou, peak: of cross-attention; see `fit_at_area`. None where there is none.
        parting: of self-attention: see `parting`. None where there is none.
    """

    site: str
    level: int
    kind: str
    iou: Estimate | None = None
    peak: Estimate | None = None
    parting: Estimate | None = None

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        measures = {name: getattr(self, name) for name in ("iou", "peak", "parting")}
        told = {name: each.as_json() for name, each in measures.items() if each is not None}
        return {"site": self.site, "level": self.level, "kind": self.kind, **told}


def parting(attention: NDArray[np.floating], inside: Mask) -> float | None:
    """How well self-attention parts a region from the rest: the mean area under the ROC curve.

    Of each place inside, how much it looks at the other places inside is held against how much it
    looks at those outside: the probability that one of the former gets more than one of the latter.
    What it gives to itself is left out. 0.5 is chance.

    Args:
        attention: `(height, width, height · width)`: where each place looks.
        inside: `(height, width)`: the region's places.

    Returns:
        0 to 1; None of a region with fewer than two places, or all of them.
    """
    flat = inside.ravel()
    places = np.flatnonzero(flat)
    within, without = len(places) - 1, int((~flat).sum())
    if within < 1 or without < 1:
        return None
    if len(places) > _ROWS:
        places = places[np.linspace(0, len(places) - 1, _ROWS).round().astype(int)]
    rows = attention.reshape(flat.size, flat.size)[places]
    others = np.ones(rows.shape, dtype=bool)
    others[np.arange(len(places)), places] = False
    rows = rows[others].reshape(len(places), -1)
    labels = np.broadcast_to(flat, others.shape)[others].reshape(rows.shape)
    # Mann and Whitney's U from the ranks, ties counting half.
    sums = (rankdata(rows, axis=1) * labels).sum(axis=1)
    return float(((sums - within * (within + 1) / 2) / (within * without)).mean())


def nearness(side: int) -> NDArray[np.float32]:
    """Self-attention that knows only how near places are: `(side, side, side²)`."""
    at = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2)
    apart = np.linalg.norm(at[:, None] - at[None], axis=-1)
    return -apart.astype(np.float32).reshape(side, side, -1)


def on_grid(mask: Mask, side: int) -> Mask:
    """The places of a `side` × `side` grid that lie in a region by half or more."""
    step = mask.shape[0] // side
    return np.asarray(mask.reshape(side, step, side, step).mean(axis=(1, 3)) >= 0.5)


def evaluate_layers(
    pipe: Any, scenes: int = 60, *, levels: Sequence[int] = LEVELS, batch: int = 10
) -> list[LayerFigure]:
    """The figures of every site, level and kind, and those that a model is held against.

    Args:
        pipe: a pipeline of the world.
        scenes: how many drawn scenes, from `FIRST_SEED` on; each is looked at once at every level.
        levels: of the noise.
        batch: scenes passed at once.
    """
    found: dict[tuple[str, int, str, str], list[list[float]]] = defaultdict(
        lambda: [[] for _ in range(scenes)]
    )
    with tqdm(total=scenes * len(levels), desc="layers", unit="pass", disable=None) as bar:
        for start, part, latents in batches(pipe, scenes, batch):
            prompts = [scene.prompt for scene in part]
            for level in levels:
                noisy = noised(pipe, latents, level, FIRST_SEED + start)
                with record(pipe, self_attention="all", budget=_BUDGET) as trace:
                    answer(pipe, conditions(pipe, prompts, noisy), noisy, level)
                for image, scene in enumerate(part):
                    for key, value in _of_scene(trace, image, scene).items():
                        for each in (level, MEAN):
                            site, kind, measure = key
                            found[site, each, kind, measure][start + image].extend(value)
                bar.update(len(part))
    estimates = {key: Estimate.of(groups) for key, groups in found.items()}
    keys = dict.fromkeys((site, level, kind) for site, level, kind, _ in estimates)
    return [
        LayerFigure(*key, *(estimates.get((*key, each)) for each in ("iou", "peak", "parting")))
        for key in keys
    ]


def _of_scene(trace: Trace, image: int, scene: Any) -> Mapping[tuple[str, str, str], list[float]]:
    """By site, kind and measure, the values of one scene's words."""
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)

    def fits(site: str, kind: str, values: tuple[float, float]) -> None:
        for name, value in zip(("iou", "peak"), values, strict=True):
            found[site, kind, name].append(value)

    columns = columns_of_words(trace.words_of(image))
    regions: dict[tuple[str, bytes], Mask] = {}
    for named in named_words(scene):
        own = columns.get(named.word.start)
        if own is None:
            continue
        regions[named.kind, named.mask.tobytes()] = named.mask
        for site in (None, *trace.sites):
            heat = trace.heatmap(
                columns=own, image=image, sites=None if site is None else [site.name]
            )
            fits(site.name if site else ALL_SITES, named.kind, fit_at_area(heat.array, named.mask))
        fits(UNIFORM, named.kind, uniform_fit(named.mask))
    # A region that several words name is one region.
    for (kind, _), mask in regions.items():
        for name, maps in trace.run.maps[SELF].items():
            attention = maps[image].mean(axis=(0, 1, 2))
            inside = on_grid(mask, attention.shape[0])
            value = parting(attention, inside)
            if value is None:
                continue
            found[name, kind, "parting"].append(value)
            plain = parting(nearness(attention.shape[0]), inside)
            assert plain is not None  # of the same region
            found[f"{NEARNESS}, {attention.shape[0]} places a side", kind, "parting"].append(plain)
    return found


def forms_at(figures: Sequence[LayerFigure], kind: str) -> tuple[int | None, LayerFigure | None]:
    """Where the alignment of a kind of word forms.

    Returns:
        The first level, on the way down from noise, at which the mean over all sites has come half
        of the way from a map that knows nothing to its best; and the site whose IoU is highest over
        all levels. None where nothing is better than a map that knows nothing.
    """
    of = {(each.site, each.level): each for each in figures if each.kind == kind and each.iou}

    def value(site: str, level: int) -> float:
        found = of[site, level].iou
        assert found is not None  # those without are left out
        return found.value

    if (UNIFORM, MEAN) not in of:
        return None, None
    floor = value(UNIFORM, MEAN)
    levels = [level for level in LEVELS if (ALL_SITES, level) in of]
    best = max(value(ALL_SITES, level) for level in levels)
    half = [level for level in levels if value(ALL_SITES, level) >= (floor + best) / 2]
    sites = [each for each in of.values() if each.level == MEAN and each.site not in _NO_SITES]
    return (half[0] if best > floor else None), max(sites, key=lambda each: value(each.site, MEAN))
