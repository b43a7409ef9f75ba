"""Which files of a folder an earlier run wrote, so that the next one replaces them as a whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

NAME = ".t2i-xattn.json"
"""The file that says it: by command, an object whose `files` are names within the folder."""


def files_of_earlier_run(folder: Path, command: str) -> list[Path]:
    """The files that the last run of a command wrote and that are still there, within `folder`.

    A list that is damaged, or that leads out of the folder, counts as none.
    """
    run = _read(folder).get(command)
    names = run.get("files") if isinstance(run, dict) else None
    found = []
    for name in names if isinstance(names, list) else ():
        if not isinstance(name, str) or not name or "\0" in name:
            continue
        path = Path(*PurePosixPath(name).parts)
        inside = not path.is_absolute() and ".." not in path.parts
        # A folder that is a link now leads elsewhere.
        linked = any((folder / part).is_symlink() for part in path.parents)
        if inside and not linked and (folder / path).is_file():
            found.append(path)
    return found


def list_of_files(folder: Path, command: str, files: Sequence[Path]) -> str:
    """What is to stand in the file `NAME` after a run: its files beside those of other commands."""
    runs = _read(folder) | {command: {"files": sorted(path.as_posix() for path in files)}}
    return json.dumps(runs, indent=2)


def _read(folder: Path) -> dict[str, Any]:
    try:
        runs = json.loads((folder / NAME).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return runs if isinstance(runs, dict) else {}
