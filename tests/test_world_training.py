"""Training on the world: the same loop, other scenes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from lab.training import blocks, loop
from lab.training.autoencoder import new_autoencoder
from lab.training.card import model_card
from lab.training.denoiser import new_denoiser
from lab.training.recipe import STAGES, Recipe, load_recipe
from lab.training.run import train_pipeline
from lab.training.sources import source_named
from lab.training.text import new_text_encoder
from lab.training.tokenizer import build_tokenizer
from weights import assert_same_weights

RECIPE = Path(__file__).parents[1] / "scripts" / "lab" / "training" / "recipes" / "world.toml"


def _tiny(steps: int, batch: int) -> Recipe:
    """The world's recipe at a size that trains in seconds."""
    recipe = load_recipe(RECIPE)
    short = {"steps": steps, "batch": batch, "warmup": 2, "decay": 2}
    return dataclasses.replace(
        recipe,
        mixed_precision="no",
        autoencoder=dataclasses.replace(
            recipe.autoencoder, **short, channels=8, encoder_blocks=[0, 1, 1, 1],
            decoder_blocks=[1, 1, 1, 0],
        ),
        decoder=dataclasses.replace(recipe.decoder, **short),
        text=dataclasses.replace(
            recipe.text, **short, width=32, layers=1, heads=2, even_styles=1
        ),
        denoiser=dataclasses.replace(
            recipe.denoiser, **short, channels=[32, 32, 32], heads=[2, 2, 2], mask_loss=0.1,
            segmentation_loss=0.1, hide_words=0.5,
        ),
    )  # fmt: skip


def test_the_checkpoint_stays_small() -> None:
    recipe = load_recipe(RECIPE)
    tokenizer = build_tokenizer(source_named(recipe.scenes).vocabulary())
    with torch.device("meta"):
        parts = [
            new_denoiser(recipe), new_autoencoder(recipe), new_text_encoder(recipe, tokenizer),
        ]  # fmt: skip
    values = sum(each.numel() for part in parts for each in part.parameters())
    assert 30e6 < 2 * values < 60e6  # bytes in fp16


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_at_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 4)  # scenes are drawn a few at a time
    recipe = _tiny(steps=3, batch=2)
    along = dataclasses.replace(recipe.denoiser, text_learning_rate=1e-4)
    recipe = dataclasses.replace(recipe, denoiser=along)
    straight = train_pipeline(recipe, tmp_path / "straight")
    for steps in (2, 3, 3, 3):
        assert train_pipeline(recipe, tmp_path / "stopped", max_steps=steps) is None
    resumed = train_pipeline(recipe, tmp_path / "stopped")
    assert_same_weights(straight, resumed)


def test_the_card_is_the_world_s(tmp_path: Path) -> None:
    curves = {stage: [[50, 1.0, 60.0]] for stage in STAGES}
    (tmp_path / "curves.json").write_text(json.dumps(curves), "utf-8")
    card = model_card(load_recipe(RECIPE), tmp_path)
    assert "recipes/world.toml" in card
    assert "night with desert" in card
    assert "Illustrated scenes" in card
    assert "hidden" not in card
    hidden = dataclasses.replace(load_recipe(RECIPE).denoiser, hide_words=0.3)
    card = model_card(dataclasses.replace(load_recipe(RECIPE), denoiser=hidden), tmp_path)
    assert "Of 30% of the prompts some\nwords were hidden from the denoiser" in card


@pytest.mark.slow
def test_a_thousand_steps_learn_what_an_untrained_model_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 10)
    monkeypatch.setattr(blocks, "BLOCK", 256)
    recipe = _tiny(steps=1, batch=4)
    steps = {"autoencoder": 350, "decoder": 50, "text": 150, "denoiser": 450}
    assert sum(steps.values()) == 1000
    stages = {
        name: dataclasses.replace(getattr(recipe, name), steps=each, decay=each // 2)
        for name, each in steps.items()
    }
    stages["text"] = dataclasses.replace(stages["text"], batch=32)
    stages["denoiser"] = dataclasses.replace(
        stages["denoiser"], mask_loss=0.0, segmentation_loss=0.0
    )
    train_pipeline(dataclasses.replace(recipe, **stages), tmp_path)
    curves = json.loads((tmp_path / "curves.json").read_text("utf-8"))
    bounds = {"autoencoder": 0.6, "text": 24.0, "denoiser": 0.55}
    for stage, bound in bounds.items():
        losses = [loss for _, loss, _ in curves[stage]]
        assert losses[0] > 1.2 * bound, stage
        assert sum(losses[-3:]) / 3 < bound, stage
