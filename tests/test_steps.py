"""One layer of attention laid open, against what hooks of the tests' own see of the same run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import t2i_xattn as tx
from captured import Captured
from command_line import PROMPT, run, written
from conftest import make_pipeline, state_of
from t2i_xattn.denoisers.sites import find_sites
from t2i_xattn.errors import UserError
from t2i_xattn.explaining.opening import lay_open
from t2i_xattn.kernel import reference
from tiny.all_cases import CASES
from tiny.case import Case

Draw = Callable[..., np.ndarray]
SITE = 2


@torch.no_grad()
def test_every_step_is_what_the_layer_did(pipe: Any, draw: Draw) -> None:
    """The layer's own inputs, weights and outputs, by hooks; the reference makes the rest."""
    site = find_sites(pipe.unet)[SITE]
    module = pipe.unet.get_submodule(site.name)
    calls: list[Any] = []
    hook = module.register_forward_hook(
        lambda _, args, kwargs, out: calls.append((args, kwargs, out)), with_kwargs=True
    )
    plain = draw(pipe)
    hook.remove()
    with lay_open(pipe, "red", SITE, (0.3, 0.9), 1) as opened:
        same = draw(pipe)
    assert same.tobytes() == plain.tobytes()
    found = opened.one
    assert (found.step, found.site) == (1, site)
    height, width = found.size
    assert found.place == (int(0.3 * height), int(0.9 * width))
    place = found.place[0] * width + found.place[1]
    (states, *_), kwargs, out = calls[1]
    picture, text = states[1:].double(), kwargs["encoder_hidden_states"][1:].double()
    expected = reference.attention(picture, text, reference.Weights.of(module), site.heads)
    for name in ("query", "products", "scores", "masked", "probs", "taken"):
        right = getattr(expected, name)[:, :, place : place + 1]
        torch.testing.assert_close(getattr(found.steps, name), right, atol=1e-5, rtol=1e-5)
    for name in ("key", "value"):
        right = getattr(expected, name)
        torch.testing.assert_close(getattr(found.steps, name), right, atol=1e-5, rtol=1e-5)
    assert expected.out is not None
    assert found.out is not None
    torch.testing.assert_close(found.out.double(), expected.out[0, place], atol=1e-5, rtol=0)
    torch.testing.assert_close(found.out, out[1, place])
    assert found.picture is not None
    assert torch.equal(found.picture.double(), picture[0, place])
    assert found.text is not None
    assert torch.equal(found.text.double(), text[0])
    shares = expected.probs[0, :, :, list(found.columns)].sum(-1).mean(0).reshape(height, width)
    np.testing.assert_allclose(found.map, shares.numpy(), atol=1e-6)
    assert found.share == pytest.approx(float(shares.flatten()[place]), abs=1e-6)
    assert found.difference < 1e-5


def test_the_step_and_the_branch_are_those_asked_for(pipe: Any, draw: Draw) -> None:
    site = find_sites(pipe.unet)[0]
    seen = Captured(pipe, lambda: draw(pipe, num_inference_steps=3))
    with lay_open(pipe, "circle", site.name, step=[0, 2]) as opened:
        draw(pipe, num_inference_steps=3)
    assert [each.step for each in opened.every] == [0, 2]
    for found in opened.every:
        place = found.place[0] * found.size[1] + found.place[1]
        right = seen.probs(site, call=found.step)[:, :, place]
        torch.testing.assert_close(found.steps.probs[:, :, 0], right, atol=1e-6, rtol=0)


NAMES = (
    "FluxPipeline",
    "StableDiffusion3Pipeline",
    "PixArtAlphaPipeline",
    "ZImagePipeline",
    "WanPipeline",
)


@pytest.mark.parametrize("case", [each for each in CASES if each.name in NAMES], ids=str)
def test_transformers_too(case: Case) -> None:
    pipe = case.make()
    names = [site.name for site in find_sites(getattr(pipe, case.denoiser))]
    with tx.record(pipe, steps="each", sites=names[-1:]) as trace:
        plain = case.run(pipe)
    word = next(each.text for each in trace.words if each.columns)
    with lay_open(pipe, word, place=(0.0, 1.0), step=1) as opened:
        same = case.run(pipe)
    assert np.asarray(plain).tobytes() == np.asarray(same).tobytes()
    found = opened.one
    maps = trace.run.maps["text"][names[-1]][0, 0, 1, 0]
    first = maps.reshape(-1, *found.size, maps.shape[-1])[0][..., list(found.columns)].sum(-1)
    np.testing.assert_allclose(found.map, first, atol=1e-5)
    assert found.place == (0, found.size[1] - 1)
    assert found.share == pytest.approx(float(found.map[found.place]), abs=1e-5)
    assert found.difference < 1e-4
    assert str(found)
    json.dumps(found.as_json(), allow_nan=False)


def test_all_is_left_as_it_was_found(pipe: Any, draw: Draw) -> None:
    draw(pipe)
    before = state_of(pipe)
    module = pipe.unet.get_submodule(find_sites(pipe.unet)[SITE].name)

    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    hook = pipe.unet.conv_out.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="broken"), lay_open(pipe, "red", SITE):
        draw(pipe)
    hook.remove()
    assert state_of(pipe) == before
    assert not module._forward_hooks
    with lay_open(pipe, "red", SITE):
        draw(pipe)
    assert state_of(pipe) == before
    assert not module._forward_hooks


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"site": "mid"}, "expected the name or number of a site that reads the text"),
        ({"site": 99}, "they are 0 to 6"),
        ({"site": -1}, "they are 0 to 6"),
        ({"place": (0.5, 1.01)}, "expected a place inside"),
        ({"place": (float("nan"), 0)}, "expected a place inside"),
        ({"step": -1}, "expected steps from 0 on"),
        ({"step": []}, "expected steps from 0 on"),
        ({"place": 0.5}, "place"),
        ({"site": 1.5}, "site"),
    ],
)
def test_what_is_wrong_is_told_before_the_run(pipe: Any, wrong: Any, told: str) -> None:
    with pytest.raises(UserError, match=told), lay_open(pipe, "red", **wrong):
        pytest.fail("before the run")


def test_a_run_that_ends_before_the_step_and_a_word_that_is_not_there(
    pipe: Any, draw: Draw
) -> None:
    with lay_open(pipe, "red", step=9) as opened:
        draw(pipe)
    with pytest.raises(UserError, match="it ended before"):
        opened.one  # noqa: B018
    with pytest.raises(UserError, match="'green' is not in the prompt"), lay_open(pipe, "green"):
        draw(pipe)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    return folder


def test_the_command_writes_a_sheet_text_and_json(model: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--steps", 3, "--device", "cpu", "--seed", 3]
    asked = ["--word", "red circle", "--site", 1, "--place", "0.25,0.75", "--step", 2]
    code, printed, error = run("steps", PROMPT, *options, *asked, "--out", tmp_path / "out")
    assert code == 0, error
    names = ["picture.png", "steps.json", "steps.png", "steps.txt"]
    assert written(tmp_path / "out") == names
    assert [Path(line).name for line in printed.splitlines()[-4:]] == [
        names[0],
        *names[2:0:-1],
        names[3],
    ]
    told = json.loads((tmp_path / "out" / "steps.json").read_text("utf-8"))
    steps = {each["name"]: np.array(each["values"]) for each in told["steps"]}
    shares = steps["probs"]
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(steps["joined"], steps["taken"].ravel())
    scores = steps["products"] * told["scale"]
    np.testing.assert_allclose(shares, np.exp(scores) / np.exp(scores).sum(1, keepdims=True))
    assert told["share"] == pytest.approx(shares[:, told["columns"]].sum(1).mean())
    # What stands in the text is what stands in the numbers.
    text = (tmp_path / "out" / "steps.txt").read_text("utf-8")
    assert text in printed
    assert f"'red circle' gets {told['share']:.1%} of this place" in text
    with Image.open(tmp_path / "out" / "steps.png") as sheet:
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 100
    # The picture is that of `generate`.
    assert run("generate", PROMPT, *options, "--out", tmp_path / "plain")[0] == 0
    first, second = (
        Image.open(tmp_path / each).tobytes() for each in ("out/picture.png", "plain/picture-3.png")
    )
    assert first == second


def test_the_command_by_default_and_as_json(model: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--steps", 2, "--device", "cpu", "--out", tmp_path]
    code, printed, error = run("steps", PROMPT, *options, "--json")
    assert code == 0, error
    told = json.loads(printed)
    assert (told["word"], told["step"]) == ("blue", 1)
    assert Path(told["files"]["steps"]).is_file()


@pytest.mark.parametrize(
    ("prompt", "asked", "found"),
    [
        ("a [red:blue:0.5] circle", ["--word=blue", "--step=2"], "blue"),
        ("a [red:blue:0.5] circle", ["--word=red", "--step=0"], "red"),
        ("a [red:blue:0.5] circle", ["--word=red", "--step=2"], None),
        ("a [red:blue:0.5] circle", ["--word=green"], None),
        ("a circle [red:blue:0.5]", ["--step=2"], "circle"),
        ("[red:blue:0.5]", ["--step=2"], "blue"),
        ("a circle (red:1.3)", [], "red"),
    ],
)
def test_words_of_prompts_with_syntax_are_those_of_the_step(
    model: Path, tmp_path: Path, prompt: str, asked: list[str], found: str | None
) -> None:
    options = ["--model", model, "--steps", 3, "--device", "cpu", "--out", tmp_path / "out"]
    code, printed, error = run("steps", prompt, *options, *asked, "--json")
    if found is None:
        assert (code, printed) == (2, "")
        assert "is not in the prompt; its words are 'a'" in error
        assert not (tmp_path / "out").exists()
        return
    assert code == 0, error
    told = json.loads(printed)
    assert told["word"] == found
    (column,) = told["columns"]
    assert found in told["tokens"][column]


def test_a_run_is_repeated_by_again(model: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--steps", 2, "--device", "cpu"]
    assert run("steps", PROMPT, *options, "--word=red", "--out", tmp_path / "one")[0] == 0
    code, printed, error = run("again", tmp_path / "one" / "steps.png", "--out", tmp_path / "two")
    assert code == 0, error
    assert printed.count("the same to the byte") == 5  # and the list of files


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--site=attn2", "they are 0 to 6"),
        ("--word=green", "'green' is not in the prompt"),
        ("--place=0.5", "expected a --place like 0.5,0.25"),
        ("--place=0.5,1.5", "expected a --place like 0.5,0.25"),
        ("--step=3", "expected a --step from 0 to 2 of 3 --steps, but came 3"),
    ],
)
def test_bad_input_is_one_sentence(model: Path, tmp_path: Path, option: str, told: str) -> None:
    where = tmp_path / "out"
    options = ["--model", model, "--steps", 3, "--device", "cpu", "--out", where]
    code, printed, error = run("steps", PROMPT, *options, option)
    assert (code, printed) == (2, "")
    assert told in error
    assert error.count("\n") == 1
    assert not where.exists()
