"""Recording, editing and guidance see swapped-in processors as they see diffusers' own: each map is
held against the oracle's, whichever way round the contexts are opened."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from diffusers.models.attention_processor import AttnProcessor, SlicedAttnProcessor

import t2i_xattn as tx
from conftest import make_pipeline, state_of
from probe import Probe, second_half
from right_maps import assert_right_maps
from t2i_xattn import edits, losses
from t2i_xattn.processors import EditingProcessor, InterceptingProcessor, RecordingProcessor
from tiny_pipelines import COMPILED, add_lora, compile_unet, runner

# Each gives a processor, or makes one for each site, that leaves the pictures (nearly) alone.
SWAPPED: dict[str, Callable[[], Any]] = {
    "intercepting": InterceptingProcessor,
    "intercepting, a function": lambda: InterceptingProcessor(lambda probs: probs),
    "recording": lambda: RecordingProcessor,
    "editing": lambda: EditingProcessor(lambda probs, attn: probs),
    "diffusers' unfused": AttnProcessor,
    "diffusers' sliced": lambda: SlicedAttnProcessor(3),
}


@pytest.mark.parametrize("swap_first", [True, False])
@pytest.mark.parametrize("name", SWAPPED)
def test_recorded_as_diffusers_own(name: str, swap_first: bool) -> None:
    pipe = make_pipeline()
    draw = runner(pipe)
    with Probe(pipe.unet) as probe:
        plain = draw()
    before = state_of(pipe)
    contexts = [lambda: tx.swap(pipe, SWAPPED[name]()), lambda: tx.record(pipe)]
    with ExitStack() as stack:
        opened = [stack.enter_context(each()) for each in contexts[:: 1 if swap_first else -1]]
        drawn = draw()
    trace = opened[1 if swap_first else 0]
    assert state_of(pipe) == before
    assert np.allclose(drawn, plain, atol=1e-4)
    assert_right_maps(trace, probe, second_half)


@pytest.mark.parametrize("how", COMPILED)
def test_recorded_in_a_compiled_unet(how: str) -> None:
    pipe = make_pipeline()
    with Probe(pipe.unet) as probe:
        plain = runner(pipe)()
    compile_unet(pipe, how)
    with tx.swap(pipe, InterceptingProcessor()), tx.record(pipe) as trace:
        drawn = runner(pipe)()
    assert np.allclose(drawn, plain, atol=1e-4)
    assert_right_maps(trace, probe, second_half)


@pytest.mark.parametrize("name", SWAPPED)
def test_edited_as_diffusers_own(name: str) -> None:
    """An edit and a LoRA do the same whoever computes the layer."""
    pipe = make_pipeline()
    add_lora(pipe)
    draw = runner(pipe)
    plain = draw()
    with tx.edit(pipe, edits.Drop("red")):
        expected = draw()
    with tx.swap(pipe, SWAPPED[name]()), tx.edit(pipe, edits.Drop("red")):
        away = np.abs(draw() - expected).max()
    # This LoRA's weights are large, and make much of an unfused kernel's rounding.
    assert away < 0.02 * np.abs(expected - plain).max()


def test_guided_as_diffusers_own() -> None:
    pipe = make_pipeline()
    loss = losses.Layout({"circle": (0.0, 0.0, 1.0, 0.5)})
    with tx.guide(pipe, loss):
        expected = runner(pipe)()
    with tx.swap(pipe, InterceptingProcessor()), tx.guide(pipe, loss):
        assert np.allclose(runner(pipe)(), expected, atol=1e-4)


def test_what_is_recorded_are_the_probs_before_an_interception() -> None:
    pipe = make_pipeline()
    with Probe(pipe.unet) as probe:
        runner(pipe, num_inference_steps=1)()

    def louder(probs: Any) -> Any:
        probs[..., 3] *= 2
        return probs

    with tx.swap(pipe, InterceptingProcessor(louder)), tx.record(pipe) as trace:
        runner(pipe, num_inference_steps=1)()
    first = trace.sites[0].name  # the layers behind it see what the interception made
    found = trace.maps[first].reshape(1, -1, 77)
    assert np.abs(found - probe.mean(first, second_half)).max() < 1e-5
