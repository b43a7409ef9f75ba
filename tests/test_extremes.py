"""Whatever is shipped on attention makes no NaN and no Inf of finite inputs, up to the largest that
float16 and bfloat16 hold, and is as near to fp64 as the rounding of its scores allows."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F

from t2i_xattn import edits
from t2i_xattn.kernel import attention, reference
from t2i_xattn.kernel.call import KernelCall, plus_at
from t2i_xattn.kernel.concepts import output_shares
from t2i_xattn.kernel.contribution import contributions
from t2i_xattn.kernel.logsumexp import fused
from t2i_xattn.kernel.shares import shares_of
from t2i_xattn.processors import EditingProcessor, InterceptingProcessor, RecordingProcessor
from test_edits import context

MANY = 10_000
ROWS, HEADS, QUERIES, D = 2, 2, 24, 8
DTYPES = [torch.float16, torch.bfloat16]
KINDS = ["none", "bool", "bool, a row hidden", "minus infinity", "least number", "all hidden"]


@dataclasses.dataclass
class Input:
    """Random and extreme: of any magnitude, with the largest, the least and zeros among them."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scale: float

    @classmethod
    def drawn(cls, seed: int, tokens: int = 20) -> Input:
        g = torch.Generator().manual_seed(seed)
        dtype = DTYPES[seed % 2]
        lengths = (QUERIES, tokens, tokens)
        query, key, value = (extreme((ROWS, HEADS, n, D), dtype, g) for n in lengths)
        mask = mask_of(KINDS[seed // 2 % len(KINDS)], dtype, tokens, g)
        return cls(query, key, value, mask, D**-0.5)

    @functools.cached_property
    def whole(self) -> reference.Steps:
        """The reference, in fp64."""
        return reference.attend(
            self.query.double(), self.key.double(), self.value.double(), self.mask, self.scale
        )


def extreme(shape: tuple[int, ...], dtype: torch.dtype, g: torch.Generator) -> Tensor:
    largest = torch.finfo(dtype).max
    low, high = math.log(1e-6), math.log(largest)
    magnitude = math.exp(low + (high - low) * float(torch.rand(1, generator=g)))
    if torch.rand(1, generator=g) < 0.25:
        magnitude = largest
    values = (2 * torch.rand(shape, generator=g, dtype=torch.float64) - 1) * magnitude
    which = torch.rand(shape, generator=g)
    if torch.rand(1, generator=g) < 0.5:
        values = torch.where(which < 0.1, magnitude, values)
        values = torch.where(which > 0.9, -magnitude, values)
    values = torch.where((which > 0.4) & (which < 0.45), 0.0, values)
    return values.clamp(-largest, largest).to(dtype)


def mask_of(kind: str, dtype: torch.dtype, tokens: int, g: torch.Generator) -> Tensor | None:
    if kind == "none":
        return None
    seen = torch.rand(ROWS, 1, 1, tokens, generator=g) > 0.5
    if kind == "bool, a row hidden":
        seen = torch.rand(ROWS, HEADS, QUERIES, tokens, generator=g) > 0.5
        seen[:, :, 3] = False
    if kind == "all hidden":
        seen[0] = False
    if kind == "minus infinity":
        return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, float("-inf"))
    if kind == "least number":  # as diffusers hides tokens
        return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    return seen


def finite(found: Tensor, name: str) -> None:
    assert bool(found.isfinite().all()), name


def shares_are_sound(found: Tensor, given: Input, name: str) -> None:
    """Finite, from 0 to 1, with the right sums, and near fp64."""
    finite(found, name)
    steps = given.whole
    assert float(found.min()) >= 0, name
    assert float(found.max()) <= 1 + 1e-4, name
    # Each score is rounded to fp32, and so may be wrong by as many steps of it as there are terms;
    # a kernel's logsumexp is right to about 1e-5 only, since its exponentials are fast ones.
    terms = steps.query.abs() @ steps.key.abs().mT * given.scale
    room = 2.0**-23 * (D + 2) * terms.amax(dim=-1, keepdim=True)
    wrong = (found.double() - steps.probs).abs()
    bound = torch.expm1((2 * room).clamp(max=50)).clamp(max=1) + 1e-4
    assert bool((wrong <= bound).all()), name


def check_kernel(given: Input) -> Tensor:
    q, k, v, mask, scale = given.query, given.key, given.value, given.mask, given.scale
    probs = attention.attention_probs(q, k, scale, mask)
    shares_are_sound(probs, given, "attention_probs")
    assert probs.dtype == torch.float32
    taken = attention.mixed_values(probs, v)
    finite(taken, "mixed_values")
    finite(taken.to(v.dtype), "mixed_values, as the model has it")
    plain = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    every = range(QUERIES), range(k.shape[2])
    for said in (False, True):
        both = fused(q, k, v, mask, scale=scale) if said else None
        call = KernelCall(q, k, v, plain, mask, scale, None if both is None else both[1])
        shares = shares_of(call, (0, 1), *every)
        shares_are_sound(shares, given, f"shares_of, logsumexp of the kernel: {said}")
        assert shares.dtype == torch.float32
    # A matrix that keeps the values in the range of their type.
    out = torch.nn.Linear(HEADS * D, HEADS * D, bias=False)
    torch.nn.init.eye_(out.weight)
    finite(attention.head_weights(probs, v, out), "head_weights")
    if not bool(q.abs().amax() > 1e18):  # else the fused kernel itself has no room
        maps = attention.carried(q, q, scale, probs[:, :1, :, :3], steps=2)
        finite(maps, "carried")
    return probs


EDITS: Mapping[str, edits.Edit] = {
    "reweight": edits.Reweight("red", -2.0),
    "reweight, renormalised": edits.Reweight("red", 8.0, renormalise=True),
    "drop": edits.Drop("circle"),
    "add": edits.Add("red", 0.5),
    "sharper": edits.Temperature(0.01),
    "flatter": edits.Temperature(100.0),
    "top 2": edits.TopK(2),
    "padding": edits.MaskPadding(),
}


CONTEXT = context("a red circle", "a red circle")


def check_edits(given: Input, probs: Tensor) -> None:
    """(P′ − P) V, added to what the kernel gave, is finite where fp64 says so."""
    largest = torch.finfo(given.value.dtype).max
    output = given.whole.taken.to(given.value.dtype)
    for name, edit in EDITS.items():
        edited = edit(probs.clone(), CONTEXT)
        finite(edited, name)
        difference = attention.mixed_values(edited - probs, given.value)
        finite(difference, name)
        found = plus_at(output, (0, 1), difference)
        right = edited.double() @ given.value.double()
        inside = right.abs() < 0.99 * largest
        assert bool(found[inside].isfinite().all()), name


def check_all(given: Input) -> None:
    check_edits(given, check_kernel(given))


def test_no_nan_and_no_inf_in_some() -> None:
    for seed in range(200):
        check_all(Input.drawn(seed))


@pytest.mark.slow
def test_no_nan_and_no_inf_in_10_000() -> None:
    for seed in range(200, 200 + MANY):
        check_all(Input.drawn(seed))


def layer_of_identities(dtype: torch.dtype) -> Attention:
    """Whose queries, keys and values are what it is given, so that they are as extreme."""
    layer = Attention(HEADS * D, heads=HEADS, dim_head=D, bias=False).to(dtype)
    for each in (layer.to_q, layer.to_k, layer.to_v, layer.to_out[0]):
        torch.nn.init.eye_(each.weight)
    torch.nn.init.zeros_(layer.to_out[0].bias)
    return layer


@torch.no_grad()
def test_processors_are_finite_where_the_plain_one_is() -> None:
    """Which in bfloat16 is not always so: its kernel has fp32's room only."""

    def flatter(probs: Tensor, _: Any) -> Tensor:
        return (probs + 1 / probs.shape[-1]) / 2

    layers = {dtype: layer_of_identities(dtype) for dtype in DTYPES}
    plain_ones = {dtype: each.processor for dtype, each in layers.items()}
    looked_at = 0
    for seed in range(300):
        given = Input.drawn(seed)
        layer = layers[given.query.dtype]
        picture, text = (x.transpose(1, 2).flatten(2) for x in (given.query, given.key))
        layer.processor = plain_ones[given.query.dtype]
        plain = layer(picture, text)
        if not bool(plain.isfinite().all()):
            assert given.query.dtype == torch.bfloat16, "float16 has room everywhere"
            continue
        looked_at += 1
        recording = RecordingProcessor()
        for processor in (
            recording,
            InterceptingProcessor(lambda probs: flatter(probs, None)),
            EditingProcessor(flatter),
        ):
            layer.processor = processor
            finite(layer(picture, text), type(processor).__name__)
        assert recording.probs is not None
        finite(torch.as_tensor(recording.probs), "recorded")
    assert looked_at > 200


@torch.no_grad()
def test_contributions_and_concepts() -> None:
    layers = {dtype: layer_of_identities(dtype) for dtype in DTYPES}
    for seed in range(100):
        given = Input.drawn(seed)
        probs = attention.attention_probs(given.query, given.key, given.scale)
        taken = attention.mixed_values(probs, given.value)
        others = given.value[:, :, :5].transpose(1, 2).flatten(2)
        layer = layers[given.query.dtype]
        found = contributions(layer, given.query, taken, given.scale, others)
        finite(found, "contributions")
        finite(output_shares(given.query, given.key, [[0], [1, 2]]), "output_shares")


def test_the_largest_of_all() -> None:
    """One key fits best, by however little of so much."""
    for dtype in DTYPES:
        largest = torch.finfo(dtype).max
        q = torch.full((1, 1, 1, D), largest, dtype=dtype)
        k = torch.full((1, 1, 3, D), largest, dtype=dtype)
        k[..., 1:, :] = -largest
        probs = attention.attention_probs(q, k, D**-0.5)
        assert probs.flatten().tolist() == [1, 0, 0]
        alike = attention.attention_probs(q, k[..., 1:, :], D**-0.5)
        assert alike.flatten().tolist() == [0.5, 0.5]


def test_gradients_are_finite_in_float16() -> None:
    for seed in range(0, 100, 2):
        given = Input.drawn(seed)
        q, k = (x.detach().clone().requires_grad_() for x in (given.query, given.key))
        attention.attention_probs(q, k, given.scale, given.mask)[..., 0].sum().backward()
        for each in (q, k):
            assert each.grad is not None
            assert not bool(each.grad.isnan().any())
