"""Caches that skip blocks or attention in some steps: the same bytes, and the mean over the calls
that were made."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import t2i_xattn as tx
from t2i_xattn import edits
from t2i_xattn.errors import UserError
from tiny.case import Case
from tiny.oracle import Oracle, expected_maps

STEPS = 6
(CASE,) = [
    each for each in importlib.import_module("tiny.text_first").CASES if each.name == "FluxPipeline"
]

CACHES: dict[str, Callable[[], Any]] = {
    "FirstBlock": lambda: diffusers.FirstBlockCacheConfig(threshold=0.8),
    "PyramidAttentionBroadcast": lambda: diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1000),
        current_timestep_callback=lambda: 500,
    ),
    "TaylorSeer": lambda: diffusers.TaylorSeerCacheConfig(
        cache_interval=2, disable_cache_before_step=1, max_order=1
    ),
    "MagCache": lambda: diffusers.MagCacheConfig(
        mag_ratios=torch.linspace(1, 0.99, STEPS).tolist(),
        num_inference_steps=STEPS,
        threshold=0.5,
        max_skip_steps=2,
    ),
}


def cached(name: str, case: Case = CASE) -> Any:
    pipe = case.make()
    pipe.transformer.enable_cache(CACHES[name]())
    return pipe


def draw(pipe: Any) -> Any:
    return np.asarray(CASE.run(pipe, num_inference_steps=STEPS))


@pytest.mark.parametrize("name", list(CACHES))
def test_maps_are_the_mean_over_the_calls_that_were_made(name: str) -> None:
    pipe = cached(name)
    plain = draw(pipe)
    with Oracle(pipe) as oracle:
        draw(pipe)
    with tx.record(pipe) as trace:
        same = draw(pipe)
    assert np.array_equal(plain, same)
    made = [len([each for each in oracle.seen if each.site == site.name]) for site in trace.sites]
    counts = trace.run.counts["text"]
    assert [int(counts[site.name].sum()) for site in trace.sites] == made
    assert min(made) < STEPS
    for site, expected in expected_maps(CASE, oracle).items():
        found = trace.run.maps["text"][site][:, 0, 0, 0]
        assert np.abs(found - expected).max() < 1e-5
    assert np.array_equal(draw(pipe), plain)


@pytest.mark.parametrize("name", list(CACHES))
def test_edits(name: str) -> None:
    pipe = cached(name)
    plain = draw(pipe)
    with tx.edit(pipe, edits.Drop("circle")):
        edited = draw(pipe)
    assert not np.array_equal(edited, plain)
    assert np.array_equal(draw(pipe), plain)


def test_enabled_inside_and_disabled_after() -> None:
    pipe = CASE.make()
    with tx.record(pipe):
        pipe.transformer.enable_cache(CACHES["FirstBlock"]())
        inside = draw(pipe)
    assert np.array_equal(draw(pipe), inside)
    pipe.transformer.disable_cache()
    assert np.array_equal(draw(pipe), draw(CASE.make()))


def test_a_site_that_was_skipped_in_every_call_is_told() -> None:
    pipe = CASE.make()
    site = "single_transformer_blocks.1.attn"
    module = pipe.transformer.get_submodule(site)

    class Skipping(diffusers.hooks.ModelHook):
        def new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
            states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            return torch.zeros_like(states)

    registry = diffusers.hooks.HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(Skipping(), "skipping")
    with tx.record(pipe) as trace:
        draw(pipe)
    with pytest.raises(UserError, match=f"calls at {site}, but its block was skipped"):
        _ = trace.maps
