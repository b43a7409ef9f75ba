"""`t2i-xattn again`: from a file that a command wrote, the same files once more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from conftest import make_pipeline
from t2i_xattn.commands import options
from t2i_xattn.commands.app import app
from t2i_xattn.provenance.made import KEY, Made
from t2i_xattn.provenance.png import save_png
from t2i_xattn.provenance.reading import made_of

PROMPT = "a red circle left of a blue square"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(model: str | None, device: str | None) -> Any:
        pipe = make_pipeline()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    monkeypatch.setattr(options, "load", load)


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


COMMANDS: dict[str, list[str]] = {
    "generate": ["generate", "--negative=-tree", "--guidance=3", "--count=2"],
    "inspect": ["inspect", "--words=red circle,blue", "--walk=2", "--size=64x96"],
    "edit": ["edit", "--weight=red=1.5", "--weight=blue=0.5", "--region=0,0,1,0.5=-a star"],
    "film": ["film", "--words=red circle,blue", "--format=webp", "--frames=2", "--fps=3"],
    "sheets for print": ["inspect", "--scale=all", "--dpi=192"],
    "explain": ["explain", "--words=red,square", "--instead=red=blue", "--by=text,carriers"],
    "edit with boxes": ["edit", "--box=circle=0,0,1,0.5", "--attend=square"],
}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_same_files(tmp_path: Path, name: str) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    command, *more = COMMANDS[name]
    result = run(command, *more, "--steps=2", "--seed=7", f"--out={first}", "--", PROMPT)
    assert result.exit_code == 0, result.output
    files = sorted(each.name for each in first.iterdir())
    one = next(each for each in sorted(first.iterdir()) if each.suffix == ".png")
    result = run("again", one, "--out", second)
    assert result.exit_code == 0, result.output
    assert sorted(each.name for each in second.iterdir()) == files
    for each in files:
        assert (first / each).read_bytes() == (second / each).read_bytes(), each
    assert result.output.count("the same to the byte") == len(files)
    assert "differs" not in result.output


def test_from_every_file_and_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "one"
    assert run("inspect", "red", "--steps=1", f"--out={out}").exit_code == 0
    every = [each for each in out.iterdir() if not each.name.startswith(".")]
    assert {each.suffix for each in every} == {".png", ".json", ".html", ".safetensors"}
    found = [made_of(each) for each in (*every, out)]
    assert all(each == found[0] for each in found)
    assert found[0].options["prompt"] == "red"


def test_a_picture_of_several_is_held_against_its_own(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert run("inspect", "red", "--steps=1", "--count=2", "--seed=3", "--out", one).exit_code == 0
    result = run("again", one / "seed-4" / "picture.png", "--out", two)
    assert result.exit_code == 0, result.output
    files = [each.relative_to(one) for each in one.rglob("*") if each.is_file()]
    assert result.output.count("the same to the byte") == len(files)
    assert "seed-4/picture.png: the same" in result.output


def test_what_else_lies_there_is_not_taken_for_the_run_s(tmp_path: Path) -> None:
    """Such as an earlier run of another command, with another model."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert run("generate", "red", "--steps=1", "--out", one).exit_code == 0
    assert run("inspect", "blue", "--steps=1", "--out", two).exit_code == 0
    result = run("again", one / "picture-0.png", "--out", two)
    assert result.exit_code == 0, result.output
    told = [line for line in result.output.splitlines() if "the same" in line or "differs" in line]
    assert any("picture-0.png: the same to the byte" in line for line in told)
    assert not any("trace.safetensors" in line or "words" in line for line in told)


def test_what_was_typed_in_another_order(tmp_path: Path) -> None:
    for name, arguments in {
        "one": ["--steps=1", "red", "--seed=2"],
        "two": ["--seed=2", "--steps=1", "red"],
    }.items():
        assert run("generate", *arguments, "--out", tmp_path / name).exit_code == 0
    one, two = ((tmp_path / name / "picture-2.png").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_change_is_told(tmp_path: Path) -> None:
    assert run("generate", "red", "--steps=1", "--out", tmp_path / "one").exit_code == 0
    path = tmp_path / "one" / "picture-0.png"
    made = made_of(path)
    other = made.as_dict() | {"model": "0123456789"}
    other["versions"] = other["versions"] | {"torch": "1.0"}
    with Image.open(path) as picture:
        save_png(picture.copy(), path, Made.read(other, path))
    result = run("again", path, "--out", tmp_path / "two")
    assert result.exit_code == 0, result.output
    assert "the model is another one" in result.output
    assert "and was 1.0 then" in result.output
    assert "differs" in result.output


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"options": {"prompt": "red", "out": "/etc"}}, "'out'"),
        ({"options": {"prompt": "red", "steps": "many"}}, "--steps"),
        ({"options": {"prompt": "red", "count": 10**9}}, "--count"),
        ({"options": {"prompt": "red", "config": "/etc/passwd"}}, "config"),
        ({"options": {}}, "PROMPT"),
        ({"command": "rm"}, "'rm'"),
    ],
)
def test_hostile_files_ask_for_nothing_else(
    tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    assert run("generate", "red", "--steps=1", "--out", tmp_path / "one").exit_code == 0
    path = tmp_path / "one" / "picture-0.png"
    fields = made_of(path).as_dict() | change
    with Image.open(path) as picture:
        copy = picture.copy()
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(KEY, json.dumps(fields))
    copy.save(path, pnginfo=info)
    result = run("again", path, "--out", tmp_path / "two")
    assert result.exit_code == 2, result.output
    assert match.lower() in result.output.lower()
    assert not (tmp_path / "two").exists()


def test_mistakes(tmp_path: Path) -> None:
    assert run("generate", "red", "--steps=1", "--out", tmp_path / "one").exit_code == 0
    result = run("again", tmp_path / "one", "--out", tmp_path / "one")
    assert result.exit_code == 2
    assert "where the first run's files lie" in result.output
    result = run("again", tmp_path / "none")
    assert result.exit_code == 2
    assert "there is no" in result.output


def test_a_film_is_made_again_from_the_film_itself(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = ["film", "red circle", "--steps=2", "--format=gif"]
    assert run(*arguments, "--out", one).exit_code == 0
    for name, file in (("film", one / "film.gif"), ("folder", one)):
        result = run("again", file, "--out", two / name)
        assert result.exit_code == 0, result.output
        assert (two / name / "film.gif").read_bytes() == (one / "film.gif").read_bytes()
        assert "film.gif: the same to the byte" in result.output
    (one / "picture.png").unlink()
    result = run("again", one / "film.gif", "--out", tmp_path / "three")
    assert result.exit_code == 2
    assert "expected picture.png beside film.gif" in result.output


def test_a_folder_of_several_runs_says_so(tmp_path: Path) -> None:
    """Nothing is repeated that was not meant."""
    assert run("inspect", "red", "--steps=1", "--out", tmp_path / "one").exit_code == 0
    assert run("film", "blue", "--steps=1", "--out", tmp_path / "one").exit_code == 0
    result = run("again", tmp_path / "one", "--out", tmp_path / "two")
    assert result.exit_code == 2
    assert "there are those of 2: trace.safetensors (inspect), picture.png (film)" in result.output
    assert not (tmp_path / "two").exists()
