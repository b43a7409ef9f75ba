"""A set of files moved into a folder: all of them or none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from t2i_xattn.errors import UserError


def move_in(new: Path, out: Path, replaced: Sequence[Path], aside: Path) -> None:
    """Moves every file of the folder `new` to the same place in `out`.

    Args:
        new: the files, in folders as they are to lie.
        out: where they go; on the same disk.
        replaced: files in `out`, relative to it, that go away with the move.
        aside: a folder on the same disk for what is replaced, until all is moved.

    Raises:
        UserError: before the first move, where a folder stands in a file's place or a file in a
            folder's.
        OSError: if a file cannot be moved; then all is as it was.
    """
    files = sorted(path.relative_to(new) for path in new.rglob("*") if not path.is_dir())
    _check_places(out, files)
    going = sorted({*replaced, *(path for path in files if _there(out / path))})
    undo: list[tuple[Path, Path]] = []
    made: list[Path] = []
    try:
        for path in going:
            _move(out / path, aside / path, undo)
        for path in files:
            made += reversed(_missing((out / path).parent))
            _move(new / path, out / path, undo)
    except BaseException:
        for was, now in reversed(undo):
            with suppress(FileNotFoundError):  # interrupted before it was moved
                now.replace(was)
        for each in reversed(made):
            with suppress(OSError):
                each.rmdir()
        raise
    # Folders that held nothing but an earlier run's files go with them.
    for folder in sorted({parent for path in going for parent in path.parents}, reverse=True):
        if folder.parts and not (out / folder).is_symlink():
            with suppress(OSError):
                (out / folder).rmdir()


def _move(was: Path, now: Path, undo: list[tuple[Path, Path]]) -> None:
    now.parent.mkdir(parents=True, exist_ok=True)
    undo.append((was, now))
    was.replace(now)


def _check_places(out: Path, files: Sequence[Path]) -> None:
    for path in files:
        if (out / path).is_dir():
            raise UserError(
                f"expected to write a file at {out / path}, but a folder stands there; move it "
                "away or choose another --out"
            )
        for folder in path.parents:
            if _there(out / folder) and not (out / folder).is_dir():
                raise UserError(
                    f"expected to write a folder at {out / folder}, but a file stands there; move "
                    "it away or choose another --out"
                )


def _there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _missing(folder: Path) -> list[Path]:
    """A folder and those around it that are not there yet, the innermost first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]
