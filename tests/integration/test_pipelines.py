"""The pipelines that steer, loaded the way diffusers' users load community pipelines."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

import t2i_xattn as tx
from conftest import make_pipeline
from tiny_pipelines import make_sdxl

FOLDER = Path(__file__).parents[2] / "pipelines"
BOX = (0.0, 0.0, 0.5, 0.5)
FAMILIES = {"": make_pipeline, "xl_": make_sdxl}
STEERED = {
    f"{family}{name}": more
    for family in FAMILIES
    for name, more in {
        "attend_and_excite": {"words": ["red", "circle"]},
        "layout": {"boxes": {"circle": BOX}},
        "regional": {"regions": {"blue": BOX}},
    }.items()
}
SWAP = ["a red circle", "a blue circle"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {family: tmp_path_factory.mktemp("model") for family in FAMILIES}
    for family, make in FAMILIES.items():
        make().save_pretrained(folders[family])
    return folders


def family_of(name: str) -> str:
    return "xl_" if name.startswith("xl_") else ""


@pytest.fixture(scope="module")
def load(folders: dict[str, Path]) -> Any:
    def load(name: str, **options: Any) -> Any:
        file = FOLDER / f"stable_diffusion_{name}.py"
        pipe = DiffusionPipeline.from_pretrained(
            folders[family_of(name)], custom_pipeline=str(file), trust_remote_code=True, **options
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


def options(**changes: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {"num_inference_steps": 5, "generator": generator, "output_type": "np"} | changes


@pytest.mark.parametrize("name", [*STEERED, "prompt_to_prompt", "xl_prompt_to_prompt"])
def test_arguments_begin_with_the_stock_pipeline_s(load: Any, name: str) -> None:
    ours = inspect.signature(type(load(name)).__call__).parameters
    family = StableDiffusionXLPipeline if family_of(name) else StableDiffusionPipeline
    stock = inspect.signature(family.__call__).parameters
    names = [each for each in stock if each != "kwargs"]
    assert list(ours)[: len(names)] == names
    for each in names[1:]:
        assert ours[each].default == stock[each].default or ours[each].default is None
    assert all(each.default is not each.empty for each in list(ours.values())[1:])


@pytest.mark.parametrize("name", STEERED)
class TestSteered:
    def test_without_anything_to_steer_by_it_is_the_stock_pipeline(
        self, load: Any, name: str
    ) -> None:
        stock = FAMILIES[family_of(name)]()(["a red circle", "blue"], **options()).images
        assert np.array_equal(load(name)(["a red circle", "blue"], **options()).images, stock)

    def test_steers_batches_and_leaves_nothing_behind(self, load: Any, name: str) -> None:
        pipe = load(name)
        processors = dict(pipe.unet.attn_processors)
        prompts = ["a red circle", "red circle"]
        stock = FAMILIES[family_of(name)]()(prompts, num_images_per_prompt=2, **options()).images
        found = pipe(prompts, num_images_per_prompt=2, **STEERED[name], **options()).images
        assert found.shape == stock.shape
        assert all(
            not np.allclose(a, b, rtol=0, atol=1e-5) for a, b in zip(found, stock, strict=True)
        )
        assert dict(pipe.unet.attn_processors) == processors
        again = pipe(prompts, num_images_per_prompt=2, **options()).images
        assert np.array_equal(again, stock)

    def test_outputs_callbacks_and_saving(self, load: Any, name: str, tmp_path: Path) -> None:
        pipe, seen = load(name), []

        def callback(pipe: Any, step: int, timestep: int, tensors: Any) -> dict[str, Any]:
            seen.append(step)
            return tensors

        more = STEERED[name]
        output = pipe("a red circle", callback_on_step_end=callback, **more, **options())
        assert seen == list(range(5))
        images, *unsafe = pipe("a red circle", return_dict=False, **more, **options())
        assert np.array_equal(images, output.images)
        assert unsafe == ([] if family_of(name) else [output.nsfw_content_detected])
        (pil,) = pipe("a red circle", **more, **options(output_type="pil")).images
        assert pil.size == (64, 64)
        pipe.save_pretrained(tmp_path)
        file = FOLDER / f"stable_diffusion_{name}.py"
        again = DiffusionPipeline.from_pretrained(
            tmp_path, custom_pipeline=str(file), trust_remote_code=True
        )
        again.set_progress_bar_config(disable=True)
        assert np.array_equal(again("a red circle", **more, **options()).images, output.images)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, load: Any, name: str, dtype: torch.dtype) -> None:
        pipe = load(name, dtype=dtype)
        assert np.isfinite(pipe("a red circle", **STEERED[name], **options()).images).all()


def test_boxes_by_another_method(load: Any) -> None:
    pipe = load("layout")
    boxes = {"boxes": {"circle": BOX}}
    layout = pipe("a red circle", **boxes, **options()).images
    boxdiff = pipe("a red circle", box_method="boxdiff", **boxes, **options()).images
    assert not np.allclose(layout, boxdiff, atol=1e-3)
    with pytest.raises(tx.UserError, match="box_method of layout, boxdiff, but came 'x'"):
        pipe("a red circle", box_method="x", **boxes, **options())


@pytest.mark.parametrize("name", ["regional", "xl_regional"])
def test_regions_equal_the_edit(load: Any, name: str) -> None:
    regions = {"blue": BOX, "a blue circle": np.eye(8, dtype=bool)}
    found = load(name)("a red circle", regions=regions, base_weight=0.5, **options()).images
    pipe = FAMILIES[family_of(name)]()
    with tx.edit(pipe, tx.RegionalPrompts(regions, base_weight=0.5)):
        expected = pipe("a red circle", **options()).images
    assert np.allclose(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(tx.UserError, match="base_weight from 0 to 1"):
        load(name)("a red circle", regions=regions, base_weight=2.0, **options())


@pytest.mark.parametrize("name", ["prompt_to_prompt", "xl_prompt_to_prompt"])
class TestPromptToPromptOfAFamily:
    def test_the_source_is_the_stock_picture(self, load: Any, name: str) -> None:
        pipe = load(name)
        stock = FAMILIES[family_of(name)]()("a red circle", **options()).images
        found = pipe(SWAP, **options()).images
        assert np.allclose(found[0], stock[0], rtol=0, atol=1e-4)
        assert not np.allclose(found[1], stock[0], rtol=0, atol=1e-4)
        dict_, tuple_ = pipe(SWAP, **options()), pipe(SWAP, return_dict=False, **options())
        assert np.array_equal(dict_.images, tuple_[0])

    def test_equals_the_edits(self, load: Any, name: str) -> None:
        found = load(name)(SWAP, weights={"blue": 2.0}, **options()).images
        pipe = FAMILIES[family_of(name)]()
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        edits = (
            tx.Replace(steps=(0, 0.8)),
            tx.SelfReplace(steps=(0, 0.4)),
            tx.Reweight("blue", 2.0, images=[1]),
        )
        with tx.edit(pipe, *edits):
            expected = pipe(SWAP, latents=noise.repeat(2, 1, 1, 1), **options()).images
        assert np.array_equal(found, expected)

    def test_refined_prompts(self, load: Any, name: str) -> None:
        prompts = ["a circle", "a red circle of blue"]
        found = load(name)(prompts, refine=True, **options()).images
        assert len(found) == 2
        with pytest.raises(tx.UserError, match="as many words"):
            load(name)(prompts, **options())

    def test_blends_by_argument(self, load: Any, name: str) -> None:
        found = load(name)(SWAP, blend=("red", "blue"), **options()).images
        assert np.isfinite(found).all()


class TestPromptToPrompt:
    def test_blend_keeps_the_source_outside(self) -> None:
        pipe, swaps = make_pipeline(), {"red": "blue"}
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        run = options(output_type="latent", latents=noise.repeat(2, 1, 1, 1))
        masks = []
        for threshold in (0.3, 0.9, 0.97):  # a random model looks at a word nearly everywhere
            with tx.edit(pipe, tx.Replace(swaps)), tx.record(pipe) as trace:
                blend = tx.LocalBlend(trace, "red", "blue", threshold=threshold)
                latents = pipe(SWAP, callback_on_step_end=blend, **run).images
            masks.append((latents[1] == latents[0]).all(0).float().mean())
        assert 0 <= masks[0] < masks[1] <= masks[2] < 1

    def test_blends_pairs_of_one_batch(self) -> None:
        pipe, prompts = make_pipeline(), [*SWAP, *SWAP]
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        run = options(output_type="latent", latents=noise.repeat(4, 1, 1, 1))
        plain = pipe(prompts, **run).images
        with tx.record(pipe) as trace:
            blend = tx.LocalBlend(trace, "red", "blue", 0.9, source=2, images=[3])
            latents = pipe(prompts, callback_on_step_end=blend, **run).images
        assert torch.equal(latents[:3], plain[:3])
        assert (latents[3] == latents[2]).all(0).any()
        with pytest.raises(tx.UserError, match="came 4 with source=4"), tx.record(pipe) as trace:
            pipe(prompts, callback_on_step_end=tx.LocalBlend(trace, "red", "blue", source=4), **run)

    def test_bad_input(self, load: Any) -> None:
        pipe = load("prompt_to_prompt")
        with pytest.raises(tx.UserError, match="source, target"):
            pipe("a red circle", **options())
        with pytest.raises(tx.UserError, match="one image a prompt"):
            pipe(SWAP, num_images_per_prompt=2, **options())
        with pytest.raises(tx.UserError, match="blend or callback_on_step_end"):
            pipe(SWAP, blend=("red", "blue"), callback_on_step_end=print, **options())
        with pytest.raises(tx.UserError, match="a threshold between 0 and 1"):
            tx.LocalBlend(None, "red", "blue", threshold=2)
