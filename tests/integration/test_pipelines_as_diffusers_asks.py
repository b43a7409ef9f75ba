"""What diffusers' own tests ask of every pipeline, of each file in `pipelines/`: its signature,
batches, outputs, callbacks, saving, types."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from community import (
    NAMES,
    encoded,
    family_of,
    load,
    load_from,
    make_stock,
    noise_of,
    options,
    small,
    stock_class,
)

PROMPTS = ["a red circle", "a blue circle", "red"]


@cache
def shared(name: str) -> Any:
    """One pipeline for all tests, each of which has to leave it as it was."""
    return load(name)


def settings(name: str, **changes: Any) -> dict[str, Any]:
    """Arguments of a run; prompts of other lengths can only be refined."""
    more = {"refine": True} if name.endswith("prompt_to_prompt") else {}
    return options(num_inference_steps=2) | more | changes


pytestmark = pytest.mark.parametrize("name", NAMES)


def test_arguments_begin_with_the_stock_pipeline_s(name: str) -> None:
    ours = inspect.signature(type(shared(name)).__call__).parameters
    stock = inspect.signature(stock_class(name).__call__).parameters
    names = [each for each in stock if each != "kwargs"]
    assert list(ours)[: len(names)] == names
    for each in names[1:]:
        assert ours[each].default == stock[each].default or ours[each].default is None
    assert all(each.default is not each.empty for each in list(ours.values())[1:])


def test_one_prompt_gives_the_stock_picture(name: str) -> None:
    stock = make_stock(name)("a red circle", **options()).images
    assert np.array_equal(shared(name)("a red circle", **options()).images, stock)


def test_the_first_of_a_batch_equals_its_single_run(name: str) -> None:
    pipe = shared(name)
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2, 3)]
    batch = pipe(PROMPTS, **settings(name, generator=seeds)).images
    single = pipe(PROMPTS[0], **settings(name)).images
    assert batch.shape == (3, *single.shape[1:])
    assert np.allclose(batch[0], single[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("prompts", [1, 2])
def test_images_per_prompt(name: str, prompts: int, count: int) -> None:
    given = settings(name, num_images_per_prompt=count)
    assert len(shared(name)(PROMPTS[:prompts], **given).images) == prompts * count


def test_dict_and_tuple_are_equal(name: str) -> None:
    pipe = shared(name)
    output = pipe(PROMPTS[:2], **settings(name))
    images, *_ = pipe(PROMPTS[:2], return_dict=False, **settings(name))
    assert np.array_equal(output.images, images)


def test_output_types(name: str) -> None:
    pipe = shared(name)
    np_, pt, (pil,) = (
        pipe("red", **settings(name, output_type=t)).images for t in ("np", "pt", "pil")
    )
    assert np.allclose(pt.permute(0, 2, 3, 1).numpy(), np_, atol=1e-4)
    assert np.allclose(np.asarray(pil) / 255, np_[0], atol=3e-3)


def test_callbacks_get_what_they_ask_for_and_are_obeyed(name: str) -> None:
    pipe, inputs = shared(name), shared(name)._callback_tensor_inputs
    seen: list[set[str]] = []

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(set(tensors))
        if step == pipe.num_timesteps - 1:
            tensors["latents"] = torch.zeros_like(tensors["latents"])
        return tensors

    told = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": inputs}
    found = pipe(PROMPTS[:2], **told, **settings(name, output_type="latent")).images
    assert seen == [set(inputs)] * 2
    assert not found.any()


def test_guidance_can_be_turned_off_on_the_way(name: str) -> None:
    more = {"xl_": ["add_text_embeds", "add_time_ids"], "3_": ["pooled_prompt_embeds"]}
    kept = ["prompt_embeds", *more.get(family_of(name), [])]
    if family_of(name) == "flux_":
        pytest.skip("its guidance is embedded")

    def off(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            pipe._guidance_scale = 1.0
            tensors = tensors | {each: tensors[each].chunk(2)[1] for each in kept}
        return tensors

    told = {"callback_on_step_end": off, "callback_on_step_end_tensor_inputs": kept}
    expected = make_stock(name)("a red circle", **told, **options()).images
    assert np.array_equal(shared(name)("a red circle", **told, **options()).images, expected)


def test_prompts_may_be_encoded_before(name: str) -> None:
    pipe = shared(name)
    found = pipe(**encoded(name, pipe, "red"), **settings(name)).images
    assert np.array_equal(found, pipe("red", **settings(name)).images)


def test_latents_may_be_given(name: str) -> None:
    pipe, side = shared(name), {"generator": None}
    noise = noise_of(name, 2, seed=2)
    one, other = (
        pipe(PROMPTS[:2], **settings(name, latents=noise.clone(), **side)).images for _ in range(2)
    )
    assert np.array_equal(one, other)


def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    expected = shared(name)(PROMPTS[:2], **settings(name)).images
    shared(name).save_pretrained(tmp_path)
    again = load_from(tmp_path, name)
    assert np.array_equal(again(PROMPTS[:2], **settings(name)).images, expected)
    # What is saved is an ordinary folder, for who has not this file.
    stock = small(stock_class(name).from_pretrained(tmp_path))
    plain = shared(name)("red", **options()).images
    assert np.array_equal(stock("red", **options()).images, plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    half = load(name, dtype=dtype)
    denoiser = getattr(half, "unet", None) or half.transformer
    assert {part.dtype for part in (denoiser, half.vae, half.text_encoder)} == {dtype}
    found = half(PROMPTS[:2], **settings(name)).images
    expected = shared(name)(PROMPTS[:2], **settings(name)).images
    assert np.isfinite(found).all()
    assert np.abs(found - expected).mean() < 2e-2
