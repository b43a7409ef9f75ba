"""`t2i-xattn edit`, run on a tiny random model as a user would run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from command_line import PROMPT, run, written
from conftest import make_pipeline
from t2i_xattn.asking.edit_request import EditRequest
from t2i_xattn.asking.edited import paint_edited
from t2i_xattn.asking.recording import recorded
from t2i_xattn.asking.request import Request, paint
from t2i_xattn.errors import UserError
from t2i_xattn.traces.word_reports import heatmaps

LONG = "circle" * 150
FILES = (
    "after.png",
    "before.png",
    "edit.png",
    "report.html",
    "words-after.png",
    "words-before.png",
    "words-both.png",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    return folder


def edit(model: Path, out: Path, *options: object, prompt: str = PROMPT) -> None:
    fixed = ["--model", model, "--steps", 5, "--device", "cpu", "--out", out]
    if "--image" not in options:
        fixed += ["--seed", 3]
    code, printed, told = run("edit", prompt, *fixed, *options)
    assert code == 0, told
    assert written(out) == sorted(FILES)
    assert Path(printed.split()[0]).name == "edit.png"
    before, after = (Image.open(out / name) for name in ("before.png", "after.png"))
    assert before.size == after.size == (64, 64)
    assert before.tobytes() != after.tobytes()
    runs = json.loads((out / "report.html").read_text().partition('id="data">')[2].split("</sc")[0])
    assert [each["name"].partition(":")[0] for each in runs["runs"]] == ["before", "after"]


@pytest.mark.parametrize(
    "options",
    [
        ("--replace", "red=blue", "--replace", "circle=left"),
        pytest.param(("--weight", "red=3", "--weight", "circle=0.2"), marks=pytest.mark.slow),
        pytest.param(
            ("--replace", "Red Circle=left", "--weight", "left=2"), marks=pytest.mark.slow
        ),
        pytest.param(("--box", "circle=0,0,0.5,0.5", "--weight", "red=2"), marks=pytest.mark.slow),
        pytest.param(("--attend", "circle, red"), marks=pytest.mark.slow),
        pytest.param(
            ("--region", "0,0,1,0.5=blue", "--region", "0,0.5,1,1=a = b", "--weight", "red=2"),
            marks=pytest.mark.slow,
        ),
        pytest.param(("--region", "0,0,1,0.5=blue", "--attend", "circle"), marks=pytest.mark.slow),
        pytest.param(
            ("--region", "0,0,1,0.5=blue", "--replace", "red=blue"), marks=pytest.mark.slow
        ),
    ],
)
def test_writes_before_after_and_the_difference(
    model: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    edit(model, tmp_path / "out", *options)
    run("generate", PROMPT, "--model", model, "--steps", 5, "--seed", 3, "--device", "cpu",
        "--out", tmp_path)  # fmt: skip
    names = ("picture-3.png", "out/before.png")
    plain, before = (Image.open(tmp_path / name) for name in names)
    difference = ImageChops.difference(plain, before)
    assert np.asarray(difference).max() <= 1  # the batch is another


@pytest.mark.parametrize("steps", [1, 2])
def test_words_are_replaced_in_the_shortest_runs(model: Path, tmp_path: Path, steps: int) -> None:
    edit(model, tmp_path / "out", "--steps", steps, "--replace", "red=blue")


@pytest.mark.slow
def test_edits_a_picture_of_the_user_s(model: Path, tmp_path: Path) -> None:
    own = Image.effect_noise((64, 64), 60).convert("RGB")
    own.save(tmp_path / "own.png")
    edit(model, tmp_path / "out", "--image", tmp_path / "own.png", "--replace", "red=blue")


@pytest.mark.slow
def test_a_photo_is_fitted_to_the_model_and_that_is_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = Image.effect_noise((200, 150), 60).convert("RGB")
    photo.save(tmp_path / "photo.jpg")
    fixed = ["--model", model, "--steps", 3, "--device", "cpu", "--image", tmp_path / "photo.jpg"]
    sizes = {(): (72, 56), ("--size", "48x64"): (48, 64)}
    for size, expected in sizes.items():
        out = tmp_path / "out"
        code, _, told = run("edit", PROMPT, *fixed, "--replace", "red=blue", "--out", out, *size)
        assert code == 0, told
        assert "the picture of 200 × 150 pixels is edited at {} × {}".format(*expected) in told
        assert "inversion: " in told
        with Image.open(out / "before.png") as before:
            assert before.size == expected


@pytest.mark.parametrize(
    ("prompt", "replace", "target"),
    [
        ("red and blue", {"red": "blue", "blue": "red"}, "blue and red"),
        ("a red circle, red", {"red": "1", "Red  circle": "2"}, "a 2, 1"),
        ("New York's red, York", {"new york": "Paris", "york": "Rome"}, "Paris's red, Rome"),
        ("New York\u2019s sky", {"New York": "Paris"}, "Paris\u2019s sky"),
        ("a t-shirt, a shirt", {"shirt": "hat"}, "a t-shirt, a hat"),
        ("red, circle", {"red circle": r"\1 star"}, r"\1 star"),
        ("red", {"blue": "green"}, "red"),
        ("2 boats and a (red:1.2) house", {"2": "3"}, "3 boats and a (red:1.2) house"),
        (
            "a red++ hat and a (red)-- cat",
            {"red": "sea blue"},
            "a (sea blue)++ hat and a (sea blue)-- cat",
        ),
    ],
)
def test_replacements_are_made_at_once(prompt: str, replace: dict[str, str], target: str) -> None:
    assert EditRequest(Request(prompt), replace).target == target


def test_syntax_inside_what_is_replaced() -> None:
    asked = EditRequest(Request("a (red:1.2) circle"), {"red circle": "blue square"})
    with pytest.raises(UserError, match=r"came 'red:1\.2\) circle'; replace each word by itself"):
        _ = asked.target
    each = EditRequest(asked.request, {"red": "blue", "circle": "square"})
    assert each.target == "a (blue:1.2) square"


@pytest.mark.slow
def test_colours_are_swapped(model: Path, tmp_path: Path) -> None:
    swapped = ("--replace", "red=blue", "--replace", "blue=red")
    edit(model, tmp_path / "out", *swapped)


@pytest.mark.parametrize("more", [{"weights": {"red": 2.0}}, {"attend": ["circle"]}])
def test_shows_the_maps_that_inspect_shows(pipe: Any, more: dict[str, Any]) -> None:
    asked = EditRequest(Request(PROMPT, seed=3, steps=4), **more)
    maps = paint_edited(pipe, asked).maps_before
    with recorded(pipe, walk=1) as trace:
        paint(pipe, asked.request)
    for found, expected in zip(maps, heatmaps(trace), strict=True):
        assert found.word == expected.word
        assert np.allclose(found.array, expected.array, rtol=0, atol=1e-5)
        plain = trace.heatmap(found.word, stream="text").array
        assert not np.allclose(found.array, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "something to edit"),
        (("--replace", "cat=dog"), "'cat'"),
        (("--replace", "red"), "expected --replace word=…, but came 'red'"),
        (("--weight", "red=much"), "came 'much'"),
        (("--weight", "red=inf"), "came 'inf'"),
        (("--weight", "cat=2"), "'cat'"),
        (("--box", "circle=0,0,2,1"), "inside the picture"),
        (("--box", "circle=0,0,1"), "four numbers"),
        (("--box", "circle=a,b,c,d"), "four numbers"),
        (("--attend", "star"), "'star'"),
        (("--region", "0,0,1,0.5"), 'expected --region "top,left,bottom,right=text"'),
        (("--region", "0,0,1,2=blue"), "inside the picture"),
        (("--region", "x=blue"), "four numbers"),
        (("--region", "0,0,1,1=red", "--region", "0,0,1,1=red"), "a text of its own"),
        (("--attend", "red", "--replace", "red=blue"), "do one after the other"),
        (("--replace", "red=blue", "--image", __file__, "--seed", "0"), "--image without --seed"),
        (("--replace", "red=blue", "--replace", "Red=left"), "one --replace a phrase"),
        (("--weight", "red=2", "--weight", '"RED"=3'), "one --weight a phrase, but came 'RED'"),
        (("--box", "red=0,0,1,1", "--box", "red =0,0,1,0.5"), "one --box a phrase"),
        (("--weight", "red=1e30"), "--weight 'red' of at most 1000, but came 1e+30"),
        (("--weight", f"{LONG}=1"), "is not in the prompt; its words are"),
        (("--weight", f"red={LONG}"), "a finite number as --weight 'red'=…"),
        (("--box", f"{LONG}=x"), "four numbers"),
        (("--box", f"red={LONG}"), "four numbers"),
        (("--region", LONG), "--region"),
        (("--region", f"{LONG}=red"), "four numbers"),
        (("--replace", LONG), "expected --replace word=…"),
        (("--attend", f"{LONG},red"), "is not in the prompt"),
        (("--attend", LONG * 20), "--attend in characters of at most 10000, but came 18000"),
        (("--attend", ",".join(map(str, range(101)))), "at most 100 phrases, but came 101"),
        (("--weight", "red=2", "--guidance", "1", "--negative", "left"), "--guidance above 1"),
        (("--replace", "red=blue", "--image", "nowhere.png"), "a picture file at"),
    ],
)
def test_mistakes(model: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    fixed = ["--model", model, "--steps", 2, "--device", "cpu", "--out", tmp_path / "out"]
    code, printed, told = run("edit", PROMPT, *fixed, *options)
    assert (code, printed) == (2, "")
    assert message in told
    assert len(told.strip().splitlines()) == 1
    assert len(told) < 500
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--region", "0,0,1,1=" + "red " * 99),
        ("--replace", f"red={'left ' * 80}"),
    ],
)
def test_texts_of_several_windows(model: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    fixed = ["--model", model, "--steps", 2, "--device", "cpu", "--out", out]
    code, _, _ = run("edit", PROMPT, *fixed, *options)
    assert code == 0
    assert (out / "before.png").read_bytes() != (out / "after.png").read_bytes()
