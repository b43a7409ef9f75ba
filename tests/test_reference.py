"""The reference equals what torch and diffusers compute, in fp64 to 1e-10."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import (
    Attention,
    AttnAddedKVProcessor2_0,
    IPAdapterAttnProcessor2_0,
    JointAttnProcessor2_0,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from t2i_xattn.errors import UserError
from t2i_xattn.kernel.arrangements import concatenated, decoupled, joint
from t2i_xattn.kernel.reference import (
    Steps,
    Weights,
    attend,
    attention,
    causal,
    probs,
    scores,
    split_heads,
)

KINDS = ["none", "padding", "bool", "numbers", "causal"]


@dataclasses.dataclass
class Sizes:
    batch: int
    heads: int
    width: int
    queries: int
    tokens: int
    text: int
    kind: str
    seed: int

    def drawn(self, *sizes: int) -> Tensor:
        return torch.randn(*sizes, dtype=torch.float64)

    def mask(self) -> Tensor | None:
        """Without rows that look at nothing, of which torch's modules make NaN."""
        queries, tokens = self.queries, self.tokens
        if self.kind == "padding":
            lengths = torch.randint(1, tokens + 1, (self.batch, 1))
            return torch.arange(tokens)[None] < lengths
        if self.kind == "bool":
            mask = torch.rand(self.batch, 1, queries, tokens) > 0.5
            mask[..., 0] = True
            return mask
        if self.kind == "numbers":
            return self.drawn(1, self.heads, queries, tokens)
        if self.kind == "causal":
            return torch.ones(queries, tokens, dtype=torch.bool).tril()[None, None]
        return None


@st.composite
def sizes(draw: Any) -> Sizes:
    found = Sizes(
        batch=draw(st.integers(1, 3)),
        heads=draw(st.integers(1, 4)),
        width=draw(st.integers(1, 9)),
        queries=draw(st.integers(1, 9)),
        tokens=draw(st.integers(1, 9)),
        text=draw(st.integers(1, 12)),
        kind=draw(st.sampled_from(KINDS)),
        seed=draw(st.integers(0, 2**31)),
    )
    torch.manual_seed(found.seed)
    return found


def close(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def four_axes(mask: Tensor | None) -> Tensor | None:
    return mask[:, None, None] if mask is not None and mask.ndim == 2 else mask


@settings(max_examples=100, deadline=None, derandomize=True)
@given(case=sizes())
def test_equals_the_fused_kernel(case: Sizes) -> None:
    q = case.drawn(case.batch, case.heads, case.queries, case.width)
    k, v = case.drawn(2, case.batch, case.heads, case.tokens, case.width)
    mask = case.mask()
    steps = attend(q, k, v, mask)
    close(steps.taken, F.scaled_dot_product_attention(q, k, v, attn_mask=four_axes(mask)))
    close(steps.probs.sum(-1), torch.ones_like(steps.probs[..., 0]))
    other = attend(q, k, v, mask, scale=0.3).taken
    close(other, F.scaled_dot_product_attention(q, k, v, attn_mask=four_axes(mask), scale=0.3))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(case=sizes(), bias=st.booleans())
def test_equals_torch_s_multi_head_attention(case: Sizes, bias: bool) -> None:
    width = case.heads * case.width
    layer = torch.nn.MultiheadAttention(
        width, case.heads, bias=bias, kdim=case.text, vdim=case.text, batch_first=True
    ).double()
    for each in layer.parameters():
        torch.nn.init.normal_(each)
    if layer.in_proj_weight is None:
        q, k, v = layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight
    else:  # where the text is as wide as the picture, torch keeps the three in one
        q, k, v = layer.in_proj_weight.chunk(3)
    of_three = layer.in_proj_bias.chunk(3) if bias else (None, None, None)
    weights = Weights(q, k, v, layer.out_proj.weight, layer.out_proj.bias, *of_three)
    picture = case.drawn(case.batch, case.queries, width)
    text = case.drawn(case.batch, case.tokens, case.text)
    mask, given = case.mask(), {}
    if mask is not None and case.kind == "padding":
        given = {"key_padding_mask": ~mask}  # True is what may not be looked at
    elif mask is not None:
        shape = case.batch, case.heads, case.queries, case.tokens
        whole = mask.expand(shape).flatten(0, 1)
        given = {"attn_mask": ~whole if whole.dtype == torch.bool else whole}
    out, shares = layer(picture, text, text, average_attn_weights=False, **given)
    steps = attention(picture, text, weights, case.heads, mask)
    close(steps.out, out)
    close(steps.probs, shares)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(case=sizes(), bias=st.booleans(), itself=st.booleans())
@torch.no_grad()
def test_equals_diffusers_attention(case: Sizes, bias: bool, itself: bool) -> None:
    width = case.heads * case.width
    text = None if itself else case.text
    layer = Attention(width, text, heads=case.heads, dim_head=case.width, bias=bias).double()
    picture = case.drawn(case.batch, case.queries, width)
    case = dataclasses.replace(case, tokens=case.queries) if itself else case
    seen = picture if itself else case.drawn(case.batch, case.tokens, case.text)
    mask = case.mask()
    added = four_axes(mask)
    if added is not None and added.dtype == torch.bool:
        # diffusers takes numbers to be added, `(batch, queries or 1, tokens)`, one for all heads.
        whole = added.expand(case.batch, 1, -1, -1)[:, 0]
        added = torch.zeros(whole.shape).double().masked_fill(~whole, float("-inf"))
    elif added is not None:
        added = added.expand(case.batch, -1, -1, -1).flatten(0, 1)
    out = layer(picture, None if itself else seen, attention_mask=added)
    close(attention(picture, seen, Weights.of(layer), case.heads, mask).out, out)


@torch.no_grad()
def test_decoupled_is_diffusers_ip_adapter() -> None:
    torch.manual_seed(0)
    processor = IPAdapterAttnProcessor2_0(12, 10, num_tokens=(3, 2), scale=[0.5, 1.5])
    layer = Attention(12, 10, heads=3, dim_head=4, processor=processor).double()
    picture, text = torch.randn(2, 7, 12).double(), torch.randn(2, 5, 10).double()
    images = [torch.randn(2, 1, tokens, 10).double() for tokens in (3, 2)]
    expected = layer(picture, (text, images))
    weights = Weights.of(layer)
    others = [
        (states[:, 0], dataclasses.replace(weights, key=key.weight, value=value.weight), scale)
        for states, key, value, scale in zip(
            images, processor.to_k_ip, processor.to_v_ip, processor.scale, strict=True
        )
    ]
    out, own, apart = decoupled(picture, text, others, weights, 3)
    close(out, expected)
    for steps in (own, *apart):  # each has a softmax of its own
        close(steps.probs.sum(-1), torch.ones(2, 3, 7).double())


@torch.no_grad()
def test_concatenated_is_diffusers_added_keys() -> None:
    torch.manual_seed(0)
    layer = Attention(
        12,
        heads=3,
        dim_head=4,
        added_kv_proj_dim=10,
        norm_num_groups=4,
        bias=True,
        processor=AttnAddedKVProcessor2_0(),
    ).double()
    picture, text = torch.randn(2, 12, 2, 3).double(), torch.randn(2, 5, 10).double()
    states = layer.group_norm(picture.flatten(2)).transpose(1, 2)
    own = Weights.of(layer)
    of_text = dataclasses.replace(
        own,
        key=layer.add_k_proj.weight,
        value=layer.add_v_proj.weight,
        key_bias=layer.add_k_proj.bias,
        value_bias=layer.add_v_proj.bias,
    )
    steps = concatenated(states, [(text, of_text), (states, own)], own, 3)
    assert steps.out is not None
    close(steps.out.transpose(1, 2).reshape(picture.shape) + picture, layer(picture, text))
    close(steps.probs.sum(-1), torch.ones(2, 3, 6).double())  # one softmax over both


@torch.no_grad()
def test_joint_is_diffusers_joint_attention() -> None:
    torch.manual_seed(0)
    layer = Attention(
        12,
        heads=3,
        dim_head=4,
        added_kv_proj_dim=12,
        context_pre_only=False,
        bias=True,
        processor=JointAttnProcessor2_0(),
    ).double()
    picture, text = torch.randn(2, 7, 12).double(), torch.randn(2, 5, 12).double()
    q, k, v, out = layer.add_q_proj, layer.add_k_proj, layer.add_v_proj, layer.to_add_out
    of_text = Weights(q.weight, k.weight, v.weight, out.weight, out.bias, q.bias, k.bias, v.bias)
    expected = layer(picture, text)
    *found, steps = joint(picture, text, Weights.of(layer), of_text, 3)
    for one, other in zip(found, expected, strict=True):
        close(one, other)
    assert steps.probs.shape == (2, 3, 12, 12)


def test_self_attention_is_one_argument_and_a_decoder_s_one_more() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 8).double()
    layer = Weights(*torch.randn(4, 8, 8).double())
    plain = attention(x, x, layer, 2)
    assert plain.probs.shape == (2, 2, 6, 6)
    steps = attention(x, x, layer, 2, causal(6))
    assert (steps.probs.triu(1) == 0).all()
    # What comes later is not there: the first places give the same without it.
    close(attention(x[:, :4], x[:, :4], layer, 2, causal(4)).out, steps.out[:, :4])  # type: ignore[index]


def test_a_case_by_hand() -> None:
    # One head of width 4, so √d is 2: scores 0 and ln 3, shares 1/4 and 3/4.
    q = torch.tensor([[[[2.0, 0, 0, 0]]]])
    k = torch.tensor([[[[0.0, 5, 5, 5], [math.log(3), 5, 5, 5]]]])
    assert torch.allclose(probs(scores(q, k)), torch.tensor([[[[0.25, 0.75]]]]))
    steps = attend(q, k, torch.tensor([[[[4.0, 0, 0, 0], [0, 8, 0, 0]]]]))
    assert torch.allclose(steps.products, torch.tensor([[[[0.0, 2 * math.log(3)]]]]))
    assert torch.allclose(steps.taken, torch.tensor([[[[1.0, 6, 0, 0]]]]))
    assert steps.out is None


def test_every_step_follows_from_the_one_before() -> None:
    torch.manual_seed(0)
    picture, text = torch.randn(2, 6, 8).double(), torch.randn(2, 5, 12).double()
    layer = Weights(*(torch.randn(o, i).double() for o, i in [(8, 8), (8, 12), (8, 12), (8, 8)]))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    steps: Steps = attention(picture, text, layer, 2, mask)
    close(steps.query, split_heads(picture @ layer.query.T, 2))
    close(steps.products / 2, steps.scores)  # heads of width 4
    assert (steps.masked[0, ..., 3:] == float("-inf")).all()
    close(steps.probs, steps.masked.softmax(-1))
    close(steps.taken, steps.probs @ steps.value)
    close(steps.joined[:, :, :4], steps.taken[:, 0])
    close(steps.out, steps.joined @ layer.out.T)


def test_all_masked_gives_zeros() -> None:
    p = probs(torch.randn(1, 1, 3, 4), torch.zeros(1, 4, dtype=torch.bool))
    assert (p == 0).all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_a_tokenizer_s_mask_hides(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, length, 4).double() for length in (3, 5, 5))
    whole = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]], dtype=dtype)
    found = attend(q, k, v, whole)
    assert (found.probs[0, ..., 3:] == 0).all()
    # What is hidden might as well not be there.
    for row, columns in enumerate([slice(0, 3), slice(1, 5)]):
        here = slice(row, row + 1)
        alone = F.scaled_dot_product_attention(q[here], k[here, :, columns], v[here, :, columns])
        close(found.taken[here], alone)


@pytest.mark.parametrize(
    "mask",
    [torch.tensor([[1.0, 1, 0]]), torch.tensor([[[[1, 1, 0]]]])],
    ids=["floats of two axes", "whole numbers of four"],
)
def test_a_mask_that_may_mean_either_is_refused(mask: Tensor) -> None:
    given = torch.zeros(1, 1, 2, 3)
    with pytest.raises(UserError, match=r"but came torch.\w+ of [24] axes; give mask.bool\(\)"):
        probs(given, mask)
    assert probs(given, mask.bool())[0, 0, 0].tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("lift", [1e4, -1e4, 1e300])
def test_large_scores_do_not_overflow(lift: float) -> None:
    gap = math.log(3) if abs(lift) < 1e10 else 0.0
    p = probs(torch.tensor([[[[lift, lift - gap]]]], dtype=torch.float64))
    share = 0.75 if gap else 0.5
    assert torch.allclose(p, torch.tensor([[[[share, 1 - share]]]], dtype=torch.float64))
