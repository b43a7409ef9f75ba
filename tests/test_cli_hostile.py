"""Every option of every command with whatever may be typed: taken, or one sentence and exit code 2;
no traceback, and nothing changed on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from command_line import PROMPT, run
from conftest import make_pipeline
from t2i_xattn.commands.app import app
from t2i_xattn.errors import UserError

TAKEN = "all was taken"
"""What is said in place of painting."""

GROUP: Any = typer.main.get_command(app)
OPTIONS = sorted(
    (name, max(each.opts, key=len))
    for name, command in GROUP.commands.items()
    if name
    in (
        "generate",
        "inspect",
        "explain",
        "edit",
        "app",
        "film",
        "steps",
        "cost",
    )  # `batch`, `again` and `report` take files, and have their own
    for each in command.params
    if each.opts[0].startswith("--") and each.name != "help"
)
"""All options of the commands that take a prompt, and of the app; those too that are still to
come."""

HUGE, LONG = "9" * 5000, "9" * 4000
NO_NUMBERS = ["", " ", "x", "nan", "1e999", "-1e999", "0x10", "1,5", "None", HUGE + "x"]
NO_COUNTS = [*NO_NUMBERS, "-1", "2.5", "inf", str(2**63), str(10**30), LONG, HUGE]
WRONG = {
    "--seed": NO_COUNTS,
    "--steps": [*NO_COUNTS, "0", "1001"],
    "--count": [*NO_COUNTS, "0", "65"],
    "--walk": [*NO_COUNTS, "101"],
    "--guidance": [*NO_NUMBERS, "inf", "-inf", "-1", "1e30", LONG, HUGE],
    "--size": [*NO_COUNTS, "0", "0x0", "64x", "x64", "64x64x64", "60", "1e9x1", "4096"],
    "--scale": ["", "x", "none", "0,1", HUGE],
    "--dpi": [*NO_COUNTS, "0", "1201"],
    "--format": ["", "x", "avi", HUGE],
    "--frames": [*NO_COUNTS, "0", "201"],
    "--fps": [*NO_NUMBERS, "inf", "-1", "0", "51", LONG, HUGE],
    "--out": ["file", "file/in", "\0", "x" * 300],
    "--image": ["", ".", "file", "none", "\0", "x" * 5000, "/dev/zero"],
    "--picture": ["", ".", "file", "none"],
    "--picture-prompt": ["", ".", "file", "none", "\0", "x" * 5000, "/dev/zero"],
    "--picture-way": ["", "x", "both", HUGE],
    "--picture-scale": [*NO_NUMBERS, "inf", "-1", "11", LONG, HUGE],
    "--trace": ["", ".", "file", "none", "\0", "x" * 5000, "/dev/zero"],
    "--config": ["", ".", "none", "\0", "x" * 5000, "/dev/zero"],
    "--json": ["", "x"],
    "--no-limits": ["", "x"],
    "--weight": ["", "red", "red=", "=2", "red=nan", "red=-inf", "red=1e30", "x=2", "=", HUGE],
    "--replace": ["", "red", "red=", "=blue", "x=red", f"red={'a ' * 80}", "red=!", HUGE],
    "--box": ["", "red", "red=", "red=0,0,1", "red=0,0,nan,1", "red=0,0,1,inf", "x=0,0,1,1", HUGE],
    "--region": ["", "0,0,1,1", "0,0,1,1=", "=red", "nan,0,1,1=red", "0,0,1e9,1=red", HUGE],
    "--instead": ["", "red", "red=", "=blue", "x=red", "=", HUGE],
    "--by": ["", "x", "text,x", "placebo", HUGE],
    "--batch": [*NO_COUNTS, "0"],
    "--placebo": ["", "x"],
    "--grow": ["", "x"],
    "--attend": ["!", "x", "x" * 10**6, ",".join("abc" * 200)],
    "--words": ["!", "x", "x" * 10**6, ",".join("abc" * 200)],
    "--word": ["!", "x", "x" * 10**6, "\udcff"],
    "--site": ["", " ", "x", "-1", "99", "1.0", "\0", HUGE, "x" * 10**6],
    "--place": ["", "0.5", "x,0", "0,1.1", "-0.1,0", "nan,0", "1e0,0", "0,0,0", f"0,{HUGE}"],
    "--step": [*NO_COUNTS, "25"],
    "--regions": ["", "x"],
    "--background": ["x", "blue", "x" * 10**6],  # without --regions; with it: test_cli_regions
    "--threshold": [*NO_NUMBERS, "0.5", "otsu", "-1", "2", LONG, HUGE],
    "--host": ["", "no.such.host.invalid", "192.0.2.1", "x" * 300, "\0", "1 2"],
    "--port": [*NO_COUNTS, "0", "65536"],
    "--max-side": [*NO_COUNTS, "0", "56", "4096"],
    "--max-steps": [*NO_COUNTS, "0", "1001"],
    "--max-queue": [*NO_COUNTS, "0", "1001"],
    "--negative": ["(a", "a)", "(a:nan)", "().blend()", "a AND", "<x>", "a" * 10**6, "\udcff"],
}
"""What no option of that name can take."""

ANYTHING = st.one_of(
    st.sampled_from(sorted({each for values in WRONG.values() for each in values})),
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder to stand in, with a file; a tiny pipeline, which is not run."""

    def taken(*_: object, **__: object) -> None:
        raise UserError(TAKEN)

    pipe, folder = make_pipeline(), tmp_path_factory.mktemp("here")
    (folder / "file").write_text("mine", "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("t2i_xattn.commands.options.load", lambda *_: pipe)
        patch.setattr("t2i_xattn.asking.request.painted", taken)
        patch.setattr("t2i_xattn.asking.edited.painted", taken)
        patch.setattr("t2i_xattn.commands.explain.explained", taken)
        patch.setattr("t2i_xattn.app.serving.check_installed", lambda: None)
        patch.setattr("t2i_xattn.app.serving.served", taken)
        patch.setattr("t2i_xattn.commands.cost.costs_of", taken)
        yield folder


def refused(here: Path, command: str, *options: str, prompt: str | None = PROMPT) -> str:
    """The one sentence of a command."""
    something = ["--weight=red=2"] if command == "edit" else []
    prompts = [] if prompt is None or command == "app" else ["--", prompt]
    code, printed, told = run(command, *something, *options, *prompts)
    assert (code, printed) == (2, ""), (code, printed, told)
    assert told.count("\n") == 1, told
    assert len(told) < 600, told
    assert [each.name for each in here.iterdir()] == ["file"]
    assert (here / "file").read_text("utf-8") == "mine"
    return told


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_what_is_wrong_is_refused(here: Path, command: str, option: str) -> None:
    assert TAKEN in refused(here, command)
    for value in WRONG.get(option, ()):
        prompt = None if option == "--trace" else PROMPT
        told = refused(here, command, f"{option}={value}", prompt=prompt)
        assert TAKEN not in told, value[:99]


@pytest.mark.parametrize("size", ["0x8", "8x0", "60", "4096x4096"])
def test_a_picture_s_size_is_checked_before_it_is_fitted(
    here: Path, tmp_path: Path, size: str
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    told = refused(here, "edit", f"--image={tmp_path / 'a.png'}", f"--size={size}")
    assert "a --size" in told


def test_no_option_is_forgotten() -> None:
    free = {"--model", "--device"}
    assert {option for _, option in OPTIONS} <= {*WRONG, *free}


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    option=st.sampled_from(OPTIONS),
    value=ANYTHING,
    other=st.sampled_from(OPTIONS),
    more=ANYTHING,
)
def test_whatever_is_typed_is_taken_or_refused(
    here: Path, option: tuple[str, str], value: str, other: tuple[str, str], more: str
) -> None:
    options = [f"{option[1]}={value}"]
    if other[0] == option[0]:
        options.append(f"{other[1]}={more}")
    if not any(each.startswith("--trace") for each in options):
        refused(here, option[0], *options)


WRITING = sorted(GROUP.commands.keys() - {"app", "cost", "tokens"})
"""Commands that write into a folder; the others listen, or print."""


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True)
@given(command=st.sampled_from(WRITING), prompt=st.text(max_size=40))
@example(command="generate", prompt="\udcff red")
@example(command="inspect", prompt="\0 red")
@example(command="edit", prompt="red " * 10**6)
@example(command="generate", prompt="x" * 10**6)
def test_whatever_is_to_be_painted(here: Path, command: str, prompt: str) -> None:
    refused(here, command, prompt=prompt)


def test_nothing_is_read_of_the_environment(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("T2I_XATTN_STEPS", "GENERATE_STEPS", "STEPS"):
        monkeypatch.setitem(os.environ, name, "0")
    assert TAKEN in refused(here, "generate")
