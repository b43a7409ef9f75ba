"""What a user can do wrong around a recording: one sentence, told as early as it can be known, and
a pipeline that is left as it was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conftest import make_unet, state_of
from t2i_xattn.denoisers.sites import find_sites
from t2i_xattn.errors import UserError, WordNotFoundError
from t2i_xattn.recording.record import record

Draw = Callable[..., np.ndarray]

MIDDLE = "mid_block.attentions.0.transformer_blocks.0.attn2"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sites": [MIDDLE.replace("attn2", "atn2")]}, f"(did you mean '{MIDDLE}'?)"),
        ({"sites": MIDDLE.replace("attn2", "attn1")}, "expected the name of a site, but came"),
        ({"sites": lambda site: site.level > 9}, "the choice leaves none of 7"),
        ({"words": []}, "words=[…] with at least one entry"),
        ({"words": "red"}, "words=[…] with at least one entry"),
        (
            {"heads": "max"},
            "expected 'mean' or 'each' or 'auto' as heads of record, but came 'max'",
        ),
        ({"steps": [(3, 2)]}, "steps=(first, end)"),
        ({"steps": [(3, 3)]}, "with first before end"),
        ({"branches": "conditonal"}, "(did you mean 'conditional'?)"),
        ({"controlnet": True}, "leave controlnet=True out"),
        ({"unrecordable": "ignore"}, "expected 'raise' or 'skip' as unrecordable"),
        ({"repeated": "skip"}, "'raise' or 'add' or a whole number as repeated"),
        ({"repeated": -1}, 'repeated="raise", "add" or a number from 0 on'),
    ],
)
def test_told_before_anything_is_changed(pipe: Any, options: dict[str, Any], sentence: str) -> None:
    before = state_of(pipe)
    with pytest.raises(UserError) as raised, record(pipe, **options):
        pass
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
    assert state_of(pipe) == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"words": ["crcle"]}, "'crcle' is not in the prompt (did you mean 'circle'?)"),
        ({"words": ["blue"]}, "'blue' is not in the prompt"),
        ({"columns": [77]}, "columns from 0 to 76, but came 77"),
        ({"budget": 1000}, "maps of at most 1,000 bytes"),
        ({"spans": [{"red": [2]}] * 3}, "spans for 1 images, but came 3"),
        ({"steps": [(0, 2), (1, 2)]}, "windows of steps (first, end) that follow each other"),
        ({"steps": [(5, 9)]}, "a window of steps that holds one of 2"),
    ],
)
def test_told_before_the_first_step(
    pipe: Any, draw: Draw, options: dict[str, Any], sentence: str
) -> None:
    draw(pipe)
    before = state_of(pipe)
    steps: list[int] = []
    with pytest.raises(UserError) as raised, record(pipe, **options):
        draw(pipe, callback_on_step_end=counting(steps))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not steps
    assert state_of(pipe) == before


def counting(steps: list[int]) -> Callable[..., dict[str, Any]]:
    """A callback that counts the steps."""

    def count(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        return tensors

    return count


def test_a_word_that_the_run_never_had(pipe: Any, draw: Draw) -> None:
    with record(pipe) as trace:
        draw(pipe)
    for phrase, sentence in (
        ("square", r"'square' is not in the prompt.*'a', 'red', 'circle'"),
        ("circel", r"did you mean 'circle'"),
        ("circle red", r"'circle red' do not stand next to each other"),
    ):
        with pytest.raises(WordNotFoundError, match=sentence) as raised:
            trace.heatmap(phrase)
        assert "\n" not in str(raised.value)


def test_a_word_that_was_not_kept(pipe: Any, draw: Draw) -> None:
    with record(pipe) as whole:
        draw(pipe)
    with record(pipe, words=["red"]) as trace:
        draw(pipe)
    assert np.allclose(trace.heatmap("red").array, whole.heatmap("red").array, atol=1e-7)
    with pytest.raises(UserError, match="columns that were kept"):
        trace.heatmap("circle")


def test_a_pipeline_without_cross_attention(pipe: Any) -> None:
    pipe.unet = make_unet(
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        mid_block_type=None,
    )
    assert find_sites(pipe.unet, "self")
    with pytest.raises(UserError, match="conditioned on text") as raised, record(pipe):
        pass
    assert "\n" not in str(raised.value)
