"""The commands, run on a tiny random model as a user would run them."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from command_line import PROMPT, as_loud_as_before, run, written
from conftest import make_pipeline
from t2i_xattn.asking.edit_request import parse_boxes
from t2i_xattn.asking.parsing import parse_list
from t2i_xattn.asking.request import Request
from t2i_xattn.commands.inspection import shown_box
from t2i_xattn.errors import UserError
from t2i_xattn.provenance.reading import made_of
from t2i_xattn.traces.regions import Box
from t2i_xattn.traces.trace import Trace
from tiny_pipelines import make_svd


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    return folder


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def test_generate_writes_one_picture_a_seed(model: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--steps", 2, "--size", "48x64", "--device", "cpu"]
    code, printed, _ = run(
        "generate", PROMPT, *options, "--seed", 3, "--count", 2, "--out", tmp_path / "both"
    )
    assert code == 0
    names = ["picture-3.png", "picture-4.png"]
    assert written(tmp_path / "both") == names
    assert [Path(line).name for line in printed.split()] == names
    with Image.open(tmp_path / "both" / names[0]) as picture:
        assert picture.size == (48, 64)
    # A picture depends on its own seed and not on how many are made at once.
    assert run("generate", PROMPT, *options, "--seed", 4, "--out", tmp_path / "one")[0] == 0
    alone, together = (tmp_path / folder / names[1] for folder in ("one", "both"))
    assert pixels(alone) == pixels(together)


def test_inspect_writes_picture_overlays_sheet_table_and_trace(model: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--steps", 2, "--device", "cpu", "--out", tmp_path / "out"]
    code, printed, _ = run("inspect", PROMPT, *options, "--seed", 3)
    assert code == 0
    files = written(tmp_path / "out")
    overlays = ["word-01-a.png", "word-02-red.png", "word-03-circle.png", "word-04-blue.png"]
    assert files == sorted(
        ["picture.png", "report.html", "trace.safetensors", "words.json", "words.png", *overlays]
    )
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "t2i-xattn inspect --model" in page
    assert "--seed=3 --steps=2" in page
    assert made_of(tmp_path / "out" / "report.html").options["prompt"] == PROMPT
    table = json.loads((tmp_path / "out" / "words.json").read_text("utf-8"))
    assert [row["word"] for row in table["words"]] == ["A", "red", "circle", "blue"]
    trace = Trace.load(tmp_path / "out" / "trace.safetensors")
    streams = {"text", "walked", "contribution", "carried contribution"}
    assert set(trace.run.maps) == streams
    shown = trace.heatmap("circle")
    assert table["words"][2]["share"] == pytest.approx(shown.share)
    assert tuple(table["words"][2]["peak"]) == shown.peak()
    assert Box(*table["words"][2]["box"]) == shown.box()
    assert shown_box(shown.box()) in printed
    for word in ("red", "circle", "blue"):
        assert word in printed
    # Looking does not change what is painted.
    assert run("generate", PROMPT, *options[:-1], tmp_path / "plain", "--seed", 3)[0] == 0
    plain, inspected = tmp_path / "plain" / "picture-3.png", tmp_path / "out" / "picture.png"
    assert pixels(plain) == pixels(inspected)


def test_inspect_leaves_the_maps_as_they_are_on_request(model: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--steps", 1, "--device", "cpu", "--out", tmp_path]
    assert run("inspect", PROMPT, *options, "--walk", 0)[0] == 0
    table = json.loads((tmp_path / "words.json").read_text("utf-8"))
    trace = Trace.load(tmp_path / "trace.safetensors")
    assert table["words"][2]["share"] == pytest.approx(trace.heatmap("circle").share)
    assert set(trace.run.maps) == {"text"}


def test_inspect_takes_chosen_phrases_and_several_pictures(model: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--steps", 1, "--device", "cpu", "--out", tmp_path]
    code, _, _ = run("inspect", PROMPT, *options, "--words", "red circle, blue", "--count", 2)
    assert code == 0
    assert written(tmp_path) == ["seed-0", "seed-1", "trace.safetensors"]
    table = json.loads((tmp_path / "seed-1" / "words.json").read_text("utf-8"))
    assert [row["word"] for row in table["words"]] == ["red circle", "blue"]


def test_a_word_that_stands_twice_is_shown_once_where_it_stands_first(
    model: Path, tmp_path: Path
) -> None:
    options = ["--model", model, "--steps", 1, "--device", "cpu", "--out", tmp_path]
    assert run("inspect", "A red circle left of a blue", *options)[0] == 0
    table = json.loads((tmp_path / "words.json").read_text("utf-8"))
    words = [row["word"] for row in table["words"]]
    assert words == ["A", "red", "circle", "left", "of", "blue"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('"red circle"', ("red circle",)),
        ("'red circle', blue", ("red circle", "blue")),
        ('"red, circle", \u201cblue, star\u201d,', ("red, circle", "blue, star")),
        ("don't, the cats' hat, 'tis", ("don't", "the cats' hat", "'tis")),
        ('"red, circle', ('"red', "circle")),
        ('5" pipe, 6" pipe', ('5" pipe', '6" pipe')),
        ("red, red ,, red", ("red",)),
        ("\"\", ''", ()),
        ("", ()),
        (None, ()),
    ],
)
def test_quotes_around_words_are_no_part_of_them(text: str | None, parts: tuple[str, ...]) -> None:
    assert parse_list(text) == parts


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        (Box(0.25, 0.0, 0.5, 1.0), "0.25,0.00,0.50,1.00"),
        (Box(0.29, 0.57, 0.58, 0.99), "0.29,0.57,0.58,0.99"),
        (Box(0.501, 0.999, 0.502, 1.0), "0.50,0.99,0.51,1.00"),
    ],
)
def test_a_box_of_the_table_can_be_given_to_edit(box: Box, shown: str) -> None:
    assert shown_box(box) == shown
    pasted = parse_boxes([f"circle={shown}"])["circle"]
    assert all(abs(one - other) < 0.01 for one, other in zip(pasted, box, strict=True))
    assert shown_box(None) == "-"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([""], "at least one word"),
        (["..."], "at least one word"),
        ([PROMPT, "--words", "cirle"], "did you mean 'circle'"),
        ([PROMPT, "--size", "60"], "multiples of 8 pixels, but came 60; the nearest is 64"),
        ([PROMPT, "--size", "0"], "multiples of 8 pixels, but came 0; the nearest is 8"),
        ([PROMPT, "--size", "big"], "--size like 128 or 160x128"),
        ([PROMPT, "--steps", "0"], "--steps of at least 1, but came 0"),
        ([PROMPT, "--steps", "1001"], "at most 1000 --steps"),
        ([PROMPT, "--count", "0"], "--count of at least 1, but came 0"),
        ([PROMPT, "--guidance", "nan"], "--guidance of 0 or more"),
        ([PROMPT, "--seed", "-1"], "--seed from 0"),
        (
            [PROMPT, "--size", "100000x100000"],
            "4194304 pixels, but came 100000 × 100000; take less",
        ),
        ([PROMPT, "--size", "9" * 5000], "--size like 128 or 160x128, but came '9999"),
        ([PROMPT, "--count", "1000000"], "--count of at most 64, but came 1e+06; take less, or"),
        ([PROMPT, "--walk", "1000000000"], "--walk of at most 100, but came 1000000000"),
        ([PROMPT, "--walk", "-1"], "--walk"),
        ([PROMPT, "--guidance", "1e30"], "--guidance of at most 100, but came 1e+30"),
        ([PROMPT, "--guidance", "1", "--negative", "tree"], "a negative prompt does nothing"),
        (
            [PROMPT, "--negative", "red (blue"],
            "a ')' for this bracket, at character 5 of the prompt",
        ),
        (
            ["(red:1.3) " * 2 + "(blue:inf)"],
            "a finite number, not 'inf', at character 27 of the prompt",
        ),
        (["red " * 3000], "a prompt in characters of at most 10000, but came 12000"),
        ([PROMPT, "--words", "circl" * 200], "is not in the prompt; its words are 'A', 'red'"),
        ([PROMPT, "--words", "x" * 100_000], "--words in characters of at most 10000"),
        ([PROMPT, "--words", ",".join(map(str, range(200_000)))], "but came 200000"),
        (["red \udcff"], "text in UTF-8"),
        ([PROMPT, "--steps", "1" * 9000], "'--steps'"),
        ([PROMPT, "--nonsense" * 900], "no such option"),
        ([PROMPT, "--picture", "a.png"], "--picture with --trace only"),
        ([PROMPT, "--device", "x" * 900], "--device of this machine, but 'xxx"),
        ([PROMPT, "--device", "nonsense"], "--device of this machine, but 'nonsense'"),
        (["a <toy> circle"], "a textual inversion that is loaded, not '<toy>', at character 3"),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_nothing_written(
    model: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    out = tmp_path / "new" / "out"
    code, printed, error = run(
        "inspect", arguments[0], "--model", model, "--out", out, *arguments[1:]
    )
    assert (code, printed) == (2, "")
    assert sentence in error
    assert error.count("\n") == 1
    assert len(error) < 500
    assert not (tmp_path / "new").exists()


def test_limits_can_be_lifted(model: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--steps", 1, "--device", "cpu", "--out", tmp_path]
    beyond = ["--guidance", 101, "--walk", 101, "--count", 65, "--size", 16]
    code, _, error = run("inspect", PROMPT, *options, *beyond)
    assert (code, "lift it by --no-limits" in error) == (2, True)
    beyond = ["--guidance", 101, "--walk", 101, "--size", 16]
    assert run("inspect", PROMPT, *options, *beyond, "--no-limits")[0] == 0


def test_a_pipeline_without_words_is_named() -> None:
    with pytest.raises(UserError, match="StableVideoDiffusionPipeline has no tokenizer"):
        Request(PROMPT).check_against(make_svd())


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, sentence in (("empty", "no model_index.json"), ("none", "there is none")):
        code, _, error = run("generate", PROMPT, "--model", tmp_path / folder, "--out", tmp_path)
        assert code == 2
        assert sentence in error
    (tmp_path / "empty" / "model_index.json").write_text("{}", "utf-8")
    code, _, error = run("generate", PROMPT, "--model", tmp_path / "empty", "--out", tmp_path)
    assert code == 2
    assert "_class_name in model_index.json" in error


def test_a_folder_that_cannot_be_written_to_is_named_before_anything_runs(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine", "utf-8")
    code, _, error = run("generate", PROMPT, "--model", "no such model", "--out", file / "out")
    assert code == 2
    assert "can be written to" in error
    assert file.read_text("utf-8") == "mine"


def test_square_brackets_in_a_prompt_are_no_markup(model: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--steps", 1, "--device", "cpu", "--out", tmp_path]
    code, printed, _ = run("inspect", "[bold]red[/bold] circle", *options)
    assert code == 0
    assert "bold" in printed


def test_without_a_device_one_of_this_machine_is_taken(model: Path, tmp_path: Path) -> None:
    assert run("generate", "red", "--model", model, "--steps", 1, "--out", tmp_path)[0] == 0


@pytest.mark.parametrize("script", ["generate.py", "inspect_words.py"])
def test_the_scripts_are_the_commands(
    script: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(__file__).parents[1] / "scripts" / script
    arguments = ["red circle", "--model", str(model), "--steps", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with as_loud_as_before(), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert list(tmp_path.glob("picture*.png"))


def test_a_negative_prompt_has_a_tab_in_the_report(tmp_path: Path, model: Path) -> None:
    options = ["--model", model, "--steps", 2, "--device", "cpu", "--negative", "blue circle"]
    assert run("inspect", PROMPT, *options, "--out", tmp_path / "with")[0] == 0
    assert run("inspect", PROMPT, *options[:-2], "--out", tmp_path / "without")[0] == 0
    tab = 'role="tab" id="tab-0-1"'
    assert tab in (tmp_path / "with" / "report.html").read_text("utf-8")
    assert tab not in (tmp_path / "without" / "report.html").read_text("utf-8")


def test_a_saved_trace_has_a_report_with_its_picture_alone(tmp_path: Path, model: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    options = ["--model", model, "--steps", 2, "--device", "cpu"]
    assert run("inspect", PROMPT, *options, "--out", one)[0] == 0
    trace = f"--trace={one / 'trace.safetensors'}"
    assert run("inspect", trace, "--picture", one / "picture.png", "--out", two)[0] == 0
    assert (two / "report.html").read_bytes() == (one / "report.html").read_bytes()
    assert run("inspect", trace, "--out", three)[0] == 0
    assert "report.html" not in written(three)
