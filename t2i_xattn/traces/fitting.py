"""Whether the parts of a run fit each other, and what using it can ask for is bounded."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import BETWEEN, CONCEPTS, OF_TEXT, OF_WORDS, TEXT
from t2i_xattn.traces.fields import Damaged
from t2i_xattn.traces.recorded_run import RecordedRun

MOST_PIXELS = 2**25
"""Of a picture, and places of a latent: twice as many as 4096 × 4096."""

PIXELS_A_LATENT = 64
"""On a side, at most."""

LATENTS_A_PLACE = 64
"""On a side, at most: a site's map is this much smaller than the latent."""

LARGEST_SHARE = 1e9
"""Shares are 0 to 1; edits and differences may bring them beyond, but not that far."""


def check(run: RecordedRun) -> None:
    """
    Raises:
        Damaged: if parts of a run do not fit each other, or a number is beyond all bounds.
    """
    _check_told(run)
    _check_sizes(run)
    sites = {site.name: site for site in run.sites}
    for stream, of_sites in run.maps.items():
        if not of_sites:
            raise Damaged(f"{stream} has no maps")
        for name, array in of_sites.items():
            _check_map(run, stream, sites[name], array)
    _check_columns(run)
    for name, array in (run.site_weights or {}).items():
        known = (run.images, len(run.branches), len(run.steps))
        if array.shape != known or not _are_sound(array[..., None], run.counts[TEXT][name]):
            raise Damaged(f"the weight of {name} is {array.shape}, or no number")


def _check_told(run: RecordedRun) -> None:
    """Branches, images and sites are the same from place to place."""
    names = {site.name for site in run.sites}
    of_text = set(run.maps.get(TEXT, {}))
    if not run.steps or not names or len(names) < len(run.sites) or names != of_text:
        raise Damaged("its steps or sites are none, or differ from place to place")
    if any(not set(of_sites) <= names for of_sites in run.maps.values()):
        raise Damaged("it has maps of sites that are not among its sites")
    if run.site_weights is not None and set(run.site_weights) != names:
        raise Damaged("it has weights of other sites than its own")
    if not run.branches or tuple(run.words) != run.branches or not run.images:
        raise Damaged("its branches differ from place to place, or it has no images")
    images = dict.fromkeys(run.branches, run.images)
    for told in (run.words, run.prompts, run.tokens, run.groups, run.kinds or None):
        if told is not None and {branch: len(each) for branch, each in told.items()} != images:
            raise Damaged("its branches or images differ from place to place")


def _check_sizes(run: RecordedRun) -> None:
    for name, size in (("picture", run.picture_size), ("latent", run.latent_size)):
        if min(size) < 1 or math.prod(size) > MOST_PIXELS:
            raise Damaged(f"its {name} is {size[0]} × {size[1]}, more than {MOST_PIXELS:,} in all")
    for pixels, latents in zip(run.picture_size, run.latent_size, strict=True):
        if pixels > PIXELS_A_LATENT * latents:
            raise Damaged(f"its picture of {run.picture_size} has a latent of {run.latent_size}")


def _check_map(
    run: RecordedRun, stream: str, site: AttentionSite, array: NDArray[np.float32]
) -> None:
    """One map against the axes, the counts, its site and the latent."""
    name = site.name
    known = (run.images, len(run.branches), len(run.steps))
    axes = dict(zip(run.axes, array.shape, strict=False))
    counts = run.counts[stream][name]
    fits = array.dtype == np.float32 and array.ndim == len(run.axes) and array.size > 0
    fits = fits and array.shape[:3] == known and counts.shape == known[1:]
    fits = fits and axes["head"] <= site.heads
    fits = fits and axes.get("frame", 1) == (1 if stream == BETWEEN else run.frames)
    if fits and stream != BETWEEN:
        grid = axes["height"], axes["width"]
        if site.level is not None:
            fits = grid == tuple(-(-each // 2**site.level) for each in run.latent_size)
        sides = tuple(zip(grid, run.latent_size, strict=True))
        fits = fits and all(one <= each <= LATENTS_A_PLACE * one for one, each in sides)
    if not fits:
        raise Damaged(f"{stream}/{name} is {array.shape}")
    if counts.min() < 0 or not _are_sound(array, counts):
        raise Damaged(f"{stream}/{name} has a value that is no share of attention")


def _are_sound(array: NDArray[np.float32], counts: NDArray[np.int64]) -> bool:
    """Whether it has numbers wherever there were calls; where there were none it has NaN."""
    if _are_numbers(array):
        return True
    places = product(*map(range, counts.shape))
    return all(
        _are_numbers(array[:, branch, step]) for branch, step in places if counts[branch, step]
    )


def _are_numbers(array: NDArray[np.float32]) -> bool:
    return bool(array.min() >= -LARGEST_SHARE and array.max() <= LARGEST_SHARE)


def _check_columns(run: RecordedRun) -> None:
    """What is told of the token axis against its length."""
    lengths = {
        stream: {array.shape[-1] for array in of_sites.values()}
        for stream, of_sites in run.maps.items()
    }
    longest = max(lengths[TEXT])
    if any(len(lengths[stream]) > 1 for stream in OF_TEXT if stream in lengths):
        raise Damaged("the maps of its text have several lengths")
    if CONCEPTS in lengths and lengths[CONCEPTS] != {len(run.concepts)}:
        raise Damaged(f"it has {len(run.concepts)} concepts, but other maps of them")
    if run.groups is not None:
        every = [of_image for of_branch in run.groups.values() for of_image in of_branch]
        if any(not 0 < len(groups) <= longest or not all(groups) for groups in every):
            raise Damaged(f"its groups of columns do not fit its {longest} maps of them")
        return
    every_word = [w for of_branch in run.words.values() for words in of_branch for w in words]
    # Where the user named columns, they are held against the text as they are asked for.
    columns = {c for word in every_word if word.source != "spans" for c in word.columns}
    if max(columns, default=0) >= longest:
        raise Damaged(f"it has words of column {max(columns)}, but {longest} columns")
    walked = run.walked_columns
    for stream in OF_WORDS:
        if walked is not None and lengths.get(stream, {len(walked)}) != {len(walked)}:
            raise Damaged(f"it has {len(walked)} walked columns, but other maps of them")
    if max(walked or (0,)) >= longest:
        raise Damaged(f"it has the walked column {max(walked or (0,))}, but {longest} columns")
