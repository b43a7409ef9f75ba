"""What stands for the kernel's output where picture and text are in one sequence, against a whole
softmax in fp64 in which the text's shares were changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.seen import Change, Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.kernel.call import KernelCall, Places
from t2i_xattn.kernel.logsumexp import fused
from t2i_xattn.kernel.shares import Portion, of_row

SITE = AttentionSite("transformer_blocks.0.attn", "joint", 0, None, None, 2)
ROWS, LENGTH, WIDTH = 3, 16, 8
GRID = (1, 2, 3)

MIDDLE = Portion(range(8, 14), range(3, 8), range(8, 14), range(3, 8))
"""Three keys of others, the text, the picture, and two of others."""
PICTURE_ASKS = Portion(range(6), range(3, 8), range(8, 14), None)
TEXT_LAST = Portion(range(6), range(11, 16), range(6), range(11, 16))
BY_ROW = Portion(
    [range(5, 11), range(3, 9), range(10, 16)],
    [range(5), range(3), range(4, 10)],
    [range(5, 11), range(3, 9), range(10, 16)],
    [range(5), range(3), range(4, 10)],
)
"""Each row has a text of its own length, and the picture behind it."""
PORTIONS = {"middle": MIDDLE, "queries": PICTURE_ASKS, "last": TEXT_LAST, "by row": BY_ROW}


class Changing:
    """An edit by a function of the text's shares."""

    per_head = False

    def __init__(
        self, function: Callable[[Tensor], Tensor], scales: bool, mixes: float | None = None
    ) -> None:
        self.function, self.scales_the_rest = function, scales
        self.mixes, self.factor = mixes is not None, mixes

    def changed(self, probs: Tensor) -> Tensor:
        return self.function(probs)

    def mixed(self, taken: Tensor) -> Tensor:
        return taken if self.factor is None else taken * self.factor


def without_the_second(probs: Tensor) -> Tensor:
    """As if its scores were masked."""
    there = torch.ones(probs.shape[-1])
    there[1] = 0
    return probs * there / (1 - probs[..., 1:2])


def more_of_the_first(probs: Tensor) -> Tensor:
    return torch.cat([probs[..., :1] * 1.4, probs[..., 1:] * 0.9], dim=-1)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "masked": without_the_second,
    "louder": more_of_the_first,
    "none": torch.zeros_like,
}


def kernel_call(portion: Portion, mask: Tensor | None = None, said: bool = True) -> KernelCall:
    drawn = torch.Generator().manual_seed(3)
    asking = 6 if portion.text_queries is None else LENGTH
    query, key, value = (
        torch.randn(ROWS, 2, length, WIDTH, generator=drawn) for length in (asking, LENGTH, LENGTH)
    )
    both = fused(query, key, value, mask) if said else None
    output = scaled_dot_product_attention(query, key, value, mask)
    logsumexp = None if both is None else both[1]
    return KernelCall(query, key, value, output, mask, WIDTH**-0.5, logsumexp)


def seen_of(call: KernelCall, portion: Portion, grid: tuple[int, int, int] = GRID) -> Seen:
    return Seen(SITE, None, call, Reading(grid, portion=portion))


def whole_softmax(call: KernelCall) -> Tensor:
    """fp64 `(rows, heads, queries, keys)`."""
    scores = call.query.double() @ call.key.double().transpose(-1, -2) * call.scale
    if call.mask is not None:
        scores = scores.masked_fill(~call.mask, float("-inf"))
    return scores.softmax(dim=-1)


def expected_output(
    call: KernelCall, portion: Portion, rows: Rows, changes: Sequence[Changing]
) -> Tensor:
    """fp64: at the picture's places of these rows the text's shares are changed, and the others
    scaled so that the sum is 1 where an edit says so."""
    probs = whole_softmax(call)
    for row in rows:
        queries, keys = of_row(portion.queries, row), of_row(portion.keys, row)
        places = probs[row, :, queries.start : queries.stop]
        others = torch.ones(LENGTH, dtype=torch.bool)
        others[keys.start : keys.stop] = False
        for change in changes:
            places[..., ~others] = change.function(places[..., ~others].float()).double()
            if change.scales_the_rest:
                left = 1 - places[..., ~others].sum(-1, keepdim=True)
                rest = places[..., others]
                places[..., others] = rest * left / rest.sum(-1, keepdim=True)
    return probs @ call.value.double()


def asks(places: Places, rows: Rows, queries: int) -> Tensor:
    """bool `(rows, queries)`: which of them are these places."""
    found = torch.zeros(ROWS, queries, dtype=torch.bool)
    for row in rows:
        found[row, list(of_row(places, row))] = True
    return found


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("rows", [(0, 1, 2), (2, 0), (1,)])
@pytest.mark.parametrize("scales", [True, False])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("form", PORTIONS)
def test_it_is_that_of_the_changed_shares(
    form: str, change: str, scales: bool, rows: Rows, said: bool
) -> None:
    portion = PORTIONS[form]
    call = kernel_call(portion, said=said)
    plain = call.output.clone()
    changing = Changing(CHANGES[change], scales)
    found = seen_of(call, portion).output([(rows, changing)])
    expected = expected_output(call, portion, rows, [changing])
    assert torch.allclose(found.double(), expected, atol=1e-6)
    assert not torch.allclose(found, plain, atol=1e-3)
    # What is not edited keeps its bytes, and the kernel's own tensor is left alone.
    changed = asks(portion.queries, rows, plain.shape[2])[:, None, :, None]
    assert torch.equal(found.masked_fill(changed, 0), plain.masked_fill(changed, 0))
    assert torch.equal(call.output, plain)


@pytest.mark.parametrize("form", PORTIONS)
def test_scaled_shares_sum_to_one(form: str) -> None:
    """With values of 1, the output is the sum."""
    portion = PORTIONS[form]
    call = kernel_call(portion)
    ones = torch.ones_like(call.value)
    made = KernelCall(
        call.query, call.key, ones, torch.ones_like(call.output), None, call.scale, call.logsumexp
    )
    for change in CHANGES.values():
        found = seen_of(made, portion).output([((0, 1, 2), Changing(change, True))])
        assert torch.allclose(found, torch.ones_like(found), atol=1e-6)


@pytest.mark.parametrize("scales", [True, False])
@pytest.mark.parametrize("identity", [lambda probs: probs, lambda probs: probs * 1])
@pytest.mark.parametrize("form", PORTIONS)
def test_the_identity_leaves_the_same_bytes(form: str, identity: Any, scales: bool) -> None:
    call = kernel_call(PORTIONS[form])
    found = seen_of(call, PORTIONS[form]).output([((0, 1, 2), Changing(identity, scales))])
    assert torch.equal(found, call.output)


@pytest.mark.parametrize("form", PORTIONS)
def test_edits_follow_each_other(form: str) -> None:
    portion, rows = PORTIONS[form], (0, 2)
    call = kernel_call(portion)
    changes = [
        Changing(without_the_second, True),
        Changing(more_of_the_first, True),
        Changing(more_of_the_first, False),
    ]
    found = seen_of(call, portion).output([(rows, change) for change in changes])
    expected = expected_output(call, portion, rows, changes)
    assert torch.allclose(found.double(), expected, atol=1e-6)


@pytest.mark.parametrize("form", PORTIONS)
def test_under_a_mask(form: str) -> None:
    """Of keys, as of padding; a row may look at nothing of its text."""
    portion, rows = PORTIONS[form], (0, 1, 2)
    mask = torch.ones(ROWS, 1, 1, LENGTH, dtype=torch.bool)
    mask[0, ..., of_row(portion.keys, 0).stop - 1] = False
    mask[1, ..., list(of_row(portion.keys, 1))] = False
    call = kernel_call(portion, mask)
    for change, scales in ((without_the_second, True), (more_of_the_first, False)):
        changing = Changing(change, scales)
        seen = seen_of(call, portion)
        found = seen.output([(rows, changing)])
        expected = expected_output(call, portion, rows, [changing])
        assert torch.allclose(found.double(), expected, atol=1e-6)
        assert not seen.probs(rows)[1].any()
        places = asks(portion.queries, rows, found.shape[2])[1]
        assert torch.equal(found[1][:, places], call.output[1][:, places])


@pytest.mark.parametrize("form", PORTIONS)
def test_frames_in_one_row(form: str) -> None:
    """Each is a row of its own for an edit."""
    portion, rows = PORTIONS[form], (0, 2)
    call, shapes = kernel_call(portion), []

    def louder_in_the_second_frame(probs: Tensor) -> Tensor:
        shapes.append(tuple(probs.shape))
        factor = torch.tensor([1.0, 1.2] * 2)[:, None, None, None]
        return probs * factor

    seen = seen_of(call, portion, (2, 1, 3))
    found = seen.output([(rows, Changing(louder_in_the_second_frame, True))])
    longest = max(len(of_row(portion.keys, row)) for row in rows)
    assert shapes == [(4, 2, 3, longest)]
    every = torch.tensor([1.0] * 3 + [1.2] * 3)[:, None]
    expected = expected_output(call, portion, rows, [Changing(lambda each: each * every, True)])
    assert torch.allclose(found.double(), expected, atol=1e-6)


def test_what_other_texts_give_is_mixed_in() -> None:
    """The edit is given what the places take from all keys, after the edits of the shares."""
    call, rows = kernel_call(MIDDLE), (0, 1, 2)
    for scales in (True, False):
        changing = Changing(without_the_second, scales, mixes=2.0)
        found = seen_of(call, MIDDLE).output([(rows, changing)])
        expected = expected_output(call, MIDDLE, rows, [changing])
        expected[:, :, 8:14] *= 2
        assert torch.allclose(found.double(), expected, atol=1e-6)


def test_gradients_go_through_the_change() -> None:
    call = kernel_call(MIDDLE)
    query = call.query.clone().requires_grad_()
    output = scaled_dot_product_attention(query, call.key, call.value)
    made = KernelCall(query, call.key, call.value, output, None, call.scale, call.logsumexp)
    changing = Changing(without_the_second, True)
    found = seen_of(made, MIDDLE).output([((0, 1, 2), changing)])
    (came,) = torch.autograd.grad(found.square().sum(), query)

    double = query.detach().double().requires_grad_()
    scores = double @ call.key.double().transpose(-1, -2) * call.scale
    hidden = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    hidden[8:14, 4] = True
    whole = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1) @ call.value.double()
    (right,) = torch.autograd.grad(whole.square().sum(), double)
    assert torch.allclose(came.double(), right, atol=1e-6)


def test_a_place_that_looks_at_the_text_alone() -> None:
    """There is no rest to scale; nothing becomes NaN."""
    mask = torch.zeros(1, 1, 1, LENGTH, dtype=torch.bool)
    mask[..., 3:8] = True
    call = kernel_call(MIDDLE, mask)
    change: Change = Changing(without_the_second, True)
    found = seen_of(call, MIDDLE).output([((0, 1, 2), change)])
    mask[..., 4] = False
    expected = scaled_dot_product_attention(call.query, call.key, call.value, mask)
    assert torch.allclose(found[:, :, 8:14], expected[:, :, 8:14], atol=1e-6)


def test_own_queries_and_keys() -> None:
    call = kernel_call(BY_ROW)
    query, key = seen_of(call, BY_ROW).own_queries_and_keys((2, 0))
    assert torch.equal(query, torch.stack([call.query[2, :, 10:16], call.query[0, :, 5:11]]))
    assert torch.equal(key, torch.stack([call.key[2, :, 10:16], call.key[0, :, 5:11]]))
    values = seen_of(call, BY_ROW).values((0, 2))
    assert torch.equal(values[0, :, :5], call.value[0, :, :5])
    assert torch.equal(values[1], call.value[2, :, 4:10])
