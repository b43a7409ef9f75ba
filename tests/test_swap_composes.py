from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from conftest import make_pipeline, state_of
from swapping import Scaling, halving, make_small_unet, standing
from t2i_xattn.denoisers.sites import find_sites
from t2i_xattn.errors import UserError
from t2i_xattn.processors import RecordingProcessor
from t2i_xattn.processors.placing import _PUTS
from t2i_xattn.processors.swap import swap
from tiny_pipelines import add_lora, load_ip_adapter, of_class, picture_embeds

Draw = Callable[..., np.ndarray]


@pytest.fixture(autouse=True)
def _nothing_stays_in_the_books() -> Any:
    yield
    assert not _PUTS


def is_self(site: Any) -> bool:
    return site.kind == "self"


def test_lora_is_in_what_is_swapped_in(pipe: Any, draw: Draw) -> None:
    add_lora(pipe)
    plain, before = draw(pipe), state_of(pipe)
    with swap(pipe, RecordingProcessor, sites=lambda site: True) as put:
        assert draw(pipe).tobytes() == plain.tobytes()
    assert state_of(pipe) == before
    assert {each.calls for each in put.values()} == {2}


class TestPerturbedAttention:
    @pytest.fixture
    def pag(self) -> Any:
        return of_class("StableDiffusionPAGPipeline", pag_applied_layers=["mid"])

    def test_at_other_sites_and_at_its_own(self, pag: Any, draw: Draw) -> None:
        """PAG sets its processors for the run: what is at its sites is not called, as ever."""
        plain, before = draw(pag), state_of(pag)
        with swap(pag, RecordingProcessor, sites=lambda site: True) as put:
            assert draw(pag).tobytes() == plain.tobytes()
            assert standing(pag.unet) == put
        assert state_of(pag) == before
        unused = [name for name, each in put.items() if each.calls == 0]
        assert unused == ["mid_block.attentions.0.transformer_blocks.0.attn1"]
        cross = put["mid_block.attentions.0.transformer_blocks.0.attn2"]
        assert cross.probs.shape == (3, 4, 77)

    def test_opened_and_closed_between_its_steps(self, pag: Any, draw: Draw) -> None:
        draw(pag)
        before, contexts = state_of(pag), []

        def step(pipe: Any, index: int, *_: Any) -> dict[str, Any]:
            if index == 0:
                contexts.append(swap(pag, Scaling, sites=lambda site: True))
                contexts[0].__enter__()
            return {}

        draw(pag, callback_on_step_end=step)
        contexts[0].__exit__(None, None, None)
        assert state_of(pag) == before


class TestAnIPAdapter:
    def test_its_sites_are_refused_and_others_not(self, pipe: Any, draw: Draw) -> None:
        load_ip_adapter(pipe)
        options = {"ip_adapter_image_embeds": picture_embeds()}
        plain, before = draw(pipe, **options), state_of(pipe)
        with pytest.raises(UserError, match=r"7 with one, down_blocks.* pipe.unload_ip_adapter"):
            swap(pipe, RecordingProcessor).__enter__()
        assert state_of(pipe) == before
        with swap(pipe, RecordingProcessor, sites=is_self):  # as the sentence advises
            assert draw(pipe, **options).tobytes() == plain.tobytes()
        assert state_of(pipe) == before
        pipe.unload_ip_adapter()  # the other advice
        with swap(pipe, RecordingProcessor):
            draw(pipe)

    def test_one_that_is_loaded_inside_stays(self, pipe: Any, draw: Draw) -> None:
        other = make_pipeline()
        load_ip_adapter(other)
        options = {"ip_adapter_image_embeds": picture_embeds()}
        expected = draw(other, **options)
        with swap(pipe, halving()):
            load_ip_adapter(pipe)
            inside = standing(pipe.unet)
            with pytest.raises(UserError, match="7 with one"):
                swap(pipe, halving()).__enter__()
        assert standing(pipe.unet) == inside
        assert draw(pipe, **options).tobytes() == expected.tobytes()

    def test_another_adapters_processor_may_take_its_place(self, pipe: Any) -> None:
        load_ip_adapter(pipe)
        before = state_of(pipe)
        name = find_sites(pipe.unet)[0].name
        with swap(pipe, {name: copy.deepcopy(standing(pipe.unet)[name])}):
            assert state_of(pipe)["processors"] != before["processors"]
        assert state_of(pipe) == before


@pytest.mark.parametrize("put", [Scaling, RecordingProcessor])
@torch.no_grad()
def test_compiled_before_and_inside(put: Any) -> None:
    torch.compiler.reset()
    unet = make_small_unet()
    inputs = torch.randn(2, 4, 8, 8), 1, torch.randn(2, 5, 32)
    plain = unet(*inputs).sample
    with swap(unet, put):
        expected = unet(*inputs).sample
    before = torch.compile(unet, fullgraph=True, backend="eager")
    before(*inputs)
    with swap(before, put) as processors:
        assert torch.allclose(before(*inputs).sample, expected, atol=1e-5)
        inside = torch.compile(unet, fullgraph=True, backend="eager")
        assert torch.allclose(inside(*inputs).sample, expected, atol=1e-5)
    for compiled in (before, inside):
        assert torch.allclose(compiled(*inputs).sample, plain, atol=1e-5)
    if put is RecordingProcessor:
        assert {each.calls for each in processors.values()} == {2}
    else:
        assert not torch.allclose(expected, plain, atol=1e-3)
