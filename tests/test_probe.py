"""The oracle itself: what it says a layer attends to is what the layer's output is made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from conftest import make_pipeline
from probe import Probe, cross_attention_layers, rows_where, second_half
from right_maps import WORDS, assert_rows_differ, right_heat
from tiny_pipelines import (
    OFFLOADS,
    add_lora,
    load_ip_adapter,
    make_animatediff,
    make_sdxl,
    offload,
    picture_embeds,
    runner,
    sharpened,
)


def stock(change: Callable[[Any], Any] | None = None) -> Any:
    pipe = make_pipeline()
    if change is not None:
        change(pipe)
    return pipe


PIPELINES: dict[str, Callable[[], Any]] = {
    "Stable Diffusion": stock,
    "SDXL": lambda: sharpened(make_sdxl()),
    "LoRA": lambda: stock(add_lora),
    "attention slicing": lambda: stock(lambda pipe: pipe.enable_attention_slicing(1)),
    "fused projections": lambda: stock(lambda pipe: pipe.fuse_qkv_projections()),
    "unfused attention": lambda: stock(lambda pipe: pipe.unet.set_attn_processor(AttnProcessor())),
    "bfloat16": lambda: stock(lambda pipe: pipe.to(dtype=torch.bfloat16)),
    **{how: partial(stock, partial(offload, how=how)) for how in OFFLOADS},
}


class Outputs:
    """What goes into the output projection of each layer, and the values, call by call."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.mixed: dict[str, list[Tensor]] = {}
        self.values: dict[str, list[Tensor]] = {}
        for name, layer in cross_attention_layers(model):
            attn: Any = layer
            mixed = self.mixed.setdefault(name, [])
            attn.to_out[0].register_forward_pre_hook(
                lambda _, args, mixed=mixed: mixed.append(args[0].detach().double())
            )
            values = self.values.setdefault(name, [])
            if getattr(attn, "fused_projections", False):
                attn.to_kv.register_forward_hook(
                    lambda _, __, out, values=values: values.append(out.chunk(2, -1)[1].double())
                )
            else:
                attn.to_v.register_forward_hook(
                    lambda _, __, out, values=values: values.append(out.detach().double())
                )

    def expected(self, probe: Probe, name: str, call: int) -> Tensor:
        probs, values = probe.probs[name][call], self.values[name][call]
        split = values.unflatten(-1, (probs.shape[1], -1)).transpose(1, 2)
        return (probs @ split).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("name", PIPELINES)
def test_probs_times_values_is_what_a_layer_gives(name: str) -> None:
    pipe = PIPELINES[name]()
    plain = runner(pipe)()
    outputs = Outputs(pipe.unet)
    with Probe(pipe.unet) as probe:
        assert runner(pipe)().tobytes() == plain.tobytes()
    assert len(probe.layers) == (11 if name == "SDXL" else 7)
    for layer in probe.layers:
        assert len(probe.probs[layer]) == len(probe.texts) == 3
        for call, mixed in enumerate(outputs.mixed[layer]):
            away = (mixed - outputs.expected(probe, layer, call)).abs().max()
            assert away < (1e-2 if name == "bfloat16" else 1e-5), layer


def test_masked_tokens_get_nothing() -> None:
    unet = make_pipeline().unet
    outputs = Outputs(unet)
    mask = torch.ones(2, 77, dtype=torch.bool)
    mask[1, 5:] = False
    text = torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(0))
    with Probe(unet) as probe, torch.no_grad():
        unet(torch.ones(2, 4, 8, 8), 1, text, encoder_attention_mask=mask)
    for layer in probe.layers:
        probs = probe.probs[layer][0]
        assert (probs[0, ..., 5:] > 0).all()
        assert probs[1, ..., 5:].max() < 1e-9
        assert (outputs.mixed[layer][0] - outputs.expected(probe, layer, 0)).abs().max() < 1e-5


def test_text_and_pictures_of_an_ip_adapter_are_told_apart() -> None:
    pipe = make_pipeline()
    plain = runner(pipe)()
    with Probe(pipe.unet) as expected:
        runner(pipe)()
    load_ip_adapter(pipe)
    pipe.set_ip_adapter_scale(0.5)
    with Probe(pipe.unet) as probe:
        drawn = runner(pipe, ip_adapter_image_embeds=picture_embeds())()
    assert not np.allclose(drawn, plain, atol=1e-3)
    # Nothing has moved yet where the first layer looks at the text.
    first = probe.layers[0]
    assert torch.equal(probe.probs[first][0], expected.probs[first][0])
    assert not torch.equal(probe.probs[first][1], expected.probs[first][1])
    (pictures,) = probe.pictures[first][0]
    assert pictures.shape == (2, 2, 64, 4)
    assert torch.allclose(pictures.sum(-1), torch.ones(2, 2, 64, dtype=torch.float64))


def test_temporal_layers_of_a_video_look_at_no_text() -> None:
    names = [name for name, _ in cross_attention_layers(make_animatediff().unet)]
    assert len(names) == 7
    assert not any("motion_modules" in name for name in names)


def test_rules_choose_rows_and_calls() -> None:
    pipe = make_pipeline()
    with Probe(pipe.unet) as probe:
        runner(pipe, prompt=["a red circle", "blue"])()
    layer = probe.layers[0]
    calls = probe.probs[layer]
    assert [probs.shape for probs in calls] == [(4, 2, 64, 77)] * 3
    found = probe.mean(layer, rows_where(second_half, lambda call: call > 0))
    expected = torch.stack([calls[1][2:], calls[2][2:]]).mean(0).mean(1)
    assert np.allclose(found, expected, atol=1e-12)
    assert set(probe.distances(second_half)) == {(0, 0), (0, 1), (0, 3), (1, 0), (1, 1), (1, 2)}
    assert_rows_differ(probe, second_half)
    heats = [right_heat(probe, second_half, [column]) for column in range(77)]
    assert np.allclose(np.sum(heats, axis=0), 1)
    both = right_heat(probe, second_half, WORDS["red circle"])
    assert np.allclose(both, heats[2] + heats[3])


def test_rows_that_are_all_alike_are_noticed() -> None:
    """Where the negative prompt is the prompt, no oracle tells the branches apart."""
    pipe = make_pipeline()
    with Probe(pipe.unet) as probe:
        runner(pipe, negative_prompt="a red circle")()
    with pytest.raises(AssertionError):
        assert_rows_differ(probe, second_half)


def test_hooks_are_gone_after_it() -> None:
    pipe = make_pipeline()
    with Probe(pipe.unet) as probe:
        runner(pipe)()
    runner(pipe)()
    assert len(probe.texts) == 3
    for module in pipe.unet.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
