"""The training of pictures as prompts, in a few steps: it stops and goes on, and what it writes is
an IP-Adapter's folder that diffusers loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import t2i_xattn as tx
from lab.evaluation.picture_prompts import evaluate_pictures, picture_cases
from lab.judge.segmenter import WEIGHTS, load_segmenter
from lab.scenes.world import WorldScene
from lab.training.picture_prompts.card import picture_prompts_card
from lab.training.picture_prompts.drawn import DrawnPictures, draw_pictures, thing_of
from lab.training.picture_prompts.recipe import PicturePromptRecipe, load_picture_prompt_recipe
from lab.training.picture_prompts.run import export_picture_prompts, train_picture_prompts
from lab.training.picture_prompts.vision import seen_pairs
from t2i_xattn.conditioning.picture_tokens import PictureTokens

RECIPE = Path(__file__).parents[1] / "scripts/lab/training/recipes/picture_prompts.toml"


def short() -> PicturePromptRecipe:
    recipe = load_picture_prompt_recipe(RECIPE)
    few: dict[str, Any] = {"steps": 2, "warmup": 1, "decay": 1}
    vision = replace(recipe.vision, **few, batch=4, width=16, layers=1, heads=2, embedding=8)
    names = ("concatenated", "distilled", "separate", "refined")
    adapters = {name: replace(getattr(recipe, name), **few, batch=4) for name in names}
    return replace(recipe, scenes=60, mixed_precision="no", vision=vision, **adapters)


@pytest.fixture(scope="module")
def drawn() -> DrawnPictures:
    return draw_pictures(3, 40)


def test_what_is_drawn_is_a_function_of_the_seed(drawn: DrawnPictures) -> None:
    again = draw_pictures(3, 40)
    assert again.scenes == drawn.scenes
    assert (again.pixels == drawn.pixels).all()
    assert (draw_pictures(4, 40).pixels != drawn.pixels).any()


def test_pictures_of_the_same_thing_are_found(drawn: DrawnPictures) -> None:
    assert drawn.same
    for group in drawn.same:
        scenes = [drawn.scenes[index] for index in group]
        assert all(isinstance(each, WorldScene) for each in scenes)
        assert len({thing_of(scene) for scene in scenes}) == 1
    singles = [thing_of(each) is not None for each in drawn.scenes]
    assert all(singles[: int(0.65 * 40)])


def test_pairs_are_those_of_the_labels() -> None:
    labels = np.full((1, 4, 2, 2), 255, dtype=np.uint8)
    labels[0, 0] = [[1, 2], [2, 1]]
    labels[0, 1] = [[255, 0], [1, 255]]
    found = seen_pairs(labels, 1, 2, 3).reshape(3, 2)
    assert found.tolist() == [[0, 0], [0, 0], [1, 1]]


def test_cases_ask_for_another_place() -> None:
    for case in picture_cases(6):
        assert case.own.things == case.other.things
        assert case.own.place != case.other.place
        kind = case.own.things[0].kind
        assert kind not in case.place.split()
    assert picture_cases(2)[1].place == picture_cases(3)[1].place


@pytest.mark.slow
def test_it_stops_and_goes_on_and_diffusers_loads_it(tmp_path: Path) -> None:
    whole = train_picture_prompts(short(), tmp_path / "whole")
    assert whole is not None
    calls, parts = 0, None
    while parts is None:
        calls += 1
        parts = train_picture_prompts(short(), tmp_path / "parts", max_steps=1)
    # Five stages of two steps: the second step of one is followed by the next one's first.
    assert calls == 6
    for way, weights in whole.adapters.items():
        for name, each in weights.items():
            # Sums run in another order where tensors lie otherwise in memory; a step that is
            # missing or taken twice would change a hundredth.
            apart = (each.float() - parts.adapters[way][name].float()).norm() / each.float().norm()
            assert apart < 2e-4, (name, float(apart))
    card = picture_prompts_card(short(), tmp_path / "whole", None)
    assert "| separate | 2 | 4 |" in card
    export_picture_prompts(whole, tmp_path / "out", card)
    pipe = tx.load_default()
    pipe.load_ip_adapter(
        str(tmp_path / "out"),
        subfolder="",
        weight_name="separate.safetensors",
        image_encoder_folder="image_encoder",
    )
    pipe.set_progress_bar_config(disable=True)
    for own in ("down_blocks.0.attentions.0", "up_blocks.2.attentions.2"):
        # In the UNet's own order: keys that began as the text's, two steps ago.
        layer = pipe.unet.get_submodule(f"{own}.transformer_blocks.0.attn2")
        key = layer.processor.to_k_ip[0].weight
        assert (
            torch.nn.functional.cosine_similarity(key.flatten(), layer.to_k.weight.flatten(), dim=0)
            > 0.9
        )
    tokens = PictureTokens.from_pretrained(tmp_path / "out")
    plain = tx.load_default()
    plain.set_progress_bar_config(disable=True)
    segmenter, cases = load_segmenter(WEIGHTS), picture_cases(2)
    every = evaluate_pictures(pipe, plain, tokens, segmenter, cases, steps=2, batch=2)
    found = list(every)[-1]
    assert {len(each.verdicts) for each in found.values()} == {2}
    for (_, way), figures in found.items():
        assert (way == "text") == (not figures.parts)
        assert all(0 < part < 1 for part in figures.parts)
    names = set(load_file(tmp_path / "out" / "separate.safetensors"))
    assert {"image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"} <= names
