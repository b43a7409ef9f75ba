"""Files that a user names."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def is_file(path: Path) -> bool:
    """Whether there is an ordinary file; a name that no file can have is none either."""
    with suppress(OSError, ValueError):  # too long; with a zero character
        return path.is_file()
    return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder; a name that none can have is none either."""
    with suppress(OSError, ValueError):
        return path.is_dir()
    return False
