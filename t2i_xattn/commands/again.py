"""`t2i-xattn again`: repeat the run that made a picture, a trace, a table or a folder."""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import Annotated, Any

import typer

from t2i_xattn.commands import options
from t2i_xattn.commands.run_files import NAME
from t2i_xattn.errors import UserError, shown
from t2i_xattn.provenance.made import Made
from t2i_xattn.provenance.reading import made_of

REPEATED = ("generate", "inspect", "edit", "explain", "film")
"""Commands that can be run again."""


@options.one_sentence
def again_command(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="What generate, inspect, explain, edit or film wrote.")
    ],
    out: options.Out = Path("again"),
    device: options.Device = None,
) -> None:
    """Repeat the run that made a picture, trace or folder, and say whether all is the same."""
    made = made_of(file)
    beside = _folder_of_run(file)
    if out.resolve() == beside.resolve():
        raise UserError(
            f"expected another --out than {out}, where the first run's files lie; choose a new "
            "folder"
        )
    command, *rest = arguments_of(made)
    more = [f"--out={out}", *([f"--device={device}"] if device else [])]
    assert context.parent is not None, "a command of the whole program"
    before = {path: path.stat().st_ino for path in _files(out)}
    context.parent.command.main([command, *more, *rest], standalone_mode=False)
    # Of what lies there, what this run has moved in.
    written = [path for path in _files(out) if before.get(path) != path.stat().st_ino]
    now = next(path for path in written if path.suffix == ".png")
    for line in _differences(made, made_of(now)):
        typer.echo(line, err=True)
    for path in written:
        first = beside / path.relative_to(out)
        if first.is_file():
            same = filecmp.cmp(first, path, shallow=False)
            typer.echo(f"{path}: {'the same to the byte' if same else 'differs'}")


def _files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.rglob("*") if each.is_file())


def _folder_of_run(file: Path) -> Path:
    """The folder that a run wrote into; of several pictures each lies in a folder within it."""
    folder = file if file.is_dir() else file.parent
    return next((each for each in (folder, folder.parent) if (each / NAME).is_file()), folder)


def arguments_of(made: Made) -> list[str]:
    """The command line that asks for a run; it is parsed as if it had been typed.

    Raises:
        UserError: for a command that is not one of `REPEATED`, or options that are no such.
    """
    if made.command not in REPEATED:
        raise UserError(
            f"expected something that {', '.join(REPEATED)} made, but {shown(made.command)} did; "
            "repeat that by hand"
        )
    arguments = [made.command]
    for name, value in made.options.items():
        listed: list[Any] = value if isinstance(value, list) else [value]
        told = all(isinstance(each, str | int | float | None) for each in listed)
        # A file does not say where to write.
        if not told or not name.isidentifier() or name in options.NOT_OF_THE_RUN:
            raise UserError(
                f"expected options of a run, but came {shown(name)}, which is none or damaged; "
                "take another file"
            )
        if name == "prompt":
            continue
        option = "--" + name.replace("_", "-")
        for each in listed:
            if isinstance(each, bool):
                arguments.append(option if each else f"--no-{option[2:]}")
            elif each is not None:
                arguments.append(f"{option}={each}")
    prompt = made.options.get("prompt")
    # It may begin like an option.
    return arguments if prompt is None else [*arguments, "--", str(prompt)]


def _differences(first: Made, now: Made) -> list[str]:
    """What differs between then and now that may change pictures."""
    lines = []
    if first.model != now.model:
        lines.append(f"the model is another one: {now.model} here, {first.model} then")
    for name, version in first.versions.items():
        if now.versions.get(name) != version:
            lines.append(f"{name} is {now.versions.get(name)} here, and was {version} then")
    return lines
