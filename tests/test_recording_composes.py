from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from captured import Captured
from conftest import state_of
from t2i_xattn.errors import UserError
from t2i_xattn.processors.swap import swap
from t2i_xattn.recording.record import record

Draw = Callable[..., np.ndarray]


@pytest.fixture
def diffusers_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """What diffusers warns about; by itself it keeps its log from the root logger."""
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    caplog.set_level(logging.WARNING)
    return caplog


class Doubling:
    """A user's own processor, with a keyword of its own."""

    def __init__(self) -> None:
        self.inner = AttnProcessor2_0()
        self.moods: list[Any] = []

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mood: Any = None,
    ) -> Tensor:
        self.moods.append(mood)
        return 2 * self.inner(attn, hidden_states, encoder_hidden_states, attention_mask)


class Scaling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(0.5))

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        out = AttnProcessor2_0()(attn, hidden_states, encoder_hidden_states, attention_mask)
        return out * self.strength


class ByItself:
    """A processor that multiplies by itself."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        q, k = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states)
        v = attn.to_v(encoder_hidden_states)
        output: Tensor = attn.to_out[0]((q @ k.mT).softmax(-1) @ v)
        return output


class TestComposition:
    @pytest.mark.parametrize("make", [Doubling, Scaling, AttnProcessor])
    def test_with_another_processor(self, pipe: Any, draw: Draw, make: Callable[[], Any]) -> None:
        default = draw(pipe)
        pipe.unet.set_attn_processor({name: make() for name in pipe.unet.attn_processors})
        plain = draw(pipe)
        assert make is AttnProcessor or plain.tobytes() != default.tobytes()
        before = state_of(pipe)
        captured = Captured(pipe, lambda: draw(pipe))
        with record(pipe) as trace:
            inside = state_of(pipe)
            assert {key: inside[key] for key in ("processors", "repr", "keys")} == {
                key: before[key] for key in ("processors", "repr", "keys")
            }
            assert draw(pipe).tobytes() == plain.tobytes()
        assert state_of(pipe) == before
        for site in trace.sites:
            each = [captured.probs(site, call).mean(dim=1) for call in range(captured.calls)]
            expected = torch.stack(each).mean(dim=0).numpy().reshape(trace.maps[site.name].shape)
            assert np.abs(trace.maps[site.name] - expected).max() < 1e-5

    @pytest.mark.parametrize("slices", [1, "auto", "max"])
    def test_attention_slicing(self, pipe: Any, draw: Draw, slices: Any) -> None:
        with record(pipe) as expected:
            draw(pipe)
        pipe.enable_attention_slicing(slices)
        plain = draw(pipe)
        with record(pipe) as trace:
            assert draw(pipe).tobytes() == plain.tobytes()
        for name, maps in expected.maps.items():
            assert np.allclose(trace.maps[name], maps, atol=1e-5)

    def test_cross_attention_kwargs(
        self, pipe: Any, draw: Draw, diffusers_log: pytest.LogCaptureFixture
    ) -> None:
        """They reach the processor, and nobody warns."""
        mine = Doubling()
        pipe.unet.set_attn_processor(mine)
        plain = draw(pipe, cross_attention_kwargs={"mood": "blue"})
        moods = list(mine.moods)
        mine.moods.clear()
        with record(pipe):
            recorded = draw(pipe, cross_attention_kwargs={"mood": "blue"})
        assert recorded.tobytes() == plain.tobytes()
        assert not diffusers_log.records
        assert mine.moods == moods
        assert set(moods) == {"blue"}

    def test_the_scale_of_lora(self, pipe: Any, diffusers_log: pytest.LogCaptureFixture) -> None:
        """By the UNet: without peft, the stock pipeline fails at its text encoder."""
        inputs = torch.randn(1, 4, 8, 8), 1, torch.randn(1, 77, 32)
        with torch.no_grad():
            plain = pipe.unet(*inputs, cross_attention_kwargs={"scale": 0.5}).sample
            before = [record.getMessage() for record in diffusers_log.records]
            diffusers_log.clear()
            with record(pipe) as trace:
                recorded = pipe.unet(*inputs, cross_attention_kwargs={"scale": 0.5}).sample
        assert torch.equal(recorded, plain)
        assert [record.getMessage() for record in diffusers_log.records] == before
        assert trace.settings["calls"] == 1

    def test_an_unknown_keyword_is_warned_about_as_ever(
        self, pipe: Any, draw: Draw, diffusers_log: pytest.LogCaptureFixture
    ) -> None:
        pipe.unet.set_attn_processor(Doubling())
        with record(pipe):
            draw(pipe, cross_attention_kwargs={"wrong": 1})
        assert any("['wrong'] are not expected" in r.getMessage() for r in diffusers_log.records)

    def test_a_compiled_unet(self, pipe: Any, draw: Draw) -> None:
        with record(pipe) as expected:
            plain = draw(pipe)
        pipe.unet = torch.compile(pipe.unet, fullgraph=True, backend="eager")
        with record(pipe) as trace:
            assert np.allclose(draw(pipe), plain, atol=1e-5)
        for name, maps in expected.maps.items():
            assert np.allclose(trace.maps[name], maps, atol=1e-5)

    def test_a_compiled_unet_without_a_fused_kernel(self, pipe: Any, draw: Draw) -> None:
        """What is compiled away is told in one sentence, and what that advises works."""
        pipe.unet.set_attn_processor(AttnProcessor())
        with record(pipe) as expected:
            plain = draw(pipe)
        torch._dynamo.reset()
        pipe.unet = torch.compile(pipe.unet, fullgraph=True, backend="eager")
        before = state_of(pipe)
        with pytest.raises(UserError) as raised, record(pipe):
            draw(pipe)
        told = str(raised.value)
        first = expected.sites[0].name
        assert f"at {first}, but AttnProcessor does not call a kernel that can be seen" in told
        assert "tx.swap(pipe, AttnProcessor2_0(), sites=" in told
        assert "\n" not in told
        assert state_of(pipe) == before
        assert np.allclose(draw(pipe), plain, atol=1e-5)
        with swap(pipe, AttnProcessor2_0()), record(pipe) as trace:
            assert np.allclose(draw(pipe), plain, atol=1e-5)
        for name, maps in expected.maps.items():
            assert np.allclose(trace.maps[name], maps, atol=1e-5)

    def test_a_processor_that_cannot_be_seen(self, pipe: Any, draw: Draw) -> None:
        """It is told in the first call, before the first step; or left out where that was asked."""
        with record(pipe) as expected:
            draw(pipe)
        names = [site.name for site in expected.sites]
        attn = pipe.unet.get_submodule(names[2])
        attn.set_processor(ByItself())
        plain, steps = draw(pipe), []

        def count(pipe: Any, step: int, timestep: Any, tensors: Any) -> Any:
            steps.append(step)
            return tensors

        match = f"over the text at {re.escape(names[2])}, but ByItself does not call"
        with pytest.raises(UserError, match=match), record(pipe):
            draw(pipe, callback_on_step_end=count)
        assert not steps
        with record(pipe, unrecordable="skip") as trace:
            assert draw(pipe).tobytes() == plain.tobytes()
        assert [site.name for site in trace.sites] == [*names[:2], *names[3:]]
        for name in names[:2]:
            assert np.allclose(trace.maps[name].sum(-1), 1, atol=1e-5)
        with record(pipe, sites=lambda site: site.name != names[2]) as others:
            assert draw(pipe).tobytes() == plain.tobytes()
        assert others.maps.keys() == trace.maps.keys()
        for name, maps in others.maps.items():
            assert (trace.maps[name] == maps).all()

    def test_half_precision(self, pipe: Any, draw: Draw) -> None:
        pipe.to(torch.bfloat16)
        plain = draw(pipe)
        with record(pipe) as trace:
            assert draw(pipe).tobytes() == plain.tobytes()
        assert trace.maps[trace.sites[0].name].dtype == np.float32
        assert np.allclose(trace.maps[trace.sites[0].name].sum(-1), 1, atol=1e-5)
