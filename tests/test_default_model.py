"""The models in the box: they load, paint as told, and recording leaves them alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import t2i_xattn
from lab.evaluation.prompts import benchmark_prompts
from lab.evaluation.world_pictures import judge_world_prompts, world_figures
from lab.evaluation.world_prompts import world_prompts
from lab.judge import judge_picture, verdict
from lab.judge.segmenter import load_segmenter
from lab.models import MODELS, load_model
from t2i_xattn.errors import UserError
from t2i_xattn.models.default import load_pipeline

PROMPT = "a red circle left of a blue square"


@pytest.fixture(scope="module")
def box() -> Any:
    pipe = t2i_xattn.load_default()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def paint(pipe: Any, prompt: Any = PROMPT, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, generator=generator, num_inference_steps=10, **options).images


@pytest.mark.parametrize("name", MODELS)
def test_it_carries_a_card_and_only_safetensors_and_json(name: str) -> None:
    files = [path for path in MODELS[name].rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".md", ".json", ".safetensors"}
    assert sum(path.stat().st_size for path in files) < 60e6


def test_a_model_in_the_box_is_had_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named, default = (len(load_pipeline(name).tokenizer) for name in ("world", None))
    assert named == default
    assert len(load_model("shapes").tokenizer) < default  # the world has more words
    (tmp_path / "world").mkdir()
    with pytest.raises(UserError, match=r"holds no model_index\.json"):
        load_pipeline("world")  # a folder of that name is what is meant


def test_recording_leaves_the_same_bytes(box: Any) -> None:
    plain = paint(box, output_type="np")
    with t2i_xattn.record(box) as trace:
        recorded = paint(box, output_type="np")
    assert plain.tobytes() == recorded.tobytes()
    total = trace.heatmap(columns=range(77)).array
    assert np.allclose(total, 1, atol=1e-5)


@pytest.mark.slow
def test_a_size_that_is_not_square_gives_maps_of_that_size(box: Any) -> None:
    with t2i_xattn.record(box) as trace:
        picture = paint(box, height=96, width=160)[0]
    assert picture.size == (160, 96)
    assert trace.heatmap("circle").array.shape == (96, 160)


@pytest.mark.slow
@pytest.mark.parametrize(("group", "least"), [("singles", 0.85), ("pairs", 0.6)])
def test_objects_are_painted_as_asked(group: str, least: float) -> None:
    """The floor that the project set itself; the card has the exact shares."""
    shapes = load_model("shapes")
    prompts = benchmark_prompts()[group][:40]
    pictures = shapes(
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "figure", "least"),
    [("light_and_place", "light and place right", 0.8), ("singles", "things right", 0.6)],
)
def test_the_world_is_painted_as_asked(box: Any, group: str, figure: str, least: float) -> None:
    """A floor well under what the card says, as it is measured on a few pictures."""
    prompts = world_prompts()[group][:24]
    verdicts = judge_world_prompts(box, prompts, load_segmenter(), steps=20, batch=12)
    right = world_figures(verdicts)[figure].value
    assert right >= least, right
