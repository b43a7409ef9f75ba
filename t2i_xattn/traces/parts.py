"""Parts, differences and means of recorded runs; `Trace` says what they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.aggregation import mean_of
from t2i_xattn.denoisers.sites import Sites, choose_sites
from t2i_xattn.denoisers.steps import Window, checked_window
from t2i_xattn.denoisers.streams import TEXT
from t2i_xattn.errors import UserError, shown
from t2i_xattn.traces.asked import is_whole, whole_numbers
from t2i_xattn.traces.recorded_run import AXES, RecordedRun


def selected(
    run: RecordedRun,
    sites: Sites | None,
    branch: str | None,
    steps: int | Window | range | None,
    heads: int | Sequence[int] | None,
    images: int | Sequence[int] | None,
) -> RecordedRun:
    """See `Trace.select`."""
    chosen = choose_sites(run.sites, sites)
    branches, windows = run.branches, run.steps
    takes: dict[int, list[int]] = {}
    if branch is not None:
        if not isinstance(branch, str) or branch not in branches:
            raise UserError(
                f"expected a branch of {', '.join(branches)}, but came {shown(branch)}; record "
                "with branches=[…] to keep others"
            )
        takes[AXES.index("branch")] = [branches.index(branch)]
        branches = (branch,)
    if steps is not None:
        places = _windows_inside(steps, windows)
        takes[AXES.index("step")] = places
        windows = tuple(windows[place] for place in places)
    pictures = list(range(run.images))
    if images is not None:
        pictures = _numbers(images, run.images, "image", None)
        takes[AXES.index("image")] = pictures

    def told(of_branches: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
        """What is known of each picture, of those that are left."""
        return {
            branch: tuple(of_branches[branch][each] for each in pictures)
            for branch in branches
            if len(of_branches[branch])
        }

    if heads is not None:
        axis = AXES.index("head")
        lengths = {site.name: run.maps[TEXT][site.name].shape[axis] for site in chosen}
        takes[axis] = _numbers(heads, max(lengths.values()), "head", 'heads="each"')
        chosen = [site for site in chosen if lengths[site.name] > max(takes[axis])]

    def taken(array: NDArray[Any], takes: dict[int, list[int]] = takes) -> NDArray[Any]:
        for axis, places in takes.items():
            array = array.take(places, axis=axis)
        return array

    def of_map(array: NDArray[Any]) -> NDArray[Any]:
        """Some streams are a mean over the heads whatever else was kept."""
        axis = AXES.index("head")
        return taken(array, takes | ({axis: [0]} if array.shape[axis] == 1 else {}))

    names = [site.name for site in chosen]
    maps = {
        stream: {name: of_map(of_sites[name]) for name in names if name in of_sites}
        for stream, of_sites in run.maps.items()
        if any(name in of_sites for name in names)
    }
    # Counts have the second and third axis only.
    of_counts = {axis - 1: places for axis, places in takes.items() if axis in (1, 2)}
    counts = {
        stream: {name: taken(of_sites[name], of_counts) for name in names if name in of_sites}
        for stream, of_sites in run.counts.items()
        if stream in maps
    }
    weights = None
    if run.site_weights is not None:
        # They have no heads, and only the first three axes.
        of_weights = {axis: places for axis, places in takes.items() if axis < AXES.index("head")}
        weights = {site.name: taken(run.site_weights[site.name], of_weights) for site in chosen}
    return replace(
        run,
        maps=maps,
        counts=counts,
        sites=tuple(chosen),
        branches=branches,
        steps=windows,
        prompts=told(run.prompts),
        words=told(run.words),
        tokens=told(run.tokens),
        kinds=told(run.kinds) if run.kinds else {},
        groups=None if run.groups is None else told(run.groups),
        site_weights=weights,
    )


def difference(first: RecordedRun, second: RecordedRun) -> RecordedRun:
    """See `Trace.__sub__`."""
    _check_alike(first, second)
    maps = {
        stream: {name: array - second.maps[stream][name] for name, array in of_sites.items()}
        for stream, of_sites in first.maps.items()
    }
    settings = first.settings | {"minus": second.settings}
    counts = _common_counts([first, second])
    # Weights of one run do not hold for what differs between two.
    return replace(first, maps=maps, counts=counts, settings=settings, site_weights=None)


def mean(runs: Sequence[RecordedRun]) -> RecordedRun:
    """See `Trace.mean`."""
    if not runs:
        raise UserError("expected at least one trace to take the mean of, but came none")
    for run in runs[1:]:
        _check_alike(runs[0], run)
    maps = {
        stream: {name: mean_of([run.maps[stream][name] for run in runs]) for name in of_sites}
        for stream, of_sites in runs[0].maps.items()
    }
    every = [run.site_weights for run in runs]
    weights = None
    if all(each is not None for each in every):
        weights = {
            site.name: mean_of([each[site.name] for each in every if each is not None])
            for site in runs[0].sites
        }
    settings = runs[0].settings | {"mean_of": len(runs)}
    counts = _common_counts(runs)
    return replace(runs[0], maps=maps, counts=counts, settings=settings, site_weights=weights)


def _common_counts(runs: Sequence[RecordedRun]) -> dict[str, dict[str, NDArray[Any]]]:
    """The calls of the first run, none where one of the runs had none: there is NaN."""
    return {
        stream: {
            name: counts * np.all([run.counts[stream][name] > 0 for run in runs], axis=0)
            for name, counts in of_sites.items()
        }
        for stream, of_sites in runs[0].counts.items()
    }


def _windows_inside(chosen: int | Window | range, windows: Sequence[tuple[int, int]]) -> list[int]:
    """The places of the recorded windows that lie in a window of steps."""
    if is_whole(chosen):
        chosen = (int(chosen), int(chosen) + 1)  # type: ignore[arg-type]
    if isinstance(chosen, range):
        if chosen.step == 1:
            chosen = (chosen.start, chosen.stop)
    elif (numbers := whole_numbers(chosen)) is not None:
        chosen = tuple(numbers)  # type: ignore[assignment]
    checked_window(chosen, "select")
    assert isinstance(chosen, Sequence)
    first, end = chosen
    if any(isinstance(each, float) for each in (first, end)):
        last = windows[-1][1]
        first, end = (int(e * last + 1e-6) if isinstance(e, float) else e for e in (first, end))
    places = [n for n, (one, other) in enumerate(windows) if first <= one and other <= end]
    cut = [w for w in windows if w[0] < end and first < w[1] and not first <= w[0] < w[1] <= end]
    if not places or cut:
        raise UserError(
            f"expected steps that hold whole windows of those recorded, {shown(list(windows))}, "
            f'but came {shown(chosen)}; record with steps="each" or other windows'
        )
    return places


def _numbers(chosen: int | Sequence[int], count: int, axis: str, how: str | None) -> list[int]:
    numbers = whole_numbers([chosen] if is_whole(chosen) else chosen)
    came = shown(chosen if numbers is None else numbers)
    if not numbers or not all(0 <= number < count for number in numbers):
        hint = f"; record with {how} to keep more" if how else ""
        raise UserError(f"expected {axis}s from 0 to {count - 1}, but came {came}{hint}")
    if len(set(numbers)) < len(numbers):
        raise UserError(f"expected each of the {axis}s once, but came {came}; leave out the others")
    return numbers


def _check_alike(first: RecordedRun, second: RecordedRun) -> None:
    def shapes(run: RecordedRun) -> dict[str, Any]:
        return {f"{s}/{name}": a.shape for s, m in run.maps.items() for name, a in m.items()}

    named = [(run.groups, run.concepts) for run in (first, second)]
    if shapes(first) != shapes(second) or named[0] != named[1]:
        raise UserError(
            "expected traces of the same sites, sizes, steps and columns, but they differ; record "
            "both runs in the same way"
        )
