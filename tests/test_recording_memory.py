"""The memory of a recording does not grow with the steps: every live tensor is counted."""

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
import torch

from captured import size_of
from t2i_xattn.denoisers.sites import find_sites
from t2i_xattn.recording.record import record

GROWTH = 1024
"""Bytes that may come with 96 more steps: the timesteps, 8 bytes each."""

TEXTS = 4 * 77 * 32 * 4
"""Bytes of the texts by which rows are known: prompt and negative prompt, as they were encoded and
as the denoiser was given them last."""


def live_bytes() -> int:
    """Of every storage that a tensor in Python holds."""
    gc.collect()
    tensors = [
        each
        for each in gc.get_objects()
        # Others are of torch.compile's tracing, left by other tests, and hold nothing.
        if type(each) in (torch.Tensor, torch.nn.Parameter)
    ]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in tensors}
    return sum(each.nbytes() for each in storages.values())


def held(pipe: Any, draw: Any, count: int, **options: Any) -> int:
    """Bytes more than before while a recording is open and its run has ended."""
    draw(pipe, num_inference_steps=1)
    pipe.scheduler.set_timesteps(count)  # it keeps those of the last run
    before = live_bytes()
    with record(pipe, **options):
        draw(pipe, num_inference_steps=count)
        return live_bytes() - before


@pytest.mark.parametrize(
    "options",
    [{}, {"heads": "auto"}, {"walk": 1, "walk_every": 1, "columns": [2, 3]}],
    ids=["mean", "auto", "walk"],
)
def test_the_same_at_4_and_at_100_steps(pipe: Any, draw: Any, options: dict[str, Any]) -> None:
    few, many = (held(pipe, draw, count, **options) for count in (4, 100))
    assert abs(many - few) < GROWTH


def test_maps_and_texts_are_all_that_is_held(pipe: Any, draw: Any) -> None:
    """Not what the pipeline had at hand: latents, the picture."""
    places = sum(math.prod(size_of(site, (8, 8))) for site in find_sites(pipe.unet))
    maps = 4 * 77 * places
    assert maps <= held(pipe, draw, 4) < maps + TEXTS + GROWTH


@pytest.mark.slow
def test_nothing_is_held_after_the_context(pipe: Any, draw: Any) -> None:
    """But the maps themselves."""
    draw(pipe)
    before = live_bytes()
    with record(pipe) as trace:
        draw(pipe)
    assert live_bytes() - before < GROWTH
    assert trace.settings["calls"] == 2


def test_what_grows_is_seen(pipe: Any, draw: Any) -> None:
    """One column of the smallest site, kept at each step, is more than what may come."""
    middle = [site.name for site in find_sites(pipe.unet) if site.place == "mid"]
    few, many = (
        held(pipe, draw, count, steps="each", sites=middle, columns=[1]) for count in (4, 100)
    )
    assert many - few > GROWTH
