"""The memory of a recording does not grow with the steps: every live tensor is counted."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from t2i_xattn.denoisers.sites import find_sites
from t2i_xattn.recording.record import record

GROWTH = 1024
"""Bytes that may come with 96 more steps: the timesteps, 8 bytes each."""


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
    draw(pipe, num_inference_steps=count)  # so that the scheduler has its timesteps
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
    if not options:
        maps = 4 * 77 * sum((8 >> site.level) ** 2 for site in find_sites(pipe.unet))
        assert maps <= few < maps + GROWTH


def test_what_grows_is_seen(pipe: Any, draw: Any) -> None:
    """One column of the smallest site, kept at each step, is more than what may come."""
    middle = [site.name for site in find_sites(pipe.unet) if site.place == "mid"]
    few, many = (
        held(pipe, draw, count, steps="each", sites=middle, columns=[1]) for count in (4, 100)
    )
    assert many - few > GROWTH
