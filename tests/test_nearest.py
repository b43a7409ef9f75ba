"""Painting or recall: distances to the nearest training picture, and what counts as a copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.evaluation.nearest import nearest, recall, thumbnails
from lab.evaluation.recall import SHAPES_RECIPE, _training
from lab.scenes import draw_scene, sample_scene
from lab.training.blocks import BLOCK, blocks
from lab.training.encoded import block_scenes
from lab.training.recipe import load_recipe
from lab.training.sources import ShapeScenes


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_nearest_is_the_least_of_all_distances(
    pictures: int, others: int, parts: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    own = rng.random((pictures, 12), dtype=np.float32)
    theirs = rng.random((others, 12), dtype=np.float32)
    expected = np.sqrt(((own[:, None] - theirs[None]) ** 2).mean(axis=2)).min(axis=1)
    found = nearest(own, (part for part in np.array_split(theirs, parts) if len(part)))
    assert np.allclose(found, expected, atol=1e-5)


def test_copies_of_training_pictures_are_found_and_new_ones_are_not() -> None:
    def drawn(first: int, count: int) -> np.ndarray:
        return thumbnails(draw_scene(sample_scene(seed)) for seed in range(first, first + count))

    training, unseen, new = drawn(0, 120), drawn(1000, 100), drawn(2000, 30)
    copies = training[:30] + np.float32(0.002)  # as a decoder may give them
    found = recall(np.concatenate([copies, new]), unseen, iter([training[:50], training[50:]]))
    assert 30 <= found.near <= 32
    assert found.pictures == 60
    assert found.trained_on == 120
    assert found.painted < found.unseen


@pytest.mark.slow
def test_the_training_set_is_drawn_again_latest_first() -> None:
    recipe, source = load_recipe(SHAPES_RECIPE), ShapeScenes()
    parts = list(_training(recipe, source, 300))
    assert [len(part) for part in parts] == [256, 44]
    last = block_scenes(recipe, source, blocks(recipe.denoiser) - 1)
    assert len(last) == BLOCK
    assert np.array_equal(parts[0][0], thumbnails([source.picture(last[0])])[0])
    seen = recipe.denoiser.steps * recipe.denoiser.batch
    assert blocks(recipe.denoiser) * BLOCK * recipe.denoiser.passes >= seen


def test_the_recipe_is_in_the_package() -> None:
    assert Path(SHAPES_RECIPE).is_file()
