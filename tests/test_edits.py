"""Each edit as a pure function of probs and a context."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import t2i_xattn as tx
from conftest import make_tokenizer
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.edits import (
    Add,
    Drop,
    EditContext,
    EditFunction,
    InjectMap,
    MaskPadding,
    Refine,
    Restrict,
    Reweight,
    SelfReplace,
    SwapMaps,
    Temperature,
    TopK,
)
from t2i_xattn.edits.alignment import (
    PromptTokens,
    aligned_by_place,
    aligned_by_words,
    longest_common,
    matrix_of_pairs,
)
from t2i_xattn.edits.edit import renormalised
from t2i_xattn.edits.picture import at_site, box_coverage, checked_region, region_coverage
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.words import split_words
from t2i_xattn.traces.heat_map import HeatMap

TOKENIZER = make_tokenizer()
SITE = AttentionSite("mid_block.attn2", "cross", 0, "mid", 1, 2)
PROMPT = "a red circle left of blue"
RED, CIRCLE, BLUE = 2, 3, 6


def ids_of(prompt: str) -> tuple[int, ...]:
    """From the start token to the end token."""
    return tuple(TOKENIZER(prompt, truncation=True)["input_ids"])


def context(*prompts: str, images: tuple[int, ...] | None = None, **changes: Any) -> EditContext:
    prompts = prompts or (PROMPT,)
    made = EditContext(
        site=SITE,
        height=4,
        width=6,
        latent_size=(8, 12),
        branch="conditional",
        step=0,
        steps=10,
        timestep=999.0,
        words=tuple(split_words(TOKENIZER, prompt) for prompt in prompts),
        token_ids=tuple(ids_of(prompt) for prompt in prompts),
        tokens=20,
        images=tuple(range(len(prompts))) if images is None else images,
        device=torch.device("cpu"),
        padding=tuple(tuple(range(len(ids_of(prompt)), 20)) for prompt in prompts),
    )
    return dataclasses.replace(made, **changes)


def shares(images: int = 1, seed: int = 0) -> Tensor:
    scores = torch.randn(images, 2, 24, 20, generator=torch.Generator().manual_seed(seed))
    return (3 * scores).softmax(dim=-1)


def sums_to_one(probs: Tensor) -> bool:
    return torch.allclose(probs.sum(-1), torch.ones(probs.shape[:-1]), atol=1e-6)


class TestWeights:
    def test_reweight(self) -> None:
        probs = shares()
        edited = Reweight("red", -2.0)(probs, context())
        assert torch.equal(edited[..., RED], -2 * probs[..., RED])
        assert torch.equal(edited[..., RED + 1 :], probs[..., RED + 1 :])
        edited = Reweight("red circle", 3.0, renormalise=True)(probs, context())
        assert sums_to_one(edited)
        ratio = edited[..., RED] / edited[..., BLUE]
        assert torch.allclose(ratio, 3 * probs[..., RED] / probs[..., BLUE], rtol=1e-4)

    def test_drop(self) -> None:
        probs = shares()
        kept, lost = (Drop("red", renormalise=each)(probs, context()) for each in (True, False))
        assert not kept[..., RED].any()
        assert not lost[..., RED].any()
        assert torch.allclose(kept, lost / (1 - probs[..., RED, None]), atol=1e-6)
        masked = probs.log()
        masked[..., RED] = float("-inf")
        assert torch.allclose(kept, masked.softmax(-1), atol=1e-6)

    def test_add(self) -> None:
        probs = shares()
        edited = Add("red circle", 0.3)(probs, context())
        assert sums_to_one(edited)
        assert torch.allclose(edited[..., BLUE], 0.7 * probs[..., BLUE])
        assert torch.allclose(edited[..., CIRCLE], 0.7 * probs[..., CIRCLE] + 0.15)

    def test_only_the_images_that_are_to_be(self) -> None:
        probs = shares(2)
        edited = Drop("red")(probs, context(PROMPT, "blue", images=(0,)))
        assert not edited[0, ..., RED].any()
        assert torch.allclose(edited[1], probs[1], atol=1e-7)


class TestDistribution:
    @pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
    def test_temperature_is_that_of_the_scores(self, temperature: float) -> None:
        scores = 5 * torch.randn(1, 2, 24, 20)
        edited = Temperature(temperature)(scores.softmax(-1), context())
        assert torch.allclose(edited, (scores / temperature).softmax(-1), atol=1e-6)

    def test_a_query_that_looks_at_nothing_goes_on_doing_so(self) -> None:
        probs = torch.zeros(1, 2, 24, 20)
        for edit in (Temperature(2.0), TopK(3), MaskPadding(), Drop("red")):
            assert torch.equal(edit(probs, context()), probs)

    @settings(max_examples=30, deadline=None)
    @given(k=st.integers(1, 25), seed=st.integers(0, 1000))
    def test_top_k(self, k: int, seed: int) -> None:
        probs = shares(seed=seed)
        edited = TopK(k)(probs, context())
        assert sums_to_one(edited)
        assert ((edited > 0).sum(-1) == min(k, 20)).all()
        kept = edited > 0
        least = probs.masked_fill(~kept, 2).amin(-1)
        assert (least >= probs.masked_fill(kept, -1).amax(-1)).all()
        assert torch.allclose(
            edited, torch.where(kept, probs, 0) / (probs * kept).sum(-1)[..., None]
        )

    @settings(max_examples=20, deadline=None)
    @given(words=st.lists(st.sampled_from(["red", "a", "of", "green,"]), max_size=4))
    def test_padding(self, words: list[str]) -> None:
        here = context(" ".join(words), PROMPT)
        edited = MaskPadding()(shares(2), here)
        assert sums_to_one(edited)
        for image, ids in enumerate(here.token_ids):
            assert ids is not None
            end = min(len(ids), 20)
            assert not edited[image, ..., end:].any()
            assert (edited[image, ..., :end] > 0).all()

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8))
    def test_renormalised(self, row: list[float]) -> None:
        total = renormalised(torch.tensor(row)).sum()
        assert torch.isclose(total, torch.tensor(float(any(row))), atol=1e-5)


class TestMaps:
    def test_swap(self) -> None:
        probs = shares()
        edited = SwapMaps("red", "blue")(probs, context())
        order = list(range(20))
        order[RED], order[BLUE] = BLUE, RED
        assert torch.allclose(edited, probs[..., order], atol=1e-7)

    def test_swap_with_a_word_of_more_tokens(self) -> None:
        probs, here = shares(), context("a red cat")
        cat = list(here.columns("cat", 0))
        assert len(cat) > 1
        edited = SwapMaps("red", "cat")(probs, here)
        assert torch.allclose(edited[..., RED], probs[..., cat].sum(-1), atol=1e-6)
        assert torch.allclose(edited[..., cat].sum(-1), probs[..., RED], atol=1e-6)
        assert torch.allclose(edited[..., cat[0]], edited[..., cat[1]])
        assert sums_to_one(edited)

    def test_inject(self) -> None:
        probs = shares()
        given = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
        edited = InjectMap("red circle", given, strength=0.5)(probs, context())
        assert sums_to_one(edited)
        got = edited[0, :, :, [RED, CIRCLE]].sum(-1)
        assert torch.allclose(got, torch.from_numpy(given).flatten() / 2, atol=1e-6)
        ratio = edited[..., BLUE] / edited[..., 0]
        assert torch.allclose(ratio, probs[..., BLUE] / probs[..., 0], rtol=1e-4)
        heat = HeatMap("red", np.full((32, 48), 0.25))
        edited = InjectMap("red", heat)(probs, context())
        assert torch.allclose(edited[..., RED], torch.tensor(0.25))

    def test_inject_what_was_recorded(self, pipe: Any, draw: Any) -> None:
        with tx.record(pipe) as source:
            draw(pipe, "blue left of red")
        with tx.edit(pipe, InjectMap("red", source)), tx.record(pipe) as trace:
            draw(pipe, "a red circle")
        of = source.words[-1].columns
        for site in trace.sites:
            one = trace.to_numpy("edited")[site.name][..., RED]
            other = source.to_numpy()[site.name][..., list(of)].sum(-1)
            # A mean over the steps, and the same in each of them.
            assert np.allclose(one, other, atol=1e-6)


class TestRestrict:
    def test_box(self) -> None:
        probs = shares()
        edited = Restrict("red", (0, 0, 0.5, 0.5))(probs, context())
        assert sums_to_one(edited)
        red, own = (each[0, :, :, RED].reshape(2, 4, 6) for each in (edited, probs))
        assert torch.equal(red[:, :2, :3] > 0, torch.ones(2, 2, 3, dtype=torch.bool))
        assert torch.allclose(red[:, :2, :3], own[:, :2, :3])
        assert not red[:, 2:].any()
        assert not red[:, :, 3:].any()

    @pytest.mark.parametrize("scale", [1, 4])
    def test_mask_and_picture_are_like_the_box(self, scale: int) -> None:
        mask = np.zeros((4, 6), dtype=bool)
        mask[:2, :3] = True
        mask = mask.repeat(scale, 0).repeat(scale, 1)
        expected = Restrict("red", (0, 0, 0.5, 0.5))(shares(), context())
        for region in (mask, mask.astype(np.float64), Image.fromarray(mask)):
            edited = Restrict("red", region)(shares(), context())
            assert torch.allclose(edited, expected, atol=1e-6)

    @pytest.mark.parametrize("pixels", [(8, 12), (2, 3), (40, 60), (400, 600)])
    def test_a_place_of_a_mask_has_what_lies_in_it(self, pixels: tuple[int, int]) -> None:
        """Counted on a grid that is finer than both, with edges through places and pixels."""
        height, width = pixels
        mask = (np.random.default_rng(0).random(pixels) < 0.5).astype(np.float32)
        fine = mask.repeat(400 // height, 0).repeat(600 // width, 1)
        for here in (context(), context(height=5, width=8)):
            found = region_coverage(checked_region(mask), here)
            rows, columns = 400 // here.height, 600 // here.width
            counted = fine.reshape(here.height, rows, here.width, columns).mean(axis=(1, 3))
            np.testing.assert_allclose(found, counted, atol=1e-6)

    def test_a_map_that_is_coarser_has_slopes(self) -> None:
        given = torch.tensor([[0.0, 1.0]]).repeat(2, 1)
        here = context(height=8, width=8, latent_size=(8, 8))
        row = at_site("a map", given, here, smooth=True)[0]
        assert torch.allclose(row, torch.tensor([0, 0, 1, 3, 5, 7, 8, 8]) / 8)

    def test_a_small_box_does_not_vanish(self) -> None:
        covered = box_coverage((0.1, 0.1, 0.2, 0.15), 2, 2)
        assert torch.allclose(covered, torch.tensor([[0.2 * 0.1, 0], [0, 0]]))


class TestAlignment:
    @settings(max_examples=100, deadline=None)
    @given(st.text("abc", max_size=8), st.text("abc", max_size=8))
    def test_longest_common(self, one: str, other: str) -> None:
        pairs = longest_common(one, other)
        assert all(one[i] == other[j] for i, j in pairs)
        assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(pairs))
        subsequences = {
            "".join(one[i] for i in range(len(one)) if mask >> i & 1)
            for mask in range(2 ** len(one))
        }
        best = max(len(each) for each in subsequences if _is_subsequence(each, other))
        assert len(pairs) == best

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.sampled_from(["red", "cat", "blue,", "of"]), max_size=4),
        st.lists(st.sampled_from(["red", "cat", "blue,", "of"]), max_size=4),
    )
    def test_words_give_all_that_they_have(self, one: list[str], other: list[str]) -> None:
        source, target = tokens(" ".join(one)), tokens(" ".join(other))
        matrix = aligned_by_words(source, target)
        assert ((matrix >= 0) & (matrix <= 1)).all()
        given, got = matrix.sum(-1), matrix.sum(-2)
        assert (torch.isclose(given, torch.tensor(1.0)) | (given == 0)).all()
        assert (torch.isclose(got, torch.tensor(1.0)) | (got == 0)).all()  # same words: one to one
        assert matrix[0, 0] == 1
        assert matrix[len(source.ids) - 1, len(target.ids) - 1] == 1
        if one == other:
            assert torch.equal(matrix, torch.eye(40))
            assert torch.equal(aligned_by_place(source, target), torch.eye(40))

    def test_spread_evenly(self) -> None:
        matrix = matrix_of_pairs([((0,), (0,)), ((1, 2), (1, 2, 3))], 4, 5)
        assert torch.allclose(matrix[1:3, 1:4], torch.full((2, 3), 1 / 3))
        assert torch.allclose(matrix.sum(-1), torch.tensor([1.0, 1, 1, 0]))

    def test_swaps_of_phrases(self) -> None:
        source, target = tokens("a red circle of blue"), tokens("a cat of blue, red")
        cat = next(word.columns for word in target.words if word.text == "cat")
        matrix = aligned_by_words(source, target, {"red circle": "cat"})
        assert torch.allclose(matrix[[2, 3]][:, list(cat)], torch.tensor(1 / len(cat)))
        assert matrix[4, cat[-1] + 1] == matrix[5, cat[-1] + 2] == 1  # of, blue

    def test_mistakes(self) -> None:
        source, target = tokens("a red circle"), tokens("a red circle left of blue")
        with pytest.raises(UserError, match=r"came 3 words and 6; say which .* use Refine"):
            aligned_by_place(source, target)
        with pytest.raises(UserError, match="'green' is not in the prompt"):
            aligned_by_words(source, target, {"green": "blue"})
        with pytest.raises(UserError, match="'red circle' stands in two"):
            aligned_by_words(source, target, {"red": "blue", "red circle": "left"})
        with pytest.raises(UserError, match="same order in both prompts, but 1 of 2 do"):
            aligned_by_words(source, target, {"red": "blue", "circle": "left"})
        gone = context("a red circle", "blue", images=(1,), token_ids=(None, None))
        with pytest.raises(UserError, match="prompts as text for Refine"):
            Refine()(shares(2), gone)
        gone = dataclasses.replace(gone, padding=(None, None))
        with pytest.raises(UserError, match="prompts as text for MaskPadding"):
            MaskPadding()(shares(2), gone)


def _is_subsequence(short: str, long: str) -> bool:
    letters = iter(long)
    return all(letter in letters for letter in short)


def tokens(prompt: str) -> PromptTokens:
    return PromptTokens(split_words(TOKENIZER, prompt), ids_of(prompt), 40)


def plain(probs: Tensor, context: EditContext) -> Tensor:
    return probs


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: Reweight("red", float("nan")),
            "expected a number as weight of Reweight, but came nan",
        ),
        (lambda: Reweight("red", "2"), "expected a number as weight of Reweight"),  # type: ignore[arg-type]
        (lambda: Reweight("red", -1.0, renormalise=True), "weight of 0 or more"),
        (lambda: Add("red", 1.5), "share from 0 to 1 for Add, but came 1.5"),
        (lambda: Temperature(0.0), "temperature above 0"),
        (lambda: TopK(0), "k=1 or more"),
        (lambda: InjectMap("red", np.ones((4, 4)), strength=-1.0), "strength above 0"),
        (lambda: InjectMap("red", np.full((4, 4), 7.0)), "values from 0 to 1, but came 7 to 7"),
        (lambda: InjectMap("red", np.ones((4, 4, 3))), r"shape \(4, 4, 3\)"),
        (lambda: Restrict("red", (0, 0, 1.2, 1)), "box .* inside the picture"),
        (lambda: Restrict("red", (0.5, 0, 0.2, 1)), "top above bottom"),
        (lambda: Restrict("red", (0, 0, float("nan"), 1)), "inside the picture"),
        (lambda: Restrict("red", (0, 0, 1)), r"box \(top, left, bottom, right\)"),
        (lambda: Restrict("red", np.zeros((4, 6))), "0 everywhere"),
        (lambda: Drop("red", steps=(0.5, 0.2)), "first before end"),
        (lambda: Drop("red", steps=(0, 1.5)), "fractions from 0.0 to 1.0"),
        (lambda: Drop("red", steps=0.4), "as steps of Drop, but came 0.4; help"),  # type: ignore[arg-type]
        (lambda: Drop("red", branches="conditonal"), "did you mean 'conditional'"),
        (lambda: Drop("red", branches=[]), r"expected branches=\[…\] with at least one"),
        (lambda: Drop("red", images=[]), r"expected images=\[…\] with at least one"),
        (lambda: TopK(2, words="red"), r"expected words=\[…\] with at least one"),
        (lambda: SelfReplace(words=["red"]), "which looks at no text"),
        (lambda: EditFunction(plain, attention="joint"), "'cross' or 'self' as attention"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_at_once(make: Any, match: str) -> None:
    with pytest.raises(UserError, match=match):
        make()


def test_whole_steps_where_a_pipeline_does_not_say_how_many() -> None:
    assert Drop("red", steps=(1, 4)).window(None) == (1, 4)
    assert Drop("red", steps=(0.29, 1.0)).window(100) == (29, 100)
    with pytest.raises(UserError, match="in whole steps for Drop"):
        Drop("red", steps=(0, 0.5)).window(None)


def test_each_edit_changes_the_picture(pipe: Any, draw: Any) -> None:
    box = (0, 0, 0.5, 0.5)
    mask = np.zeros((8, 8))
    mask[2:5] = 1
    drawn = {draw(pipe).tobytes()}
    edits = [
        Reweight("red", 2.0),
        Drop("red"),
        Drop("red", renormalise=False),
        Add("red", 0.2),
        Temperature(0.5),
        TopK(2),
        MaskPadding(),
        SwapMaps("red", "circle"),
        InjectMap("red", mask),
        Restrict("red", box),
        Restrict("red", mask),
    ]
    for edit in edits:
        with tx.edit(pipe, edit):
            drawn.add(draw(pipe).tobytes())
    assert len(drawn) == 1 + len(edits)
