"""Caches that skip blocks or attention in some steps: the same bytes, and the mean over the calls
that were made."""

from __future__ import annotations

import dataclasses
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
from tiny.double_streams import case_of
from tiny.oracle import Oracle, expected_maps

STEPS = 6


CASE = case_of("text_first", "FluxPipeline")

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


FASTER = {
    # With FLUX, which diffusers lists too, its own FasterCache fails in the third step.
    "CogVideoX": (case_of("text_first_cog", "CogVideoXPipeline"), "BFCHW"),
    "Latte": (case_of("cross_video", "LattePipeline"), "BCFHW"),
}


def faster(layout: str, attention: int, unconditional: int) -> Any:
    return diffusers.FasterCacheConfig(
        spatial_attention_block_skip_range=attention,
        spatial_attention_timestep_skip_range=(-1, 1000),
        unconditional_batch_skip_range=unconditional,
        unconditional_batch_timestep_skip_range=(-1, 1000),
        attention_weight_callback=lambda _: 0.5,
        current_timestep_callback=lambda: 500,
        tensor_format=layout,
    )


class Narrowed(Oracle):
    """Where the conditional rows are alone, as if the others were there too, in front."""

    narrowed = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        before = len(self.seen)
        output = super().__torch_function__(func, types, args, kwargs)
        for place in range(before, len(self.seen)):
            each = self.seen[place]
            whole = next(one.rows for one in self.seen if one.site == each.site)
            if each.rows < whole:
                self.narrowed += 1
                more: dict[str, Any] = {
                    name: torch.cat([torch.zeros_like(part), part])
                    for name in ("query", "key", "mask")
                    if (part := getattr(each, name)) is not None
                }
                self.seen[place] = dataclasses.replace(each, **more)
        return output


@pytest.mark.parametrize("name", list(FASTER))
@pytest.mark.parametrize(("attention", "unconditional"), [(2, 2), (2, 3), (3, 2)])
@pytest.mark.parametrize("inside", [True, False])
def test_calls_without_the_unconditional_rows(
    name: str, attention: int, unconditional: int, inside: bool
) -> None:
    case, layout = FASTER[name]
    config = faster(layout, attention, unconditional)
    pipe = case.make()
    pipe.transformer.enable_cache(config)
    with Narrowed(pipe) as oracle:
        plain = np.asarray(case.run(pipe, num_inference_steps=STEPS))
    # CogVideoX's only attention is skipped in just those calls where both are skipped by twos.
    assert bool(oracle.narrowed) == ((name, attention, unconditional) != ("CogVideoX", 2, 2))
    expected = expected_maps(case, oracle)
    pipe = case.make()
    if not inside:
        pipe.transformer.enable_cache(config)
    before = vars(pipe.transformer).get("forward")
    with tx.record(pipe) as trace:
        if inside:
            pipe.transformer.enable_cache(config)
        same = np.asarray(case.run(pipe, num_inference_steps=STEPS))
    assert np.array_equal(same, plain)
    if not inside:
        assert vars(pipe.transformer)["forward"] is before
    for site, maps in expected.items():
        found = trace.run.maps["text"][site][:, 0, 0]
        assert np.abs(found.reshape(maps.shape) - maps).max() < 1e-5
    with tx.edit(pipe, edits.Drop("circle")):
        assert not np.array_equal(np.asarray(case.run(pipe, num_inference_steps=STEPS)), plain)
    pipe.transformer.disable_cache()
    stock = case.make()
    assert np.array_equal(np.asarray(case.run(pipe)), np.asarray(case.run(stock)))


def test_texts_whose_keys_are_kept() -> None:
    case = next(
        each for each in importlib.import_module("tiny.llm_more").CASES if "Nucleus" in each.name
    )
    pipe = case.make()
    with Oracle(pipe) as oracle:
        plain = np.asarray(case.run(pipe, num_inference_steps=STEPS))
    pipe.transformer.enable_cache(diffusers.TextKVCacheConfig())
    with tx.record(pipe) as trace:
        assert np.array_equal(np.asarray(case.run(pipe, num_inference_steps=STEPS)), plain)
    for site, maps in expected_maps(case, oracle).items():
        found = trace.run.maps["text"][site][:, 0, 0, 0]
        assert np.abs(found - maps).max() < 1e-5
    with tx.edit(pipe, edits.Drop("circle")):
        assert not np.array_equal(np.asarray(case.run(pipe, num_inference_steps=STEPS)), plain)


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
