"""The maps of words by steps and layers, of which a page shows any part as their mean."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import TEXT
from t2i_xattn.prompts.words import Word
from t2i_xattn.showing.report.collapsed import over_sites, over_steps
from t2i_xattn.showing.report.quantised import quantised, resized, size_within
from t2i_xattn.traces.recorded_run import RecordedRun
from t2i_xattn.traces.trace import Trace

BYTES_A_WORD = 25_000
"""What the cells of a word take at most, before they are compressed: 75 words stay within two
megabytes."""

BYTES = 4_000_000
"""What those of all words take."""

_SIDES = (32, 16)
_FEWEST_WINDOWS = 4
_GROUPS = 6
"""Of the layers of a transformer, which have no places and levels."""


def cells_of(run: RecordedRun, words: Sequence[Word], frame: int | None) -> dict[str, Any] | None:
    """A map for each word, window of steps and group of layers.

    Windows are those that were recorded, neighbours put together where there are very many; layers
    are put together by their place and level in a UNet, and by depth elsewhere. Each is what
    `trace.select(steps=…).heatmap(word, sites=…)` gives, made smaller.

    Args:
        run: of one branch and one picture.
        words: whose columns were recorded.
        frame: of a video; None: the mean of all.

    Returns:
        As JSON has it: `steps` (first and end of each window), `layers` (`label`, and the number of
        `sites`), and by word what `quantised` gives of `(windows, layers, height, width)`. None
        where neither steps nor layers can be told apart.
    """
    groups = layers_of(run)
    whole = [n for n in range(len(run.steps)) if _ran(run, n)]
    if not words or not whole or len(groups) * len(whole) < 2:
        return None
    room = min(BYTES_A_WORD, BYTES // len(words))
    fits = [side for side in _SIDES if side**2 * len(groups) * len(whole) <= room]
    side = fits[0] if fits else _SIDES[-1]
    most = max(_FEWEST_WINDOWS, room // (side**2 * len(groups)))
    size = size_within(run.picture_size, side)
    windows = _together(whole, most)
    found: list[list[list[NDArray[np.float32]]]] = [[] for _ in words]
    for places in windows:
        mean = over_steps(run, places)
        of_groups = [Trace(over_sites(mean, sites)) for _, sites in groups]
        for of_word, word in zip(found, words, strict=True):
            maps = [each.heatmap(columns=word.columns, frame=frame) for each in of_groups]
            of_word.append([resized(heat.array, size) for heat in maps])
    return {
        "steps": [[run.steps[each[0]][0], run.steps[each[-1]][1]] for each in windows],
        "layers": [{"label": label, "sites": len(sites)} for label, sites in groups],
        **quantised([np.array(each, dtype=np.float32) for each in found]),
    }


def layers_of(run: RecordedRun) -> list[tuple[str, list[AttentionSite]]]:
    """The sites in groups of one size, in the order of the forward pass, each with its label."""
    if all(site.place is not None for site in run.sites):
        by_place = groupby(run.sites, key=lambda site: (site.place, site.level))
        return [(_label(place, level), list(sites)) for (place, level), sites in by_place]
    sizes = [(site, run.maps[TEXT][site.name].shape[-3:-1]) for site in run.sites]
    found: list[tuple[str, list[AttentionSite]]] = []
    for _, alike in groupby(sizes, key=lambda each: each[1]):
        sites = [site for site, _ in alike]
        count = min(_GROUPS, len(sites))
        bounds = [round(n * len(sites) / count) for n in range(count + 1)]
        for first, end in pairwise(bounds):
            some = sites[first:end]
            ends = dict.fromkeys((some[0].depth + 1, some[-1].depth + 1))
            name = "layer" if len(ends) == 1 else "layers"
            found.append((f"{name} {'–'.join(map(str, ends))}", some))
    return found


def _label(place: str | None, level: int | None) -> str:
    part = "" if level is None else f" 1/{2**level}" if level else " full"
    return f"{'middle' if place == 'mid' else place}{part}"


def _ran(run: RecordedRun, place: int) -> bool:
    """Whether every site was called in a window, in every stream that it has."""
    return all(counts[0, place] > 0 for of in run.counts.values() for counts in of.values())


def _together(places: Sequence[int], most: int) -> list[list[int]]:
    """Neighbours put together into at most so many groups of about one length."""
    count = min(most, len(places))
    bounds = [round(n * len(places) / count) for n in range(count + 1)]
    return [list(places[a:b]) for a, b in pairwise(bounds)]
