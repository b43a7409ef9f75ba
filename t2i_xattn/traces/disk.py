"""Files on disk: told by their path, and written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from t2i_xattn.errors import UserError, shown, shown_path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_BEGIN, _END = ".t2i-xattn-", ".part"
"""How the names of files begin and end that are being written."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a link that leads back to itself",
}


_ADVICE = {
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOSPC: "make room there, or choose another folder",
    errno.EDQUOT: "make room there, or choose another folder",
}


def path_of(given: Any) -> Path:
    """What the user gave as a file's path.

    Raises:
        UserError: if it is no path, or an empty one.
    """
    text = given.__fspath__() if isinstance(given, PathLike) else given
    if not isinstance(text, str) or not text or "\0" in text:
        raise UserError(
            f"expected the path of a file, but came {shown(given)}; give one such as "
            "'run.safetensors'"
        )
    return Path(text)


def kind_of(path: Path) -> str | None:
    """What stands at a path that is no regular file: `"a folder"`, `"a device"` …; None for a
    regular file, or a link to one.

    Raises:
        OSError: if nothing does, or that cannot be told.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        mode = path.lstat().st_mode
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all; an old one of its name stays until then.

    A link is followed: the file that it leads to is written. What writers left behind that were
    killed is cleared from the folder; what others are writing is not touched.

    Raises:
        UserError: if the path cannot be written to, or is something else than a file.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = _mode_of(path)
        _clear(target.parent)
        _replace(target, data, mode)
    except OSError as error:
        what_to_do = _ADVICE.get(
            error.errno or 0, "choose an existing folder that you may write to"
        )
        raise UserError(
            f"expected a file that can be written, but {shown_path(path)} gave "
            f"{error.strerror or error}; {what_to_do}"
        ) from error


def _replace(target: Path, data: bytes, mode: int | None) -> None:
    # In the same folder, so that the last step is a rename within one file system.
    file, temporary = _unfinished(target.parent)
    try:
        with file:
            file.write(data)
            file.flush()
            # A rename may reach the disk before the bytes do.
            os.fsync(file.fileno())
            if mode is not None:
                temporary.chmod(mode)
            if fcntl is not None:  # while it is locked, so that nobody clears it
                temporary.replace(target)
        if fcntl is None:  # Windows renames no open file
            temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _mode_of(path: Path) -> int | None:
    """The permissions of the file that is to be replaced; None where there is none."""
    try:
        kind = kind_of(path)
    except FileNotFoundError:
        return None
    if kind is not None:
        raise UserError(
            f"expected a file or a new name to save to, but {shown_path(path)} is {kind}; choose "
            "another name"
        )
    if not os.access(path, os.W_OK):
        raise UserError(
            f"expected a file that can be written, but {shown_path(path)} is read-only; choose "
            "another name or make it writable"
        )
    return stat.S_IMODE(path.stat().st_mode)


def _unfinished(folder: Path) -> tuple[BinaryIO, Path]:
    """A new file, open and locked: the lock says that its writer lives, since the system drops it
    with the process."""
    while True:
        temporary = folder / f"{_BEGIN}{secrets.token_hex(8)}{_END}"
        file = temporary.open("xb")
        _lock(file, wait=True)
        if os.fstat(file.fileno()).st_nlink:
            return file, temporary
        file.close()  # another writer cleared it just before it was locked


def _clear(folder: Path) -> None:
    """Removes the unfinished files of writers that are no more; what cannot be, stays."""
    for left in folder.glob(f"{_BEGIN}*{_END}"):
        with contextlib.suppress(OSError):
            if stat.S_ISREG(left.lstat().st_mode):
                with left.open("r+b") as file:
                    if _lock(file, wait=False):
                        left.unlink()


def _lock(file: BinaryIO, wait: bool) -> bool:
    """Whether a file could be locked, which some file systems do not know."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
