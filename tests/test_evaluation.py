"""The evaluation: its prompts, its counting, and whole runs with a tiny random pipeline."""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from evaluate import app
from lab.evaluation import report
from lab.evaluation.drawn import draw, recorded_scenes
from lab.evaluation.figures import Estimate, Share
from lab.evaluation.fit import fit, uniform_fit
from lab.evaluation.judging import JudgeAccuracy
from lab.evaluation.maps import ALL, MEASURES, evaluate_maps
from lab.evaluation.pictures import judge_prompts, paint, picture_figures
from lab.evaluation.prompts import (
    FILE_NAME,
    Prompt,
    benchmark_prompts,
    make_prompts,
    prompts_as_json,
)
from lab.evaluation.random_weights import with_random_weights
from lab.evaluation.ways import USUAL, WAYS
from lab.scenes import language, render_scene
from t2i_xattn.errors import UserError
from t2i_xattn.traces.heat_map import HeatMap


def test_the_prompt_file_is_what_the_command_makes() -> None:
    stored = files("lab.evaluation").joinpath(FILE_NAME).read_text("utf-8")
    assert prompts_as_json(make_prompts()) == stored


def test_groups_of_prompts() -> None:
    groups = benchmark_prompts()
    assert {name: len(each) for name, each in groups.items()} == {
        "singles": 100,
        "pairs": 200,
        "triples": 50,
        "held_out_singles": 24,
        "held_out_objects": 50,
        "held_out_pairs": 50,
    }
    words = language()
    for name, prompts in groups.items():
        count = {"singles": 1, "held_out_singles": 1, "triples": 3}.get(name, 2)
        for each in prompts:
            kinds = list(each.objects)
            assert len(kinds) == count
            assert (each.relation is not None) == (count == 2)
            assert words.is_held_out(kinds) == name.startswith("held_out")
            new_kind = any(kind in words.held_out_objects for kind in kinds)
            assert new_kind == (name in ("held_out_singles", "held_out_objects"))
            for colour, shape in kinds:
                assert colour in each.prompt
                assert any(noun in each.prompt for noun in words.shapes[shape])
    every = [each for prompts in groups.values() for each in prompts]
    assert len({each.prompt for each in every}) == len(every)
    assert len({each.seed for each in every}) == len(every)


def test_share() -> None:
    share = Share.of([True] * 8 + [False] * 2)
    assert (share.right, share.n, share.value) == (8, 10, 0.8)
    # Wilson's interval by hand, z = 1.96.
    z = 1.959964
    middle = (0.8 + z**2 / 20) / (1 + z**2 / 10)
    half = z / (1 + z**2 / 10) * math.sqrt(0.8 * 0.2 / 10 + z**2 / 400)
    assert share.interval == pytest.approx((middle - half, middle + half), abs=1e-5)
    assert Share(0, 0).as_json()["share"] is None
    assert str(Share(0, 0)).startswith("none")


class Renderer:
    """Stands where a pipeline would, and paints the scenes of its prompts by drawing them."""

    def __init__(self, pictures: dict[str, Image.Image]) -> None:
        self.pictures = pictures
        self.batches: list[int] = []

    def __call__(self, prompts: list[str], **settings: Any) -> Any:
        self.batches.append(len(prompts))
        assert len(settings["generator"]) == len(prompts)
        return SimpleNamespace(images=[self.pictures[prompt] for prompt in prompts])


def drawn(count: int) -> Iterator[tuple[Prompt, Image.Image]]:
    for seed in range(15_000_000, 15_000_000 + count):
        scene = render_scene(seed, objects=2, split="any", relation=True)
        said = scene.description
        yield Prompt(said.prompt, tuple(scene.scene.kinds()), said.relation, seed), scene.image


def test_drawn_pictures_are_marked_right_and_others_wrong() -> None:
    pairs = list(drawn(60))
    prompts = [prompt for prompt, _ in pairs]
    renderer = Renderer({prompt.prompt: image for prompt, image in pairs})
    figures = picture_figures(judge_prompts(renderer, prompts, batch=25))
    assert renderer.batches == [25, 25, 10]
    assert all(share.value >= 0.98 for share in figures.values())
    assert figures["objects right"].n == 60
    assert figures["each object right"].n == 120
    stated = sum(prompt.relation is not None for prompt in prompts)
    assert figures["relation right"].n == stated > 40

    # Each prompt gets the picture of the next one.
    others = prompts[1:] + prompts[:1]
    wrong = Renderer(
        {a.prompt: renderer.pictures[b.prompt] for a, b in zip(prompts, others, strict=True)}
    )
    figures = picture_figures(judge_prompts(wrong, prompts))
    assert figures["objects right"].value <= 0.05
    assert figures["relation right"].value <= 0.05

    # Mirrored, the objects are there, and left is right.
    sides = [each for each in prompts if each.relation and each.relation[1].endswith("of")]
    flip = Image.Transpose.FLIP_LEFT_RIGHT
    mirror = Renderer({e.prompt: renderer.pictures[e.prompt].transpose(flip) for e in sides})
    figures = picture_figures(judge_prompts(mirror, sides))
    assert figures["shapes right"].value >= 0.6  # a crescent opens to the right only
    assert figures["relation right"].value == 0
    assert figures["relation right where both are there"].n == figures["objects right"].right


def test_singles_have_no_relation() -> None:
    prompt = Prompt("a red circle", (("red", "circle"),), None, 0)
    renderer = Renderer({"a red circle": Image.new("RGB", (128, 128), "white")})
    seen: list[tuple[int, bool]] = []
    verdicts = judge_prompts(
        renderer, [prompt], keep=lambda index, _p, _i, v: seen.append((index, v.all_objects))
    )
    assert seen == [(0, False)]
    assert set(picture_figures(verdicts)) == {
        "objects right",
        "each object right",
        "shapes right",
        "nothing extra",
    }


def test_pictures_do_not_depend_on_the_batch(pipe: Any) -> None:
    prompts = benchmark_prompts()["singles"][:3]

    def run(batch: int) -> list[np.ndarray]:
        return [np.asarray(each, int) for each in paint(pipe, prompts, steps=2, batch=batch)]

    for one, other in zip(run(1), run(3), strict=True):
        assert np.abs(one - other).max() <= 1
    for name in ("steps", "batch"):
        with pytest.raises(UserError, match=f"{name} of 1 or more, but came 0"):
            list(paint(pipe, prompts, **{name: 0}))


def heat(values: np.ndarray) -> HeatMap:
    return HeatMap("word", values.astype(np.float32))


def test_fit_of_known_maps() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:4, 2:6] = True
    right = fit(heat(mask * 0.5), mask)
    assert (right.iou, right.iou_true_area, right.pointing, right.energy) == (1, 1, 1, 1)
    wrong = fit(heat(~mask * 0.5), mask)
    assert (wrong.iou, wrong.iou_true_area, wrong.pointing, wrong.energy) == (0, 0, 0, 0)
    half = np.zeros((8, 8))
    half[2:4, 2:4], half[6, 6] = 1.0, 0.9
    # 4 of the 8 pixels and one besides; the true area takes three more from the zeros.
    assert fit(heat(half), mask).iou == pytest.approx(4 / 9)
    assert fit(heat(half), mask).pointing == 1
    assert fit(heat(half), mask).energy == pytest.approx(4 / 4.9)
    assert fit(heat(half - 0.5), mask).energy == pytest.approx(2 / 2.4)  # below 0 nothing is given


def test_uniform_baseline_is_the_expectation() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((32, 32), dtype=bool)
    mask[5:20, 5:20] = True
    fits = [fit(heat(rng.random(mask.shape)), mask) for _ in range(400)]
    expected = uniform_fit(mask)
    assert expected.iou == expected.pointing == pytest.approx(225 / 1024)
    assert np.mean([each.energy for each in fits]) == pytest.approx(expected.energy, abs=0.005)
    assert np.mean([each.iou_true_area for each in fits]) == pytest.approx(
        expected.iou_true_area, abs=0.005
    )
    assert np.mean([each.pointing for each in fits]) == pytest.approx(expected.pointing, abs=0.06)


class TestEstimate:
    def test_of_known_values(self) -> None:
        found = Estimate.of([[1.0, 0.0], [1.0], [], [1.0, 1.0]])
        assert (found.value, found.n) == (0.8, 5)
        assert 0 < found.low < 0.8 < found.high == 1
        assert found.as_json() == {"mean": 0.8, "bootstrap_95": [found.low, found.high], "n": 5}
        nothing = Estimate.of([[], []])
        assert nothing.n == 0
        assert nothing.as_json()["mean"] is None

    def test_the_interval_is_that_of_the_mean_of_groups(self) -> None:
        values = np.random.default_rng(0).normal(0.5, 0.1, 400)
        apart = Estimate.of([[each] for each in values])
        expected = 1.96 * values.std() / 20
        assert (apart.high - apart.low) / 2 == pytest.approx(expected, rel=0.1)
        # Four copies of a case say no more than one.
        copies = Estimate.of([[each] * 4 for each in values])
        assert (copies.high - copies.low) == pytest.approx(apart.high - apart.low, rel=1e-6)

    def test_kinds_count_the_same(self) -> None:
        many, few = [[1.0] * 9] * 10, [[0.0]] * 5 + [[]] * 5
        assert Estimate.of_kinds([many, few]).value == 0.5
        assert Estimate.of_kinds([many, few]).n == 95


def test_maps_of_a_tiny_pipeline(pipe: Any) -> None:
    figures = evaluate_maps(pipe, 6, timesteps=(200, 800), batch=4)
    keys = {(each.way, each.kind, each.map_of) for each in figures}
    assert len(keys) == len(figures)
    scenes = draw("shapes", range(20_000_000, 20_000_006), 64)
    words = [word for scene in scenes for word in scene.description.words]
    objects = sum(word.kind == "shape" for word in words)
    for each in figures:
        for name in MEASURES:
            estimate = getattr(each, name)
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
        if each.map_of == "the word" and each.kind in ("noun", "colour"):
            assert each.n == objects
    kinds = {word.kind for word in words} - {"other", "shape"} | {"noun", ALL}
    assert {each.kind for each in figures} == kinds
    assert {each.way for each in figures} == set(USUAL)
    assert figures == evaluate_maps(pipe, 6, timesteps=(200, 800), batch=4)
    assert not any(module._forward_pre_hooks for module in pipe.unet.modules())
    with pytest.raises(UserError, match="scenes of 1 or more, but came 0"):
        evaluate_maps(pipe, 0)
    with pytest.raises(UserError, match="scenes of shapes, world, but came 'worlds'"):
        evaluate_maps(pipe, 1, source="worlds")


def test_every_way_has_its_figures(pipe: Any) -> None:
    figures = evaluate_maps(pipe, 2, timesteps=(500,), ways=list(WAYS), source="world")
    found = {
        each.way: each.iou_true_area.value
        for each in figures
        if (each.map_of, each.kind) == ("the word", ALL)
    }
    assert set(found) == set(WAYS)
    assert len(set(found.values())) > 5
    with pytest.raises(
        UserError, match=r"a way of mean, .* came 'walk' \(did you mean 'walked'\?\)"
    ):
        evaluate_maps(pipe, 2, ways=["walk"])


@pytest.mark.parametrize("source", ["shapes", "world"])
def test_maps_of_a_denoiser_that_looks_in_the_right_place(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """With each word's true mask as its map, words score 1 and others about 0."""
    from lab.evaluation import maps as evaluation
    from t2i_xattn.traces.recorded_run import RecordedRun
    from t2i_xattn.traces.trace import Trace

    real = recorded_scenes

    def perfect(pipe: Any, scenes: Sequence[Any], *args: Any, **kwargs: Any) -> dict[str, Trace]:
        traces = real(pipe, scenes, *args, **kwargs)
        run = traces["agreed"].run
        true = np.zeros((len(scenes), *run.picture_size, 77), dtype=np.float32)
        for image, scene in enumerate(scenes):
            columns = {word.start: word.columns for word in traces["agreed"].words_of(image)}
            for word, mask in zip(scene.description.words, scene.masks, strict=True):
                if columns[word.start]:  # the window may have cut it off
                    true[image, :, :, columns[word.start][0]] = mask
        maps = dict.fromkeys(run.maps["text"], true[:, None, None, None])
        values = vars(run) | {"maps": {"text": maps, "walked": maps}, "walked_columns": None}
        return dict.fromkeys(traces, Trace(RecordedRun(**values)))

    monkeypatch.setattr(evaluation, "recorded_scenes", perfect)
    found = evaluate_maps(pipe, 8, timesteps=(500,), source=source)
    assert {each.map_of for each in found} >= {"the word", "a filler word", "uniform"}
    for each in found:
        scores = [getattr(each, name).value for name in MEASURES]
        if each.map_of == "the word":
            assert scores == [1, 1, 1, 1]
        elif each.map_of == "another's word":
            assert each.iou.value == each.pointing.value == 0


def test_random_weights_are_others_of_the_same_build(pipe: Any) -> None:
    before = {name: part.clone() for name, part in pipe.unet.state_dict().items()}
    state = torch.get_rng_state()
    same = with_random_weights(pipe)
    assert same is pipe
    after = pipe.unet.state_dict()
    assert {name: part.shape for name, part in before.items()} == {
        name: part.shape for name, part in after.items()
    }
    assert not torch.equal(before["conv_in.weight"], after["conv_in.weight"])
    assert torch.equal(state, torch.get_rng_state())
    assert not pipe.unet.training


def test_ways_that_do_not_fall_to_their_baseline_are_named(pipe: Any) -> None:
    figures = evaluate_maps(pipe, 4, timesteps=(500,), ways=["mean", "agreed"])
    right = Estimate(0.9, 0.88, 0.92, 10)
    changed = [
        replace(each, iou=right)
        if (each.way, each.kind, each.map_of) == ("agreed", ALL, "the word")
        else each
        for each in figures
    ]
    assert "agreed (IoU)" in report.above_uniform(changed)
    assert not any(each.startswith("mean (IoU") for each in report.above_uniform(changed))


@pytest.mark.parametrize("random", [False, True])
def test_maps_by_the_command(pipe: Any, tmp_path: Path, random: bool) -> None:
    pipe.save_pretrained(tmp_path / "model")
    out = tmp_path / "figures.json"
    options = ["--model", str(tmp_path / "model"), "--limit", "2", "--json", str(out)]
    options += ["--scenes", "world", "--ways", "mean,carried,sharpened"]
    options += ["--random-weights"] * random
    done = CliRunner().invoke(app, ["maps", *options], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    values = json.loads(out.read_text())
    assert {each["way"] for each in values["maps"]} == {"mean", "carried", "sharpened"}
    assert values["costs"]["carried"]["bytes"] > values["costs"]["mean"]["bytes"] > 0
    assert values["costs"]["carried"]["seconds"] > 0
    assert ("failing, above a map that knows nothing" in done.output) == random
    assert "What a map costs" in done.output


def test_tables_show_every_figure(pipe: Any) -> None:
    judge = JudgeAccuracy("clean", {1: Share(9, 10), 2: Share(8, 10)})
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(report.judge_table([judge]))
    figures = {"objects right": Share(3, 4), "relation right": Share(1, 4)}
    console.print(report.pictures_table({"held_out_pairs": figures}, {"held_out_pairs": 2}, judge))
    table = report.maps_table(evaluate_maps(pipe, 2, timesteps=(500,)), 2)
    assert all(column.header for column in table.columns)
    console.print(table)
    text = console.export_text()
    for expected in ("85.0 %", "held out pairs", "75.0 %", "25.0 %", "80.0 %", "uniform", "finest"):
        assert expected in text


def test_the_command_runs_end_to_end(pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    out = tmp_path / "figures.json"
    options = ["--model", str(tmp_path / "model"), "--limit", "2", "--json", str(out)]
    options += ["--steps", "2", "--batch", "2", "--save", str(tmp_path / "pictures")]
    done = CliRunner().invoke(app, ["all", *options], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    values = json.loads(out.read_text())
    assert set(values) == {"settings", "judge", "pictures", "maps", "versions", "machine"}
    assert values["pictures"]["pairs"]["objects right"]["n"] == 2
    assert values["judge"]["clean"]["all"]["n"] == 2
    assert values["settings"]["steps"] == 2
    assert values["versions"]["torch"] == importlib.metadata.version("torch")
    assert "relation right where both are there" in done.output
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 12
    assert [each.name for each in tmp_path.glob(".*")] == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["maps", "--model", "./nowhere"], "there is none"),
        (["judge", "--json", "/nowhere/figures.json"], "choose another --json"),
        (["pictures", "--save", "/proc/nowhere"], "folder that can be written to"),
    ],
)
def test_mistakes_are_told_before_anything_is_computed(options: list[str], reason: str) -> None:
    done = CliRunner().invoke(app, options)
    assert isinstance(done.exception, UserError)
    assert reason in str(done.exception)
    assert done.output == ""
