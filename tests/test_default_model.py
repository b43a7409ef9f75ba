"""The model in the box: it loads, it paints colours as told, and recording leaves it alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import t2i_xattn
from t2i_xattn.default_model import DEFAULT_FOLDER
from t2i_xattn.evaluation.prompts import benchmark_prompts
from t2i_xattn.judge import judge_picture, verdict

PROMPT = "a red circle left of a blue square"


@pytest.fixture(scope="module")
def box() -> Any:
    pipe = t2i_xattn.load_default()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def paint(pipe: Any, prompt: Any = PROMPT, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, generator=generator, num_inference_steps=10, **options).images


def test_it_carries_a_card_and_only_safetensors_and_json() -> None:
    kinds = {path.suffix for path in DEFAULT_FOLDER.rglob("*") if path.is_file()}
    assert kinds == {".md", ".json", ".safetensors"}


def test_recording_leaves_the_same_bytes(box: Any) -> None:
    plain = paint(box, output_type="np")
    with t2i_xattn.record(box) as trace:
        recorded = paint(box, output_type="np")
    assert plain.tobytes() == recorded.tobytes()
    total = trace.heatmap(columns=range(77)).array
    assert np.allclose(total, 1, atol=1e-5)


def test_a_size_that_is_not_square_gives_maps_of_that_size(box: Any) -> None:
    with t2i_xattn.record(box) as trace:
        picture = paint(box, height=96, width=160)[0]
    assert picture.size == (160, 96)
    assert trace.heatmap("circle").array.shape == (96, 160)


@pytest.mark.slow
@pytest.mark.parametrize(("group", "least"), [("singles", 0.85), ("pairs", 0.6)])
def test_objects_are_painted_as_asked(box: Any, group: str, least: float) -> None:
    """The floor that the project set itself; the card has the exact shares."""
    prompts = benchmark_prompts()[group][:40]
    pictures = box(
        [each.prompt for each in prompts],
        num_inference_steps=20,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(each.seed) for each in prompts],
    ).images
    verdicts = [
        verdict(judge_picture(picture), prompt.objects, prompt.relation)
        for prompt, picture in zip(prompts, pictures, strict=True)
    ]
    right = np.mean([each.all_objects and each.relation is not False for each in verdicts])
    assert right >= least, right
