"""Inversion of flow matching: transformers run backwards, and pictures that come out again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FluxPipeline,
)
from PIL import Image
from torch import Tensor

import t2i_xattn as tx
from t2i_xattn import edits
from t2i_xattn.errors import UserError
from t2i_xattn.inversion import invert, methods
from test_inversion import picture
from tiny import cross
from tiny.by_row import make_lumina2, make_z_image
from tiny.llm import make_krea2, make_qwen_image
from tiny.picture_first import make_sd3
from tiny.text_first import make_flux
from tiny.text_first_more import make_chroma, make_ovis

PROMPT = "a red circle"
SIZE = (48, 32)


def shifted(make: Callable[[], Any]) -> Any:
    """With noise levels that depend on the size of the picture."""
    pipe = make()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=2.0)
    return pipe


make_flux1 = partial(make_flux, FluxPipeline)

MAKERS: dict[str, tuple[Callable[[], Any], tuple[int, int]]] = {
    "sd3": (make_sd3, SIZE),
    "sd3, shifted": (partial(shifted, make_sd3), SIZE),
    "flux": (make_flux1, (20, 12)),
    "flux, shifted": (partial(shifted, make_flux1), (20, 12)),
    "flux, not distilled": (partial(make_flux1, guidance=False), (20, 12)),
    "chroma": (make_chroma, (20, 12)),
    "qwen": (make_qwen_image, (32, 24)),
    "ovis": (make_ovis, (20, 12)),
    "lumina2": (make_lumina2, SIZE),
    "z-image": (make_z_image, SIZE),
    "krea2": (make_krea2, (32, 32)),
}


def latents_of(pipe: Any, image: Image.Image) -> Tensor:
    """What the autoencoder makes of a picture, and takes."""
    pixels = pipe.image_processor.preprocess(image).to(pipe.vae.dtype)
    if isinstance(pipe.vae, AutoencoderKLQwenImage):
        pixels = pixels[:, :, None]
    with torch.no_grad():
        latents: Tensor = pipe.vae.encode(pixels).latent_dist.mode()
    return latents


def decoded(pipe: Any, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> Tensor:
    """What a run hands to the autoencoder, its latents unpacked and scaled back by the pipeline."""
    decode, seen = pipe.vae.decode, []

    def spy(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(latents)
        return decode(latents, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(pipe.vae, "decode", spy)
        pipe(**arguments)
    return torch.cat(seen)


@pytest.mark.parametrize("name", MAKERS)
def test_direct_inversion_is_exact(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, size = MAKERS[name]
    pipe, image = make(), picture(size=size)
    scheduler, config = pipe.scheduler, dict(pipe.config)
    inversion = invert(pipe, image, PROMPT, num_inference_steps=3)
    assert pipe.scheduler is scheduler
    assert dict(pipe.config) == config
    with tx.record(pipe) as trace:
        found = decoded(pipe, monkeypatch, **inversion.arguments())
    assert torch.allclose(found, latents_of(pipe, image), atol=1e-6)
    assert trace.heatmap("circle").share > 0


@pytest.mark.parametrize("name", MAKERS)
def test_the_way_back_is_the_pipeline_s_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without guidance and without being held, the run goes where the way back came from."""
    make, size = MAKERS[name]
    pipe, steep = make(), name in ("lumina2", "z-image", "krea2")
    # These random models change so fast that large steps back have no fixed point.
    monkeypatch.setattr(methods, "REFINEMENTS", 12 if steep else 30)
    steps = 40 if steep else 3
    inversion = invert(pipe, picture(size=size), PROMPT, num_inference_steps=steps)
    path = [inversion.trajectory[0]]

    def noted(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        path.append(tensors["latents"])
        return tensors

    arguments = inversion.arguments() | {"callback_on_step_end": noted, "output_type": "latent"}
    arguments.pop("negative_prompt", None)
    if name not in ("flux", "flux, shifted"):  # whose guidance is embedded
        arguments[inversion.guided_by] = 0.0 if name in ("z-image", "krea2") else 1.0
    pipe(**arguments)
    found = torch.stack(path)
    assert found.shape == inversion.trajectory.shape
    assert torch.allclose(found, inversion.trajectory, atol=2e-4)
    assert not torch.allclose(found[0], found[-1], atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd3", "flux", "chroma"])
def test_the_noise_alone_holds_the_picture_with_guidance(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "REFINEMENTS", 40)
    make, size = MAKERS[name]
    pipe, image = make(), picture(size=size)
    options: dict[str, Any] = {"negative_prompt": "blue"} if name != "flux" else {}
    inversion = invert(
        pipe,
        image,
        PROMPT,
        method="fixed-point",
        num_inference_steps=4,
        guidance_scale=3,
        **options,
    )
    found = decoded(pipe, monkeypatch, **inversion.arguments())
    assert torch.allclose(found, latents_of(pipe, image), atol=1e-3)


@pytest.mark.parametrize("name", ["sd3", "flux", "qwen"])
def test_an_edit_beside_the_picture(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, size = MAKERS[name]
    pipe, image = make(), picture(size=size)
    inversion = invert(pipe, image, PROMPT, num_inference_steps=4)
    both = inversion.arguments([PROMPT, "a blue circle"])
    plain = decoded(pipe, monkeypatch, **both)
    with tx.edit(pipe, edits.Reweight("circle", 8.0)):
        found = decoded(pipe, monkeypatch, **both)
    for run in (plain, found):
        assert torch.allclose(run[:1], latents_of(pipe, image), atol=1e-6)
    assert not torch.allclose(plain[1], plain[0], atol=1e-4)
    assert not torch.allclose(found[1], plain[1], atol=1e-4)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_several_pictures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, size = MAKERS[name]
    pipe, images = make(), [picture(0, size), picture(1, size)]
    inversion = invert(pipe, images, ["a red circle", "blue"], num_inference_steps=2)
    found = decoded(pipe, monkeypatch, **inversion.arguments())
    for row, image in zip(found, images, strict=True):
        assert torch.allclose(row, latents_of(pipe, image)[0], atol=1e-6)
    other = decoded(pipe, monkeypatch, **inversion.arguments(["red", "blue"]))
    assert torch.allclose(other[1], found[1], atol=1e-6)
    assert not torch.allclose(other[0], found[0], atol=1e-3)


@pytest.mark.parametrize(("method", "rows"), [("direct", 1), ("fixed-point", 2)])
def test_how_often_the_denoiser_is_called(method: Any, rows: int) -> None:
    pipe = make_sd3()
    seen: list[tuple[int, float]] = []
    pipe.transformer.register_forward_pre_hook(
        lambda _, args, given: seen.append(
            (len(given["hidden_states"]), float(given["timestep"][0]))
        ),
        with_kwargs=True,
    )
    invert(pipe, picture(size=SIZE), PROMPT, method=method, num_inference_steps=3)
    assert [count for count, _ in seen] == [rows] * 3 * (1 + methods.REFINEMENTS)
    times = [time for _, time in seen]
    assert times == sorted(times)
    pipe.scheduler.set_timesteps(3)
    assert sorted(set(times), reverse=True) == pipe.scheduler.timesteps.tolist()


def test_inference_mode_changes_nothing() -> None:
    pipe = make_flux1()
    expected = invert(pipe, picture(size=(20, 12)), PROMPT, num_inference_steps=2)
    with torch.inference_mode():
        found = invert(pipe, picture(size=(20, 12)), PROMPT, num_inference_steps=2)
        loaded = make_flux1()
        again = invert(loaded, picture(size=(20, 12)), PROMPT, num_inference_steps=2)
    assert torch.equal(found.trajectory, expected.trajectory)
    assert torch.equal(again.trajectory, expected.trajectory)
    assert not found.trajectory.is_inference()


def test_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, image = make_flux1().to(torch.bfloat16), picture(size=(20, 12))
    inversion = invert(pipe, image, PROMPT, num_inference_steps=2)
    assert inversion.trajectory.dtype == torch.float32
    found = decoded(pipe, monkeypatch, **inversion.arguments())
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), latents_of(pipe, image).float(), atol=1e-2)


def test_guidance_is_the_pipeline_s_own_by_default() -> None:
    options: dict[str, Any] = {"num_inference_steps": 1}
    asked = {}
    for name in ("sd3", "flux", "flux, not distilled", "qwen", "z-image"):
        make, size = MAKERS[name]
        inversion = invert(make(), picture(size=size), PROMPT, **options)
        arguments = inversion.arguments()
        asked[name] = {each: arguments.get(each) for each in ("guidance_scale", "true_cfg_scale")}
        assert ("negative_prompt" in arguments) == (name != "flux")
    assert asked == {
        "sd3": {"guidance_scale": 7.0, "true_cfg_scale": None},
        "flux": {"guidance_scale": 3.5, "true_cfg_scale": None},
        "flux, not distilled": {"guidance_scale": None, "true_cfg_scale": 1.0},
        "qwen": {"guidance_scale": None, "true_cfg_scale": 4.0},
        "z-image": {"guidance_scale": 5.0, "true_cfg_scale": None},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "null-text"}, "direct, fixed-point for FluxPipeline, but came 'null-text'"),
        ({"method": "ddim"}, "direct, fixed-point for FluxPipeline, but came 'ddim'"),
        ({"images": picture(size=(21, 12))}, "multiples of 2, but came 21 × 12"),
        ({"prompts": ["a", "b"]}, "1 pictures and 2 prompts"),
        ({"num_inference_steps": 0}, "num_inference_steps of 1 or more"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"images": picture(size=(20, 12)), "prompts": PROMPT} | changes
    with pytest.raises(UserError, match=message):
        invert(make_flux1(), **given)


def test_sizes_are_of_whole_patches() -> None:
    with pytest.raises(UserError, match=r"multiples of 4, but came 30 × 32; .* to 28 × 32"):
        invert(make_sd3(), picture(size=(30, 32)), PROMPT)


def test_samplers_that_cannot_be_taken_back() -> None:
    pipe = make_flux1()
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    with pytest.raises(UserError, match=r"has FlowMatchHeunDiscreteScheduler; set pipe.scheduler"):
        invert(pipe, picture(size=(20, 12)), PROMPT)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    with pytest.raises(UserError, match="with stochastic_sampling=False"):
        invert(pipe, picture(size=(20, 12)), PROMPT)


def test_pipelines_of_other_parts() -> None:
    pipe = next(case for case in cross.CASES if case.name == "PixArtSigmaPipeline").make()
    with pytest.raises(UserError, match=r"a unet, but PixArtSigmaP.* one of StableDiffusion3Pip"):
        invert(pipe, picture(), PROMPT)
    flux = make_flux1()
    flux.vae = None
    with pytest.raises(UserError, match="with a vae, but FluxPipeline has none"):
        invert(flux, picture(), PROMPT)
