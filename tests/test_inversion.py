"""Inversion: the sampler taken back, and pictures that come out again."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from PIL import Image

from conftest import make_pipeline
from lab.evaluation.inversions import evaluate_inversions, psnr
from lab.models import load_model
from lab.scenes import render_scene
from t2i_xattn.errors import UserError
from t2i_xattn.inversion import invert
from t2i_xattn.inversion.checks import Method
from t2i_xattn.inversion.ddim import moved, schedule_of
from t2i_xattn.inversion.methods import REFINEMENTS
from t2i_xattn.recording.record import record
from tiny_pipelines import make_refiner, make_sdxl, make_svd


def picture(seed: int = 0, size: tuple[int, int] = (64, 64)) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_a_step_is_the_schedulers_and_can_be_taken_back(
    pipe: Any, prediction: str, spacing: str
) -> None:
    pipe.scheduler = DDIMScheduler(
        clip_sample=False,
        prediction_type=prediction,
        timestep_spacing=spacing,
        rescale_betas_zero_snr=prediction == "v_prediction",
        set_alpha_to_one=False,
    )
    schedule = schedule_of(pipe, 10)
    pipe.scheduler.set_timesteps(10)
    torch.manual_seed(0)
    for step, timestep in enumerate(pipe.scheduler.timesteps):
        latents, output = torch.randn(2, 1, 4, 8, 8)
        expected = pipe.scheduler.step(output, timestep, latents).prev_sample
        found = moved(schedule, output, latents, step, step + 1)
        assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
    # Back with an output that says the same of both ends: x̂₀ and ε̂ are kept.
    clean, noise = torch.randn(2, 1, 4, 8, 8)

    def at(place: int) -> tuple[torch.Tensor, torch.Tensor]:
        signal, spread = schedule.alphas[place].sqrt(), (1 - schedule.alphas[place]).sqrt()
        says = {
            "epsilon": noise,
            "sample": clean,
            "v_prediction": signal * noise - spread * clean,
        }
        return signal * clean + spread * noise, says[prediction]

    latents, output = at(5)
    assert torch.allclose(moved(schedule, output, latents, 5, 4), at(4)[0], atol=1e-5)


def latents_of(pipe: Any, image: Image.Image) -> torch.Tensor:
    pixels = pipe.image_processor.preprocess(image)
    with torch.no_grad():
        return pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor


def painted(pipe: Any, inversion: Any, prompt: Any = None) -> torch.Tensor:
    return pipe(**inversion.arguments(prompt), output_type="latent").images


def test_direct_inversion_is_exact(pipe: Any) -> None:
    images = [picture(0), picture(1)]
    inversion = invert(pipe, images, ["a red circle", "blue"], num_inference_steps=5)
    assert inversion.trajectory.shape == (6, 2, 4, 8, 8)
    with record(pipe) as trace:
        found = painted(pipe, inversion)
    for row, image in enumerate(images):
        assert torch.allclose(found[row], latents_of(pipe, image)[0], atol=1e-5)
    assert trace.prompts == ("a red circle", "blue")
    assert trace.heatmap("circle").share > 0


@pytest.mark.slow
def test_null_text_comes_closer_than_ddim(pipe: Any) -> None:
    image = picture()
    options: dict[str, Any] = {"num_inference_steps": 6, "guidance_scale": 5.0}
    requires = [parameter.requires_grad for parameter in pipe.unet.parameters()]
    wanted = latents_of(pipe, image)
    errors = {}
    method: Method
    for method in ("ddim", "null-text"):
        inversion = invert(pipe, image, "a red circle", method=method, iterations=20, **options)
        errors[method] = (painted(pipe, inversion) - wanted).square().mean().item()
    assert errors["null-text"] < 0.5 * errors["ddim"]
    assert [parameter.requires_grad for parameter in pipe.unet.parameters()] == requires
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())


@pytest.mark.parametrize(
    ("method", "calls", "rows"),
    [
        ("direct", 1 + REFINEMENTS, 1),
        ("fixed-point", 1 + REFINEMENTS, 2),
        ("ddim", 1, 1),
        # Each step's search begins with the conditional row and ends with a look at what came out.
        ("null-text", 1 + REFINEMENTS + 3 + 2, 1),
    ],
)
def test_how_often_the_denoiser_is_called(pipe: Any, method: Method, calls: int, rows: int) -> None:
    seen: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    invert(pipe, picture(), "red", method=method, num_inference_steps=4, iterations=3)
    assert seen == [rows] * 4 * calls


@pytest.mark.slow
@pytest.mark.parametrize("method", get_args(Method))
def test_inference_mode_changes_nothing(pipe: Any, method: Method) -> None:
    given: dict[str, Any] = {"method": method, "num_inference_steps": 3, "iterations": 2}
    expected = invert(pipe, picture(), "red", **given)
    with torch.inference_mode():
        found = invert(pipe, picture(), "red", **given)
        again = painted(pipe, found)
    assert torch.equal(found.trajectory, expected.trajectory)
    if expected.null_texts is not None:
        assert found.null_texts is not None
        assert torch.equal(found.null_texts, expected.null_texts)
    assert torch.equal(again, painted(pipe, expected))


def test_a_pipeline_that_was_loaded_in_inference_mode() -> None:
    with torch.inference_mode():
        pipe = make_pipeline()
        assert len(invert(pipe, picture(), "red", num_inference_steps=2).trajectory) == 3
        with pytest.raises(UserError, match="was loaded inside of torch"):
            invert(pipe, picture(), "red", method="null-text", num_inference_steps=2)


def test_pictures_of_shapes_come_back() -> None:
    """A fixed point of each step leads there again; the plain way back does not, since this model's
    first step begins at pure noise."""
    pipe = load_model("shapes")
    pipe.set_progress_bar_config(disable=True)
    scenes = [render_scene(30_000_000 + index) for index in range(2)]
    images, prompts = [scene.image for scene in scenes], [scene.prompt for scene in scenes]
    pixels = pipe.image_processor.preprocess(images)
    with torch.no_grad():
        wanted = pipe.vae.encode(pixels.to(pipe.vae.dtype)).latents * pipe.vae.config.scaling_factor
    errors = {}
    method: Method
    for method in ("fixed-point", "ddim"):
        inversion = invert(
            pipe, images, prompts, method=method, num_inference_steps=10, guidance_scale=1.0
        )
        errors[method] = (painted(pipe, inversion) - wanted).square().mean().item()
    assert errors["fixed-point"] < 1e-3 * wanted.square().mean().item()
    assert errors["fixed-point"] < 0.1 * errors["ddim"]


@pytest.mark.slow
def test_figures(pipe: Any) -> None:
    pipe.scheduler = DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    figures = {each.method: each for each in evaluate_inversions(pipe, 3, steps=2, batch=2)}
    assert list(figures) == ["autoencoder", "direct", "fixed-point", "null-text", "ddim"]
    assert all(each.n == 3 for each in figures.values())
    assert figures["autoencoder"].behind == figures["autoencoder"].behind_worst == 0
    assert abs(figures["direct"].behind_worst) < 1e-3
    assert psnr(np.zeros((1, 2, 2, 3)), np.full((1, 2, 2, 3), 0.1)) == pytest.approx(20)


def test_other_words_move_away_beside_the_picture(pipe: Any) -> None:
    inversion = invert(pipe, picture(), "a red circle", num_inference_steps=5)
    both = painted(pipe, inversion, ["a red circle", "a blue circle"])
    assert torch.allclose(both[0], latents_of(pipe, picture())[0], atol=1e-5)
    assert not torch.allclose(both[1], both[0], atol=1e-2)
    alone = painted(pipe, inversion, "a blue circle")
    assert torch.allclose(alone[0], both[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "exact"}, "but came 'exact'"),
        ({"method": "null-text", "guidance_scale": 1.0}, "guidance_scale above 1"),
        ({"prompts": ["a", "b"]}, "1 pictures and 2 prompts"),
        ({"images": []}, "0 pictures and 1 prompts"),
        ({"images": [np.zeros((64, 64, 3))]}, "paths of picture files, but came ndarray"),
        ({"images": picture(size=(60, 64))}, "multiples of 8, but came 60 × 64"),
        ({"num_inference_steps": 0}, "num_inference_steps of 1 or more"),
    ],
)
def test_bad_input(pipe: Any, changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"images": picture(), "prompts": "red"} | changes
    with pytest.raises(UserError, match=message):
        invert(pipe, **given)


def test_samplers_that_cannot_be_taken_back(pipe: Any) -> None:
    pipe.scheduler = PNDMScheduler(skip_prk_steps=True)
    with pytest.raises(UserError, match="has PNDMScheduler"):
        invert(pipe, picture(), "red")
    pipe.scheduler = DDIMScheduler(clip_sample=True)
    with pytest.raises(UserError, match="does not clip"):
        invert(pipe, picture(), "red")


def test_prompts_of_several_pictures(pipe: Any) -> None:
    inversion = invert(pipe, [picture(0), picture(1)], ["red", "blue"], num_inference_steps=2)
    with pytest.raises(UserError, match="2 prompts, one for each inverted picture, but came 1"):
        inversion.arguments("red")


def test_pipelines_of_other_parts(pipe: Any) -> None:
    with pytest.raises(UserError, match=r"one text encoder, but StableDiffusionXLP.* has two"):
        invert(make_sdxl(), picture(), "red")
    with pytest.raises(UserError, match="with a text_encoder, but StableDiffusionXLImg2ImgP"):
        invert(make_refiner(), picture(), "red")
    with pytest.raises(UserError, match="with a text_encoder, but StableVideoDiffusionPipeline"):
        invert(make_svd(), picture(), "red")
    pipe.tokenizer = None
    with pytest.raises(UserError, match="with a tokenizer, but StableDiffusionPipeline has none"):
        invert(pipe, picture(), "red")
