"""`--config FILE`: options from a TOML file, a section a command; the command line goes before it.

[inspect]
model = "models/mine"
steps = 30
words = "red circle, blue square"
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from t2i_xattn.commands.one_sentence import mistakes_told
from t2i_xattn.errors import UserError, listed, nearest, shown, shown_path
from t2i_xattn.files import is_file

MOST_BYTES = 1_000_000


def _take(context: typer.Context, path: Path | None) -> Path | None:
    """The file's section becomes the defaults of the command's options."""
    if path is not None and not context.resilient_parsing:
        with mistakes_told("t2i-xattn"):
            section = read_section(path, _section(context), _commands(context))
            parameters = {_name(each): each for each in context.command.params}
            for unusable in ("config", "help"):
                parameters.pop(unusable, None)
            context.default_map = dict(
                _default(path, parameters, key, value) for key, value in section.items()
            )
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        help="TOML file with a section a command; options of the command line go before it.",
        callback=_take,
        is_eager=True,
        show_default=False,
    ),
]


def read_section(path: Path, command: str, commands: Iterable[str]) -> dict[str, Any]:
    """What a file says of a command; nothing where it has no section for it.

    Args:
        path: the file.
        command: the section's name.
        commands: the sections that there may be.

    Raises:
        UserError: the file cannot be read, is no TOML, or has something beside these sections.
    """
    name = shown_path(path)
    if not is_file(path):
        raise UserError(f"expected a TOML file at --config {name}, but there is none; check it")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("too large")
        config = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"expected a TOML file of at most {MOST_BYTES} bytes at --config {name}, but it cannot "
            f"be read ({reason}); see https://toml.io"
        ) from error
    known = sorted({*commands, command})
    for key, value in config.items():
        if key not in known:
            raise UserError(
                f"expected sections {listed(known, 9)} in {name}, but came "
                f"{shown(key)}{nearest(key, known)}; leave it out"
            )
        if not isinstance(value, dict):
            raise UserError(f"expected a section [{key}] in {name}, but came a value; mend it")
    section: dict[str, Any] = config.get(command, {})
    return section


def _default(
    path: Path, parameters: dict[str, Any], key: str, value: Any
) -> tuple[str, str | bool | list[str]]:
    """An option's name within the command and its default, as it would be typed."""
    where = f"{shown(key)} in {shown_path(path)}"
    option = key.replace("_", "-")
    if option not in parameters:
        raise UserError(
            f"expected options of the command, but came {where}{nearest(option, parameters)}; see "
            "its --help"
        )
    parameter = parameters[option]
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise UserError(f"expected true or false for {where}, but came {shown(value)}; mend it")
        return parameter.name, value
    if getattr(parameter, "multiple", False):
        values = value if isinstance(value, list) else [value]
        return parameter.name, [_typed(where, each) for each in values]
    return parameter.name, _typed(where, value)


def _typed(where: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UserError(
            f"expected a text or a number for {where}, but came {shown(value)}; mend it"
        )
    return str(value)


def _name(parameter: Any) -> str:
    """A parameter as the config file calls it: an option without its dashes, or an argument."""
    longest = max(parameter.opts, key=len, default=parameter.name)
    return str(longest).lstrip("-").replace("_", "-")


def _section(context: typer.Context) -> str:
    """The name of the command, of a script that is one of them too."""
    if context.parent is not None:
        return str(context.info_name)
    return getattr(context.command.callback, "__name__", "").removesuffix("_command")


def _commands(context: typer.Context) -> Iterable[str]:
    group = context.parent.command if context.parent is not None else None
    return getattr(group, "commands", {}).keys()
