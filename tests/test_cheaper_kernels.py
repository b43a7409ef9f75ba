"""Cheaper kernel calls: as the fused kernel, and finite whatever finite numbers come in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from t2i_xattn.denoisers.computing import _fused
from t2i_xattn.kernel.call import Asked
from t2i_xattn.kernel.chunked import chunked_attention
from t2i_xattn.kernel.fewer_keys import FewerKeys

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def exact(call: Asked) -> Tensor:
    """The same in fp64, written out."""
    scores = call.query.double() @ call.key.double().mT * call.scale
    if call.mask is not None:
        hidden = ~call.mask if call.mask.dtype == torch.bool else call.mask == float("-inf")
        scores = scores + torch.zeros(()).double().where(~hidden, float("-inf"))
    return scores.softmax(-1).nan_to_num() @ call.value.double()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 3),
    heads=st.integers(1, 3),
    lengths=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    width=st.integers(1, 9),
    blocks=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    masked=st.sampled_from([None, "bool", "numbers", "of each head"]),
    seed=st.integers(0, 99),
)
def test_blocks_of_any_size_are_the_whole(
    rows: int,
    heads: int,
    lengths: tuple[int, int],
    width: int,
    blocks: tuple[int, int],
    masked: str | None,
    seed: int,
) -> None:
    queries, keys = lengths
    query, key, value = (
        drawn(rows, heads, n, width, seed=seed + i) for i, n in enumerate((queries, keys, keys))
    )
    mask = None
    if masked is not None:
        shape = (rows, heads, queries, keys) if masked == "of each head" else (rows, 1, 1, keys)
        mask = drawn(*shape, seed=seed) > -0.5
        if masked == "numbers":
            mask = torch.zeros(shape, dtype=torch.float64).masked_fill(~mask, float("-inf"))
    call = Asked(query, key, value, mask, width**-0.5)
    found = chunked_attention(call, *blocks)
    assert found.dtype == value.dtype
    assert (found - exact(call)).abs().max() <= 1e-5 * value.abs().max()


def extreme(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Finite numbers of all sizes up to the largest, zeros and the least among them."""
    info = torch.finfo(dtype)
    powers = rng.uniform(np.log(info.smallest_normal), np.log(info.max), shape)
    numbers = rng.choice([-1.0, 1.0], shape) * np.exp(powers)
    special = rng.choice([0.0, info.max, -info.max, info.smallest_normal, 1.0], shape)
    chosen = np.where(rng.random(shape) < 0.4, special, numbers)
    return torch.from_numpy(np.clip(chosen, -info.max, info.max)).to(dtype)


@pytest.mark.parametrize("calls", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_nan_and_no_infinity_in_extreme_calls(calls: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(calls):
        dtype = DTYPES[number % 3]
        queries, keys, width = rng.integers(1, 6, 3)
        query, key, value = (extreme(rng, (1, 1, n, width), dtype) for n in (queries, keys, keys))
        mask = torch.from_numpy(rng.random((1, 1, queries, keys)) < 0.7)
        call = Asked(query, key, value, mask if number % 2 else None, float(width**-0.5))
        found = chunked_attention(call, int(rng.integers(1, 4)), int(rng.integers(1, 4)))
        assert found.isfinite().all(), number
        if call.mask is not None:  # a query that may look at nothing takes nothing
            assert not found[~call.mask.any(-1)].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_largest_numbers_are_averaged_rightly(dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    value = torch.full((1, 1, 7, 4), most, dtype=dtype)
    query = key = torch.full((1, 1, 7, 4), most, dtype=dtype)
    found = chunked_attention(Asked(query, key, value, None, 0.5), 3, 2)
    assert torch.equal(found, value)  # all scores are alike, and so are all values


@settings(max_examples=60, deadline=None)
@given(
    keys=st.integers(1, 20),
    stay=st.integers(1, 20),
    by_head=st.booleans(),
    uneven=st.booleans(),
    masked=st.sampled_from([None, "bool", "numbers"]),
    seed=st.integers(0, 99),
)
def test_fewer_keys_are_what_a_mask_would_give(
    keys: int, stay: int, by_head: bool, uneven: bool, masked: str | None, seed: int
) -> None:
    stay = min(stay, keys)
    query, key, value = (drawn(2, 3, n, 8, seed=seed + i) for i, n in enumerate((5, keys, keys)))
    index = drawn(2, 3 if by_head else 1, keys, seed=seed).topk(stay, dim=-1).indices
    there = None
    if uneven:
        there = torch.ones_like(index, dtype=torch.bool)
        there[1, :, stay // 2 + 1 :] = False
        index = index * there  # what fills up is key 0
    fewer = FewerKeys(index, there)
    seen = torch.zeros(2, index.shape[1], keys, dtype=torch.bool)
    for row in range(2):
        for head in range(index.shape[1]):
            count = stay // 2 + 1 if uneven and row == 1 else stay
            seen[row, head, index[row, head, :count]] = True
    mask = None
    if masked is not None:
        mask = drawn(2, 1, 1, keys, seed=seed + 9) > -1
        mask[..., 0] = True
        if masked == "numbers":
            mask = torch.zeros(2, 1, 1, keys, dtype=torch.float64).masked_fill(~mask, float("-inf"))
    call = Asked(query, key, value, mask, 8**-0.5)
    whole = fewer.mask(call)
    hidden = ~whole if whole.dtype == torch.bool else whole == float("-inf")
    own = (
        torch.zeros(1, 1, 1, 1, dtype=torch.bool)
        if mask is None
        else (~mask if mask.dtype == torch.bool else mask == float("-inf"))
    )
    assert torch.equal(hidden.expand(2, 3, -1, -1), (own | ~seen[:, :, None]).expand(2, 3, -1, -1))
    less = fewer.of(call)
    assert less.key.shape[2] == stay
    right = scaled_dot_product_attention(query, key, value, whole, scale=call.scale)
    torch.testing.assert_close(_fused(less), right, rtol=1e-9, atol=1e-9)
    assert _fused(less).isfinite().all()
