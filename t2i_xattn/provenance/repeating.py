"""The command line that asks for a run again."""

from __future__ import annotations

from typing import Any

from t2i_xattn.errors import UserError, shown
from t2i_xattn.provenance.made import Made

REPEATED = ("generate", "inspect", "edit", "explain", "steps", "film")
"""Commands that can be run again."""

NOT_OF_THE_RUN = ("out", "device", "as_json", "json", "config", "trace", "picture")
"""Options that say where to write, and on what to compute."""


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
        if not told or not name.isidentifier() or name in NOT_OF_THE_RUN:
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
