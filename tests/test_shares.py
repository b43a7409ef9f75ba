"""Shares of some keys, against a softmax over all keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from t2i_xattn.kernel import shares
from t2i_xattn.kernel.call import KernelCall, Places, Rows
from t2i_xattn.kernel.shares import at_one, at_places, mean_of_heads, of_row, shares_of

INF = float("inf")


@dataclass
class Case:
    """A kernel call and what is asked of it.

    Attributes:
        said: whether the kernel said its logsumexp.
        nothing: what it says of a query that looks at nothing.
        chunk: keys whose scores are formed at once.
    """

    call: KernelCall
    rows: Rows
    queries: Places
    keys: Places
    said: bool
    nothing: float
    chunk: int


def scores_of(call: KernelCall) -> Tensor:
    """fp64 `(rows, heads, queries, keys)`, masked."""
    scores = call.query.double() @ call.key.double().transpose(-1, -2) * call.scale
    if call.mask is None:
        return scores
    if call.mask.dtype == torch.bool:
        return torch.where(call.mask, scores, -INF)
    return scores + call.mask.double()


def softmax_of(scores: Tensor) -> Tensor:
    """Over the keys; zeros for a query that has none, and gradients of 0."""
    there = scores > -INF
    largest = scores.detach().amax(-1, keepdim=True).clamp_min(-1e9)
    exponentials = torch.where(there, (scores - largest).exp(), 0.0)
    return exponentials / exponentials.sum(-1, keepdim=True).clamp_min(1e-300)


def cut(probs: Tensor, rows: Rows, queries: Places, keys: Places) -> Tensor:
    """Some queries and keys of some rows, zeros where a row has fewer keys."""
    longest = max(len(of_row(keys, row)) for row in rows)
    parts = []
    for row in rows:
        part = probs[row][:, list(of_row(queries, row))][..., list(of_row(keys, row))]
        parts.append(torch.nn.functional.pad(part, (0, longest - part.shape[-1])))
    return torch.stack(parts)


def ranges(draw: Any, rows: int, length: int, alike: bool) -> Places:
    """The same in every row, or one for each row, of as many places if `alike`."""
    count = draw(st.integers(1, length))
    if draw(st.booleans()):
        first = draw(st.integers(0, length - count))
        return range(first, first + count)
    found = []
    for _ in range(rows):
        own = count if alike else draw(st.integers(0, count))
        first = draw(st.integers(0, length - own))
        found.append(range(first, first + own))
    return found


@st.composite
def masks(draw: Any, shape: tuple[int, int, int, int]) -> Tensor | None:
    """Bool or numbers, in every form that is broadcast; some queries may look at nothing."""
    kind = draw(st.sampled_from(["none", "bool", "float", "float with infinities"]))
    if kind == "none":
        return None
    full = [size if draw(st.booleans()) else 1 for size in shape]
    form = full[draw(st.integers(0, 3)) :]
    drawn = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    looked = torch.rand(form, generator=drawn) < 0.6
    if len(form) > 1 and draw(st.booleans()):
        looked[..., 0, :] = False
    if kind == "bool":
        return looked
    numbers = torch.randn(form, generator=drawn)
    return numbers if kind == "float" else numbers.masked_fill(~looked, -INF)


@st.composite
def cases(draw: Any) -> Case:
    rows, heads, queries, keys = (draw(st.integers(1, most)) for most in (4, 3, 6, 9))
    drawn = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    query, key = (torch.randn(rows, heads, n, 4, generator=drawn) * 2 for n in (queries, keys))
    mask = draw(masks((rows, heads, queries, keys)))
    output = torch.zeros_like(query)
    chosen = draw(st.lists(st.integers(0, rows - 1), min_size=1, unique=True))
    return Case(
        KernelCall(query, key, key, output, mask, 0.7),
        tuple(chosen),
        ranges(draw, rows, queries, alike=True),
        ranges(draw, rows, keys, alike=False),
        said=draw(st.booleans()),
        nothing=draw(st.sampled_from([-INF, 0.0])),
        chunk=draw(st.integers(1, 10)),
    )


def found_of(case: Case, form: Any = shares_of, **changes: Any) -> Tensor:
    call = case.call
    whole = scores_of(call).logsumexp(-1).float()
    said = whole.masked_fill(whole == -INF, case.nothing) if case.said else None
    parts = {"query": call.query, "key": call.key, "mask": call.mask} | changes
    made = KernelCall(
        parts["query"], parts["key"], call.value, call.output, parts["mask"], call.scale, said
    )
    with mock.patch.object(shares, "CHUNK", case.chunk):
        found: Tensor = form(made, case.rows, case.queries, case.keys)
    return found


@settings(max_examples=300, deadline=None)
@given(case=cases())
def test_they_are_those_of_a_softmax_over_all_keys(case: Case) -> None:
    found = found_of(case)
    expected = cut(softmax_of(scores_of(case.call)), case.rows, case.queries, case.keys)
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    assert torch.allclose(found.double(), expected, atol=2e-6)
    assert (found[expected == 0] == 0).all()


@settings(max_examples=150, deadline=None)
@given(case=cases(), learned=st.sampled_from(["query", "key", "both"]))
def test_gradients_are_those_of_the_softmax(case: Case, learned: str) -> None:
    """Whatever asks for them, and whether or not the kernel said its logsumexp."""
    names = ["query", "key"] if learned == "both" else [learned]
    leaves = {name: getattr(case.call, name).clone().requires_grad_() for name in names}
    found = found_of(case, **leaves)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    came = torch.autograd.grad((found * weights).sum(), list(leaves.values()))

    doubles = {name: getattr(case.call, name).double().requires_grad_() for name in names}
    parts = {"query": case.call.query, "key": case.call.key} | doubles
    call = KernelCall(
        parts["query"], parts["key"], case.call.value, case.call.output, case.call.mask, 0.7
    )
    expected = cut(softmax_of(scores_of(call)), case.rows, case.queries, case.keys)
    right = torch.autograd.grad((expected * weights.double()).sum(), list(doubles.values()))
    for one, other in zip(came, right, strict=True):
        assert torch.allclose(one.double(), other, atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(case=cases(), at_once=st.integers(1, 4))
def test_their_mean_over_the_heads(case: Case, at_once: int) -> None:
    """Whatever the number of heads that are taken at once."""
    query = case.call.query.clone().requires_grad_()
    with mock.patch.object(shares, "HEADS", at_once):
        found = found_of(
            case,
            lambda call, *where: mean_of_heads(call, lambda few: shares_of(few, *where)),
            query=query,
        )
    expected = found_of(case, query=query).mean(1, keepdim=True)
    assert torch.allclose(found, expected, atol=1e-6)
    came, right = (torch.autograd.grad(each.square().sum(), query)[0] for each in (found, expected))
    assert torch.allclose(came, right, atol=1e-5)


@pytest.mark.parametrize("said", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_in_every_type_they_are_fp32(dtype: torch.dtype, said: bool) -> None:
    drawn = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 2, n, 8, generator=drawn).to(dtype) for n in (5, 9))
    call = KernelCall(query, key, key, query, None, 0.35)
    if said:
        logsumexp = scores_of(call).logsumexp(-1)
        logsumexp = logsumexp if dtype == torch.float64 else logsumexp.float()
        call = KernelCall(query, key, key, query, None, 0.35, logsumexp)
    found = shares_of(call, (0, 1), range(5), range(3, 7))
    assert found.dtype == torch.float32
    expected = softmax_of(scores_of(call))[..., 3:7]
    assert torch.allclose(found.double(), expected, atol=2e-6)


def test_autocast_does_not_make_them_coarser() -> None:
    drawn = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, n, 8, generator=drawn) for n in (5, 9))
    call = KernelCall(query, key, key, query, None, 0.35)
    expected = shares_of(call, (0,), range(5), range(3, 7))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(shares_of(call, (0,), range(5), range(3, 7)), expected)


def test_places_of_a_row() -> None:
    places = [range(2, 5), range(7, 8)]
    assert of_row(range(3, 9), 4) == range(3, 9)
    assert [of_row(places, row) for row in (0, 1)] == places
    assert at_one(range(3, 9), 2) == range(5, 6)
    assert at_one([range(2, 5), range(7, 10)], 1) == [range(3, 4), range(8, 9)]


def test_at_places() -> None:
    tensor = torch.arange(3 * 2 * 6.0).reshape(3, 2, 6, 1)
    assert torch.equal(at_places(tensor, (0, 2), range(1, 4)), tensor[[0, 2], :, 1:4])
    found = at_places(tensor, (2, 1), [range(0, 1), range(2, 4), range(1, 4)])
    assert torch.equal(found[0], tensor[2, :, 1:4])
    # The first place stands in for what is not there.
    assert torch.equal(found[1], tensor[1][:, [2, 3, 2]])
