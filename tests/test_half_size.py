"""The denoiser's inner blocks, trained alone and then grown."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional

from t2i_xattn.training.denoiser import new_denoiser
from t2i_xattn.training.half_size import HalfSizeEnds, grow, outer_parameters
from t2i_xattn.training.recipe import Recipe, load_recipe

RECIPES = Path(__file__).parents[1] / "t2i_xattn" / "training" / "recipes"


@pytest.fixture
def recipe() -> Recipe:
    recipe = load_recipe(RECIPES / "world.toml")
    small = dataclasses.replace(recipe.denoiser, channels=[16, 24, 32], heads=[2, 2, 2])
    return dataclasses.replace(recipe, denoiser=small)


@pytest.fixture
def unet(recipe: Recipe) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return new_denoiser(recipe)


def _asked(recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    noisy = torch.randn(2, recipe.autoencoder.latent_channels, 16, 16, generator=random)
    words = torch.randn(2, 77, recipe.text.width, generator=random)
    return noisy, torch.tensor([100, 700]), words


def test_inner_blocks_are_trained_and_outer_ones_are_not(
    unet: UNet2DConditionModel, recipe: Recipe
) -> None:
    ends = HalfSizeEnds(unet)
    noisy, timesteps, words = _asked(recipe)
    halved = functional.avg_pool2d(noisy, 2)
    told = ends(unet, halved, timesteps, words)
    assert told.shape == halved.shape
    told.square().sum().backward()
    outer = {id(each) for each in outer_parameters(unet)}
    for name, parameter in unet.named_parameters():
        assert (parameter.grad is None) == (id(parameter) in outer), name
    assert all(each.grad is not None for each in ends.parameters())


def test_inner_blocks_run_in_the_denoiser_s_own_order(
    unet: UNet2DConditionModel, recipe: Recipe
) -> None:
    """What the blocks hear at half the size is what diffusers' own forward lets them hear."""
    ends = HalfSizeEnds(unet)
    grow(unet, ends)
    noisy, timesteps, words = _asked(recipe)
    heard: dict[str, list[torch.Tensor]] = {}
    inner = {
        "first": unet.down_blocks[1].resnets[0],
        "middle": unet.mid_block.resnets[0],
        "lowest": unet.up_blocks[0].resnets[0],
        "up": unet.up_blocks[-2].resnets[-1],
    }
    handles = [
        module.register_forward_pre_hook(
            lambda _module, args, name=name: heard.setdefault(name, []).append(args[0])
        )
        for name, module in inner.items()
    ]
    with torch.no_grad():
        unet(noisy, timesteps, words)
        handed = heard["first"][0]
        # The way in, made to hand on exactly what the outer blocks do.
        ends.enter.forward = lambda _sample: handed
        ends(unet, functional.avg_pool2d(noisy, 2), timesteps, words)
    for handle in handles:
        handle.remove()
    for name, (whole, half) in heard.items():
        assert torch.allclose(whole, half, atol=1e-5), name


def test_grown_outer_blocks_begin_as_a_mean_two_by_two(
    unet: UNet2DConditionModel, recipe: Recipe
) -> None:
    ends = HalfSizeEnds(unet)
    grow(unet, ends)
    noisy, timesteps, words = _asked(recipe)
    flat = noisy.mean(dim=(2, 3), keepdim=True).expand_as(noisy)
    heard = []
    handle = unet.down_blocks[1].register_forward_pre_hook(
        lambda _module, _args, given: heard.append(given["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        unet(flat, timesteps, words)
        expected = ends.enter(functional.avg_pool2d(flat, 2))
    handle.remove()
    inside = slice(1, -1)
    assert torch.allclose(heard[0][..., inside, inside], expected[..., inside, inside], atol=1e-5)
    with torch.no_grad():
        hidden = torch.randn(1, 24, 4, 4)
        copied = unet.up_blocks[-2].upsamplers[0](hidden)
    assert torch.allclose(copied, functional.interpolate(hidden, scale_factor=2.0), atol=1e-6)
