from __future__ import annotations

import doctest
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import (
    Attention,
    AttnAddedKVProcessor,
    AttnAddedKVProcessor2_0,
    AttnProcessor,
    AttnProcessor2_0,
    IPAdapterAttnProcessor2_0,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from noting import noting
from t2i_xattn.errors import UserError
from t2i_xattn.kernel import reference
from t2i_xattn.processors import intercepting as module
from t2i_xattn.processors.intercepting import InterceptingProcessor, attention_forward

QUERIES, TOKENS, WIDTH, TEXT_WIDTH, HEADS = 8, 5, 32, 12, 4
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
FAST, SLOW = AttnProcessor2_0(), AttnProcessor()
ADDED_FAST, ADDED_SLOW = AttnAddedKVProcessor2_0(), AttnAddedKVProcessor()


@dataclass
class Case:
    """A layer and what it is called with; `stock` are diffusers' processors that implement it."""

    layer: dict[str, Any] = field(default_factory=dict)
    picture: tuple[int, ...] = (2, QUERIES, WIDTH)
    text: bool = True
    temb: bool = False
    stock: tuple[Any, ...] = (FAST, SLOW)


SELF = {"cross_attention_dim": None}
IMAGE = (2, WIDTH, 2, 4)  # not square
CASES = {
    "cross": Case(),
    "self": Case(SELF, text=False),
    "cross, 4-D": Case(picture=IMAGE),
    "self, 4-D": Case(SELF, IMAGE, text=False),
    "group norm, cross": Case({"norm_num_groups": 4}),
    "group norm, self": Case(SELF | {"norm_num_groups": 4}, text=False),
    "spatial norm, cross": Case({"spatial_norm_dim": 6}, IMAGE, temb=True),
    "spatial norm, self": Case(
        SELF | {"spatial_norm_dim": 6, "norm_num_groups": 4}, IMAGE, text=False, temb=True
    ),
    "residual": Case({"residual_connection": True}),
    "residual, 4-D": Case({"residual_connection": True, "spatial_norm_dim": 6}, IMAGE, temb=True),
    "rescale": Case({"rescale_output_factor": 2.5}),
    "residual and rescale": Case(
        SELF | {"residual_connection": True, "rescale_output_factor": 2.5}, text=False
    ),
    "bias": Case({"bias": True, "out_bias": True}),
    "no bias": Case({"bias": False, "out_bias": False}),
    "upcast": Case({"upcast_attention": True, "upcast_softmax": True}),
    "layer norm of the text": Case({"cross_attention_norm": "layer_norm"}),
    "group norm of the text": Case(
        {"cross_attention_norm": "group_norm", "cross_attention_norm_num_groups": 4}
    ),
    "norm of the text, self": Case(SELF | {"cross_attention_norm": "layer_norm"}, text=False),
    # AttnProcessor leaves the norms of query and key out.
    "layer norm of q and k": Case({"qk_norm": "layer_norm"}, stock=(FAST,)),
    "fp32 layer norm of q and k": Case({"qk_norm": "fp32_layer_norm"}, stock=(FAST,)),
    "rms norm of q and k": Case({"qk_norm": "rms_norm"}, stock=(FAST,)),
    "l2 norm of q and k": Case({"qk_norm": "l2"}, stock=(FAST,)),
    # AttnProcessor2_0 scales all the same.
    "unscaled": Case({"scale_qk": False}, stock=(SLOW,)),
}
# As diffusers' UNets build them: with the channels of the picture as cross_attention_dim.
ADDED = {"cross_attention_dim": WIDTH, "norm_num_groups": 4, "added_kv_proj_dim": TEXT_WIDTH}
ADDED |= {"bias": True, "upcast_softmax": True}
ADDED_CASES = {
    "added": Case(ADDED, IMAGE),
    "added, 3-D": Case(ADDED, (2, WIDTH, QUERIES)),  # channels first here
    "only cross": Case(ADDED | {"only_cross_attention": True}, IMAGE),
    "no text": Case(ADDED | {"added_kv_proj_dim": WIDTH}, IMAGE, text=False),
    "norm of the text": Case(
        ADDED | {"cross_attention_norm": "group_norm", "cross_attention_norm_num_groups": 4}, IMAGE
    ),
    # Neither of diffusers' two looks at these.
    "ignored": Case(
        ADDED | {"qk_norm": "layer_norm", "rescale_output_factor": 2.5, "spatial_norm_dim": 6},
        IMAGE,
    ),
}
for each in ADDED_CASES.values():
    each.stock = (ADDED_FAST, ADDED_SLOW)
ALL_CASES = CASES | ADDED_CASES


def make_layer(dtype: torch.dtype = torch.float32, **changes: Any) -> Attention:
    torch.manual_seed(0)
    config = {"query_dim": WIDTH, "cross_attention_dim": TEXT_WIDTH, "heads": HEADS, "dim_head": 8}
    layer = Attention(**(config | changes)).eval()
    with torch.no_grad():
        for parameter in layer.parameters():  # no norm is to be the identity
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return layer.to(dtype)


def make_call(case: Case, dtype: torch.dtype = torch.float32) -> tuple[Attention, dict[str, Any]]:
    layer = make_layer(dtype, **case.layer)
    call: dict[str, Any] = {"hidden_states": torch.randn(case.picture).to(dtype)}
    if case.text:
        call["encoder_hidden_states"] = torch.randn(2, TOKENS, TEXT_WIDTH).to(dtype)
    if case.temb:
        call["temb"] = torch.randn(2, 6, 1, 2).to(dtype)
    return layer, call


def make_mask(shape: tuple[int, ...], hidden: float = -1e4) -> Tensor:
    """Shifts scores, and hides the token in column 1 of every other row."""
    torch.manual_seed(1)
    mask = torch.randn(shape)
    mask[1::2, ..., 1] = hidden
    return mask


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def assert_parity(layer: Attention, call: dict[str, Any], stock: tuple[Any, ...]) -> None:
    """The fused path to the byte, the other within rounding."""
    seen: list[Any] = []

    def identity(probs: Tensor) -> Tensor:
        seen.append(probs)
        return probs

    for processor in stock:
        expected = processor(layer, **call)
        if processor in (FAST, ADDED_FAST):
            assert torch.equal(attention_forward(layer, **call), expected)
        else:
            close(attention_forward(layer, **call), expected)
        close(attention_forward(layer, **call, intercept=identity), expected)
    assert len(seen) == len(stock)
    assert all(probs.dtype == torch.float32 for probs in seen)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ALL_CASES)
@torch.no_grad()
def test_equals_diffusers_in_every_branch(name: str, dtype: torch.dtype) -> None:
    case = ALL_CASES[name]
    assert_parity(*make_call(case, dtype), case.stock)


@pytest.mark.parametrize("shape", [(2, 1), (2 * HEADS, 1), (2, QUERIES), (2 * HEADS, QUERIES)])
@pytest.mark.parametrize("name", ["cross", "self", "cross, 4-D"])
@torch.no_grad()
def test_equals_diffusers_with_a_mask(name: str, shape: tuple[int, int]) -> None:
    case = CASES[name]
    layer, call = make_call(case)
    plain = attention_forward(layer, **call)
    call["attention_mask"] = make_mask((*shape, TOKENS if case.text else QUERIES))
    assert_parity(layer, call, case.stock)
    assert not torch.allclose(attention_forward(layer, **call), plain, atol=1e-2)


@torch.no_grad()
def test_masks_that_only_the_fused_processor_takes() -> None:
    layer, call = make_call(CASES["cross"])
    call["attention_mask"] = make_mask((2, TOKENS))
    assert_parity(layer, call, (FAST,))
    call["attention_mask"] = make_mask((2, 1, TOKENS)) > 0
    assert_parity(layer, call, (FAST,))


@torch.no_grad()
def test_dropout_is_that_of_diffusers() -> None:
    layer, call = make_call(Case({"dropout": 0.5}))
    layer.train()
    for intercept in (None, lambda probs: probs):
        torch.manual_seed(3)
        expected = FAST(layer, **call)
        torch.manual_seed(3)
        close(attention_forward(layer, **call, intercept=intercept), expected)
    assert (expected == 0).any()


@torch.no_grad()
def test_a_mask_in_bf16() -> None:
    layer, call = make_call(CASES["cross"], torch.bfloat16)
    call["attention_mask"] = make_mask((2, 1, TOKENS)).bfloat16()
    assert_parity(layer, call, (FAST, SLOW))


@torch.no_grad()
def test_a_mask_of_added_keys_is_the_texts() -> None:
    layer, call = make_call(ADDED_CASES["added"])
    plain = attention_forward(layer, **call)
    call["attention_mask"] = make_mask((2, 1, TOKENS))
    assert_parity(layer, call, (ADDED_FAST, ADDED_SLOW))
    assert not torch.allclose(attention_forward(layer, **call), plain, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
@pytest.mark.parametrize("only_cross", [False, True])
@pytest.mark.parametrize("tokens", [TOKENS, QUERIES])
@torch.no_grad()
def test_a_hidden_token_of_added_keys_is_as_if_not_there(
    tokens: int, only_cross: bool, dtype: torch.dtype
) -> None:
    """For two of these four, diffusers fills the mask up to a wrong length and torch raises."""
    options: dict[str, Any] = {**ADDED, "only_cross_attention": only_cross}
    layer = make_layer(**options)
    picture, text = torch.randn(IMAGE), torch.randn(2, tokens, TEXT_WIDTH)
    expected = ADDED_FAST(layer, picture, text[:, :-1])
    mask = torch.zeros(2, 1, tokens)
    mask[..., -1] = float("-inf")
    mask = mask == 0 if dtype == torch.bool else mask
    close(attention_forward(layer, picture, text, mask), expected)
    close(attention_forward(layer, picture, text, mask, intercept=lambda probs: probs), expected)


@torch.no_grad()
def test_a_doubled_column_is_what_fp64_says() -> None:
    layer, call = make_call(Case({"bias": False}))
    picture, text = call["hidden_states"], call["encoder_hidden_states"]
    weights = reference.Weights.of(layer)
    plain = reference.attention(picture, text, weights, HEADS)
    probs = plain.probs.clone()
    probs[..., 3] *= 2
    probs /= probs.sum(-1, keepdim=True)
    taken = reference.merge_heads(probs @ plain.value)
    expected = reference.linear(taken, weights.out, weights.out_bias)

    def double(probs: Tensor) -> Tensor:
        probs[..., 3] *= 2  # in place: no gradients here
        return probs / probs.sum(-1, keepdim=True)

    out = attention_forward(layer, picture, text, intercept=double)
    close(out, expected.float())
    assert plain.out is not None
    assert not torch.allclose(out, plain.out.float(), atol=1e-2)


def test_gradients_are_those_of_diffusers() -> None:
    layer, call = make_call(CASES["residual and rescale"])
    weight = torch.randn(call["hidden_states"].shape)
    (FAST(layer, **call) * weight).sum().backward()
    expected = {name: each.grad.clone() for name, each in layer.named_parameters()}
    layer.zero_grad()
    gain = torch.ones(QUERIES, requires_grad=True)
    (
        attention_forward(layer, **call, intercept=lambda probs: probs * gain) * weight
    ).sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-4, rtol=1e-4)
    # A gain of a column is linear in the output, so a difference is its gradient.
    with torch.no_grad():
        moved = gain.clone()
        moved[3] += 1
        change = attention_forward(layer, **call, intercept=lambda probs: probs * moved)
        change = ((change - attention_forward(layer, **call)) * weight).sum()
    assert gain.grad is not None
    torch.testing.assert_close(gain.grad[3], change, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("hidden", [True, float("-inf")])
@torch.no_grad()
def test_a_query_whose_tokens_are_all_masked_takes_nothing(hidden: bool | float) -> None:
    layer, call = make_call(CASES["cross"])
    mask = torch.zeros(2, 1, TOKENS)
    mask[1] = float("-inf")
    call["attention_mask"] = mask == 0 if hidden is True else mask
    seen: list[Any] = []
    out = attention_forward(layer, **call, intercept=lambda probs: noting(seen, probs, probs))
    assert out.isfinite().all()
    assert (seen[0][1] == 0).all()
    assert torch.allclose(seen[0][0].sum(-1), torch.ones(HEADS, QUERIES))
    close(out[1], layer.to_out[0].bias.expand(QUERIES, WIDTH))
    close(out[0], FAST(layer, **call)[0])


def with_one(value: float) -> Callable[[Tensor], Tensor]:
    def change(probs: Tensor) -> Tensor:
        probs = probs.clone()
        probs[0, 0, 0, 0] = value
        return probs

    return change


@pytest.mark.parametrize(
    ("intercept", "message"),
    [
        (lambda probs: probs.mean(1), r"expected .*\(2, 4, 8, 5\).* but came \(2, 8, 5\)"),
        (lambda probs: probs[..., :4], r"expected .*\(2, 4, 8, 5\).* but came \(2, 4, 8, 4\)"),
        (lambda probs: None, r"expected .*\(2, 4, 8, 5\).* but came NoneType"),
        (with_one(float("nan")), "expected .*finite.* but came 1 NaN and 0 infinite of 320"),
        (with_one(float("inf")), "expected .*finite.* but came 0 NaN and 1 infinite of 320"),
        (lambda probs: probs / 0, "expected .*finite.* but came 0 NaN and 320 infinite of 320"),
    ],
)
@torch.no_grad()
def test_what_an_intercept_may_not_return(intercept: Callable[[Tensor], Any], message: str) -> None:
    layer, call = make_call(CASES["cross"])
    with pytest.raises(UserError, match=message):
        attention_forward(layer, **call, intercept=intercept)
    with pytest.raises(UserError, match=message):
        InterceptingProcessor(intercept)(layer, **call)


@torch.no_grad()
def test_large_finite_values_pass_though_their_sum_overflows() -> None:
    layer, call = make_call(CASES["cross"])
    huge = torch.finfo(torch.float32).max / 2
    seen: list[Any] = []
    attention_forward(
        layer, **call, intercept=lambda probs: noting(seen, 1, torch.full_like(probs, huge))
    )
    assert seen == [1]


def test_layers_that_are_not_for_it() -> None:
    joint = make_layer(cross_attention_dim=None, added_kv_proj_dim=12, context_pre_only=False)
    with pytest.raises(UserError, match="a transformer with a build of its own"):
        attention_forward(joint, torch.randn(2, QUERIES, WIDTH), torch.randn(2, TOKENS, 12))
    layer = make_layer(processor=IPAdapterAttnProcessor2_0(WIDTH, TEXT_WIDTH, num_tokens=(4,)))
    text: Any = (torch.randn(2, TOKENS, TEXT_WIDTH), [torch.randn(2, 1, 4, TEXT_WIDTH)])
    with pytest.raises(UserError, match="IP-Adapter"):
        attention_forward(layer, torch.randn(2, QUERIES, WIDTH), text)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 4),
    width=st.integers(1, 9),
    queries=st.integers(1, 9),
    tokens=st.integers(1, 7),
    large=st.floats(0, 100),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    masked=st.booleans(),
)
@torch.no_grad()
def test_probs_are_shares(
    batch: int,
    heads: int,
    width: int,
    queries: int,
    tokens: int,
    large: float,
    dtype: torch.dtype,
    masked: bool,
) -> None:
    layer = make_layer(dtype, heads=heads, dim_head=width)
    picture, text = torch.randn(batch, queries, WIDTH), torch.randn(batch, tokens, TEXT_WIDTH)
    mask = None
    if masked:  # all but the first token, of every other image
        mask = torch.zeros(batch, 1, tokens, dtype=dtype)
        mask[::2, :, 1:] = float("-inf")
    seen: list[Any] = []
    InterceptingProcessor(lambda probs: noting(seen, probs, probs))(
        layer, (large * picture).to(dtype), text.to(dtype), mask
    )
    (probs,) = seen
    assert probs.shape == (batch, heads, queries, tokens)
    assert probs.dtype == torch.float32
    assert (probs >= 0).all()
    torch.testing.assert_close(probs.sum(-1), torch.ones(batch, heads, queries))
    if masked:
        assert (probs[::2, ..., 1:] == 0).all()


class Loud(InterceptingProcessor):
    """Has an `__init__` of its own that does not call its parent's."""

    def __init__(self, gain: float) -> None:
        self.gain = gain
        self.layers: list[Any] = []

    def intercept(self, probs: Tensor, attn: Any) -> Tensor:
        self.layers.append(attn)
        return probs * self.gain


@torch.no_grad()
def test_three_ways_to_intercept_are_the_same() -> None:
    layer, call = make_call(CASES["group norm, cross"])
    expected = attention_forward(layer, **call, intercept=lambda probs: probs * 3)
    loud = Loud(3)
    assert torch.equal(loud(layer, **call), expected)
    assert loud.layers == [layer]
    assert torch.equal(InterceptingProcessor(lambda probs: probs * 3)(layer, **call), expected)
    assigned = InterceptingProcessor()
    assigned.intercept = lambda probs, attn: probs * 3  # type: ignore[method-assign]
    assert torch.equal(assigned(layer, **call), expected)


@torch.no_grad()
def test_only_an_interception_leaves_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, call = make_call(CASES["cross"])

    class Formed(Exception):
        pass

    def formed(*_: Any) -> None:
        raise Formed

    monkeypatch.setattr(module, "attention_probs", formed)
    assert torch.equal(InterceptingProcessor()(layer, **call), FAST(layer, **call))
    with pytest.raises(Formed):
        InterceptingProcessor(lambda probs: probs)(layer, **call)


@pytest.mark.parametrize("name", ["cross", "spatial norm, self", "added"])
@torch.no_grad()
def test_one_graph_when_compiled(name: str) -> None:
    torch.compiler.reset()  # the layers of the other cases count as recompilations
    layer, call = make_call(ALL_CASES[name])
    for processor in (InterceptingProcessor(), InterceptingProcessor(lambda probs: probs * 3)):
        layer.set_processor(processor)
        expected = layer(**call)
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        close(compiled(**call), expected)
    nan = InterceptingProcessor(lambda probs: probs * float("nan"))
    layer.set_processor(nan)
    assert torch.compile(layer, fullgraph=True, backend="eager")(**call).isnan().any()


@torch.no_grad()
def test_compiled_too_only_an_interception_forms_the_probs() -> None:
    kernels: list[Any] = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        fused = torch.nn.functional.scaled_dot_product_attention
        nodes = list(graph.graph.nodes)
        softmax = sum(node.target == "softmax" for node in nodes)
        kernels.append((sum(node.target is fused for node in nodes), softmax))
        return graph

    layer, call = make_call(CASES["cross"])
    for processor in (InterceptingProcessor(), InterceptingProcessor(lambda probs: probs)):
        torch.compiler.reset()
        layer.set_processor(processor)
        torch.compile(layer, fullgraph=True, backend=count)(**call)
    assert kernels == [(1, 0), (1, 1)]


class WithWeights(InterceptingProcessor, nn.Module):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.gain = nn.Parameter(torch.tensor(3.0))

    def intercept(self, probs: Tensor, attn: Any) -> Tensor:
        return probs * self.gain


def test_a_processor_can_be_a_module() -> None:
    layer, call = make_call(CASES["cross"])
    layer.set_processor(WithWeights())
    assert "processor.gain" in layer.state_dict()
    out = layer(**call)
    close(out, attention_forward(layer, **call, intercept=lambda probs: probs * 3))
    out.sum().backward()
    assert layer.processor.gain.grad.abs() > 0


def test_a_pipeline_draws_the_same_bytes(pipe: Any, draw: Callable[..., np.ndarray]) -> None:
    expected = draw(pipe)
    pipe.unet.set_attn_processor(InterceptingProcessor())
    assert np.array_equal(draw(pipe), expected)
    pipe.unet.set_attn_processor(InterceptingProcessor(lambda probs: probs))
    assert np.array_equal(draw(pipe), expected)


def test_the_example_runs_and_changes_the_picture(
    pipe: Any, draw: Callable[..., np.ndarray]
) -> None:
    before = draw(pipe)
    names = {"pipe": partial(pipe, num_inference_steps=1), **vars(module)}
    names["pipe"].unet = pipe.unet
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(InterceptingProcessor, "example", globs=names)
    assert doctest.DocTestRunner().run(example) == doctest.TestResults(0, 4)
    kinds = {name: type(each).__name__ for name, each in pipe.unet.attn_processors.items()}
    assert {kind for name, kind in kinds.items() if "attn2" in name} == {"Louder"}
    assert {kind for name, kind in kinds.items() if "attn1" in name} == {"AttnProcessor2_0"}
    assert not np.allclose(draw(pipe), before, atol=1e-4)


@torch.no_grad()
def test_a_unet_with_added_keys_predicts_the_same() -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
    ).eval()
    latent, text = torch.randn(2, 4, 8, 8), torch.randn(2, TOKENS, TEXT_WIDTH)
    visible = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    call = {"encoder_hidden_states": text, "encoder_attention_mask": visible}
    expected = unet(latent, 7, **call).sample
    unet.set_attn_processor(InterceptingProcessor())
    assert torch.equal(unet(latent, 7, **call).sample, expected)
    shapes: set[tuple[int, ...]] = set()
    unet.set_attn_processor(
        InterceptingProcessor(lambda probs: noting(shapes, tuple(probs.shape[2:]), probs))
    )
    torch.testing.assert_close(unet(latent, 7, **call).sample, expected, atol=1e-4, rtol=1e-4)
    assert shapes == {(16, TOKENS + 16)}
