"""Words that the model in the box was never taught are told wherever it paints them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import t2i_xattn as tx
from command_line import run
from conftest import make_pipeline
from lab.training.sources import descriptions, drawn_scenes, source_named
from lab.training.vocabulary import vocabulary_as_json
from t2i_xattn.models.default import WORLD, load_default
from t2i_xattn.models.vocabulary import (
    LISTED,
    VOCABULARY,
    Vocabulary,
    never_taught,
    vocabulary_of,
    vocabulary_of_model,
)

_found = vocabulary_of_model(WORLD)
assert _found is not None
KNOWN: Vocabulary = _found


def words_of(vocabulary: Vocabulary, text: str) -> list[str]:
    return [each.word for each in vocabulary.unknown(text)]


def test_the_list_is_that_of_the_language() -> None:
    assert VOCABULARY.read_text("utf-8") == vocabulary_as_json(), "run scripts/write_vocabulary.py"
    by_meaning = json.loads(VOCABULARY.read_text("utf-8"))["words"]
    every = [word for words in by_meaning.values() for word in words]
    assert sorted(every) == source_named("world").vocabulary()
    assert "rabbit" in by_meaning["things"]
    assert "sunset" in by_meaning["lights"]


def test_no_prompt_that_it_was_trained_with_has_a_word_that_it_does_not_know() -> None:
    source, rng = source_named("world"), np.random.default_rng(5)
    scenes, rng = drawn_scenes(source, [5], 300)
    prompts = [each.prompt for each in descriptions(source, scenes, rng, 0.0)]
    assert KNOWN.unknown(*prompts) == ()


def test_each_known_word_is_a_token_of_the_model_in_the_box() -> None:
    tokenizer = load_default().tokenizer
    assert [each for each in KNOWN.words if len(tokenizer.tokenize(each)) != 1] == []


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("a red circle left of a blue square", []),
        ("A Futuristic CITY skyline, at sunset!", []),
        ("a small white rabbit left of a big brown bear", ["bear"]),
        ("an astronaut riding a horse", ["astronaut", "riding", "horse"]),
        ("a bear and a Bear", ["bear"]),
        ("a red-blue star", []),
        ("a red-hued star", ["red-hued"]),
        ("ein café, żółty", ["ein", "café", "żółty"]),
        ("a rocket 🚀 7", ["🚀", "7"]),
        ("красный круг", ["красный", "круг"]),
        ("…!?", []),
    ],
)
def test_which_words_are_unknown(text: str, unknown: list[str]) -> None:
    assert words_of(KNOWN, text) == unknown


def test_the_nearest_words_are_named() -> None:
    (horses,) = KNOWN.unknown("rabit")
    assert horses.nearest[0] == "rabbit"
    (far,) = KNOWN.unknown("xylophone")
    assert far.nearest == ()
    assert KNOWN.unknown("x" * 10**5)[0].nearest == ()


def test_of_other_models_nothing_is_said(tmp_path: Path) -> None:
    assert vocabulary_of(make_pipeline()) is None
    for name in (None, "world", str(tmp_path), "\0", "x" * 10**4):
        assert vocabulary_of_model(name) is None
    make_pipeline().save_pretrained(tmp_path / "model")
    options = ["--model", tmp_path / "model", "--steps", 1, "--out", tmp_path / "out", "--json"]
    code, printed, told = run("generate", "red bear", *options)
    assert (code, json.loads(printed)["unknown_words"]) == (0, None)
    assert "never taught" not in told


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands load a tiny pipeline that says that it is the model in the box."""
    pipe = make_pipeline()
    pipe.register_to_config(_name_or_path=str(WORLD))
    pipe.set_progress_bar_config(disable=True)
    monkeypatch.setattr("t2i_xattn.commands.options.load", lambda *_: pipe)


@pytest.mark.usefixtures("box")
def test_every_command_tells_them(tmp_path: Path) -> None:
    prompt = "a white rabbit left of a brown bear"
    options = ["--steps", 1, "--size", 64, "--json"]
    near = KNOWN.unknown("bear")[0].nearest
    expected = [{"word": "bear", "nearest": list(near)}]
    for command in ("generate", "inspect", "explain", "edit"):
        more = ["--weight", "bear=2"] if command == "edit" else ["--guidance", 1]
        out = tmp_path / command
        code, printed, told = run(command, prompt, *options, *more, "--out", out)
        assert code == 0, told
        said = json.loads(printed)
        found = said["pictures"][0] if command == "inspect" else said
        assert found["unknown_words"] == expected, command
        assert told.count("'bear'") >= 1
        assert str(VOCABULARY) in told
    table = json.loads((tmp_path / "inspect" / "words.json").read_text("utf-8"))
    assert table["unknown_words"] == expected
    table = json.loads((tmp_path / "explain" / "explanation.json").read_text("utf-8"))
    assert table["unknown_words"] == expected
    for command in ("inspect", "explain"):
        page = (tmp_path / command / "report.html").read_text("utf-8")
        assert f"in their place: bear (spelled alike: {' or '.join(near)})" in page
        assert LISTED in page
    # A saved trace says which model it is of.
    trace = tmp_path / "inspect" / "trace.safetensors"
    code, printed, _ = run("inspect", "--trace", trace, "--json", "--out", tmp_path / "later")
    assert json.loads(printed)["pictures"][0]["unknown_words"] == expected
    code, printed, told = run("generate", "a red circle", *options, "--out", tmp_path / "known")
    assert json.loads(printed)["unknown_words"] == []
    assert "never taught" not in told


@pytest.mark.usefixtures("box")
def test_a_batch_has_them_in_its_index(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    lines = [{"prompt": "a red circle"}, {"prompt": "a bear", "replace": {"bear": "horse"}}]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    options = ["--steps", 1, "--size", 64, "--no-maps", "--out", tmp_path / "many"]
    code, printed, _ = run("batch", file, *options)
    assert code == 0
    assert "1 of them with words that the model was never taught" in printed
    table = parquet.read_table(tmp_path / "many" / "index.parquet")
    assert table["unknown_words"].to_pylist() == [[], ["bear", "horse"]]


def test_what_pictures_and_pages_say() -> None:
    unknown = KNOWN.unknown("an xylophone and a rabit")
    told = never_taught(unknown)
    assert "in their place: xylophone, rabit (spelled alike: rabbit" in told
    assert Path(LISTED).parts == VOCABULARY.parts[-4:]


def test_a_report_marks_them_and_names_the_nearest() -> None:
    pipe = make_pipeline()
    pipe.register_to_config(_name_or_path=str(WORLD))
    with tx.record(pipe, branches=["conditional", "unconditional"]) as trace:
        (image,) = pipe("a Bear <b>b</b>", negative_prompt="horse", num_inference_steps=1).images
    found = tx.report(trace, image)
    (run,) = found.data["runs"]
    assert [each["word"] for each in run["unknown_words"]] == ["Bear", "b", "horse"]
    marked = [[w["text"] for w in of["words"] if w["unknown"]] for of in run["branches"]]
    assert marked == [["Bear", "b", "b", "b"], ["horse"]]
    assert found.html.count('class="word unknown"') == 5
    assert "in their place: Bear (spelled alike:" in found.html
    # Of another model it is not known which words it knows.
    trace.settings["model"] = "elsewhere"
    found = tx.report(trace, image)
    assert found.data["runs"][0]["unknown_words"] is None
    assert 'class="word unknown"' not in found.html
    assert "Never taught" not in found.html.partition("<script")[0]


def test_the_app_names_them(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="no Gradio: pip install '.[app]'")
    from t2i_xattn.app.downloads import write_changed, write_explained, write_painted
    from t2i_xattn.app.explanation import explanation_table
    from t2i_xattn.app.form import Source, edit_of
    from t2i_xattn.app.handlers import Handlers
    from t2i_xattn.app.studio import Studio
    from t2i_xattn.asking.request import Request

    pipe = make_pipeline()
    pipe.register_to_config(_name_or_path=str(WORLD))
    pipe.set_progress_bar_config(disable=True)
    studio = Studio(pipe)
    request = Request("a red bear", steps=1, size=(64, 64), guidance=1)
    painted = studio.paint(request)
    told = "in their place: bear (spelled alike:"
    _, page, *_ = Handlers(studio, tmp_path / "runs")._shown(painted, "s", "the picture")
    assert told in page
    assert page.count("word unknown") == 1
    source = Source(request, ("a", "red", "bear"))
    changed = studio.edit(edit_of(source, {}, {"bear": "horse"}, ""))
    assert changed.unknown is not None
    assert [each.word for each in changed.unknown] == ["bear", "horse"]
    explained = studio.explain(source)
    assert told in explanation_table(explained.found, explained.unknown)
    for number, (write, made) in enumerate(
        ((write_painted, painted), (write_changed, changed), (write_explained, explained))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        table = json.loads(write(folder, made)[-1].read_text("utf-8"))  # type: ignore[operator]
        assert table["unknown_words"][0]["word"] == "bear"


@pytest.mark.slow
def test_the_model_in_the_box_is_known_as_such(tmp_path: Path) -> None:
    options = ["--steps", 1, "--size", 64, "--json"]
    for model in (["--model", "world"], ["--model", WORLD], []):
        code, printed, told = run("generate", "a bear", *options, *model, "--out", tmp_path)
        assert code == 0
        assert json.loads(printed)["unknown_words"][0]["word"] == "bear"
        assert "never taught 'bear'" in told


def test_the_syntax_of_prompts_is_no_word() -> None:
    vocabulary = vocabulary_of_model(VOCABULARY.parent)
    assert vocabulary is not None
    prompt = 'a (red:1.4) circle BREAK a blue-- [square:zebra:0.4] AND a "small star"1.2'
    assert [each.word for each in vocabulary.unknown(prompt)] == ["zebra"]
    assert [each.word for each in vocabulary.unknown("a (zebra")] == ["zebra"]
