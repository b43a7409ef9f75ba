"""What a batch left in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def files_of(folder: Path) -> dict[str, bytes]:
    """By name, the files that are the same whoever made them, however often they were stopped."""
    inside = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): path.read_bytes()
        for name, path in sorted(inside.items())
        if name.parts[0] not in ("records", ".work")
    }


def records_of(folder: Path) -> list[dict[str, Any]]:
    """All records, by the number of the line."""
    lines = [
        json.loads(line)
        for shard in (folder / "records").iterdir()
        for line in shard.read_text("utf-8").splitlines()
    ]
    return sorted(lines, key=lambda record: record["line"])


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path
