"""The kernel of an attention layer, seen and changed with whatever processor stands there."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers.models import attention_processor
from diffusers.models.attention_processor import (
    Attention,
    AttnAddedKVProcessor,
    AttnAddedKVProcessor2_0,
    AttnProcessor,
    AttnProcessor2_0,
    CustomDiffusionAttnProcessor,
    CustomDiffusionAttnProcessor2_0,
    IPAdapterAttnProcessor,
    IPAdapterAttnProcessor2_0,
    IPAdapterXFormersAttnProcessor,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import _get_current_function_mode_stack

from t2i_xattn.kernel import reference
from t2i_xattn.kernel.attention import attention_probs, mixed_values, queries_and_keys
from t2i_xattn.kernel.call import KernelCall, as_index, plus_at
from t2i_xattn.kernel.cover import Cover
from t2i_xattn.kernel.module_calls import ModuleCalls, uncompiled
from t2i_xattn.kernel.tap import SiteTap

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
    "upcast": {"upcast_attention": True, "upcast_softmax": True},
    "spatial norm": {"spatial_norm_dim": 4, "norm_num_groups": 4},
}

PROCESSORS: dict[str, Callable[[], Any]] = {
    "fused": AttnProcessor2_0,
    "unfused": AttnProcessor,
    "in slices": lambda: SlicedAttnProcessor(3),
    "in slices of one": lambda: SlicedAttnProcessor(1),
    "xFormers": XFormersAttnProcessor,
}

BATCH, QUERIES, TOKENS, HEADS, WIDTH = 2, 9, 5, 4, 8


def make_layer(**changes: Any) -> Attention:
    torch.manual_seed(0)
    config = {"query_dim": 32, "cross_attention_dim": 12, "heads": HEADS, "dim_head": WIDTH}
    return Attention(**(config | changes)).eval()


def inputs(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randn(BATCH, QUERIES, 32, generator=generator)
    return picture, torch.randn(BATCH, TOKENS, 12, generator=generator)


@pytest.fixture(autouse=True)
def _xformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its one operator, written out: xFormers itself needs a GPU."""

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_bias: Tensor | None = None,
        op: Any = None,
        scale: float | None = None,
    ) -> Tensor:
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        scores = scores if attn_bias is None else scores + attn_bias
        return scores.softmax(-1) @ value

    ops = SimpleNamespace(memory_efficient_attention=attention)
    monkeypatch.setattr(attention_processor, "xformers", SimpleNamespace(ops=ops))


@contextmanager
def tapped(
    layer: Any, receive: Callable[[KernelCall], Tensor] | None = None, wanted: bool = True
) -> Iterator[list[KernelCall]]:
    """The kernel calls of a layer."""
    calls: list[KernelCall] = []

    def keep(call: KernelCall) -> Tensor:
        calls.append(call)
        return call.output if receive is None else receive(call)

    tap = SiteTap(layer, lambda: wanted, keep)
    for cover in tap.covers:
        cover.put()
    try:
        yield calls
    finally:
        for cover in tap.covers:
            cover.take_off()
    assert not [key for key in vars(layer) if "t2i_xattn" in key or key == "forward"]


def in_fp64(call: KernelCall) -> tuple[Tensor, Tensor]:
    """Probs and output of a kernel call, by the softmax written out."""
    scores = call.query.double() @ call.key.double().mT * call.scale
    if call.mask is not None:
        scores = scores + call.mask.double()
    probs = scores.softmax(-1)
    return probs, probs @ call.value.double()


class TestProbs:
    """What is formed beside a kernel, in fp32."""

    @pytest.mark.parametrize("name", LAYERS)
    @torch.no_grad()
    def test_those_of_diffusers_in_every_branch(self, name: str) -> None:
        """diffusers' own, with its probs taken as the output: the values are the identity
        matrix."""
        layer = make_layer(**LAYERS[name])
        picture, text = inputs()
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

    @torch.no_grad()
    def test_self_attention(self) -> None:
        layer = make_layer(cross_attention_dim=None)
        query, key = queries_and_keys(layer, torch.randn(2, 32, 3, 3))
        assert query.shape == key.shape == (2, 4, 9, 8)

    def test_softmax_is_in_fp32(self) -> None:
        torch.manual_seed(0)
        query, key = torch.randn(2, 1, 2, 9, 8).mul(3), torch.randn(2, 1, 2, 5, 8).mul(3)
        q, k = query[0].bfloat16(), key[0].bfloat16()
        expected = reference.probs(reference.scores(q.double(), k.double()))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            probs = attention_probs(q, k, 8**-0.5)
        assert probs.dtype == torch.float32
        assert torch.allclose(probs.double(), expected, atol=1e-6)

    @pytest.mark.parametrize("additive", [False, True])
    def test_masks(self, additive: bool) -> None:
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

    def test_gradients_of_a_query_that_may_look_nowhere(self) -> None:
        query = torch.randn(2, 1, 3, 8, requires_grad=True)
        mask = torch.zeros(2, 1, 1, 4)
        mask[1] = float("-inf")
        attention_probs(query, torch.randn(2, 1, 4, 8), 1.0, mask)[..., 0].sum().backward()
        assert query.grad is not None
        assert query.grad.isfinite().all()
        assert (query.grad[1] == 0).all()


class _Constant(nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, _: Tensor) -> Tensor:
        return self.value


class TestTap:
    """The very tensors that the kernel gets, and the output that stands in its place."""

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            (name, kind)
            for name in LAYERS
            for kind in PROCESSORS
            if not (name == "spatial norm" and "slices" in kind)  # they leave it out
        ],
    )
    @torch.no_grad()
    def test_the_same_bytes_and_the_call_that_made_them(self, name: str, kind: str) -> None:
        layer = make_layer(**LAYERS[name])
        layer.processor = PROCESSORS[kind]()
        picture, text = inputs()
        more: dict[str, Any] = {}
        if "spatial_norm_dim" in LAYERS[name]:
            picture, more["temb"] = torch.randn(2, 32, 3, 3), torch.randn(2, 4, 3, 3)
        plain = layer(picture, text, **more)
        with tapped(layer) as calls:
            assert torch.equal(layer(picture, text, **more), plain)
        assert torch.equal(layer(picture, text, **more), plain)
        (call,) = calls
        assert call.query.shape == (BATCH, HEADS, QUERIES, WIDTH)
        assert call.key.shape == call.value.shape == (BATCH, HEADS, TOKENS, WIDTH)
        probs, output = in_fp64(call)
        assert torch.allclose(call.probs((0, 1)).double(), probs, atol=1e-6)
        assert torch.allclose(call.output.double(), output, atol=1e-5)
        # What was seen is what the layer went on with.
        mixed = call.output.transpose(1, 2).flatten(2)
        expected = layer.to_out[0](mixed)
        if layer.residual_connection:
            expected = expected + picture
        expected = expected / layer.rescale_output_factor
        found = plain.flatten(2).transpose(1, 2) if plain.ndim == 4 else plain
        assert torch.allclose(found, expected, atol=1e-6)

    @torch.no_grad()
    def test_a_layer_equals_the_one_written_out(self) -> None:
        layer = make_layer()
        picture, text = inputs()
        steps = reference.attention(picture, text, reference.Weights.of(layer), heads=4)
        assert steps.out is not None
        for make in PROCESSORS.values():
            layer.processor = make()
            with tapped(layer) as calls:
                assert torch.allclose(layer(picture, text).double(), steps.out, atol=1e-5)
            assert torch.allclose(calls[0].probs((0, 1)).double(), steps.probs, atol=1e-6)

    @pytest.mark.parametrize("kind", PROCESSORS)
    @torch.no_grad()
    def test_the_mask_of_diffusers(self, kind: str) -> None:
        layer = make_layer()
        layer.processor = PROCESSORS[kind]()
        picture, text = inputs()
        keep = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0.0]])
        mask = (1 - keep[:, None]) * -1e4
        plain = layer(picture, text, attention_mask=mask)
        with tapped(layer) as calls:
            assert torch.equal(layer(picture, text, attention_mask=mask), plain)
        (call,) = calls
        for rows in ((0, 1), (1,)):
            probs = call.probs(rows)
            assert torch.allclose(probs.sum(-1), torch.ones(()), atol=1e-6)
            assert (probs[-1][..., [2, 4]] == 0).all()
            assert (probs[-1][..., [0, 1, 3]] > 0).all()
        assert (call.probs((0,)) > 0).all()
        assert torch.allclose(call.output.double(), in_fp64(call)[1], atol=1e-5)

    @pytest.mark.parametrize("kind", PROCESSORS)
    @torch.no_grad()
    def test_another_output(self, kind: str) -> None:
        """Of one row; the other keeps its bytes."""
        layer = make_layer()
        layer.processor = PROCESSORS[kind]()
        picture, text = inputs()
        plain = layer(picture, text)

        def change(call: KernelCall) -> Tensor:
            probs = call.probs((1,))
            difference = mixed_values(probs.roll(1, -1) - probs, call.value[1:2])
            return plus_at(call.output, (1,), difference)

        with tapped(layer, change) as calls:
            changed = layer(picture, text)
        probs, _ = in_fp64(calls[0])
        taken = probs.roll(1, -1) @ calls[0].value.double()
        expected = layer.to_out[0](taken.float().transpose(1, 2).flatten(2))
        assert torch.equal(changed[0], plain[0])
        assert torch.allclose(changed[1], expected[1], atol=1e-5)
        assert not torch.allclose(changed[1], plain[1], atol=1e-2)

    @pytest.mark.parametrize("kind", PROCESSORS)
    @torch.no_grad()
    def test_calls_that_are_not_wanted_are_not_seen(self, kind: str) -> None:
        layer = make_layer()
        layer.processor = PROCESSORS[kind]()
        picture, text = inputs()
        plain = layer(picture, text)
        with tapped(layer, lambda call: call.output * 2, wanted=False) as calls:
            assert torch.equal(layer(picture, text), plain)
        assert not calls

    @pytest.mark.parametrize("kind", PROCESSORS)
    def test_gradients_are_left_alone(self, kind: str) -> None:
        layer = make_layer()
        layer.processor = PROCESSORS[kind]()
        picture, text = inputs()

        def gradients() -> list[Tensor]:
            layer.zero_grad()
            layer(picture, text).square().sum().backward()
            found = [each.grad for each in layer.parameters() if each.grad is not None]
            return [each.clone() for each in found]

        plain = gradients()
        with tapped(layer):
            found = gradients()
        assert len(plain) == 5
        for one, other in zip(found, plain, strict=True):
            assert torch.equal(one, other)

    @torch.no_grad()
    def test_other_projections_are_seen(self) -> None:
        """As of a LoRA: nothing is projected twice."""

        class Shifted(nn.Module):
            def __init__(self, base: nn.Module) -> None:
                super().__init__()
                self.base, self.calls = base, 0

            def forward(self, states: Tensor) -> Tensor:
                self.calls += 1
                found: Tensor = self.base(states) + 1
                return found

        layer = make_layer()
        picture, text = inputs()
        expected = queries_and_keys(layer, picture, text)
        layer.to_k = Shifted(layer.to_k)
        with tapped(layer) as calls:
            layer(picture, text)
        assert torch.allclose(calls[0].query, expected[0])
        assert torch.allclose(calls[0].key, expected[1] + 1)
        assert layer.to_k.calls == 1

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @torch.no_grad()
    def test_half_precision(self, dtype: torch.dtype) -> None:
        layer = make_layer().to(dtype)
        picture, text = (each.to(dtype) for each in inputs())
        for make in PROCESSORS.values():
            layer.processor = make()
            plain = layer(picture, text)
            with tapped(layer) as calls:
                assert torch.equal(layer(picture, text), plain)
            assert calls[0].query.dtype == dtype
            probs = calls[0].probs((0, 1))
            assert probs.dtype == torch.float32
            assert torch.allclose(probs.double(), in_fp64(calls[0])[0], atol=1e-6)

    @torch.no_grad()
    def test_arguments_of_the_kernel_by_name_and_place(self) -> None:
        """A processor of one's own that calls it in its own way."""
        mask = torch.tensor([[True, True, False, True, True]])

        def by_name(attn: Any, states: Tensor, text: Tensor) -> Tensor:
            q, k, v = parts(attn, states, text)
            return scaled_dot_product_attention(value=v, key=k, query=q, attn_mask=mask, scale=0.7)

        def by_place(attn: Any, states: Tensor, text: Tensor) -> Tensor:
            q, k, v = parts(attn, states, text)
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

        def parts(attn: Any, states: Tensor, text: Tensor) -> list[Tensor]:
            made = attn.to_q(states), attn.to_k(text), attn.to_v(text)
            return [reference.split_heads(each, HEADS) for each in made]

        layer = make_layer()
        picture, text = inputs()
        for processor, scale, given in ((by_name, 0.7, mask), (by_place, WIDTH**-0.5, None)):

            def run(
                attn: Any,
                states: Tensor,
                encoder_hidden_states: Any = None,
                attention_mask: Any = None,
                processor: Any = processor,
            ) -> Tensor:
                found: Tensor = processor(attn, states, encoder_hidden_states)
                return found

            layer.processor = run
            with tapped(layer) as calls:
                output = layer(picture, text)
            (call,) = calls
            assert call.scale == scale
            assert call.mask is given
            assert call.output is output
            probs = call.probs((0, 1))
            assert bool((probs[..., 2] == 0).all()) == (given is not None)
            assert torch.allclose(probs @ call.value, output, atol=1e-6)

    @pytest.mark.parametrize("compiled", [False, True])
    @pytest.mark.parametrize("options", [{"is_causal": True}, {"enable_gqa": True}])
    @torch.no_grad()
    def test_what_the_kernel_does_by_itself(self, options: Any, compiled: bool) -> None:
        """A mask of its own, and keys that several heads share."""
        few = 2 if "enable_gqa" in options else HEADS

        class Own:
            def __call__(
                self,
                attn: Any,
                states: Tensor,
                encoder_hidden_states: Any = None,
                attention_mask: Any = None,
            ) -> Tensor:
                text = encoder_hidden_states
                q = reference.split_heads(attn.to_q(states), HEADS)
                k, v = (
                    reference.split_heads(each(text), HEADS)[:, :few]
                    for each in (attn.to_k, attn.to_v)
                )
                return scaled_dot_product_attention(q, k, v, **options)

        layer = make_layer(processor=Own())
        torch._dynamo.reset()
        run: Any = torch.compile(layer, backend="eager", fullgraph=True) if compiled else layer
        plain = run(*inputs())
        with tapped(layer) as calls:
            assert torch.equal(run(*inputs()), plain)
        (call,) = calls
        assert call.key.shape == call.value.shape == (BATCH, HEADS, TOKENS, WIDTH)
        found = call.probs((0, 1)) @ call.value
        assert torch.allclose(found, plain, atol=1e-5)

    @torch.no_grad()
    def test_after_an_exception_no_mode_is_left(self) -> None:
        layer = make_layer()

        def fail(call: KernelCall) -> Tensor:
            raise RuntimeError("mine")

        for make in PROCESSORS.values():
            layer.processor = make()
            with pytest.raises(RuntimeError, match="mine"), tapped(layer, fail):
                layer(*inputs())
            assert not _get_current_function_mode_stack()
            with tapped(layer) as calls:
                layer(*inputs(2))
            assert len(calls) == 1


IP_ADAPTERS = [
    IPAdapterAttnProcessor2_0,
    IPAdapterAttnProcessor,
    IPAdapterXFormersAttnProcessor,
]


def ip_adapted(make: Any, adapters: int = 1) -> Attention:
    layer = make_layer(processor=make(32, 12, num_tokens=(4,) * adapters))
    torch.manual_seed(3)
    for parameter in layer.processor.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


class TestAdapters:
    @pytest.mark.parametrize("make", IP_ADAPTERS)
    @pytest.mark.parametrize("masked", [False, True])
    @torch.no_grad()
    def test_the_text_then_the_pictures(self, make: Any, masked: bool) -> None:
        """Each with a softmax of its own: together one, under masks one for each picture."""
        layer = ip_adapted(make)
        picture, text = inputs()
        images = torch.randn(2, 2, 4, 12)
        options = {"ip_adapter_masks": [torch.ones(1, 2, 3, 3)]} if masked else {}
        plain = layer(picture, (text, [images]), **options)
        assert not torch.equal(plain, layer(picture, (text, [2 * images]), **options))
        with tapped(layer) as calls:
            assert torch.equal(layer(picture, (text, [images]), **options), plain)
        query, key = queries_and_keys(layer, picture, text)
        projected = layer.processor.to_k_ip[0]
        pictures = images.unbind(1) if masked else [images.flatten(1, 2)]
        keys = [key, *(reference.split_heads(projected(each), HEADS) for each in pictures)]
        assert len(calls) == len(keys)
        for call, expected in zip(calls, keys, strict=True):
            assert torch.allclose(call.query, query, atol=1e-6)
            assert torch.allclose(call.key, expected, atol=1e-6)
            shares = reference.probs(reference.scores(query, expected))
            assert torch.allclose(call.probs((0, 1)), shares, atol=1e-6)

    @pytest.mark.parametrize("make", IP_ADAPTERS)
    @torch.no_grad()
    def test_of_the_text_alone_is_edited(self, make: Any) -> None:
        layer = ip_adapted(make)
        picture, text = inputs()
        images = torch.randn(2, 1, 4, 12)
        given = picture, (text, [images])
        plain = layer(*given)
        bias = layer.to_out[0].bias

        def doubled(wanted: int) -> Tensor:
            number = iter(range(9))

            def change(call: KernelCall) -> Tensor:
                return call.output * 2 if next(number) == wanted else call.output

            with tapped(layer, change):
                found: Tensor = layer(*given)
            return found

        of_text, of_picture = (doubled(wanted) - plain for wanted in (0, 1))
        assert torch.allclose(of_text + of_picture, plain - bias, atol=1e-5)
        assert of_text.abs().max() > 1e-2
        assert of_picture.abs().max() > 1e-2

    @torch.no_grad()
    def test_a_module_stays_reachable_and_keeps_its_names(self) -> None:
        layer = ip_adapted(IPAdapterAttnProcessor2_0)
        inner, keys, names = layer.processor, list(layer.state_dict()), list(layer._modules)
        assert "processor.to_k_ip.0.weight" in keys
        with tapped(layer) as calls:
            assert layer.processor is inner
            assert list(layer.state_dict()) == keys
            assert list(layer._modules) == names
            layer.to(torch.float64)
            assert inner.to_k_ip[0].weight.dtype == torch.float64
            picture, text = (each.double() for each in inputs())
            layer(picture, (text, [torch.randn(2, 1, 4, 12).double()]))
        assert len(calls) == 2
        assert calls[0].query.dtype == torch.float64

    @pytest.mark.parametrize(
        "make", [CustomDiffusionAttnProcessor, CustomDiffusionAttnProcessor2_0]
    )
    @torch.no_grad()
    def test_keys_that_a_processor_forms_itself(self, make: Any) -> None:
        layer = make_layer(processor=make(hidden_size=32, cross_attention_dim=12))
        for parameter in layer.processor.parameters():
            nn.init.normal_(parameter, std=0.5)
        picture, text = inputs()
        plain = layer(picture, text)
        with tapped(layer) as calls:
            assert torch.equal(layer(picture, text), plain)
        (call,) = calls
        own = reference.split_heads(layer.processor.to_k_custom_diffusion(text), HEADS)
        assert torch.allclose(call.key[..., 1:, :], own[..., 1:, :], atol=1e-6)
        probs, output = in_fp64(call)
        assert torch.allclose(call.probs((0, 1)).double(), probs, atol=1e-6)
        assert torch.allclose(call.output.double(), output, atol=1e-5)

    @pytest.mark.parametrize("make", [AttnAddedKVProcessor, AttnAddedKVProcessor2_0])
    @torch.no_grad()
    def test_keys_of_text_and_picture_together(self, make: Any) -> None:
        """One softmax over both, as it is: who reads it has to know."""
        layer = make_layer(
            cross_attention_dim=32, added_kv_proj_dim=12, norm_num_groups=4, processor=make()
        )
        _, text = inputs()
        picture = torch.randn(2, 32, 3, 3)
        plain = layer(picture, text)
        with tapped(layer) as calls:
            assert torch.equal(layer(picture, text), plain)
        (call,) = calls
        assert call.key.shape[2] == TOKENS + QUERIES
        assert torch.allclose(call.output.double(), in_fp64(call)[1], atol=1e-5)

    @torch.no_grad()
    def test_no_kernel_that_can_be_seen(self) -> None:
        """One that multiplies by itself; its output stays."""

        def by_itself(
            attn: Any, states: Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None
        ) -> Tensor:
            q, k = attn.to_q(states), attn.to_k(encoder_hidden_states)
            return (q @ k.mT).softmax(-1) @ attn.to_v(encoder_hidden_states)

        layer = make_layer(processor=by_itself)
        plain = layer(*inputs())
        with tapped(layer, lambda call: call.output * 2) as calls:
            assert torch.equal(layer(*inputs()), plain)
        assert not calls


class TestCompiled:
    @torch.no_grad()
    def test_one_graph_more_however_often_it_is_tapped(self) -> None:
        layer = make_layer()
        given = inputs()
        plain = layer(*given)
        torch._dynamo.reset()
        counter = CompileCounter()
        compiled = torch.compile(layer, fullgraph=True, backend=counter)
        assert torch.equal(compiled(*given), plain)
        assert counter.frame_count == 1
        for _ in range(3):
            with tapped(layer) as calls:
                for seed in (1, 2, 3):
                    compiled(*inputs(seed))
                assert torch.equal(compiled(*given), plain)
            assert len(calls) == 4
            assert torch.allclose(calls[0].probs((0, 1)).double(), in_fp64(calls[0])[0], atol=1e-6)
            assert not torch.allclose(calls[0].query, calls[1].query)
            assert counter.frame_count == 2
        assert torch.equal(compiled(*given), plain)
        assert counter.frame_count == 2

    @torch.no_grad()
    def test_layers_of_one_class_share_a_graph(self) -> None:
        """And each is told of its own calls."""
        layers = [make_layer() for _ in range(3)]
        for layer in layers[1:]:
            for parameter in layer.parameters():
                nn.init.normal_(parameter, std=0.3)
        torch._dynamo.reset()
        counter = CompileCounter()
        given = inputs()
        for layer in layers:
            layer.compile(fullgraph=True, backend=counter)
        plain = [layer(*given) for layer in layers]
        without = counter.frame_count
        for layer, expected in zip(layers, plain, strict=True):
            with tapped(layer) as calls:
                assert torch.equal(layer(*given), expected)
            (call,) = calls
            mixed = layer.to_out[0](call.output.transpose(1, 2).flatten(2))
            assert torch.allclose(mixed, expected, atol=1e-6)
        assert counter.frame_count <= without + 1

    @torch.no_grad()
    def test_another_output(self) -> None:
        layer = make_layer()
        given = inputs()
        plain = layer(*given)
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        with tapped(layer, lambda call: call.output * 2):
            doubled = compiled(*given)
        bias = layer.to_out[0].bias
        assert torch.allclose(doubled - bias, 2 * (plain - bias), atol=1e-5)
        assert torch.equal(compiled(*given), plain)

    @pytest.mark.parametrize("kind", PROCESSORS)
    @torch.no_grad()
    def test_who_runs_is_told_even_where_its_kernel_is_compiled_away(self, kind: str) -> None:
        layer = make_layer()
        layer.processor = PROCESSORS[kind]()
        given = inputs()
        plain = layer(*given)
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        ran, calls = [], []

        def runs() -> bool:
            ran.append(layer)
            return True

        def keep(call: KernelCall) -> Tensor:
            calls.append(call)
            return call.output

        tap = SiteTap(layer, runs, keep)
        for cover in tap.covers:
            cover.put()
        for _ in range(2):
            assert torch.allclose(compiled(*given), plain, atol=1e-6)
        for cover in tap.covers:
            cover.take_off()
        assert len(ran) == 2
        assert len(calls) == (2 if kind == "fused" else 0)

    @torch.no_grad()
    def test_calls_that_are_not_wanted(self) -> None:
        layer = make_layer()
        given = inputs()
        plain = layer(*given)
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        with tapped(layer, lambda call: call.output * 2, wanted=False) as calls:
            assert torch.equal(compiled(*given), plain)
        assert not calls


class Thing:
    """With a method of its own, which is covered."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def work(self, number: int, *, by: int = 1) -> int:
        """Adds up."""
        self.calls.append("work")
        return number + by


def noting(thing: Thing, name: str) -> Callable[..., Any]:
    def act(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        thing.calls.append(name)
        return method(*args, **kwargs)

    return act


class Doing(nn.Module):
    """At the top of this file, so that it can be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, states: Tensor) -> Tensor:
        found: Tensor = self.inner(states)
        return found


class Changing(ModelHook):
    """accelerate's hook, which puts another `forward` before the module's."""

    def __init__(self) -> None:
        self.calls = 0

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return args, kwargs


class TestCover:
    def test_a_call_goes_through_what_happens_instead(self) -> None:
        thing = Thing()
        cover = Cover(thing, "work", lambda method, number, **more: 10 * method(number, **more))
        assert thing.work(1, by=2) == 3
        cover.put()
        assert thing.work(1, by=2) == 30
        cover.take_off()
        assert thing.work(1, by=2) == 3
        assert set(vars(thing)) == {"calls"}
        cover.take_off()  # may be told again
        assert set(vars(thing)) == {"calls"}

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    def test_nested_ones_go_in_any_order(self, order: tuple[int, ...]) -> None:
        thing = Thing()
        covers = [Cover(thing, "work", noting(thing, str(n))) for n in range(3)]
        for each in covers:
            each.put()
        left = [0, 1, 2]
        for number in order:
            thing.calls.clear()
            assert thing.work(1) == 2
            assert thing.calls == [*(str(n) for n in reversed(left)), "work"]
            covers[number].take_off()
            left.remove(number)
        thing.calls.clear()
        assert thing.work(1) == 2
        assert thing.calls == ["work"]
        assert set(vars(thing)) == {"calls"}

    def test_what_was_on_the_instance_before_comes_back(self) -> None:
        thing = Thing()
        mine = lambda number: -number  # noqa: E731
        vars(thing)["work"] = mine
        cover = Cover(thing, "work", noting(thing, "cover"))
        cover.put()
        assert thing.work(3) == -3
        assert thing.calls == ["cover"]
        cover.take_off()
        assert vars(thing)["work"] is mine

    def test_an_exception_comes_through(self) -> None:
        thing = Thing()

        def fail(method: Callable[..., Any], *args: Any) -> Any:
            raise RuntimeError("mine")

        cover = Cover(thing, "work", fail)
        cover.put()
        with pytest.raises(RuntimeError, match="mine"):
            thing.work(1)
        cover.take_off()
        assert thing.work(1) == 2

    def test_the_signature_is_kept(self) -> None:
        """diffusers looks at the names of arguments."""
        thing = Thing()
        signature, doc = inspect.signature(thing.work), thing.work.__doc__
        layer = make_layer()
        of_layer = inspect.signature(layer.forward)
        covers = [Cover(thing, "work", noting(thing, str(n))) for n in range(2)]
        covers.append(Cover(layer, "forward", lambda method, *args, **more: method(*args, **more)))
        for each in covers:
            each.put()
            assert inspect.signature(thing.work) == signature
            assert thing.work.__doc__ == doc
        assert inspect.signature(layer.forward) == of_layer
        for each in covers:
            each.take_off()

    def test_a_function_on_the_instance_keeps_its_signature_too(self) -> None:
        thing = Thing()
        vars(thing)["work"] = lambda number, mood="blue": number
        signature = inspect.signature(vars(thing)["work"])
        cover = Cover(thing, "work", noting(thing, "cover"))
        cover.put()
        assert inspect.signature(thing.work) == signature
        work: Any = thing.work
        assert work(4, mood="red") == 4
        cover.take_off()

    def test_one_function_for_all_objects_of_a_class(self) -> None:
        """torch.compile guards on functions, and compiles again for another."""
        things = [Thing(), Thing()]
        covers = [Cover(each, "work", noting(each, "cover")) for each in things]
        for each in covers:
            each.put()
        first, second = (vars(each)["work"] for each in things)
        assert first.__func__ is second.__func__
        assert first.__self__ is things[0]
        for each in covers:
            each.take_off()
        cover = Cover(things[0], "work", noting(things[0], "again"))
        cover.put()
        assert vars(things[0])["work"].__func__ is first.__func__
        cover.take_off()

    def test_a_foreign_wrapper_on_top(self) -> None:
        """As of accelerate's offloading. It stays, and what is under it passes every call on."""
        module, hook = Doing(), Changing()
        states = torch.randn(1, 3)
        expected = module(states)
        seen: list[str] = []

        def note(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            seen.append("cover")
            return method(*args, **kwargs)

        cover = Cover(module, "forward", note)
        cover.put()
        add_hook_to_module(module, hook)
        assert torch.equal(module(states), expected)
        assert (seen, hook.calls) == (["cover"], 1)
        cover.take_off()
        assert torch.equal(module(states), expected)
        assert (seen, hook.calls) == (["cover"], 2)
        remove_hook_from_module(module)
        assert torch.equal(module(states), expected)
        assert hook.calls == 2
        # Whoever covers the method after that leaves nothing of either.
        again = Cover(module, "forward", note)
        again.put()
        assert torch.equal(module(states), expected)
        assert seen == ["cover", "cover"]
        again.take_off()
        assert not {"forward", "_t2i_xattn_covers", "__reduce_ex__"} & set(vars(module))

    def test_over_a_foreign_wrapper(self) -> None:
        module, hook = Doing(), Changing()
        states = torch.randn(1, 3)
        expected = module(states)
        add_hook_to_module(module, hook)
        before = vars(module)["forward"]
        cover = Cover(module, "forward", lambda method, *args: 2 * method(*args))
        cover.put()
        assert torch.equal(module(states), 2 * expected)
        assert hook.calls == 1
        cover.take_off()
        assert vars(module)["forward"] is before
        remove_hook_from_module(module)
        assert torch.equal(module(states), expected)

    @pytest.mark.parametrize(
        "copied", [copy.deepcopy, copy.copy, lambda module: pickle.loads(pickle.dumps(module))]
    )
    def test_copies_are_not_covered(self, copied: Callable[[Any], Any]) -> None:
        """Whether they are made by `copy` or by `pickle`; the module itself still is."""
        module = Doing()
        states = torch.randn(1, 3)
        expected = module(states)
        covers = [
            Cover(module, "forward", lambda method, *args: 2 * method(*args)) for _ in range(2)
        ]
        for each in covers:
            each.put()
        made = copied(module)
        assert torch.equal(made(states), expected)
        assert not {"forward", "_t2i_xattn_covers", "__reduce_ex__"} & set(vars(made))
        assert torch.equal(module(states), 4 * expected)
        assert made.forward.__self__ is made
        for each in covers:
            each.take_off()
        assert torch.equal(module(states), expected)

    def test_copies_keep_what_others_have_put_there(self) -> None:
        module = Doing()
        vars(module)["forward"] = _negated
        cover = Cover(module, "forward", lambda method, *args: 2 * method(*args))
        cover.put()
        made = copy.deepcopy(module)
        assert vars(made)["forward"] is _negated
        assert torch.equal(made(torch.ones(1)), -torch.ones(1))
        cover.take_off()

    def test_no_part_of_a_model_is_changed(self) -> None:
        layer = make_layer()
        before = (repr(layer), list(layer.state_dict()), type(layer), layer.processor)
        with tapped(layer):
            assert (repr(layer), list(layer.state_dict()), type(layer), layer.processor) == before


def _negated(states: Tensor) -> Tensor:
    return -states


class TestModuleCalls:
    def test_once_a_call_however_it_was_compiled(self) -> None:
        torch._dynamo.reset()
        module, seen = Doing(), []
        states = torch.randn(1, 3)
        expected = module(states)

        def note(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            seen.append(args)
            return method(*args, **kwargs)

        calls = ModuleCalls(module, note)
        calls.link(module)
        calls.link(module)
        assert torch.equal(module(states), expected)
        assert len(seen) == 1
        wrapped: Any = torch.compile(module, backend="eager", fullgraph=True)
        assert uncompiled(wrapped) is module
        calls.link(wrapped)
        assert torch.equal(wrapped(states), expected)
        assert len(seen) == 2
        module.compile(backend="eager", fullgraph=True)
        calls.link(module)
        assert torch.equal(module(states), expected)
        assert len(seen) == 3
        calls.unlink()
        calls.unlink()
        for each in (module, wrapped):
            assert torch.equal(each(states), expected)
            assert not [key for key in vars(each) if "t2i_xattn" in key]
        assert len(seen) == 3


class TestRows:
    def test_rows_that_follow_each_other_are_a_slice(self) -> None:
        assert as_index((2, 3, 4)) == slice(2, 5)
        assert as_index((0,)) == slice(0, 1)
        assert as_index((0, 2)) == [0, 2]
        assert as_index((1, 0)) == [1, 0]

    @pytest.mark.parametrize("rows", [(0, 1), (2,), (0, 2), (2, 0)])
    def test_of_a_call(self, rows: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        query, key, value = (torch.randn(3, 2, n, 8) for n in (4, 5, 5))
        masks = {
            "none": None,
            "of each row": torch.randn(3, 1, 1, 5),
            "of all": torch.randn(1, 1, 4, 5),
            "of two axes": torch.randn(4, 5),
        }
        for mask in masks.values():
            output = scaled_dot_product_attention(query, key, value, attn_mask=mask)
            call = KernelCall(query, key, value, output, mask, 8**-0.5)
            whole = call.probs((0, 1, 2))
            assert torch.allclose(whole @ value, output, atol=1e-5)
            assert torch.equal(call.probs(rows), whole[list(rows)])

    def test_changes_of_some_rows_leave_the_others_and_what_is_0(self) -> None:
        output = torch.randn(3, 2, 4, 8)
        output[0, 0, 0] = -0.0
        call = KernelCall(output, output, output, output, None, 1.0)
        difference = torch.zeros(2, 2, 4, 8)
        difference[1, 1] = 1
        changed = plus_at(call.output, (0, 2), difference)
        assert changed[0].numpy().tobytes() == output[0].numpy().tobytes()  # −0 stays −0
        assert torch.equal(changed[1], output[1])
        assert torch.equal(changed[2, 0], output[2, 0])
        assert torch.equal(changed[2, 1], output[2, 1] + 1)
