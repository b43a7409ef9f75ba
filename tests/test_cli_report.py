"""`t2i-xattn report`: saved runs beside each other in one page, each with its own picture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import t2i_xattn as tx
from command_line import run, written
from conftest import make_pipeline
from t2i_xattn.traces.trace import Trace

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders that `inspect` wrote: `one`, `two` with another word, `many` of two pictures."""
    folder = tmp_path_factory.mktemp("runs")
    pipe = make_pipeline()
    pipe.set_progress_bar_config(disable=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("t2i_xattn.commands.options.load", lambda *_: pipe)
        for name, prompt, more in (
            ("one", PROMPT, []),
            ("two", "a red square", []),
            ("many", PROMPT, ["--count=2", "--seed=3"]),
        ):
            code, _, told = run("inspect", prompt, "--steps=1", *more, "--out", folder / name)
            assert code == 0, told
        yield folder


def data_of(page: Path) -> dict[str, Any]:
    text = page.read_text("utf-8").partition('id="data">')[2].partition("</script>")[0]
    found: dict[str, Any] = json.loads(text)
    return found


def test_two_runs_beside_each_other(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "a folder"
    one, two = runs / "one", runs / "two" / "trace.safetensors"
    code, printed, told = run("report", one, two, "--words", "red circle", "--out", out)
    assert (code, printed, told) == (0, f"{out / 'report.html'}\n", "")
    assert written(out) == ["report.html"]
    found = data_of(out / "report.html")
    traces = [Trace.load(each / "trace.safetensors") for each in (one, two.parent)]
    pictures = [Image.open(each / "picture.png") for each in (one, two.parent)]
    other = tx.report(traces[1], pictures[1], name=str(two))
    both = tx.report(traces[0], pictures[0], words=["red circle"], against=other, name=str(one))
    assert found == both.data
    assert [each["name"] for each in found["runs"]] == [str(one), str(two)]
    # Each run has its own command, and the page itself none.
    assert ["circle" in each["command"] for each in found["runs"]] == [True, False]
    assert 'id="t2i-xattn-made"' not in (out / "report.html").read_text("utf-8")
    code, _, told = run("again", out / "report.html", "--out", tmp_path / "again")
    assert (code, "or show the runs of two commands" in told) == (2, True)


def test_one_run_is_what_inspect_wrote(runs: Path, tmp_path: Path) -> None:
    code, printed, _ = run("report", runs / "two", "--json", "--out", tmp_path)
    told = json.loads(printed)
    assert (code, told["runs"][0]["prompt"]) == (0, "a red square")
    found, first = data_of(Path(told["report"])), data_of(runs / "two" / "report.html")
    assert found["runs"][0] | {"name": ""} == first["runs"][0]


def test_a_picture_of_several_by_its_folder(runs: Path, tmp_path: Path) -> None:
    many = runs / "many"
    code, _, told = run("report", many / "seed-4", many / "seed-3", "--out", tmp_path)
    assert code == 0, told
    found = data_of(tmp_path / "report.html")
    for each, seed in zip(found["runs"], (4, 3), strict=True):
        (first,) = data_of(many / f"seed-{seed}" / "report.html")["runs"]
        assert each | {"name": ""} == first
        assert each["settings"]["seed"] == str(seed)


def test_a_picture_that_lies_elsewhere(runs: Path, tmp_path: Path) -> None:
    trace, picture = tmp_path / "mine.safetensors", tmp_path / "mine.png"
    shutil.copy(runs / "one" / "trace.safetensors", trace)
    shutil.copy(runs / "one" / "picture.png", picture)
    code, _, told = run("report", trace, "--picture", picture, "--out", tmp_path / "out")
    assert code == 0, told


def test_mistakes(runs: Path, tmp_path: Path) -> None:
    one, two = runs / "one", runs / "two"
    alone, wide, empty = tmp_path / "alone", tmp_path / "wide.png", tmp_path / "empty"
    for each in (alone, empty):
        each.mkdir()
    shutil.copy(one / "trace.safetensors", alone)
    Image.new("RGB", (128, 64)).save(wide)
    files = sorted(each.name for each in tmp_path.iterdir())

    def refused(sentence: str, *arguments: object, out: object = tmp_path / "out") -> None:
        code, printed, told = run("report", *arguments, "--out", out)
        assert (code, printed) == (2, ""), told
        assert sentence in told
        assert told.count("\n") == 1
        assert len(told) < 600
        assert sorted(each.name for each in tmp_path.iterdir()) == files

    refused("there is no trace.safetensors; check", empty)
    refused("there is no such file; check", tmp_path / "none")
    refused("there is no such file; check", "x" * 5000)
    refused("expected the picture of the run at", alone)
    refused("expected the picture of the run at", one, alone)
    refused("expected a whole safetensors file", one / "picture.png")
    refused("expected a picture of 64 × 64 pixels or in that proportion", alone, "--picture", wide)
    refused("says that another run made it (inspect)", alone, "--picture", two / "picture.png")
    refused("expected one --picture for each of 2 runs, or none, but came 1", one, two,
            "--picture", wide)  # fmt: skip
    refused("the trace at", runs / "many")
    refused("'green' is not in the prompt", one, two, "--words", "green")
    refused("another folder than that of a run", one, two, out=one)
    refused("expected a folder that can be written to", one, out=wide)
    refused("invalid value for '--out'", one, out="\0")
    refused("missing argument")
    lost = runs / "many" / "seed-9"
    lost.mkdir()
    refused("that has none of seed 9", lost)
