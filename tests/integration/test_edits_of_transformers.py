"""Edits in joint attention and in the cross-attention of transformers, held against a loop over the
softmax of all keys in fp64; and guidance there."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import t2i_xattn as tx
from t2i_xattn import edits, losses
from t2i_xattn.kernel.call import KernelCall
from t2i_xattn.kernel.shares import shares_of
from tiny.case import Case
from tiny.oracle import Oracle, probs

CHOSEN = {
    "text_first": ["FluxPipeline", "Flux2KleinPipeline with a reference"],
    "picture_first": ["StableDiffusion3Pipeline"],
    "cross": ["PixArtSigmaPipeline"],
    "llm": ["QwenImagePipeline, guided"],
    "by_row": ["ZImagePipeline, guided", "Lumina2Pipeline, guided"],
}
CASES = [
    case
    for module, names in CHOSEN.items()
    for case in importlib.import_module(f"tiny.{module}").CASES
    if case.name in names
]
BY_NAME = {case.name: case for case in CASES}
BOX = (0.0, 0.0, 0.5, 1.0)

Change = Callable[[Tensor, Sequence[int], Sequence[int]], Tensor]
"""From what a picture's places give to all keys `(heads, places, keys)`, the keys of its text and
those of the word, to what they are to give."""


class Changed(Oracle):
    """A run whose pictures' shares of all keys are changed, in fp64."""

    def __init__(self, pipe: Any, case: Case, word: Sequence[int], change: Change) -> None:
        super().__init__(pipe, case.denoiser)
        self.case, self.word, self.change = case, word, change

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = super().__torch_function__(func, types, args, kwargs)
        if func is not functional.scaled_dot_product_attention or not self._inside:
            return output
        seen = self.seen[-1]
        pictures = self.case.pictures(seen)
        value = args[2] if len(args) > 2 else (kwargs or {})["value"]
        if value.shape[1] != output.shape[1]:
            value = value.repeat_interleave(output.shape[1] // value.shape[1], dim=1)
        if not pictures:
            return output
        every, output = probs(seen), output.clone()
        tokens = self.case.columns(self.heard)
        for picture in pictures:
            places = slice(picture.queries.start, picture.queries.stop)
            keys = [picture.keys[column] for column in self.word]
            before = every[picture.row][:, places]
            # What no token stands in is none of the text.
            text = [key for key, one in zip(picture.keys, tokens, strict=False) if one is not None]
            after = self.change(before.clone(), text, keys)
            added = (after - before) @ value[picture.row].double()
            output[picture.row, :, places] += added.to(output)
        return output


def columns_of(case: Case, word: str) -> tuple[int, ...]:
    pipe = case.make()
    with tx.record(pipe) as trace:
        case.run(pipe)
    return next(each.columns for each in trace.words if each.text == word)


def without(shares: Tensor, text: Sequence[int], keys: Sequence[int]) -> Tensor:
    shares[..., list(keys)] = 0
    return shares / shares.sum(-1, keepdim=True)


def louder(shares: Tensor, text: Sequence[int], keys: Sequence[int]) -> Tensor:
    shares[..., list(keys)] *= 1.5
    return shares


def louder_at_all_costs(shares: Tensor, text: Sequence[int], keys: Sequence[int]) -> Tensor:
    shares = louder(shares, text, keys)
    return shares / shares.sum(-1, keepdim=True)


def louder_at_the_rest_s_cost(shares: Tensor, text: Sequence[int], keys: Sequence[int]) -> Tensor:
    rest = 1 - shares[..., text].sum(-1, keepdim=True)
    shares = louder(shares, text, keys)
    factor = (1 - shares[..., text].sum(-1, keepdim=True)).clamp_min(0) / rest
    others = [key for key in range(shares.shape[-1]) if key not in set(text)]
    shares[..., others] *= factor
    return shares


def added(shares: Tensor, text: Sequence[int], keys: Sequence[int]) -> Tensor:
    shares = shares * 0.8
    shares[..., list(keys)] += 0.2 / len(keys)
    return shares


def restricted(grid: tuple[int, ...]) -> Change:
    def change(shares: Tensor, text: Sequence[int], keys: Sequence[int]) -> Tensor:
        *_, height, width = grid
        shares = shares.unflatten(1, (height, width))
        shares[:, height // 2 :, :, list(keys)] = 0
        shares = shares.flatten(1, 2)
        return shares / shares.sum(-1, keepdim=True)

    return change


def without_and_kept(shares: Tensor, text: Sequence[int], keys: Sequence[int]) -> Tensor:
    total = shares[..., text].sum(-1, keepdim=True)
    shares[..., list(keys)] = 0
    shares[..., text] *= total / shares[..., text].sum(-1, keepdim=True)
    return shares


EDITS: dict[str, tuple[edits.Edit, Callable[[Case], Change]]] = {
    "drop": (edits.Drop("circle"), lambda case: without),
    "drop, the rest kept": (edits.Drop("circle", rest="kept"), lambda case: without_and_kept),
    "reweight": (edits.Reweight("circle", 1.5), lambda case: louder),
    "reweight, renormalised": (
        edits.Reweight("circle", 1.5, renormalise=True),
        lambda case: louder_at_all_costs,
    ),
    "add": (edits.Add("circle", 0.2), lambda case: added),
}


@pytest.mark.parametrize("name", list(EDITS))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_edit_is_one_softmax_over_all_keys_changed(case: Case, name: str) -> None:
    edit, change = EDITS[name]
    word = columns_of(case, "circle")
    pipe = case.make()
    plain = case.run(pipe)
    with Changed(pipe, case, word, change(case)) as changed:
        expected = case.run(pipe)
    assert changed.seen
    with tx.edit(pipe, edit):
        found = case.run(pipe)
    assert np.abs(np.asarray(found) - np.asarray(expected)).max() < 2e-5
    assert np.abs(np.asarray(plain) - np.asarray(expected)).max() > 1e-4
    assert np.array_equal(np.asarray(case.run(pipe)), np.asarray(plain))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_word_is_kept_to_its_region(case: Case) -> None:
    word, height = columns_of(case, "circle"), case.grid[-2]
    pipe = case.make()
    with Changed(pipe, case, word, restricted(case.grid)):
        expected = case.run(pipe)
    box = (0.0, 0.0, height // 2 / height, 1.0)
    with tx.edit(pipe, edits.Restrict("circle", box)):
        found = case.run(pipe)
    assert np.abs(np.asarray(found) - np.asarray(expected)).max() < 2e-5


def test_the_rest_makes_room_where_it_is_asked_to() -> None:
    case = BY_NAME["FluxPipeline"]
    word = columns_of(case, "circle")
    pipe = case.make()
    with Changed(pipe, case, word, louder_at_the_rest_s_cost):
        expected = case.run(pipe)
    with tx.edit(pipe, edits.Reweight("circle", 1.5, rest="shared")):
        found = case.run(pipe)
    assert np.abs(np.asarray(found) - np.asarray(expected)).max() < 2e-5


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_edit_that_changes_nothing_leaves_the_same_bytes(case: Case) -> None:
    pipe = case.make()
    plain = np.asarray(case.run(pipe))
    with tx.edit(pipe, edits.Reweight("circle", 1.0), lambda probs, context: probs):
        same = np.asarray(case.run(pipe))
    assert np.array_equal(plain, same)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_stream_after_edits_is_recorded(case: Case) -> None:
    pipe = case.make()
    with tx.edit(pipe, edits.Drop("circle")), tx.record(pipe) as trace:
        case.run(pipe)
    word = next(each.columns for each in trace.words if each.text == "circle")
    for site in trace.sites:
        maps = trace.run.maps
        before, after = (maps[each][site.name][0, 0, 0, 0] for each in ("text", "edited"))
        assert before[..., list(word)].sum() > 0
        assert not after[..., list(word)].any()
        others = [c for c in range(before.shape[-1]) if c not in word]
        assert (after[..., others] >= before[..., others] - 1e-7).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_padding_is_masked(case: Case) -> None:
    """What fills the text's sequence up gets nothing; where there is none, nothing changes."""
    pipe = case.make()
    with tx.edit(pipe, edits.MaskPadding()), tx.record(pipe) as trace, Oracle(pipe) as oracle:
        case.run(pipe)
    columns = case.columns(oracle.heard)
    tokens = trace.run.maps["text"][trace.sites[0].name].shape[-1]
    words = {column for word in trace.words for column in word.columns}
    for site in trace.sites:
        after = trace.run.maps["edited"][site.name][0, 0, 0, 0]
        masked = {c for c in range(tokens) if not after[..., c].any()}
        assert not masked & words
        assert {c for c in range(tokens) if columns[c] is None} <= masked


@pytest.mark.parametrize("case", CASES, ids=str)
def test_guidance_moves_a_word_into_its_box(case: Case) -> None:
    pipe = case.make()
    plain = np.asarray(case.run(pipe))
    with tx.record(pipe) as before:
        case.run(pipe)
    loss = losses.Layout({"circle": BOX}, until=1.0, iterations=3, scale=300.0)
    with tx.guide(pipe, loss), tx.record(pipe) as after:
        case.run(pipe)

    def inside(trace: Any) -> float:
        array = trace.heatmap("circle").array
        return float(array[: len(array) // 2].sum() / array.sum())

    assert inside(after) > inside(before) + 0.01
    assert np.array_equal(np.asarray(case.run(pipe)), plain)


def test_gradients_reach_the_latents_as_through_a_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, n, 4, generator=generator) for n in (6, 9))
    grads = []
    for explicit in (True, False):
        asked = query.clone().requires_grad_(True)
        if explicit:
            shares = (asked @ key.mT * 0.5).softmax(-1)[..., 2:5, :][..., 4:9]
        else:
            call = KernelCall(asked, key, key, asked, None, 0.5)
            shares = shares_of(call, (0,), range(2, 5), range(4, 9))
        (gradient,) = torch.autograd.grad(shares.square().sum(), asked)
        grads.append(gradient)
    assert torch.allclose(grads[0], grads[1], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        # CLIP's columns, then T5's: a word has some of both, and there is padding in between.
        ("StableDiffusion3Pipeline", {"circle": "octagon"}),
        ("FluxPipeline", {"circle": "octagon"}),
    ],
)
def test_maps_go_from_word_to_word(name: str, pairs: dict[str, str]) -> None:
    case, prompts = BY_NAME[name], ["a red circle", "a red octagon"]
    pipe = case.make()
    seen: dict[str, Tensor] = {}
    contexts: list[edits.EditContext] = []

    def noted(key: str) -> Callable[[Tensor, edits.EditContext], Tensor]:
        def note(probs: Tensor, context: edits.EditContext) -> Tensor:
            seen.setdefault(key, probs)
            contexts.append(context)
            return probs

        return note

    with tx.edit(pipe, noted("before"), edits.Replace(), noted("after")):
        # Without `negative_prompt=`, which would be one for two prompts.
        given = dict(case.options) | {"num_inference_steps": 1, "output_type": "latent"}
        pipe(prompts, **given)
    before, after, context = seen["before"], seen["after"], contexts[0]
    assert torch.equal(after[0], before[0])
    source, target = ({word.text: word for word in words} for words in context.words)
    for one, other in {"a": "a", "red": "red", **pairs}.items():
        theirs, ours = source[one], target[other]
        for encoder in set(theirs.encoders):
            mine, yours = (
                [c for c, e in zip(word.columns, word.encoders, strict=True) if e == encoder]
                for word in (theirs, ours)
            )
            assert torch.allclose(
                after[1][..., yours].sum(-1), before[0][..., mine].sum(-1), atol=1e-6
            )
    assert context.padding[0]
    assert context.padding[1]
    both = sorted(set(context.padding[0]) & set(context.padding[1]))
    assert torch.equal(after[1][..., both], before[0][..., both])
