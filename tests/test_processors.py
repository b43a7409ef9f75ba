from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import (
    Attention,
    AttnAddedKVProcessor,
    AttnProcessor,
    AttnProcessor2_0,
    CustomDiffusionAttnProcessor,
    IPAdapterAttnProcessor2_0,
)
from torch import nn

from t2i_xattn.denoisers.wrapping import RecordingProcessor, unrecordable
from t2i_xattn.kernel import reference
from t2i_xattn.kernel.attention import attention_probs, queries_and_keys
from t2i_xattn.recording.targets import Target

LAYERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "group norm": {"norm_num_groups": 4},
    "residual": {"residual_connection": True, "rescale_output_factor": 2.0},
    "bias": {"bias": True},
    "layer norm of the text": {"cross_attention_norm": "layer_norm"},
    "group norm of the text": {
        "cross_attention_norm": "group_norm",
        "cross_attention_norm_num_groups": 4,
    },
    "query and key norm": {"qk_norm": "rms_norm"},
    "unscaled": {"scale_qk": False},
    "spatial norm": {"spatial_norm_dim": 4, "norm_num_groups": 4},
}


def make_layer(**changes: Any) -> Attention:
    torch.manual_seed(0)
    config = {"query_dim": 32, "cross_attention_dim": 12, "heads": 4, "dim_head": 8} | changes
    return Attention(**config).eval()


def recording(layer: Attention, batch: int, queries: int, tokens: int) -> RecordingProcessor:
    wrapper = RecordingProcessor.around(layer.processor)
    aim(wrapper, slice(0, batch), torch.zeros(batch, 1, queries, tokens))
    layer.processor = wrapper
    return wrapper


def aim(wrapper: RecordingProcessor, rows: slice, total: torch.Tensor, **more: Any) -> None:
    wrapper.targets = (Target(more.pop("stream", 0), rows, total, torch.zeros(1), **more),)


def kept(wrapper: RecordingProcessor) -> torch.Tensor:
    """What was added up, `(rows, queries, tokens)`."""
    return wrapper.targets[0].total[:, 0]


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_probs_are_those_of_diffusers_in_every_branch(name: str) -> None:
    """diffusers' own, with its probs taken as the output: the values are the identity matrix."""
    layer = make_layer(**LAYERS[name])
    picture, text = torch.randn(2, 9, 32), torch.randn(2, 5, 12)
    temb = None
    if "spatial_norm_dim" in LAYERS[name]:
        picture, temb = torch.randn(2, 32, 3, 3), torch.randn(2, 4, 3, 3)
    query, key = queries_and_keys(layer, picture, text, temb)
    probs = attention_probs(query, key, layer.scale)

    # Five tokens in heads of eight: a value with a one at its token, and nothing mixed after.
    layer.to_v = _Constant(torch.eye(5, 8).repeat(1, 4).expand(2, 5, 32))
    layer.to_out[0], layer.residual_connection = nn.Identity(), False
    layer.rescale_output_factor = 1.0
    options = {} if temb is None else {"temb": temb}
    out = layer(picture, encoder_hidden_states=text, **options)
    if out.ndim == 4:
        out = out.flatten(2).transpose(1, 2)
    expected = out.unflatten(-1, (4, 8)).transpose(1, 2)[..., :5]
    assert probs.shape == (2, 4, 9, 5)
    assert torch.allclose(probs, expected, atol=1e-6)


class _Constant(nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.value


@torch.no_grad()
def test_self_attention() -> None:
    layer = make_layer(cross_attention_dim=None)
    query, key = queries_and_keys(layer, torch.randn(2, 32, 3, 3))
    assert query.shape == key.shape == (2, 4, 9, 8)


@torch.no_grad()
def test_a_layer_equals_the_one_written_out() -> None:
    layer = make_layer()
    picture, text = torch.randn(2, 9, 32), torch.randn(2, 5, 12)
    weights = reference.Weights(
        layer.to_q.weight,
        layer.to_k.weight,
        layer.to_v.weight,
        layer.to_out[0].weight,
        layer.to_out[0].bias,
    )
    out, probs = reference.cross_attention(picture, text, weights, heads=4)
    wrapper = recording(layer, 2, 9, 5)
    assert torch.allclose(layer(picture, text).double(), out, atol=1e-5)
    assert torch.allclose(kept(wrapper).double(), probs.mean(1), atol=1e-6)


def test_softmax_is_in_fp32() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 2, 9, 8).mul(3), torch.randn(2, 1, 2, 5, 8).mul(3)
    q, k = query[0].bfloat16(), key[0].bfloat16()
    expected = reference.probs(reference.scores(q.double(), k.double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probs = attention_probs(q, k, 8**-0.5)
    assert probs.dtype == torch.float32
    assert torch.allclose(probs.double(), expected, atol=1e-6)


@pytest.mark.parametrize("additive", [False, True])
def test_masks(additive: bool) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 3, 8), torch.randn(2, 1, 4, 8)
    allowed = torch.tensor([[True, True, False, True], [False] * 4])
    mask = allowed[:, None, None]
    if additive:
        mask = torch.zeros(2, 1, 1, 4).masked_fill(~mask, float("-inf"))
    probs = attention_probs(query, key, 8**-0.5, mask)
    expected = reference.probs(reference.scores(query, key), allowed)
    assert torch.allclose(probs, expected)
    assert (probs[1] == 0).all()


def test_gradients_of_a_query_that_may_look_nowhere() -> None:
    query = torch.randn(2, 1, 3, 8, requires_grad=True)
    mask = torch.zeros(2, 1, 1, 4)
    mask[1] = float("-inf")
    attention_probs(query, torch.randn(2, 1, 4, 8), 1.0, mask)[..., 0].sum().backward()
    assert query.grad is not None
    assert query.grad.isfinite().all()
    assert (query.grad[1] == 0).all()


@torch.no_grad()
def test_the_mask_of_diffusers_is_recorded() -> None:
    layer = make_layer()
    wrapper = recording(layer, 1, 9, 5)
    aim(wrapper, slice(1, 2), torch.zeros(1, 1, 9, 5))
    keep = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0.0]])
    layer(torch.randn(2, 9, 32), torch.randn(2, 5, 12), attention_mask=(1 - keep[:, None]) * -1e4)
    assert (kept(wrapper)[..., [2, 4]] == 0).all()
    assert torch.allclose(kept(wrapper).sum(-1), torch.ones(1, 9))


@torch.no_grad()
def test_output_is_the_inner_processors_and_calls_add_up() -> None:
    layer = make_layer()
    picture, text = torch.randn(2, 9, 32), torch.randn(2, 5, 12)
    expected = layer(picture, text)
    wrapper = recording(layer, 2, 9, 5)
    assert torch.equal(layer(picture, text), expected)
    once = kept(wrapper).clone()
    layer(picture, text)
    assert torch.equal(kept(wrapper), 2 * once)


def test_recording_leaves_gradients_alone() -> None:
    layer = make_layer()
    wrapper = recording(layer, 2, 9, 5)
    layer(torch.randn(2, 9, 32), torch.randn(2, 5, 12)).sum().backward()
    assert not kept(wrapper).requires_grad
    assert layer.to_q.weight.grad is not None


def test_signature_is_the_inner_processors() -> None:
    class Picky:
        def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask, mood): ...

    inner = Picky()
    for processor in (inner, AttnProcessor(), AttnProcessor2_0()):
        wrapper = RecordingProcessor.around(processor)
        assert inspect.signature(wrapper.__call__) == inspect.signature(processor.__call__)


@torch.no_grad()
def test_a_module_stays_reachable_and_keeps_its_names() -> None:
    layer = make_layer(processor=IPAdapterAttnProcessor2_0(32, 12, num_tokens=(4,)))
    inner, keys, names = layer.processor, list(layer.state_dict()), list(layer._modules)
    assert "processor.to_k_ip.0.weight" in keys
    wrapper = recording(layer, 2, 9, 5)
    assert list(layer.state_dict()) == keys
    layer.to(torch.float64)
    assert inner.to_k_ip[0].weight.dtype == torch.float64
    text, image = torch.randn(2, 5, 12).double(), torch.randn(2, 1, 4, 12).double()
    layer(torch.randn(2, 9, 32).double(), (text, [image]))
    assert torch.allclose(kept(wrapper).sum(-1), torch.ones(2, 9))
    layer.processor = wrapper.inner
    assert layer.processor is inner
    assert list(layer._modules) == names


@torch.no_grad()
def test_ip_adapter_keeps_its_output_and_its_text_is_recorded() -> None:
    layer = make_layer(processor=IPAdapterAttnProcessor2_0(32, 12, num_tokens=(4,)))
    picture, text, image = torch.randn(2, 9, 32), torch.randn(2, 5, 12), torch.randn(2, 1, 4, 12)
    plain = layer(picture, (text, [image]))
    assert not torch.equal(plain, layer(picture, (text, [2 * image])))
    wrapper = recording(layer, 2, 9, 5)
    assert torch.equal(layer(picture, (text, [image])), plain)
    expected = attention_probs(*queries_and_keys(layer, picture, text), layer.scale).mean(1)
    assert torch.equal(kept(wrapper), expected)


@torch.no_grad()
def test_taking_out_of_a_chain() -> None:
    layer = make_layer()
    original = layer.processor
    first, second = recording(layer, 2, 9, 5), recording(layer, 2, 9, 5)
    first.take_out_of(layer.processor)
    assert layer.processor is second
    assert second.inner is original
    first.take_out_of(original)  # not there: nothing to do


@torch.no_grad()
def test_one_graph_when_compiled() -> None:
    layer = make_layer()
    wrapper = recording(layer, 2, 9, 5)
    picture, text = torch.randn(2, 9, 32), torch.randn(2, 5, 12)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    for _ in range(3):
        compiled(picture, text)
    assert torch.allclose(kept(wrapper).sum(-1), torch.full((2, 9), 3.0))


@torch.no_grad()
def test_heads_and_chosen_columns() -> None:
    layer = make_layer()
    picture, text = torch.randn(2, 9, 32), torch.randn(2, 5, 12)
    probs = attention_probs(*queries_and_keys(layer, picture, text), layer.scale)
    wrapper = recording(layer, 2, 9, 5)
    # The sum of columns 1 and 2, and column 4; in the second row 0 and 3.
    selection = torch.zeros(2, 5, 2)
    selection[0, [1, 2], 0] = selection[0, 4, 1] = selection[1, 0, 0] = selection[1, 3, 1] = 1
    aim(wrapper, slice(0, 2), torch.zeros(2, 4, 9, 2), selection=selection)
    layer(picture, text)
    total = wrapper.targets[0].total
    assert torch.allclose(total[0, :, :, 0], probs[0, :, :, 1] + probs[0, :, :, 2])
    assert torch.allclose(total[0, :, :, 1], probs[0, :, :, 4])
    assert torch.allclose(total[1, :, :, 0], probs[1, :, :, 0])
    assert wrapper.targets[0].calls.item() == 1


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_ip_adapters_pictures_are_a_stream_of_their_own(masked: bool) -> None:
    """Together one softmax; under masks, one for each picture."""
    inner = IPAdapterAttnProcessor2_0(32, 12, num_tokens=(4,))
    layer = make_layer(processor=inner)
    picture, text, images = torch.randn(2, 9, 32), torch.randn(2, 5, 12), torch.randn(2, 2, 4, 12)
    options = {"ip_adapter_masks": [torch.ones(1, 2, 3, 3)]} if masked else {}
    plain = layer(picture, (text, [images]), **options)
    wrapper = recording(layer, 2, 9, 5)
    aim(wrapper, slice(0, 2), torch.zeros(2, 1, 9, 8), stream=1)
    assert torch.equal(layer(picture, (text, [images]), **options), plain)
    query = queries_and_keys(layer, picture, text)[0]
    shares = [
        reference.probs(reference.scores(query, reference.split_heads(keys, 4)))
        for keys in inner.to_k_ip[0](images if masked else images.flatten(1, 2)[:, None]).unbind(1)
    ]
    assert torch.allclose(kept(wrapper), torch.cat(shares, dim=-1).mean(1), atol=1e-6)


def test_what_cannot_be_read_says_why() -> None:
    assert unrecordable(make_layer()) is None
    assert unrecordable(make_layer(processor=lambda attn, hidden_states: hidden_states)) is None
    other = make_layer(
        processor=CustomDiffusionAttnProcessor(hidden_size=32, cross_attention_dim=12)
    )
    assert "CustomDiffusionAttnProcessor, which forms its own" in str(unrecordable(other))
    added = make_layer(added_kv_proj_dim=12, processor=AttnAddedKVProcessor())
    assert "to those of self-attention" in str(unrecordable(added))
