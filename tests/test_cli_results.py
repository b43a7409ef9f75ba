"""What the commands print: JSON alone on standard output, the version, completion; saved traces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import t2i_xattn
from command_line import PROMPT, run, written
from conftest import make_pipeline
from t2i_xattn.commands.run_files import NAME
from t2i_xattn.traces.trace import Trace

PIPE = make_pipeline()


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2i_xattn.commands.options.load", lambda *_: PIPE)


def files_in(found: Any) -> list[Path]:
    """All the paths of a result."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list):
        return [path for each in found for path in files_in(each)]
    is_path = isinstance(found, str) and found.endswith((".png", ".json", ".html", ".safetensors"))
    return [Path(found)] if is_path else []


@pytest.mark.parametrize(
    ("command", "options", "count"),
    [
        ("generate", ["--count", 2], 2),
        ("inspect", [], 9),
        ("inspect", ["--count", 2, "--words", "red"], 11),
        ("edit", ["--weight", "red=2"], 7),
    ],
)
def test_json_is_alone_on_standard_output(
    tmp_path: Path, command: str, options: list[object], count: int
) -> None:
    fixed = [PROMPT, "--steps", 2, "--out", tmp_path, *options]
    code, printed, _ = run(command, *fixed, "--json")
    assert code == 0
    found = json.loads(printed)
    assert (found["command"], found["prompt"]) == (command, PROMPT)
    files = files_in(found)
    assert len(files) == len(set(files)) == count
    present = {path for path in tmp_path.rglob("*.*") if path.is_file() and path.name != NAME}
    assert set(files) == present
    if command == "inspect":
        table = json.loads(Path(found["pictures"][-1]["table"]).read_text("utf-8"))
        assert found["pictures"][-1]["words"] == table["words"]


def test_json_of_a_mistake_is_nothing(tmp_path: Path) -> None:
    code, printed, told = run("inspect", PROMPT, "--json", "--words", "star", "--out", tmp_path)
    assert (code, printed, told.count("\n")) == (2, "", 1)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("t2i_xattn.commands.options.load", lambda *_: PIPE)
        assert run("inspect", PROMPT, "--steps", 1, "--count", 2, "--out", out)[0] == 0
        assert run("inspect", PROMPT, "--steps", 1, "--out", out / "one")[0] == 0
    return out / "trace.safetensors"


def test_a_saved_trace_shows_what_its_run_showed(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2i_xattn.commands.options.load", lambda *_: pytest.fail("a model"))
    pictures = [trace.parent / f"seed-{n}" / "picture.png" for n in range(2)]
    given = [each for path in pictures for each in ("--picture", path)]
    assert run("inspect", "--trace", trace, *given, "--out", tmp_path)[0] == 0
    for number in range(2):
        before, after = trace.parent / f"seed-{number}", tmp_path / f"image-{number}"
        for path in before.iterdir():
            assert path.read_bytes() == (after / path.name).read_bytes()
    out = tmp_path / "grey"
    code, printed, _ = run("inspect", "--trace", trace.parent / "one" / trace.name, "--words",
                           "red circle", "--out", out, "--json")  # fmt: skip
    assert code == 0
    assert written(out) == ["word-01-red-circle.png", "words.json", "words.png"]
    (found,) = json.loads(printed)["pictures"]
    heat = Trace.load(trace.parent / "one" / trace.name).heatmap("red circle")
    assert found["words"][0]["share"] == pytest.approx(heat.share)
    assert found["picture"] is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((PROMPT,), "came a prompt beside it"),
        (("--seed", "0", "--walk", "1"), "came --seed, --walk beside it"),
        (("--model", "world"), "came --model beside it"),
        (("--words", "star"), "'star' is not in the prompt"),
        (("--words", ",".join(map(str, range(101)))), "at most 100 phrases"),
        (("--picture", __file__), "one --picture for each of the 2"),
        (("--picture", __file__, "--picture", __file__), "a picture that can be read"),
        (("--trace", "none.safetensors"), "none.safetensors"),
        (("--trace", __file__), "test_cli_results.py' is of another kind"),
    ],
)
def test_mistakes_about_a_saved_trace(
    trace: Path, tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    out = tmp_path / "out"
    code, printed, told = run("inspect", "--trace", trace, "--out", out, *options)
    assert (code, printed, told.count("\n")) == (2, "", 1)
    assert sentence in told
    assert not out.exists()


def test_a_trace_is_not_replaced_by_what_it_shows(trace: Path) -> None:
    before = trace.read_bytes()
    code, _, told = run("inspect", "--trace", trace, "--out", trace.parent)
    assert (code, "another folder than that of the trace" in told) == (2, True)
    assert trace.read_bytes() == before


def test_a_picture_of_another_shape_is_told(trace: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "a.png")
    one = trace.parent / "one" / trace.name
    out = tmp_path / "out"
    code, _, told = run("inspect", "--trace", one, "--picture", tmp_path / "a.png", "--out", out)
    assert (code, "lay the map over the picture of its own run" in told) == (2, True)
    assert not out.exists()


def test_the_version() -> None:
    assert run("--version") == (0, f"t2i-xattn {t2i_xattn.__version__}\n", "")


def test_without_a_command_there_is_help() -> None:
    code, printed, told = run()
    assert code in (0, 2)
    assert "Commands:" in printed + told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["isnpect"], "did you mean 'inspect'"),
        (["x" * 9000], "no such command 'xxx"),
        (["generate"], "missing argument"),
        (["inspect"], "expected a prompt"),
        (["generate", "a", "b" * 9000], "unexpected extra argument"),
        (["generate", "a", "--out"], "--out"),
        (["generate", "a", "--steps", "x" * 9000], "'--steps'"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], sentence: str) -> None:
    code, printed, told = run(*arguments)
    assert (code, printed, told.count("\n")) == (2, "", 1)
    assert sentence.casefold() in told.casefold()
    assert len(told) < 400


def started(*arguments: str, **environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "t2i_xattn", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    return ran.stdout


def test_the_package_is_the_command_and_completes_itself() -> None:
    assert started("--version") == f"t2i-xattn {t2i_xattn.__version__}\n"
    # Which shell it is would be looked for among the processes that run the tests.
    told = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    assert "_T2I_XATTN_COMPLETE=complete_bash" in started("--show-completion", "bash", **told)
    words = {"COMP_WORDS": "t2i-xattn in", "COMP_CWORD": "1"}
    assert started(_T2I_XATTN_COMPLETE="complete_bash", **words).split() == ["inspect"]


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    heavy = "{'torch', 'diffusers', 'transformers', 'scipy', 'PIL', 'numpy', 'cmap'}"
    code = (
        "import sys\n"
        "from t2i_xattn.commands.app import main\n"
        f"sys.argv[1:] = {arguments}\n"
        "try:\n    main()\n"
        f"finally:\n    assert not {heavy} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
