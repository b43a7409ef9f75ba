"""The pipeline file, loaded the way diffusers' users load community pipelines."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_pipeline
from diffusers import DiffusionPipeline, StableDiffusionPipeline

FILE = Path(__file__).parents[2] / "pipelines" / "stable_diffusion_words.py"


@pytest.fixture(scope="module")
def words_pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    pipe = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=str(FILE), trust_remote_code=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def options(**changes: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {"num_inference_steps": 2, "generator": generator, "output_type": "np"} | changes


def test_pictures_are_the_stock_pipeline_s(words_pipe: Any) -> None:
    prompts = ["a red circle", "blue"]
    stock = make_pipeline()(prompts, num_images_per_prompt=2, **options()).images
    output = words_pipe(prompts, num_images_per_prompt=2, **options())
    assert np.array_equal(stock, output.images)
    assert output.trace.prompts == ("a red circle", "a red circle", "blue", "blue")
    assert output.trace.heatmap("blue", image=2).array.shape == (64, 64)


def test_arguments_are_the_stock_pipeline_s(words_pipe: Any) -> None:
    ours = inspect.signature(type(words_pipe).__call__).parameters
    stock = inspect.signature(StableDiffusionPipeline.__call__).parameters
    assert list(ours) == [name for name in stock if name != "kwargs"]
    for name, parameter in ours.items():
        assert parameter.default == stock[name].default or parameter.default is None, name


def test_tuple_output_ends_with_the_trace(words_pipe: Any) -> None:
    images, _, trace = words_pipe("red", return_dict=False, **options())
    assert images.shape == (1, 64, 64, 3)
    assert trace.words[0].text == "red"


def test_callback_sees_every_step(words_pipe: Any) -> None:
    seen = []

    def callback(pipe: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, sorted(tensors)))
        return tensors

    words_pipe("red", callback_on_step_end=callback, **options())
    assert seen == [(0, ["latents"]), (1, ["latents"])]
