"""`--config FILE`: every option of every command, the command line before it, mistakes told."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from command_line import PROMPT, run
from conftest import make_pipeline
from t2i_xattn.commands.app import app
from t2i_xattn.commands.config import read_section

PIPE = make_pipeline()


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2i_xattn.commands.options.load", lambda *_: PIPE)


def written(folder: Path, text: str) -> Path:
    (folder / "config.toml").write_text(text, "utf-8")
    return folder / "config.toml"


def test_options_come_from_the_section_of_the_command(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        f"""
        [generate]
        steps = 1
        seed = 7
        count = 2
        size = "48x64"
        out = {json.dumps(str(tmp_path / "from the file"))}
        json = true
        [edit]
        steps = 2
        replace = ["red=blue", "circle=left"]
        weight = "left=2"
        prompt = "A red circle, blue"
        no_limits = false
        """,
    )
    code, printed, _ = run("generate", PROMPT, "--config", config)
    assert code == 0
    pictures = json.loads(printed)["pictures"]
    assert [each["seed"] for each in pictures] == [7, 8]
    with Image.open(pictures[0]["picture"]) as picture:
        assert picture.size == (48, 64)
    # The command line goes before it, wherever it stands.
    out = tmp_path / "typed"
    for options in (("--seed", 9, "--config", config), ("--config", config, "--seed", 9)):
        assert run("generate", PROMPT, *options, "--out", out, "--count", 1)[0] == 0
    assert [path.name for path in out.glob("*.png")] == ["picture-9.png"]
    code, printed, _ = run("edit", "--config", config, "--json", "--out", out)
    assert (code, json.loads(printed)["target"]) == (0, "A blue left, blue")
    assert run("inspect", PROMPT, "--config", config, "--steps", 1, "--out", out)[0] == 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[generate]\nsteps = 'many'", "'--steps'"),
        ("[generate]\nsteps = 2.5", "'--steps'"),
        ("[generate]\nsteps = true", "a text or a number for 'steps' in"),
        ("[generate]\nsteps = []", "a text or a number for 'steps' in"),
        ("[generate]\nsteps = 1979-05-27", "a text or a number for 'steps' in"),
        ("[generate]\nguidance = nan", "--guidance of 0 or more"),
        ("[generate]\nguidance = inf", "--guidance"),
        ("[generate]\njson = 1", "true or false for 'json'"),
        ("[generate]\nstep = 3", "came 'step' in"),
        ("[generate]\nstep = 3", "(did you mean 'steps'?)"),
        ("[generate]\nconfig = 'a.toml'", "came 'config' in"),
        ("[generate]\nhelp = true", "came 'help' in"),
        ("[generat]\nsteps = 3", "(did you mean 'generate'?)"),
        ("seed = 3", "came 'seed'"),
        ("generate = 3", "expected a section [generate]"),
        ("[generate", "a TOML file of at most 1000000 bytes"),
        ("a" * 1_000_001, "a TOML file of at most 1000000 bytes"),
        ("a = " + "[" * 100_000, "a TOML file of at most 1000000 bytes"),
        (f"[generate]\n{'x' * 5000} = 3", "came 'xxxx"),
        (f"{'x' * 5000} = 3", "came 'xxxx"),
        (f"[generate]\nsize = '{'x' * 5000}'", "--size like 128"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    config, out = written(tmp_path, text), tmp_path / "out"
    code, printed, error = run("generate", PROMPT, "--config", config, "--out", out)
    assert (code, printed) == (2, "")
    assert sentence in error
    assert error.count("\n") == 1
    assert len(error) < 500
    assert not out.exists()


@pytest.mark.parametrize("name", ["none.toml", "", "x" * 5000, "a\0b"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    code, _, error = run("generate", PROMPT, "--config", tmp_path / name, "--out", tmp_path / "o")
    assert (code, error.count("\n")) == (2, 1)
    assert "--config" in error
    assert len(error) < 500


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    code, _, error = run("generate", PROMPT, "--config", tmp_path / "a.toml", "--out", tmp_path)
    assert (code, error.count("\n")) == (2, 1)


def test_a_script_that_is_a_command_reads_its_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Path(__file__).parents[1] / "scripts" / "generate.py"
    for text, code in (("[generate]\nsteps = 1\nseed = 7", 0), ("[other]\nsteps = 1", 2)):
        config = written(tmp_path, text)
        out = tmp_path / str(code)
        arguments = [script.name, PROMPT, "--config", str(config), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        assert ended.value.code == code
        assert (out / "picture-7.png").is_file() == (code == 0)


def test_every_option_can_stand_in_the_file(tmp_path: Path) -> None:
    import typer

    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        if name == "again":  # which has the options of the run
            continue
        lines = []
        for each in command.params:
            option = max(each.opts, key=len).lstrip("-")
            if option not in ("config", "help"):
                value = "false" if getattr(each, "is_flag", False) else '"x"'
                lines.append(f"{option} = {value}")
        config = written(tmp_path, f"[{name}]\n" + "\n".join(lines))
        assert len(read_section(config, name, group.commands)) == len(lines) > 5
        # All are known; what is wrong is that "x" is no number. `tokens` and `report` take none,
        # and there is no run at "x".
        code, _, error = run(name, "--config", config)
        expected = {"tokens": (0, False), "report": (2, False)}.get(name, (2, True))
        assert (code, "invalid value for" in error) == expected, error
