"""Whose the rows of a denoiser's call are: by the text that each is given, then by what is known of
the pipeline, and else one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from t2i_xattn.denoisers.families.unet import UNet
from t2i_xattn.denoisers.rows import Layout, layout_of
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.encoded import Text

TOKENS, CHANNELS = 5, 6
GUIDED = ("unconditional", "conditional")
PIX2PIX = ("conditional", "image", "unconditional")
PERTURBED = ("unconditional", "conditional", "perturbed")
START, END = 0, 1


def states(seed: int, channels: int = CHANNELS) -> Tensor:
    return torch.randn(TOKENS, channels, generator=torch.Generator().manual_seed(seed))


RED, CAT, NOTHING, NEGATIVE = (states(seed) for seed in range(4))
OTHER = states(9)
IDS = {"red": (START, 2, END), "cat": (START, 3, 4, END), "": (START, END), "ugly": (START, 5, END)}


def told(embedding: Tensor, role: str | None, picture: int = 0, prompt: str | None = None) -> Text:
    ids = None if prompt is None else IDS[prompt]
    return Text(embedding, role, picture, prompt, ids=ids)


ONE = [told(RED, "conditional", 0, "red"), told(NOTHING, "unconditional", 0, "")]
TWO = [
    told(RED, "conditional", 0, "red"),
    told(CAT, "conditional", 1, "cat"),
    told(NOTHING, "unconditional", 0, ""),
    told(NEGATIVE, "unconditional", 1, "ugly"),
]


def rows(*given: Tensor) -> Tensor:
    return torch.stack(given)


def laid(
    text: Tensor,
    texts: Sequence[Text],
    names: tuple[str, ...] | None,
    sample: Tensor | None = None,
) -> Layout:
    """Of a call of a UNet, whose latents `(rows, 4, frames, 2, 2)` are of a video."""
    if sample is None:
        sample = torch.randn(len(text), 4, 2, 2)
    given = {"sample": sample, "timestep": 1, "encoder_hidden_states": text}
    call = UNet().call(nn.Identity(), given)
    assert call is not None
    return layout_of(call, texts, names)


def prompts(layout: Layout, branch: str) -> list[str | None]:
    return [None if each is None else each.prompt for each in layout.texts[branch]]


class TestByText:
    """The pipeline has said what each text is for, and its rows are found wherever they stand."""

    @pytest.mark.parametrize("names", [GUIDED, None, ("conditional",), PIX2PIX])
    @pytest.mark.parametrize("turned", [False, True])
    def test_either_order(self, names: Any, turned: bool) -> None:
        """Whatever is known of the pipeline."""
        given = rows(RED, NOTHING) if turned else rows(NOTHING, RED)
        layout = laid(given, ONE, names)
        first, second = ((0,), (1,)) if turned else ((1,), (0,))
        assert layout.rows == {"conditional": first, "unconditional": second}
        assert layout.images == layout.frames == 1
        assert prompts(layout, "conditional") == ["red"]
        assert prompts(layout, "unconditional") == [""]

    def test_several_pictures(self) -> None:
        layout = laid(rows(NOTHING, NEGATIVE, RED, CAT), TWO, GUIDED)
        assert layout.rows == {"unconditional": (0, 1), "conditional": (2, 3)}
        assert layout.images == 2
        assert prompts(layout, "conditional") == ["red", "cat"]
        assert prompts(layout, "unconditional") == ["", "ugly"]

    def test_branches_in_turn_for_each_picture(self) -> None:
        layout = laid(rows(RED, NOTHING, CAT, NEGATIVE), TWO, GUIDED)
        assert layout.rows == {"conditional": (0, 2), "unconditional": (1, 3)}
        assert prompts(layout, "conditional") == ["red", "cat"]

    @pytest.mark.parametrize(
        ("given", "names", "expected"),
        [
            (RED, ("conditional",), "conditional"),
            (RED, ("unconditional", "conditional"), "conditional"),  # it says nothing of a call
            (NOTHING, ("conditional",), "unconditional"),
            (NOTHING, ("unconditional",), "unconditional"),
            (NOTHING, ("image",), "image"),
            (RED, ("perturbed",), "perturbed"),
        ],
    )
    def test_one_branch_a_call(self, given: Tensor, names: Any, expected: str) -> None:
        """A guider says what the text alone cannot."""
        layout = laid(rows(given), ONE, names)
        assert layout.rows == {expected: (0,)}
        assert prompts(layout, expected) == ["red" if given is RED else ""]

    def test_pictures_of_one_prompt(self) -> None:
        texts = [told(RED, "conditional", n, "red") for n in range(3)]
        texts += [told(NOTHING, "unconditional", n, "") for n in range(3)]
        layout = laid(rows(*[RED] * 3, *[NOTHING] * 3), texts, GUIDED)
        assert layout.rows == {"conditional": (0, 1, 2), "unconditional": (3, 4, 5)}
        assert [each and each.picture for each in layout.texts["conditional"]] == [0, 1, 2]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_in_the_type_of_the_denoiser(self, dtype: torch.dtype) -> None:
        """The text encoder's may be a finer one, or a coarser."""
        layout = laid(rows(RED, NOTHING).to(dtype), ONE, GUIDED)
        assert layout.rows == {"conditional": (0,), "unconditional": (1,)}
        coarse = [Text(each.embedding.to(dtype), each.role, 0, each.prompt) for each in ONE]
        finer = rows(*(each.embedding.float() for each in coarse))
        assert laid(finer, coarse, GUIDED).rows == {"conditional": (0,), "unconditional": (1,)}

    def test_what_is_only_alike_is_not_the_same(self) -> None:
        layout = laid(rows(RED + 1e-3, NOTHING), ONE, ("conditional", "unconditional"))
        assert layout.rows == {"conditional": (0,), "unconditional": (1,)}
        assert layout.texts["conditional"] == (None,)


class TestByOrder:
    """The texts leave it open; the pipeline's order is taken where it agrees with them."""

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (GUIDED, {"unconditional": (0, 1), "conditional": (2, 3)}),
            (("conditional",), {"conditional": (0, 1, 2, 3)}),
            (("conditional", "perturbed"), {"conditional": (0, 1), "perturbed": (2, 3)}),
        ],
    )
    def test_texts_that_nobody_has_heard(self, names: Any, expected: Any) -> None:
        layout = laid(rows(RED, CAT, NOTHING, NEGATIVE), [], names)
        assert layout.rows == expected
        assert {text for each in layout.texts.values() for text in each} == {None}

    def test_the_same_text_for_two_branches(self) -> None:
        """An empty prompt, or one that is its own negative."""
        texts = [told(RED, "conditional", 0, "red"), told(RED, "unconditional", 0, "red")]
        layout = laid(rows(RED, RED), texts, GUIDED)
        assert layout.rows == {"unconditional": (0,), "conditional": (1,)}
        assert [each and each.role for each in layout.texts["unconditional"]] == ["unconditional"]
        assert [each and each.role for each in layout.texts["conditional"]] == ["conditional"]

    def test_more_branches_than_texts(self) -> None:
        layout = laid(rows(RED, NOTHING, NOTHING), ONE, PIX2PIX)
        assert layout.rows == {"conditional": (0,), "image": (1,), "unconditional": (2,)}
        assert prompts(layout, "image") == [""]
        layout = laid(rows(NOTHING, RED, RED), ONE, PERTURBED)
        assert layout.rows == {"unconditional": (0,), "conditional": (1,), "perturbed": (2,)}
        assert prompts(layout, "perturbed") == ["red"]

    def test_one_prompt_for_several_pictures(self) -> None:
        """A pipeline that repeats its embeddings after it has encoded them."""
        layout = laid(rows(NOTHING, RED), ONE, GUIDED)
        assert layout.images == 1
        for names in (GUIDED, None, ("conditional",)):
            if names == ("conditional",):
                layout = laid(rows(RED, RED, RED), ONE, names)
                assert layout.rows == {"conditional": (0, 1, 2)}
                continue
            layout = laid(rows(NOTHING, NOTHING, RED, RED), ONE, names)
            assert layout.rows == {"unconditional": (0, 1), "conditional": (2, 3)}
            assert layout.images == 2
            assert prompts(layout, "conditional") == ["red", "red"]
            layout = laid(rows(NOTHING, RED, NOTHING, RED), ONE, names)
            assert layout.rows == {"unconditional": (0, 2), "conditional": (1, 3)}
            if names != GUIDED:  # one branch a call
                layout = laid(rows(RED, RED, RED), ONE, names)
                assert layout.rows == {"conditional": (0, 1, 2)}
        given = [NOTHING] * 2 + [NEGATIVE] * 2 + [RED] * 2 + [CAT] * 2
        layout = laid(rows(*given), TWO, GUIDED)
        assert layout.rows == {"unconditional": (0, 1, 2, 3), "conditional": (4, 5, 6, 7)}
        assert prompts(layout, "conditional") == ["red", "red", "cat", "cat"]
        assert prompts(layout, "unconditional") == ["", "", "ugly", "ugly"]

    def test_a_branch_that_is_not_heard_beside_one_that_is(self) -> None:
        """Null-text inversion hands over an unconditional embedding of its own at each step."""
        layout = laid(rows(OTHER, RED), ONE, GUIDED)
        assert layout.rows == {"unconditional": (0,), "conditional": (1,)}
        assert layout.texts["unconditional"] == (None,)
        assert prompts(layout, "conditional") == ["red"]

    def test_embeddings_of_the_users_own_have_the_words_that_their_encoder_was_given(self) -> None:
        heard = told(RED, None, 0, "red")
        texts = [heard, told(RED, "conditional"), told(NOTHING, "unconditional", 0, "")]
        layout = laid(rows(NOTHING, RED), texts, GUIDED)
        assert layout.texts["conditional"] == (heard,)


class TestFrames:
    @pytest.mark.parametrize("each_frame", [False, True])
    def test_rows_of_a_video_stand_frame_by_frame(self, each_frame: bool) -> None:
        """Whether the denoiser is given a text for each frame or for each video."""
        repeat = 3 if each_frame else 1
        text = rows(NOTHING, NEGATIVE, RED, CAT).repeat_interleave(repeat, dim=0)
        layout = laid(text, TWO, GUIDED, torch.randn(4, 4, 3, 2, 2))
        assert layout.rows == {
            "unconditional": (0, 1, 2, 3, 4, 5),
            "conditional": (6, 7, 8, 9, 10, 11),
        }
        assert (layout.images, layout.frames) == (2, 3)
        assert prompts(layout, "conditional") == ["red", "cat"]

    def test_in_turn(self) -> None:
        text = rows(RED, NOTHING, CAT, NEGATIVE)
        layout = laid(text, TWO, GUIDED, torch.randn(4, 4, 2, 2, 2))
        assert layout.rows == {"conditional": (0, 1, 4, 5), "unconditional": (2, 3, 6, 7)}


HEARD = [told(RED, None, 0, "red"), told(NOTHING, None, 0, "")]
"""A text encoder that was called by hand: nobody says what its texts are for."""


class TestByHand:
    """A loop of one's own over the denoiser: the same latents twice are two branches."""

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (rows(NOTHING, RED), {"unconditional": (0,), "conditional": (1,)}),
            (rows(RED, NOTHING), {"conditional": (0,), "unconditional": (1,)}),
        ],
    )
    def test_the_half_without_words_is_the_unconditional_one(
        self, given: Tensor, expected: Any
    ) -> None:
        layout = laid(given, HEARD, None, torch.ones(2, 4, 2, 2))
        assert layout.rows == expected
        assert prompts(layout, "conditional") == ["red"]

    def test_where_both_have_words_the_first_is(self) -> None:
        texts = [*HEARD, told(NEGATIVE, None, 0, "ugly")]
        layout = laid(rows(NEGATIVE, RED), texts, None, torch.ones(2, 4, 2, 2))
        assert layout.rows == {"unconditional": (0,), "conditional": (1,)}
        assert prompts(layout, "unconditional") == ["ugly"]

    def test_other_latents_are_other_pictures(self) -> None:
        texts = [*HEARD, told(CAT, None, 1, "cat")]
        layout = laid(rows(RED, CAT), texts, None)
        assert layout.rows == {"conditional": (0, 1)}
        assert prompts(layout, "conditional") == ["red", "cat"]

    def test_one_branch_after_the_other(self) -> None:
        assert laid(rows(RED), HEARD, None).rows == {"conditional": (0,)}
        assert laid(rows(NOTHING), HEARD, None).rows == {"unconditional": (0,)}
        # With nothing else it is the prompt.
        assert laid(rows(NOTHING), HEARD[1:], None).rows == {"conditional": (0,)}

    def test_nothing_was_heard(self) -> None:
        assert laid(rows(RED, CAT), [], None).rows == {"conditional": (0, 1)}
        with pytest.raises(UserError, match=r"but 0 of 2 rows are known; encode the prompts ins"):
            laid(rows(NOTHING, RED), [], None, torch.ones(2, 4, 2, 2))

    def test_some_of_it_was_not_heard(self) -> None:
        with pytest.raises(UserError, match="1 of 2 rows are known"):
            laid(rows(RED, OTHER), HEARD, None)

    def test_one_encoder_of_two(self) -> None:
        """SDXL's sites are given the states of both beside each other."""
        first, second, other = states(20, 2), states(21, 4), states(22, 4)
        texts = [told(first, None, 0, "red"), told(second, None, 0, "red")]
        text = torch.cat([first, second], dim=-1)[None]
        layout = laid(text, texts[:1], None)
        assert prompts(layout, "conditional") == ["red"]
        assert prompts(laid(text, texts[1:], None), "conditional") == ["red"]
        with pytest.raises(UserError, match="0 of 1 rows are known"):
            laid(text, [told(other, None, 0, "red")], None)

    def test_what_encode_prompt_said_holds_here_too(self) -> None:
        layout = laid(rows(RED, NOTHING), ONE, None, torch.ones(2, 4, 2, 2))
        assert layout.rows == {"conditional": (0,), "unconditional": (1,)}


class TestSentences:
    @pytest.mark.parametrize(
        ("text", "names"),
        [
            (rows(NOTHING, RED, RED), GUIDED),  # no whole number of branches
            (rows(RED, RED, RED), GUIDED),  # all of one branch
            (rows(NOTHING, RED, RED, RED), GUIDED),  # more of one than of the other
            (rows(NOTHING, OTHER, NOTHING, RED), GUIDED),  # twice as many as were encoded
            (rows(RED, NOTHING, RED), PERTURBED),  # in another order than is known
            (rows(RED, NOTHING, OTHER), GUIDED),
        ],
    )
    def test_other_stacks_are_refused(self, text: Tensor, names: tuple[str, ...]) -> None:
        with pytest.raises(UserError) as raised:
            laid(text, ONE, names)
        told = str(raised.value)
        assert f"the branches {', '.join(names)} of 1 picture, but came {len(text)} " in told
        assert "run it without its other branches" in told
        assert "\n" not in told

    def test_texts_are_told_by_what_they_are_for(self) -> None:
        texts = [*ONE, told(CAT, "conditional", 0, "cat"), told(CAT, "unconditional", 0, "cat")]
        match = "came 3 with the texts conditional, conditional or unconditional, unknown"
        with pytest.raises(UserError, match=match):
            laid(rows(RED, CAT, OTHER), texts, GUIDED)

    def test_fewer_texts_than_latents(self) -> None:
        match = "a text for each of 2 rows of the denoiser's batch, but came 1"
        with pytest.raises(UserError, match=match):
            laid(rows(RED), ONE, GUIDED, torch.randn(2, 4, 2, 2))

    def test_more_texts_than_latents_but_fewer_than_frames(self) -> None:
        with pytest.raises(UserError, match=r"of 2 rows .* but came 4"):
            laid(rows(RED, RED, RED, RED), ONE, GUIDED, torch.randn(2, 4, 3, 2, 2))
