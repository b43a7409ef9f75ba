"""What ships: a folder that stock diffusers loads, and a card that tells the truth."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from conftest import make_pipeline
from lab.models import MODELS
from lab.training.card import model_card
from lab.training.export import export_pipeline
from lab.training.recipe import STAGES, load_recipe
from t2i_xattn.errors import UserError

RECIPE = Path(__file__).parents[1] / "scripts" / "lab" / "training" / "recipes" / "shapes.toml"
CURVE = [[50, 1.0, 60.0], [100, 0.5, 120.0], [150, 0.25, 180.0], [200, 0.125, 240.0]]


def test_a_plain_from_pretrained_computes_in_fp32_from_fp16_files(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("an earlier model", "utf-8")
    export_pipeline(make_pipeline(), tmp_path / "model", "# A card")
    assert not (tmp_path / "model" / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    weights = load_file(tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {each.dtype for each in weights.values()} == {torch.float16}
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float32}
    assert pipe("red", num_inference_steps=1, output_type="np").images.shape == (1, 64, 64, 3)


def test_an_export_that_fails_leaves_the_earlier_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("an earlier model", "utf-8")
    monkeypatch.setattr(StableDiffusionPipeline, "save_pretrained", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_pipeline(make_pipeline(), tmp_path / "model", "# A card")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]


def test_the_card_gives_what_was_measured_and_says_what_was_supervised(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE)
    curves = {stage: [*CURVE, [getattr(recipe, stage).steps, 0.1, 300.0]] for stage in STAGES}
    (tmp_path / "curves.json").write_text(json.dumps(curves), "utf-8")
    share = {"share": 0.75, "right": 3, "n": 4, "wilson_95": [0.3, 0.954]}
    one = {"way": "mean", "kind": "noun", "timestep": None, "map_of": "the word", "n": 9}
    figures = {
        "settings": {"steps": 25, "guidance": 5.0},
        "judge": {"clean": {"all": share}},
        "pictures": {"pairs": {"objects right": share}},
        "maps": [one | {"iou": 0.5, "iou_true_area": 0.6, "pointing": 0.7}],
    }
    (tmp_path / "figures.json").write_text(json.dumps(figures), "utf-8")
    card = model_card(recipe, tmp_path, tmp_path / "figures.json")
    assert "| pairs | objects right | 75.0 % (30–95) | 4 |" in card
    assert "| mean | noun | all | the word | 0.500 | 0.600 | 70.0 % | 9 |" in card
    seen = recipe.denoiser.steps * recipe.denoiser.batch
    assert f"| {seen:,} |" in card
    assert f"{recipe.denoiser.steps:,} of" not in card
    assert "the maps are the model's own" in card
    told = dataclasses.replace(
        recipe, denoiser=dataclasses.replace(recipe.denoiser, mask_loss=0.05)
    )
    assert "told to show" in model_card(told, tmp_path)
    assert "read with gaps" not in card
    gaps = dataclasses.replace(
        recipe, denoiser=dataclasses.replace(recipe.denoiser, reading_dropout=0.3)
    )
    assert "read with gaps meanwhile\n(30% of what" in model_card(gaps, tmp_path)
    (tmp_path / "figures.json").write_text("{}", "utf-8")
    with pytest.raises(UserError, match="expected the figures"):
        model_card(recipe, tmp_path, tmp_path / "figures.json")


def test_the_card_of_the_world(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE.with_name("world.toml"))
    (tmp_path / "curves.json").write_text(json.dumps(dict.fromkeys(STAGES, CURVE)), "utf-8")
    share = {"share": 0.75, "right": 3, "n": 4, "wilson_95": [0.3, 0.954]}
    figures = {
        "settings": {"steps": 25, "guidance": 5.0, "limit": 4},
        "judge": {"mean IoU": 0.97, "all": share},
        "pictures": {"pairs": {"things right": share}},
        "peaks of": "A city",
        "peaks": {"mean": {"city": share | {"by chance": 0.4}}},
    }
    (tmp_path / "figures.json").write_text(json.dumps(figures), "utf-8")
    card = model_card(recipe, tmp_path, tmp_path / "figures.json")
    assert "| pairs | things right | 75.0 % (30–95) | 4 |" in card
    assert "| mean | city | 75.0 % (30–95) | 4 | 40 % |" in card
    assert "`scripts/evaluate.py world --limit 4`" in card


def test_the_card_lists_the_runs_that_came_before(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE)
    supervised = RECIPE.read_text("utf-8").replace("mask_loss = 0.0", "mask_loss = 0.07")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "recipe.toml").write_text(supervised, "utf-8")
    curves = {"text": CURVE, "denoiser": CURVE, "decoder": []}
    (tmp_path / "first" / "curves.json").write_text(json.dumps(curves), "utf-8")
    (tmp_path / "curves.json").write_text(json.dumps({"denoiser": CURVE[:2]}), "utf-8")
    card = model_card(recipe, tmp_path, earlier=[tmp_path / "first"])
    rows = [line.split(" | ")[:4] for line in card.splitlines() if line.startswith("| denoiser")]
    batch, steps = recipe.denoiser.batch, recipe.denoiser.steps
    assert rows == [
        ["| denoiser", f"{done} of {steps:,}", str(batch), f"{done * batch:,}"]
        for done in (200, 100)
    ]
    assert "| text |" in card
    assert "| decoder |" not in card  # it has no curve: it was too short for one
    assert "weight 0.07" in card  # what was supervised before stays so
    assert "decoder alone" not in card


STOCK = """
import sys
from diffusers import StableDiffusionPipeline
for folder in sys.argv[1:]:
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    picture = pipe("a red circle", num_inference_steps=2).images[0]
    assert picture.size == (128, 128), (folder, picture.size)
assert "t2i_xattn" not in sys.modules
"""


def test_stock_diffusers_loads_the_models_in_the_box_without_this_package() -> None:
    arguments = [sys.executable, "-c", STOCK, *map(str, MODELS.values())]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
