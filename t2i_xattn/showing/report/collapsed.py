"""A recorded run with one place instead of many: the mean over its heads, steps and sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.aggregation import mean_of
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import CARRIED, CONCEPTS, CONTRIBUTION, TEXT, WALKED
from t2i_xattn.traces.recorded_run import AXES, RecordedRun

READ = (TEXT, WALKED, CONTRIBUTION, CARRIED, CONCEPTS)
"""The streams that heat maps are made of by default, and concepts."""

_STEP, _HEAD = AXES.index("step"), AXES.index("head")


def over_steps(run: RecordedRun, places: Sequence[int] | None = None) -> RecordedRun:
    """The mean over steps and heads, so that a run of many steps is gone through once and not for
    every word again. Its heat maps are those of the run.

    Args:
        run: of one branch.
        places: on the axis of steps; None: all.
    """
    chosen = list(range(len(run.steps)) if places is None else places)
    maps: dict[str, dict[str, NDArray[np.float32]]] = {}
    counts: dict[str, dict[str, NDArray[np.int64]]] = {}
    for stream, of_sites in run.maps.items():
        if stream in READ:
            maps[stream], counts[stream] = {}, {}
            for name, array in of_sites.items():
                calls = run.counts[stream][name][:, chosen]
                ran = [place for place, count in zip(chosen, calls[0], strict=True) if count]
                weights = [int(count) for count in calls[0] if count]
                of_steps = array.take(ran, axis=_STEP).mean(axis=_HEAD, keepdims=True)
                if len(ran) > 1:
                    mean = np.average(of_steps, axis=_STEP, weights=weights, keepdims=True)
                    of_steps = np.asarray(mean, dtype=np.float32)
                maps[stream][name] = of_steps
                counts[stream][name] = np.array([[sum(weights)]])
    steps = ((run.steps[chosen[0]][0], run.steps[chosen[-1]][1]),)
    return replace(run, maps=maps, counts=counts, steps=steps, site_weights=None)


def over_sites(run: RecordedRun, sites: Sequence[AttentionSite]) -> RecordedRun:
    """One site in the place of several of one size, with the mean of their maps.

    Args:
        run: what `over_steps` gave.
        sites: of it, whose maps have one size. What is carried over all sites is left out.
    """
    one = sites[0]
    maps = {}
    for stream, of_sites in run.maps.items():
        names = [site.name for site in sites if site.name in of_sites]
        if names and stream not in (CARRIED, CONCEPTS):
            maps[stream] = {one.name: mean_of([of_sites[name] for name in names])}
    counts = {stream: {one.name: run.counts[stream][one.name]} for stream in maps}
    height, width = maps[TEXT][one.name].shape[-3:-1]
    return replace(run, maps=maps, counts=counts, sites=(one,), picture_size=(height, width))
