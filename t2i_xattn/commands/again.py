"""`t2i-xattn again`: repeat the run that made a picture, a trace, a table or a folder."""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import Annotated

import typer

from t2i_xattn.commands import options
from t2i_xattn.commands.run_files import NAME
from t2i_xattn.errors import UserError
from t2i_xattn.provenance.made import Made
from t2i_xattn.provenance.reading import made_of
from t2i_xattn.provenance.repeating import arguments_of


@options.one_sentence
def again_command(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="What generate, inspect, explain, edit, steps or film wrote.")
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


def _differences(first: Made, now: Made) -> list[str]:
    """What differs between then and now that may change pictures."""
    lines = []
    if first.model != now.model:
        lines.append(f"the model is another one: {now.model} here, {first.model} then")
    for name, digest in first.files.items():
        if name in first.options and now.files.get(name) != digest:
            option = "--" + name.replace("_", "-")
            lines.append(f"the file of {option} is another one here than it was then")
    for name, version in first.versions.items():
        if now.versions.get(name) != version:
            lines.append(f"{name} is {now.versions.get(name)} here, and was {version} then")
    return lines
