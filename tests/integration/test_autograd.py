"""Recording, edits and guidance where gradients are: training, gradient checkpointing, losses of
one's own, and in the modes of torch that forbid them or change the precision."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import t2i_xattn as tx
from conftest import make_pipeline, state_of
from probe import Probe, all_rows, change_attention, rows_where, second_half, without
from right_maps import HALF, WORDS, assert_right_heat, assert_right_maps, attempt
from t2i_xattn import edits, losses
from t2i_xattn.errors import UserError
from t2i_xattn.inversion import invert
from tiny_pipelines import add_lora, noise_picture, runner

BOX = {"circle": (0.0, 0.0, 1.0, 0.5)}


def trainable(checkpointing: bool = False) -> Any:
    pipe = make_pipeline()
    pipe.unet.train()
    if checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    return pipe


def train(pipe: Any, steps: int = 2) -> Tensor:
    """All gradients after some passes forward and backward."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        text = pipe.encode_prompt("a red circle", "cpu", 1, False)[0]
    for _ in range(steps):
        latents = torch.randn(1, 4, 8, 8, generator=noise)
        sample = pipe.unet(latents, torch.tensor([500]), encoder_hidden_states=text).sample
        sample.square().mean().backward()
    return torch.cat([p.grad.flatten() for p in pipe.unet.parameters() if p.grad is not None])


def forward_only(make: Callable[[], Any]) -> Probe:
    """What the layers see on the way forward; with checkpointing they run once more on the way
    back, which is no call."""
    pipe = make()
    with Probe(pipe.unet) as probe:
        train(pipe)
    return probe


@pytest.mark.parametrize("checkpointing", [False, True])
class TestTraining:
    def test_recorded(self, checkpointing: bool) -> None:
        probe, plain = forward_only(trainable), train(trainable(checkpointing))
        pipe = trainable(checkpointing)
        runner(pipe, num_inference_steps=1)()
        before = state_of(pipe)
        with tx.record(pipe) as trace:
            gradients = train(pipe)
        assert torch.equal(gradients, plain)
        assert state_of(pipe) == before
        assert trace.prompts == ("a red circle",)
        assert trace.settings["calls"] == 2
        assert_right_maps(trace, probe, all_rows)
        assert_right_heat(trace, probe, all_rows, WORDS)

    def test_recorded_step_by_step(self, checkpointing: bool) -> None:
        probe, pipe = forward_only(trainable), trainable(checkpointing)
        with tx.record(pipe, steps=[(0, 1), (1, 2)]) as trace:
            train(pipe)
        for step in (0, 1):
            rule = rows_where(all_rows, step.__eq__)
            assert_right_maps(trace.select(steps=step), probe, rule)

    @pytest.mark.slow
    def test_only_adapters_are_trained(self, checkpointing: bool) -> None:
        """With frozen weights beneath, as LoRAs are trained."""

        def make(checkpointing: bool = False) -> Any:
            pipe = trainable(checkpointing)
            add_lora(pipe)
            for name, parameter in pipe.unet.named_parameters():
                parameter.requires_grad_("lora" in name)
            return pipe

        probe, plain, pipe = forward_only(make), train(make(checkpointing)), make(checkpointing)
        assert plain.abs().max() > 0
        runner(pipe, num_inference_steps=1)()
        before = state_of(pipe)
        with tx.record(pipe) as trace:
            assert torch.equal(train(pipe), plain)
        assert state_of(pipe) == before
        assert_right_maps(trace, probe, all_rows)

    def test_edited(self, checkpointing: bool) -> None:
        """A do-nothing edit leaves the gradients; another's gradients go through what it made."""
        plain = train(trainable(checkpointing))
        pipe = trainable(checkpointing)
        if checkpointing:
            pipe = trainable()
        with tx.edit(pipe, lambda probs, _: probs):
            assert torch.allclose(train(pipe), plain, rtol=0, atol=1e-6 * float(plain.abs().max()))
        reference = trainable()
        change_attention(reference.unet, without(2), all_rows)
        expected = train(reference)
        pipe = trainable(checkpointing)
        if checkpointing:  # what is computed again would be without the edit
            with tx.edit(pipe, edits.Drop("red")), pytest.raises(UserError, match="checkpointing"):
                train(pipe)
            pipe = trainable()
        with tx.edit(pipe, edits.Drop("red")):
            found = train(pipe)
        scale = float(expected.abs().max())
        assert (found - expected).abs().max() < 1e-3 * scale
        assert (expected - plain).abs().max() > 1e-2 * scale

    def test_guided(self, checkpointing: bool) -> None:
        """Checkpointing saves memory and changes no picture."""
        plain = runner(make_pipeline())()
        reference, pipe = make_pipeline(), make_pipeline()
        with tx.guide(reference, losses.Layout(BOX)):
            expected = runner(reference)()
        assert not np.allclose(expected, plain, atol=1e-3)
        if checkpointing:
            pipe.unet.enable_gradient_checkpointing()
        runner(pipe)()
        before = state_of(pipe)
        with tx.guide(pipe, losses.Layout(BOX)), tx.record(pipe) as trace:
            drawn = runner(pipe)()
        assert state_of(pipe) == before
        assert np.allclose(drawn, expected, atol=1e-4)
        # The recording has the three calls of the pipeline, without those of the guided pass.
        assert trace.settings["calls"] == 3
        for maps in trace.maps.values():
            assert np.allclose(maps.sum(-1), 1, atol=1e-5)


def test_what_is_recorded_of_a_guided_run_is_the_pipelines_own_calls() -> None:
    """Held against the queries and keys of the calls that have all rows."""
    pipe = make_pipeline()
    with Probe(pipe.unet) as probe, tx.guide(pipe, losses.Layout(BOX)):
        expected = runner(pipe)()
    with tx.guide(pipe, losses.Layout(BOX)), tx.record(pipe) as trace:
        assert runner(pipe)().tobytes() == expected.tobytes()
    assert len(probe.texts) > 3

    def whole(call: int, rows: int) -> range | None:
        return second_half(call, rows) if rows == 2 else None

    assert_right_maps(trace, probe, whole)


@pytest.mark.parametrize("inside", [False, True])
def test_a_loss_of_one_s_own_on_the_latents(inside: bool) -> None:
    """Gradients by the input of a UNet that is called by hand, recorded meanwhile."""
    pipe = make_pipeline()
    with torch.no_grad():
        text = pipe.encode_prompt("a red circle", "cpu", 1, False)[0]

    def gradient() -> Tensor:
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        latents.requires_grad_(True)
        sample = pipe.unet(latents, 500, encoder_hidden_states=text).sample
        (found,) = torch.autograd.grad(sample.square().sum(), latents)
        return found

    with Probe(pipe.unet) as probe:
        plain = gradient()
    with tx.record(pipe, spans={"red": [2]}) as trace:
        if inside:
            with torch.no_grad():
                pipe.encode_prompt("a red circle", "cpu", 1, False)
        assert torch.equal(gradient(), plain)
    assert_right_maps(trace, probe, all_rows)
    assert_right_heat(trace, probe, all_rows, {"red": (2,)})


class Marker:
    """Lives as long as the graph of the pass in which it was made."""


class Marked(torch.autograd.Function):
    """The identity, with a marker in its node."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, seen: list[Any]) -> Tensor:
        ctx.marker = Marker()
        seen.append(weakref.ref(ctx.marker))
        return states.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def test_maps_keep_no_graph() -> None:
    """What is kept of a training step does not hold on to its activations."""
    pipe = trainable()
    seen: list[Any] = []
    handle = pipe.unet.conv_in.register_forward_hook(
        lambda module, args, output: Marked.apply(output, seen)
    )
    with tx.record(pipe) as trace:
        train(pipe, steps=1)
        assert len(seen) == 1
        gc.collect()
        assert seen[0]() is None
    handle.remove()
    assert trace.settings["calls"] == 1


Context = Callable[[Any], Any]

CONTEXTS: dict[str, Context] = {
    "record": tx.record,
    "record, heads weighed": lambda pipe: tx.record(pipe, heads="auto"),
    "record, walked": lambda pipe: tx.record(pipe, walk=1),
    "do-nothing edit": lambda pipe: tx.edit(pipe, lambda probs, _: probs),
    "edit": lambda pipe: tx.edit(pipe, edits.Drop("red")),
    "guide": lambda pipe: tx.guide(pipe, losses.Layout(BOX)),
}
SAME = ("record", "record, heads weighed", "record, walked", "do-nothing edit")

MODES: dict[str, Callable[[], Any]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("context", CONTEXTS)
class TestModes:
    """`latents.requires_grad` stays False in inference mode, whatever one does: so guidance is
    refused there in one sentence, or works; all else works."""

    @staticmethod
    def assert_right(context: str, mode: str, pipe: Any, drawn: np.ndarray, trace: Any) -> None:
        free = make_pipeline()
        with Probe(free.unet) as probe, MODES[mode]():
            plain = runner(free)()
        if context in SAME:
            assert drawn.tobytes() == plain.tobytes()
        else:
            assert np.isfinite(drawn).all()
            assert not np.allclose(drawn, plain, atol=1e-3)
        if context == "record":
            tolerance = HALF if mode == "autocast" else 1e-5
            assert_right_maps(trace, probe, second_half, tolerance=tolerance)
            assert_right_heat(trace, probe, second_half, WORDS, tolerance=tolerance)
        elif trace is not None:
            for maps in trace.maps.values():
                assert np.allclose(maps.sum(-1), 1, atol=1e-4)
        assert runner(pipe)().tobytes() == runner(free)().tobytes()

    def test_the_mode_around_all(self, context: str, mode: str) -> None:
        pipe = make_pipeline()
        runner(pipe)()
        before = state_of(pipe)

        def go() -> tuple[np.ndarray, Any]:
            with MODES[mode](), CONTEXTS[context](pipe) as trace:
                return runner(pipe)(), trace

        found, refusal = attempt(go)
        assert state_of(pipe) == before
        if context != "guide":
            assert refusal is None
        if found is not None:
            self.assert_right(context, mode, pipe, *found)

    @pytest.mark.slow
    def test_the_mode_inside(self, context: str, mode: str) -> None:
        pipe = make_pipeline()
        runner(pipe)()
        before = state_of(pipe)

        def go() -> tuple[np.ndarray, Any]:
            with CONTEXTS[context](pipe) as trace:
                with MODES[mode]():
                    drawn = runner(pipe)()
                return drawn, trace

        found, refusal = attempt(go)
        assert state_of(pipe) == before
        if context != "guide":
            assert refusal is None
        if found is not None:
            self.assert_right(context, mode, pipe, *found)


def test_what_was_recorded_in_inference_mode_can_be_saved_and_pooled(tmp_path: Any) -> None:
    pipe = make_pipeline()
    with torch.inference_mode(), tx.record(pipe, steps="each") as trace:
        runner(pipe)()
    trace.save(tmp_path / "run.safetensors")
    again = tx.Trace.load(tmp_path / "run.safetensors")
    for name, maps in trace.maps.items():
        assert np.array_equal(again.maps[name], maps)
    difference = trace.select(steps=1) - trace.select(steps=0)
    assert any(np.abs(maps).max() > 1e-4 for maps in difference.maps.values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["direct", "null-text"])
def test_inversion_in_inference_mode(method: Any) -> None:
    """One of the methods needs gradients: it works, or it is told in one sentence."""
    from diffusers.image_processor import VaeImageProcessor

    pipe = make_pipeline()
    array = noise_picture().permute(0, 2, 3, 1).numpy()
    (picture,) = VaeImageProcessor.numpy_to_pil(array)
    runner(pipe)()
    before = state_of(pipe)

    def inverted() -> Any:
        return invert(
            pipe,
            picture,
            "a red circle",
            num_inference_steps=2,
            method=method,
            guidance_scale=5.0,
        )

    plain = inverted()

    def in_mode() -> Any:
        with torch.inference_mode():
            return inverted()

    found, refusal = attempt(in_mode)
    assert state_of(pipe) == before
    if method == "direct":
        assert refusal is None
    if found is not None:
        expected = pipe(**plain.arguments(), output_type="np").images
        assert np.allclose(pipe(**found.arguments(), output_type="np").images, expected, atol=1e-4)
