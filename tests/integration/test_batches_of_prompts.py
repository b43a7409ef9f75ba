"""A prompt in a batch with a longer one: its map is the one that it has alone, where the pipeline
gives it the same picture."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch

import t2i_xattn as tx
from tiny.case import Case

SHORT, LONG = "a red circle", "a blue square left of a red circle and a star of the dull left"

ALONE_AS_IN_A_BATCH = {
    "text_first": ["FluxPipeline", "Flux2KleinPipeline"],
    "text_first_more": ["ChromaPipeline", "BriaPipeline"],
    "text_first_cog": ["AuraFlowPipeline"],
    "picture_first": ["StableDiffusion3Pipeline"],
    "llm": ["QwenImagePipeline, guided", "Krea2Pipeline, guided"],
    "by_row": ["ZImagePipeline, guided", "Lumina2Pipeline, guided"],
    "by_row_more": ["ErnieImagePipeline, guided"],
    "cross": ["WanPipeline"],
}
FILLED_UP = {"text_first_cog": ["CogView4Pipeline"]}
"""They fill a text up to the longest of the batch, and look at what fills it up."""


def cases(names: dict[str, list[str]]) -> list[Case]:
    return [
        case
        for module, chosen in names.items()
        for case in importlib.import_module(f"tiny.{module}").CASES
        if case.name in chosen
    ]


def away(case: Case) -> tuple[float, float]:
    """How far the picture and the map of the short prompt are from those in a batch."""
    pipe = case.make()
    more: dict[str, Any] = {}
    if case.negative or "negative_prompt" in case.options:
        more["negative_prompt"] = None
    first, second = (torch.Generator().manual_seed(seed) for seed in (0, 1))
    with tx.record(pipe) as alone:
        one = case.run(pipe, prompt=SHORT, generator=first, **more)
    first = torch.Generator().manual_seed(0)
    with tx.record(pipe) as beside:
        two = case.run(pipe, prompt=[SHORT, LONG], generator=[first, second], **more)
    pictures = [np.asarray(each)[0].astype(np.float64) for each in (one, two)]
    heats = [trace.heatmap("circle").array for trace in (alone, beside)]
    assert [word.text for word in beside.words_of(0)] == ["a", "red", "circle"]
    return np.abs(pictures[0] - pictures[1]).max(), np.abs(heats[0] - heats[1]).max()


@pytest.mark.parametrize("case", cases(ALONE_AS_IN_A_BATCH), ids=str)
def test_the_same_alone_and_in_a_batch(case: Case) -> None:
    picture, heat = away(case)
    assert picture < 1e-5
    assert heat < 1e-5


@pytest.mark.parametrize("case", cases(FILLED_UP), ids=str)
def test_what_fills_up_changes_picture_and_map(case: Case) -> None:
    """It is not the map that goes astray: the pipeline paints another picture."""
    picture, heat = away(case)
    assert picture > 1e-3
    assert heat > 1e-4
