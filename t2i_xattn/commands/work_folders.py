"""Hidden folders that runs write into before their files are moved to where they belong."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from pathlib import Path

_PREFIX = ".t2i-xattn-"
_NAME = re.compile(rf"{re.escape(_PREFIX)}(?P<machine>.*)-(?P<process>\d+)-[^-]+")
_open: set[Path] = set()
"""Those of this process: a process that was given a dead one's number is told from it by them."""


def make_work_folder(out: Path) -> Path:
    """A fresh folder in `out`, so that moving a file out of it is a rename."""
    work = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{_machine()}-{os.getpid()}-", dir=out))
    _open.add(work.resolve())
    return work


def remove_work_folder(work: Path) -> None:
    """Removes what `make_work_folder` made, as far as it can be removed."""
    shutil.rmtree(work, ignore_errors=True)
    _open.discard(work.resolve())


def clear_abandoned(out: Path) -> None:
    """Removes the folders of runs that were killed; never one of a process that runs."""
    for path in out.glob(f"{_PREFIX}*"):
        match = _NAME.fullmatch(path.name)
        # Of another machine, on a disk that both use, it cannot be told.
        if match is None or match["machine"] != _machine() or path.is_symlink():
            continue
        if path.resolve() not in _open and not _runs(int(match["process"])):
            shutil.rmtree(path, ignore_errors=True)


def _runs(process: int) -> bool:
    """Whether another process of this number runs."""
    if process == os.getpid():
        return False
    if os.name != "posix":  # where the signal 0 is no question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _machine() -> str:
    return re.sub(r"[^\w.]", "_", platform.node())[:40]
