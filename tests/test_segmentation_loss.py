"""The denoiser's second task: labels of pixels, and a head that learns to tell them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.scenes.world import class_map, sample_world
from lab.training.denoiser import new_denoiser
from lab.training.recipe import Recipe, load_recipe
from lab.training.segmentation_loss import LateFeatures, SegmentationHead, segmentation_loss
from lab.training.sources import NOTHING, SceneSource, ShapeScenes, WorldScenes

RECIPE = Path(__file__).parents[1] / "scripts" / "lab" / "training" / "recipes" / "world.toml"


def _recipe() -> Recipe:
    recipe = load_recipe(RECIPE)
    small = dataclasses.replace(recipe.denoiser, layers=1, channels=[32, 32, 32], heads=[2, 2, 2])
    return dataclasses.replace(recipe, denoiser=small)


@pytest.mark.parametrize("source", [ShapeScenes(), WorldScenes()])
def test_labels_lie_within_their_values(source: SceneSource) -> None:
    rng = np.random.default_rng(5)
    for _ in range(12):
        labels = source.pixel_labels(source.draw(rng), 16)
        assert labels.shape == (len(source.pixel_values()), 16, 16)
        assert (labels[0] != NOTHING).all()  # every pixel is of something
        for each, values in zip(labels, source.pixel_values(), strict=True):
            assert (each[each != NOTHING] < values).all()


def test_labels_of_the_world_are_what_was_drawn() -> None:
    scene = sample_world(np.random.default_rng(3))
    assert np.array_equal(WorldScenes().pixel_labels(scene, 16)[0], class_map(scene, 16))


def test_the_two_languages_share_colours_and_no_classes() -> None:
    world, rng = WorldScenes(), np.random.default_rng(8)
    shapes = world.shapes.draw(rng)
    plain, among = world.shapes.pixel_labels(shapes, 16), world.pixel_labels(shapes, 16)
    assert np.array_equal(plain[1], among[1])
    assert among[0].min() > class_map(sample_world(rng), 16).max()


def test_a_head_that_knows_nothing_pays_the_logarithm_of_the_values() -> None:
    head = SegmentationHead(_recipe().denoiser, (5, 3))
    torch.nn.init.zeros_(head.tell.weight)
    assert head.tell.bias is not None
    torch.nn.init.zeros_(head.tell.bias)
    labels = torch.full((2, 2, 4, 4), NOTHING, dtype=torch.uint8)
    labels[:, 0] = 1  # the second label holds nowhere and costs nothing
    loss = segmentation_loss(head, torch.randn(2, 32, 4, 4), labels)
    assert float(loss.detach()) == pytest.approx(math.log(5), rel=1e-5)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_features_are_the_denoiser_s(compiled: bool) -> None:
    recipe = _recipe()
    unet = new_denoiser(recipe)
    head = SegmentationHead(recipe.denoiser, (5,))
    latents = torch.randn(1, recipe.autoencoder.latent_channels, 16, 16)
    inputs = latents, torch.tensor([9]), torch.randn(1, 7, 256)
    watched = LateFeatures(unet)
    if compiled:
        unet.compile(backend="aot_eager", fullgraph=True)
    for _ in range(2):
        unet(*inputs)
        features = watched.taken()
    assert features.shape == (1, 32, 16, 16)
    labels = torch.zeros((1, 1, 16, 16), dtype=torch.uint8)
    segmentation_loss(head, features, labels).backward()
    assert unet.conv_in.weight.grad is not None
    # What paints is not asked; a compiled backward pass may say so by zeros.
    painted = unet.conv_out.weight.grad
    assert painted is None or (compiled and not painted.any())
