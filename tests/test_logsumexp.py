"""The fused kernel, asked for its logsumexp: the bytes of the plain call, and the right numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from t2i_xattn.kernel.call import KernelCall
from t2i_xattn.kernel.logsumexp import fused
from t2i_xattn.kernel.shares import shares_of

INF = float("inf")
DTYPES = [torch.float32, torch.bfloat16]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def parts(dtype: torch.dtype, queries: int = 33, keys: int = 47) -> tuple[Tensor, Tensor, Tensor]:
    lengths = (queries, keys, keys)
    query, key, value = (drawn(2, 3, n, 16, seed=s, dtype=dtype) for s, n in enumerate(lengths))
    return query, key, value


def right(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """The logsumexp, in fp64."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query.double() @ key.double().transpose(-1, -2) * scale
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=torch.float64)
        scores = scores + (bias.masked_fill(~mask, -INF) if mask.dtype == torch.bool else mask)
    return scores.logsumexp(-1)


def bool_mask(*shape: int) -> Tensor:
    return drawn(*shape, seed=7) > -0.5


MASKS = {
    "none": None,
    "bool": bool_mask(2, 3, 33, 47),
    "bool of the keys": bool_mask(2, 1, 1, 47),
    "bool of all rows": bool_mask(33, 47),
    "float": drawn(2, 3, 33, 47, seed=8),
    "float of the keys": drawn(1, 1, 1, 47, seed=8),
    "float with infinities": torch.zeros(2, 1, 33, 47).masked_fill(~bool_mask(2, 1, 33, 47), -INF),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [None, 0.4])
@pytest.mark.parametrize("form", MASKS)
def test_bytes_and_logsumexp(form: str, scale: float | None, dtype: torch.dtype) -> None:
    query, key, value = parts(dtype)
    mask = MASKS[form]
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(dtype)
    made = fused(query, key, value, mask, scale=scale)
    assert made is not None
    output, logsumexp = made
    plain = scaled_dot_product_attention(query, key, value, mask, scale=scale)
    assert torch.equal(output, plain)
    assert output.dtype == plain.dtype
    assert logsumexp.shape == (2, 3, 33)
    assert logsumexp.dtype == torch.float32
    assert torch.allclose(logsumexp.double(), right(query, key, mask, scale), atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_query_that_looks_at_nothing(kind: str, dtype: torch.dtype) -> None:
    query, key, value = parts(dtype)
    mask: Tensor = bool_mask(2, 1, 33, 47)
    mask[:, :, 5] = False
    if kind == "float":
        mask = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -INF)
    made = fused(query, key, value, mask)
    assert made is not None
    plain = scaled_dot_product_attention(query, key, value, mask)
    assert torch.equal(made[0], plain)
    assert not plain[:, :, 5].any()
    # Whatever the kernel says of it, the others' numbers are right and its shares are zeros.
    expected = right(query, key, mask, None)
    said = made[1].double()[expected > -INF]
    assert torch.allclose(said, expected[expected > -INF], atol=1e-5)
    call = KernelCall(query, key, value, plain, mask, query.shape[-1] ** -0.5, made[1])
    shares = shares_of(call, (0, 1), range(33), range(47))
    assert not shares[:, :, 5].any()
    assert torch.allclose(shares.sum(-1), (expected > -INF).float(), atol=1e-4)


@pytest.mark.parametrize("lengths", [(1, 1), (1, 300), (300, 1), (513, 700)])
def test_lengths(lengths: tuple[int, int]) -> None:
    query, key, value = parts(torch.float32, *lengths)
    made = fused(query, key, value)
    assert made is not None
    assert torch.equal(made[0], scaled_dot_product_attention(query, key, value))
    assert torch.allclose(made[1].double(), right(query, key, None, None), atol=1e-5)


def test_heads_that_lie_beside_each_other() -> None:
    """As processors make them: `(rows, tokens, heads, d)` turned round."""
    query, key, value = (each.transpose(1, 2).contiguous() for each in parts(torch.float32))
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    made = fused(query, key, value)
    assert made is not None
    plain = scaled_dot_product_attention(query, key, value)
    assert torch.equal(made[0], plain)
    assert made[0].stride() == plain.stride()


def test_gradients_are_those_of_the_plain_call() -> None:
    leaves = parts(torch.float32)
    for each in leaves:
        each.requires_grad_()
    weights = drawn(2, 3, 33, 16, seed=9)
    made = fused(*leaves)
    assert made is not None
    came = torch.autograd.grad((made[0] * weights).sum(), leaves)
    plain = scaled_dot_product_attention(*leaves)
    expected = torch.autograd.grad((plain * weights).sum(), leaves)
    assert all(map(torch.equal, came, expected))
    assert not made[1].requires_grad


def test_gradients_of_a_mask_are_not_lost() -> None:
    """The plain call takes another kernel for these."""
    query, key, value = parts(torch.float32)
    mask = drawn(2, 3, 33, 47, seed=8).requires_grad_()
    assert fused(query, key, value, mask) is None


@pytest.mark.parametrize(
    "more",
    [{"is_causal": True}, {"dropout_p": 0.1}, {"enable_gqa": True}],
)
def test_none_where_the_plain_call_is_another(more: dict[str, Any]) -> None:
    assert fused(*parts(torch.float32), **more) is None


def test_none_for_values_of_another_width_and_for_three_axes() -> None:
    query, key, value = parts(torch.float32)
    assert fused(query, key, value[..., :8]) is None
    assert fused(query[0], key[0], value[0]) is None
