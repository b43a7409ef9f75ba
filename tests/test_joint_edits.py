"""Edits in joint attention, where the text's keys are some of one softmax over all keys: against
that softmax with its scores masked, or the formula that an edit states, over all keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.seen import Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.editing.acting import ActingEdit
from t2i_xattn.editing.schedule import _only
from t2i_xattn.edits import (
    Add,
    Drop,
    Edit,
    EditContext,
    EditFunction,
    InjectMap,
    MaskPadding,
    Restrict,
    Reweight,
    SwapMaps,
    Temperature,
    TopK,
)
from t2i_xattn.edits.edit import renormalised
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.call import KernelCall
from t2i_xattn.kernel.shares import Portion, shares_of
from t2i_xattn.prompts.words import Word

SITE = AttentionSite("transformer_blocks.0.attn", "joint", 0, None, None, 2)
IMAGES, TOKENS, HEIGHT, WIDTH = 2, 7, 4, 6
PLACES = HEIGHT * WIDTH
PORTION = Portion(range(10, 34), range(3, 10), range(10, 34), range(3, 10))
"""Three keys of others, the text, the picture, and two of others."""
LENGTH = 36
TEXT, PICTURE = slice(3, 10), slice(10, 34)
RED, BLUE, PADDING = (1, 2), (3,), (5, 6)
WORDS = (Word("red", 0, 3, RED, "word"), Word("blue", 4, 8, BLUE, "word"))
MAP = np.linspace(0, 1, PLACES, dtype=np.float32).reshape(HEIGHT, WIDTH)


def context(**changes: Any) -> EditContext:
    made = EditContext(
        site=SITE,
        height=HEIGHT,
        width=WIDTH,
        latent_size=(HEIGHT, WIDTH),
        branch="conditional",
        step=0,
        steps=10,
        timestep=999.0,
        words=(WORDS,) * IMAGES,
        token_ids=((0, 1, 2),) * IMAGES,
        tokens=TOKENS,
        images=tuple(range(IMAGES)),
        device=torch.device("cpu"),
        padding=(PADDING,) * IMAGES,
    )
    return dataclasses.replace(made, **changes)


def kernel_call() -> KernelCall:
    drawn = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(IMAGES, 2, LENGTH, 8, generator=drawn) for _ in range(3))
    output = scaled_dot_product_attention(query, key, value)
    return KernelCall(query, key, value, output, None, 8**-0.5)


CALL = kernel_call()
SCORES = CALL.query.double() @ CALL.key.double().transpose(-1, -2) * CALL.scale
"""fp64 `(images, heads, queries, keys)`, over all keys."""
WHOLE = SCORES.softmax(dim=-1)[:, :, PICTURE]
"""fp64 shares of the picture's places in all keys."""
SHARES = shares_of(CALL, range(IMAGES), PORTION.queries, PORTION.keys)


def columns(*tokens: int, value: float = 1.0) -> Tensor:
    """fp64 over all keys: a value at some columns of the text, and 0."""
    found = torch.zeros(LENGTH, dtype=torch.float64)
    found[[3 + token for token in tokens]] = value
    return found


def to_one(shares: Tensor) -> Tensor:
    return shares / shares.sum(-1, keepdim=True)


def masked(*tokens: int) -> Tensor:
    """The softmax with the scores of some columns masked."""
    hidden = columns(*tokens) > 0
    return SCORES[:, :, PICTURE].masked_fill(hidden, float("-inf")).softmax(dim=-1)


def restricted() -> Tensor:
    inside = torch.zeros(HEIGHT, WIDTH, dtype=torch.float64)
    inside[:2, :3] = 1
    inside[2, :3] = 0.5  # the box ends inside of these places
    outside = (1 - inside).flatten()[:, None]
    return to_one(WHOLE * (1 - outside * columns(*RED)))


def largest() -> Tensor:
    text = SCORES[:, :, PICTURE, TEXT]
    least = text.topk(2, dim=-1).values[..., -1:]
    scores = SCORES[:, :, PICTURE].clone()
    scores[..., TEXT] = text.masked_fill(text < least, float("-inf"))
    return scores.softmax(dim=-1)


def reweighted() -> Tensor:
    """log c is added to the scores."""
    scores = SCORES[:, :, PICTURE] + torch.log(torch.tensor(2.5).double()) * columns(*RED)
    return scores.softmax(dim=-1)


def injected(strength: float = 1.0) -> Tensor:
    there = columns(*RED)
    given = torch.from_numpy(MAP).double().flatten()[:, None] * strength
    others = WHOLE * (1 - there)
    return others * (1 - given) / others.sum(-1, keepdim=True) + given * there / len(RED)


SHARED: dict[str, tuple[Callable[..., Edit], Callable[[], Tensor]]] = {
    "drop": (lambda **more: Drop("red", **more), lambda: masked(*RED)),
    "restrict": (lambda **more: Restrict("red", (0, 0, 0.625, 0.5), **more), restricted),
    "padding": (lambda **more: MaskPadding(**more), lambda: masked(*PADDING)),
    "top": (lambda **more: TopK(2, **more), largest),
    "reweight": (lambda **more: Reweight("red", 2.5, renormalise=True, **more), reweighted),
    "add": (
        lambda **more: Add("red", 0.3, **more),
        lambda: 0.7 * WHOLE + 0.3 * columns(*RED, value=0.5),
    ),
    "inject": (lambda **more: InjectMap("red", MAP, **more), injected),
    "inject weaker": (
        lambda **more: InjectMap("red", MAP, strength=0.4, **more),
        lambda: injected(0.4),
    ),
}
"""Edits that renormalise, and what they make of the shares of all keys."""


def output_of(edit: Edit, **changes: Any) -> Tensor:
    """fp32 `(images, heads, places, d)`: what the places take under an edit."""
    here = context(**changes)
    only = _only(edit, here)
    acting = ActingEdit(edit, edit.prepare(here), here, only, torch.tensor(True))
    seen = Seen(SITE, None, CALL, Reading((1, HEIGHT, WIDTH), portion=PORTION))
    output = seen.output([((0, 1), acting)])
    assert acting.finite
    rest = torch.ones(LENGTH, dtype=torch.bool)
    rest[PICTURE] = False
    assert torch.equal(output[:, :, rest], CALL.output[:, :, rest])
    return output[:, :, PICTURE]


def kept(shares: Tensor) -> Tensor:
    """All keys' shares with the text's changed, and the others as they were."""
    whole = WHOLE.clone()
    whole[..., TEXT] = shares.double()
    return whole


def agree(output: Tensor, whole: Tensor) -> bool:
    return torch.allclose(output.double(), whole @ CALL.value.double(), atol=1e-6)


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("rest", [None, "shared"])
def test_shared_as_in_one_softmax_over_all_keys(name: str, rest: Any) -> None:
    """This is how they act if nothing is said."""
    make, expected = SHARED[name]
    edit, whole = make(rest=rest), expected()
    assert edit.scales_the_rest
    assert torch.allclose(whole.sum(-1), torch.ones(()).double())
    edited = edit(SHARES, context())
    assert torch.allclose(edited.double(), whole[..., TEXT], atol=1e-6)
    assert agree(output_of(edit), whole)


@pytest.mark.parametrize("name", [name for name in SHARED if "inject" not in name])
def test_kept_as_in_a_softmax_of_the_text_alone(name: str) -> None:
    """The text's shares keep their sum, and are in it what the edit makes of cross-attention."""
    edit = SHARED[name][0](rest="kept")
    assert not edit.scales_the_rest
    edited, sums = edit(SHARES, context()), SHARES.sum(-1, keepdim=True)
    assert torch.allclose(edited.sum(-1, keepdim=True), sums, atol=1e-6)
    crossing = context(site=dataclasses.replace(SITE, kind="cross"))
    assert torch.allclose(edited, edit(SHARES / sums, crossing) * sums, atol=1e-6)
    assert agree(output_of(edit), kept(edited))
    assert not torch.allclose(edited, SHARES, atol=1e-3)


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_a_map_gets_no_more_than_the_text_has_where_the_rest_is_kept(strength: float) -> None:
    edit = InjectMap("red", MAP, strength=strength, rest="kept")
    edited, sums = edit(SHARES, context()), SHARES.sum(-1, keepdim=True)
    assert torch.allclose(edited.sum(-1, keepdim=True), sums, atol=1e-6)
    given = torch.minimum(torch.from_numpy(MAP).flatten()[:, None] * strength, sums)
    assert torch.allclose(edited[..., list(RED)], (given / 2).expand(-1, -1, -1, 2), atol=1e-6)
    others = [token for token in range(TOKENS) if token not in RED]
    before, after = SHARES[..., others], edited[..., others]
    assert torch.allclose(after, before * (sums - given) / before.sum(-1, keepdim=True), atol=1e-6)
    assert agree(output_of(edit), kept(edited))


@pytest.mark.parametrize(
    "edit",
    [
        Drop("red", renormalise=False),
        Reweight("red", 2.5),
        Reweight("red", -1.0),
        Temperature(0.5),
        SwapMaps("red", "blue"),
        EditFunction(lambda probs, _: probs * 1.2),
    ],
)
def test_others_leave_the_rest_as_it_was(edit: Edit) -> None:
    assert not edit.scales_the_rest
    assert agree(output_of(edit), kept(edit(SHARES, context())))


def test_others_may_be_asked_to_share() -> None:
    edit = Drop("red", renormalise=False, rest="shared")
    assert edit.scales_the_rest
    whole = WHOLE * (1 - columns(*RED))
    left = 1 - whole[..., TEXT].sum(-1, keepdim=True)
    outside = torch.ones(LENGTH, dtype=torch.float64)
    outside[TEXT] = 0
    rest = whole * outside
    expected = whole * (1 - outside) + rest * left / rest.sum(-1, keepdim=True)
    assert agree(output_of(edit), expected)


def test_temperature_acts_among_the_texts_keys() -> None:
    edited = Temperature(0.5)(SHARES, context())
    text = SCORES[:, :, PICTURE, TEXT]
    expected = (text / 0.5).softmax(dim=-1) * WHOLE[..., TEXT].sum(-1, keepdim=True)
    assert torch.allclose(edited.double(), expected, atol=1e-6)


@pytest.mark.parametrize("rest", ["shared", "kept"])
def test_all_of_the_text_dropped(rest: Any) -> None:
    """The rest gets all, or all is lost; nothing becomes NaN."""
    everything = (Word("all", 0, 3, tuple(range(TOKENS)), "word"),)
    here = {"words": (everything,) * IMAGES}
    edited = Drop("all", rest=rest)(SHARES, context(**here))
    assert not edited.any()
    outside = torch.ones(LENGTH, dtype=torch.float64)
    outside[TEXT] = 0
    whole = WHOLE * outside
    whole = to_one(whole) if rest == "shared" else whole
    assert agree(output_of(Drop("all", rest=rest), **here), whole)


@pytest.mark.parametrize("name", SHARED)
def test_images_that_are_not_chosen_are_as_they_were(name: str) -> None:
    make, expected = SHARED[name]
    output = output_of(make(images=[1]), images=(1,))
    assert torch.equal(output[0], CALL.output[0][:, PICTURE])
    assert torch.allclose(output[1].double(), (expected() @ CALL.value.double())[1], atol=1e-6)


@pytest.mark.parametrize("rest", ["shared", "kept"])
def test_what_changes_nothing(rest: Any) -> None:
    for edit in (
        Reweight("red", 1.0, renormalise=True, rest=rest),
        TopK(TOKENS, rest=rest),
        Add("red", 0.0, rest=rest),
        Restrict("red", (0, 0, 1, 1), rest=rest),
    ):
        assert torch.allclose(edit(SHARES, context()), SHARES, atol=1e-6)
        assert agree(output_of(edit), WHOLE)


def test_in_cross_attention_the_rest_is_nothing() -> None:
    crossing = context(site=dataclasses.replace(SITE, kind="cross"))
    probs = renormalised(SHARES)
    for make, _ in SHARED.values():
        one, other = (make(rest=rest)(probs, crossing) for rest in ("shared", "kept"))
        assert torch.equal(one, other)
        assert torch.allclose(one.sum(-1), torch.ones(()), atol=1e-6)


def test_a_sink_of_attention_in_half_precision() -> None:
    """Where places look almost only at the padding, hiding it scales what is left by a lot."""
    drawn = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(IMAGES, 2, LENGTH, 64, generator=drawn) for _ in range(3))
    sinks = [3 + column for column in PADDING]
    query[..., 0] = 8
    key[:, :, sinks] = 0
    key[:, :, sinks, 0] = 8
    query, key, value = (each.bfloat16() for each in (query, key, value))
    output = scaled_dot_product_attention(query, key, value)
    scores = query.double() @ key.double().transpose(-1, -2) / 8
    assert scores.softmax(dim=-1)[:, :, PICTURE, sinks].sum(-1).mean() > 0.98
    edit, here = MaskPadding(), context()
    acting = ActingEdit(edit, edit.prepare(here), here, None, torch.tensor(True))
    call = KernelCall(query, key, value, output, None, 1 / 8)
    seen = Seen(SITE, None, call, Reading((1, HEIGHT, WIDTH), portion=PORTION))
    found = seen.output([((0, 1), acting)])[:, :, PICTURE]
    scores[..., sinks] = float("-inf")
    expected = (scores.softmax(dim=-1) @ value.double())[:, :, PICTURE]
    assert torch.allclose(found.double(), expected, atol=0.02)


def test_no_such_rest() -> None:
    wrong: Any = "none"
    with pytest.raises(UserError, match="'shared' or 'kept' or None as rest of Drop"):
        Drop("red", rest=wrong)
