"""The pipeline that returns traces; `test_pipelines_as_diffusers_asks` has what all must do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import community
from community import FOLDER, load, load_from, make_stock
from conftest import make_pipeline


@pytest.fixture(scope="module")
def words_pipe() -> Any:
    return load("words")


def options(**changes: Any) -> dict[str, Any]:
    return community.options(num_inference_steps=2) | changes


def test_pictures_are_the_stock_pipeline_s(words_pipe: Any) -> None:
    prompts = ["a red circle", "blue"]
    stock = make_pipeline()(prompts, num_images_per_prompt=2, **options()).images
    output = words_pipe(prompts, num_images_per_prompt=2, **options())
    assert np.array_equal(stock, output.images)
    assert output.trace.prompts == ("a red circle", "a red circle", "blue", "blue")
    assert output.trace.heatmap("blue", image=2).array.shape == (64, 64)


def test_tuple_output_ends_with_the_trace(words_pipe: Any) -> None:
    images, _, trace = words_pipe("red", return_dict=False, **options())
    assert images.shape == (1, 64, 64, 3)
    assert trace.words[0].text == "red"


@pytest.mark.parametrize("kind", ["pil", "np", "pt", "latent"])
def test_output_types(words_pipe: Any, kind: str) -> None:
    stock = make_pipeline()("red", **options(output_type=kind)).images
    found = words_pipe("red", **options(output_type=kind)).images
    assert type(found) is type(stock)
    if kind == "pil":
        stock, found = np.asarray(stock[0]), np.asarray(found[0])
    assert np.array_equal(np.asarray(found), np.asarray(stock))


def test_dict_and_tuple_are_equal(words_pipe: Any) -> None:
    output = words_pipe("red", **options())
    images, unsafe, trace = words_pipe("red", return_dict=False, **options())
    assert np.array_equal(output.images, images)
    assert output.nsfw_content_detected == unsafe
    for name, maps in output.trace.maps.items():
        assert np.array_equal(trace.maps[name], maps)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("prompts", [["red"], ["red", "a red circle"]])
def test_images_per_prompt(words_pipe: Any, prompts: list[str], count: int) -> None:
    output = words_pipe(prompts, num_images_per_prompt=count, **options())
    assert len(output.images) == len(prompts) * count == len(output.trace.prompts)


def test_a_batch_equals_its_single_runs(words_pipe: Any) -> None:
    prompts = ["red", "a red circle"]

    def seeds() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (1, 2)]

    batch = words_pipe(prompts, **options(generator=seeds()))
    for index, (prompt, generator) in enumerate(zip(prompts, seeds(), strict=True)):
        single = words_pipe(prompt, **options(generator=generator))
        assert np.allclose(batch.images[index], single.images[0], atol=1e-4)
        heat = single.trace.heatmap("red").array
        assert np.allclose(batch.trace.heatmap("red", image=index).array, heat, atol=1e-5)


def test_guidance_off_and_embeddings(words_pipe: Any) -> None:
    with torch.no_grad():
        text, none = words_pipe.encode_prompt("red", "cpu", 1, True)
    expected = words_pipe("red", **options()).images
    given = {"prompt_embeds": text, "negative_prompt_embeds": none}
    assert np.array_equal(words_pipe(**given, **options()).images, expected)
    assert (
        words_pipe("red", guidance_scale=1.0, **options()).trace.settings["guidance_scale"] is None
    )


def test_saved_and_loaded(words_pipe: Any, tmp_path: Path) -> None:
    expected = words_pipe("red", **options())
    words_pipe.save_pretrained(tmp_path)
    again = load_from(tmp_path, "words")
    output = again("red", **options())
    assert np.array_equal(output.images, expected.images)
    assert np.array_equal(output.trace.heatmap("red").array, expected.trace.heatmap("red").array)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(words_pipe: Any, dtype: torch.dtype) -> None:
    half = load("words", dtype=dtype)
    assert {part.dtype for part in (half.unet, half.vae, half.text_encoder)} == {dtype}
    heat = half("red", **options()).trace.heatmap("red").array
    assert heat.dtype == np.float32
    expected = words_pipe("red", **options()).trace.heatmap("red").array
    assert np.allclose(heat, expected, atol=5e-3)


def test_offloaded(words_pipe: Any) -> None:
    import accelerate

    expected = words_pipe("red", **options()).images
    pipe = load("words")
    accelerate.cpu_offload(pipe.unet, torch.device("cpu"), offload_buffers=True)
    output = pipe("red", **options())
    assert np.array_equal(output.images, expected)
    assert output.trace.heatmap("red").share > 0


def test_made_from_another_pipeline() -> None:
    kind = type(
        DiffusionPipeline.from_pipe(
            make_pipeline(),
            custom_pipeline=str(FOLDER / "stable_diffusion_words.py"),
            trust_remote_code=True,
        )
    )
    pipe = kind.from_pipe(make_pipeline())
    pipe.set_progress_bar_config(disable=True)
    assert pipe("red", **options()).trace.words[0].text == "red"


def test_callback_changes_latents(words_pipe: Any) -> None:
    def callback(pipe: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": torch.zeros_like(tensors["latents"])}

    stock = make_pipeline()("red", callback_on_step_end=callback, **options()).images
    found = words_pipe("red", callback_on_step_end=callback, **options()).images
    assert np.array_equal(found, stock)


@pytest.mark.parametrize("name", ["3_words", "flux_words"])
class TestOfJointAttention:
    def test_pictures_are_the_stock_pipeline_s(self, name: str) -> None:
        prompts = ["a red circle", "blue"]
        given = {"prompt": prompts, "num_images_per_prompt": 2}
        stock = make_stock(name)(**given, **options()).images
        output = load(name)(**given, **options())
        assert np.array_equal(stock, output.images)
        assert output.trace.prompts == ("a red circle", "a red circle", "blue", "blue")
        assert output.trace.heatmap("blue", image=2).array.shape == stock.shape[1:3]

    def test_tuple_output_ends_with_the_trace(self, name: str) -> None:
        pipe = load(name)
        output = pipe("red", **options())
        images, trace = pipe("red", return_dict=False, **options())
        assert np.array_equal(images, output.images)
        assert trace.words[0].text == "red"
        found = trace.heatmap("red").array
        assert np.array_equal(found, output.trace.heatmap("red").array)
