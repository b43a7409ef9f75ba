"""The studies: what they count by hand, and whole commands on the model in the box."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import t2i_xattn as tx
from evaluate import app
from lab.evaluation.figures import Estimate, Share
from lab.evaluation.one_pass import answer, conditions, noised
from lab.evaluation.studies_controls import (
    CONTROLS,
    FILLER,
    FOREIGN,
    OWN,
    RANDOM,
    SHUFFLED,
    WRONG,
    another_word,
    cases,
    moved_columns,
)
from lab.evaluation.studies_diversity import clipped, diversity, saturation
from lab.evaluation.studies_effects import ATTENTION, TEXT, Asked, effects
from lab.evaluation.studies_focus import SETTINGS, USUAL, FocusFigure, Setting, focus_prompts
from lab.evaluation.studies_layers import (
    ALL_SITES,
    LEVELS,
    MEAN,
    UNIFORM,
    LayerFigure,
    evaluate_layers,
    forms_at,
    nearness,
    on_grid,
    parting,
)
from lab.evaluation.studies_padding import evaluate_padding
from lab.evaluation.studies_report import short
from lab.evaluation.studies_sanity import FAILING, FALLS, TOO_FEW, SanityFigure, evaluate_sanity
from lab.evaluation.studies_scenes import (
    FIRST_SEED,
    KINDS,
    batches,
    centre_map,
    fit_at_area,
    named_words,
    uniform_fit,
)
from lab.judge.segmenter import Segmenter
from lab.scenes.world import render_world
from t2i_xattn.errors import UserError
from t2i_xattn.traces.regions import iou


def _estimate(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value, value if low is None else low, value if high is None else high, 4)


def test_parting_counts_pairs_of_places() -> None:
    rng = np.random.default_rng(3)
    attention = rng.integers(0, 4, (3, 4, 12)).astype(np.float32)  # with ties
    inside = np.zeros((3, 4), dtype=bool)
    inside[1, 1:4] = inside[2, 0] = True
    rows, flat = attention.reshape(12, 12), inside.ravel()
    won = []
    for place in np.flatnonzero(flat):
        pairs = product(np.flatnonzero(flat), np.flatnonzero(~flat))
        won.append(
            np.mean(
                [
                    (rows[place, a] > rows[place, b]) + 0.5 * (rows[place, a] == rows[place, b])
                    for a, b in pairs
                    if a != place
                ]
            )
        )
    assert parting(attention, inside) == pytest.approx(np.mean(won))
    looks_inside = np.broadcast_to(inside.ravel().astype(np.float32), (3, 4, 12))
    assert parting(looks_inside, inside) == 1
    assert parting(1 - looks_inside, inside) == 0
    assert parting(np.ones((3, 4, 12)), inside) == 0.5
    one = np.zeros((3, 4), dtype=bool)
    one[0, 0] = True
    assert parting(attention, one) is None
    assert parting(attention, np.ones((3, 4), dtype=bool)) is None


def test_nearness_falls_with_distance_and_grids_take_halves() -> None:
    near = nearness(3)
    assert near.shape == (3, 3, 9)
    assert near[0, 0, 0] == 0
    assert near[0, 0, 8] == pytest.approx(-math.hypot(2, 2))
    mask = np.zeros((4, 4), dtype=bool)
    mask[0, :2] = mask[2, 3] = True
    assert on_grid(mask, 2).tolist() == [[True, False], [False, False]]


def test_fits_of_maps_that_know_all_and_nothing() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[:4] = True
    assert fit_at_area(mask.astype(np.float32), mask) == (1, 1)
    assert fit_at_area(1 - mask.astype(np.float32), mask) == (0, 0)
    assert uniform_fit(mask) == pytest.approx((1 / 3, 0.5))
    middle = np.zeros((8, 8), dtype=bool)
    middle[3:5, 3:5] = True
    assert fit_at_area(centre_map(8), middle) == (1, 1)


def test_where_alignment_forms() -> None:
    def figure(site: str, level: int, value: float) -> LayerFigure:
        return LayerFigure(site, level, "thing", _estimate(value), _estimate(value))

    # Half of the way from 0.1 to 0.5 is 0.3.
    figures = [figure(UNIFORM, MEAN, 0.1)]
    figures += [figure(ALL_SITES, *each) for each in [(900, 0.12), (600, 0.31), (300, 0.5)]]
    figures += [figure("a", MEAN, 0.2), figure("b", MEAN, 0.4), figure("b", 300, 0.1)]
    level, best = forms_at(figures, "thing")
    assert (level, best) == (600, figure("b", MEAN, 0.4))
    nothing = [figure(UNIFORM, MEAN, 0.9), figure(ALL_SITES, 300, 0.5), figure("a", MEAN, 0.2)]
    assert forms_at(nothing, "thing")[0] is None
    assert forms_at(figures, "place") == (None, None)
    assert {900, 600, 300} <= set(LEVELS)


def test_names_of_sites() -> None:
    assert short("up_blocks.2.attentions.1.transformer_blocks.0.attn2") == "up 2.1"
    assert short("mid_block.attentions.0.transformer_blocks.0.attn2") == "mid 0"
    assert short(ALL_SITES) == ALL_SITES


def test_layers_of_a_tiny_pipeline(pipe: Any) -> None:
    figures = evaluate_layers(pipe, 3, levels=(300, 900), batch=2)
    sites = [site.name for site in tx.find_sites(pipe.unet)]
    assert {each.site for each in figures if each.iou} == {*sites, ALL_SITES, UNIFORM}
    assert {each.level for each in figures} == {MEAN, 300, 900}
    assert {each.kind for each in figures} <= set(KINDS)
    for each in figures:
        for value in (each.iou, each.peak, each.parting):
            assert value is None or 0 <= value.value <= 1
    # What is expected without a model is the same at every level.
    floors = {(each.kind, each.level): each.iou for each in figures if each.site == UNIFORM}
    for (kind, level), floor in floors.items():
        other = floors[kind, 300]
        assert floor is not None
        assert other is not None
        assert floor.value == pytest.approx(other.value)
        assert floor.n == other.n * (2 if level == MEAN else 1)


def test_moved_columns_are_seen_by_the_blocks(pipe: Any) -> None:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(77, generator=torch.Generator().manual_seed(1)).tolist()

    def passed(order: list[int] | None) -> tuple[torch.Tensor, Any]:
        with moved_columns(pipe.unet, order), tx.record(pipe) as trace:
            found = answer(pipe, conditions(pipe, ["a red circle"], latents), latents, 500)
        return found, trace

    plain, before = passed(None)
    moved, after = passed(order)
    # The places ask as before at the first site, so what a column gets moves with its token.
    first = before.sites[0].name
    assert np.allclose(before.maps[first][..., order], after.maps[first], atol=1e-6)
    assert not np.allclose(before.maps[first], after.maps[first], atol=1e-3)
    # Attention knows no order of keys, so what is predicted is the same but for rounding.
    assert torch.allclose(plain, moved, atol=1e-4)
    assert not any(each._forward_pre_hooks for each in pipe.unet.modules())


def test_effects_are_what_the_answer_loses(pipe: Any) -> None:
    prompts = ["a red circle", "blue"]
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy = noised(pipe, latents, 500, 1)
    asked = [Asked(1, 0, 4, (1,)), Asked(0, 2, 5, (2,))]
    found = effects(pipe, prompts, noisy, 500, asked, batch=1)
    given = conditions(pipe, prompts, noisy)
    plain = answer(pipe, given, noisy, 500)
    hidden = torch.ones(2, 77)
    hidden[0, 2] = hidden[1, 1] = 0  # by diffusers' own mask
    other = answer(pipe, given | {"encoder_attention_mask": hidden}, noisy, 500)
    lengths = (other - plain).norm(dim=1)
    for array, picture in zip(found[ATTENTION], (1, 0), strict=True):
        assert array.shape == (64, 64)
        # Enlarged eight times, the mean stays.
        assert array.mean() == pytest.approx(float(lengths[picture].mean()), rel=0.02)
    assert all(array.max() > 0 for array in found[TEXT])


def _two_things() -> Any:
    for seed in range(FIRST_SEED, FIRST_SEED + 60):
        scene = render_world(seed, split="any")
        words = [each for each in named_words(scene) if each.kind == "thing"]
        if len(scene.scene.things) == 2 and len({each.word.objects for each in words}) == 2:
            return scene, words
    raise AssertionError("no scene with two things")


def test_another_word_names_pixels_elsewhere() -> None:
    scene, words = _two_things()
    for named in words:
        other = another_word(named, scene)
        assert other is not None
        index = scene.description.words.index(other)
        assert iou(scene.masks[index], named.mask) < 0.02
    first = another_word(words[0], scene)
    assert first is not None
    assert first.kind == "thing"


def test_every_control_has_its_words(pipe: Any) -> None:
    ((_, scenes, _),) = batches(pipe, 6, 6)
    own, random, foreign, shuffled = cases(pipe, pipe, scenes, 0)
    assert set(own.words) == {OWN, WRONG, FILLER}
    assert (set(random.words), set(shuffled.words)) == ({RANDOM}, {SHUFFLED})
    assert sorted(shuffled.order or ()) == list(range(77))
    assert {*own.words, *random.words, *foreign.words, *shuffled.words} == {OWN, *CONTROLS}
    for image, _, word in own.words[FILLER]:
        assert word in scenes[image].description.words
        assert word.kind == "other"
    assert foreign.words[FOREIGN]
    for image, _, word in foreign.words[FOREIGN]:
        # It stands in the prompt that is shown, and not in the picture's own.
        assert foreign.prompts[image][word.start : word.stop] == word.text
        assert word.text.casefold() not in scenes[image].prompt.casefold().split()


def test_a_control_that_stays_fails() -> None:
    def figure(low: float, high: float, scenes: int = 9) -> SanityFigure:
        over = _estimate((low + high) / 2, low, high)
        return SanityFigure("mean", "thing", RANDOM, over, over, over, scenes)

    assert figure(0.01, 0.1).verdict == FAILING
    assert figure(-0.01, 0.1).verdict == FALLS
    assert figure(0.01, 0.1, scenes=1).verdict == TOO_FEW
    assert figure(0.01, 0.1).as_json()["verdict"] == FAILING


def test_pictures_that_differ_and_that_are_the_same() -> None:
    torch.manual_seed(0)
    segmenter = Segmenter([8, 8, 8, 8, 8]).eval()
    rng = np.random.default_rng(0)
    one, other = (
        Image.fromarray(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)) for _ in range(2)
    )
    same = diversity([one, one], segmenter)
    assert same.features == pytest.approx(0, abs=1e-6)
    assert (same.layout, same.pixels) == (0, 0)
    apart = diversity([one, other], segmenter)
    assert min(apart.features, apart.pixels) > 0
    # Of three pictures, two of which are the same, two of three pairs differ.
    assert diversity([one, one, other], segmenter).pixels == pytest.approx(apart.pixels * 2 / 3)
    assert not segmenter.down[-1]._forward_hooks
    grey, red = (Image.new("RGB", (8, 8), colour) for colour in ((99, 99, 99), (255, 0, 51)))
    assert (saturation(grey), saturation(red)) == (0, 1)
    assert (clipped(grey), clipped(red)) == pytest.approx((0, 2 / 3))


def test_settings_change_one_thing() -> None:
    assert [each for each in SETTINGS if each.what == USUAL] == [Setting(USUAL, 5.0)]
    assert Setting("guidance", 9.0).guidance == 9
    assert Setting("weight", 4.0).guidance == 5
    for prompt, noun in focus_prompts(8):
        assert prompt.prompt.replace(",", " ").replace(".", " ").split().count(noun) == 1
    assert len(focus_prompts(8)) == 8


def test_rigid_is_less_than_usual_in_several_prompts() -> None:
    def figure(against: Estimate) -> FocusFigure:
        some = _estimate(0.5)
        return FocusFigure(
            Setting("weight", 2.0), Share(1, 2), some, some, some, against, some, some
        )

    assert figure(_estimate(0.8, 0.7, 0.9)).rigid
    assert not figure(_estimate(0.8, 0.7, 1.1)).rigid
    assert not figure(Estimate(0.8, 0.8, 0.8, 1)).rigid


def test_too_few_steps_for_the_windows() -> None:
    with pytest.raises(UserError, match="5 steps or more, one for each window, but came 4"):
        evaluate_padding(None, Segmenter([8, 8, 8, 8, 8]), 1, steps=4)


@pytest.mark.slow
def test_sanity_of_a_tiny_pipeline(pipe: Any) -> None:
    figures = evaluate_sanity(pipe, 3, levels=(500,), batch=3)
    found = {(each.method, each.control) for each in figures}
    assert {control for _, control in found} == {OWN, *CONTROLS}
    assert ("mean", SHUFFLED) in found
    # What takes words out of the text knows no columns.
    assert not found & {(method, SHUFFLED) for method in ("carried", "contribution", TEXT)}
    assert figures == evaluate_sanity(pipe, 3, levels=(500,), batch=3)


def _run(tmp_path: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    file = tmp_path / "figures.json"
    done = CliRunner().invoke(app, [*arguments, "--limit", "1", "--json", str(file)])
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(file.read_text("utf-8"))
    assert told["settings"]
    assert told["versions"]
    return done.output, told


@pytest.mark.slow
def test_the_command_of_layers(tmp_path: Path) -> None:
    output, told = _run(tmp_path, "layers")
    assert "half of its alignment" in output
    assert {each["level"] for each in told["layers"]} == {MEAN, *LEVELS}


@pytest.mark.slow
def test_the_command_of_sanity(tmp_path: Path) -> None:
    output, told = _run(tmp_path, "sanity")
    # Of one scene there is no interval, and so nothing fails.
    assert "no control fails" in output
    verdicts = {each["verdict"] for each in told["sanity"] if each["control"] != OWN}
    assert verdicts == {TOO_FEW}


@pytest.mark.slow
def test_the_command_of_focus(tmp_path: Path) -> None:
    output, told = _run(tmp_path, "focus", "--seeds", "2", "--steps", "5")
    assert "against usual" in output
    assert [(each["what"], each["value"]) for each in told["focus"]] == [
        (each.what, each.value) for each in SETTINGS
    ]
    assert told["focus"][0]["against_usual"]["mean"] == 1


@pytest.mark.slow
def test_the_command_of_padding(tmp_path: Path) -> None:
    _, told = _run(tmp_path, "padding", "--steps", "5")
    for each in told["shares"]:
        sums = sum(each[part]["mean"] for part in ("start", "words", "end", "padding"))
        assert sums == pytest.approx(1, abs=1e-4)
    plain, *changed = told["taken"]
    assert plain["psnr"] is None
    assert all(10 < each["psnr"]["mean"] < 60 for each in changed)
