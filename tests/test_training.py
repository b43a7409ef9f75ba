"""The recipe, the tokenizer, and a training that goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from lab.scenes import describe, language, sample_scene
from lab.training import blocks
from lab.training.loop import train_stage
from lab.training.recipe import Recipe, Schedule, load_recipe
from lab.training.run import train_pipeline
from lab.training.sources import ShapeScenes, descriptions, drawn_scenes
from lab.training.sources.quiz import SIDES, UNSAID
from lab.training.tokenizer import build_tokenizer
from t2i_xattn.errors import UserError
from weights import assert_same_weights

RECIPE = Path(__file__).parents[1] / "scripts" / "lab" / "training" / "recipes" / "shapes.toml"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The shipped recipe at a size that trains in seconds, on scenes drawn a few at a time."""
    monkeypatch.setattr(blocks, "BLOCK", 16)
    recipe = load_recipe(RECIPE)
    short: dict[str, Any] = {"steps": 4, "batch": 2, "warmup": 2, "decay": 2}
    return dataclasses.replace(
        recipe,
        mixed_precision="no",
        autoencoder=dataclasses.replace(
            recipe.autoencoder, **short, channels=8, encoder_blocks=[0, 1, 1, 1],
            decoder_blocks=[1, 1, 1, 0],
        ),
        decoder=dataclasses.replace(recipe.decoder, **short),
        text=dataclasses.replace(recipe.text, **short, width=32, layers=1, heads=2),
        denoiser=dataclasses.replace(
            recipe.denoiser, **short, channels=[32, 32, 32], heads=[2, 2, 2]
        ),
    )  # fmt: skip


def test_each_word_of_the_language_is_one_token_and_any_other_is_bytes() -> None:
    words = language().vocabulary()
    tokenizer = build_tokenizer(words)
    assert [word for word in words if len(tokenizer.tokenize(word)) != 1] == []
    assert len(tokenizer.tokenize("zorp")) > 1
    assert tokenizer.decode(tokenizer("zorp 猫").input_ids, skip_special_tokens=True) == "zorp 猫"
    assert tokenizer.model_max_length == 77


def test_the_same_words_give_the_same_ids_in_any_order() -> None:
    words = language().vocabulary()
    first = build_tokenizer(words).get_vocab()
    assert all(build_tokenizer(words[::-1]).get_vocab() == first for _ in range(5))


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    schedule = Schedule(steps=100, batch=1, learning_rate=1.0, warmup=10, decay=20, ema=0.9)
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(50) == 1.0
    assert schedule.rate(90) == pytest.approx(0.5)
    assert schedule.rate(100) == 0.0


def test_a_recipe_with_a_wrong_setting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.read_text("utf-8").replace("latent_noise", "laten_noise"), "utf-8")
    with pytest.raises(UserError, match=r"missing settings \['latent_noise'\].*laten_noise"):
        load_recipe(path)
    with pytest.raises(UserError, match="Expected a recipe file"):
        load_recipe(tmp_path / "none.toml")


def test_a_training_scene_never_holds_what_is_held_out() -> None:
    scenes, _ = drawn_scenes(ShapeScenes(), [1], 300)
    assert not any(language().is_held_out(scene.kinds()) for scene in scenes)


def test_answers_are_those_of_the_scene() -> None:
    words = language()
    colours, shapes = list(words.colours), list(words.shapes)
    scenes = [sample_scene(seed, objects=2) for seed in range(20)]
    said = [describe(scene, seed, relation=True) for seed, scene in enumerate(scenes)]
    answers = ShapeScenes().labels(scenes, said)
    for index, scene in enumerate(scenes):
        assert answers["ground"][index] == list(words.grounds).index(scene.ground)
        found = {colours[i] for i in answers["present"][index, : len(colours)].nonzero()}
        assert found == {each.colour for each in scene.objects}
        for each in scene.objects:
            question = colours.index(each.colour)
            alone = sum(other.colour == each.colour for other in scene.objects) == 1
            assert (answers["partner"][index, question] != UNSAID) == alone
            if alone:
                assert shapes[answers["partner"][index, question]] == each.shape
                assert answers["column"][index, question] == int(each.x / 16)
                assert answers["row"][index, question] == int(each.y / 16)
        relation = said[index].relation
        if relation is None:
            assert (answers["outermost"][index] == UNSAID).all()
            continue
        first, side, second = relation
        outermost = answers["outermost"][index, SIDES.index(side)]
        assert colours[outermost] == scene.objects[first].colour
        inverse = SIDES.index(words.relations[side].inverse)
        assert colours[answers["outermost"][index, inverse]] == scene.objects[second].colour
        assert (answers["outermost"][index] == UNSAID).sum() == 2


def test_a_run_that_was_stopped_ends_at_the_same_weights(tiny: Recipe, tmp_path: Path) -> None:
    straight = train_pipeline(tiny, tmp_path / "straight")
    # Sixteen steps in all, four a stage: stops lie inside stages and between them.
    for steps in (3, 1, 2, 5, 4):
        assert train_pipeline(tiny, tmp_path / "stopped", max_steps=steps) is None
    resumed = train_pipeline(tiny, tmp_path / "stopped")
    assert_same_weights(straight, resumed)


def test_what_finished_stages_leave_is_all_that_later_ones_need(
    tiny: Recipe, tmp_path: Path
) -> None:
    straight = train_pipeline(tiny, tmp_path / "run")
    assert train_pipeline(tiny, tmp_path / "parted", max_steps=9) is None  # in the denoiser
    kept = {"denoiser.safetensors", "autoencoder.averaged.safetensors", "text.averaged.safetensors"}
    for path in (tmp_path / "parted").glob("*.safetensors"):
        if path.name not in kept:
            path.unlink()
    assert {path.name for path in (tmp_path / "parted").glob("*.safetensors")} == kept
    parted = train_pipeline(tiny, tmp_path / "parted")
    assert_same_weights(straight, parted)
    curves = [
        json.loads((tmp_path / each / "curves.json").read_text()) for each in ("run", "parted")
    ]
    assert curves[0].keys() == curves[1].keys()


def test_training_goes_on_from_a_pipeline(tiny: Recipe, tmp_path: Path) -> None:
    first = train_pipeline(tiny, tmp_path / "first")
    assert first is not None
    first.save_pretrained(tmp_path / "model")
    none = dataclasses.replace(tiny, denoiser=dataclasses.replace(tiny.denoiser, steps=0))
    same = train_pipeline(none, tmp_path / "same", init=tmp_path / "model")
    more = train_pipeline(tiny, tmp_path / "more", init=tmp_path / "model")
    assert same is not None
    assert more is not None
    for part in ("vae", "text_encoder", "unet"):
        expected = getattr(first, part).state_dict()
        found, moved = (getattr(each, part).state_dict() for each in (same, more))
        assert all(torch.equal(expected[key], found[key]) for key in expected), part
        changed = any(not torch.equal(expected[key], moved[key]) for key in expected)
        assert changed == (part == "unet")
    for option, trained in (("read_on", "text_encoder."), ("decode_on", "vae.decoder.")):
        chosen: dict[str, Any] = {option: True}
        on = train_pipeline(none, tmp_path / option, init=tmp_path / "model", **chosen)
        assert on is not None
        moved = {
            f"{part}.{key}".startswith(trained)
            for part in ("vae", "text_encoder", "unet")
            for key, expected in getattr(first, part).state_dict().items()
            if not torch.equal(expected, getattr(on, part).state_dict()[key])
        }
        assert moved == {True}, option
        with pytest.raises(UserError, match="give --init"):
            train_pipeline(tiny, tmp_path / "nowhere", **chosen)
    assert not (tmp_path / "nowhere").exists()
    other = dataclasses.replace(
        tiny, denoiser=dataclasses.replace(tiny.denoiser, channels=[64, 32, 32])
    )
    with pytest.raises(UserError, match="of the recipe's shape"):
        train_pipeline(other, tmp_path / "other", init=tmp_path / "model")


def test_an_interrupt_saves_and_the_run_goes_on(tmp_path: Path) -> None:
    schedule = Schedule(steps=6, batch=1, learning_rate=0.1, warmup=0, decay=0, ema=0.5)
    accelerator = Accelerator(mixed_precision="no", cpu=True)

    def module() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 1))

    def loss(model: nn.Module, step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step)
        return model(torch.randn(4, 3, generator=generator)).square().mean()

    def interrupted(model: nn.Module, step: int) -> torch.Tensor:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(model, step)

    def train(name: str, function: Callable[[Any, int], torch.Tensor]) -> torch.Tensor:
        trained = train_stage(
            name, module(), function, schedule, tmp_path, rates={"0": 0.1}, accelerator=accelerator
        )
        return trained.averaged.get_parameter("0.weight")

    straight = train("straight", loss)
    with pytest.raises(KeyboardInterrupt):
        train("broken", interrupted)
    assert "module.0.weight" in load_file(tmp_path / "broken.safetensors")
    resumed = train("broken", loss)
    assert torch.equal(straight, resumed)


@pytest.mark.slow
def test_training_lowers_the_loss_of_every_stage(tiny: Recipe, tmp_path: Path) -> None:
    longer: dict[str, Any] = {"steps": 100, "batch": 4, "decay": 0}
    recipe = dataclasses.replace(
        tiny,
        autoencoder=dataclasses.replace(tiny.autoencoder, **longer),
        decoder=dataclasses.replace(tiny.decoder, **longer),
        text=dataclasses.replace(tiny.text, **longer | {"batch": 16}),
        denoiser=dataclasses.replace(tiny.denoiser, **longer),
    )
    train_pipeline(recipe, tmp_path)
    curves = json.loads((tmp_path / "curves.json").read_text("utf-8"))
    for stage, curve in curves.items():
        assert curve[-1][1] < 0.95 * curve[0][1], (stage, curve)


def test_descriptions_draw_stray_words_only_when_asked() -> None:
    scenes, rng = drawn_scenes(ShapeScenes(), [5], 200)
    known = set(language().vocabulary())

    def strays(chance: float) -> int:
        said = descriptions(ShapeScenes(), scenes, rng, chance)
        return sum(word.text not in known for each in said for word in each.words)

    assert strays(0.0) == 0
    assert strays(0.5) > 20
