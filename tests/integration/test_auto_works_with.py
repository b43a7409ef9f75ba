"""`heads="auto"`, which asks for the weights of a layer, where these do not lie ready: offloaded,
wrapped by a LoRA, quantised. Real runs of tiny pipelines of the real classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_works_with import OFFLOADS, WORKS_WITH, offload

from conftest import make_pipeline, state_of
from t2i_xattn.denoisers.sites import walk_sites
from t2i_xattn.recording.record import record
from t2i_xattn.traces.trace import Trace
from tiny_pipelines import add_lora, runner

NAMES = [
    "not square",
    "IP-Adapter",
    "LoRA",
    "SDXL of Modular Diffusers",
    "fused projections",
    "attention slicing",
    "bfloat16",
    "float16",
    "layerwise casting to float8",
    "torch.compile(unet)",
    "compile_repeated_blocks",
]


def recorded(pipe: Any, draw: Any) -> Trace:
    """Auto-recorded, and looked at as every recording is."""
    plain = draw()
    before = state_of(pipe)
    with record(pipe, heads="auto") as trace:
        assert draw().tobytes() == plain.tobytes()
    assert state_of(pipe) == before
    for maps in trace.maps.values():
        assert np.allclose(maps.sum(-1), 1, atol=1e-5)
    return trace


def same(found: Trace, expected: Trace, atol: float = 1e-6) -> bool:
    found_weights, expected_weights = found.run.site_weights, expected.run.site_weights
    assert found_weights is not None
    assert expected_weights is not None
    return all(
        np.allclose(found.maps[name], maps, atol=atol)
        and np.allclose(found_weights[name], expected_weights[name], rtol=1e-3)
        for name, maps in expected.maps.items()
    )


@pytest.mark.parametrize("name", NAMES)
def test_same_bytes_and_whole_maps(name: str) -> None:
    recorded(*WORKS_WITH[name]())


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("how", OFFLOADS)
def test_offloaded_weights_count_as_ever(how: str, lora: bool) -> None:
    traces = []
    for offloaded in (True, False):
        pipe = make_pipeline()
        if lora:
            add_lora(pipe)
        if offloaded:
            offload(pipe, how)
        traces.append(recorded(pipe, runner(pipe)))
    assert same(traces[0], traces[1])


def test_a_lora_counts_as_if_it_were_fused() -> None:
    pipe = make_pipeline()
    draw = runner(pipe, num_inference_steps=1)
    without = recorded(pipe, draw)
    add_lora(pipe)
    wrapped = recorded(pipe, draw)
    pipe.unet.fuse_lora()
    pipe.unet.unload_lora()
    to_out = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_out[0]
    assert type(to_out) is torch.nn.Linear
    assert same(wrapped, recorded(pipe, draw), atol=1e-3)
    assert not same(wrapped, without, atol=1e-1)


class Quantised(torch.nn.Module):
    """A linear layer whose weight is kept in whole numbers."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        step = linear.weight.detach().abs().amax() / 127
        self.register_buffer("weight", (linear.weight.detach() / step).round().to(torch.int8))
        self.register_buffer("step", step)
        self.bias = linear.bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        quantised: Any = self.weight
        step: Any = self.step
        weight = quantised.to(states.dtype) * step.to(states.dtype)
        return torch.nn.functional.linear(states, weight, self.bias)


def test_quantised_layers() -> None:
    traces = []
    for quantised in (True, False):
        pipe = make_pipeline()
        attn: Any
        for _, attn in walk_sites(pipe.unet):
            layer: Any = Quantised(attn.to_out[0])
            if quantised:
                attn.to_out[0] = layer
            else:
                attn.to_out[0].weight.data = layer.weight.float() * layer.step
        traces.append(recorded(pipe, runner(pipe)))
    assert same(traces[0], traces[1])


def test_under_autocast() -> None:
    pipe = make_pipeline()
    add_lora(pipe)
    with torch.autocast("cpu", torch.bfloat16):
        recorded(pipe, runner(pipe))
