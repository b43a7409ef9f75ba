"""The judge of the world: what it reads from true maps, and the network that makes maps."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import train_judge
from lab.evaluation.segmentation import class_iou, confusion, mean_iou
from lab.evaluation.world_judging import judge_scenes, judged_aspects, seen_by
from lab.judge.pixel_maps import NONE, PixelMaps, kinds_of_maps, true_maps
from lab.judge.segmenter import Segmenter, load_segmenter, save_segmenter, segment
from lab.judge.world import judge_world, read_maps
from lab.judge.world_verdict import AskedThings, AskedWorld, world_verdict
from lab.scenes import Description
from lab.scenes.world import (
    WorldScene,
    WorldThing,
    class_names,
    draw_world,
    sample_world,
    world_language,
)
from lab.scenes.world.owners import PARTS
from lab.training import blocks
from lab.training import judge as training
from lab.training.spoiling import add_noise, blur, soften, tint
from t2i_xattn.errors import UserError

RECIPE = Path(__file__).parents[1] / "scripts" / "lab" / "training" / "recipes" / "judge.toml"


@pytest.fixture(autouse=True)
def _few_scenes_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 32)


def _thing(kind: str, colour: str | None, x: float, base: float, height: float) -> WorldThing:
    return WorldThing(kind, colour, "medium", None, x, base, height, False)


def _scene(*things: WorldThing, place: str = "meadow", light: str = "day") -> WorldScene:
    return WorldScene(place, light, None, things, 80.0, None, False, True, 3)


RED_CAT = _thing("cat", "red", 36, 112, 46)
BLUE_DOG = _thing("dog", "blue", 94, 112, 36)
BOTH = read_maps(true_maps(_scene(RED_CAT, BLUE_DOG)))
CAT, DOG = AskedThings("cat", colour="red"), AskedThings("dog", colour="blue")


def test_right_on_rendered_scenes_where_the_maps_are_true() -> None:
    shares, matrix = judge_scenes(true_maps, 200)
    assert set(shares) == {
        "place", "light", "style", "things", "colours", "styles", "sizes", "prompt", "all",
    }  # fmt: skip
    assert all(share.value >= 0.99 for share in shares.values()), shares
    assert mean_iou(matrix) == 1.0


def test_what_is_there_is_measured() -> None:
    assert (BOTH.place, BOTH.light, BOTH.style) == ("meadow", "day", None)
    cat = next(each for each in BOTH.things if each.kind == "cat")
    assert (cat.colour, cat.style, cat.size) == ("red", None, "medium")
    assert (cat.x, cat.y) == pytest.approx((36, 89), abs=4)
    assert [each.area for each in BOTH.things] == sorted(
        (each.area for each in BOTH.things), reverse=True
    )
    assert BOTH.counts() == {("cat", "red"): 1, ("dog", "blue"): 1}
    twice = read_maps(true_maps(_scene(RED_CAT, BLUE_DOG)), 2.0)
    larger = next(each for each in twice.things if each.kind == "cat")
    assert (larger.x, larger.area) == (2 * cat.x, 4 * cat.area)
    assert tuple(larger.box) == tuple(2 * edge for edge in cat.box)


def test_like_things_are_counted_and_colours_told_apart() -> None:
    three = [_thing("cat", "red", x, 112, 30) for x in (22, 64, 106)]
    assert read_maps(true_maps(_scene(*three))).counts() == {("cat", "red"): 3}
    apart = [_thing("cat", "red", 30, 112, 40), _thing("cat", "black", 96, 112, 40)]
    assert read_maps(true_maps(_scene(*apart))).counts() == {("cat", "red"): 1, ("cat", "black"): 1}


def test_what_touches_is_one_thing_and_of_two_colours_of_neither() -> None:
    """So a plane's wings are not planes, and a cat that is half red is no red cat."""
    near = [_thing("cat", "red", 50, 112, 40), _thing("cat", "black", 76, 112, 40)]
    judged = read_maps(true_maps(_scene(*near)))
    assert judged.counts() == {("cat", None): 1}
    assert not all(world_verdict(judged, AskedWorld((CAT,))).things)
    assert all(world_verdict(judged, AskedWorld((AskedThings("cat"),))).things)


def test_specks_are_no_things_and_a_few_wrong_pixels_change_nothing() -> None:
    maps = true_maps(_scene(RED_CAT))
    classes, colours = maps.classes.copy(), maps.colours.copy()
    classes[4:9, 4:9] = class_names().index("boat")
    colours[80:84] = np.where(colours[80:84] == NONE, NONE, 5)
    classes[92:94, 30:34] = class_names().index("dog")
    found = read_maps(replace(maps, classes=classes, colours=colours))
    assert found.counts() == {("cat", "red"): 1}


def test_what_a_network_says_of_pixels_that_have_nothing_to_say_counts_nowhere() -> None:
    scene = _scene(RED_CAT, _thing("sun", None, 94, 40, 30), _thing("car", "blue", 90, 112, 20))
    maps = true_maps(scene)
    colours = np.where(maps.colours == NONE, np.arange(128) % 7, maps.colours)
    styles = np.where(maps.styles == NONE, 1, maps.styles)
    classes = maps.classes
    styles[classes == class_names().index("cat")] = 2
    found = read_maps(replace(maps, colours=colours, styles=styles))
    assert {each.kind: each.style for each in found.things} == dict.fromkeys(("cat", "sun", "car"))
    assert found.counts() == {("cat", "red"): 1, ("sun", None): 1, ("car", "blue"): 1}


def test_every_place_and_light_is_told() -> None:
    words = world_language()
    for place, known in words.places.items():
        for light in known.lights:
            scene = replace(_scene(place=place, light=light), horizon=known.horizon[0])
            found = read_maps(true_maps(scene))
            assert (found.place, found.light, found.things) == (place, light, ())


def test_all_right() -> None:
    asked = AskedWorld((CAT, DOG), (0, "left of", 1), "meadow", "day")
    found = world_verdict(BOTH, asked)
    assert found.all_right
    assert found.things == found.kinds == found.counts == (True, True)
    assert (found.relation, found.place, found.light, found.style) == (True, True, True, None)
    assert found.extra == 0


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        (AskedWorld((replace(CAT, colour="pink"), DOG)), {"things": (False, True)}),
        (AskedWorld((CAT, AskedThings("bird"))), {"things": (True, False), "extra": 1}),
        (AskedWorld((replace(CAT, count=2),)), {"things": (False,), "counts": (False,)}),
        (AskedWorld((CAT, DOG), (0, "right of", 1)), {"relation": False}),
        (AskedWorld((CAT,), place="snow"), {"place": False, "things": (True,)}),
        (AskedWorld((CAT,), light="night"), {"light": False}),
        (AskedWorld((CAT,), style="old"), {"style": False}),
        (AskedWorld((replace(CAT, style="old"),)), {"style": False}),
    ],
)
def test_what_is_wrong_is_told(asked: AskedWorld, wrong: dict[str, object]) -> None:
    found = world_verdict(BOTH, asked)
    assert not found.all_right
    assert {name: getattr(found, name) for name in wrong} == wrong


def test_what_is_too_many_and_what_is_extra() -> None:
    pair = read_maps(true_maps(_scene(RED_CAT, _thing("cat", "red", 94, 112, 40))))
    one = world_verdict(pair, AskedWorld((CAT,)))
    assert (one.things, one.counts, one.extra) == ((True,), (False,), 1)
    two = world_verdict(pair, AskedWorld((replace(CAT, count=2),)))
    assert two.all_right
    assert world_verdict(BOTH, AskedWorld((CAT,))).all_right  # the dog is not held against it


def test_a_misjudged_scene_is_told() -> None:
    scene, said = _scene(RED_CAT, BLUE_DOG), Description("", ())
    assert judged_aspects(scene, said, BOTH).all
    assert not judged_aspects(_scene(RED_CAT), said, BOTH).things
    other = _scene(replace(RED_CAT, colour="pink"), replace(BLUE_DOG, size="large"), light="night")
    found = judged_aspects(other, said, BOTH)
    assert found.things
    assert not any((found.colours, found.sizes, found.light, found.all))


def test_iou_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1], [2, 2, -1, 1]])
    seen = np.array([[0, 1, 1, 1], [2, 0, 1, 1]])
    matrix = confusion(seen, truth, 4)
    assert matrix.sum() == 7
    expected = [1 / 3, 3 / 4, 1 / 2, np.nan]
    assert class_iou(matrix) == pytest.approx(expected, nan_ok=True)
    assert mean_iou(matrix) == pytest.approx(np.mean(expected[:3]))
    assert np.isnan(mean_iou(np.zeros((4, 4), dtype=np.int64)))
    assert mean_iou(matrix + confusion(truth, truth, 4)) > mean_iou(matrix)


def test_a_judge_that_is_not_trained_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected the trained judge.*scripts/train_judge\.py"):
        load_segmenter(tmp_path)
    save_segmenter(Segmenter([8, 8]), tmp_path)
    config = (tmp_path / "config.json").read_text("utf-8")
    (tmp_path / "config.json").write_text(config.replace("storm", "hail"), "utf-8")
    with pytest.raises(UserError, match="expected a judge of"):
        load_segmenter(tmp_path)


def test_a_network_is_read_as_it_was_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Segmenter([8, 16, 16]).half().float().eval()
    save_segmenter(network, tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    again = load_segmenter(tmp_path / "new")
    picture = draw_world(_scene(RED_CAT))
    first, second = segment(network, picture), segment(again, picture)
    for name, values in kinds_of_maps().items():
        assert (getattr(first, name) == getattr(second, name)).all()
        assert getattr(first, name).shape == (128, 128)
        assert getattr(first, name).max() < values


def test_pictures_of_any_size_but_square(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = Segmenter([8, 8])
    seen: list[PixelMaps] = []

    def true(segmenter: Segmenter, image: Image.Image) -> PixelMaps:
        seen.append(segment(segmenter, image))
        return true_maps(_scene(RED_CAT))

    monkeypatch.setattr("lab.judge.world.segment", true)
    (cat,) = judge_world(draw_world(_scene(RED_CAT), 256), network).things
    assert cat.x == pytest.approx(72, abs=8)
    assert seen[0].classes.shape == (128, 128)
    with pytest.raises(UserError, match="expected a square picture"):
        segment(network, Image.new("RGB", (128, 64)))


def test_the_recipe_s_network_is_small() -> None:
    recipe = training.load_judge_recipe(RECIPE)
    network = Segmenter(recipe.judge.channels, recipe.judge.patch, recipe.judge.fine)
    assert sum(each.numel() for each in network.parameters()) <= 2e6


def _tiny(steps: int) -> training.JudgeRecipe:
    recipe = training.load_judge_recipe(RECIPE)
    stage = dataclasses.replace(
        recipe.judge, steps=steps, batch=2, passes=1, warmup=2, decay=0, channels=[8, 16, 16],
        learning_rate=5e-3, ema=0.9,
    )  # fmt: skip
    return dataclasses.replace(recipe, mixed_precision="no", judge=stage)


def test_a_judge_s_training_that_was_stopped_ends_at_the_same_weights(tmp_path: Path) -> None:
    recipe = _tiny(4)
    straight = training.train_judge(recipe, tmp_path / "straight")
    assert training.train_judge(recipe, tmp_path / "stopped", max_steps=3) is None
    resumed = training.train_judge(recipe, tmp_path / "stopped")
    assert straight is not None
    assert resumed is not None
    found = resumed.state_dict()
    assert all(torch.equal(each, found[name]) for name, each in straight.state_dict().items())


@pytest.mark.slow
def test_a_short_training_tells_pixels_apart(tmp_path: Path) -> None:
    network = training.train_judge(_tiny(150), tmp_path)
    assert network is not None
    untrained = Segmenter([8, 16, 16]).eval()
    (_, learnt), (_, fresh) = (judge_scenes(seen_by(each), 10) for each in (network, untrained))
    assert np.trace(learnt) / learnt.sum() > 0.35
    assert np.trace(fresh) / fresh.sum() < 0.25
    assert mean_iou(learnt) > 2 * mean_iou(fresh)


def test_the_script_trains_writes_and_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_judge, "load_judge_recipe", lambda path: _tiny(2))
    app = typer.Typer()
    app.command()(train_judge.main)
    options = ["--run", str(tmp_path / "run"), "--export", str(tmp_path / "out"), "--scenes", "2"]
    stopped = CliRunner().invoke(app, [*options, "--max-steps", "1"])
    assert "the same command goes on" in stopped.output
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    assert "mean IoU of the classes of pixels" in done.output
    assert load_segmenter(tmp_path / "out").channels == [8, 16, 16]


def test_spoiling_is_a_function_of_the_seed_and_as_strong_as_asked() -> None:
    pixels = np.stack([np.asarray(draw_world(sample_world(seed))) for seed in range(2)])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    for spoil, strength, none in ((soften, 2.5, 1.0), (blur, 0.9, 0.0), (tint, 0.06, 0.0),
                                  (add_noise, 0.05, 0.0)):  # fmt: skip
        first, again = (spoil(images, strength, np.random.default_rng(1)) for _ in range(2))
        assert torch.equal(first, again)
        assert first.shape == images.shape
        assert 0.002 < (first - images).abs().mean() < 0.12, spoil
        assert torch.allclose(spoil(images, none, np.random.default_rng(1)), images, atol=1e-4)


def test_things_are_held_for_more_likely_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    network = Segmenter([8, 8])
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = network(images)
        training.favour_things(network, 8)
        after = network(images)
    gained = (after["classes"] - before["classes"]).mean(dim=(0, 2, 3))
    assert torch.allclose(gained[: len(PARTS)], torch.zeros(len(PARTS)), atol=1e-5)
    assert torch.allclose(gained[len(PARTS) :].exp(), torch.tensor(8.0), rtol=1e-4)
    assert all(torch.equal(before[name], after[name]) for name in ("colours", "styles", "lights"))


def test_a_judge_s_training_goes_on_from_a_network(tmp_path: Path) -> None:
    recipe = _tiny(0)
    torch.manual_seed(1)
    begun = Segmenter(recipe.judge.channels, recipe.judge.patch, recipe.judge.fine)
    save_segmenter(begun, tmp_path / "begun")
    same = training.train_judge(recipe, tmp_path / "none", init=tmp_path / "begun")
    assert same is not None
    wanted = load_segmenter(tmp_path / "begun").state_dict()
    assert all(torch.allclose(each, wanted[name]) for name, each in same.state_dict().items())
    save_segmenter(Segmenter([8, 8, 16]), tmp_path / "other")
    with pytest.raises(UserError, match="expected a network of the recipe's form"):
        training.train_judge(_tiny(1), tmp_path / "run", init=tmp_path / "other")


@pytest.mark.slow
def test_the_judge_in_the_box_tells_what_was_drawn() -> None:
    shares, matrix = judge_scenes(seen_by(load_segmenter()), 30)
    assert shares["things"].value > 0.85
    assert shares["light"].value == shares["place"].value == 1
    assert mean_iou(matrix) > 0.9
