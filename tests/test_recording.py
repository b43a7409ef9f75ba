from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline

from captured import Captured, size_of
from t2i_xattn.denoisers.sites import find_sites
from t2i_xattn.errors import UserError, WordNotFoundError
from t2i_xattn.recording.record import record

Draw = Callable[..., np.ndarray]

CIRCUMSTANCES: dict[str, dict[str, Any]] = {
    "guidance": {},
    "no guidance": {"guidance_scale": 1.0},
    "negative prompt": {"negative_prompt": "a cat"},
    "two prompts, two images each": {
        "prompt": ["a red circle", "blue"],
        "num_images_per_prompt": 2,
    },
    "batch without guidance": {"prompt": ["red", "a cat"], "guidance_scale": 1.0},
    "not square": {"height": 64, "width": 96},
    "odd latents": {"height": 72, "width": 56},
}


@pytest.mark.parametrize("name", CIRCUMSTANCES)
def test_same_bytes_and_whole_maps(pipe: Any, draw: Draw, name: str) -> None:
    options = CIRCUMSTANCES[name]
    plain = draw(pipe, **options)
    with record(pipe) as trace:
        recorded = draw(pipe, **options)
    assert recorded.tobytes() == plain.tobytes()
    height, width = plain.shape[1:3]
    assert trace.picture_size == (height, width)
    assert [site.name for site in trace.sites] == [site.name for site in find_sites(pipe.unet)]
    for site in trace.sites:
        maps = trace.maps[site.name]
        assert maps.shape == (len(plain), *size_of(site, (height // 8, width // 8)), 77)
        assert np.allclose(maps.sum(-1), 1, atol=1e-5)
        assert maps.min() >= 0
    # Words differ in the test model, or the comparisons below would show nothing.
    assert trace.maps[trace.sites[0].name].std(axis=-1).min() > 1e-4


@pytest.mark.parametrize("name", CIRCUMSTANCES)
def test_maps_equal_an_independent_computation(pipe: Any, draw: Draw, name: str) -> None:
    """fp64, from what the layers themselves projected, for one step and for their mean."""
    options = CIRCUMSTANCES[name]
    captured = Captured(pipe, lambda: draw(pipe, **options))
    images = len(captured.result)
    with record(pipe) as trace:
        draw(pipe, **options)
    assert captured.calls == trace.settings["calls"] == 2
    for site in trace.sites:
        # The pictures of the prompt come last in the batch.
        each = [captured.probs(site, call, images).mean(dim=1) for call in range(captured.calls)]
        expected = torch.stack(each).mean(dim=0).numpy().reshape(trace.maps[site.name].shape)
        assert np.abs(trace.maps[site.name] - expected).max() < 1e-5


def test_heads_and_words_that_are_kept(pipe: Any, draw: Draw) -> None:
    """Each picture has its own words, whose columns are added up."""
    prompts = ["a red cat", "blue cat red"]
    with record(pipe, heads="each") as whole:
        plain = draw(pipe, prompts)
    with record(pipe, heads="each", words=["cat", "red"]) as kept:
        assert draw(pipe, prompts).tobytes() == plain.tobytes()
    columns = [[(3, 4, 5), (2,)], [(2, 3, 4), (5,)]]
    for name, every in whole.to_numpy().items():
        found = kept.to_numpy()[name]
        assert found.shape == (*every.shape[:-1], 2)
        assert every.shape[3] == next(site.heads for site in whole.sites if site.name == name)
        for image, of_image in enumerate(columns):
            for place, of_word in enumerate(of_image):
                expected = every[image][..., list(of_word)].sum(-1)
                assert np.allclose(found[image][..., place], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_maps_of_half_precision_models(pipe: Any, draw: Draw, dtype: torch.dtype) -> None:
    pipe.to(dtype=dtype)
    captured = Captured(pipe, lambda: draw(pipe, num_inference_steps=3))
    with record(pipe) as trace:
        draw(pipe, num_inference_steps=3)
    for site in trace.sites:
        each = [captured.probs(site, call).mean(dim=1) for call in range(captured.calls)]
        expected = torch.stack(each).mean(dim=0).numpy().reshape(trace.maps[site.name].shape)
        assert np.abs(trace.maps[site.name] - expected).max() < 5e-3
        # The softmax and the sums are in fp32, whatever the model computes in.
        assert np.allclose(trace.maps[site.name].sum(-1), 1, atol=1e-5)


def test_recorded_rows_are_the_conditional_ones(pipe: Any, draw: Draw) -> None:
    """One guided step gives the maps of the conditional pass alone, and not the other's."""
    options = {"num_inference_steps": 1, "prompt": ["a red circle", "blue cat"]}
    with record(pipe) as guided:
        draw(pipe, negative_prompt=["left", "of"], **options)
    with record(pipe) as conditional:
        draw(pipe, guidance_scale=1.0, **options)
    with record(pipe) as other:
        draw(pipe, guidance_scale=1.0, num_inference_steps=1, prompt=["left", "of"])
    for site in guided.sites:
        name = site.name
        assert np.allclose(guided.maps[name], conditional.maps[name], atol=1e-5)
        assert not np.allclose(guided.maps[name], other.maps[name], atol=1e-3)


def test_prompts_of_the_rows(pipe: Any, draw: Draw) -> None:
    with record(pipe) as trace:
        draw(pipe, ["a red circle", "blue"], num_images_per_prompt=2)
    assert trace.prompts == ("a red circle", "a red circle", "blue", "blue")
    assert [word.text for word in trace.words] == ["a", "red", "circle"]
    assert [word.text for word in trace.words_of(2)] == ["blue"]
    # The picture of a prompt does not depend on its neighbours in the batch, so nor do its maps.
    with record(pipe) as alone:
        draw(pipe, "blue", guidance_scale=1.0, num_inference_steps=1,
             latents=torch.zeros(1, 4, 8, 8))  # fmt: skip
    with record(pipe) as both:
        draw(pipe, ["a red circle", "blue"], guidance_scale=1.0, num_inference_steps=1,
             latents=torch.zeros(2, 4, 8, 8))  # fmt: skip
    a, b = alone.heatmap("blue").array, both.heatmap("blue", image=1).array
    assert np.allclose(a, b, atol=1e-6)


def test_settings(pipe: Any, draw: Draw) -> None:
    with record(pipe) as trace:
        draw(pipe, num_inference_steps=3, guidance_scale=5.0)
    settings = trace.settings
    assert settings["calls"] == 3
    assert settings["timesteps"] == [float(t) for t in pipe.scheduler.timesteps]
    assert settings["guidance_scale"] == 5.0
    assert settings["pipeline"] == "StableDiffusionPipeline"
    assert settings["versions"]["diffusers"] == diffusers.__version__


def test_embeddings_without_text(pipe: Any, draw: Draw) -> None:
    embeds, negative = pipe.encode_prompt("a red circle", "cpu", 1, True)
    with record(pipe) as trace:
        draw(pipe, None, prompt_embeds=embeds, negative_prompt_embeds=negative)
    assert trace.prompts == (None,)
    assert trace.words == ()
    with pytest.raises(UserError, match="given as embeddings; ask by columns"):
        trace.heatmap("red")
    with record(pipe) as with_text:
        draw(pipe)
    expected = with_text.heatmap("circle").array
    assert (trace.heatmap(columns=[3]).array == expected).all()


def test_embeddings_encoded_inside_the_context_have_their_words(pipe: Any, draw: Draw) -> None:
    """Rows are known by their text, whoever encoded it."""
    with record(pipe) as expected:
        draw(pipe)
    with record(pipe) as trace:
        embeds, negative = pipe.encode_prompt("a red circle", "cpu", 1, True)
        draw(pipe, None, prompt_embeds=embeds, negative_prompt_embeds=negative)
    assert trace.prompts == ("a red circle",)
    assert trace.words == expected.words
    assert (trace.heatmap("red").array == expected.heatmap("red").array).all()


def test_each_branch_has_its_own_words(pipe: Any, draw: Draw) -> None:
    """Those of the negative prompt stand in other columns than the prompt's."""
    branches = ["conditional", "unconditional"]
    with record(pipe, branches=branches) as trace:
        draw(pipe, "a red circle", negative_prompt="blue left of a circle")
    negative = trace.select(branch="unconditional")
    assert trace.prompts == ("a red circle",)
    assert negative.prompts == ("blue left of a circle",)
    assert [word.text for word in negative.words] == ["blue", "left", "of", "a", "circle"]
    assert (trace.words[2].columns, negative.words[4].columns) == ((3,), (5,))
    for part, column in ((trace, 3), (negative, 5)):
        expected = part.heatmap(columns=[column]).array
        assert (part.heatmap("circle").array == expected).all()
    assert not np.allclose(
        negative.heatmap("circle").array, trace.heatmap("circle").array, atol=1e-4
    )
    with pytest.raises(WordNotFoundError, match="'red' is not in the prompt"):
        negative.heatmap("red")
    with pytest.raises(WordNotFoundError, match="'blue' is not in the prompt"):
        trace.heatmap("blue")


def test_words_kept_are_looked_up_in_each_branch(pipe: Any, draw: Draw) -> None:
    with record(pipe, branches=["conditional", "unconditional"]) as whole:
        draw(pipe, "a red circle", negative_prompt="blue left of a circle")
    with record(pipe, branches=["conditional", "unconditional"], words=["circle"]) as some:
        draw(pipe, "a red circle", negative_prompt="blue left of a circle")
    assert some.run.groups == {"conditional": (((3,),),), "unconditional": (((5,),),)}
    for branch in ("conditional", "unconditional"):
        one, other = (each.select(branch=branch).heatmap("circle").array for each in (whole, some))
        assert np.allclose(one, other, atol=1e-7)


@pytest.mark.parametrize("heard", [False, True])
def test_a_unet_called_by_hand_has_no_guidance_half(pipe: Any, draw: Draw, heard: bool) -> None:
    """Though the pipeline still has the guidance scale of its last run."""
    draw(pipe)
    text = pipe.encode_prompt(["red", "blue"], "cpu", 1, False)[0]
    with record(pipe) as trace, torch.no_grad():
        if heard:
            text = pipe.encode_prompt(["red", "blue"], "cpu", 1, False)[0]
        pipe.unet(torch.randn(2, 4, 8, 8), torch.tensor([10, 500]), text)
    assert trace.prompts == (("red", "blue") if heard else (None, None))
    assert trace.settings["timesteps"] == [[10.0, 500.0]]
    assert trace.settings["guidance_scale"] is None


def test_guidance_switched_off_on_the_way(pipe: Any, draw: Draw) -> None:
    def cut_off(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            pipe._guidance_scale = 0.0
            inputs["prompt_embeds"] = inputs["prompt_embeds"][-1:]
        return inputs

    options = {
        "callback_on_step_end": cut_off,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }
    plain = draw(pipe, **options)
    with record(pipe) as trace:
        recorded = draw(pipe, **options)
    assert recorded.tobytes() == plain.tobytes()
    assert np.allclose(trace.maps[trace.sites[0].name].sum(-1), 1, atol=1e-5)


def test_img2img(pipe: Any) -> None:
    other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)

    def draw() -> np.ndarray:
        return other(
            "a red circle",
            image=torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
            num_inference_steps=4,
            strength=0.5,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images

    plain = draw()
    with record(other) as trace:
        recorded = draw()
    assert recorded.tobytes() == plain.tobytes()
    assert trace.settings["calls"] == 2


def test_a_long_prompt_says_what_was_cut(pipe: Any, draw: Draw) -> None:
    with record(pipe) as trace:
        draw(pipe, "a " * 75 + "red circle")
    with pytest.raises(UserError, match="cut off 'red'"):
        trace.heatmap("red")
